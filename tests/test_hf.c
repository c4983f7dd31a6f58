/* test_hf.c - models on disk: what is written is read back, the forms that other tools write are
 * read alike, and for every rule one model that only this rule refuses. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/base/file.h"
#include "core/base/text.h"
#include "core/model/family.h"
#include "core/model/hf.h"
#include "core/model/rope.h"
#include "core/model/safetensors.h"
#include "tests/expect.h"
#include "tests/scratch.h"

static const ModelConfig small = {.V = 61,
                                  .C = 24,
                                  .L = 2,
                                  .NH = 4,
                                  .NKV = 2,
                                  .HS = 10,
                                  .FF = 52,
                                  .max_positions = 128,
                                  .rope_theta = 500.0f,
                                  .norm_eps = 1e-5f,
                                  .lm_head = 1,
                                  .init_std = 0.3f,
                                  .bos = 1,
                                  .pad = -1,
                                  .eos = {2},
                                  .n_eos = 1};

/* the same shape as transformers 4 would write it */
static const char llama[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"vocab_size\": 61, "
    "\"hidden_size\": 24, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "
    "\"num_key_value_heads\": 2, \"head_dim\": 10, \"intermediate_size\": 52, "
    "\"max_position_embeddings\": 128, \"rms_norm_eps\": 1e-05, \"rope_theta\": 500.0, "
    "\"rope_scaling\": null, \"hidden_act\": \"silu\", \"attention_bias\": false, "
    "\"mlp_bias\": false, \"tie_word_embeddings\": false, \"initializer_range\": 0.3, "
    "\"bos_token_id\": 1, \"eos_token_id\": 2, \"pad_token_id\": null}";

static Backend *backend;

static void expect_refusal(Status s, const char *part) {
    if (s != E_FORMAT) fail_msg("status %d where \"%s\" must be refused", s, part);
    if (!strstr(status_message(), part))
        fail_msg("\"%s\" does not name \"%s\"", status_message(), part);
}

static void expect_same(const ModelConfig *a, const ModelConfig *b) {
    char text[2][800];
    const ModelConfig *m[] = {a, b};
    for (int i = 0; i < 2; i++) {
        int n = snprintf(
            text[i], sizeof(text[i]),
            "%d %d %d %d %d %d %d, %d positions, theta %.9g eps %.9g std %.9g, tied %d "
            "lm_head %d scores %d, bos %d pad %d, mean %.17g std %.17g, family %d window %d, "
            "biases %d %d %d, head norms %d, unrotated %u, "
            "rope %d %g %g %g %d yarn %g %g %d %g long %g %g %g %g, norm %d %d parallel %d act %d %d, "
            "positions %d scaled %d local %g rotated %d windows %u query %g caps %g %g, eos",
            m[i]->V, m[i]->C, m[i]->L, m[i]->NH, m[i]->NKV, m[i]->HS, m[i]->FF, m[i]->max_positions,
            (double)m[i]->rope_theta, (double)m[i]->norm_eps, (double)m[i]->init_std, m[i]->tied,
            m[i]->lm_head, m[i]->scores, m[i]->bos, m[i]->pad, m[i]->score_mean, m[i]->score_std,
            m[i]->family, m[i]->sliding_window, m[i]->qkv_bias, m[i]->o_bias, m[i]->mlp_bias,
            m[i]->qk_norm, m[i]->unrotated[0], m[i]->rope.type, (double)m[i]->rope.factor,
            (double)m[i]->rope.low_freq_factor, (double)m[i]->rope.high_freq_factor,
            m[i]->rope.original, (double)m[i]->rope.beta_fast, (double)m[i]->rope.beta_slow,
            m[i]->rope.fractional, (double)m[i]->rope.attention_factor,
            (double)m[i]->rope.short_factor[1], (double)m[i]->rope.short_factor[2],
            (double)m[i]->rope.long_factor[1], (double)m[i]->rope.long_factor[2], m[i]->norm,
            m[i]->norms, m[i]->parallel, m[i]->act, m[i]->ungated, m[i]->learned_positions,
            m[i]->scaled_embeddings, (double)m[i]->rope_local_theta, m[i]->rotated,
            m[i]->windowed[0], (double)m[i]->query_scalar, (double)m[i]->attn_softcap,
            (double)m[i]->final_softcap);
        for (int e = 0; e < m[i]->n_eos; e++)
            n += snprintf(text[i] + n, sizeof(text[i]) - (size_t)n, " %d", m[i]->eos[e]);
    }
    assert_string_equal(text[0], text[1]);
}

static int make_backend(void **state) {
    (void)state;
    return backend_create(&backend, "cpu", "portable", "f32") == OK ? 0 : -1;
}

static int drop_backend(void **state) {
    (void)state;
    backend_release(backend);
    return 0;
}

/* --- models --- */

/* Multiples of 1/64 below 2 are exact in f16 and bf16, too. */
static void create(Weights *w, ModelConfig cfg) {
    expect_ok(weights_create(w, backend, &cfg, DT_F32));
    float *host = malloc(w->count * sizeof(*host));
    for (size_t i = 0; i < w->count; i++) host[i] = (float)((int)(i * 37 % 251) - 125) / 64.0f;
    backend->upload(backend, w->flat, host, w->count);
    weights_pack(w);
    free(host);
}

static uint64_t hash_of(const Weights *w) {
    uint64_t hash;
    expect_ok(weights_hash(w, &hash));
    return hash;
}

static Status read_model(const char *path, ModelConfig *cfg, uint64_t seed, uint64_t *hash) {
    Weights w = {0};
    Status s = weights_create(&w, backend, cfg, DT_F32);
    if (s == OK) s = model_read_weights(&w, path, seed);
    if (s == OK) s = weights_hash(&w, hash);
    weights_release(&w);
    return s;
}

static void expect_reads(const char *path, uint64_t expected) {
    ModelConfig cfg;
    uint64_t hash = 0;
    expect_ok(model_read_config(&cfg, path));
    expect_ok(read_model(path, &cfg, 1, &hash));
    if (hash != expected)
        fail_msg("%s: weights_hash %llx, expected %llx", path, (unsigned long long)hash,
                 (unsigned long long)expected);
}

static Status read_all(const char *path) {
    ModelConfig cfg;
    uint64_t hash;
    TRY(model_read_config(&cfg, path));
    return read_model(path, &cfg, 1, &hash);
}

/* --- directories --- */

static const char *directory(const char *name) {
    const char *dir = scratch(name);
    expect_ok(file_remove_tree(dir));
    expect_ok(file_mkdirs(dir));
    return dir;
}

static void put_file(const char *dir, const char *name, const char *text) {
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    expect_ok(file_write_atomic(path, text, strlen(text)));
}

/* The config above with the first `from` replaced. */
static const char *edited(const char *dir, const char *from, const char *to) {
    const char *at = strstr(llama, from);
    Text t = {0};
    if (!at) fail_msg("the config has no %s", from);
    text_add_bytes(&t, llama, (size_t)(at - llama));
    text_add(&t, to);
    text_add(&t, at + strlen(from));
    put_file(dir, "config.json", t.s);
    text_release(&t);
    return dir;
}

typedef struct {
    const Weights *w;
    const char *dtype, *skip, *transpose; /* names of tensors, NULL for none */
    int shard, shards;                    /* takes every tensor i with i % shards == shard */
    int bare;                             /* names without "model." */
    int seen;
    SafetensorsEntry entry[32];
    char name[32][80];
    int n;
    Text data;
    Text *map; /* of the index, may be NULL */
} Pack;

/* Exact values only. */
static uint16_t half_of(float v, int is_bf16) {
    uint32_t bits;
    memcpy(&bits, &v, 4);
    if (is_bf16) return (uint16_t)(bits >> 16);
    if (v == 0.0f) return 0;
    return (uint16_t)(bits >> 16 & 0x8000u) |
           (uint16_t)(((bits >> 23 & 0xffu) - 112u) << 10 | (bits >> 13 & 0x3ffu));
}

static void add_values(Pack *p, Buf slot, size_t count) {
    float *host = malloc(count * sizeof(*host));
    backend->download(backend, host, slot, count);
    for (size_t i = 0; i < count; i++) {
        uint16_t half = half_of(host[i], p->dtype[0] == 'B');
        if (!strcmp(p->dtype, "F32"))
            text_add_bytes(&p->data, (const char *)&host[i], 4);
        else
            text_add_bytes(&p->data, (const char *)&half, 2);
    }
    free(host);
}

static Status pack_tensor(void *ctx, const TensorInfo *info, Buf *slot) {
    Pack *p = ctx;
    size_t rows = (size_t)info->rows, cols = (size_t)info->cols;
    int swap = p->transpose && !strcmp(p->transpose, info->name);
    if (p->seen++ % p->shards != p->shard) return OK;
    if (p->skip && !strcmp(p->skip, info->name)) return OK;
    int cut = p->bare && !strncmp(info->name, "model.", 6) ? 6 : 0;
    memcpy(p->name[p->n], info->name + cut, sizeof(info->name) - (size_t)cut);
    p->entry[p->n] = (SafetensorsEntry){p->name[p->n],
                                        p->dtype,
                                        info->vector && !swap ? 1 : 2,
                                        {swap ? cols : rows, swap ? rows : cols}};
    if (p->map)
        text_addf(p->map, "%s\"%s\": \"part-%d.safetensors\"", p->map->len ? ", " : "",
                  p->name[p->n], p->shard);
    p->n++;
    add_values(p, *slot, rows * cols);
    return OK;
}

static void pack(Pack *p, const char *dir, const char *file) {
    char path[512];
    SafetensorsWriter writer;
    Tensors t = p->w->t;
    if (!p->shards) p->shards = 1;
    if (!p->dtype) p->dtype = "F32";
    expect_ok(tensors_visit(&p->w->cfg, &t, pack_tensor, p));
    snprintf(path, sizeof(path), "%s/%s", dir, file);
    expect_ok(safetensors_writer_open(&writer, path, p->entry, p->n));
    expect_ok(safetensors_writer_write(&writer, p->data.s, p->data.len));
    expect_ok(safetensors_writer_commit(&writer));
    text_release(&p->data);
}

/* --- reading back --- */

static void test_written_is_read_back(void **state) {
    (void)state;
    static const struct {
        int V, tied, lm_head, scores;
    } kinds[] = {{61, 0, 1, 0},
                 {61, 1, 1, 0},
                 {61, 1, 0, 1},
                 {61, 0, 0, 3},
                 {23000, 0, 1, 0}}; /* larger than what is read and written at once */
    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
        ModelConfig cfg = small, got;
        Weights w;
        const char *dir = directory("written");
        cfg.V = kinds[i].V, cfg.tied = kinds[i].tied, cfg.lm_head = kinds[i].lm_head,
        cfg.scores = kinds[i].scores;
        cfg.pad = (int)i - 1, cfg.n_eos = 2, cfg.eos[1] = 60;
        if (cfg.scores) cfg.score_mean = 0.1, cfg.score_std = 1.0 / 3.0;
        create(&w, cfg);
        expect_ok(model_write(&w, dir));
        expect_ok(model_read_config(&got, dir));
        expect_same(&got, &cfg);
        expect_reads(dir, hash_of(&w));
        weights_release(&w);
    }
}

