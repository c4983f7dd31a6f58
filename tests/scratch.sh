# scratch.sh - what shell tests begin with, sourced from the root of the sources: a folder of their own, in which they
# are from then on (KEEP=1 leaves it), failures that are counted, and rlhf, which must succeed.
# Sets ROOT, BUILD, WORK (absolute paths) and RLHF, the program, unless that is set already.
LC_ALL=C
export LC_ALL
ROOT=$(pwd)
BUILD=$(cd "${BUILD:-build}" && pwd) || exit 1
RLHF=${RLHF:-$BUILD/rlhf}
WORK=$(mktemp -d) || exit 1
if [ -n "${KEEP:-}" ]; then echo "runs are in $WORK"; else trap 'rm -rf "$WORK"' EXIT; fi
trap 'exit 1' INT TERM
cd "$WORK" || exit 1

failed=0
fail() {
    echo "FAILED: $*" >&2
    failed=$((failed + 1))
}

# rlhf ARGUMENTS...: or the end of the test
rlhf() {
    "$RLHF" "$@" > log 2>&1 && return
    cat log >&2
    fail "rlhf $*"
    exit 1
}

# numbers RUN METRIC: its values, a line each
numbers() { sed -n "s|.*\"$2\":\\([^,}]*\\).*|\\1|p" "$1/metrics.jsonl"; }
