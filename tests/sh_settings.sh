#!/bin/sh
# sh_settings.sh - a setting does what it says, or is refused by name before anything is written; models that cannot be
# the role they are given are refused, too, and never crash a run.
set -u
. tests/scratch.sh

INIT="--init.hidden_size 16 --init.num_hidden_layers 1 --init.num_attention_heads 2
    --init.num_key_value_heads 1 --init.intermediate_size 32 --init.max_position_embeddings 192"
COMMON="--data.max_length 192 --threads 1"
SFT="sft --model base/model $COMMON --data.train data/sft.jsonl --max_steps 1"
REWARD="reward --model base/model $COMMON --data.train data/pairs.jsonl --data.eval data/pairs.eval.jsonl
    --reward.batch_size 4 --max_steps 1"
DPO="dpo --model base/model $COMMON --data.train data/pairs.jsonl --dpo.batch_size 4 --max_steps 1"
PPO="ppo --model base/model --reward_model rm/model $COMMON --data.train data/prompts.jsonl
    --ppo.batch_size 4 --ppo.max_new_tokens 8 --max_steps 1"

# refused SENTENCE ARGUMENTS...: a regular expression of what is said; no directory is left
refused() {
    sentence=$1
    shift
    "$RLHF" "$@" --run.dir refused > log 2>&1
    rc=$?
    if [ $rc -ne 1 ] && [ $rc -ne 2 ]; then fail "exit status $rc of rlhf $*"; fi
    grep -q "^rlhf: .*$sentence" log || fail "rlhf $* says: $(tail -n 1 log), not: $sentence"
    [ ! -e refused ] || fail "rlhf $* was refused and left a directory"
    rm -rf refused
}

rlhf data make-demo --out data --sft 24 --pairs 24 --prompts 12 --eval 8
rlhf data train-tokenizer --data data/sft.jsonl --vocab-size 300 --out tok
# shellcheck disable=SC2086
{
    rlhf sft --model init --tokenizer tok $INIT $COMMON --run.dir base --data.train data/sft.jsonl --max_steps 1
    rlhf $REWARD --run.dir rm
}

# ------------------------------------------------ roles that a model cannot have

rlhf data train-tokenizer --data data/sft.jsonl --vocab-size 280 --out tok.few
# shellcheck disable=SC2086
rlhf sft --model init --tokenizer tok.few $INIT $COMMON --run.dir few --data.train data/sft.jsonl --max_steps 1
cp -r base/model short && sed 's/"max_position_embeddings": 192/"max_position_embeddings": 100/' base/model/config.json > short/config.json
cp -r rm/model two && sed 's/"num_labels": 1/"num_labels": 2/' rm/model/config.json > two/config.json
# shellcheck disable=SC2086
{
    refused 'rm/model has no language-model head: it cannot be the policy' $SFT --model rm/model
    refused 'rm/model has no language-model head: it cannot be the reference' $SFT --sft.kl_coef 1 --reference rm/model
    refused 'data.max_length 192 is more than the 100 positions of the reference' $SFT --sft.kl_coef 1 --reference short
    refused 'rm/model has no language-model head: it cannot be the policy' $DPO --model rm/model
    refused 'rm/model has no language-model head: it cannot be the reference' $DPO --reference rm/model
    refused 'the reference (few/model) embeds 280 tokens, the tokenizer has 300' $DPO --reference few/model --alarms.off A4
    refused 'data.max_length 192 is more than the 100 positions of the reference' $DPO --reference short
    refused 'rm/model has no language-model head: it cannot be the policy' $PPO --model rm/model
    refused 'rm/model has no language-model head: it cannot be the reference' $PPO --reference rm/model
    refused 'base/model has no head for one score: it is not a reward model' $PPO --reward_model base/model
    refused 'two has no head for one score: it is not a reward model' $PPO --reward_model two
    refused 'data.max_length 192 is more than the 100 positions of the critic' $PPO --ppo.critic short
}

# ------------------------------------------------ settings that could do nothing, or the opposite

echo '{"prompt":"q","chosen":"many words","rejected":"few"}' > plain.jsonl
echo '{"prompt":"q","chosen":"more words","rejected":"few","score_chosen":2,"score_rejected":1}' | cat plain.jsonl - > margin.jsonl
# shellcheck disable=SC2086
{
    refused 'ppo.normalize_score "stored" needs a reward model' $PPO --reward_model gold --ppo.normalize_score stored
    refused 'run.keep must be between 2 and 4000, not 5000' $SFT --run.keep 5000
    refused 'ppo.kl_horizon 8 is too short for rollouts of 40 sequences' $PPO --ppo.batch_size 40 --ppo.kl_target 6 --ppo.kl_horizon 8
    refused 'reward.use_margin: no training row has a "margin"' $REWARD --data.train plain.jsonl --reward.use_margin
    rlhf $REWARD --data.train margin.jsonl --reward.use_margin --run.dir margin
}