static void expect_written(ModelConfig cfg) {
    ModelConfig got;
    Weights w;
    const char *dir = directory("written");
    create(&w, cfg);
    expect_ok(model_write(&w, dir));
    expect_ok(model_read_config(&got, dir));
    expect_same(&got, &cfg);
    expect_reads(dir, hash_of(&w));
    weights_release(&w);
}

static void test_families_are_written_and_read_back(void **state) {
    (void)state;
    for (int scores = 0; scores < 2; scores++) {
        ModelConfig cfg = small;
        cfg.lm_head = !scores, cfg.scores = scores;
        cfg.rope = (RopeScaling){.type = ROPE_LLAMA3,
                                 .factor = 8.0f,
                                 .low_freq_factor = 1.0f,
                                 .high_freq_factor = 4.0f,
                                 .original = 64};
        expect_written(cfg);
        cfg.qkv_bias = cfg.o_bias = 1;
        expect_written(cfg);
        cfg.mlp_bias = 1;
        expect_written(cfg);
        cfg.o_bias = cfg.mlp_bias = 0;
        cfg.family = FAMILY_QWEN2;
        cfg.HS = 6;
        expect_written(cfg);
        cfg.HS = 10;
        cfg.qkv_bias = 0;
        cfg.family = FAMILY_QWEN3;
        cfg.qk_norm = 1;
        expect_written(cfg);
        cfg.qkv_bias = cfg.o_bias = 1;
        expect_written(cfg);
        cfg.qkv_bias = cfg.o_bias = cfg.qk_norm = 0;
        cfg.family = FAMILY_SMOLLM3;
        cfg.HS = 6;
        cfg.unrotated[0] = 1;
        expect_written(cfg);
        cfg.HS = 10;
        cfg.unrotated[0] = 0;
        cfg.rope = (RopeScaling){.type = ROPE_LINEAR, .factor = 2.5f};
        cfg.family = FAMILY_MISTRAL;
        expect_written(cfg);
        cfg.sliding_window = 64;
        layer_set(cfg.windowed, 0);
        layer_set(cfg.windowed, 1);
        expect_written(cfg);
    }
}

