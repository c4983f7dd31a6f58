/* test_model_tool.c - models written in other forms and read back, made from nothing, and found in
 * the local Hugging Face cache. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/threads.h"
#include "core/model/half.h"
#include "core/model/hf.h"
#include "core/model/hub.h"
#include "datasets/tokenizer.h"
#include "policy/model_tool.h"
#include "tests/expect.h"
#include "tests/scratch.h"

static Arena arena;

static void expect_refused(Status s, const char *part) {
    if (s == OK || !strstr(status_message(), part))
        fail_msg("status %d, \"%s\", not \"%s\"", s, status_message(), part);
}

static int setup(void **state) {
    (void)state;
    BpeTrainer *b;
    Tokenizer *t;
    log_level(LOG_QUIET);
    expect_ok(threads_start(1));
    expect_ok(bpe_trainer_create(&b));
    expect_ok(bpe_trainer_add(b, "the cat sat on the mat, the cat sat", 35));
    expect_ok(bpe_trainer_finish(b, 270, &t));
    bpe_trainer_release(b);
    expect_ok(tokenizer_save(t, scratch("tok")));
    tokenizer_release(t);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    arena_release(&arena);
    threads_stop();
    return 0;
}

/* flags: as scratch_words takes them */
static Status model(const char *fmt, ...) {
    char flags[1024], *argv[64];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(flags, sizeof flags, fmt, ap);
    va_end(ap);
    return model_main(scratch_words(argv, flags), argv);
}

#define SMALL                                                                                      \
    "--tokenizer @tok --hidden-size 64 --num-hidden-layers 3 --num-attention-heads 4 "             \
    "--num-key-value-heads 4 --intermediate-size 64 --max-position-embeddings 64"

/* All of a model's values, in the order of the list. */
static float *values(const char *path, size_t *n) {
    Backend *b;
    Weights w;
    ModelConfig m;
    expect_ok(model_read_config(&m, path));
    expect_ok(backend_create(&b, "cpu", "portable", "f32"));
    expect_ok(weights_create(&w, b, &m, DT_F32));
    expect_ok(model_read_weights(&w, path, 0));
    float *v = malloc(w.count * sizeof *v);
    b->download(b, v, w.flat, w.count);
    *n = w.count;
    weights_release(&w);
    backend_release(b);
    return v;
}

static int has_file(const char *dir, const char *name) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return file_exists(scratch(path));
}

static float as_stored(float v, const char *dtype) {
    return !strcmp(dtype, "bf16")  ? bf16_to_f32(f32_to_bf16(v))
           : !strcmp(dtype, "f16") ? f16_to_f32(f32_to_f16(v))
                                   : v;
}

static void a_model_is_converted(void **state) {
    (void)state;
    static const char *const dtypes[] = {"f32", "bf16", "f16"};
    static const char *const config_names[] = {"float32", "bfloat16", "float16"};
    static const char *const families[] = {"llama", "gpt2", "gpt_neox"}; /* all orders of files */
    for (int f = 0; f < 3; f++) {
        size_t n, m;
        expect_ok(model("init --family %s --out @from%d " SMALL, families[f], f));
        char from[32], to[32];
        snprintf(from, sizeof from, "from%d", f);
        float *before = values(scratch(from), &n);
        for (int d = 0; d < 3; d++)
            for (int shards = 0; shards < 2; shards++) {
                Text types = {0};
                snprintf(to, sizeof to, "to%d%d%d", f, d, shards);
                expect_ok(model("convert @%s --out @%s --dtype %s --max-shard-size %s", from, to,
                                dtypes[d], shards ? "60KB" : "0"));
                assert_int_equal(has_file(to, "model.safetensors"), !shards);
                assert_int_equal(has_file(to, "model.safetensors.index.json"), shards);
                assert_true(has_file(to, "tokenizer.json") &&
                            has_file(to, "generation_config.json"));
                float *after = values(scratch(to), &m);
                assert_int_equal(n, m);
                for (size_t i = 0; i < n; i++)
                    if (after[i] != as_stored(before[i], dtypes[d]))
                        fail_msg("%s as %s: value %zu was %g and is %g", families[f], dtypes[d], i,
                                 (double)before[i], (double)after[i]);
                free(after);
                expect_ok(model_storage(&types, scratch(to)));
                assert_non_null(strstr(types.s, d == 0 ? " F32" : d == 1 ? " BF16" : " F16"));
                text_release(&types);
                char path[64], *config;
                size_t len;
                snprintf(path, sizeof path, "%s/config.json", to);
                expect_ok(file_read(&arena, &config, &len, scratch(path), 1 << 20));
                assert_non_null(strstr(config, config_names[d]));
            }
        free(before);
    }
}