# what a name means differs between trainers, and so does its help
for said in 'ppo.epochs INT *passes over each rollout' 'ppo.max_steps INT *rollouts, each with' \
    'sft.epochs INT *passes over the data'; do
    "$RLHF" help "${said%%.*}" | grep -q "$said" || fail "rlhf help ${said%%.*} does not say: $said"
done

# a best model by a metric that this run does not have
for i in 1 2 3; do echo '{"prompt":"What is the capital of Peru?"}'; done > foreign.jsonl
ASKED="--data.eval data/sft.eval.jsonl --sft.prompts data/prompts.eval.jsonl --sft.max_new_tokens 8"
# shellcheck disable=SC2086
{
    refused 'run.best: sft does not evaluate "eval/kl"' $SFT $ASKED --run.best eval/kl
    refused 'run.best: sft does not evaluate "eval/gold"' $SFT $ASKED --sft.prompts foreign.jsonl --run.best eval/gold
    refused 'run.best: dpo does not evaluate "eval/win_rate"' $DPO --data.eval data/pairs.eval.jsonl \
        --dpo.prompts foreign.jsonl --dpo.max_new_tokens 8 --run.best eval/win_rate
    refused 'run.best: ppo does not evaluate "eval/gold"' $PPO --data.eval foreign.jsonl --run.best eval/gold
    for best in eval/kl eval/gold; do
        rlhf $SFT $ASKED --sft.kl_coef 1 --run.best $best --run.dir best --run.overwrite
        [ -s best/best/model.safetensors ] || fail "sft has no best model by $best"
    done
}

# ------------------------------------------------ a reward model carries its scores' mean and deviation, the best one, too

# shellcheck disable=SC2086
{
    rlhf $REWARD --max_steps 2 --run.eval_every 1 --run.best eval/loss --run.dir rm.best
    grep -q '"score_length_corr":-\{0,1\}0\.[0-9]' rm.best/evals/reward.json || fail "reward.json: no correlation with lengths"
    for model in best model; do
        rlhf $PPO --reward_model rm.best/$model --ppo.normalize_score stored --run.dir stored --run.overwrite
    done
}

# ------------------------------------------------ data.limit is of training files, data.eval_limit of the others

# parts LIMIT ARGUMENTS...: of so many subsets reward.parts is evaluated
parts() {
    want=$1
    shift
    # shellcheck disable=SC2086
    rlhf $REWARD --reward.parts parts.jsonl "$@" --run.dir parts --run.overwrite
    found=$(grep -o '"[a-f]":[01]' parts/run.json | wc -l)
    [ "$found" -eq "$want" ] || fail "reward.parts with $*: $found parts, not $want"
}
for part in a b c d e f; do
    echo '{"prompt":"q","chosen":"many words of '$part'","rejected":"few","subset":"'$part'"}'
done > parts.jsonl
parts 6 --data.limit 4
parts 4 --data.eval_limit 4

# ------------------------------------------------ whitened rewards: the scores among them, wherever they stand

# a policy that answers "ok" and ends; scores of at most 0.01 are whitened to the size of values
i=0
while [ $i -lt 16 ]; do echo '{"prompt":"Is it number '$i'?","completion":" ok"}' && i=$((i + 1)); done > ok.jsonl
# shellcheck disable=SC2086
{
    rlhf $SFT --data.train ok.jsonl --max_steps 60 --sft.learning_rate 1e-2 --run.dir ok
    for at in last_token after_eos; do
        rlhf $PPO --model ok/model --data.train ok.jsonl --ppo.batch_size 16 --ppo.kl_coef 0 --ppo.normalize_score initial \
            --ppo.score_clip 0.01 --ppo.lambda 1 --ppo.whiten_rewards --ppo.score_at $at --run.dir white.$at
        sed -n 's/.*"critic\/vf_explained_var":\([^,]*\).*"rollout\/truncated_rate":\([^,]*\).*/\1 \2/p' white.$at/metrics.jsonl > numbers
        awk '{ bad += !($1 > -10 && $1 < 1 && $2 < 0.2) } END { exit bad || NR != 1 }' numbers ||
            fail "$at: explained variance of the returns, share of cut answers: $(cat numbers)"
    done
}

[ $failed -eq 0 ] && echo "every setting does what it says"
