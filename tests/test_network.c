/* test_network.c - the waist: gradients of a whole 2-layer model by signed differences for every
 * output, and the promises about bits: threads, batches, micro-batches, recomputation, decoding. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/base/memory.h"
#include "core/base/rng.h"
#include "core/base/threads.h"
#include "core/model/average.h"
#include "core/model/network.h"
#include "core/model/optim.h"
#include "core/model/packed.h"
#include "tests/family_model.h"
#include "tests/gradient.h"
#include "tests/kernels.h"

static const ModelConfig small = {.V = 61,
                                  .C = 40,
                                  .L = 2,
                                  .NH = 4,
                                  .NKV = 2,
                                  .HS = 10,
                                  .FF = 52,
                                  .max_positions = 128,
                                  .rope_theta = 10000.0f,
                                  .norm_eps = 1e-5f,
                                  .lm_head = 1,
                                  .scores = 1,
                                  .init_std = 0.3f,
                                  .bos = -1,
                                  .pad = -1};

/* The kinds of model that the promises are held to. */
enum { PLAIN, TIED, BIASES, HEAD_NORMS, GEMMA2, GEMMA3, OLMO2, GPT2, GPT_NEOX, MODELS };

static ModelConfig kind_of_model(int i) {
    static const Family families[] = {[GEMMA2] = FAMILY_GEMMA2,
                                      [GEMMA3] = FAMILY_GEMMA3,
                                      [OLMO2] = FAMILY_OLMO2,
                                      [GPT2] = FAMILY_GPT2,
                                      [GPT_NEOX] = FAMILY_GPT_NEOX};
    ModelConfig cfg = i < GEMMA2 ? small : model_of_family(families[i], &small);
    if (i > TIED) cfg.init_std = 0.15f; /* less curvature for what is stirred */
    if (i >= GEMMA2) return cfg;
    cfg.tied = i == TIED || i == HEAD_NORMS;
    cfg.qk_norm = i == HEAD_NORMS;
    cfg.unrotated[0] = i == HEAD_NORMS ? 2 : 0; /* the second layer */
    if (i == BIASES) cfg.qkv_bias = cfg.o_bias = cfg.mlp_bias = 1;
    return cfg;
}

enum { S = 3, N = 41 };
static const int starts[S + 1] = {0, 1, 37, 41};
static int ids[N];
static uint8_t wanted[N];

static Backend *backend_auto(const char *dtype) {
    Backend *b;
    assert_int_equal(backend_create(&b, "cpu", "auto", dtype), OK);
    return b;
}

static Batch batch_all(void) {
    for (int i = 0; i < N; i++) ids[i] = (int)(rng_uniform(5, RNG_TEST, 1, (uint64_t)i) * small.V);
    for (int s = 0; s < S; s++)
        for (int n = starts[s]; n < starts[s + 1]; n++) wanted[n] = n > starts[s] && n % 5 != 3;
    return (Batch){
        .S = S, .N = N, .ids = ids, .starts = starts, .wanted = wanted, .temperature = 0.7f};
}

typedef struct {
    Workspace *ws;
    Network net;
} Model;

/* Norms and biases away from their 1 and 0. */
static Status stir_vector(void *ctx, const TensorInfo *info, Buf *slot) {
    Backend *b = ctx;
    float v[128];
    assert_true(info->rows <= 128);
    if (!info->vector) return OK;
    fill_random(v, (size_t)info->rows, info->rows + (int)info->offset, 0.2f);
    for (int i = 0; info->init == INIT_ONE && i < info->rows; i++) v[i] += 1.0f;
    b->upload(b, *slot, v, (size_t)info->rows);
    return OK;
}

static Model model_create(Backend *b, ModelConfig cfg, int recompute) {
    Model m;
    const ModelConfig *c = &cfg;
    WorkspacePlan plan = {
        .tokens = 64, .sequences = 8, .train = 1, .recompute = recompute, .max_length = 64};
    assert_int_equal(workspace_create(&m.ws, b, &plan, &c, 1, NULL), OK);
    assert_int_equal(network_create(&m.net, b, &cfg, m.ws, 1), OK);
    assert_int_equal(weights_init(&m.net.w, 3), OK);
    if (cfg.qkv_bias || cfg.qk_norm || cfg.family)
        assert_int_equal(tensors_visit(&cfg, &m.net.w.t, stir_vector, b), OK);
    return m;
}

