/* model_tool.c - rlhf model convert and init; model_info.c tells about one. */
#include "policy/model_tool.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/threads.h"
#include "core/model/family.h"
#include "core/model/hf.h"
#include "core/model/hf_config.h"
#include "core/model/hf_inside.h"
#include "core/model/hub.h"
#include "core/model/session.h"
#include "datasets/stage.h"
#include "datasets/template.h"
#include "policy/model_info.h"

/* ------------------------------------------------ both */

typedef struct {
    const char *out, *dtype, *max_shard_size;
} WriteConfig;
static const Field write_fields[] = {
    FIELD(WriteConfig, out, FIELD_STRING, "", "folder to write"),
    FIELD_OF(WriteConfig, dtype, "f32", "f32|bf16|f16", "how values are written"),
    FIELD(WriteConfig, max_shard_size, FIELD_STRING, "0",
          "bytes of a file at most, as 500MB or 5GB; 0: one file"),
};

/* 5GB and 500MB are powers of ten, as transformers has them; GiB and MiB powers of two. */
static Status read_size(const char *text, size_t *bytes) {
    static const struct {
        const char *unit;
        double scale;
    } units[] = {{"", 1},       {"KB", 1e3},      {"MB", 1e6},        {"GB", 1e9},
                 {"KIB", 1024}, {"MIB", 1048576}, {"GIB", 1073741824}};
    char *end, unit[8] = "";
    double value = strtod(text, &end);
    for (int i = 0; end[i] && i < 7; i++) unit[i] = (char)toupper((unsigned char)end[i]);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        if (strcmp(unit, units[i].unit) || end == text || !(value >= 0 && value <= 1e12)) continue;
        *bytes = (size_t)(value * units[i].scale);
        return OK;
    }
    return status_fail(E_USAGE, "--max-shard-size \"%s\" is no size such as 500MB or 5GB", text);
}

/* A model is not written over another: of shards and one file, readers would take the old. */
static Status check_target(const char *out) {
    static const char *const names[] = {"config.json", "model.safetensors",
                                        "model.safetensors.index.json"};
    char path[1300];
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", out, names[i]);
        if (file_exists(path)) return status_fail(E_USAGE, "%s is there already", path);
    }
    return OK;
}

static Status write_model(const Weights *w, const WriteConfig *c) {
    size_t max_shard = 0;
    TRY(read_size(c->max_shard_size, &max_shard));
    TRY(model_write_as(w, c->out, c->dtype, max_shard));
    log_info("%s: %zu parameters as %s", c->out, w->count, c->dtype);
    return OK;
}

static Status write_text(const char *dir, const char *name, const char *text) {
    char path[1300];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return file_write_atomic(path, text, strlen(text));
}

/* What transformers' generate() reads: where an answer ends. */
static Status write_generation_config(const char *dir, const Tokenizer *t) {
    Text text = {0};
    int n;
    const int *eos = tokenizer_eos_ids(t, &n);
    text_add(&text, "{");
    if (tokenizer_bos(t) >= 0) text_addf(&text, "\"bos_token_id\":%d,", tokenizer_bos(t));
    if (tokenizer_pad(t) >= 0) text_addf(&text, "\"pad_token_id\":%d,", tokenizer_pad(t));
    text_add(&text, "\"eos_token_id\":");
    json_put_ints(&text, eos, n);
    text_add(&text, "}\n");
    Status s = write_text(dir, "generation_config.json", text.s);
    text_release(&text);
    return s;
}

/* The tokenizer's own files where it came from a directory, as they are. */
static Status copy_tokenizer(const char *to, const char *from) {
    static const char *const names[] = {"tokenizer.json",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "chat_template.jinja",
                                        "vocab.json",
                                        "merges.txt",
                                        "tokenizer.model",
                                        "added_tokens.json",
                                        "generation_config.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char source[1300], target[1300];
        snprintf(source, sizeof source, "%s/%s", from, names[i]);
        snprintf(target, sizeof target, "%s/%s", to, names[i]);
        if (file_exists(source)) TRY(file_copy(target, source));
    }
    return OK;
}

