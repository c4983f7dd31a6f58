/* hf_write.c - writes a model as a Hugging Face directory: config.json, and the weights in one
 * safetensors file or in shards with their index. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "core/base/json.h"
#include "core/model/half.h"
#include "core/model/hf.h"
#include "core/model/hf_config.h"
#include "core/model/safetensors.h"

enum { PIECE = 1 << 18 };

typedef struct {
    const char *name, *file_name, *config_name;
    size_t bytes;
} FileType;
static const FileType types[] = {
    {"f32", "F32", "float32", 4}, {"bf16", "BF16", "bfloat16", 2}, {"f16", "F16", "float16", 2}};

typedef struct {
    const Weights *w;
    const char *dir;
    const FileType *type;
    size_t max_shard, total;
    SafetensorsEntry *entries;
    char (*names)[80];
    int *shard; /* of each tensor */
    int n, n_shards;
    size_t shard_bytes;
    SafetensorsWriter file;
    int open; /* the shard that is written, -1 none; */
    int at;   /* the next tensor */
    float *host;
    uint16_t *half;
} Save;

/* ---- which tensor goes where ---- */

static Status list_tensor(void *ctx, const TensorInfo *info, Buf *slot) {
    (void)slot;
    Save *s = ctx;
    SafetensorsEntry *e = &s->entries[s->n];
    size_t bytes = (size_t)info->rows * (size_t)info->cols * s->type->bytes;
    memcpy(s->names[s->n], info->name, sizeof info->name);
    *e = (SafetensorsEntry){.name = s->names[s->n],
                            .dtype = s->type->file_name,
                            .rank = info->vector ? 1 : 2,
                            .shape = {(size_t)info->rows, (size_t)info->cols}};
    if (info->order == FILE_TRANSPOSED) {
        e->shape[0] = (size_t)info->cols;
        e->shape[1] = (size_t)info->rows;
    }
    if (!s->n_shards || (s->max_shard && s->shard_bytes + bytes > s->max_shard)) {
        s->n_shards++;
        s->shard_bytes = 0;
    }
    s->shard_bytes += bytes;
    s->total += bytes;
    s->shard[s->n++] = s->n_shards - 1;
    return OK;
}

static void shard_name(const Save *s, int shard, char name[64]) {
    if (s->n_shards == 1)
        snprintf(name, 64, "model.safetensors");
    else
        snprintf(name, 64, "model-%05d-of-%05d.safetensors", shard + 1, s->n_shards);
}

static Status write_index(const Save *s) {
    Text t = {0};
    char name[64], path[1200];
    text_addf(&t, "{\"metadata\":{\"total_size\":%zu},\n\"weight_map\":{", s->total);
    for (int i = 0; i < s->n; i++) {
        shard_name(s, s->shard[i], name);
        text_addf(&t, "%s\n\"%s\":\"%s\"", i ? "," : "", s->names[i], name);
    }
    text_add(&t, "}}\n");
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", s->dir);
    Status status = file_write_atomic(path, t.s, t.len);
    text_release(&t);
    return status;
}

/* ---- values ---- */

static Status write_values(Save *s, const char *name, const float *v, size_t n) {
    if (s->type->bytes == 4) return safetensors_writer_write(&s->file, v, n * sizeof *v);
    int bf16 = s->type == &types[1];
    for (size_t at = 0; at < n; at += PIECE) {
        size_t m = n - at < PIECE ? n - at : PIECE;
        for (size_t i = 0; i < m; i++) {
            s->half[i] = bf16 ? f32_to_bf16(v[at + i]) : f32_to_f16(v[at + i]);
            if (!bf16 && f16_to_f32(s->half[i]) - f16_to_f32(s->half[i]) != 0.0f &&
                v[at + i] - v[at + i] == 0.0f)
                return status_fail(E_NUMERIC, "%s holds %g, more than an f16 can: write bf16", name,
                                   (double)v[at + i]);
        }
        TRY(safetensors_writer_write(&s->file, s->half, m * sizeof *s->half));
    }
    return OK;
}

