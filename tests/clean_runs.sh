#!/bin/sh
# clean_runs.sh [SEEDS] - real runs without a fault on the embedded world, at the smallest shapes that learn:
# SFT, reward model, PPO and DPO for each seed, about 1300 steps together. Counts the alarms that they raise, by
# name; each is a false alarm, or the run was not well. A16 slow-step, which is about the machine and what else it
# does, is counted by itself. `make clean-run-test N=4` calls it (docs/alarms.md).
set -u
SEEDS=${1:-4}
. tests/scratch.sh

SHAPE="--init.hidden_size 64 --init.num_hidden_layers 2 --init.num_attention_heads 2 --init.num_key_value_heads 1
    --init.intermediate_size 128 --init.initializer_range 0.05"

# runs SEED: in a folder of that name
runs() {
    common="--data.max_length 160 --run.seed $1 --run.eval_every 20"
    rlhf data make-demo --out data --seed "$1" --sft 4000 --pairs 3200 --prompts 3000 --eval 64
    rlhf data train-tokenizer --data data/sft.jsonl --vocab-size 512 --out tok
    # shellcheck disable=SC2086
    {
        rlhf sft --model init --tokenizer tok $SHAPE $common --run.dir sft --data.train data/sft.jsonl \
            --data.eval data/sft.eval.jsonl --sft.batch_size 8 --sft.learning_rate 4e-3
        rlhf reward --model sft/model $common --run.dir reward --data.train data/pairs.jsonl \
            --data.eval data/pairs.eval.jsonl --reward.batch_size 16 --reward.learning_rate 1e-3
        rlhf ppo --model sft/model --reward_model reward/model $common --run.dir ppo --data.train data/prompts.jsonl \
            --data.eval data/prompts.eval.jsonl --ppo.batch_size 16 --ppo.epochs 2 --ppo.learning_rate 1e-4 \
            --ppo.critic_learning_rate 1e-3 --ppo.schedule constant --ppo.max_new_tokens 64 --ppo.kl_coef 0.1 \
            --max_steps 400
        rlhf dpo --model sft/model $common --run.dir dpo --data.train data/pairs.jsonl \
            --data.eval data/pairs.eval.jsonl --dpo.prompts data/prompts.eval.jsonl --dpo.batch_size 16 \
            --dpo.learning_rate 1e-4
    }
}

seed=1
while [ "$seed" -le "$SEEDS" ]; do
    mkdir "seed$seed" && cd "seed$seed" || exit 1
    runs "$seed"
    for run in sft reward ppo dpo; do
        echo "seed $seed: $run, $(wc -l < "$run/metrics.jsonl") steps, $(wc -l < "$run/alarms.jsonl") alarms"
        sed 's/^/    /' "$run/alarms.jsonl"
    done
    cd ..
    seed=$((seed + 1))
done
steps=$(cat seed*/*/metrics.jsonl | grep -vc "\"step\":0,")
cat seed*/*/alarms.jsonl | sed 's/.*"id":"\([^"]*\)","name":"\([^"]*\)".*/\1 \2/' > raised
slow=$(grep -c 'A16 slow-step' raised)
alarms=$(($(wc -l < raised) - slow))
echo "$steps steps without a fault raised $alarms alarms, and slow-step $slow times"
sort raised | uniq -c
[ "$alarms" -eq 0 ]