/* Each family as its row has it, with what else its config can say. */
static void test_other_families_are_written_and_read_back(void **state) {
    (void)state;
    for (int f = FAMILY_GPT2; f < FAMILIES; f++) {
        const FamilyRow *row = family_row((Family)f);
        ModelConfig cfg = row->built;
        cfg.family = (Family)f;
        cfg.V = small.V, cfg.C = small.C, cfg.L = 3, cfg.NH = 4, cfg.HS = 6, cfg.FF = small.FF;
        cfg.NKV = row->qkv == FILE_AS_HERE ? 2 : 4;
        cfg.max_positions = 128;
        cfg.norm_eps = 1e-5f, cfg.init_std = .02f, cfg.lm_head = 1, cfg.bos = cfg.pad = -1;
        if (cfg.rope_theta == 0.0f) cfg.rope_theta = 1e4f;
        for (int l = 0; cfg.learned_positions && l < cfg.L; l++) layer_set(cfg.unrotated, l);
        if (cfg.sliding_window) cfg.windowed[0] = f == FAMILY_GEMMA2 ? 5 : 7;
        expect_written(cfg);
        if (family_windows_by_layer((Family)f)) {
            cfg.windowed[0] = 4, cfg.sliding_window = 9;
            expect_written(cfg);
            cfg.query_scalar = 24;
            if (f == FAMILY_GEMMA2) cfg.attn_softcap = 0.0f, cfg.final_softcap = 12.5f;
            expect_written(cfg);
        }
        if (row->attention_bias) {
            cfg.qkv_bias = cfg.o_bias = !cfg.qkv_bias;
            expect_written(cfg);
        }
        if (f == FAMILY_GPT2) {
            cfg.query_scalar = 1.0f;
            expect_written(cfg);
            continue;
        }
        cfg.act = ACT_GELU;
        if (!cfg.rope_local_theta) cfg.rotated = 4; /* 4 of 6: a share that no float is */
        expect_written(cfg);
        cfg.rope = (RopeScaling){.type = ROPE_LONGROPE,
                                 .factor = 4.0f,
                                 .original = 32,
                                 .attention_factor = 1.5f,
                                 .short_factor = {1, 2, 3.5f},
                                 .long_factor = {2, 2, 5}};
        if (cfg.rotated) cfg.rope.short_factor[2] = cfg.rope.long_factor[2] = 0.0f;
        expect_written(cfg);
        if (f == FAMILY_PHI3) cfg.sliding_window = 9, cfg.windowed[0] = 7;
        cfg.rope.attention_factor = rope_attention_factor(ROPE_LONGROPE, 4.0, 32);
        expect_written(cfg);
        if (f == FAMILY_PHI3) continue; /* which calls no other scaling by that name */
        cfg.rope = (RopeScaling){.type = ROPE_YARN,
                                 .factor = 3.0f,
                                 .original = 32,
                                 .beta_fast = 20.0f,
                                 .beta_slow = 2.0f,
                                 .fractional = 1,
                                 .attention_factor = 1.25f};
        expect_written(cfg);
        cfg.lm_head = 0, cfg.scores = 1;
        expect_written(cfg);
    }
}

