/* hf.c - Hugging Face directories of the llama family, in and out. GGUF files are read in
 * gguf_model.c. */
#include "core/model/hf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "core/base/json.h"
#include "core/model/gguf_model.h"
#include "core/model/safetensors.h"

enum { PIECE = 1 << 18 };

int model_is_gguf(const char *path) {
    size_t n = strlen(path);
    return n > 5 && !strcmp(path + n - 5, ".gguf");
}

/* --- config.json --- */

/* Keys that change the mathematics and that we do not compute: refused unless they say "off". */
static Status refuse_unsupported(const JsonDoc *doc, const Json *root) {
    static const char *const must_be_false[] = {"attention_bias", "mlp_bias", "use_sliding_window"};
    for (size_t i = 0; i < sizeof must_be_false / sizeof *must_be_false; i++) {
        const Json *n = json_get(root, must_be_false[i]);
        int off = !n || json_type(n) == JSON_NULL || (json_type(n) == JSON_BOOL && !json_bool(n));
        if (!off) return json_fail(doc, n, "%s is true: not supported yet", must_be_false[i]);
    }
    const Json *window = json_get(root, "sliding_window"), *act = json_get(root, "hidden_act");
    const Json *quantized = json_get(root, "quantization_config");
    if (quantized && json_type(quantized) != JSON_NULL)
        return json_fail(doc, quantized,
                         "quantization_config is set: quantized weights are read from GGUF only");
    if (window && json_type(window) != JSON_NULL)
        return json_fail(doc, window,
                         "sliding_window is set: sliding-window attention is not supported yet");
    if (act && (json_type(act) != JSON_STRING || strcmp(json_str(act), "silu")))
        return json_fail(doc, act, "hidden_act must be \"silu\"");
    return OK;
}

static Status read_partial(const JsonDoc *doc, const Json *object) {
    double part = 1.0;
    TRY(json_get_num(doc, object, "partial_rotary_factor", JSON_OPTIONAL, &part));
    if (part == 1.0) return OK;
    return json_fail(doc, json_get(object, "partial_rotary_factor"),
                     "partial_rotary_factor must be 1: heads are rotated whole");
}

static Status read_rope(ModelConfig *m, const JsonDoc *doc, const Json *root) {
    double theta = 10000.0;
    TRY(json_get_num(doc, root, "rope_theta", JSON_OPTIONAL, &theta)); /* transformers 4 */
    TRY(read_partial(doc, root));
    static const char *const places[] = {"rope_scaling", "rope_parameters"};
    for (int i = 0; i < 2; i++) {
        const Json *r = json_get(root, places[i]);
        if (!r || json_type(r) == JSON_NULL) continue;
        if (json_type(r) != JSON_OBJECT)
            return json_fail(doc, r, "%s must be an object", places[i]);
        const char *type = "default";
        TRY(json_get_str(doc, r, "type", JSON_OPTIONAL, &type));
        TRY(json_get_str(doc, r, "rope_type", JSON_OPTIONAL, &type));
        if (strcmp(type, "default"))
            return json_fail(doc, r, "rope type \"%s\" is not supported; supported: default", type);
        TRY(json_get_num(doc, r, "rope_theta", JSON_OPTIONAL, &theta)); /* transformers 5 */
        TRY(read_partial(doc, r));
        for (const Json *e = json_first(r); e; e = json_next(e)) {
            if (json_type(e) == JSON_OBJECT)
                return json_fail(doc, e,
                                 "%s: rotary positions per kind of layer are not "
                                 "supported",
                                 json_key(e));
        }
    }
    if (!(theta > 0.0))
        return json_fail(doc, json_get(root, "rope_theta"), "rope_theta must be above 0");
    m->rope_theta = (float)theta;
    return OK;
}

/* Old configs write -1 for a token that they do not have. */
static Status read_id(int *id, const ModelConfig *m, const JsonDoc *doc, const Json *n,
                      const char *key) {
    *id = -1;
    if (!n || json_type(n) == JSON_NULL) return OK;
    double v = json_type(n) == JSON_NUMBER ? json_num(n) : NAN;
    if (v < 0) return OK;
    if (!(v < m->V) || v != floor(v))
        return json_fail(doc, n, "%s must be a whole number below vocab_size %d", key, m->V);
    *id = (int)v;
    return OK;
}

static Status read_eos(ModelConfig *m, const JsonDoc *doc, const Json *root) {
    const Json *eos = json_get(root, "eos_token_id");
    int is_list = eos && json_type(eos) == JSON_ARRAY;
    if (is_list && json_size(eos) > EOS_MAX)
        return json_fail(doc, eos, "eos_token_id holds more than %d ids", EOS_MAX);
    for (const Json *e = is_list ? json_first(eos) : eos; e; e = is_list ? json_next(e) : NULL) {
        int id;
        TRY(read_id(&id, m, doc, e, "eos_token_id"));
        if (id >= 0) m->eos[m->n_eos++] = id;
    }
    return OK;
}

