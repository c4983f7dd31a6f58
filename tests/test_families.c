/* test_families.c - a tiny model of each family beside transformers in float64: log-probabilities,
 * the gradient of the SFT loss by every tensor, decoding against the training forward.
 * tests/reference/make_families.py made tests/fixtures/families; with --write DIR our copies of the
 * models go there for it to read. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "core/base/json.h"
#include "core/base/text.h"
#include "core/base/threads.h"
#include "core/model/hf.h"
#include "core/model/network.h"
#include "core/model/safetensors.h"
#include "tests/expect.h"

static const struct {
    const char *name;
    Family family;
} cases[] = {{"llama3", FAMILY_LLAMA},
             {"mistral", FAMILY_MISTRAL},
             {"llama_bias", FAMILY_LLAMA},
             {"qwen2", FAMILY_QWEN2},
             {"qwen3", FAMILY_QWEN3},
             {"smollm3", FAMILY_SMOLLM3},
             {"mistral_window", FAMILY_MISTRAL},
             {"qwen2_window", FAMILY_QWEN2},
             {"phi3", FAMILY_PHI3},
             {"gpt2", FAMILY_GPT2},
             {"gemma2", FAMILY_GEMMA2},
             {"gemma3", FAMILY_GEMMA3},
             {"olmo2", FAMILY_OLMO2},
             {"gpt_neox", FAMILY_GPT_NEOX},
             {"gpt_neox_serial", FAMILY_GPT_NEOX}};
enum { CASES = sizeof cases / sizeof *cases, N_MAX = 64, LONGEST = 32 };

typedef struct {
    Backend *b;
    Workspace *ws;
    Network net;
    int ids[N_MAX], starts[8], S, N;
    uint8_t wanted[N_MAX];
    float golden[N_MAX];
} Model;

static const char *fixture(const char *name, const char *file) {
    static char path[200];
    snprintf(path, sizeof path, "tests/fixtures/families/%s%s%s", name, file[0] ? "/" : "", file);
    return path;
}

/* Two sequences end to end; every token but a sequence's first is asked for. */
static void read_golden(Model *m, const char *name) {
    JsonDoc *doc;
    expect_ok(json_parse_file(&doc, fixture(name, "golden.json"), JSON_STRICT));
    const Json *logp = json_first(json_get(json_root(doc), "logp"));
    for (const Json *row = json_first(json_get(json_root(doc), "ids")); row; row = json_next(row)) {
        int first = m->N;
        for (const Json *id = json_first(row); id; id = json_next(id)) {
            assert_true(m->N < N_MAX);
            m->ids[m->N] = (int)json_num(id);
            m->wanted[m->N] = m->N > first;
            if (m->N > first) m->golden[m->N] = (float)json_num(logp), logp = json_next(logp);
            m->N++;
        }
        m->starts[++m->S] = m->N;
    }
    assert_null(logp);
    json_release(doc);
}

static void model_open(Model *m, const char *name, const char *dtype, int scores) {
    ModelConfig cfg;
    const ModelConfig *c = &cfg;
    WorkspacePlan plan = {.tokens = N_MAX, .sequences = 8, .train = 1, .max_length = LONGEST};
    *m = (Model){0};
    expect_ok(backend_create(&m->b, "cpu", "auto", dtype));
    expect_ok(model_read_config(&cfg, fixture(name, "")));
    if (scores) cfg.lm_head = 0, cfg.scores = 1;
    expect_ok(workspace_create(&m->ws, m->b, &plan, &c, 1, NULL));
    expect_ok(network_create(&m->net, m->b, &cfg, m->ws, 1));
    expect_ok(model_read_weights(&m->net.w, fixture(name, ""), 1));
    read_golden(m, name);
}

static void model_close(Model *m) {
    network_release(&m->net);
    workspace_release(m->ws);
    backend_release(m->b);
}

static Batch batch_of(const Model *m) {
    return (Batch){.S = m->S,
                   .N = m->N,
                   .ids = m->ids,
                   .starts = m->starts,
                   .wanted = m->wanted,
                   .temperature = 1.0f};
}