static void test_forms_of_families(void **state) {
    (void)state;
    const char *dir = directory("config");
    ModelConfig got;
    expect_ok(model_read_config(&got, edited(dir, "\"llama\"", "\"smollm3\"")));
    assert_int_equal(got.unrotated[0], 0); /* every fourth, and it has two */
    expect_ok(model_read_config(
        &got, edited(dir, "\"llama\"", "\"smollm3\", \"no_rope_layer_interval\": 2")));
    assert_int_equal(got.unrotated[0], 2);
    expect_ok(model_read_config(
        &got, edited(dir, "\"llama\"", "\"smollm3\", \"no_rope_layers\": [0, 1]")));
    assert_int_equal(got.unrotated[0], 1);
    expect_ok(
        model_read_config(&got, edited(dir, "\"llama\"", "\"mistral\", \"sliding_window\": null")));
    assert_int_equal(got.family, FAMILY_MISTRAL);
    assert_int_equal(got.sliding_window, 0);
    expect_ok(model_read_config(&got, edited(dir, "\"llama\"", "\"mistral\"")));
    assert_int_equal(got.sliding_window, 4096); /* the class's default */
    expect_ok(model_read_config(
        &got, edited(dir, "\"rope_scaling\": null",
                     "\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, "
                     "\"low_freq_factor\": 1, \"high_freq_factor\": 4}")));
    assert_int_equal(got.rope.type, ROPE_LLAMA3);
    assert_int_equal(got.rope.original, 128); /* as transformers 5 fills it in */
    assert_true(got.rope.factor == 8.0f && got.rope_theta == 500.0f);
}

static void test_transformers_4_config(void **state) {
    (void)state;
    ModelConfig got;
    expect_ok(model_read_config(&got, edited(directory("config"), "{", "{")));
    expect_same(&got, &small);
}

static void test_forms_of_a_config(void **state) {
    (void)state;
    const char *dir = directory("config");
    ModelConfig got;
    expect_ok(model_read_config(
        &got, edited(dir, "\"rope_theta\": 500.0, \"rope_scaling\": null",
                     "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 700.0}")));
    assert_true(got.rope_theta == 700.0f);
    expect_ok(model_read_config(
        &got, edited(dir, "\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"default\"}")));
    assert_true(got.rope_theta == 500.0f);
    expect_ok(model_read_config(&got, edited(dir, "\"rope_theta\": 500.0, ", "")));
    assert_true(got.rope_theta == 10000.0f);
    expect_ok(
        model_read_config(&got, edited(dir, "\"eos_token_id\": 2", "\"eos_token_id\": [7, 60]")));
    assert_int_equal(got.n_eos, 2);
    assert_int_equal(got.eos[0], 7);
    assert_int_equal(got.eos[1], 60);
    expect_ok(
        model_read_config(&got, edited(dir, "\"eos_token_id\": 2", "\"eos_token_id\": null")));
    assert_int_equal(got.n_eos, 0);
    expect_ok(
        model_read_config(&got, edited(dir, "\"pad_token_id\": null", "\"pad_token_id\": -1")));
    assert_int_equal(got.pad, -1);
    expect_ok(
        model_read_config(&got, edited(dir, "\"pad_token_id\": null", "\"pad_token_id\": 5")));
    assert_int_equal(got.pad, 5);
    expect_ok(model_read_config(
        &got, edited(dir, "\"num_key_value_heads\": 2", "\"num_key_value_heads\": null")));
    assert_int_equal(got.NKV, 4);
    expect_ok(model_read_config(&got, edited(dir, "\"head_dim\": 10", "\"head_dim\": null")));
    assert_int_equal(got.HS, 6);
    /* products in two parts: the same numbers but for rounding */
    expect_ok(model_read_config(&got, edited(dir, "\"mlp_bias\": false", "\"pretraining_tp\": 2")));
    expect_ok(model_read_config(
        &got, edited(dir, "\"LlamaForCausalLM\"]",
                     "\"LlamaForSequenceClassification\"], \"id2label\": {\"0\": \"L\"}")));
    assert_int_equal(got.scores, 1);
    assert_int_equal(got.lm_head, 0);
}

static void test_half_precision(void **state) {
    (void)state;
    static const char *const dtypes[] = {"F32", "F16", "BF16"};
    Weights w;
    create(&w, small);
    for (int i = 0; i < 3; i++) {
        const char *dir = edited(directory("half"), "{", "{");
        Pack p = {.w = &w, .dtype = dtypes[i], .bare = i == 1};
        pack(&p, dir, "model.safetensors");
        expect_reads(dir, hash_of(&w));
    }
    weights_release(&w);
}

static void write_shards(const Weights *w, const char *dir) {
    Text map = {0}, index = {0};
    for (int i = 0; i < 3; i++) {
        char name[32];
        Pack p = {.w = w, .shard = i, .shards = 3, .map = &map};
        snprintf(name, sizeof(name), "part-%d.safetensors", i);
        pack(&p, dir, name);
    }
    text_addf(&index, "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {%s}}", map.s);
    put_file(dir, "model.safetensors.index.json", index.s);
    text_release(&map);
    text_release(&index);
}

static void test_shards(void **state) {
    (void)state;
    const char *dir = edited(directory("shards"), "{", "{");
    Weights w;
    create(&w, small);
    write_shards(&w, dir);
    expect_reads(dir, hash_of(&w));

    /* a model written over it is the model from then on */
    expect_ok(weights_init(&w, 7));
    expect_ok(model_write(&w, dir));
    expect_reads(dir, hash_of(&w));
    weights_release(&w);
}

