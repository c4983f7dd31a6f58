/* session.c - see session.h. */
#include "core/model/session.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/threads.h"

const Field stage_fields[] = {
    FIELD(StageConfig, model, FIELD_STRING, "",
          "model directory, GGUF file, or \"init\" to start from nothing"),
    FIELD(StageConfig, tokenizer, FIELD_STRING, "", "tokenizer directory; empty: the model's own"),
    FIELD(StageConfig, reward_model, FIELD_STRING, "",
          "judge: a reward model's directory, or \"gold\""),
    FIELD(StageConfig, reference, FIELD_STRING, "", "reference model; empty: the model itself"),
    FIELD(StageConfig, device, FIELD_STRING, "auto",
          "auto (a GPU where there is one), cpu, or cuda:0"),
    FIELD_OF(StageConfig, kernels, "auto", "auto|amx|avx512bf16|avx512|avx2|portable",
             "instruction set of the CPU kernels"),
    FIELD_OF(
        StageConfig, dtype, "f32", "f32|bf16|auto",
        "storage of activations and of weights that are read (sums and training in f32); auto: "
        "bf16 where the device multiplies it"),
    FIELD_OF(StageConfig, reference_dtype, "same", "same|q8|q4",
             "storage of the reference's layers: as dtype, or in blocks of 8 or 4 bits"),
    FIELD_OF(StageConfig, judge_dtype, "same", "same|q8|q4", "likewise of the reward model's"),
    FIELD(StageConfig, batch_invariant, FIELD_BOOL, "false",
          "GPU: a row's bits do not depend on its batch, decoding has training's (slower; a CPU's "
          "never do)"),
    FIELD_IN(StageConfig, threads, FIELD_INT, "0", 0, 1024, "threads; 0 = all cores"),
    FIELD_IN(StageConfig, memory_limit, FIELD_INT, "0", 0, 1 << 30,
             "MiB that the run may take; 0 = what the device has free"),
    FIELD(StageConfig, dry_run, FIELD_BOOL, "false", "print the memory plan and stop"),
    FIELD(StageConfig, allow_kernel_change, FIELD_BOOL, "false",
          "resume with other kernels or another dtype than the checkpoint's"),
};
const int stage_n_fields = sizeof stage_fields / sizeof *stage_fields;

Dtype frozen_dtype(const Backend *b, const char *name) {
    return !strcmp(name, "q8") ? DT_Q8 : !strcmp(name, "q4") ? DT_Q4 : b->dtype;
}

const Field init_fields[] = {
    FIELD_IN(InitConfig, hidden_size, FIELD_INT, "128", 1, 1 << 17, "C"),
    FIELD_IN(InitConfig, num_hidden_layers, FIELD_INT, "4", 1, 1000, "L"),
    FIELD_IN(InitConfig, num_attention_heads, FIELD_INT, "4", 1, 1024, "NH"),
    FIELD_IN(InitConfig, num_key_value_heads, FIELD_INT, "2", 1, 1024, "NKV"),
    FIELD_IN(InitConfig, head_dim, FIELD_INT, "0", 0, 256, "HS; 0 = hidden_size / heads"),
    FIELD_IN(InitConfig, intermediate_size, FIELD_INT, "384", 1, 1 << 18, "FF"),
    FIELD_IN(InitConfig, max_position_embeddings, FIELD_INT, "1024", 1, 1 << 24,
             "longest sequence"),
    FIELD(InitConfig, tie_word_embeddings, FIELD_BOOL, "true", "the head is the embedding"),
    FIELD_IN(InitConfig, rope_theta, FIELD_FLOAT, "10000", 1, 1e12, "base of the rotary angles"),
    FIELD_IN(InitConfig, initializer_range, FIELD_FLOAT, "0.02", 1e-6, 10,
             "standard deviation of initial weights"),
};
const int init_n_fields = sizeof init_fields / sizeof *init_fields;

PlanKind plan_kind(const OptimConfig *optim) {
    return strcmp(optim->optimizer_device, "host") ? PLAN_TRAINED : PLAN_MOMENTS_ON_HOST;
}

void init_model_config(ModelConfig *m, const InitConfig *init, int vocab) {
    *m = (ModelConfig){.V = vocab,
                       .C = init->hidden_size,
                       .L = init->num_hidden_layers,
                       .NH = init->num_attention_heads,
                       .NKV = init->num_key_value_heads,
                       .HS = init->head_dim ? init->head_dim
                                            : init->hidden_size / init->num_attention_heads,
                       .FF = init->intermediate_size,
                       .max_positions = init->max_position_embeddings,
                       .rope_theta = init->rope_theta,
                       .norm_eps = 1e-5f,
                       .tied = init->tie_word_embeddings,
                       .lm_head = 1,
                       .init_std = init->initializer_range,
                       .bos = -1,
                       .pad = -1};
}

typedef struct { /* names of kernels and storage type */
    char kernels[32], dtype[32];
} Stored;

