#!/bin/sh
# crash.sh [N] [TRAINER...] - trains a tiny model undisturbed, then N times with kill -9 at random moments
# (of the resumed runs, too), resumes, and compares every byte that is left: weights, checkpoints, samples,
# metrics but for the clock. CRASH_SEED=S repeats the moments, KEEP=1 keeps the runs, RLHF_FLAGS="--device cuda:0"
# goes to every trainer.
set -u
N=${1:-20}
[ $# -eq 0 ] || shift
TRAINERS=${*:-sft reward ppo dpo}
SEED=${CRASH_SEED:-$(date +%s)}
. tests/scratch.sh

# ------------------------------------------------ what is trained

INIT="--init.hidden_size 32 --init.num_hidden_layers 2 --init.num_attention_heads 2
    --init.num_key_value_heads 1 --init.intermediate_size 64 --init.max_position_embeddings 256"
COMMON="--data.max_length 192 --threads 1 --run.save_every 3 --run.eval_every 6 --run.keep 2 ${RLHF_FLAGS:-}"

prepare() {
    rlhf data make-demo --out data --sft 120 --pairs 80 --prompts 60 --eval 12
    rlhf data train-tokenizer --data data/sft.jsonl --vocab-size 400 --out tok
    # shellcheck disable=SC2086
    rlhf sft --model init --tokenizer tok $INIT $COMMON --run.dir base \
        --data.train data/sft.jsonl --max_steps 10 --sft.learning_rate 1e-2
    # shellcheck disable=SC2086
    rlhf reward --model base/model $COMMON --run.dir rm --max_steps 6 --reward.learning_rate 3e-3 \
        --data.train data/pairs.jsonl --data.eval data/pairs.eval.jsonl
}

# arguments TRAINER: what comes behind rlhf, without the run directory
arguments() {
    case $1 in
    sft) echo "sft --model init --tokenizer tok $INIT $COMMON --run.best eval/loss --max_steps 20" \
        "--data.train data/sft.jsonl --data.eval data/sft.eval.jsonl --sft.learning_rate 1e-2" \
        "--sft.neftune_alpha 1 --sft.label_smoothing 0.1 --sft.kl_coef 0.1" \
        "--sft.prompts data/prompts.eval.jsonl --sft.max_new_tokens 16" ;;
    reward) echo "reward --model base/model $COMMON --run.best eval/accuracy --max_steps 20" \
        "--data.train data/pairs.jsonl --data.eval data/pairs.eval.jsonl --reward.learning_rate 3e-3" \
        "--reward.batch_size 8" ;;
    ppo) echo "ppo --model base/model --reward_model rm/model $COMMON --max_steps 14" \
        "--data.train data/prompts.jsonl --data.eval data/prompts.eval.jsonl --ppo.learning_rate 1e-3" \
        "--ppo.batch_size 4 --ppo.minibatches 2 --ppo.epochs 2 --ppo.max_new_tokens 16 --ppo.kl_target 2" \
        "--run.dump_rollouts --ppo.normalize_score running --ppo.ema 0.9 --ppo.ptx_coef 0.5 --ppo.ptx_data data/sft.jsonl --ppo.ptx_batch 3" ;;
    dpo) echo "dpo --model base/model $COMMON --max_steps 20 --dpo.learning_rate 1e-3 --dpo.batch_size 4" \
        "--data.train data/pairs.jsonl --data.eval data/pairs.eval.jsonl" \
        "--dpo.prompts data/prompts.eval.jsonl --dpo.max_new_tokens 16" ;;
    *) echo "$1 is no trainer: sft, reward, ppo, dpo" >&2 ; exit 2 ;;
    esac
}

# ------------------------------------------------ running and killing

milliseconds() { echo $(($(date +%s%N) / 1000000)); }

