/* session.h - what a trainer runs in: a backend, a run directory, the checkpoint it continues from,
 * and the memory plan; and how a network's state goes into a checkpoint and comes back. */
#ifndef SESSION_H
#define SESSION_H

#include "core/model/optim.h"
#include "core/model/plan.h"
#include "core/run/run.h"

typedef struct {              /* top-level keys of a stage's recipe */
    const char *model;        /* directory, GGUF file, or "init" */
    const char *tokenizer;    /* directory; "" = the model's own */
    const char *reward_model; /* ppo: directory, or "gold" for the embedded world's rule */
    const char *reference;    /* ppo, dpo, sft with kl_coef: "" = model */
    const char *device, *kernels, *dtype;
    const char *reference_dtype, *judge_dtype; /* of frozen models: "same", "q8", "q4" */
    int batch_invariant, threads, memory_limit;
    int dry_run;
    int allow_kernel_change;
} StageConfig;
extern const Field stage_fields[];
extern const int stage_n_fields;

/* Shape of a model that starts from nothing ("model": "init"). */
typedef struct {
    int hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads, head_dim,
        intermediate_size, max_position_embeddings, tie_word_embeddings;
    float rope_theta, initializer_range;
} InitConfig;
extern const Field init_fields[];
extern const int init_n_fields;
void init_model_config(ModelConfig *m, const InitConfig *init, int vocab);

typedef struct { /* how much a step takes, and how it is cut to fit into memory */
    int batch_size, micro_tokens, epochs, max_steps, recompute;
} StepConfig;
/* Rows for the table of a trainer whose settings S hold a StepConfig as their member `step`. */
#define STEP_FIELDS(S, batch, epochs_default)                                                      \
    STEP_FIELDS_OF(S, batch, epochs_default, "passes over the data",                               \
                   "optimizer steps; 0 = all epochs")
/* Where epochs and max_steps count something else. */
#define STEP_FIELDS_OF(S, batch, epochs_default, what_epochs, what_steps)                          \
    PART_FIELD_IN(S, step, batch_size, FIELD_INT, batch, 1, 1 << 20,                               \
                  "sequences (pairs) per optimizer step"),                                         \
        PART_FIELD_IN(S, step, micro_tokens, FIELD_INT, "0", 0, 1 << 24,                           \
                      "packed tokens per forward; 0 chooses"),                                     \
        PART_FIELD_IN(S, step, epochs, FIELD_INT, epochs_default, 1, 1 << 20, what_epochs),        \
        PART_FIELD_IN(S, step, max_steps, FIELD_INT, "0", 0, 1 << 30, what_steps),                 \
        PART_FIELD(S, step, recompute, FIELD_BOOL, "false",                                        \
                   "compute activations again in the backward, to save memory")

/* For plan_network: a trained network with its moments where the settings put them. */
PlanKind plan_kind(const OptimConfig *optim);

/* What reference_dtype or judge_dtype says, for network_create_frozen. */
Dtype frozen_dtype(const Backend *b, const char *name);

typedef struct {
    Backend *b;
    Run *run;
    Checkpoint *from; /* NULL: start from the beginning */
} Session;

/* Opens (locks) the run directory (a new run begins with run_begin), finds the checkpoint to resume
 * from, makes the backend with the kernels and the storage type the checkpoint was made with.
 * E_USAGE when this machine lacks them, unless cfg->allow_kernel_change. */
Status session_open(Session *s, const StageConfig *cfg, const RunConfig *run, const char *verb,
                    const char *recipe);
void session_close(Session *s);
/* NAME.weights, NAME.m, NAME.v; optim NULL for a network without one. */
Status session_save_network(CheckpointWriter *w, const char *name, const Network *net,
                            const Optim *optim);
Status session_load_network(const Checkpoint *c, const char *name, Network *net, Optim *optim);
/* A range of f32 on the backend as NAME.what. */
Status session_save_range(CheckpointWriter *w, const char *name, const char *what, Backend *b,
                          Buf buf, size_t count);
Status session_load_range(const Checkpoint *c, const char *name, const char *what, Backend *b,
                          Buf buf, size_t count);
/* Begins a checkpoint and notes the kernels and the storage type in it. */
Status session_checkpoint(CheckpointWriter **w, Session *s, int step);

#endif