static void test_score_head_of_a_new_reward_model(void **state) {
    (void)state;
    const char *dir = directory("new");
    ModelConfig cfg;
    uint64_t a, b, c;
    Weights w;
    create(&w, small);
    expect_ok(model_write(&w, dir));
    expect_ok(model_read_config(&cfg, dir));
    cfg.lm_head = 0, cfg.scores = 1;
    expect_ok(read_model(dir, &cfg, 1, &a));
    expect_ok(read_model(dir, &cfg, 1, &b));
    expect_ok(read_model(dir, &cfg, 2, &c));
    assert_true(a == b && a != c);
    weights_release(&w);
}

/* --- refusals of a directory --- */

static void test_config_rules_refuse(void **state) {
    (void)state;
    static const struct {
        const char *from, *to, *part;
    } bad[] = {
        {"\"model_type\": \"llama\"", "\"model_type\": \"gpt9\"", "\"gpt9\""},
        {"\"model_type\": \"llama\", ", "", "model_type"},
        {"LlamaForCausalLM", "LlamaForTokenClassification", "LlamaForTokenClassification"},
        {"\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"ntk\", \"factor\": 2.0}",
         "\"ntk\""},
        {"\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"linear\"}", "factor"},
        {"\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 0}",
         "factor must be above 0"},
        {"\"rope_scaling\": null",
         "\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 2, \"low_freq_factor\": 4, "
         "\"high_freq_factor\": 1}",
         "low_freq_factor < high_freq_factor"},
        {"\"rope_scaling\": null",
         "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}, "
         "\"rope_parameters\": {\"type\": \"linear\", \"factor\": 3}",
         "contradict"},
        {"\"mlp_bias\": false", "\"layer_types\": [\"full_attention\", \"sliding_attention\"]",
         "layer_types"},
        {"\"model_type\": \"llama\"", "\"model_type\": \"mistral\", \"sliding_window\": 0",
         "sliding_window must be"},
        {"\"rope_scaling\": null", "\"rope_parameters\": {\"rope_type\": \"axial\"}", "\"axial\""},
        {"\"rope_scaling\": null",
         "\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 2, \"beta_fast\": 1}",
         "beta_slow"},
        {"\"rope_scaling\": null",
         "\"rope_scaling\": {\"rope_type\": \"longrope\", \"factor\": 2, \"short_factor\": [1, 2], "
         "\"long_factor\": [1, 2]}",
         "short_factor"},
        {"\"rope_scaling\": null", "\"rope_scaling\": {\"rope_type\": \"dynamic\"}", "factor"},
        {"\"rope_scaling\": null", "\"partial_rotary_factor\": 1.2", "partial_rotary_factor"},
        {"\"model_type\": \"llama\"", "\"model_type\": \"mistral\", \"sliding_window\": 2000000000",
         "sliding_window"},
        {"\"rope_scaling\": null", "\"rope_scaling\": 2", "must be an object"},
        {"\"rope_scaling\": null", "\"partial_rotary_factor\": 0.5", "partial_rotary_factor"},
        {"\"rope_scaling\": null", "\"rope_parameters\": {\"partial_rotary_factor\": 0.5}",
         "partial_rotary_factor"},
        {"\"rope_scaling\": null", "\"rope_parameters\": {\"full_attention\": {}}",
         "full_attention"},
        {"\"rope_theta\": 500.0", "\"rope_theta\": 0", "rope_theta"},
        {"\"llama\", \"vocab_size\": 61",
         "\"mistral\", \"attention_bias\": true, \"vocab_size\": 61", "attention_bias"},
        {"\"llama\"", "\"smollm3\", \"no_rope_layers\": [1]", "no_rope_layers"},
        {"\"llama\"", "\"smollm3\", \"no_rope_layers\": [1, 2]", "no_rope_layers"},
        {"\"llama\"", "\"smollm3\", \"no_rope_layer_interval\": 0", "no_rope_layer_interval"},
        {"\"llama\"", "\"qwen2\", \"layer_types\": [\"full_attention\"]", "layer_types"},
        {"\"llama\"", "\"qwen2\", \"layer_types\": [\"full_attention\", \"sliding_attention\"]",
         "without a sliding_window"},
        {"\"llama\"",
         "\"mistral\", \"sliding_window\": 9, \"layer_types\": [\"full_attention\", "
         "\"full_attention\"]",
         "contradicts"},
        {"\"llama\"", "\"gemma3_text\", \"sliding_window_pattern\": 0", "sliding_window_pattern"},
        {"\"llama\"", "\"gemma2\", \"sliding_window\": null", "sliding_window must be set"},
        {"\"llama\"", "\"gemma3_text\", \"final_logit_softcapping\": 30",
         "final_logit_softcapping"},
        {"\"llama\"", "\"gemma2\", \"query_pre_attn_scalar\": 0", "query_pre_attn_scalar"},
        {"\"llama\"", "\"gemma2\", \"use_bidirectional_attention\": true",
         "use_bidirectional_attention"},
        {"\"llama\"", "\"gpt_neox\"", "as many key heads"},
        {"\"llama\"", "\"gpt2\", \"n_embd\": 24, \"n_layer\": 2", "n_head"},
        {"\"llama\"",
         "\"gpt2\", \"n_embd\": 24, \"n_layer\": 2, \"n_head\": 4, "
         "\"scale_attn_by_inverse_layer_idx\": true",
         "scale_attn_by_inverse_layer_idx"},
        {"\"attention_bias\": false", "\"attention_bias\": 1", "attention_bias"},
        {"\"mlp_bias\": false", "\"mlp_bias\": 1", "mlp_bias"},
        {"\"mlp_bias\": false", "\"sliding_window\": 64", "sliding_window"},
        {"\"mlp_bias\": false", "\"use_sliding_window\": true", "use_sliding_window"},
        {"\"mlp_bias\": false", "\"quantization_config\": {\"bits\": 4}", "quantization_config"},
        {"\"silu\"", "\"relu\"", "hidden_act"},
        {"\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": -1", "rms_norm_eps"},
        {"\"eos_token_id\": 2", "\"eos_token_id\": 61", "vocab_size"},
        {"\"eos_token_id\": 2", "\"eos_token_id\": [2, 61]", "vocab_size"},
        {"\"eos_token_id\": 2", "\"eos_token_id\": \"</s>\"", "eos_token_id"},
        {"\"eos_token_id\": 2", "\"eos_token_id\": 1.5", "whole number"},
        {"\"eos_token_id\": 2", "\"eos_token_id\": [1,2,3,4,5,6,7,8,9]", "more than 8"},
        {"\"bos_token_id\": 1", "\"bos_token_id\": 1e300", "vocab_size"},
        {"\"pad_token_id\": null", "\"pad_token_id\": 61", "vocab_size"},
        {"\"vocab_size\": 61, ", "", "vocab_size"},
        {"\"vocab_size\": 61", "\"vocab_size\": 2000000000", "vocab_size"},
        {"\"vocab_size\": 61", "\"vocab_size\": 61.5", "vocab_size"},
        {"\"hidden_size\": 24", "\"hidden_size\": 1000000", "hidden_size"},
        {"\"hidden_size\": 24", "\"hidden_size\": 0", "hidden_size"},
        {"\"hidden_size\": 24", "\"hidden_size\": -24", "hidden_size"},
        {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": 100000", "num_hidden_layers"},
        {"\"num_attention_heads\": 4", "\"num_attention_heads\": 0", "num_attention_heads"},
        {"\"num_attention_heads\": 4", "\"num_attention_heads\": 5", "multiple"},
        {"\"num_key_value_heads\": 2", "\"num_key_value_heads\": 0", "num_key_value_heads"},
        {"\"head_dim\": 10", "\"head_dim\": 9", "odd"},
        {"\"head_dim\": 10", "\"head_dim\": 512", "head_dim"},
        {"\"hidden_size\": 24, \"num_hidden_layers\": 2, \"num_attention_heads\": 4, "
         "\"num_key_value_heads\": 2, \"head_dim\": 10",
         "\"hidden_size\": 26, \"num_hidden_layers\": 2, \"num_attention_heads\": 4", "multiple"},
        {"\"intermediate_size\": 52", "\"intermediate_size\": 1e12", "intermediate_size"},
        {"\"max_position_embeddings\": 128", "\"max_position_embeddings\": 0",
         "max_position_embeddings"},
        {"\"LlamaForCausalLM\"]", "\"LlamaForSequenceClassification\"], \"num_labels\": 0",
         "num_labels"},
        {"{", "[{", ""},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        ModelConfig cfg;
        const char *dir = edited(directory("refused"), bad[i].from, bad[i].to);
        expect_refusal(model_read_config(&cfg, dir), bad[i].part);
    }
}

static void test_tensors_that_do_not_fit(void **state) {
    (void)state;
    static const char *const names[] = {
        "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight",
        "model.layers.1.self_attn.k_proj.weight", "model.layers.0.mlp.down_proj.weight"};
    Weights w;
    create(&w, small);
    for (size_t i = 0; i < 2 * sizeof(names) / sizeof(*names); i++) {
        const char *dir = edited(directory("refused"), "{", "{"), *name = names[i / 2];
        Pack p = {.w = &w, .skip = i % 2 ? NULL : name, .transpose = i % 2 ? name : NULL};
        pack(&p, dir, "model.safetensors");
        expect_refusal(read_all(dir), name);
        expect_refusal(read_all(dir), i % 2 ? "the config says" : "missing");
    }

    const char *dir = edited(directory("refused"), "{", "{");
    Pack p = {.w = &w, .dtype = "I16"};
    pack(&p, dir, "model.safetensors");
    expect_refusal(read_all(dir), "I16");
    weights_release(&w);
}

static void test_reward_model_without_its_head(void **state) {
    (void)state;
    const char *dir = directory("refused");
    ModelConfig cfg = small;
    Weights w;
    cfg.lm_head = 0, cfg.scores = 1;
    create(&w, cfg);
    expect_ok(model_write(&w, dir));
    expect_ok(read_all(dir));
    Pack p = {.w = &w, .skip = "score.weight"};
    pack(&p, dir, "model.safetensors");
    expect_refusal(read_all(dir), "score.weight is missing");
    weights_release(&w);
}

static void test_bad_indexes(void **state) {
    (void)state;
    const char *outside = scratch("outside.safetensors");
    static const char *const names[] = {"../outside.safetensors", "..", "sub/part.safetensors",
                                        "/etc/passwd"};
    char path[512];
    Weights w;
    create(&w, small);
    Pack p = {.w = &w};
    pack(&p, scratch(""), "outside.safetensors"); /* everything is there to be read */
    assert_true(file_exists(outside));
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        const char *dir = edited(directory("refused"), "{", "{");
        char index[200];
        snprintf(index, sizeof(index), "{\"weight_map\": {\"lm_head.weight\": \"%s\"}}", names[i]);
        put_file(dir, "model.safetensors.index.json", index);
        expect_refusal(read_all(dir), "leaves the directory");
    }

    const char *dir = edited(directory("refused"), "{", "{");
    write_shards(&w, dir);
    snprintf(path, sizeof(path), "%s/part-1.safetensors", dir);
    expect_ok(file_remove_tree(path));
    assert_int_equal(read_all(dir), E_IO);
    assert_non_null(strstr(status_message(), "part-1.safetensors"));
    put_file(dir, "model.safetensors.index.json", "{}");
    expect_refusal(read_all(dir), "weight_map");
    put_file(dir, "model.safetensors.index.json", "{\"weight_map\": {\"a\": 1}}");
    expect_refusal(read_all(dir), "weight_map");
    weights_release(&w);
}