static void model_release(Model *m) {
    network_release(&m->net);
    workspace_release(m->ws);
}

/* A scalar that uses every output, with fixed random coefficients. */
typedef struct {
    Network *net;
    Batch batch;
    float a[N], e[N], u[N], s[N];
    float *host; /* weights, uploaded before each evaluation */
    double planted;
} Loss;

static double loss_of(void *ctx) {
    Loss *l = ctx;
    float logp[N] = {0}, entropy[N] = {0}, mean[N] = {0}, score[N] = {0};
    l->net->b->upload(l->net->b, l->net->w.flat, l->host, l->net->w.count);
    weights_pack(&l->net->w);
    TokenOutputs out = {.logp = logp, .entropy = entropy, .mean_logp = mean, .score = score};
    assert_int_equal(network_forward(l->net, &l->batch, &out), OK);
    double sum = 0.0;
    for (int n = 0; n < N; n++) {
        if (l->batch.wanted[n])
            sum += (double)l->a[n] * logp[n] + (double)l->e[n] * entropy[n] +
                   (double)l->u[n] * mean[n];
        sum += (double)l->s[n] * score[n];
    }
    return sum;
}

static void loss_fill(Loss *l, Network *net) {
    l->net = net;
    l->batch = batch_all();
    fill_random(l->a, N, 1, 0.3f);
    fill_random(l->e, N, 2, 0.3f);
    fill_random(l->u, N, 3, 0.3f);
    fill_random(l->s, N, 4, 0.3f);
    l->host = malloc(net->w.count * sizeof(float));
    net->b->download(net->b, l->host, net->w.flat, net->w.count);
}

static float *gradient_of(Loss *l) {
    TokenOutputs out = {0};
    TokenGrads g = {.logp = l->a, .entropy = l->e, .mean_logp = l->u, .score = l->s};
    network_zero_grads(l->net);
    float logp[N];
    out.logp = logp;
    assert_int_equal(network_forward(l->net, &l->batch, &out), OK);
    assert_int_equal(network_backward(l->net, &g), OK);
    Network *net = l->net;
    if (net->grad_tied.ptr)
        net->b->add(net->b, net->g.tok_emb, net->g.tok_emb, net->grad_tied,
                    (size_t)net->w.cfg.V * (size_t)net->w.cfg.C);
    float *grad = malloc(net->w.count * sizeof *grad);
    net->b->download(net->b, grad, net->grad, net->w.count);
    return grad;
}

typedef struct {
    Loss *loss;
    float *grad;
    double step;
} PerTensor;

static Status check_tensor(void *ctx, const TensorInfo *info, Buf *slot) {
    (void)slot;
    PerTensor *p = ctx;
    int weak = info->init == INIT_BIAS || strstr(info->name, "attn") != NULL ||
               strstr(info->name, "attention.") != NULL;
    double step = weak && info->vector ? 1e-3 : p->step; /* they move little */
    expect_gradient(info->name, loss_of, p->loss, p->loss->host + info->offset,
                    p->grad + info->offset, (size_t)info->rows * (size_t)info->cols, step, 4e-3);
    return OK;
}

static void gradients_of_the_whole_model(void **state) {
    (void)state;
    for (int kind = 0; kind < MODELS; kind++) {
        for (int k = 0; k < F32_KERNELS; k++) {
            Backend *b = kernels_create(&cpu_kernels[k]);
            if (!b) continue;
            ModelConfig cfg = kind_of_model(kind);
            Model m = model_create(b, cfg, 0);
            Loss l;
            loss_fill(&l, &m.net);
            float *grad = gradient_of(&l);
            PerTensor p = {&l, grad, kind > TIED ? 2e-4 : 4e-5};
            assert_int_equal(tensors_visit(&cfg, &m.net.w.t, check_tensor, &p), OK);
            free(grad);
            free(l.host);
            model_release(&m);
            backend_release(b);
        }
    }
}

