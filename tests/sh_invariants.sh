#!/bin/sh
# sh_invariants.sh - what holds for every trainer whatever it learns: the first step's KL, ratios and margins, a
# learning rate of 0, frozen models, counts of steps, and results that do not depend on threads or on cuts.
set -u
. tests/scratch.sh

INIT="--init.hidden_size 32 --init.num_hidden_layers 2 --init.num_attention_heads 2
    --init.num_key_value_heads 1 --init.intermediate_size 64 --init.max_position_embeddings 256"
COMMON="--data.max_length 192"
SFT="sft --model base/model $COMMON --data.train data/sft.jsonl --max_steps 4 --sft.learning_rate 3e-3
    --sft.neftune_alpha 2 --sft.label_smoothing 0.1 --sft.kl_coef 0.1"
REWARD="reward --model base/model $COMMON --data.train data/pairs.jsonl --data.eval data/pairs.eval.jsonl
    --reward.batch_size 8 --max_steps 4 --reward.learning_rate 3e-3"
DPO="dpo --model base/model $COMMON --data.train data/pairs.jsonl --dpo.batch_size 8 --max_steps 4
    --dpo.learning_rate 1e-3 --dpo.sft_coef 0.1"
PPO="ppo --model base/model --reward_model rm/model $COMMON --data.train data/prompts.jsonl
    --data.eval data/prompts.eval.jsonl --ppo.batch_size 8 --ppo.minibatches 2 --ppo.epochs 3
    --ppo.max_new_tokens 24 --max_steps 4 --ppo.ema 0.9"
LEARN="--ppo.learning_rate 1e-3 --ppo.critic_learning_rate 1e-3 --ppo.ptx_coef 0.5 --ppo.ptx_data data/sft.jsonl
    --ppo.entropy_coef 0.01"

# every RUN METRIC VALUE TOLERANCE [ROWS]: the first ROWS rows (all of them) that have the metric
every() {
    numbers "$1" "$2" | head -n "${5:-1000000}" > values
    [ -s values ] || fail "$1: no $2"
    awk -v want="$3" -v tolerance="$4" '{ d = $1 - want; if (!(d <= tolerance && d >= -tolerance)) { print; exit 1 } }' \
        values > bad || fail "$1: $2 is $(cat bad), not $3"
}

# same_bytes WHAT FILE FILE
same_bytes() { cmp "$2" "$3" > bad 2>&1 || fail "$1: $(cat bad)"; }

hash_models() { find base/model rm/model -type f -exec cksum {} + | sort; }

rlhf data make-demo --out data --sft 120 --pairs 80 --prompts 60 --eval 12
rlhf data train-tokenizer --data data/sft.jsonl --vocab-size 400 --out tok
# shellcheck disable=SC2086
rlhf sft --model init --tokenizer tok $INIT $COMMON --run.dir base --data.train data/sft.jsonl --max_steps 10 \
    --sft.learning_rate 1e-2
# shellcheck disable=SC2086
rlhf $REWARD --run.dir rm
hash_models > hashes.before

# ------------------------------------------------ the first step

# shellcheck disable=SC2086
rlhf $PPO $LEARN --threads 1 --run.dir ppo
every ppo objective/kl 0 0 1
every ppo eval/kl 0 0 1
every ppo rollout/logp_drift 0 0
every ppo optimizer_steps 6 0
[ "$(numbers ppo objective/kl | awk '$1 != 0' | wc -l)" -ge 3 ] || fail "ppo: objective/kl stays 0: nothing was learned"
[ "$(numbers ppo val/ratio_max | awk '$1 > 1' | wc -l)" -eq 4 ] || fail "ppo: the ratio stays 1: nothing was learned"
steps=$(od -A n -t u8 -N 8 ppo/checkpoints/step-*4/actor.optim | tr -d ' ')
[ "$steps" = 24 ] || fail "ppo: Adam took '$steps' steps, not 4 rollouts x 3 passes x 2 minibatches"

# shellcheck disable=SC2086
rlhf ${DPO% --dpo.sft_coef*} --threads 1 --run.dir dpo.plain
every dpo.plain loss 0.69314718055994531 1e-12 1
every dpo.plain rewards/margins 0 0 1
[ "$(numbers dpo.plain rewards/margins | awk '$1 != 0' | wc -l)" -eq 3 ] || fail "dpo: margins stay 0: nothing was learned"