static Status read_heads(ModelConfig *m, const JsonDoc *doc, const Json *root) {
    const Json *list = json_get(root, "architectures");
    const char *name = "LlamaForCausalLM";
    if (list && json_type(list) == JSON_ARRAY && json_first(list) &&
        json_type(json_first(list)) == JSON_STRING)
        name = json_str(json_first(list));
    int scores = strstr(name, "ForSequenceClassification") != NULL;
    if (!scores && !strstr(name, "ForCausalLM"))
        return json_fail(doc, list,
                         "architecture \"%s\" is not supported; supported: LlamaForCausalLM, "
                         "LlamaForSequenceClassification",
                         name);
    m->lm_head = !scores;
    m->scores = 0;
    if (m->lm_head) return OK;
    const Json *labels = json_get(root, "id2label");
    m->scores = labels && json_type(labels) == JSON_OBJECT ? json_size(labels) : 1;
    TRY(json_get_int(doc, root, "num_labels", JSON_OPTIONAL, &m->scores));
    if (m->scores < 1 || m->scores > 1024)
        return json_fail(doc, NULL, "num_labels %d cannot be", m->scores);
    const Json *own = json_get(root, "rlhf");
    if (!own || json_type(own) != JSON_OBJECT) return OK;
    TRY(json_get_num(doc, own, "score_mean", JSON_OPTIONAL, &m->score_mean));
    return json_get_num(doc, own, "score_std", JSON_OPTIONAL, &m->score_std);
}

static Status read_shape(ModelConfig *m, const JsonDoc *doc, const Json *root) {
    const char *type;
    double eps = 1e-6, std = 0.02;
    TRY(json_get_str(doc, root, "model_type", JSON_REQUIRED, &type));
    if (strcmp(type, "llama"))
        return json_fail(doc, json_get(root, "model_type"),
                         "model_type \"%s\" is not supported; supported: llama", type);
    TRY(json_get_int(doc, root, "vocab_size", JSON_REQUIRED, &m->V));
    TRY(json_get_int(doc, root, "hidden_size", JSON_REQUIRED, &m->C));
    TRY(json_get_int(doc, root, "num_hidden_layers", JSON_REQUIRED, &m->L));
    TRY(json_get_int(doc, root, "num_attention_heads", JSON_REQUIRED, &m->NH));
    TRY(json_get_int(doc, root, "intermediate_size", JSON_REQUIRED, &m->FF));
    m->NKV = m->NH;
    const Json *kv = json_get(root, "num_key_value_heads"), *head_dim = json_get(root, "head_dim");
    if (kv && json_type(kv) != JSON_NULL)
        TRY(json_get_int(doc, root, "num_key_value_heads", JSON_REQUIRED, &m->NKV));
    m->HS = m->NH > 0 ? m->C / m->NH : 0;
    if (head_dim && json_type(head_dim) != JSON_NULL)
        TRY(json_get_int(doc, root, "head_dim", JSON_REQUIRED, &m->HS));
    else if (m->NH > 0 && m->C % m->NH)
        return json_fail(doc, json_get(root, "hidden_size"),
                         "hidden_size %d is not a multiple of num_attention_heads %d", m->C, m->NH);
    m->max_positions = 2048;
    TRY(json_get_int(doc, root, "max_position_embeddings", JSON_OPTIONAL, &m->max_positions));
    TRY(json_get_num(doc, root, "rms_norm_eps", JSON_OPTIONAL, &eps));
    TRY(json_get_num(doc, root, "initializer_range", JSON_OPTIONAL, &std));
    TRY(json_get_bool(doc, root, "tie_word_embeddings", JSON_OPTIONAL, &m->tied));
    if (!(eps >= 0.0 && eps < 1.0))
        return json_fail(doc, json_get(root, "rms_norm_eps"), "rms_norm_eps must be from 0 to 1");
    m->norm_eps = (float)eps;
    m->init_std = (float)std;
    TRY(read_id(&m->bos, m, doc, json_get(root, "bos_token_id"), "bos_token_id"));
    return read_id(&m->pad, m, doc, json_get(root, "pad_token_id"), "pad_token_id");
}

static Status read_config(ModelConfig *m, const JsonDoc *doc) {
    const Json *root = json_root(doc);
    if (json_type(root) != JSON_OBJECT)
        return json_fail(doc, root, "a model's config must be an object");
    TRY(read_shape(m, doc, root));
    TRY(refuse_unsupported(doc, root));
    TRY(read_rope(m, doc, root));
    TRY(read_eos(m, doc, root));
    TRY(read_heads(m, doc, root));
    return config_check(m, json_name(doc));
}

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
    Status s = read_config(m, doc);
    json_release(doc);
    return s;
}

/* --- weights --- */

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
    const char *short_name =
        !strncmp(name, "model.", 6) ? name + 6 : name; /* some files leave the prefix out */
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