static void gradients_in_bf16_are_close_to_those_in_f32(void **state) {
    (void)state;
    for (int kind = 0; kind < MODELS; kind++) {
        ModelConfig cfg = kind_of_model(kind);
        cfg.init_std = 0.1f; /* as a width of 40 asks for: at 0.3 errors grow tenfold */
        size_t n = tensors_count(&cfg);
        float *want = NULL;
        for (int k = 0; k < CPU_KERNELS; k++) { /* the portable ones in f32 first */
            Backend *b = kernels_create(&cpu_kernels[k]);
            if (!b) continue;
            Model m = model_create(b, cfg, 0);
            Loss l;
            loss_fill(&l, &m.net);
            float *grad = gradient_of(&l);
            double d = 0.0, norm = 0.0;
            if (!want) want = grad;
            for (size_t i = 0; i < n; i++) {
                d += pow((double)grad[i] - want[i], 2);
                norm += pow(want[i], 2);
            }
            printf("%s, %s: the gradient is off by %.2g of its norm\n", cpu_kernels[k].name,
                   cpu_kernels[k].dtype, sqrt(d / norm));
            /* what is normed again has larger scores than others here: attention is sharper */
            assert_true(sqrt(d / norm) < (kind >= HEAD_NORMS ? 0.025 : 0.015));
            if (grad != want) free(grad);
            free(l.host);
            model_release(&m);
            backend_release(b);
        }
        free(want);
    }
}

/* A gradient test that cannot fail proves nothing: a flipped sign, a dropped token, a shifted
 * tensor. */
static void planted_mistakes_are_seen(void **state) {
    (void)state;
    Backend *b = backend_auto("f32");
    Model m = model_create(b, small, 0);
    Loss l;
    loss_fill(&l, &m.net);
    float *grad = gradient_of(&l);
    size_t n = m.net.w.count;
    float *wrong = malloc(n * sizeof *wrong);
    for (size_t i = 0; i < n; i++) wrong[i] = -grad[i];
    assert_true(gradient_error("(planted sign)", loss_of, &l, l.host, wrong, n, 2e-4, 1e9) > 0.1);
    for (size_t i = 0; i < n; i++) wrong[i] = grad[(i + 1) % n];
    assert_true(gradient_error("(planted shift)", loss_of, &l, l.host, wrong, n, 2e-4, 1e9) > 0.1);
    l.a[9] += 3.0f; /* the loss gains a term that the gradient does not know */
    assert_true(gradient_error("(planted term)", loss_of, &l, l.host, grad, n, 2e-4, 1e9) > 0.01);
    free(wrong);
    free(grad);
    free(l.host);
    model_release(&m);
    backend_release(b);
}

typedef struct {
    float logp[N], entropy[N], score[N];
} Outputs;

static void forward(Network *net, const Batch *batch, Outputs *o) {
    memset(o, 0, sizeof *o);
    TokenOutputs out = {.logp = o->logp, .entropy = o->entropy, .score = o->score};
    assert_int_equal(network_forward(net, batch, &out), OK);
}

static void forward_bits_do_not_depend_on_threads_or_neighbours(void **state) {
    (void)state;
    for (int i = 0; i < MODELS * CPU_KERNELS; i++) {
        Backend *b = kernels_create(&cpu_kernels[i / MODELS]);
        if (!b) continue;
        Model m = model_create(b, kind_of_model(i % MODELS), 0);
        Batch all = batch_all();
        Outputs one, other;
        forward(&m.net, &all, &one);
        for (int threads = 2; threads <= 3; threads++) {
            assert_int_equal(threads_start(threads), OK);
            forward(&m.net, &all, &other);
            assert_memory_equal(&one, &other, sizeof one);
        }
        threads_start(1);
        for (int s = 0; s < S; s++) { /* each sequence alone */
            int alone_starts[2] = {0, starts[s + 1] - starts[s]};
            Batch alone = {.S = 1,
                           .N = alone_starts[1],
                           .ids = ids + starts[s],
                           .starts = alone_starts,
                           .wanted = wanted + starts[s],
                           .temperature = 0.7f};
            forward(&m.net, &alone, &other);
            size_t bytes = (size_t)alone.N * sizeof(float);
            assert_memory_equal(other.logp, one.logp + starts[s], bytes);
            assert_memory_equal(other.entropy, one.entropy + starts[s], bytes);
            assert_memory_equal(other.score, one.score + starts[s], bytes);
        }
        model_release(&m);
        backend_release(b);
    }
}