# ------------------------------------------------ a learning rate of 0

# shellcheck disable=SC2086
rlhf $PPO --ppo.learning_rate 0 --ppo.critic_learning_rate 0 --run.dir still
every still objective/kl 0 0
every still eval/kl 0 0
every still policy/approxkl_avg 0 0
every still policy/clipfrac_avg 0 0
every still val/ratio 1 0
every still val/ratio_var 0 0
every still val/clipfrac_avg 0 0
same_bytes "the policy at learning rate 0" base/model/model.safetensors still/model/model.safetensors
same_bytes "its average" base/model/model.safetensors still/ema/model.safetensors
same_bytes "the critic at learning rate 0" rm/model/model.safetensors still/critic/model.safetensors

# ------------------------------------------------ PPO-ptx is SFT's loss

# where nothing has moved, a KL to the base is 0, and so is its gradient
rlhf sft --model base/model --data.max_length 192 --data.train data/sft.jsonl --max_steps 1 --run.dir plain \
    --sft.kl_coef 0.1
every plain kl 0 0
# the same seed takes the same first rows; a large coefficient leaves PPO's own gradient behind
# shellcheck disable=SC2086
rlhf $PPO --ppo.ptx_coef 1e5 --ppo.ptx_data data/sft.jsonl --ppo.minibatches 1 --ppo.epochs 1 --max_steps 1 --run.dir ptx
every ptx loss/ptx "$(numbers plain loss)" 0
norm=$(numbers plain grad_norm)
every ptx actor/grad_norm "$(awk -v n="$norm" 'BEGIN { printf "%.17g", 1e5 * n }')" \
    "$(awk -v n="$norm" 'BEGIN { printf "%.17g", 1e1 * n }')"

# ------------------------------------------------ threads and cuts

without_clock() { sed -E 's/"(wall_time|timing_s\/[^"]*|perf\/[^"]*)":[^,}]*//g' "$1/metrics.jsonl"; }

# same_run RUN RUN: weights, and the numbers logged but for the clock
same_run() {
    without_clock "$1" > metrics.1
    without_clock "$2" > metrics.2
    same_bytes "$1 and $2, metrics" metrics.1 metrics.2
    for model in model critic ema; do
        [ ! -d "$1/$model" ] || same_bytes "$1 and $2, $model" "$1/$model/model.safetensors" "$2/$model/model.safetensors"
    done
}

# shellcheck disable=SC2086
rlhf $SFT --threads 1 --run.dir sft
# shellcheck disable=SC2086
rlhf $REWARD --threads 1 --run.dir reward
# shellcheck disable=SC2086
rlhf $DPO --threads 1 --run.dir dpo
for trainer in sft reward dpo ppo; do
    case $trainer in
    sft) arguments=$SFT ;;
    reward) arguments=$REWARD ;;
    dpo) arguments=$DPO ;;
    ppo) arguments="$PPO $LEARN" ;;
    esac
    # shellcheck disable=SC2086
    rlhf $arguments --threads 2 --run.dir $trainer.threads
    same_run $trainer $trainer.threads
    # shellcheck disable=SC2086
    rlhf $arguments --threads 1 --$trainer.micro_tokens 400 --run.dir $trainer.micro
    same_run $trainer $trainer.micro
done

# ------------------------------------------------ bf16 keeps the promises

