#!/bin/sh
# sh_evaluation.sh - what evaluations leave in run directories: samples.jsonl, rollouts.jsonl, evals/*.json.
set -u
. tests/scratch.sh

INIT="--init.hidden_size 32 --init.num_hidden_layers 2 --init.num_attention_heads 2
    --init.num_key_value_heads 1 --init.intermediate_size 64 --init.max_position_embeddings 256"
COMMON="--data.max_length 192 --threads 1"
PPO="ppo --model base/model --reward_model rm/model $COMMON --data.train data/prompts.jsonl
    --data.eval data/prompts.eval.jsonl --ppo.batch_size 8 --ppo.max_new_tokens 24 --ppo.learning_rate 1e-3
    --run.eval_every 2 --run.save_every 2 --run.dump_rollouts"
DPO="dpo --model base/model $COMMON --data.train data/pairs.jsonl --data.eval data/pairs.eval.jsonl
    --dpo.prompts data/prompts.eval.jsonl --dpo.batch_size 8 --dpo.learning_rate 1e-3 --dpo.max_new_tokens 24
    --run.eval_every 2 --run.save_every 2"
SFT="sft --model base/model $COMMON --data.train data/sft.jsonl --data.eval data/sft.eval.jsonl
    --sft.prompts data/prompts.eval.jsonl --sft.batch_size 4 --sft.learning_rate 1e-3 --sft.max_new_tokens 24
    --run.eval_every 2 --run.save_every 2"

# rows FILE PATTERN WANTED
rows() {
    found=$(grep -c -- "$2" "$1")
    [ "$found" -eq "$3" ] || fail "$1: $found rows with $2, not $3"
}

# lengths FILE ARRAY: how many numbers the array of each row has
lengths() { sed 's/.*"'"$2"'":\[\([^]]*\)\].*/\1/' "$1" | awk -F, '{ print NF }'; }

# same_bytes WHAT FILE FILE
same_bytes() { cmp "$2" "$3" > bad 2>&1 || fail "$1: $(cat bad)"; }

rlhf data make-demo --out data --sft 120 --pairs 80 --prompts 60 --eval 12
rlhf data train-tokenizer --data data/sft.jsonl --vocab-size 400 --out tok
# shellcheck disable=SC2086
rlhf sft --model init --tokenizer tok $INIT $COMMON --run.dir base --data.train data/sft.jsonl --max_steps 10 \
    --sft.learning_rate 1e-2
# shellcheck disable=SC2086
rlhf reward --model base/model $COMMON --data.train data/pairs.jsonl --data.eval data/pairs.eval.jsonl \
    --reward.batch_size 8 --max_steps 4 --reward.learning_rate 3e-3 --run.dir rm

# ------------------------------------------------ samples and rollouts, and a resume that repeats them

# shellcheck disable=SC2086
rlhf $PPO --max_steps 4 --run.dir ppo
rows ppo/samples.jsonl '"mode":"sampled"' 24 # of steps 0, 2 and 4
rows ppo/samples.jsonl '"mode":"greedy"' 24
rows ppo/samples.jsonl '"step":4,.*"prompt_id":8,.*"score":.*"gold":.*"parts":{"fix":.*"kl":.*"length":.*"stop":' 2
for array in logp kl value; do
    lengths ppo/samples.jsonl $array > counts.$array
    sed 's/.*"length":\([0-9]*\).*/\1/' ppo/samples.jsonl | cmp -s - counts.$array || fail "samples: $array has other lengths"
done
grep -q '"mode":"greedy".*"kl":[^0]' ppo/samples.jsonl || fail "the KL of greedy answers stays 0"

rows ppo/rollouts.jsonl '"step":[1-4],"prompt":.*"completion":.*"score":.*"stop":' 32
lengths ppo/rollouts.jsonl completion_ids > counts
for array in logp ref_logp values advantages; do
    lengths ppo/rollouts.jsonl $array | cmp -s - counts || fail "rollouts: $array has other lengths than completion_ids"
done
# before anything is learned the policy is its reference
grep '"step":1,' ppo/rollouts.jsonl | sed 's/.*"logp":\(.*\),"ref_logp":\(.*\),"values".*/\1 \2/' |
    awk '$1 != $2 { exit 1 }' || fail "rollouts: ref_logp differs from logp at the first step"

# shellcheck disable=SC2086
rlhf $DPO --max_steps 4 --run.dir dpo
rows dpo/samples.jsonl '"mode":"sampled"' 24
rows dpo/metrics.jsonl '"eval/gold":.*"eval/win_rate":.*"eval/kl":' 2

