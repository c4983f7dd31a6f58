#!/bin/sh
# sh_cuda.sh - trainers on an emulated GPU (docs/gpu.md): the invariants of the first step in f32 and bf16, a
# recorded decoding step, resume after a kill.
set -u
RLHF=$(cd "${BUILD:-build}" && pwd)/emulated/rlhf
[ -x "$RLHF" ] || { echo "$RLHF is not built"; exit 77; }
. tests/scratch.sh

INIT="--init.hidden_size 16 --init.num_hidden_layers 1 --init.num_attention_heads 2
    --init.num_key_value_heads 1 --init.intermediate_size 24 --init.max_position_embeddings 256"
COMMON="--data.max_length 192 --threads 1"

# small RUN METRIC LIMIT: the first value's size
small() {
    numbers "$1" "$2" | head -n 1 |
        awk -v limit="$3" '{ x = $1 < 0 ? -$1 : $1; if (!(x <= limit)) exit 1; seen = 1 } END { if (!seen) exit 1 }' ||
        fail "$1: $2 is $(numbers "$1" "$2" | head -n 1), allowed $3"
}

rlhf data make-demo --out data --sft 40 --pairs 20 --prompts 20 --eval 4
rlhf data train-tokenizer --data data/sft.jsonl --vocab-size 400 --out tok
# shellcheck disable=SC2086
rlhf sft --device cpu --model init --tokenizer tok $INIT $COMMON --run.dir base --data.train data/sft.jsonl --max_steps 5
# shellcheck disable=SC2086
rlhf reward --device cpu --model base/model $COMMON --run.dir rm --max_steps 2 --reward.batch_size 4 \
    --data.train data/pairs.jsonl

for dtype in f32 bf16; do
    # shellcheck disable=SC2086
    rlhf ppo --device cuda:0 --dtype $dtype --model base/model --reward_model rm/model $COMMON --run.dir ppo.$dtype \
        --data.train data/prompts.jsonl --ppo.batch_size 3 --ppo.epochs 1 --ppo.max_new_tokens 5 --max_steps 1
    # what the reference says of the actor's tokens is what the actor says, but for the rounding of
    # products whose number of rows differs
    small ppo.$dtype objective/kl 1e-3
    small ppo.$dtype rollout/logp_drift 2e-2
    # shellcheck disable=SC2086
    rlhf dpo --device cuda:0 --dtype $dtype --model base/model $COMMON --run.dir dpo.$dtype \
        --data.train data/pairs.jsonl --dpo.batch_size 2 --max_steps 1 --data.limit 6
    # the reference's log-probs were computed in batches of other sizes
    sed -n 's/.*"first_loss":\([^,}]*\).*/\1/p' log |
        awk '{ d = $1 - 0.69314718055994531; if (!(d * d <= 1e-6)) exit 1; seen = 1 } END { if (!seen) exit 1 }' ||
        fail "dpo in $dtype: $(tail -n 1 log)"
done

# where a row's bits depend on the row alone, exactly
# shellcheck disable=SC2086
rlhf dpo --device cuda:0 --dtype bf16 --batch_invariant --model base/model $COMMON --run.dir dpo.invariant \
    --data.train data/pairs.jsonl --dpo.batch_size 2 --max_steps 1 --data.limit 6
grep -q '"first_loss":0.693147180559945' log || fail "dpo with batch invariance: $(tail -n 1 log)"

SFT="sft --device cuda:0 --dtype bf16 --model base/model $COMMON --data.train data/sft.jsonl --sft.batch_size 1
    --run.save_every 1"
# shellcheck disable=SC2086
rlhf $SFT --max_steps 3 --run.dir whole
# shellcheck disable=SC2086
EMULATOR_ORDER=descending rlhf $SFT --max_steps 3 --run.dir resumed
rm -rf resumed/checkpoints/step-*3 resumed/model
# shellcheck disable=SC2086
rlhf $SFT --max_steps 3 --run.dir resumed --resume
cmp whole/model/model.safetensors resumed/model/model.safetensors || fail "a resumed run differs"

[ $failed -eq 0 ] && echo "trainers on the emulated GPU hold what they promise"