static void test_nothing_there(void **state) {
    (void)state;
    ModelConfig cfg;
    assert_int_equal(model_read_config(&cfg, scratch("nowhere")), E_IO);
    assert_non_null(strstr(status_message(), "nowhere"));
    assert_int_equal(model_read_config(&cfg, directory("empty")), E_IO);
    assert_non_null(strstr(status_message(), "config.json"));
    assert_int_equal(read_all(edited(directory("empty"), "{", "{")), E_IO);
    assert_non_null(strstr(status_message(), "model.safetensors"));
}

/* --- GGUF --- */

static void put(Text *t, uint64_t v, int bytes) {
    text_add_bytes(t, (const char *)&v, (size_t)bytes);
}

static void put_string(Text *t, const char *s) {
    put(t, strlen(s), 8);
    text_add(t, s);
}

static void put_int(Text *t, int *n, const char *key, int v) {
    put_string(t, key);
    put(t, 4, 4); /* u32 */
    put(t, (uint64_t)v, 4);
    ++*n;
}

static void put_float(Text *t, int *n, const char *key, float v) {
    put_string(t, key);
    put(t, 6, 4); /* f32 */
    text_add_bytes(t, (const char *)&v, 4);
    ++*n;
}

static void put_text(Text *t, int *n, const char *key, const char *v) {
    put_string(t, key);
    put(t, 8, 4); /* string */
    put_string(t, v);
    ++*n;
}