typedef struct {
    const char *name;
    Model *m;
    Safetensors *golden;
} Gradients;

static Status check_gradient(void *ctx, const TensorInfo *info, Buf *slot) {
    Gradients *g = ctx;
    size_t n = (size_t)info->rows * (size_t)info->cols;
    float *want = malloc(n * sizeof *want), *got = malloc(n * sizeof *got);
    double d = 0.0, norm = 0.0;
    const SafetensorsTensor *t = safetensors_find(g->golden, info->name);
    if (!t) fail_msg("%s has no gradient of %s", g->name, info->name);
    assert_int_equal(t->count, n);
    expect_ok(safetensors_read_f32(t, 0, n, want));
    g->m->b->download(g->m->b, got, *slot, n);
    for (size_t i = 0; i < n; i++) {
        float w = want[tensor_file_index(&g->m->net.w.cfg, info, i)];
        d += pow((double)got[i] - w, 2);
        norm += pow(w, 2);
    }
    if (!(sqrt(d) <= 1e-3 * sqrt(norm) + 1e-7)) /* a key's bias moves no probability */
        fail_msg("%s: the gradient of %s is off by %.3g of its norm %.3g", g->name, info->name,
                 sqrt(d / norm), sqrt(norm));
    free(want);
    free(got);
    return OK;
}

static void check_gradients(Model *m, const char *name) {
    Gradients g = {.name = name, .m = m};
    Network *net = &m->net;
    expect_ok(safetensors_open(&g.golden, fixture(name, "gradients.safetensors")));
    if (net->grad_tied.ptr)
        m->b->add(m->b, net->g.tok_emb, net->g.tok_emb, net->grad_tied,
                  (size_t)net->w.cfg.V * (size_t)net->w.cfg.C);
    expect_ok(tensors_visit(&net->w.cfg, &net->g, check_gradient, &g));
    safetensors_close(g.golden);
}

static void families_agree_with_transformers(void **state) {
    (void)state;
    for (int f = 0; f < CASES; f++) {
        Model m;
        float logp[N_MAX] = {0}, dlogp[N_MAX] = {0};
        model_open(&m, cases[f].name, "f32", 0);
        assert_int_equal(m.net.w.cfg.family, cases[f].family);
        Batch batch = batch_of(&m);
        network_zero_grads(&m.net);
        expect_ok(network_forward(&m.net, &batch, &(TokenOutputs){.logp = logp}));
        for (int n = 0; n < m.N; n++) {
            if (!(fabsf(logp[n] - m.golden[n]) < 1e-4f))
                fail_msg("%s: log-probability %d is %.7g, %.7g in transformers", cases[f].name, n,
                         (double)logp[n], (double)m.golden[n]);
            dlogp[n] = m.wanted[n] ? -1.0f / (float)(m.N - m.S) : 0.0f;
        }
        expect_ok(network_backward(&m.net, &(TokenGrads){.logp = dlogp}));
        check_gradients(&m, cases[f].name);
        model_close(&m);
    }
}

/* The first sequence token by token through the cache, its scores beside the training forward's. */
static void decoding_equals_the_training_forward(void **state) {
    (void)state;
    for (int i = 0; i < 2 * CASES; i++) {
        Model m;
        KvCache kv;
        float logp[N_MAX] = {0}, drawn[1], cut[1];
        model_open(&m, cases[i / 2].name, i % 2 ? "bf16" : "f32", 0);
        int n = m.starts[1], one[2] = {0, 1}, row = 0, id;
        Batch batch = batch_of(&m), first = {.S = 1, .N = 1, .ids = m.ids, .starts = one};
        expect_ok(network_forward(&m.net, &batch, &(TokenOutputs){.logp = logp}));
        expect_ok(kv_create(&kv, m.b, &m.net.w.cfg, 1, LONGEST, 0));
        assert_true(kv_reserve(&kv, 0, n));
        kv_flush(&kv);
        expect_ok(network_prefill(&m.net, &kv, &first, &row));
        SampleParams p = {.temperature = 1.0f, .top_p = 1.0f, .vocab = m.net.w.cfg.V};
        for (int t = 1; t < n; t++) {
            /* every draw, until the one that the sequence has comes: its logp is the forward's */
            int found = 0;
            for (int k = 0; k < 4096 && !found; k++) {
                double u = (k + 0.5) / 4096;
                expect_ok(network_sample(&m.net, &u, p, 1, &id, drawn, cut));
                found = id == m.ids[t];
            }
            if (found) assert_memory_equal(drawn, logp + t, sizeof *drawn);
            expect_ok(network_decode(&m.net, &kv, m.ids + t, &row, &t, 1));
        }
        expect_ok(m.b->sync(m.b));
        kv_release(&kv);
        model_close(&m);
    }
}

