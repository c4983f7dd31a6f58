#!/bin/sh
# tensorboard.sh - does TensorBoard's own reader see what was logged, of every trainer, stopped and resumed ones
# too? Needs a Python with the package tensorboard: $PYTHON.
set -eu
BUILD=${BUILD:-build}
RLHF=$(cd "$BUILD" && pwd)/rlhf
READ=$PWD/tests/reference/tensorboard_read.py
PYTHON=${PYTHON:-python3}
"$PYTHON" -c 'import tensorboard' 2> /dev/null ||
    { echo "tensorboard.sh: skipped, $PYTHON has no tensorboard here (PYTHON= names another)"; exit 77; }
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
cd "$WORK"

rlhf() { "$RLHF" "$@" > log 2>&1 || { cat log >&2; exit 1; }; }
INIT="--init.hidden_size 32 --init.num_hidden_layers 2 --init.num_attention_heads 2
    --init.num_key_value_heads 1 --init.intermediate_size 64 --init.max_position_embeddings 256"
COMMON="--data.max_length 192 --run.log_every 1"
rlhf data make-demo --out data --sft 120 --pairs 80 --prompts 60 --eval 12
rlhf data train-tokenizer --data data/sft.jsonl --vocab-size 300 --out tok
# shellcheck disable=SC2086
{
    rlhf sft --model init --tokenizer tok $INIT $COMMON --data.train data/sft.jsonl --max_steps 4 --run.dir sft
    rlhf reward --model sft/model $COMMON --data.train data/pairs.jsonl --reward.batch_size 8 --max_steps 4 --run.dir rm
    rlhf dpo --model sft/model $COMMON --data.train data/pairs.jsonl --dpo.batch_size 8 --max_steps 4 --run.dir dpo
    PPO="ppo --model sft/model --reward_model rm/model $COMMON --data.train data/prompts.jsonl --ppo.batch_size 8
        --data.eval data/prompts.eval.jsonl --ppo.minibatches 2 --ppo.max_new_tokens 24 --max_steps 6 --run.save_every 2
        --run.dir ppo"
    # killed where it falls, then resumed: rows behind the last checkpoint are written once more
    "$RLHF" $PPO > log 2>&1 &
    pid=$!
    while kill -0 $pid 2> /dev/null && [ "$(cat ppo/metrics.jsonl 2> /dev/null | wc -l)" -lt 5 ]; do sleep 0.05; done
    kill -9 $pid 2> /dev/null || true
    wait $pid || true
    rlhf $PPO --run.resume
}
"$PYTHON" "$READ" sft rm dpo ppo 2> log || { cat log >&2; exit 1; }
echo "tensorboard.sh: passed"
