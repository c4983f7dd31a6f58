#!/bin/sh
# sh_memory.sh - a run takes the memory that it planned: the most that the process was ever resident, less what it
# was before the models, is the plan's total within the larger of 3 % and 16 MiB, for every trainer.
set -u
. tests/scratch.sh
if nm "$BUILD/librlhf.a" 2> /dev/null | grep -q __asan_init; then
    echo "skipped: sanitizers take memory of their own"
    exit 77
fi
if ! grep -qs VmHWM /proc/self/status; then
    echo "skipped: the system does not say what a process takes"
    exit 77
fi

# takes DIR ARGUMENTS...: trains in DIR and compares. The models have 24 MiB in f32: a second copy is more than what
# is allowed, and a checkpoint that stays in memory more than the program
takes() {
    dir=$1
    shift
    rlhf "$@" --device cpu --threads 2 --run.dir "$dir"
    planned=$(sed -n 's/^ *total *\([0-9.]*\) MiB$/\1/p' log)
    before=$(sed -n 's/^ *data and program, beside it *\([0-9.]*\) MiB$/\1/p' log)
    peak=$(sed -n 's/.*"peak_memory_mib":\([0-9.]*\).*/\1/p' "$dir/run.json")
    awk -v planned="$planned" -v before="$before" -v peak="$peak" -v name="$dir" 'BEGIN {
        more = peak - before - planned
        allowed = planned * 0.03 > 16 ? planned * 0.03 : 16
        printf "%-12s planned %6.1f MiB, taken %6.1f\n", name, planned, peak - before
        exit !(planned > 100 && before > 1 && before < 24 && more <= allowed && more >= -allowed)
    }' || fail "$dir: planned '$planned' MiB beside '$before', the peak was '$peak'"
}

rlhf data make-demo --out data --sft 20 --pairs 6 --prompts 6 --eval 2
rlhf data train-tokenizer --data data/sft.jsonl --vocab-size 400 --out tok
INIT="--model init --tokenizer tok --init.hidden_size 320 --init.num_hidden_layers 5 --init.num_attention_heads 5
    --init.num_key_value_heads 5 --init.intermediate_size 800 --init.tie_word_embeddings false"
COMMON="--data.max_length 256 --max_steps 2"
for dtype in f32 bf16; do
    # shellcheck disable=SC2086
    {
        takes base.$dtype sft $INIT $COMMON --dtype $dtype --data.train data/sft.jsonl --sft.batch_size 2 \
            --sft.micro_tokens 512 --run.save_every 1
        MODEL="--model base.$dtype/model $COMMON --dtype $dtype"
        takes reward.$dtype reward $MODEL --data.train data/pairs.jsonl --reward.batch_size 1 --reward.micro_tokens 512
        takes dpo.$dtype dpo $MODEL --data.train data/pairs.jsonl --dpo.batch_size 1 --dpo.micro_tokens 512
        takes ppo.$dtype ppo $MODEL --reward_model reward.$dtype/model --data.train data/prompts.jsonl \
            --ppo.batch_size 2 --ppo.epochs 1 --ppo.minibatches 1 --ppo.max_new_tokens 8 --ppo.micro_tokens 512
    }
done
# a checkpoint is read beside the models
rm -rf base.f32/model base.f32/checkpoints/step-2
# shellcheck disable=SC2086
takes base.f32 sft $INIT $COMMON --data.train data/sft.jsonl --sft.batch_size 2 --sft.micro_tokens 512 \
    --run.save_every 1 --resume

[ $failed -eq 0 ] || exit 1