typedef struct {
    const char *arch, *scaling; /* NULL: llama; no key */
    const char *extra_int;      /* a key that is set to 2, NULL none */
    const char *extra_float;    /* a key that is set to 0.5, NULL none */
    const char *extra, *skip;   /* tensors that are added, left out; NULL none */
    const Weights *w;
    Text list, data;
    int n;
} GgufFile;

static void put_tensor(GgufFile *f, const char *name, int rows, int cols) {
    int is_vector = cols == 1;
    put_string(&f->list, name);
    put(&f->list, is_vector ? 1 : 2, 4);
    if (!is_vector) put(&f->list, (uint64_t)cols, 8);
    put(&f->list, (uint64_t)rows, 8);
    put(&f->list, 0, 4); /* f32 */
    put(&f->list, f->data.len, 8);
    f->n++;
}

/* The converter of llama models puts the two values that rotate together side by side: it takes a
 * head's rows as [2, HS/2] and writes them as [HS/2, 2]. */
static void put_rows(GgufFile *f, const float *host, int rows, int cols, int is_permuted) {
    int HS = f->w->cfg.HS;
    for (int r = 0; r < rows; r++) {
        int in = r % HS, from = is_permuted ? r - in + in % 2 * (HS / 2) + in / 2 : r;
        text_add_bytes(&f->data, (const char *)(host + (size_t)from * (size_t)cols),
                       (size_t)cols * 4);
    }
    while (f->data.len % 32) put(&f->data, 0, 1);
}

static Status put_weight(void *ctx, const TensorInfo *info, Buf *slot) {
    static const char *const names[][2] = {{"model.embed_tokens", "token_embd"},
                                           {"model.norm", "output_norm"},
                                           {"lm_head", "output"},
                                           {"input_layernorm", "attn_norm"},
                                           {"self_attn.q_proj", "attn_q"},
                                           {"self_attn.k_proj", "attn_k"},
                                           {"self_attn.v_proj", "attn_v"},
                                           {"self_attn.o_proj", "attn_output"},
                                           {"post_attention_layernorm", "ffn_norm"},
                                           {"mlp.gate_proj", "ffn_gate"},
                                           {"mlp.up_proj", "ffn_up"},
                                           {"mlp.down_proj", "ffn_down"}};
    GgufFile *f = ctx;
    char name[96];
    const char *last = NULL, *layer = strstr(info->name, "layers.");
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        if (strstr(info->name, names[i][0])) last = names[i][1];
    if (layer)
        snprintf(name, sizeof(name), "blk.%d.%s.weight", atoi(layer + 7), last);
    else
        snprintf(name, sizeof(name), "%s.weight", last);
    if (f->skip && !strcmp(name, f->skip)) return OK;
    size_t count = (size_t)info->rows * (size_t)info->cols;
    float *host = malloc(count * sizeof(*host));
    backend->download(backend, host, *slot, count);
    put_tensor(f, name, info->rows, info->cols);
    put_rows(f, host, info->rows, info->cols, !strcmp(last, "attn_q") || !strcmp(last, "attn_k"));
    free(host);
    return OK;
}

