#!/bin/sh
# gpu_check.sh - what has to hold on a machine with a GPU, in under nine minutes, and a table at the end:
# parity of every operation, sanitizers, trainers on the device (first ratio, DPO's first loss, resume), the
# quickstart, benchmarks. `make gpu-check` builds and calls it; in a bundle: sh tests/gpu_check.sh
# Results are left in OUT (default: runs/gpu).
set -u
LC_ALL=C
export LC_ALL

BUILD=${BUILD:-build}
OUT=${OUT:-runs/gpu}
DEVICE=${DEVICE:-cuda:0}
SEED=${SEED:-1}
mkdir -p "$OUT" || exit 1
OUT=$(cd "$OUT" && pwd)
table=$OUT/table.txt
: > "$table"
failed=0
TIME=${TIME:-530} # seconds for everything: a step gets what is left at most
started=$(date +%s)

if [ -d "$BUILD/lib" ]; then # a bundle brings its libraries
    LD_LIBRARY_PATH=$(cd "$BUILD/lib" && pwd)${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi
# cuBLASLt is the machine's own: beside a toolkit, or inside Python's packages
for dir in /usr/local/cuda/lib64 /usr/local/cuda-*/lib64 \
    $(find / -name 'libcublasLt.so.*' -not -path '/proc/*' 2> /dev/null | sed 's|/[^/]*$||' | sort -u); do
    [ ! -d "$dir" ] || LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$dir
done
export LD_LIBRARY_PATH

row() { printf '%-34s %s\n' "$1" "$2" | tee -a "$table"; }

# step NAME SECONDS COMMAND...: runs it with its output in OUT/NAME.log
step() {
    name=$1 limit=$2
    shift 2
    began=$(date +%s)
    left=$((TIME - began + started))
    [ "$limit" -le "$left" ] || limit=$left
    if [ "$limit" -lt 10 ]; then
        row "$name" "skipped: the time is over (TIME=$TIME)"
        return 1
    fi
    timeout -k 5 "$limit" "$@" > "$OUT/$name.log" 2>&1
    rc=$?
    seconds=$(($(date +%s) - began))
    if [ $rc -eq 0 ]; then
        row "$name" "ok, $seconds s"
    else
        row "$name" "FAILED ($rc), $seconds s"
        grep -E 'ERROR|FAILED|rlhf:|differs|=====' "$OUT/$name.log" | head -n 12
        tail -n 5 "$OUT/$name.log"
        failed=$((failed + 1))
    fi
    return $rc
}

value() { sed -n "s|.*\"$2\":\\([^,}]*\\).*|\\1|p" "$1" | head -n "${3:-1}" | tail -n 1; }

"$BUILD/rlhf" env 2> /dev/null | grep -q 'device cuda' || {
    echo "gpu-check: there is no usable GPU here" >&2
    exit 1
}

row device "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2> /dev/null || echo '?')"
row program "$("$BUILD/rlhf" env 2> /dev/null | head -n 2 | tail -n 1)"

# ------------------------------------------------ operations

step parity 120 "$BUILD/gpu/test_cuda"
SANITIZER=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2> /dev/null | head -n 1)
if [ -n "$SANITIZER" ]; then
    step memcheck 100 "$SANITIZER" --tool memcheck --error-exitcode 1 "$BUILD/gpu/test_cuda" a_whole_network
    step racecheck 60 "$SANITIZER" --tool racecheck --error-exitcode 1 "$BUILD/gpu/test_cuda" a_whole_network
else
    row "memcheck, racecheck" "compute-sanitizer is not on this machine"
fi

# ------------------------------------------------ trainers

for dtype in f32 bf16; do
    RLHF_FLAGS="--device $DEVICE --dtype $dtype" CRASH_SEED=$SEED step "resume_$dtype" 60 sh tests/crash.sh 1
done

for dtype in f32 bf16; do
    RUN_DIR=$OUT/quickstart_$dtype step "quickstart_$dtype" 120 sh recipes/quickstart.sh "$SEED" --device "$DEVICE" --dtype "$dtype" || continue
    s=$OUT/quickstart_$dtype/summary.json
    row "  seconds" "$(value "$s" wall_seconds)"
    row "  SFT, tokens per second" "$(value "$s" tokens_per_second)"
    row "  reward accuracy" "$(value "$s" accuracy) of $(value "$s" accuracy_ceiling)"
    row "  PPO: first ratio's deviation" "$(value "$s" first_ratio_max_deviation)"
    row "  DPO: first loss" "$(value "$s" first_loss)"
    row "  win rates, last one printed" "$(value "$s" win_rate_vs_sft)"
done

# ------------------------------------------------ from the command line to the first step, 1 B parameters

# first_step MODEL DATA: waits for the first row of metrics and ends the run: seconds since the start
first_step() {
    rm -rf "$OUT/start"
    from=$(date +%s.%N)
    "$BUILD/rlhf" sft --model "$1" --data.train "$2" --data.max_length 128 --sft.batch_size 8 --max_steps 1000 --device "$DEVICE" \
        --dtype bf16 --run.dir "$OUT/start" > "$OUT/start.log" 2>&1 &
    pid=$!
    while kill -0 $pid 2> /dev/null && ! [ -s "$OUT/start/metrics.jsonl" ]; do sleep 0.05; done
    kill -9 $pid 2> /dev/null
    awk -v from="$from" -F '"wall_time":' 'NR == 1 { printf "%.1f s\n", $2 - from }' "$OUT/start/metrics.jsonl"
}

world=$OUT/quickstart_bf16
if [ -f "$world/world/sft.jsonl" ] &&
    step init_1b 60 "$BUILD/rlhf" model init --family llama --tokenizer "$world/tokenizer" --out "$OUT/model_1b" --hidden-size 2048 \
        --num-hidden-layers 16 --num-attention-heads 32 --num-key-value-heads 8 --intermediate-size 8192; then
    row "  start to the end of the first step" "$(first_step "$OUT/model_1b" "$world/world/sft.jsonl")"
fi
rm -rf "$OUT/model_1b" "$OUT/start"

# ------------------------------------------------ speed

rm -f "$OUT/results.jsonl"
step bench 240 "$BUILD/bench/bench_gpu" --device "$DEVICE" --json "$OUT/results.jsonl"
tee -a "$table" < "$OUT/bench.log"
if step bench_invariant 60 "$BUILD/bench/bench_gpu" --only decode --kernels invariant --device "$DEVICE" --json "$OUT/results.jsonl"; then
    tee -a "$table" < "$OUT/bench_invariant.log"
fi
if python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2> /dev/null; then
    step bench_torch 200 python3 bench/bench_torch.py --device "$DEVICE" --json "$OUT/results.jsonl"
    tee -a "$table" < "$OUT/bench_torch.log"
else
    row "the same work in PyTorch" "python3 with torch is not on this machine"
fi

echo
echo "------ $table"
cat "$table"
[ $failed -eq 0 ]
