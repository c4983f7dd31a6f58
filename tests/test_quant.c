/* test_quant.c - weights in blocks of 8 and 4 bits: what they round to, their products on every
 * kernel, and frozen networks that hold them. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/backend/quant.h"
#include "core/base/rng.h"
#include "core/base/threads.h"
#include "core/model/network.h"
#include "tests/kernels.h"

static const Dtype types[] = {DT_Q8, DT_Q4};

static void fill(float *x, size_t n, int stream, float scale) {
    for (size_t i = 0; i < n; i++)
        x[i] = scale * rng_normal(5, RNG_TEST, (uint64_t)stream, (uint64_t)i);
}

static void blocks_round_to_nearest(void **state) {
    (void)state;
    enum { BLOCKS = 200 };
    float x[QUANT_BLOCK], y[QUANT_BLOCK];
    BlockQ8 q8;
    BlockQ4 q4;
    assert_int_equal(sizeof q8, dtype_bytes(DT_Q8));
    assert_int_equal(sizeof q4, dtype_bytes(DT_Q4));
    for (int b = 0; b < BLOCKS; b++) {
        fill(x, QUANT_BLOCK, b, b % 3 ? 1.0f : 1e-3f);
        quantize_q8(&q8, x);
        dequantize_q8(y, &q8);
        for (int i = 0; i < QUANT_BLOCK; i++) assert_true(fabsf(x[i] - y[i]) <= .5001f * q8.scale);
        quantize_q4(&q4, x);
        dequantize_q4(y, &q4);
        for (int i = 0; i < QUANT_BLOCK; i++) { /* 8 scales have no twin: at most a whole one off */
            int far = x[i] * q4.scale > 7.5f * q4.scale * q4.scale;
            assert_true(fabsf(x[i] - y[i]) <= (far ? 1.0001f : .5001f) * fabsf(q4.scale));
        }
    }
    for (int i = 0; i < QUANT_BLOCK; i++) x[i] = (float)(i % 16 - 8);
    quantize_q4(&q4, x);
    dequantize_q4(y, &q4);
    for (int i = 0; i < QUANT_BLOCK; i++) assert_true(x[i] == y[i]); /* on the grid */
    memset(x, 0, sizeof x);
    quantize_q8(&q8, x);
    dequantize_q8(y, &q8);
    assert_memory_equal(x, y, sizeof x);
    quantize_q4(&q4, x);
    dequantize_q4(y, &q4);
    for (int i = 0; i < QUANT_BLOCK; i++) assert_true(y[i] == 0.0f);
}

static Buf make(Backend *b, Dtype t, size_t n, const float *x) {
    Buf buf;
    assert_int_equal(b->alloc(b, &buf, t, n, "test"), OK);
    if (x) b->upload(b, buf, x, n);
    return buf;
}

/* A quantized product beside one of what the blocks hold, and its rows alone. */
static void expect_product(Backend *b, Dtype t, int K, int rounds) {
    enum { M = 61, O = 77 };
    size_t k = (size_t)K, n = O * k;
    float *x = malloc(M * k * sizeof *x), *w = malloc(n * sizeof *w), *held = malloc(n * sizeof *w);
    float bias[O], y[M * O], plain[M * O], alone[M * O];
    fill(x, M * k, 1, 1.0f);
    fill(w, n, 2, 0.1f);
    fill(bias, O, 3, 1.0f);
    Mat q = {.w = make(b, t, n, w), .O = O, .K = K, .bias = make(b, DT_F32, O, bias)};
    b->download(b, held, q.w, n);
    Mat m = {.w = make(b, DT_F32, n, held), .O = O, .K = K, .bias = q.bias};
    m.packed = make(b, b->dtype, b->packed_count(b, DT_F32, O, K), NULL);
    assert_int_equal(b->packed_count(b, t, O, K), 0);
    b->pack(b, m);
    Buf in = make(b, b->dtype, M * k, x), out = make(b, b->dtype, M * O, NULL);
    b->matmul_forward(b, out, in, m, M);
    b->download(b, plain, out, M * O);
    b->zero(b, out, M * O);
    b->matmul_forward(b, out, in, q, M);
    b->download(b, y, out, M * O);
    for (int i = 0; i < M * O; i++) {
        if (rounds ? fabsf(y[i] - plain[i]) > .05f * (1.0f + fabsf(plain[i])) : y[i] != plain[i])
            fail_msg("%s %s, K %d, element %d: %g, of plain weights %g", b->kernels, dtype_name(t),
                     K, i, y[i], plain[i]);
    }
    b->zero(b, out, M * O);
    for (int first = 0, rows = 1; first < M; first += rows, rows = rows % 17 + 1) {
        if (rows > M - first) rows = M - first;
        b->matmul_forward(b, buf_at(out, (size_t)first * O), buf_at(in, (size_t)first * k), q,
                          rows);
    }
    b->download(b, alone, out, M * O);
    assert_memory_equal(alone, y, sizeof y);
    Buf *all[] = {&q.w, &q.bias, &m.w, &m.packed, &in, &out};
    for (int i = 0; i < 6; i++) b->release(b, all[i]);
    free(x), free(w), free(held);
}

