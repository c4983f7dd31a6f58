#!/bin/sh
# run.sh - runs every test program and script, shows what failed, and ends with one line of counts.
# A program counts with its cmocka tests, a script as one test (exit 77: skipped).
set -u

BUILD=${BUILD:-build}
LIMIT=${LIMIT:-300}
passed=0 failed=0 skipped=0
logs=$BUILD/tests/logs
mkdir -p "$logs" || exit 1

# count WORD LOG: the sum of cmocka's summary lines "[  WORD  ] 12 test(s)"
count() {
    sed -n "s/^\[ *$1 *\].*[^0-9]\([0-9][0-9]*\) test(s).*/\1/p" "$2" |
        { sum=0; while read -r n; do sum=$((sum + n)); done; echo "$sum"; }
}

# The lines that say why; the end of the log where there are none.
WHY='^\[ *(ERROR|LINE) *\]|^\[  FAILED  \] [^0-9]|Sanitizer|runtime error|CHECK\('
show() {
    echo "--- $1: $3" >&2
    if grep -qE "$WHY" "$2"; then
        grep -E -B 3 -A 12 "$WHY" "$2" | head -n 150 >&2
    else
        tail -n 40 "$2" >&2
    fi
    echo "--- (whole output: $2)" >&2
}

# run NAME COMMAND...: sets rc, seconds and log
run() {
    log=$logs/$1.log
    shift
    began=$(date +%s)
    timeout -k 10 "$LIMIT" "$@" > "$log" 2>&1
    rc=$?
    seconds=$(($(date +%s) - began))
}

report() { printf '%-26s %4d passed %3d failed %3d skipped %5d s\n' "$@"; }

why() {
    case $1 in
    124 | 137) echo "stopped after the limit of $LIMIT s" ;;
    *) if [ "$1" -gt 128 ]; then echo "ended by signal $(($1 - 128))"; else echo "exit status $1"; fi ;;
    esac
}

for program in "$BUILD"/tests/test_*; do
    case $program in *.d | *.o | *.log) continue ;; esac
    [ -f "$program" ] && [ -x "$program" ] || continue
    name=${program##*/}
    [ -f "tests/$name.c" ] || continue # built from a file that is gone
    run "$name" "$program"
    p=$(count PASSED "$log") f=$(count FAILED "$log") s=$(count SKIPPED "$log")
    if [ "$rc" -ne 0 ] && [ "$f" -eq 0 ]; then f=1; fi
    if [ $((p + f + s)) -eq 0 ]; then f=1; fi
    report "$name" "$p" "$f" "$s" "$seconds"
    if [ "$f" -gt 0 ]; then show "$name" "$log" "$(why "$rc")"; fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done

for script in tests/sh_*.sh; do
    [ -f "$script" ] || continue
    name=${script##*/} p=0 f=0 s=0
    run "$name" sh "$script"
    case $rc in 0) p=1 ;; 77) s=1 ;; *) f=1 ;; esac
    report "$name" $p $f $s "$seconds"
    if [ $f -gt 0 ]; then show "$name" "$log" "$(why "$rc")"; fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done

if [ $((passed + failed)) -eq 0 ]; then
    echo "no test ran: build them with 'make test'" >&2
    failed=1
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