/* The models again from GGUF files, as tests/reference/make_gguf.py arranged them. smollm3's says
 * nothing of layers without rotation: every fourth, and the fixture's are others. */
static const struct {
    const char *name;
    int other_layers;
} in_gguf[] = {{"llama3", 0}, {"llama_bias", 0}, {"qwen2", 0}, {"qwen3", 0}, {"smollm3", 1},
               {"gemma2", 0}, {"gemma3", 0},     {"phi3", 0},  {"olmo2", 0}, {"gpt2", 0}};

static void same_weights(const char *name, Weights *a, Weights *b) {
    assert_int_equal(a->count, b->count);
    float *x = malloc(a->count * sizeof *x), *y = malloc(a->count * sizeof *y);
    a->b->download(a->b, x, a->flat, a->count);
    b->b->download(b->b, y, b->flat, b->count);
    for (size_t i = 0; i < a->count; i++)
        if (!(fabsf(x[i] - y[i]) <= 2e-7f)) /* gemma's norms were stored with 1 more */
            fail_msg("%s: weight %zu is %g in the GGUF file, %g in the directory", name, i,
                     (double)y[i], (double)x[i]);
    free(x);
    free(y);
}

static void gguf_files_are_the_same_models(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof in_gguf / sizeof *in_gguf; i++) {
        char path[200];
        const char *name = in_gguf[i].name;
        ModelConfig cfg;
        Network net;
        Model m;
        float logp[N_MAX] = {0};
        model_open(&m, name, "f32", 0);
        snprintf(path, sizeof path, "tests/fixtures/gguf/%s.gguf", name);
        expect_ok(model_read_config(&cfg, path));
        assert_int_equal(cfg.family, m.net.w.cfg.family);
        expect_ok(network_create(&net, m.b, &cfg, m.ws, 1));
        expect_ok(model_read_weights(&net.w, path, 1));
        same_weights(name, &m.net.w, &net.w);
        Batch batch = batch_of(&m);
        expect_ok(network_forward(&net, &batch, &(TokenOutputs){.logp = logp}));
        for (int n = 0; n < m.N && !in_gguf[i].other_layers; n++)
            if (!(fabsf(logp[n] - m.golden[n]) < 1e-4f))
                fail_msg("%s: log-probability %d is %.7g, %.7g in transformers", path, n,
                         (double)logp[n], (double)m.golden[n]);
        network_release(&net);
        model_close(&m);
    }
}

/* Angles that follow the length of each sequence: within the first lengths only. */
static void lengths_that_move_the_angles_are_refused(void **state) {
    (void)state;
    const struct {
        const char *name, *type;
        int most;
    } moving[] = {{"qwen2_window", "dynamic", 64}, {"phi3", "longrope", 32}};
    ModelConfig cfg;
    const ModelConfig *c = &cfg;
    Backend *b;
    Workspace *ws;
    Network net;
    expect_ok(backend_create(&b, "cpu", "auto", "f32"));
    for (int i = 0; i < 4; i++) {
        WorkspacePlan plan = {
            .tokens = 64, .sequences = 1, .max_length = moving[i / 2].most + i % 2};
        expect_ok(model_read_config(&cfg, fixture(moving[i / 2].name, "")));
        expect_ok(workspace_create(&ws, b, &plan, &c, 1, NULL));
        assert_int_equal(network_create(&net, b, &cfg, ws, 0), i % 2 ? E_USAGE : OK);
        if (i % 2) assert_non_null(strstr(status_message(), moving[i / 2].type));
        network_release(&net);
        workspace_release(ws);
    }
    backend_release(b);
}