static void products_read_blocks(void **state) {
    (void)state;
    for (int k = 0; k < CPU_KERNELS; k++) {
        /* where products multiply f32, plain weights are rounded to bf16 and blocks' numbers not */
        int rounds = k >= F32_KERNELS && !cpu_kernels[k].pairs;
        Backend *b = kernels_create(&cpu_kernels[k]);
        if (!b) continue;
        for (int t = 0; t < 2; t++)
            for (int K = 32; K <= 2112; K = 3 * K + 96 > 2112 && K < 2112 ? 2112 : 3 * K + 96)
                expect_product(b, types[t], K, rounds);
        backend_release(b);
    }
}

static const ModelConfig shape = {.V = 61,
                                  .C = 64,
                                  .L = 3,
                                  .NH = 4,
                                  .NKV = 2,
                                  .HS = 16,
                                  .FF = 96,
                                  .max_positions = 64,
                                  .rope_theta = 10000.0f,
                                  .norm_eps = 1e-5f,
                                  .lm_head = 1,
                                  .init_std = 0.3f,
                                  .qkv_bias = 1,
                                  .bos = -1,
                                  .pad = -1};

typedef struct { /* slots of another network's weights, in the order of the list */
    Network *to;
    Buf slot[256];
    int n;
} Slots;

static Status keep_slot(void *ctx, const TensorInfo *info, Buf *slot) {
    Slots *s = ctx;
    (void)info;
    s->slot[s->n++] = *slot;
    return OK;
}

static Status copy_values(void *ctx, const TensorInfo *info, Buf *slot) {
    Slots *s = ctx;
    Backend *b = s->to->b;
    size_t count = (size_t)info->rows * (size_t)info->cols;
    float *x = malloc(count * sizeof *x);
    b->download(b, x, *slot, count);
    b->upload(b, s->slot[s->n++], x, count);
    free(x);
    return OK;
}

enum { N = 24 };
static void log_probs(Network *net, float *logp) {
    int ids[N], starts[3] = {0, 10, N};
    uint8_t wanted[N];
    for (int i = 0; i < N; i++) ids[i] = i * 7 % shape.V, wanted[i] = i != 0 && i != 10;
    Batch batch = {
        .S = 2, .N = N, .ids = ids, .starts = starts, .wanted = wanted, .temperature = 1};
    memset(logp, 0, N * sizeof *logp);
    assert_int_equal(network_forward(net, &batch, &(TokenOutputs){.logp = logp}), OK);
}

/* In f32 a quantized network has the bits of one that holds the same values; 8 bits are nearer to
 * the original than 4. */
static void a_frozen_network_holds_blocks(void **state) {
    (void)state;
    Backend *b;
    Workspace *ws;
    Network full, held, frozen;
    const ModelConfig *cfg = &shape;
    WorkspacePlan plan = {.tokens = 64, .sequences = 4, .max_length = 32};
    float of_full[N], of_held[N], of_frozen[N];
    double drift[2] = {0, 0};
    assert_int_equal(backend_create(&b, "cpu", "auto", "f32"), OK);
    assert_int_equal(workspace_create(&ws, b, &plan, &cfg, 1, NULL), OK);
    assert_int_equal(network_create(&full, b, cfg, ws, 0), OK);
    assert_int_equal(network_create(&held, b, cfg, ws, 0), OK);
    assert_int_equal(weights_init(&full.w, 3), OK);
    log_probs(&full, of_full);
    for (int t = 0; t < 2; t++) {
        uint64_t hash, hash_held;
        Slots slots = {.to = &held};
        assert_int_equal(network_create_frozen(&frozen, b, cfg, ws, types[t]), OK);
        assert_int_equal(weights_init(&frozen.w, 3), OK);
        assert_int_equal(frozen.w.quantized_count, weights_quantized_count(cfg));
        assert_int_equal(frozen.w.quantized_count + frozen.w.count, tensors_count(cfg));
        assert_int_equal(tensors_visit(cfg, &held.w.t, keep_slot, &slots), OK);
        slots.n = 0;
        assert_int_equal(tensors_visit(cfg, &frozen.w.t, copy_values, &slots), OK);
        weights_pack(&held.w);
        log_probs(&held, of_held);
        log_probs(&frozen, of_frozen);
        assert_memory_equal(of_held, of_frozen, sizeof of_held);
        for (int i = 0; i < N; i++) drift[t] += fabs((double)of_frozen[i] - of_full[i]) / N;
        assert_int_equal(weights_hash(&frozen.w, &hash), OK);
        assert_int_equal(weights_hash(&full.w, &hash_held), OK);
        assert_true(hash != hash_held);
        network_release(&frozen);
    }
    printf("mean drift of log-probs: q8 %.4f, q4 %.4f\n", drift[0], drift[1]);
    assert_true(drift[0] > 0.0 && drift[0] < drift[1] / 4);
    network_release(&full);
    network_release(&held);
    workspace_release(ws);
    backend_release(b);
}

static void rows_of_broken_blocks_are_refused(void **state) {
    (void)state;
    Backend *b;
    Weights w;
    ModelConfig odd = shape;
    odd.FF = 90;
    assert_int_equal(backend_create(&b, "cpu", "auto", "f32"), OK);
    assert_int_equal(weights_create_quantized(&w, b, &odd, DT_Q8), E_USAGE);
    assert_non_null(strstr(status_message(), "down_proj"));
    assert_non_null(strstr(status_message(), "90"));
    weights_release(&w);
    backend_release(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_round_to_nearest),
        cmocka_unit_test(products_read_blocks),
        cmocka_unit_test(a_frozen_network_holds_blocks),
        cmocka_unit_test(rows_of_broken_blocks_are_refused),
    };
    if (threads_start(2) != OK) return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