/* Every shard is within its limit unless it holds one tensor, and the index names each tensor's. */
static void shards_are_as_large_as_allowed(void **state) {
    (void)state;
    JsonDoc *doc;
    expect_ok(json_parse_file(&doc, scratch("to001/model.safetensors.index.json"), JSON_STRICT));
    size_t n;
    free(values(scratch("from0"), &n));
    assert_true(json_num(json_get(json_get(json_root(doc), "metadata"), "total_size")) ==
                4.0 * (double)n);
    int files = 0;
    for (int i = 1;; i++, files++) {
        struct stat st;
        char path[96];
        int found = 0;
        for (int of = 1; of < 40 && !found; of++) {
            snprintf(path, sizeof path, "to001/model-%05d-of-%05d.safetensors", i, of);
            found = stat(scratch(path), &st) == 0;
        }
        if (!found) break;
        if (st.st_size > 64000) assert_true(i == 1); /* the embedding alone is larger */
    }
    assert_true(files > 2);
    json_release(doc);
}

static void nothing_is_written_over(void **state) {
    (void)state;
    expect_refused(model("convert @from0 --out @to000"), "is there already");
    expect_refused(model("convert @from0 --out @from0"), "is there already");
    expect_refused(model("convert @from0 --out @new --max-shard-size 5XB"), "no size");
    expect_ok(model("init --family llama --out @deep " SMALL " --num-hidden-layers 40"));
    expect_refused(model("convert @deep --out @new --max-shard-size 1"), "shards would be needed");
    expect_refused(model("convert @from0 --out @new --dtype f64"), "f32");
    expect_refused(model("convert @nowhere --out @new"), "is not there");
    expect_refused(model("convert --out @new"), "rlhf model convert MODEL");
    expect_refused(model("init --family nope --out @new " SMALL), "supported: llama");
    expect_refused(model("init --family llama --out @new --tokenizer @tok --head-dim 15"), "");
    assert_false(has_file("new", "config.json"));
    assert_false(has_file("new", "tokenizer.json"));
    expect_refused(model("what"), "rlhf model info");
}

/* An f16 ends at 65504: a value beyond it is not made infinite in silence. */
static void too_large_for_f16(void **state) {
    (void)state;
    expect_ok(model("init --family llama --out @large --initializer-range 10 " SMALL));
    Backend *b;
    Weights w;
    ModelConfig m;
    float huge = 1e6f;
    expect_ok(model_read_config(&m, scratch("large")));
    expect_ok(backend_create(&b, "cpu", "portable", "f32"));
    expect_ok(weights_create(&w, b, &m, DT_F32));
    expect_ok(model_read_weights(&w, scratch("large"), 0));
    expect_ok(model_write_as(&w, scratch("f16"), "f16", 0));
    b->upload(b, buf_at(w.flat, 77), &huge, 1);
    expect_refused(model_write_as(&w, scratch("f16b"), "f16", 0), "more than an f16 can");
    assert_false(has_file("f16b", "model.safetensors"));
    expect_ok(model_write_as(&w, scratch("bf16"), "bf16", 0));
    weights_release(&w);
    backend_release(b);
}

static void halves_are_rounded_to_even(void **state) {
    (void)state;
    static const struct {
        float f;
        uint16_t f16, bf16;
    } v[] = {{0.0f, 0, 0},
             {-0.0f, 0x8000, 0x8000},
             {1.0f, 0x3c00, 0x3f80},
             {65504.0f, 0x7bff, 0x4780},
             {65519.9f, 0x7bff, 0x4780},
             {65520.0f, 0x7c00, 0x4780},
             {0x1p-24f, 1, 0x3380},
             {0x1p-25f, 0, 0x3300}, /* half of the least: to even */
             {0x1.8p-24f, 2, 0x33c0},
             {0x1p-14f, 0x400, 0x3880},
             {0x1.ffcp-15f, 0x400, 0x3880},
             {1.0f + 0x1p-11f, 0x3c00, 0x3f80},
             {1.0f + 0x1.8p-10f, 0x3c02, 0x3f80},
             {1.0f + 0x1p-8f, 0x3c04, 0x3f80},
             {1.0f + 0x1.8p-7f, 0x3c0c, 0x3f82},
             {-3.1415927f, 0xc248, 0xc049},
             {INFINITY, 0x7c00, 0x7f80}};
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        if (f32_to_f16(v[i].f) != v[i].f16 || f32_to_bf16(v[i].f) != v[i].bf16)
            fail_msg("%.9g is %04x and %04x, not %04x and %04x", (double)v[i].f, f32_to_f16(v[i].f),
                     f32_to_bf16(v[i].f), v[i].f16, v[i].bf16);
    }
    for (int h = 0; h < 0x10000; h++) { /* what is a half already stays it */
        float f = f16_to_f32((uint16_t)h);
        if (f == f) assert_int_equal(f32_to_f16(f), h);
        f = bf16_to_f32((uint16_t)h);
        if (f == f) assert_int_equal(f32_to_bf16(f), h);
    }
    assert_true((f32_to_f16(NAN) & 0x7fff) > 0x7c00 && (f32_to_bf16(NAN) & 0x7fff) > 0x7f80);
}