/* Gradients after one batch, after one batch per sequence, with recomputation, with 3 threads,
 * through network_learn: the same bytes. */
static void gradient_bits(Backend *b, int model, int how, float *grad) {
    ModelConfig cfg = kind_of_model(model);
    Model m = model_create(b, cfg, how == 2);
    Loss l;
    loss_fill(&l, &m.net);
    network_zero_grads(&m.net);
    threads_start(how == 3 ? 3 : 1);
    float logp[N];
    TokenOutputs out = {.logp = logp};
    for (int s = 0; s < (how == 1 ? S : 1); s++) {
        int first = how == 1 ? starts[s] : 0, one[2] = {0, starts[s + 1] - starts[s]};
        Batch part = l.batch;
        if (how == 1)
            part = (Batch){.S = 1,
                           .N = one[1],
                           .ids = ids + first,
                           .starts = one,
                           .wanted = wanted + first,
                           .temperature = 0.7f};
        TokenGrads g = {.logp = l.a + first,
                        .entropy = l.e + first,
                        .mean_logp = l.u + first,
                        .score = l.s + first};
        if (how == 4) {
            assert_int_equal(network_learn(&m.net, &part, &g, &out), OK);
        } else {
            assert_int_equal(network_forward(&m.net, &part, &out), OK);
            assert_int_equal(network_backward(&m.net, &g), OK);
        }
    }
    if (cfg.tied)
        b->add(b, m.net.g.tok_emb, m.net.g.tok_emb, m.net.grad_tied, (size_t)cfg.V * (size_t)cfg.C);
    b->download(b, grad, m.net.grad, m.net.w.count);
    threads_start(1);
    free(l.host);
    model_release(&m);
}

static void gradient_bits_do_not_depend_on_micro_batches(void **state) {
    (void)state;
    for (int i = 0; i < MODELS * CPU_KERNELS; i++) {
        int model = i % MODELS, kind = i / MODELS;
        Backend *b = kernels_create(&cpu_kernels[kind]);
        if (!b) continue;
        ModelConfig cfg = kind_of_model(model);
        size_t bytes = tensors_count(&cfg) * sizeof(float);
        float *want = malloc(bytes), *got = malloc(bytes);
        gradient_bits(b, model, 0, want);
        for (int how = 1 + cpu_kernels[kind].pairs; how <= 4; how++) {
            gradient_bits(b, model, how, got);
            if (memcmp(want, got, bytes))
                printf("%s, %s, model %d, variant %d differs\n", b->kernels, dtype_name(b->dtype),
                       model, how);
            assert_memory_equal(want, got, bytes);
        }
        free(want);
        free(got);
        backend_release(b);
    }
}

/* Prefill + decoding token by token, rows in odd slots, equals the training forward bit for bit. */
static void decoding_equals_the_full_forward(void **state) {
    (void)state;
    enum { T = 45, PROMPT = 7 };
    for (int i = 0; i < MODELS * CPU_KERNELS; i++) {
        Backend *b = kernels_create(&cpu_kernels[i / MODELS]);
        if (!b) continue;
        ModelConfig cfg = kind_of_model(i % MODELS);
        Model m = model_create(b, cfg, 0);
        KvCache kv;
        assert_int_equal(kv_create(&kv, b, &cfg, 3, 64, 0), OK);
        int seq[T], rows[2] = {2, 0}, two[3] = {0, PROMPT, PROMPT + 3};
        int prompt[PROMPT + 3];
        float sampled[T] = {0}, cut[2], logp[2];
        for (int n = 0; n < PROMPT + 3; n++) prompt[n] = (n * 7 + 3) % small.V;
        memcpy(seq, prompt, PROMPT * sizeof(int));
        for (int r = 0; r < 3; r++) assert_true(kv_reserve(&kv, r, r == 2 ? T : 8));
        kv_flush(&kv);
        Batch p = {.S = 2, .N = PROMPT + 3, .ids = prompt, .starts = two, .temperature = 0.7f};
        assert_int_equal(network_prefill(&m.net, &kv, &p, rows), OK);
        SampleParams sp = {.temperature = 0.7f, .top_p = 1.0f, .vocab = small.V};
        for (int t = PROMPT; t < T; t++) {
            double u[2] = {rng_uniform(1, RNG_SAMPLE, 0, (uint64_t)t), 0.5};
            int drawn[2];
            assert_int_equal(network_sample(&m.net, u, sp, t == PROMPT ? 2 : 1, drawn, logp, cut),
                             OK);
            seq[t] = drawn[0];
            sampled[t] = logp[0];
            assert_int_equal(network_decode(&m.net, &kv, drawn, rows, (int[]){t}, 1), OK);
        }
        uint8_t want[T];
        int one[2] = {0, T};
        float full[T] = {0};
        for (int t = 0; t < T; t++) want[t] = t >= PROMPT;
        Batch whole = {
            .S = 1, .N = T, .ids = seq, .starts = one, .wanted = want, .temperature = 0.7f};
        TokenOutputs out = {.logp = full};
        assert_int_equal(network_forward(&m.net, &whole, &out), OK);
        assert_memory_equal(sampled + PROMPT, full + PROMPT, (T - PROMPT) * sizeof(float));
        kv_release(&kv);
        model_release(&m);
        backend_release(b);
    }
}

