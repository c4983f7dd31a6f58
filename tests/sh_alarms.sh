#!/bin/sh
# sh_alarms.sh - plants faults into the trainers, one at a time, and asks for the alarm of each within 10 steps
# after its window has filled; runs without a fault must raise none. Faults of code are written into copies of
# the sources (each must still find its place), faults of data and settings are given as such.
set -u
. tests/scratch.sh
if nm "$BUILD/librlhf.a" 2> /dev/null | grep -q __asan_init; then
    echo "skipped: the library was built with sanitizers"
    exit 77
fi
cd "$ROOT" || exit 1

# ------------------------------------------------ a program with faults in it

# plant FILE SED-EXPRESSION: it must change the copy of the file
plant() {
    [ -f "$WORK/$1" ] || { mkdir -p "$WORK/$(dirname "$1")" && cp "$ROOT/$1" "$WORK/$1"; }
    sed -E "$2" "$WORK/$1" > "$WORK/planted"
    if cmp -s "$WORK/planted" "$WORK/$1"; then
        echo "FAILED: nothing in $1 to plant with $2" >&2
        exit 1
    fi
    mv "$WORK/planted" "$WORK/$1"
}

plant ppo/ppo.c 's/(&p->reference, p->micro_tokens, )p->cfg->temperature/\1fault("temperature") ? 2.0f : p->cfg->temperature/'
plant ppo/ppo.c 's/p->logp_ref \+ first \+ 1, R,/p->logp_ref + first + 1 - fault("shifted"), R,/'
plant ppo/ppo.c 's/reward\[n - 1\] \+= p->score\[s\]/reward[n - 1 - fault("score-off")] += p->score[s]/'
plant ppo/ppo.c 's/^( +)p->state\.kl_coef, p->kl\);/\1(fault("kl-sign") ? -1 : 1) * p->state.kl_coef, p->kl);/'
plant ppo/ppo.c 's/whiten\(p->adv, p->whitened, N, 1\);/if (!fault("unwhitened")) whiten(p->adv, fault("mask") ? p->rollout.seq.wanted : p->whitened, N, 1);/'
plant ppo/ppo.c 's/^( +)return shape_scores\(p\);/\1for (int s = 0; s < p->S; s++) {\n if (fault("nan")) p->raw_score[s] = NAN;\n if (fault("constant")) p->raw_score[s] = 1.0f;\n if (fault("length")) p->raw_score[s] = 0.5f * (float)rollout_length(\&p->rollout, s);\n }\n\1return shape_scores(p);/'
plant policy/rollout.c 's/d->logp\[d->n\+\+\] = e->logp\[i\];/d->logp[d->n++] = e->logp[i] + 0.1f * (float)fault("sampler");/'
plant policy/rollout.c 's/d->ids\[length\(d\)\] = e->drawn\[i\];/if (fault("repeat") \&\& d->n > 2) e->drawn[i] = d->ids[length(d) - 2];\n        d->ids[length(d)] = e->drawn[i];/'
plant policy/rollout.c 's/(e->step_positions\[M\+\+\] = length\(d\) - 1);/\1 - fault("position");/'
plant policy/rollout.c 's/^    d->stop = STOP_LENGTH;$/    d->stop = fault("no-eos") ? STOP_EOS : STOP_LENGTH;/'
plant ppo/ppo_setup.c 's/(\.entropy_coef = )c->entropy_coef,/\1(fault("entropy-sign") ? -1.0f : 1.0f) * c->entropy_coef,/'
plant ppo/ppo_setup.c 's/^( +)average_start\(&p->ema\);/\1average_start(\&p->ema);\n    if (fault("stale")) TRY(weights_init(\&p->reference.w, 77));/'

objects=
for f in ppo/ppo.c policy/rollout.c ppo/ppo_setup.c; do
    # shellcheck disable=SC2086
    ${CC:-cc} -std=c11 -D_GNU_SOURCE -O2 -ffp-contract=off -fno-math-errno -I"$ROOT" ${EXTRA_CFLAGS:-} -include tests/faults.h \
        -c -o "$WORK/$(basename "$f" .c).o" "$WORK/$f" || exit 1
    objects="$objects $WORK/$(basename "$f" .c).o"
done
LIBS=$(make -s -f - 2> /dev/null << 'MAKE'
include Makefile
print-libs: ; @echo $(LDLIBS)
.DEFAULT_GOAL := print-libs
MAKE
)
# shellcheck disable=SC2086
${CC:-cc} ${EXTRA_CFLAGS:-} -o "$WORK/rlhf" "$BUILD/rlhf.o" $objects "$BUILD/librlhf.a" $LIBS || exit 1
RLHF=$WORK/rlhf
cd "$WORK" || exit 1

caught=0 planted=0

