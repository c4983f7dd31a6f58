#!/bin/sh
# probe.sh - what this machine offers, found by compiling and linking, never by asking a package manager.
# Standard output is a fragment of make, standard error is for people. Nothing found here is required.
set -u

CC=${CC:-cc}
NVCC=${NVCC:-nvcc}
MPICC=${MPICC:-mpicc}
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
apt=

say() { printf '  %-12s %s\n' "$1" "$2" >&2; }

# links NAME PACKAGE HEADER LIBS...: a needed library
links() {
    name=$1 package=$2 header=$3
    shift 3
    printf '#define PCRE2_CODE_UNIT_WIDTH 8\n#include <stddef.h>\n#include <%s>\nint main(void) { return 0; }\n' \
        "$header" > "$tmp/a.c"
    if "$CC" -o "$tmp/a" "$tmp/a.c" "$@" 2> /dev/null; then
        say "$name" yes
    else
        say "$name" "NOT FOUND, needed: $package"
        apt="$apt $package"
    fi
}

# optional VARIABLE NAME 0|1 DETAIL
optional() {
    echo "$1 := $3"
    if [ "$3" = 1 ]; then say "$2" "yes${4:+ ($4)}"; else say "$2" "no ${4:+($4)}"; fi
}

echo "# written by tests/probe.sh; 'make clean' or a change of the Makefile probes again"
echo "rlhf.c finds on this machine:" >&2

echo 'int main(void) { return 0; }' > "$tmp/a.c"
if "$CC" -std=c11 -o "$tmp/a" "$tmp/a.c" 2> /dev/null; then
    say "C compiler" "$("$CC" --version 2> /dev/null | head -n 1)"
else
    say "C compiler" "NOT FOUND, needed: gcc or clang"
    apt="$apt gcc libc6-dev"
fi
links cJSON libcjson-dev cjson/cJSON.h -lcjson
links zstd libzstd-dev zstd.h -lzstd
links zlib zlib1g-dev zlib.h -lz
links PCRE2 libpcre2-dev pcre2.h -lpcre2-8
links utf8proc libutf8proc-dev utf8proc.h -lutf8proc
links xxHash libxxhash-dev xxhash.h -lxxhash
links libmicrohttpd libmicrohttpd-dev microhttpd.h -lmicrohttpd
if [ -f "${DYGRAPHS:-/usr/share/javascript/dygraphs}/dygraph.min.js" ]; then
    say dygraphs yes
else
    say dygraphs "NOT FOUND, needed: libjs-dygraphs"
    apt="$apt libjs-dygraphs"
fi
[ -z "$apt" ] || printf '  to install what is needed:\n    apt-get install%s\n' "$apt" >&2

cuda=0 detail="needs nvcc, cudart and cublasLt; the CPU is used"
if command -v "$NVCC" > /dev/null 2>&1; then
    printf '#include <cublasLt.h>\nint main(void) { return cublasLtGetVersion() == 0; }\n' > "$tmp/a.cu"
    if "$NVCC" -o "$tmp/a" "$tmp/a.cu" -lcublasLt 2> /dev/null; then
        cuda=1 detail=$("$NVCC" --version | sed -n 's/.*release \([0-9.]*\).*/nvcc \1/p')
    else
        detail="nvcc is there, but cublasLt does not link"
    fi
fi
optional HAVE_CUDA CUDA "$cuda" "$detail"

mpi=0 detail="apt-get install libopenmpi-dev; without it: one process"
if command -v "$MPICC" > /dev/null 2>&1; then
    printf '#include <mpi.h>\nint main(int c, char **v) { return MPI_Init(&c, &v); }\n' > "$tmp/a.c"
    "$MPICC" -o "$tmp/a" "$tmp/a.c" 2> /dev/null && mpi=1 detail=
fi
optional HAVE_MPI MPI "$mpi" "$detail"
