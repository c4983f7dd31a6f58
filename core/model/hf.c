/* hf.c - reading models: Hugging Face directories, and GGUF files by way of gguf_model.c.
 * hf_write.c writes. */
#include "core/model/hf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "core/base/json.h"
#include "core/model/gguf_model.h"
#include "core/model/gguf_types.h"
#include "core/model/hf_config.h"
#include "core/model/hub.h"
#include "core/model/safetensors.h"

enum { PIECE = 1 << 18 };

int model_is_gguf(const char *path) {
    size_t n = strlen(path);
    return n > 5 && !strcmp(path + n - 5, ".gguf");
}

/* --- reading --- */

Status model_read_config(ModelConfig *m, const char *name) {
    char file[1200], path[MODEL_PATH_MAX];
    JsonDoc *doc;
    *m = (ModelConfig){0};
    TRY(model_find(path, name));
    if (model_is_gguf(path)) return gguf_model_config(m, path);
    if (!file_is_dir(path)) return status_fail(E_IO, "the model %s is not there", path);
    snprintf(file, sizeof file, "%s/config.json", path);
    TRY(json_parse_file(&doc, file, JSON_STRICT));
    Status s = config_read(m, doc);
    json_release(doc);
    return s;
}

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
        if (!t && !strcmp(name, "embed_out.weight")) /* as transformers 5 calls it */
            t = safetensors_find(s->file[i], "lm_head.weight");
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
    if (s == OK) file_forget(t->data, t->bytes);
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
    size_t size = t->bytes / count;
    for (size_t at = 0; at < count; at += PIECE) {
        size_t n = count - at < PIECE ? count - at : PIECE;
        TRY(safetensors_read_f32(t, at, n, l->host));
        file_forget(t->data + at * size, n * size);
        l->w->b->upload(l->w->b, buf_at(*slot, at), l->host, n);
    }
    return OK;
}

static Status load_gguf_tensor(void *ctx, const TensorInfo *info, Buf *slot) {
    Load *l = ctx;
    if (!strcmp(info->name, "score.weight")) return init_score(l, info, *slot);
    return gguf_model_tensor(l->w, l->gguf, info, *slot);
}

Status model_read_weights(Weights *w, const char *name, uint64_t seed) {
    Shards shards = {.n = 0};
    char path[MODEL_PATH_MAX];
    TRY(model_find(path, name));
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

/* --- what files hold --- */

typedef struct {
    const char *name;
    int tensors;
} TypeCount;
enum { TYPES_MAX = 16 };

static void count_type(TypeCount counts[TYPES_MAX], const char *name) {
    for (int i = 0; i < TYPES_MAX; i++) {
        if (counts[i].name && strcmp(counts[i].name, name)) continue;
        counts[i].name = name;
        counts[i].tensors++;
        return;
    }
}

static void put_counts(Text *out, const TypeCount counts[TYPES_MAX]) {
    for (int i = 0; i < TYPES_MAX && counts[i].name; i++)
        text_addf(out, "%s%d tensors of %s", i ? ", " : "", counts[i].tensors, counts[i].name);
}

Status model_storage(Text *out, const char *name) {
    TypeCount counts[TYPES_MAX] = {{NULL, 0}};
    Shards shards = {.n = 0};
    Gguf *gguf = NULL;
    char path[MODEL_PATH_MAX];
    TRY(model_find(path, name));
    if (model_is_gguf(path)) {
        TRY(gguf_open(&gguf, path));
        for (int i = 0; i < gguf_n_tensors(gguf); i++)
            count_type(counts, gguf_type_name((uint32_t)gguf_tensor_at(gguf, i)->type));
        put_counts(out, counts);
        gguf_close(gguf);
        return OK;
    }
    Status s = shards_open(&shards, path);
    for (int i = 0; s == OK && i < shards.n; i++)
        for (int k = 0; k < safetensors_size(shards.file[i]); k++)
            count_type(counts, safetensors_at(shards.file[i], k)->dtype_name);
    if (s == OK) put_counts(out, counts);
    shards_close(&shards);
    return s;
}