rlhf data make-demo --out data --sft 3000 --pairs 400 --prompts 300 --eval 24
rlhf data train-tokenizer --data data/sft.jsonl --vocab-size 512 --out tok
COMMON="--data.max_length 160"
rlhf sft --model init --tokenizer tok --init.hidden_size 64 --init.num_hidden_layers 2 --init.num_attention_heads 2 \
    --init.num_key_value_heads 1 --init.intermediate_size 128 --init.initializer_range 0.05 \
    $COMMON --run.dir base --data.train data/sft.jsonl --sft.batch_size 8 --sft.learning_rate 4e-3
REWARD="reward --model base/model $COMMON --data.train data/pairs.jsonl --data.eval data/pairs.eval.jsonl
    --reward.batch_size 16 --reward.learning_rate 1e-3"
# shellcheck disable=SC2086
rlhf $REWARD --run.dir rm
PPO="ppo --model base/model --reward_model rm/model $COMMON --data.train data/prompts.jsonl --ppo.batch_size 16
    --ppo.epochs 2 --ppo.learning_rate 1e-4 --ppo.critic_learning_rate 1e-3 --ppo.schedule constant
    --ppo.max_new_tokens 48 --ppo.kl_coef 0.1 --alarms.off A16"
DPO="dpo --model base/model $COMMON --data.train data/pairs.jsonl --dpo.batch_size 16 --alarms.off A16"

# clean NAME ARGUMENTS...: a run without a fault raises nothing
clean() {
    name=$1
    shift
    FAULT='' "$RLHF" "$@" --run.dir "clean.$name" > log 2>&1 || { cat log >&2; fail "clean $name failed"; }
    [ ! -s "clean.$name/alarms.jsonl" ] || fail "false alarms in a clean run of $name: $(cat "clean.$name/alarms.jsonl")"
}

# expect ID FAULT STEPS ARGUMENTS...: the alarm within so many steps; a run may end by it
expect() {
    id=$1 name=$2 steps=$3
    shift 3
    planted=$((planted + 1))
    dir=fault.$name
    FAULT=$name "$RLHF" "$@" --max_steps "$steps" --run.dir "$dir" > log 2>&1
    if grep -q "\"id\":\"$id\"" "$dir/alarms.jsonl" 2> /dev/null; then
        caught=$((caught + 1))
    else
        echo "missed: $name should raise $id; raised: $(sed 's/.*"id":"\([^"]*\)","name":"\([^"]*\)".*/\1 \2/' "$dir/alarms.jsonl" | tr '\n' ';')" >&2
        tail -n 2 log >&2
    fi
}

# shellcheck disable=SC2086
{
    clean ppo $PPO --max_steps 30
    clean dpo $DPO --dpo.learning_rate 1e-4
    clean reward $REWARD --run.eval_every 10

    expect A4 temperature 2 $PPO
    expect A4 stale 2 $PPO
    expect A13 shifted 5 $PPO
    expect A13 score-off 3 $PPO
    expect A13 kl-sign 5 $PPO
    expect A13 unwhitened 3 $PPO
    expect A13 mask 3 $PPO
    expect A7 constant 4 $PPO
    expect A3 sampler 3 $PPO
    expect A3 position 3 $PPO
    expect A11 repeat 4 $PPO --alarms.may_stop false
    expect A12 no-eos 3 $PPO --ppo.max_new_tokens 12
    expect A9 learning-rate 10 $PPO --ppo.learning_rate 3e-2
    expect A1 no-price 30 $PPO --ppo.learning_rate 1e-2 --ppo.kl_coef 0
    expect A8 frozen-critic 25 $PPO --ppo.critic base/model --ppo.critic_learning_rate 0
    expect A10 entropy-sign 70 $PPO --ppo.learning_rate 1e-3 --ppo.entropy_coef 3 --ppo.kl_coef 0 --alarms.may_stop false
    expect A6 length 40 $PPO --ppo.learning_rate 1e-3 --ppo.kl_coef 0.02 --ppo.max_new_tokens 90 --alarms.may_stop false
    expect A5 dpo-rate 20 $DPO --dpo.learning_rate 3e-3
    sed -E 's/"chosen":/"CHOSEN":/; s/"rejected":/"chosen":/; s/"CHOSEN":/"rejected":/' data/pairs.jsonl > swapped.jsonl
    expect A7 swapped 24 $REWARD --data.train swapped.jsonl --run.eval_every 5
    # refused outright, by name
    planted=$((planted + 1))
    FAULT=nan "$RLHF" $PPO --max_steps 2 --run.dir fault.nan > log 2>&1
    if grep -q 'score of response 0 is not a finite number' log; then caught=$((caught + 1)); else echo "missed: nan: $(tail -n 2 log)" >&2; fi
}

echo "$caught of $planted planted faults raised their alarm"
[ "$caught" -ge $((planted - 2)) ] || fail "too few"
[ $failed -eq 0 ] || exit 1