static Status carry_tokenizer(const char *to, const char *from) {
    Tokenizer *t = NULL;
    if (!model_is_gguf(from)) return copy_tokenizer(to, from);
    Status s = stage_tokenizer(&t, &(Stage){.cfg = {.model = from, .tokenizer = ""}});
    if (s == OK) s = tokenizer_save(t, to);
    if (s == OK) s = write_generation_config(to, t);
    tokenizer_release(t);
    return s;
}

/* ------------------------------------------------ convert */

static Status convert_weights(const char *model, const WriteConfig *c) {
    Backend *b = NULL;
    Weights w;
    ModelConfig m;
    TRY(model_read_config(&m, model));
    TRY(backend_create(&b, "cpu", "auto", "f32"));
    Status s = weights_create(&w, b, &m, DT_F32);
    if (s == OK) {
        s = model_read_weights(&w, model, 0);
        if (s == OK) s = write_model(&w, c);
        weights_release(&w);
    }
    backend_release(b);
    return s;
}

static Status convert(const char *name, const WriteConfig *c) {
    char model[MODEL_PATH_MAX];
    TRY(model_find(model, name));
    TRY(check_target(c->out));
    TRY(threads_start(0));
    TRY(convert_weights(model, c));
    return carry_tokenizer(c->out, model);
}

static Status convert_main(int argc, char **argv) {
    static const char usage[] = "rlhf model convert MODEL --out DIR [--dtype f32|bf16|f16] "
                                "[--max-shard-size 5GB]";
    WriteConfig c;
    Arena arena = {0};
    Section section = SECTION("", write_fields, &c);
    if (argc < 1 || argv[0][0] == '-') return status_fail(E_USAGE, "%s", usage);
    Status s = settings_load(&section, 1, &arena, NULL, argc - 1, argv + 1);
    if (s == OK && !c.out[0]) s = status_fail(E_USAGE, "%s", usage);
    if (s == OK) s = convert(argv[0], &c);
    arena_release(&arena);
    return s;
}

/* ------------------------------------------------ init */

typedef struct {
    const char *family, *tokenizer, *chat_template;
    int reward_model;
    uint64_t seed;
} NewConfig;
static const Field new_fields[] = {
    FIELD(NewConfig, family, FIELD_STRING, "llama", "a model_type: llama, qwen3, gemma2 ..."),
    FIELD(NewConfig, tokenizer, FIELD_STRING, "", "tokenizer directory, or model to take it from"),
    FIELD(NewConfig, chat_template, FIELD_STRING, "",
          "Jinja file; empty: what comes with the tokenizer"),
    FIELD(NewConfig, reward_model, FIELD_BOOL, "false", "with a score head in place of the other"),
    FIELD(NewConfig, seed, FIELD_U64, "1", "the weights are a function of it"),
};

/* The shape as a config.json, so that a family's own defaults come from where they are known. */
static Status shape_of(ModelConfig *m, const NewConfig *c, const InitConfig *shape,
                       const Tokenizer *t) {
    Text text = {0};
    JsonDoc *doc = NULL;
    int f = family_find(c->family);
    HfKeys k = hf_keys(f < 0 ? FAMILY_LLAMA : (Family)f);
    text_add(&text, "{\"model_type\":");
    json_put_string(&text, c->family);
    text_addf(&text, ",\"vocab_size\":%d,\"%s\":%d,\"%s\":%d,\"%s\":%d,\"%s\":%d,\"%s\":%d",
              tokenizer_vocab_size(t), k.C, shape->hidden_size, k.L, shape->num_hidden_layers, k.NH,
              shape->num_attention_heads, k.FF, shape->intermediate_size, k.positions,
              shape->max_position_embeddings);
    if (f >= 0 && family_row((Family)f)->qkv == FILE_AS_HERE)
        text_addf(&text, ",\"num_key_value_heads\":%d,\"head_dim\":%d", shape->num_key_value_heads,
                  shape->head_dim ? shape->head_dim
                                  : shape->hidden_size / shape->num_attention_heads);
    text_addf(&text, ",\"tie_word_embeddings\":%s,\"rope_theta\":%.9g,\"initializer_range\":%.9g}",
              shape->tie_word_embeddings ? "true" : "false", (double)shape->rope_theta,
              (double)shape->initializer_range);
    Status s = json_parse(&doc, "the shape", 1, text.s, text.len, JSON_STRICT);
    if (s == OK) s = config_read(m, doc);
    json_release(doc);
    text_release(&text);
    return s;
}

