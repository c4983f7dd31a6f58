/* ppo_inside.h - what a PPO run consists of, shared by its loop (ppo.c) and its setup
 * (ppo_setup.c). */
#ifndef PPO_INSIDE_H
#define PPO_INSIDE_H

#include "core/model/average.h"
#include "policy/rollout.h"
#include "ppo/ppo.h"
#include "ppo/ppo_loss.h"
#include "ppo/ptx.h"
#include "reward/judge.h"
#include "reward/policy_eval.h"

typedef struct {           /* what a resume needs besides the networks */
    uint64_t position;     /* prompts taken from the data's order */
    uint64_t ptx_position; /* rows taken from the other text's */
    uint64_t tokens, samples;
    double kl_coef;
    double score_mean, score_std, score_count, score_m2; /* of normalize_score, as Welford sums */
    double first_deviation; /* largest |ratio - 1| seen before any update of a rollout */
    double gold_before, score_before, best;
    int32_t step, pad;
} PpoState;

typedef struct {
    Stage *stage;
    const PpoConfig *cfg;
    Session session;
    Tokenizer *tokenizer;
    TrainData data;
    Workspace *ws;
    Network actor, critic, reference, reward;
    Optim actor_optim, critic_optim;
    Average ema;
    Ptx ptx;
    Judge judge;
    RolloutEngine *engine;
    SamplingConfig sampling;
    PolicyEval eval;

    Rollout rollout; /* S responses of N tokens; the arrays below are [max_N], by token or state */
    RolloutRequest *requests;
    const Row **rows;
    float *logp_ref, *value, *reward_at, *adv, *ret;
    double drift; /* largest difference of the sampler's log-probs from the training forward's */
    float *raw_score, *score; /* [S] */
    uint8_t *state_mask, *whitened;

    Packed mini; /* a minibatch and its arrays */
    float *m_logp, *m_entropy, *m_value, *m_old, *m_ref, *m_value_old, *m_adv, *m_ret, *m_dlogp,
        *m_dentropy, *m_dvalue;
    uint8_t *m_states;
    int *order;
    int S, micro_tokens, steps, after_eos;
    int starts_from_reference, critic_is_judge; /* the same weights, before the first step */
    PolicyLossConfig loss;
    KlEstimator kl;
    PpoState state;
} Ppo;

/* Reads the recipe's models and data, prints the memory plan, allocates, loads or resumes; with
 * --dry-run only up to the plan. ppo_release is due even after a failure. */
Status ppo_create(Ppo *p);
void ppo_release(Ppo *p);
/* The rollout's figures that alarms watch (core/run/alarms.h); after credit was given. */
Status ppo_health(const Ppo *p, Metrics *m);
/* Everything that a resume needs, as one checkpoint. */
Status ppo_save(Ppo *p);
/* The step's responses with what was computed of them, for run.dump_rollouts. */
Status ppo_dump(const Ppo *p);

#endif