/* A reference model starts as the policy's twin: what is stored rounded gives the bits of what is
 * rounded where it is read. */
static void a_frozen_copy_gives_the_same_bits(void **state) {
    (void)state;
    for (int k = 0; k < CPU_KERNELS; k++) {
        Backend *b = kernels_create(&cpu_kernels[k]);
        if (!b) continue;
        for (int kind = 0; kind < MODELS; kind++) {
            ModelConfig cfg = kind_of_model(kind);
            Model m = model_create(b, cfg, 0);
            Network frozen;
            assert_int_equal(network_create(&frozen, b, &cfg, m.ws, 0), OK);
            assert_int_equal(frozen.w.flat.dtype, b->dtype);
            float *host = malloc(m.net.w.count * sizeof *host);
            for (size_t i = 0; i < m.net.w.count; i++) /* norms, too, are not powers of two */
                host[i] = 0.5f + (float)rng_uniform(8, RNG_TEST, 2, i);
            b->upload(b, m.net.w.flat, host, m.net.w.count);
            b->upload(b, frozen.w.flat, host, m.net.w.count);
            weights_pack(&m.net.w);
            weights_pack(&frozen.w);
            free(host);
            Batch all = batch_all();
            Outputs one, other;
            forward(&m.net, &all, &one);
            forward(&frozen, &all, &other);
            assert_memory_equal(&one, &other, sizeof one);
            network_release(&frozen);
            model_release(&m);
        }
        backend_release(b);
    }
}

static Status update_alone(void *ctx, const TensorInfo *info, Buf *slot) {
    const Optim *o = ctx;
    Backend *b = o->net->b;
    AdamwParams p = {.lr = 1e-2f,
                     .beta1 = o->cfg.beta1,
                     .beta2 = o->cfg.beta2,
                     .eps = o->cfg.eps,
                     .weight_decay = info->decay ? o->cfg.weight_decay : 0.0f,
                     .grad_scale = 1.0f,
                     .correction1 = (float)(1.0 - (double)o->cfg.beta1),
                     .correction2 = (float)(1.0 - (double)o->cfg.beta2)};
    b->adamw(b, *slot, buf_at(o->m, info->offset), buf_at(o->v, info->offset),
             (Buf){NULL, b->dtype}, buf_at(o->net->grad, info->offset),
             (size_t)info->rows * (size_t)info->cols, p);
    return OK;
}

static void expect_same(Backend *b, Buf one, Buf other, size_t n) {
    float *x = malloc(n * sizeof *x), *y = malloc(n * sizeof *y);
    b->download(b, x, one, n);
    b->download(b, y, other, n);
    assert_memory_equal(x, y, n * sizeof *x);
    free(x), free(y);
}

/* However it groups tensors: one step is that of each tensor alone, and what products read is as
 * if packed anew. */