# shellcheck disable=SC2086
rlhf $PPO $LEARN --dtype bf16 --threads 1 --run.dir ppo.bf16
every ppo.bf16 objective/kl 0 0 1
every ppo.bf16 eval/kl 0 0 1
every ppo.bf16 rollout/logp_drift 0 0
[ "$(numbers ppo.bf16 val/ratio_max | awk '$1 > 1' | wc -l)" -eq 4 ] || fail "ppo in bf16: the ratio stays 1"
# shellcheck disable=SC2086
rlhf ${DPO% --dpo.sft_coef*} --dtype bf16 --threads 1 --run.dir dpo.bf16
every dpo.bf16 loss 0.69314718055994531 1e-12 1
every dpo.bf16 rewards/margins 0 0 1
# shellcheck disable=SC2086
rlhf $PPO $LEARN --dtype bf16 --threads 2 --run.dir ppo.bf16.threads
same_run ppo.bf16 ppo.bf16.threads
# weight gradients are one chain of f32 in kernels that widen; where dot products take tokens in pairs they
# depend on the cuts
# shellcheck disable=SC2086
rlhf $PPO $LEARN --dtype bf16 --kernels portable --threads 1 --run.dir ppo.widening
# shellcheck disable=SC2086
rlhf $PPO $LEARN --dtype bf16 --kernels portable --threads 1 --ppo.micro_tokens 400 --run.dir ppo.widening.micro
same_run ppo.widening ppo.widening.micro
# ------------------------------------------------ quantized reference and judge: all but the first KL of 0

for dtype in f32 bf16; do
    quantized="--reference_dtype q8 --judge_dtype q4 --dtype $dtype"
    # shellcheck disable=SC2086
    rlhf $PPO $LEARN $quantized --threads 1 --run.save_every 2 --run.dir ppo.q.$dtype
    every ppo.q.$dtype rollout/logp_drift 0 0
    every ppo.q.$dtype reference/quantization_drift 0.01 0.01 1
    every ppo.q.$dtype judge/quantization_drift 0.2 0.2 1
    # shellcheck disable=SC2086
    rlhf $PPO $LEARN $quantized --threads 2 --run.save_every 2 --run.dir ppo.q.$dtype.threads
    same_run ppo.q.$dtype ppo.q.$dtype.threads
    rm -rf ppo.q.$dtype.threads/model ppo.q.$dtype.threads/checkpoints/step-*4
    # shellcheck disable=SC2086
    rlhf $PPO $LEARN $quantized --threads 2 --run.save_every 2 --run.dir ppo.q.$dtype.threads --resume
    same_run ppo.q.$dtype ppo.q.$dtype.threads
done
# shellcheck disable=SC2086
rlhf ${DPO% --dpo.sft_coef*} --reference_dtype q8 --max_steps 1 --run.dir dpo.q
every dpo.q reference/quantization_drift 0.01 0.01 1
# shellcheck disable=SC2086
"$RLHF" $PPO --memory_limit 2 --run.dir none > log 2>&1 && fail "2 MiB were enough"
grep -q 'with recompute --reference_dtype q8 --judge_dtype q8 would need' log || fail "no smaller plan is named: $(cat log)"
hash_models | cmp -s - hashes.before || fail "a frozen model was written"

# resumed is never stopped, and nothing but bf16
# shellcheck disable=SC2086
rlhf $SFT --dtype bf16 --threads 1 --run.save_every 2 --run.dir sft.bf16
cp -r sft.bf16 sft.again
rm -rf sft.again/model sft.again/checkpoints/step-*4
[ -d sft.again/checkpoints/step-2 ] || fail "no checkpoint to resume from"
# shellcheck disable=SC2086
"$RLHF" $SFT --threads 1 --run.save_every 2 --run.dir sft.again --resume > log 2>&1 && fail "a bf16 run went on in f32"
grep -q 'dtype was "bf16"' log || fail "a bf16 run resumed in f32: $(cat log)"
# shellcheck disable=SC2086
rlhf $SFT --dtype bf16 --threads 1 --run.save_every 2 --run.dir sft.again --resume
same_bytes "sft in bf16, resumed" sft.bf16/model/model.safetensors sft.again/model/model.safetensors
# the tools
printf '{"text":"This kettle has a leak."}\n{"text":"What should I do?"}\n' > text.jsonl
head -n 2 data/sft.jsonl > answers.jsonl
head -n 2 data/prompts.jsonl > prompts.jsonl
for tool in "logprobs --model base/model --data text.jsonl" "score --model rm/model --data answers.jsonl" \
    "generate --model base/model --max_tokens 4 --data prompts.jsonl"; do
    for dtype in f32 bf16; do
        # shellcheck disable=SC2086
        rlhf $tool --dtype $dtype --out out.$dtype
    done
    [ "$(wc -l < out.f32)" -eq "$(wc -l < out.bf16)" ] || fail "rlhf $tool in bf16: other rows"
    case $tool in
    logprobs*) cmp -s out.f32 out.bf16 && fail "rlhf logprobs gives in bf16 what it gives in f32" ;;
    esac
