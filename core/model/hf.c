/* hf.c - Hugging Face directories, in and out. config.json is read and written in hf_config.c, GGUF
 * files are read in gguf_model.c. */
#include "core/model/hf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "core/base/json.h"
#include "core/model/gguf_model.h"
#include "core/model/hf_config.h"
#include "core/model/safetensors.h"

enum { PIECE = 1 << 18 };

int model_is_gguf(const char *path) {
    size_t n = strlen(path);
    return n > 5 && !strcmp(path + n - 5, ".gguf");
}

/* --- reading --- */

Status model_read_config(ModelConfig *m, const char *path) {
    char file[1200];
    JsonDoc *doc;
    *m = (ModelConfig){0};
    if (model_is_gguf(path)) return gguf_model_config(m, path);
    if (!file_is_dir(path)) {
        return status_fail(E_IO, "the model %s is not there%s", path,
                           strchr(path, '/') && path[0] != '.' && path[0] != '/'
                               ? " (from a hub: hf download ORG/NAME --local-dir DIR)"
                               : "");
    }
    snprintf(file, sizeof file, "%s/config.json", path);
    TRY(json_parse_file(&doc, file, JSON_STRICT));
    Status s = config_read(m, doc);
    json_release(doc);
    return s;
}

enum { SHARDS_MAX = 256 };
typedef struct {
    Safetensors *file[SHARDS_MAX];
    char name[SHARDS_MAX][128];
    int n;
} Shards;

static void shards_close(Shards *s) {
    for (int i = 0; i < s->n; i++) safetensors_close(s->file[i]);
}

static Status open_shard(Shards *s, const char *dir, const char *name) {
    char path[1400];
    for (int i = 0; i < s->n; i++)
        if (!strcmp(s->name[i], name)) return OK;
    if (strchr(name, '/') || strstr(name, "..") || strlen(name) >= 128)
        return status_fail(
            E_FORMAT, "%s/model.safetensors.index.json: shard name \"%s\" leaves the directory",
            dir, name);
    if (s->n == SHARDS_MAX)
        return status_fail(E_FORMAT, "%s: more than %d shards", dir, SHARDS_MAX);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    TRY(safetensors_open(&s->file[s->n], path));
    snprintf(s->name[s->n], sizeof s->name[0], "%s", name);
    s->n++;
    return OK;
}

static Status shards_from_index(Shards *s, const char *dir, const JsonDoc *doc) {
    const Json *map;
    TRY(json_get_node(doc, json_root(doc), "weight_map", JSON_REQUIRED, JSON_OBJECT, &map));
    for (const Json *e = json_first(map); e; e = json_next(e)) {
        if (json_type(e) != JSON_STRING) return json_fail(doc, e, "weight_map must name files");
        TRY(open_shard(s, dir, json_str(e)));
    }
    return OK;
}

static Status shards_open(Shards *s, const char *dir) {
    char path[1200], index[1200];
    *s = (Shards){.n = 0};
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    snprintf(index, sizeof index, "%s/model.safetensors.index.json", dir);
    if (file_exists(path) ||
        !file_exists(index)) { /* the one file goes first, as in transformers */
        TRY(safetensors_open(&s->file[0], path));
        s->n = 1;
        return OK;
    }
    JsonDoc *doc;
    TRY(json_parse_file(&doc, index, JSON_STRICT));
    Status status = shards_from_index(s, dir, doc);
    json_release(doc);
    return status;
}

static const SafetensorsTensor *shards_find(const Shards *s, const char *name) {
    static const char *const prefixes[] = {"model.", "transformer.", "gpt_neox."};
    const char *short_name = name; /* some files leave the prefix out */
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        size_t n = strlen(prefixes[i]);
        if (!strncmp(name, prefixes[i], n)) short_name = name + n;
    }
    for (int i = 0; i < s->n; i++) {
        const SafetensorsTensor *t = safetensors_find(s->file[i], name);
        if (!t) t = safetensors_find(s->file[i], short_name);
        if (t) return t;
    }
    return NULL;
}

typedef struct {
    Weights *w;
    const char *path;
    const Shards *shards; /* of a directory */
    Gguf *gguf;           /* or this file */
    uint64_t seed;
    int has_score; /* the files are of a model with a score head */
    float *host;
} Load;

/* A language model has no score head; a reward model that begins from one starts it at random. */
static Status init_score(Load *l, const TensorInfo *info, Buf slot) {
    enum { SCORE_INDEX = 1 << 20 }; /* beyond the tensors of any model */
    if (l->has_score) return status_fail(E_FORMAT, "%s: tensor score.weight is missing", l->path);
    return weights_init_tensor(l->w, info, slot, l->seed, SCORE_INDEX);
}

/* A tensor whose elements lie in another order in the file. */
static Status load_reordered(Load *l, const TensorInfo *info, const SafetensorsTensor *t,
                             Buf slot) {
    size_t count = (size_t)info->rows * (size_t)info->cols;
    float *file = malloc(count * sizeof *file), *here = malloc(count * sizeof *here);
    Status s = file && here ? safetensors_read_f32(t, 0, count, file)
                            : status_fail(E_MEMORY, "no memory to read %s", info->name);
    for (size_t i = 0; s == OK && i < count; i++)
        here[i] = file[tensor_file_index(&l->w->cfg, info, i)];
    if (s == OK) l->w->b->upload(l->w->b, slot, here, count);
    free(file);
    free(here);
    return s;
}

