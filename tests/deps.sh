#!/bin/sh
# deps.sh - makes sure that what the build and the tests need is there, and installs only what is missing.
# Further package names may be given; each is taken as present when a command of its name is.
set -u

CC=${CC:-cc}
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT

# builds HEADERS... -- LIBS...: does a program with these headers compile and link?
builds() {
    : > "$tmp/probe.c"
    while [ "$1" != -- ]; do
        echo "#include <$1>" >> "$tmp/probe.c"
        shift
    done
    shift
    echo 'int main(void) { return 0; }' >> "$tmp/probe.c"
    "$CC" -o "$tmp/probe" "$tmp/probe.c" "$@" 2> /dev/null
}

have_compiler() { builds stdio.h --; }

CMOCKA="stdarg.h stddef.h setjmp.h stdint.h cmocka.h"

find_missing() {
    missing=
    command -v make > /dev/null 2>&1 || missing="$missing make"
    command -v "${CXX:-g++}" > /dev/null 2>&1 || missing="$missing g++" # the emulated GPU of the tests
    # one program for all of them is the usual case and quick
    # shellcheck disable=SC2086
    [ -f "${DYGRAPHS:-/usr/share/javascript/dygraphs}/dygraph.min.js" ] || missing="$missing libjs-dygraphs"
    if ! builds cjson/cJSON.h zstd.h zlib.h utf8proc.h xxhash.h microhttpd.h $CMOCKA -- \
        -lcjson -lmicrohttpd -lzstd -lz -lpcre2-8 -lutf8proc -lxxhash -lcmocka -lm -lpthread ||
        ! echo '#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>' | "$CC" -fsyntax-only -x c - 2> /dev/null; then
        find_missing_libraries
    fi
    for tool in "$@"; do
        command -v "$tool" > /dev/null 2>&1 || missing="$missing $tool"
    done
}

find_missing_libraries() {
    if ! have_compiler; then
        missing="$missing gcc libc6-dev libcjson-dev libzstd-dev zlib1g-dev libpcre2-dev"
        missing="$missing libutf8proc-dev libxxhash-dev libmicrohttpd-dev libcmocka-dev"
        return
    fi
    builds cjson/cJSON.h -- -lcjson || missing="$missing libcjson-dev"
    builds zstd.h -- -lzstd || missing="$missing libzstd-dev"
    builds zlib.h -- -lz || missing="$missing zlib1g-dev"
    builds pcre2posix.h -- -lpcre2-8 || missing="$missing libpcre2-dev"
    builds utf8proc.h -- -lutf8proc || missing="$missing libutf8proc-dev"
    builds xxhash.h -- -lxxhash || missing="$missing libxxhash-dev"
    builds microhttpd.h -- -lmicrohttpd || missing="$missing libmicrohttpd-dev"
    # shellcheck disable=SC2086
    builds $CMOCKA -- -lcmocka || missing="$missing libcmocka-dev"
}

cannot() {
    echo "deps: missing:$missing - $1" >&2
    exit 1
}

find_missing "$@"
if [ -z "$missing" ]; then
    echo "deps: nothing is missing"
    exit 0
fi

command -v apt-get > /dev/null 2>&1 ||
    cannot "there is no apt-get here; install these (named as in Debian) and run make again"
root=
if [ "$(id -u)" != 0 ]; then
    command -v sudo > /dev/null 2>&1 ||
        cannot "installing needs root: run 'apt-get install$missing' as root, then make again"
    root=sudo
fi

echo "deps: installing$missing"
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
$root apt-get install -y --no-install-recommends $missing > "$tmp/log" 2>&1 ||
    { $root apt-get update > "$tmp/log" 2>&1 &&
        $root apt-get install -y --no-install-recommends $missing > "$tmp/log" 2>&1; } ||
    { tail -n 5 "$tmp/log" >&2; cannot "apt-get could not install them (its last lines stand above)"; }

rm -f config.mk # what was probed before may have changed
installed=$missing
[ "$CC" != cc ] || command -v cc > /dev/null 2>&1 || CC=gcc
find_missing "$@"
[ -z "$missing" ] || cannot "still not usable after installing$installed"
echo "deps: installed$installed"