/* --- for make_families.py --check --- */

/* the likeliest tokens after the first few, one by one */
static void write_greedy(Model *m, const char *dir) {
    enum { PROMPT = 5, LENGTH = 25 };
    char path[1100];
    KvCache kv;
    Text t = {0};
    float logp, cut;
    double u = 0.0;
    int ids[LENGTH], row = 0, one[2] = {0, PROMPT};
    memcpy(ids, m->ids, PROMPT * sizeof *ids);
    Batch batch = {.S = 1, .N = PROMPT, .ids = ids, .starts = one};
    SampleParams greedy = {.top_p = 1.0f, .vocab = m->net.w.cfg.V};
    expect_ok(kv_create(&kv, m->b, &m->net.w.cfg, 1, LONGEST, 0));
    assert_true(kv_reserve(&kv, 0, LENGTH));
    kv_flush(&kv);
    expect_ok(network_prefill(&m->net, &kv, &batch, &row));
    for (int n = PROMPT; n < LENGTH; n++) {
        expect_ok(network_sample(&m->net, &u, greedy, 1, ids + n, &logp, &cut));
        expect_ok(network_decode(&m->net, &kv, ids + n, &row, &n, 1));
    }
    expect_ok(m->b->sync(m->b));
    text_addf(&t, "{\"prompt\": %d, \"ids\": ", PROMPT);
    json_put_ints(&t, ids, LENGTH);
    text_add(&t, "}\n");
    snprintf(path, sizeof path, "%s/greedy.json", dir);
    expect_ok(file_write_atomic(path, t.s, t.len));
    text_release(&t);
    kv_release(&kv);
}

static void write_copy(const char *to, const char *name) {
    char dir[1000];
    Model m;
    model_open(&m, name, "f32", 0);
    snprintf(dir, sizeof dir, "%s/%s", to, name);
    expect_ok(model_write(&m.net.w, dir));
    write_greedy(&m, dir);
    model_close(&m);
}

static void write_scores(const char *to, const char *name) {
    char dir[1000], path[1100];
    float score[N_MAX];
    Text t = {0};
    Model m;
    model_open(&m, name, "f32", 1);
    snprintf(dir, sizeof dir, "%s/%s-score", to, name);
    snprintf(path, sizeof path, "%s/scores.json", dir);
    Batch batch = batch_of(&m);
    batch.wanted = NULL;
    expect_ok(model_write(&m.net.w, dir));
    expect_ok(network_forward(&m.net, &batch, &(TokenOutputs){.score = score}));
    json_put_floats(&t, score, m.starts[1]);
    expect_ok(file_write_atomic(path, t.s, t.len));
    text_release(&t);
    model_close(&m);
}

static const char *write_to;

static void copies_are_written(void **state) {
    (void)state;
    for (int f = 0; f < CASES; f++) {
        write_copy(write_to, cases[f].name);
        write_scores(write_to, cases[f].name);
    }
}

int main(int argc, char **argv) {
    threads_start(1);
    if (argc == 3 && !strcmp(argv[1], "--write")) {
        const struct CMUnitTest copies[] = {cmocka_unit_test(copies_are_written)};
        write_to = argv[2];
        return cmocka_run_group_tests_name("copies", copies, NULL, NULL);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(families_agree_with_transformers),
        cmocka_unit_test(decoding_equals_the_training_forward),
        cmocka_unit_test(gguf_files_are_the_same_models),
        cmocka_unit_test(lengths_that_move_the_angles_are_refused),
    };
    return cmocka_run_group_tests_name("families", tests, NULL, NULL);
}
