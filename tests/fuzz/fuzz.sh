#!/bin/sh
# fuzz.sh - every target (or those of TARGETS) for T seconds under libFuzzer. New inputs go to build/fuzz/NAME;
# what fails stays there as crash-*, and belongs into tests/fuzz/corpus/NAME once it is mended.
set -u

T=${T:-60}
fuzzer=build/fuzz/rlhf_fuzz
corpus=tests/fuzz/corpus
failed=0
for target in ${TARGETS:-$(ls $corpus)}; do
    found=build/fuzz/$target
    mkdir -p "$found" || exit 1
    FUZZ_TARGET=$target "$fuzzer" "$found" "$corpus/$target" -max_total_time="$T" -timeout=30 -rss_limit_mb=2048 \
        -max_len=16384 -artifact_prefix="$found/" > "$found.log" 2>&1
    rc=$?
    runs=$(sed -n 's/^Done \([0-9]*\) runs.*/\1/p' "$found.log")
    if [ $rc -eq 0 ]; then
        echo "$target: ${runs:-?} inputs, nothing found"
    else
        echo "$target: FAILED, see $found.log"
        failed=1
    fi
done
exit $failed