# shellcheck disable=SC2086
rlhf $SFT --max_steps 4 --run.dir sft
rows sft/samples.jsonl '"mode":"sampled".*"gold":.*"tokens":{"text":' 24
rows sft/samples.jsonl '"step":4,"mode":"greedy"' 8
rows sft/metrics.jsonl '"eval/gold":.*"eval/response_length":' 2
rows sft/report.html '"mode":"greedy"' 1
# the answers are written down, nothing learns from them
# shellcheck disable=SC2086
rlhf $SFT --max_steps 4 --run.dir sft.silent --sft.prompts ""
same_bytes "sft without prompts" sft/model/model.safetensors sft.silent/model/model.safetensors
[ ! -s sft.silent/samples.jsonl ] || fail "sft without prompts wrote samples"

for run in ppo dpo sft; do
    cp -r $run $run.again
    rm -rf $run.again/model $run.again/checkpoints/step-*4
    case $run in ppo) arguments=$PPO ;; dpo) arguments=$DPO ;; sft) arguments=$SFT ;; esac
    # shellcheck disable=SC2086
    rlhf $arguments --max_steps 4 --run.dir $run.again --resume
    same_bytes "$run resumed, samples" $run/samples.jsonl $run.again/samples.jsonl
done
same_bytes "ppo resumed, rollouts" ppo/rollouts.jsonl ppo.again/rollouts.jsonl
# shellcheck disable=SC2086
rlhf ${PPO% --run.dump_rollouts} --max_steps 1 --run.dir ppo --run.overwrite
[ ! -e ppo/rollouts.jsonl ] || fail "rollouts of the run before are still there"

# a pipeline's summary shows sampled answers, of which its figures are
mkdir -p pipeline/ppo
echo '{"ppo":{"steps":4}}' > pipeline/summary.json
for mode in sampled greedy; do
    echo '{"step":4,"mode":"'$mode'","prompt":"Hello.","completion":"A '$mode' answer."}'
done > pipeline/ppo/samples.jsonl
rlhf summary pipeline
rows log 'A sampled answer' 1
rows log 'A greedy answer' 0

# ------------------------------------------------ a reward model on pairs

# sum FILE ARRAY: of its numbers
sum() { sed 's/.*"'"$2"'"\(:{"edges":[^]]*\],"counts"\)*:\[\([^]]*\)\].*/\2/' "$1" | tr , '\n' | awk '{ s += $1 } END { print s }'; }
without_names() { sed 's/"model":"[^"]*","data":"[^"]*"//' "$1"; }

rows rm/evals/reward.json '{"kind":"reward","model":"model","data":"data/pairs.eval.jsonl","n":2[0-4],"accuracy":.*"subsets":\[{"subset":' 1
pairs=$(sed 's/.*"n":\([0-9]*\),"accuracy":.*"subsets".*/\1/' rm/evals/reward.json)
for name in chosen rejected margins; do
    [ "$(sum rm/evals/reward.json $name)" = "$pairs" ] || fail "reward.json counts $(sum rm/evals/reward.json $name) $name answers"
done
bins=$(sed 's/.*"length_bins":\[\([^]]*\)\].*/\1/' rm/evals/reward.json | tr '{' '\n' | sed -n 's/.*"n":\([0-9]*\).*/\1/p' |
    awk '{ s += $1 } END { print s }')
[ "$bins" = "$pairs" ] || fail "the bins of lengths have $bins pairs"
accuracy=$(sed 's/.*"accuracy":\([^,]*\),"accuracy_longer_wins.*/\1/' rm/run.json)
grep -q "\"n\":$pairs,\"accuracy\":$accuracy," rm/evals/reward.json || fail "run.json has accuracy $accuracy"
# shellcheck disable=SC2086
rlhf eval --model rm/model $COMMON --data.eval data/pairs.eval.jsonl --run.dir eval.rm
without_names rm/evals/reward.json > want
without_names eval.rm/evals/reward.json > have
same_bytes "the evaluation of a run and of its model" want have
grep -q '"reliability"' eval.rm/report.html || fail "the report does not have the evaluation"

# any number of subsets, and their names whole
i=0
while [ $i -lt 100 ]; do
    echo '{"prompt":"q","chosen":"many","rejected":"few","subset":"a subset with a name that goes on for long: '$((i % 70))'"}'
    i=$((i + 1))
done > subsets.jsonl
# shellcheck disable=SC2086
rlhf eval --model rm/model $COMMON --data.eval subsets.jsonl --run.dir eval.subsets
[ "$(grep -o '{"subset":"a subset[^}]*: [0-9]*","n":[12],"accuracy":[01]}' eval.subsets/evals/reward.json | sort -u | wc -l)" -eq 70 ] ||
    fail "not all of 70 subsets are reported"