# moment MS: a random time below MS milliseconds, in seconds (Park & Miller's generator, a few steps in)
draws=0
moment() {
    draws=$((draws + 1))
    when=$(awk -v x=$((SEED % 1000003 * 1000 + draws)) -v ms="$1" 'BEGIN {
        for (i = 0; i < 4; i++) x = x * 16807 % 2147483647
        printf "%.3f", x / 2147483647 * ms / 1000 }')
}

# killed_run DIR MS ARGUMENTS...: as it says; rc as of wait
killed_run() {
    dir=$1
    moment "$2"
    shift 2
    "$RLHF" "$@" --run.dir "$dir" --resume >> "$dir.log" 2>&1 &
    pid=$!
    sleep "$when"
    kill -9 $pid 2> /dev/null
    wait $pid 2> /dev/null
    rc=$?
}

# disturbed DIR MS ARGUMENTS...: killed once or twice, then left alone to its end
disturbed() {
    killed_run "$@"
    moments=$when
    if [ $rc -eq 137 ] && [ $((i % 2)) -eq 0 ]; then
        killed_run "$@"
        moments="$moments and $when"
    fi
    if [ $rc -ne 137 ] && [ $rc -ne 0 ]; then return 1; fi
    dir=$1
    shift 2
    [ $rc -eq 0 ] || "$RLHF" "$@" --run.dir "$dir" --resume >> "$dir.log" 2>&1
}

# ------------------------------------------------ comparing

without_clock() {
    sed -E 's/,"(wall_time|timing_s\/[^"]*|perf\/[^"]*|seconds|tokens_per_second|peak_memory_mib)":[^,}]*//g' "$1"
}

# The offsets of the logs in a manifest depend on how many digits a time has.
without_offsets() { sed '1d; /^"logs"/d' "$1"; }

# same REFERENCE RUN: says what differs
same() {
    bad=0
    # a resumed run has further event files, for which TensorBoard's readers know what to do; a report shows the clock
    (cd "$1" && find . -type f ! -name .lock ! -name 'events.*' ! -name report.html | sort) > files.want
    (cd "$2" && find . -type f ! -name .lock ! -name 'events.*' ! -name report.html | sort) > files.have
    diff files.want files.have || bad=1
    while read -r file; do
        [ -f "$2/$file" ] || continue
        case $file in
        ./metrics.jsonl | ./run.json) without_clock "$1/$file" > want && without_clock "$2/$file" > have ;;
        */manifest.json) without_offsets "$1/$file" > want && without_offsets "$2/$file" > have ;;
        ./recipe.json) continue ;; # holds the directory and --resume
        *) cmp "$1/$file" "$2/$file" || bad=1 ; continue ;;
        esac
        cmp -s want have && continue
        bad=1
        echo "$file differs:"
        diff want have | cut -c 1-400 | head -n 8
    done < files.want
    return $bad
}

passed=0 failed=0
one_trainer() {
    trainer=$1
    arguments "$trainer" > args || exit 2
    # shellcheck disable=SC2046
    set -- $(cat args)
    began=$(milliseconds)
    rlhf "$@" --run.dir "$trainer"
    ms=$(($(milliseconds) - began))
    i=0
    while [ $i -lt "$N" ]; do
        i=$((i + 1))
        run=$trainer.$i
        if disturbed "$run" $ms "$@" && same "$trainer" "$run" > differences; then
            passed=$((passed + 1))
            [ -n "${KEEP:-}" ] || rm -rf "$run" "$run.log"
        else
            failed=$((failed + 1))
            echo "$trainer, killed after $moments s of $ms ms (CRASH_SEED=$SEED):" >&2
            tail -n 5 "$run.log" >&2
            head -n 12 differences >&2
        fi
    done
    echo "$trainer: $N runs of about $ms ms were killed and resumed"
}

prepare
for trainer in $TRAINERS; do one_trainer "$trainer"; done
echo "$passed passed, $failed failed, 0 skipped"
[ $failed -eq 0 ]