static Status write_reordered(Save *s, const TensorInfo *info, Buf slot) {
    size_t count = (size_t)info->rows * (size_t)info->cols;
    float *file = malloc(count * sizeof *file), *here = malloc(count * sizeof *here);
    Status status = file && here ? OK : status_fail(E_MEMORY, "no memory to write %s", info->name);
    if (status == OK) {
        s->w->b->download(s->w->b, here, slot, count);
        for (size_t i = 0; i < count; i++) file[tensor_file_index(&s->w->cfg, info, i)] = here[i];
        status = write_values(s, info->name, file, count);
    }
    free(file);
    free(here);
    return status;
}

/* ---- files ---- */

static Status next_shard(Save *s) {
    char name[64], path[1300];
    int shard = s->shard[s->at], last = s->at;
    if (shard == s->open) return OK;
    if (s->open >= 0) {
        s->open = -1;
        TRY(safetensors_writer_commit(&s->file));
    }
    while (last < s->n && s->shard[last] == shard) last++;
    shard_name(s, shard, name);
    snprintf(path, sizeof path, "%s/%s", s->dir, name);
    TRY(safetensors_writer_open(&s->file, path, s->entries + s->at, last - s->at));
    s->open = shard;
    return OK;
}

static Status write_tensor(void *ctx, const TensorInfo *info, Buf *slot) {
    Save *s = ctx;
    size_t count = (size_t)info->rows * (size_t)info->cols;
    TRY(next_shard(s));
    s->at++;
    if (info->order != FILE_AS_HERE) return write_reordered(s, info, *slot);
    for (size_t at = 0; at < count; at += PIECE) {
        size_t n = count - at < PIECE ? count - at : PIECE;
        s->w->b->download(s->w->b, s->host, buf_at(*slot, at), n);
        TRY(write_values(s, info->name, s->host, n));
    }
    return OK;
}

static Status write_weights(Save *s) {
    Tensors t = s->w->t; /* visiting does not change the slots */
    TRY(tensors_visit(&s->w->cfg, &t, list_tensor, s));
    if (s->n_shards > SHARDS_MAX)
        return status_fail(E_USAGE, "%d shards would be needed, more than %d: allow larger ones",
                           s->n_shards, SHARDS_MAX);
    Status status = tensors_visit(&s->w->cfg, &t, write_tensor, s);
    if (status != OK && s->open >= 0) safetensors_writer_abort(&s->file);
    TRY(status);
    TRY(safetensors_writer_commit(&s->file));
    return s->n_shards > 1 ? write_index(s) : OK;
}

Status model_write_as(const Weights *w, const char *dir, const char *dtype, size_t max_shard) {
    size_t most = (sizeof(LayerTensors) / sizeof(Buf)) * (size_t)w->cfg.L + 8;
    Save s = {.w = w, .dir = dir, .max_shard = max_shard, .open = -1};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcmp(dtype, types[i].name)) s.type = &types[i];
    if (!s.type) return status_fail(E_USAGE, "\"%s\" is no dtype of files: f32, bf16, f16", dtype);
    TRY(file_mkdirs(dir));
    s.entries = calloc(most, sizeof *s.entries);
    s.names = calloc(most, sizeof *s.names);
    s.shard = calloc(most, sizeof *s.shard);
    s.host = malloc(PIECE * sizeof *s.host);
    s.half = malloc(PIECE * sizeof *s.half);
    Status status = s.entries && s.names && s.shard && s.host && s.half
                        ? write_weights(&s)
                        : status_fail(E_MEMORY, "no memory to write %s", dir);
    free(s.entries);
    free(s.names);
    free(s.shard);
    free(s.host);
    free(s.half);
    return status == OK ? config_write(&w->cfg, dir, s.type->config_name) : status;
}

Status model_write(const Weights *w, const char *dir) {
    return model_write_as(w, dir, "f32", 0);
}