# ------------------------------------------------ a policy on prompts and text

# value FILE NAME: of the first such key
value() { sed 's#.*"'"$2"'":\([^,}]*\).*#\1#' "$1"; }

ANSWER="$COMMON --reward_model rm/model --data.eval data/prompts.eval.jsonl --eval.max_new_tokens 24"
# shellcheck disable=SC2086
rlhf eval --model dpo/model --eval.baseline base/model --reference base/model $ANSWER --eval.text data/sft.eval.jsonl \
    --run.dir eval.dpo
rows eval.dpo/samples.jsonl '"mode":"greedy".*"kl"' 12
for name in win_rate score gold kl response_length repetition eos_rate perplexity; do
    sed 's/.*"'$name'":\([^,]*\),"'$name'_low":\([^,]*\),"'$name'_high":\([^,}]*\).*/\1 \2 \3/' eval.dpo/evals/policy.json |
        awk '!($1 >= $2 && $1 <= $3) { exit 1 }' || fail "policy.json: no $name within its limits"
done
for name in score gold kl win_rate; do
    [ "$(value eval.dpo/evals/policy.json $name)" = "$(value eval.dpo/run.json $name)" ] || fail "run.json and policy.json differ in $name"
done
# the likelihood of a text is what sft calls it
# shellcheck disable=SC2086
rlhf sft --model dpo/model $COMMON --data.train data/sft.jsonl --data.eval data/sft.eval.jsonl --max_steps 1 \
    --sft.learning_rate 0 --run.dir still
awk -v nll="$(tail -n 1 still/metrics.jsonl | sed 's/.*"eval\/loss":\([^,}]*\).*/\1/')" -v p="$(value eval.dpo/evals/policy.json perplexity)" \
    'BEGIN { d = exp(nll) / p - 1; exit !(d < 1e-5 && d > -1e-5) }' || fail "perplexity is not sft's"
# shellcheck disable=SC2086
rlhf eval --model dpo/model --eval.baseline base/model --reference base/model $ANSWER --eval.text data/sft.eval.jsonl \
    --threads 2 --run.dir eval.again
same_bytes "an evaluation done twice" eval.dpo/evals/policy.json eval.again/evals/policy.json

# ------------------------------------------------ the checkpoints of a run

for run in ppo.again dpo; do
    list() { find $run -type f ! -name report.html ! -path '*/evals/*' -exec cksum {} + | sort; }
    list > before
    # shellcheck disable=SC2086
    rlhf eval --eval.sweep $run $ANSWER --run.dir sweep
    list | cmp -s - before || fail "the sweep changed $run"
    same_bytes "the sweep in $run" sweep/evals/sweep.json $run/evals/sweep.json
    grep -q '"kind":"sweep"' $run/report.html || fail "the report of $run does not have its sweep"
    rows sweep/evals/sweep.json '{"kind":"sweep",.*"points":\[{"step":0,"kl":0,.*{"step":2,.*{"step":4,.*"best_of":\[{"n":1,"kl":0,.*{"n":16,' 1
    sed 's/.*{"step":4,"kl":\([^,]*\),"score":.*"gold":\([^,]*\),"length":[^,]*}\].*/\1 \2/' sweep/evals/sweep.json > have
    tail -n 1 $run/metrics.jsonl > last
    echo "$(value last eval/kl) $(value last eval/gold)" > want
    same_bytes "the last checkpoint of $run and its last evaluation" want have
    # the best of more answers scores higher
    tr '{' '\n' < sweep/evals/sweep.json | sed -n 's/"n":[0-9]*,"kl":.*"score":\([^,}]*\).*/\1/p' > scores
    sort -g scores | cmp -s - scores || fail "best of n: $(tr '\n' ' ' < scores)"
    [ "$(wc -l < scores)" -eq 5 ] || fail "best of n has $(wc -l < scores) entries"
    rm -r sweep
done
"$RLHF" eval --eval.sweep data --run.dir sweep > log 2>&1 && fail "data/ was swept"
"$RLHF" eval --eval.sweep dpo --eval.text data/sft.eval.jsonl --run.dir sweep > log 2>&1 && fail "a sweep took eval.text"
grep -q 'eval.sweep goes without' log || fail "$(cat log)"
[ ! -e sweep ] || fail "a sweep of nothing left a directory"

[ $failed -eq 0 ] && echo "evaluations leave what they promise"
