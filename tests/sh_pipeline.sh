#!/bin/sh
# sh_pipeline.sh - a recipe of several stages: inputs from earlier stages, flags for all of them or for one verb,
# a resume that skips what is finished, and recipes that make no sense.
set -u
. tests/scratch.sh

cat > recipe.json << 'JSON'
// four stages from nothing
{"run": {"dir": "all", "seed": 3},
 "stages": [
   {"name": "world", "verb": "make-demo", "recipe": {"sft": 40, "pairs": 20, "prompts": 8, "eval": 4}},
   {"name": "tok", "verb": "train-tokenizer", "recipe": {"vocab_size": 300}, "inputs": {"data": "world.sft.jsonl"}},
   {"name": "base", "verb": "sft",
    "recipe": {"init": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
                        "intermediate_size": 32}},
    "inputs": {"model": "init", "tokenizer": "tok.", "data.train": "world.sft.jsonl"}},
   {"name": "pref", "verb": "dpo", "inputs": {"model": "base.model", "data.train": "world.pairs.jsonl"}}
 ]}
JSON
ALL="--data.max_length 256 --max_steps 2"

# shellcheck disable=SC2086
"$RLHF" run recipe.json $ALL --dpo.beta 0.25 --sft.learning_rate=1e-3 > log 2>&1 || fail "$(cat log)"
for stage in base pref; do
    grep -q '"max_steps": 2' all/$stage/recipe.json || fail "$stage did not get a flag that is for all"
    grep -q '"finished":true,"step":2' all/$stage/run.json || fail "$stage: $(cat all/$stage/run.json)"
    grep -q "\"$stage\":{" all/summary.json || fail "the summary lacks $stage: $(cat all/summary.json)"
done
grep -q '"beta": 0.25' all/pref/recipe.json || fail "dpo did not get its flag"
grep -q '"learning_rate": 0.001' all/base/recipe.json || fail "sft did not get its flag"
grep -q '"model": "all/base/model"' all/pref/recipe.json || fail "an input is not that of the earlier stage"
grep -q '"seed":3' all/summary.json || fail "seed: $(cat all/summary.json)"

# a resume begins where something is missing
cksum all/base/model/model.safetensors all/pref/model/model.safetensors > before
rm -r all/pref
# shellcheck disable=SC2086
"$RLHF" run recipe.json $ALL --dpo.beta 0.25 --sft.learning_rate=1e-3 --resume > log 2>&1 || fail "resume: $(cat log)"
grep -q 'base: finished before, skipped' log || fail "a finished stage ran again: $(cat log)"
cksum all/base/model/model.safetensors all/pref/model/model.safetensors | diff before - >&2 || fail "a resume came to another model"

# refused MESSAGE SED-EXPRESSION [FLAGS...]: of a changed recipe
refused() {
    message=$1
    sed "$2" recipe.json > bad.json
    shift 2
    "$RLHF" run bad.json --run.dir bad "$@" > log 2>&1 && fail "taken: $message"
    grep -qF -- "$message" log || fail "no \"$message\": $(tail -n 1 log)"
    rm -rf bad
}
# keys that nobody reads, before any stage runs
unread() {
    refused "$@" --dry_run
    grep -q -- '---' log && fail "a stage ran before: $1"
}
unread '"run" of a pipeline has no key "eval_every"' 's/"seed": 3/"eval_every": 3/'
unread 'a pipeline has no key "stage"; did you mean "stages"?' 's/"stages": \[/"stage": 1, "stages": [/'
unread 'a stage has no key "input"; did you mean "inputs"?' '/"pref"/s/"inputs"/"input"/'
refused 'two stages are named "base"' 's/"name": "pref"/"name": "base"/'
refused '"dop" is no verb of a stage' 's/"verb": "dpo"/"verb": "dop"/' --max_steps 1 --data.max_length 256
refused 'unknown setting --ppo.clip' '' --ppo.clip 0.1
[ $failed -eq 0 ]