static Status load_tensor(void *ctx, const TensorInfo *info, Buf *slot) {
    Load *l = ctx;
    const SafetensorsTensor *t = shards_find(l->shards, info->name);
    size_t count = (size_t)info->rows * (size_t)info->cols;
    if (!t && !strcmp(info->name, "score.weight")) return init_score(l, info, *slot);
    if (!t) return status_fail(E_FORMAT, "%s: tensor %s is missing", l->path, info->name);
    int fits = t->count == count &&
               (info->vector ? t->rank == 1 : t->rank == 2 && t->shape[0] == (size_t)info->rows);
    if (!fits)
        return status_fail(E_FORMAT, "%s: tensor %s has %zu values, the config says %d x %d",
                           l->path, info->name, t->count, info->rows, info->cols);
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

static void put_int(Text *t, const char *key, long v) {
    text_addf(t, ",\n  \"%s\": %ld", key, v);
}

static void put_float(Text *t, const char *key, float v) {
    char shortest[40]; /* 1e-05, not 9.9999997473787516e-06 */
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(shortest, sizeof shortest, "%.*g", digits, (double)v);
        if (strtof(shortest, NULL) == v) break;
    }
    text_addf(t, ",\n  \"%s\": %s", key, shortest);
}

static Status write_config(const ModelConfig *m, const char *dir) {
    Text t = {0};
    char path[1200];
    text_addf(&t, "{\n  \"architectures\": [\"%s\"],\n  \"model_type\": \"llama\"",
              m->lm_head ? "LlamaForCausalLM" : "LlamaForSequenceClassification");
    put_int(&t, "vocab_size", m->V);
    put_int(&t, "hidden_size", m->C);
    put_int(&t, "num_hidden_layers", m->L);
    put_int(&t, "num_attention_heads", m->NH);
    put_int(&t, "num_key_value_heads", m->NKV);
    put_int(&t, "head_dim", m->HS);
    put_int(&t, "intermediate_size", m->FF);
    put_int(&t, "max_position_embeddings", m->max_positions);
    put_float(&t, "rms_norm_eps", m->norm_eps);
    put_float(&t, "rope_theta", m->rope_theta);                            /* transformers 4 */
    text_add(&t, ",\n  \"rope_parameters\": {\"rope_type\": \"default\""); /* transformers 5 */
    put_float(&t, "rope_theta", m->rope_theta);
    text_add(&t, "}");
    put_float(&t, "initializer_range", m->init_std);
    text_addf(&t, ",\n  \"tie_word_embeddings\": %s", m->tied ? "true" : "false");
    text_add(&t,
             ",\n  \"hidden_act\": \"silu\",\n  \"attention_bias\": false,\n  \"mlp_bias\": false");
    text_add(&t, ",\n  \"torch_dtype\": \"float32\",\n  \"dtype\": \"float32\"");
    if (m->bos >= 0) put_int(&t, "bos_token_id", m->bos);
    if (m->pad >= 0) put_int(&t, "pad_token_id", m->pad);
    if (m->n_eos == 1) put_int(&t, "eos_token_id", m->eos[0]);
    if (m->n_eos > 1) {
        text_add(&t, ",\n  \"eos_token_id\": ");
        json_put_ints(&t, m->eos, m->n_eos);
    }
    if (m->scores) {
        put_int(&t, "num_labels", m->scores);
        text_add(&t, ",\n  \"id2label\": {");
        for (int i = 0; i < m->scores; i++)
            text_addf(&t, "%s\"%d\": \"LABEL_%d\"", i ? ", " : "", i, i);
        text_add(&t, "},\n  \"label2id\": {");
        for (int i = 0; i < m->scores; i++)
            text_addf(&t, "%s\"LABEL_%d\": %d", i ? ", " : "", i, i);
        text_add(&t, "}");
    }
    if (m->score_std > 0.0)
        text_addf(&t, ",\n  \"rlhf\": {\"score_mean\": %.17g, \"score_std\": %.17g}", m->score_mean,
                  m->score_std);
    text_add(&t, "\n}\n");
    snprintf(path, sizeof path, "%s/config.json", dir);
    Status s = file_write_atomic(path, t.s, t.len);
    text_release(&t);
    return s;
}

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
    e->n++;
    return OK;
}

typedef struct {
    SafetensorsWriter file;
    Backend *b;
    float *host;
} Save;

static Status write_tensor(void *ctx, const TensorInfo *info, Buf *slot) {
    Save *s = ctx;
    size_t count = (size_t)info->rows * (size_t)info->cols;
    for (size_t at = 0; at < count; at += PIECE) {
        size_t n = count - at < PIECE ? count - at : PIECE;
        s->b->download(s->b, s->host, buf_at(*slot, at), n);
        TRY(safetensors_writer_write(&s->file, s->host, n * sizeof(float)));
    }
    return OK;
}

static Status write_weights(const Weights *w, const char *dir) {
    size_t most = 9 * (size_t)w->cfg.L + 8;
    char path[1200];
    Entries e = {calloc(most, sizeof *e.entries), calloc(most, sizeof *e.names), 0};
    Save save = {.b = w->b, .host = malloc(PIECE * sizeof(float))};
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
    return write_config(&w->cfg, dir);
}