static void a_step_is_that_of_each_tensor(void **state) {
    (void)state;
    OptimConfig cfg = {.beta1 = .9f, .beta2 = .99f, .eps = 1e-8f, .schedule = "constant"};
    for (int i = 0; i < MODELS * CPU_KERNELS; i++) {
        Backend *b = kernels_create(&cpu_kernels[i / MODELS]);
        if (!b) continue;
        ModelConfig kind = kind_of_model(i % MODELS);
        cfg.weight_decay = i % 2 ? .1f : 0.0f;
        Model one = model_create(b, kind, 0), other = model_create(b, kind, 0);
        size_t n = one.net.w.count;
        Optim of_one, of_other;
        double norm;
        float *grad = malloc(n * sizeof *grad);
        fill_random(grad, n, 5, 1.0f);
        assert_int_equal(optim_create(&of_one, &one.net, &cfg), OK);
        assert_int_equal(optim_create(&of_other, &other.net, &cfg), OK);
        b->upload(b, one.net.grad, grad, n);
        b->upload(b, other.net.grad, grad, n);
        assert_int_equal(optim_step(&of_one, 1e-2f, &norm), OK);
        assert_int_equal(tensors_visit(&kind, &other.net.w.t, update_alone, &of_other), OK);
        weights_pack(&other.net.w);
        expect_same(b, one.net.w.flat, other.net.w.flat, n);
        expect_same(b, of_one.m, of_other.m, n);
        expect_same(b, of_one.v, of_other.v, n);
        Batch all = batch_all();
        Outputs left, right;
        forward(&one.net, &all, &left);
        forward(&other.net, &all, &right);
        assert_memory_equal(&left, &right, sizeof left);
        free(grad);
        optim_release(&of_one), optim_release(&of_other);
        model_release(&one), model_release(&other);
        backend_release(b);
    }
}

/* w0, then w1 at decay 3/4: w0 + (w1 - w0)/4; its view is the average by name and leaves the
 * network alone */
static void an_average_follows_the_weights(void **state) {
    (void)state;
    Backend *b = kernels_create(&cpu_kernels[0]);
    Model m = model_create(b, small, 0);
    Average a, off;
    Weights view;
    size_t n = m.net.w.count, C = (size_t)small.C;
    float *before = malloc(n * sizeof *before), *after = malloc(n * sizeof *after),
          *got = malloc(n * sizeof *got);
    assert_int_equal(average_create(&off, &m.net, 0.0f), OK);
    average_start(&off), average_update(&off), average_release(&off);
    assert_int_equal(average_create(&a, &m.net, 0.75f), OK);
    b->download(b, before, m.net.w.flat, n);
    average_start(&a);
    assert_int_equal(weights_init(&m.net.w, 4), OK);
    b->download(b, after, m.net.w.flat, n);
    average_update(&a);
    b->download(b, got, a.w, n);
    for (size_t i = 0; i < n; i++) assert_true(got[i] == before[i] + .25f * (after[i] - before[i]));
    assert_int_equal(average_view(&a, &view), OK);
    b->download(b, before, view.t.layer[1].wo, C);
    size_t at = (size_t)((float *)m.net.w.t.layer[1].wo.ptr - (float *)m.net.w.flat.ptr);
    assert_memory_equal(before, got + at, C * sizeof *got);
    tensors_release(&view.t);
    b->download(b, got, m.net.w.flat, n);
    assert_memory_equal(got, after, n * sizeof *got);
    free(before), free(after), free(got);
    average_release(&a);
    model_release(&m);
    backend_release(b);
}

static void a_step_that_no_int_counts_is_refused(void **state) {
    (void)state;
    Packed p;
    assert_int_equal(packed_create(&p, 1 << 20, (size_t)1 << 40), E_USAGE);
    assert_non_null(strstr(status_message(), "too many"));
    packed_release(&p);
}

int main(void) {
    threads_start(1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_of_the_whole_model),
        cmocka_unit_test(gradients_in_bf16_are_close_to_those_in_f32),
        cmocka_unit_test(planted_mistakes_are_seen),
        cmocka_unit_test(forward_bits_do_not_depend_on_threads_or_neighbours),
        cmocka_unit_test(gradient_bits_do_not_depend_on_micro_batches),
        cmocka_unit_test(decoding_equals_the_full_forward),
        cmocka_unit_test(a_frozen_copy_gives_the_same_bits),
        cmocka_unit_test(a_step_is_that_of_each_tensor),
        cmocka_unit_test(an_average_follows_the_weights),
        cmocka_unit_test(a_step_that_no_int_counts_is_refused),
    };
    return cmocka_run_group_tests_name("network", tests, NULL, NULL);
}