done

# ------------------------------------------------ a resume may ask for other threads, not for another run

# shellcheck disable=SC2086
rlhf $SFT --threads 1 --run.save_every 2 --run.dir resumed
rm -rf resumed/checkpoints/step-*4 resumed/model
# shellcheck disable=SC2086
"$RLHF" $SFT --sft.learning_rate 1e-3 --run.save_every 2 --run.dir resumed --resume > log 2>&1 && fail "another run was resumed"
grep -q 'sft.learning_rate was 0.003 when it began' log || fail "$(tail -n 1 log)"
# shellcheck disable=SC2086
rlhf $SFT --threads 2 --memory_limit 4000 --run.save_every 2 --run.dir resumed --resume
same_bytes "resumed with other threads" sft/model/model.safetensors resumed/model/model.safetensors

# ------------------------------------------------ the best model: only by a metric that is evaluated

for trainer in sft reward dpo ppo; do
    "$RLHF" $trainer --model base/model --reward_model rm/model $COMMON --data.train data/pairs.jsonl \
        --data.eval data/pairs.eval.jsonl --run.best eval/los --run.dir best.$trainer > log 2>&1 && fail "$trainer took run.best eval/los"
    grep -q 'run.best: '$trainer' does not evaluate "eval/los"; did you mean' log || fail "$trainer: $(cat log)"
    [ ! -e best.$trainer ] || fail "$trainer left a run directory behind a typo"
done
rlhf $REWARD --threads 1 --run.eval_every 2 --run.best eval/loss --run.dir best
[ -s best/best/model.safetensors ] || fail "no best model"

# ------------------------------------------------ a run that does not fit is refused with what would fit