static void take_tokens(ModelConfig *m, const Tokenizer *t) {
    int n;
    const int *eos = tokenizer_eos_ids(t, &n);
    m->bos = tokenizer_bos(t);
    m->pad = tokenizer_pad(t);
    m->n_eos = n < EOS_MAX ? n : EOS_MAX;
    memcpy(m->eos, eos, (size_t)m->n_eos * sizeof *eos);
}

static Status init_weights(const ModelConfig *m, uint64_t seed, const WriteConfig *to) {
    Backend *b = NULL;
    Weights w;
    TRY(backend_create(&b, "cpu", "auto", "f32"));
    Status s = weights_create(&w, b, m, DT_F32);
    if (s == OK) {
        s = weights_init(&w, seed);
        if (s == OK) s = write_model(&w, to);
        weights_release(&w);
    }
    backend_release(b);
    return s;
}

static Status put_template(const char *out, const NewConfig *c) {
    char path[1300];
    ChatTemplate *checked = NULL;
    if (!c->chat_template[0]) return OK;
    TRY(chat_template_open_file(&checked, c->chat_template, &(ChatTokens){NULL, NULL}));
    chat_template_release(checked);
    snprintf(path, sizeof path, "%s/chat_template.jinja", out);
    return file_copy(path, c->chat_template);
}

static Status new_shape(ModelConfig *m, const NewConfig *c, const InitConfig *shape) {
    Tokenizer *t = NULL;
    TRY(stage_tokenizer(&t, &(Stage){.cfg = {.model = c->tokenizer, .tokenizer = ""}}));
    Status s = shape_of(m, c, shape, t);
    tokenizer_release(t);
    m->lm_head = !c->reward_model;
    m->scores = c->reward_model;
    return s == OK ? config_check(m, "the shape") : s;
}

/* The tokenizer before the weights: with the template beside it, it knows where answers end. */
static Status init(const NewConfig *c, const InitConfig *shape, const WriteConfig *to) {
    char source[MODEL_PATH_MAX];
    Tokenizer *t = NULL;
    ModelConfig m;
    TRY(new_shape(&m, c, shape));
    TRY(check_target(to->out));
    TRY(model_find(source, c->tokenizer));
    TRY(file_mkdirs(to->out));
    TRY(carry_tokenizer(to->out, source));
    TRY(put_template(to->out, c));
    TRY(threads_start(0));
    Status s = stage_tokenizer(&t, &(Stage){.cfg = {.model = to->out, .tokenizer = ""}});
    if (s == OK) take_tokens(&m, t);
    if (s == OK) s = init_weights(&m, c->seed, to);
    if (s == OK) s = write_generation_config(to->out, t);
    tokenizer_release(t);
    return s;
}

static Status init_main(int argc, char **argv) {
    static const char usage[] =
        "rlhf model init --family F --tokenizer DIR --out DIR [--chat-template FILE] [--hidden-size N ...]";
    NewConfig c;
    WriteConfig to;
    InitConfig shape;
    Arena arena = {0};
    Section sections[] = {SECTION("", new_fields, &c),
                          SECTION("", write_fields, &to),
                          {"init", init_fields, init_n_fields, &shape}};
    Status s = settings_load(sections, 3, &arena, NULL, argc, argv);
    if (s == OK && (!to.out[0] || !c.tokenizer[0])) s = status_fail(E_USAGE, "%s", usage);
    if (s == OK) s = init(&c, &shape, &to);
    arena_release(&arena);
    return s;
}

/* ------------------------------------------------ the verb */

Status model_main(int argc, char **argv) {
    if (argc && !strcmp(argv[0], "info")) return model_info_main(argc - 1, argv + 1);
    if (argc && !strcmp(argv[0], "convert")) return convert_main(argc - 1, argv + 1);
    if (argc && !strcmp(argv[0], "init")) return init_main(argc - 1, argv + 1);
    return status_fail(E_USAGE,
                       "rlhf model info MODEL, rlhf model convert MODEL --out DIR, or rlhf "
                       "model init --family F --tokenizer DIR --out DIR");
}
