/* ppo.h - proximal policy optimization with four co-resident models: actor, critic, reference,
 * reward (Schulman et al. 2017; Ziegler et al. 2019; Ouyang et al. 2022). */
#ifndef PPO_H
#define PPO_H

#include "datasets/stage.h"

typedef struct {
    OptimConfig optim; /* of the actor; the critic shares all but the rate */
    StepConfig step;   /* epochs: passes over each rollout */
    int minibatches, samples, rows, kv_mib;
    float critic_learning_rate;
    int critic_warmup;
    const char *critic;
    float kl_coef, kl_target, kl_horizon;
    const char *kl_estimator;
    float kl_loss_coef;
    const char *kl_loss_estimator;
    float gamma, lambda, clip, clip_high, dual_clip, value_clip, entropy_coef, target_kl;
    float temperature, top_p, min_p;
    int top_k, max_new_tokens;
    StringList stop;
    const char *score_at, *normalize_score;
    float score_clip, missing_eos_penalty, ptx_coef, ema;
    const char *ptx_data;
    int ptx_batch;
    int whiten_rewards;
} PpoConfig;
extern const Field ppo_fields[];
extern const int ppo_n_fields;

Status ppo_run(Stage *stage, const PpoConfig *cfg);

#endif