static const char *write_gguf(GgufFile *f, const Weights *w) {
    const ModelConfig *m = &w->cfg;
    const char *path = scratch("model.gguf");
    Text meta = {0}, all = {0};
    Tensors t = w->t;
    int n = 0;
    f->w = w;
    put_text(&meta, &n, "general.architecture", f->arch ? f->arch : "llama");
    put_int(&meta, &n, "llama.embedding_length", m->C);
    put_int(&meta, &n, "llama.block_count", m->L);
    put_int(&meta, &n, "llama.attention.head_count", m->NH);
    put_int(&meta, &n, "llama.attention.head_count_kv", m->NKV);
    put_int(&meta, &n, "llama.attention.key_length", m->HS);
    put_int(&meta, &n, "llama.feed_forward_length", m->FF);
    put_int(&meta, &n, "llama.context_length", m->max_positions);
    put_float(&meta, &n, "llama.rope.freq_base", m->rope_theta);
    put_float(&meta, &n, "llama.attention.layer_norm_rms_epsilon", m->norm_eps);
    put_int(&meta, &n, "tokenizer.ggml.bos_token_id", m->bos);
    put_int(&meta, &n, "tokenizer.ggml.eos_token_id", m->eos[0]);
    if (f->scaling) put_text(&meta, &n, "llama.rope.scaling.type", f->scaling);
    if (f->extra_int) put_int(&meta, &n, f->extra_int, 2);
    if (f->extra_float) put_float(&meta, &n, f->extra_float, 0.5f);
    expect_ok(tensors_visit(m, &t, put_weight, f));
    if (f->extra) {
        put_tensor(f, f->extra, 8, 1);
        for (int i = 0; i < 8; i++) put(&f->data, 0, 4);
    }
    text_add(&all, "GGUF");
    put(&all, 3, 4);
    put(&all, (uint64_t)f->n, 8);
    put(&all, (uint64_t)n, 8);
    text_add_bytes(&all, meta.s, meta.len);
    text_add_bytes(&all, f->list.s, f->list.len);
    while (all.len % 32) put(&all, 0, 1);
    text_add_bytes(&all, f->data.s, f->data.len);
    expect_ok(file_write_atomic(path, all.s, all.len));
    text_release(&meta);
    text_release(&all);
    text_release(&f->list);
    text_release(&f->data);
    return path;
}

static void test_gguf_equals_the_directory(void **state) {
    (void)state;
    for (int tied = 0; tied < 2; tied++) {
        const char *dir = directory("gguf");
        ModelConfig cfg = small, from_dir, from_gguf;
        Weights w;
        GgufFile f = {0};
        cfg.tied = tied;
        cfg.init_std = 0.02f; /* a GGUF file does not say */
        create(&w, cfg);
        expect_ok(model_write(&w, dir));
        const char *path = write_gguf(&f, &w);
        expect_ok(model_read_config(&from_dir, dir));
        expect_ok(model_read_config(&from_gguf, path));
        expect_same(&from_gguf, &from_dir);
        expect_reads(dir, hash_of(&w));
        expect_reads(path, hash_of(&w));
        weights_release(&w);
    }
}

static void test_gguf_rules_refuse(void **state) {
    (void)state;
    static const struct {
        GgufFile f;
        const char *part;
    } bad[] = {
        {{.arch = "bert"}, "\"bert\""},
        {{.scaling = "linear"}, "llama.rope.scaling.factor"},
        {{.scaling = "ntk"}, "\"ntk\""},
        {{.arch = "qwen2"}, "qwen2.embedding_length"},
        {{.extra = "blk.0.attn_output.bias"}, "blk.0.attn_output.bias"},
        {{.extra = "blk.0.ffn_gate_inp.weight"}, "blk.0.ffn_gate_inp.weight"},
        {{.extra_int = "llama.expert_count"}, "llama.expert_count"},
        {{.extra_int = "llama.attention.sliding_window"}, "llama.attention.sliding_window"},
        {{.extra_int = "llama.rope.dimension_count"}, "2 of 10"},
        {{.extra_float = "llama.rope.scale_linear"}, "llama.rope.scale_linear"},
        {{.extra = "rope_freqs.weight"}, "rope_freqs.weight"},
        {{.extra = "blk.0.attn_q.bias"}, "blk.0.attn_q.bias"},
        {{.skip = "blk.1.ffn_up.weight"}, "blk.1.ffn_up.weight is missing"},
        {{.skip = "token_embd.weight"}, "token_embd.weight is missing"},
    };
    Weights w;
    create(&w, small);
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        GgufFile f = bad[i].f;
        expect_refusal(read_all(write_gguf(&f, &w)), bad[i].part);
    }
    weights_release(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_written_is_read_back),
        cmocka_unit_test(test_families_are_written_and_read_back),
        cmocka_unit_test(test_other_families_are_written_and_read_back),
        cmocka_unit_test(test_forms_of_families),
        cmocka_unit_test(test_transformers_4_config),
        cmocka_unit_test(test_forms_of_a_config),
        cmocka_unit_test(test_half_precision),
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_score_head_of_a_new_reward_model),
        cmocka_unit_test(test_config_rules_refuse),
        cmocka_unit_test(test_tensors_that_do_not_fit),
        cmocka_unit_test(test_reward_model_without_its_head),
        cmocka_unit_test(test_bad_indexes),
        cmocka_unit_test(test_nothing_there),
        cmocka_unit_test(test_gguf_equals_the_directory),
        cmocka_unit_test(test_gguf_rules_refuse),
    };
    return cmocka_run_group_tests(tests, make_backend, drop_backend);
}