for trainer in sft reward dpo ppo; do
    case $trainer in
    sft) arguments=$SFT ;;
    reward) arguments=$REWARD ;;
    dpo) arguments=$DPO ;;
    ppo) arguments=$PPO ;;
    esac
    # shellcheck disable=SC2086
    total=$("$RLHF" $arguments --$trainer.micro_tokens 2048 --dry_run 2>&1 | sed -n 's/^ *total *\([0-9]*\).*/\1/p')
    limit=$((total * 2 / 3))
    # shellcheck disable=SC2086
    "$RLHF" $arguments --$trainer.micro_tokens 2048 --memory_limit $limit --run.dir small.$trainer > log 2>&1 &&
        fail "$trainer: a plan of $total MiB was taken where there are $limit"
    change=$(sed -n 's/.*: with \(--.*\) it needs .*/\1/p' log)
    [ -n "$change" ] || fail "$trainer: $(tail -n 1 log)"
    [ ! -e small.$trainer ] || fail "$trainer left a run directory behind a refused plan"
    mkdir small.$trainer.used && echo mine > small.$trainer.used/mine
    # shellcheck disable=SC2086
    "$RLHF" $arguments --$trainer.micro_tokens 2048 --memory_limit $limit --run.dir small.$trainer.used > log 2>&1
    [ "$(ls -A small.$trainer.used)" = mine ] || fail "$trainer: a refused plan left or took: $(ls -A small.$trainer.used)"
    # shellcheck disable=SC2086
    rlhf $arguments $change --memory_limit $limit --run.dir small.$trainer
    # what is refused replaces nothing: too little memory, no such model, a broken file of weights
    (cd small.$trainer && find . -type f ! -name .lock -exec cksum {} + | sort) > before
    mkdir -p broken && cp base/model/* broken && head -c 1000 base/model/model.safetensors > broken/model.safetensors
    for refused in "--memory_limit $limit --$trainer.micro_tokens 2048" "--model nowhere" "--model broken --tokenizer tok"; do
        # shellcheck disable=SC2086
        "$RLHF" $arguments $refused --run.dir small.$trainer --run.overwrite > log 2>&1 && fail "$trainer began with $refused"
        (cd small.$trainer && find . -type f ! -name .lock -exec cksum {} + | sort) | diff before - ||
            fail "$trainer with $refused changed the run that it was to replace"
    done
done
# rows that were left out are kept, of a run that replaces another, too
(cat data/sft.jsonl && echo '{"prompt":1}') > bad.jsonl
for overwrite in "" --run.overwrite; do
    # shellcheck disable=SC2086
    rlhf $SFT --data.train bad.jsonl --data.bad_rows skip:1 --max_steps 1 --run.dir skipped $overwrite
    [ "$(wc -l < skipped/rejects.jsonl)" -eq 1 ] || fail "rejects.jsonl: $(cat skipped/rejects.jsonl)"
done

# ------------------------------------------------ the roles of a run read the same

# the same models with a tokenizer of the same size, but other tokens in it
rlhf data train-tokenizer --data data/pairs.jsonl --vocab-size 400 --out tok.other
cp -r rm/model other.rm && cp -r base/model other.base && cp tok.other/* other.rm && cp tok.other/* other.base
# refused ROLE ARGUMENTS...: and its directory is not there afterwards
refused() {
    role=$1
    shift
    "$RLHF" "$@" --run.dir other > log 2>&1 && fail "another tokenizer was taken for the $role"
    grep -q "^rlhf: A4: the policy (base/model) and the $role (other\.[a-z]*) do not read the same: token [0-9]* is " log ||
        fail "$role: $(tail -n 1 log)"
    [ ! -e other ] || fail "$role: a refused run left a directory"
}
# shellcheck disable=SC2086
{
    refused "reward model" $PPO --reward_model other.rm
    refused critic $PPO --ppo.critic other.rm
    refused reference $PPO --reference other.base
    refused reference $DPO --reference other.base
    refused reference $SFT --reference other.base
    EVAL="eval --model base/model $COMMON --data.eval data/prompts.eval.jsonl --eval.max_new_tokens 8"
    refused baseline $EVAL --eval.baseline other.base
    refused "reward model" $EVAL --reward_model other.rm
    # the gold rule reads text: it needs no tokenizer; a reward model on pairs reads with its own
    rlhf $PPO --model other.base --reward_model gold --max_steps 1 --run.dir other.gold
    # but only prompts of its world, which is found out before anything is written
    echo '{"prompt":"What is the capital of Peru?"}' > foreign.jsonl
    "$RLHF" $PPO --reward_model gold --data.train foreign.jsonl --run.dir foreign > log 2>&1 && fail "gold judged a foreign prompt"
    [ ! -e foreign ] || fail "gold was refused and left a directory: $(tail -n 1 log)"
    rlhf eval --model other.rm $COMMON --data.eval data/pairs.eval.jsonl --run.dir other.pairs
    rlhf $PPO --reward_model other.rm --max_steps 1 --alarms.off A4 --run.dir other.asked
}

# what has no tokenizer is not compared, but must know every token and every position that it is fed
rlhf data train-tokenizer --data data/sft.jsonl --vocab-size 300 --out tok.small
# shellcheck disable=SC2086
for few in "tokens --tokenizer tok.small $INIT" "positions --tokenizer tok $INIT --init.max_position_embeddings 128"; do
    what=${few%% *}
    rlhf sft --model init ${few#* } --data.max_length 100 --data.train data/sft.jsonl --max_steps 1 --run.dir "few.$what"
    rm "few.$what"/model/*token*.json
done
# too_few MESSAGE ARGUMENTS...
too_few() {
    message=$1
    shift
    "$RLHF" "$@" --run.dir few > log 2>&1 && fail "a reference was taken of which $message"
    grep -q "^rlhf: .*$message" log || fail "too few of a reference: $(tail -n 1 log)"
    [ ! -e few ] || fail "a refused run left a directory"
}
# shellcheck disable=SC2086
for run in "$PPO" "$DPO" "$SFT"; do
    too_few "the reference (few.tokens/model) embeds 300 tokens, the tokenizer has 400" $run --reference few.tokens/model
    too_few "data.max_length 192 is more than the 128 positions of the reference" $run --reference few.positions/model
done

# ------------------------------------------------ what is frozen

hash_models > hashes.after
diff hashes.before hashes.after >&2 || fail "training changed a model that it only reads"

[ $failed -eq 0 ] && echo "every invariant holds"