static void every_family_can_begin(void **state) {
    (void)state;
    for (int f = 0; f < FAMILIES; f++) {
        char dir[32];
        ModelConfig m;
        snprintf(dir, sizeof dir, "f%d", f);
        expect_ok(model("init --family %s --out @%s " SMALL, family_row((Family)f)->type, dir));
        expect_ok(model_read_config(&m, scratch(dir)));
        assert_int_equal(m.family, f);
        assert_int_equal(m.L, 3);
        assert_int_equal(m.C, 64);
        assert_true(m.n_eos >= 1);
    }
    ModelConfig m;
    expect_ok(model("init --family qwen3 --reward-model --out @rm " SMALL));
    expect_ok(model_read_config(&m, scratch("rm")));
    assert_true(m.scores == 1 && !m.lm_head);
    assert_string_equal(family_row(m.family)->scorer, "Qwen3ForSequenceClassification");
}

static void a_template_comes_along(void **state) {
    (void)state;
    static const char template[] =
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "<|pad|>{% endfor %}";
    scratch_write("t.jinja", template, strlen(template));
    expect_ok(model("init --family llama --out @with --chat-template @t.jinja " SMALL));
    ModelConfig m;
    Tokenizer *t;
    expect_ok(model_read_config(&m, scratch("with")));
    expect_ok(tokenizer_open_dir(&t, scratch("with")));
    assert_string_equal(tokenizer_chat_template(t), template);
    int ends = 0; /* the template's own end of a turn is one of the model's */
    for (int i = 0; i < m.n_eos; i++) ends += m.eos[i] == tokenizer_id(t, "<|pad|>");
    assert_int_equal(ends, 1);
    tokenizer_release(t);
    scratch_write("bad.jinja", "{% if", 5);
    expect_refused(model("init --family llama --out @with2 --chat-template @bad.jinja " SMALL),
                   "bad.jinja:1");
}

static void models_of_the_cache_are_found(void **state) {
    (void)state;
    static const char commit[] = "0123456789abcdef0123456789abcdef01234567\n";
    char path[MODEL_PATH_MAX], snapshot[256];
    ModelConfig m;
    setenv("HF_HOME", scratch("hf"), 1);
    unsetenv("HF_HUB_CACHE");
    expect_refused(model_find(path, "org/name-1.0"), "hf download org/name-1.0");
    expect_ok(file_mkdirs(scratch("hf/hub/models--org--name-1.0/refs")));
    scratch_write("hf/hub/models--org--name-1.0/refs/main", commit, strlen(commit));
    expect_refused(model_find(path, "org/name-1.0"), "hf download");
    snprintf(snapshot, sizeof snapshot, "hf/hub/models--org--name-1.0/snapshots/%.40s", commit);
    expect_ok(model("init --family qwen2 --out @%s " SMALL, snapshot));
    expect_ok(model_find(path, "org/name-1.0"));
    assert_string_equal(path, scratch(snapshot));
    expect_ok(model_read_config(&m, "org/name-1.0"));
    assert_int_equal(m.family, FAMILY_QWEN2);
    size_t n;
    free(values("org/name-1.0", &n));
    expect_ok(model("convert org/name-1.0 --out @copied"));
    /* a reference cannot lead out of the cache */
    static const char evil[] = "../../../../etc";
    scratch_write("hf/hub/models--org--name-1.0/refs/main", evil, strlen(evil));
    expect_refused(model_find(path, "org/name-1.0"), "hf download");
    /* HF_HUB_CACHE goes first */
    setenv("HF_HUB_CACHE", scratch("elsewhere"), 1);
    expect_refused(model_find(path, "org/name-1.0"), "elsewhere");
    unsetenv("HF_HUB_CACHE");
    /* what is there by its own name, or is no hub's name, stays */
    static const char *const own[] = {"/org/name", "./org",    "a/b/c", "../x/y",
                                      "name",      "a/b.gguf", "-a/b"};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        expect_ok(model_find(path, own[i]));
        assert_string_equal(path, own[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_is_converted),
        cmocka_unit_test(shards_are_as_large_as_allowed),
        cmocka_unit_test(nothing_is_written_over),
        cmocka_unit_test(too_large_for_f16),
        cmocka_unit_test(halves_are_rounded_to_even),
        cmocka_unit_test(every_family_can_begin),
        cmocka_unit_test(a_template_comes_along),
        cmocka_unit_test(models_of_the_cache_are_found),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