static Status load_tensor(void *ctx, const TensorInfo *info, Buf *slot) {
    Load *l = ctx;
    const SafetensorsTensor *t = shards_find(l->shards, info->name);
    size_t count = (size_t)info->rows * (size_t)info->cols;
    if (!t && !strcmp(info->name, "score.weight")) return init_score(l, info, *slot);
    if (!t) return status_fail(E_FORMAT, "%s: tensor %s is missing", l->path, info->name);
    size_t first = (size_t)(info->order == FILE_TRANSPOSED ? info->cols : info->rows);
    int fits =
        t->count == count && (info->vector ? t->rank == 1 : t->rank == 2 && t->shape[0] == first);
    if (!fits)
        return status_fail(E_FORMAT, "%s: tensor %s has %zu values, the config says %d x %d",
                           l->path, info->name, t->count, info->rows, info->cols);
    if (info->order != FILE_AS_HERE) return load_reordered(l, info, t, *slot);
    for (size_t at = 0; at < count; at += PIECE) {
        size_t n = count - at < PIECE ? count - at : PIECE;
        TRY(safetensors_read_f32(t, at, n, l->host));
        l->w->b->upload(l->w->b, buf_at(*slot, at), l->host, n);
    }
    return OK;
}

static Status load_gguf_tensor(void *ctx, const TensorInfo *info, Buf *slot) {
    Load *l = ctx;
    if (!strcmp(info->name, "score.weight")) return init_score(l, info, *slot);
    return gguf_model_tensor(l->w, l->gguf, info, *slot);
}

Status model_read_weights(Weights *w, const char *path, uint64_t seed) {
    Shards shards = {.n = 0};
    Load l = {.w = w,
              .path = path,
              .shards = &shards,
              .seed = seed,
              .host = malloc(PIECE * sizeof(float))};
    if (!l.host) return status_fail(E_MEMORY, "no memory to read %s", path);
    ModelConfig stored;
    Status s = model_read_config(&stored, path);
    l.has_score = s == OK && stored.scores > 0;
    if (s == OK && model_is_gguf(path)) {
        s = gguf_open(&l.gguf, path);
        if (s == OK) s = tensors_visit(&w->cfg, &w->t, load_gguf_tensor, &l);
        gguf_close(l.gguf);
    } else if (s == OK) {
        s = shards_open(&shards, path);
        if (s == OK) s = tensors_visit(&w->cfg, &w->t, load_tensor, &l);
        shards_close(&shards);
    }
    free(l.host);
    if (s == OK) weights_pack(w);
    return s == OK ? w->b->sync(w->b) : s;
}

/* --- writing --- */

typedef struct {
    SafetensorsEntry *entries;
    char (*names)[80];
    int n;
} Entries;

static Status list_tensor(void *ctx, const TensorInfo *info, Buf *slot) {
    (void)slot;
    Entries *e = ctx;
    memcpy(e->names[e->n], info->name, sizeof info->name);
    e->entries[e->n] = (SafetensorsEntry){.name = e->names[e->n],
                                          .dtype = "F32",
                                          .rank = info->vector ? 1 : 2,
                                          .shape = {(size_t)info->rows, (size_t)info->cols}};
    if (info->order == FILE_TRANSPOSED) {
        e->entries[e->n].shape[0] = (size_t)info->cols;
        e->entries[e->n].shape[1] = (size_t)info->rows;
    }
    e->n++;
    return OK;
}

typedef struct {
    SafetensorsWriter file;
    Backend *b;
    const ModelConfig *m;
    float *host;
} Save;

static Status write_reordered(Save *s, const TensorInfo *info, Buf slot) {
    size_t count = (size_t)info->rows * (size_t)info->cols;
    float *file = malloc(count * sizeof *file), *here = malloc(count * sizeof *here);
    Status status = file && here ? OK : status_fail(E_MEMORY, "no memory to write %s", info->name);
    if (status == OK) {
        s->b->download(s->b, here, slot, count);
        for (size_t i = 0; i < count; i++) file[tensor_file_index(s->m, info, i)] = here[i];
        status = safetensors_writer_write(&s->file, file, count * sizeof *file);
    }
    free(file);
    free(here);
    return status;
}

static Status write_tensor(void *ctx, const TensorInfo *info, Buf *slot) {
    Save *s = ctx;
    if (info->order != FILE_AS_HERE) return write_reordered(s, info, *slot);
    size_t count = (size_t)info->rows * (size_t)info->cols;
    for (size_t at = 0; at < count; at += PIECE) {
        size_t n = count - at < PIECE ? count - at : PIECE;
        s->b->download(s->b, s->host, buf_at(*slot, at), n);
        TRY(safetensors_writer_write(&s->file, s->host, n * sizeof(float)));
    }
    return OK;
}

static Status write_weights(const Weights *w, const char *dir) {
    size_t most = (sizeof(LayerTensors) / sizeof(Buf)) * (size_t)w->cfg.L + 8;
    char path[1200];
    Entries e = {calloc(most, sizeof *e.entries), calloc(most, sizeof *e.names), 0};
    Save save = {.b = w->b, .m = &w->cfg, .host = malloc(PIECE * sizeof(float))};
    Tensors t = w->t; /* visiting does not change the slots */
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    Status s = e.entries && e.names && save.host
                   ? OK
                   : status_fail(E_MEMORY, "no memory to write %s", path);
    if (s == OK) s = tensors_visit(&w->cfg, &t, list_tensor, &e);
    if (s == OK) s = safetensors_writer_open(&save.file, path, e.entries, e.n);
    if (s == OK) {
        s = tensors_visit(&w->cfg, &t, write_tensor, &save);
        if (s == OK)
            s = safetensors_writer_commit(&save.file);
        else
            safetensors_writer_abort(&save.file);
    }
    free(e.entries);
    free(e.names);
    free(save.host);
    return s;
}

Status model_write(const Weights *w, const char *dir) {
    TRY(file_mkdirs(dir));
    TRY(write_weights(w, dir));
    return config_write(&w->cfg, dir);
}