static Status read_name(const Checkpoint *c, const char *file, char name[32]) {
    const void *data;
    size_t n;
    TRY(checkpoint_view(c, file, 0, &data, &n));
    snprintf(name, 32, "%.*s", (int)n, (const char *)data);
    return OK;
}

Status session_open(Session *s, const StageConfig *cfg, const RunConfig *run, const char *verb,
                    const char *recipe) {
    *s = (Session){0};
    Stored stored = {"", ""};
    TRY(threads_start(cfg->threads));
    if (!cfg->dry_run) {
        TRY(run_open(&s->run, run, verb, recipe));
        if (run->resume) TRY(checkpoint_open_latest(&s->from, s->run));
        if (s->from) TRY(run_load_alarms(s->run, s->from));
        if (s->from && !cfg->allow_kernel_change) {
            TRY(read_name(s->from, "kernels", stored.kernels));
            TRY(read_name(s->from, "dtype", stored.dtype));
        }
    }
    const char *kernels = stored.kernels[0]                                       ? stored.kernels
                          : cfg->batch_invariant && !strcmp(cfg->kernels, "auto") ? "invariant"
                                                                                  : cfg->kernels;
    Status status =
        backend_create(&s->b, cfg->device, kernels, stored.dtype[0] ? stored.dtype : cfg->dtype);
    if (status != OK && stored.kernels[0])
        return status_context(
            status,
            "the checkpoint was made with the %s kernels (--allow-kernel-change resumes with others, not bit for bit)",
            stored.kernels);
    return status;
}

void session_close(Session *s) {
    checkpoint_close(s->from);
    run_close(s->run);
    backend_release(s->b);
    *s = (Session){0};
}

enum { PIECE = 1 << 20 };

Status session_save_range(CheckpointWriter *w, const char *name, const char *what, Backend *b,
                          Buf buf, size_t count) {
    char file[64];
    float *host = malloc(PIECE * sizeof *host);
    if (!host) return status_fail(E_MEMORY, "no memory to save %s", name);
    snprintf(file, sizeof file, "%s.%s", name, what);
    Status s = checkpoint_file(w, file);
    for (size_t at = 0; s == OK && at < count; at += PIECE) {
        size_t n = count - at < PIECE ? count - at : PIECE;
        b->download(b, host, buf_at(buf, at), n);
        s = checkpoint_write(w, host, n * sizeof *host);
    }
    free(host);
    return s;
}

Status session_load_range(const Checkpoint *c, const char *name, const char *what, Backend *b,
                          Buf buf, size_t count) {
    char file[64];
    const void *data;
    size_t bytes;
    snprintf(file, sizeof file, "%s.%s", name, what);
    TRY(checkpoint_view(c, file, count * sizeof(float), &data, &bytes));
    for (size_t at = 0; at < count; at += PIECE) {
        size_t n = count - at < PIECE ? count - at : PIECE;
        b->upload(b, buf_at(buf, at), (const float *)data + at, n);
        file_forget((const float *)data + at, n * sizeof(float));
    }
    return OK;
}

Status session_save_network(CheckpointWriter *w, const char *name, const Network *net,
                            const Optim *optim) {
    TRY(session_save_range(w, name, "weights", net->b, net->w.flat, net->w.count));
    if (!optim) return OK;
    TRY(session_save_range(w, name, "m", net->b, optim->m, net->w.count));
    TRY(session_save_range(w, name, "v", net->b, optim->v, net->w.count));
    char file[64];
    snprintf(file, sizeof file, "%s.optim", name);
    uint64_t counts[3] = {optim->step, (uint64_t)optim->skipped, (uint64_t)optim->skipped_in_row};
    return checkpoint_add(w, file, counts, sizeof counts);
}

Status session_load_network(const Checkpoint *c, const char *name, Network *net, Optim *optim) {
    TRY(session_load_range(c, name, "weights", net->b, net->w.flat, net->w.count));
    weights_pack(&net->w);
    if (!optim) return OK;
    TRY(session_load_range(c, name, "m", net->b, optim->m, net->w.count));
    TRY(session_load_range(c, name, "v", net->b, optim->v, net->w.count));
    char file[64];
    const void *data;
    size_t bytes;
    uint64_t counts[3];
    snprintf(file, sizeof file, "%s.optim", name);
    TRY(checkpoint_view(c, file, sizeof counts, &data, &bytes));
    memcpy(counts, data, sizeof counts);
    optim->step = counts[0];
    optim->skipped = (int)counts[1];
    optim->skipped_in_row = (int)counts[2];
    return OK;
}

Status session_checkpoint(CheckpointWriter **w, Session *s, int step) {
    TRY(checkpoint_begin(w, s->run, step));
    TRY(checkpoint_add(*w, "kernels", s->b->kernels, strlen(s->b->kernels)));
    const char *dtype = dtype_name(s->b->dtype);
    TRY(checkpoint_add(*w, "dtype", dtype, strlen(dtype)));
    return run_save_alarms(*w, s->run);
}
