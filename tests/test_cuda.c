/* test_cuda.c - every operation of the CUDA page beside the CPU's, at odd sizes, in f32 and bf16:
 * outputs start as NaN, nothing behind them is written, the same call gives the same bytes twice.
 *
 * Linked with tests/cuda_emulator it runs on any machine (`make test`), linked with CUDA on a GPU
 * (`make gpu-check`). The CPU computes in f32 from the same rounded inputs. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/backend/cuda/cuda_page.h"
#include "core/base/rng.h"
#include "core/base/threads.h"
#include "core/model/optim.h"
#include "policy/rollout.h"
#include "tests/family_model.h"

static Backend *cpu, *gpu;
static Dtype dtype;
static uint64_t stream_of_numbers;

enum { BEHIND = 64 }; /* elements after each output that must stay as they are */
static const float sentinel = 12345.0f;

typedef struct { /* the same numbers on both */
    Buf c, g;
    size_t n;
} Two;

enum { TWO_MAX = 64 };
static Two held[TWO_MAX];
static int n_held;

static float rounded(float x) { /* to bf16, nearest even */
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    u = (u + 0x7fffu + (u >> 16 & 1)) & 0xffff0000u;
    memcpy(&x, &u, sizeof u);
    return x;
}

static float *host_floats(size_t n) {
    float *x = malloc((n ? n : 1) * sizeof *x);
    assert_non_null(x);
    return x;
}

static Two two_alloc(Dtype of_gpu, size_t n) {
    Two t = {.n = n};
    Dtype of_cpu = of_gpu == DT_BF16 ? DT_F32 : of_gpu;
    assert_true(n_held < TWO_MAX);
    assert_int_equal(cpu->alloc(cpu, &t.c, of_cpu, n + BEHIND, "test"), OK);
    assert_int_equal(gpu->alloc(gpu, &t.g, of_gpu, n + BEHIND, "test"), OK);
    held[n_held++] = t;
    return t;
}

static void release_all(void) {
    for (int i = 0; i < n_held; i++) {
        cpu->release(cpu, &held[i].c);
        gpu->release(gpu, &held[i].g);
    }
    n_held = 0;
}

/* n numbers in front of the sentinels */
static Two two_of(Dtype of_gpu, const float *x, size_t n) {
    Two t = two_alloc(of_gpu, n);
    float *all = host_floats(n + BEHIND);
    for (size_t i = 0; i < n + BEHIND; i++)
        all[i] = i >= n ? sentinel : of_gpu == DT_BF16 ? rounded(x[i]) : x[i];
    cpu->upload(cpu, t.c, all, n + BEHIND);
    gpu->upload(gpu, t.g, all, n + BEHIND);
    free(all);
    return t;
}

static Two normal_of(Dtype of_gpu, size_t n, float scale) {
    float *x = host_floats(n);
    for (size_t i = 0; i < n; i++)
        x[i] = scale * rng_normal(7, RNG_INIT, stream_of_numbers, (uint64_t)i);
    stream_of_numbers++;
    Two t = two_of(of_gpu, x, n);
    free(x);
    return t;
}
static Two activations(size_t n) { /* stored in the page's type */
    return normal_of(dtype, n, 1.0f);
}
static Two masters(size_t n) { /* f32 weights that the page's type can hold */
    float *x = host_floats(n);
    for (size_t i = 0; i < n; i++)
        x[i] = rounded(rng_normal(8, RNG_INIT, stream_of_numbers, (uint64_t)i));
    stream_of_numbers++;
    Two t = two_of(DT_F32, x, n);
    free(x);
    return t;
}
static Two floats(size_t n) { /* f32 everywhere */
    return normal_of(DT_F32, n, 1.0f);
}

static Two output_of(Dtype of_gpu, size_t n) {
    float *x = host_floats(n);
    for (size_t i = 0; i < n; i++) x[i] = NAN;
    Two t = two_of(of_gpu, x, n);
    free(x);
    return t;
}
static Two output(size_t n) {
    return output_of(dtype, n);
}
static Two output_f32(size_t n) {
    return output_of(DT_F32, n);
}

static Two ints(const int *x, size_t n) {
    Two t = two_alloc(DT_I32, n);
    cpu->upload(cpu, t.c, x, n);
    gpu->upload(gpu, t.g, x, n);
    return t;
}

static const Buf none = {NULL, DT_F32};

static void sentinels_stand(const char *what, Two t) {
    float g[BEHIND];
    gpu->download(gpu, g, buf_at(t.g, t.n), BEHIND);
    for (int i = 0; i < BEHIND; i++)
        if (g[i] != (t.g.dtype == DT_BF16 ? rounded(sentinel) : sentinel))
            fail_msg("%s writes behind its output, %d after %zu", what, i, t.n);
}

/* Largest difference in units of |reference| + its root mean square; sentinels must stand. */
static double difference(const char *what, Two t) {
    float *c = host_floats(t.n), *g = host_floats(t.n);
    double squares = 0.0, worst = 0.0;
    cpu->download(cpu, c, t.c, t.n);
    gpu->download(gpu, g, t.g, t.n);
    assert_int_equal(gpu->sync(gpu), OK);
    sentinels_stand(what, t);
    for (size_t i = 0; i < t.n; i++) squares += (double)c[i] * c[i];
    double rms = sqrt(squares / (double)t.n);
    for (size_t i = 0; i < t.n; i++) {
        double d = fabs((double)c[i] - g[i]) / (fabs((double)c[i]) + rms + 1e-30);
        if (isnan(g[i])) fail_msg("%s leaves NaN at %zu of %zu", what, i, t.n);
        if (!(d <= worst)) worst = d;
    }
    free(c);
    free(g);
    return worst;
}

static void close_to(const char *what, Two t, double f32, double bf16) {
    double d = difference(what, t), allowed = dtype == DT_BF16 ? bf16 : f32;
    if (!(d <= allowed)) fail_msg("%s differs by %.3g, allowed %.3g", what, d, allowed);
}

/* Weights [O,K] with their packed copies. */
typedef struct {
    Mat c, g;
} TwoMat;

static TwoMat weights(int O, int K) {
    size_t n = (size_t)O * (size_t)K;
    float *x = host_floats(n);
    for (size_t i = 0; i < n; i++) /* representable in bf16: the CPU does not round them */
        x[i] = rounded(0.2f * rng_normal(9, RNG_INIT, stream_of_numbers, (uint64_t)i));
    stream_of_numbers++;
    Two w = two_of(DT_F32, x, n);
    free(x);
    TwoMat m = {{.w = w.c, .O = O, .K = K}, {.w = w.g, .O = O, .K = K}};
    size_t for_cpu = cpu->packed_count(cpu, DT_F32, O, K);
    size_t for_gpu = gpu->packed_count(gpu, DT_F32, O, K);
    Two packed = two_alloc(DT_F32, for_cpu), bits = two_alloc(dtype, for_gpu);
    m.c.packed = packed.c;
    if (for_gpu) m.g.packed = bits.g;
    cpu->pack(cpu, m.c);
    gpu->pack(gpu, m.g);
    return m;
}

/* --- operations --- */

static void memory_and_sums(void **state) {
    (void)state;
    const size_t sizes[] = {1, 7, 64, 1003};
    for (int i = 0; i < 4; i++) {
        size_t n = sizes[i];
        Two x = activations(n), y = activations(n), out = output(n), z = output(n);
        cpu->add(cpu, out.c, x.c, y.c, n);
        gpu->add(gpu, out.g, x.g, y.g, n);
        close_to("add", out, 1e-6, .005);
        cpu->copy(cpu, z.c, out.c, n);
        gpu->copy(gpu, z.g, out.g, n);
        close_to("copy", z, 1e-6, .005);
        cpu->zero(cpu, z.c, n);
        gpu->zero(gpu, z.g, n);
        close_to("zero", z, 0, 0);
        Two a = floats(n), b = floats(n);
        cpu->lerp(cpu, a.c, b.c, n, .25f);
        gpu->lerp(gpu, a.g, b.g, n, .25f);
        close_to("lerp", a, 1e-6, 1e-6);
        if (n > 3) { /* not aligned */
            Two w = output(n);
            cpu->add(cpu, buf_at(w.c, 1), buf_at(x.c, 1), buf_at(y.c, 1), n - 2);
            gpu->add(gpu, buf_at(w.g, 1), buf_at(x.g, 1), buf_at(y.g, 1), n - 2);
            Two inner = {buf_at(w.c, 1), buf_at(w.g, 1), n - 2};
            float last;
            gpu->download(gpu, &last, buf_at(w.g, n - 1), 1);
            assert_true(isnan(last));
            float *c = host_floats(n), *g = host_floats(n);
            cpu->download(cpu, c, inner.c, n - 2);
            gpu->download(gpu, g, inner.g, n - 2);
            for (size_t k = 0; k < n - 2; k++)
                assert_true(fabsf(c[k] - g[k]) <= .02f * (1.0f + fabsf(c[k])));
            free(c);
            free(g);
        }
        release_all();
    }
}

static void products(void **state) {
    (void)state;
    const int shapes[][3] = {{1, 8, 8}, {5, 33, 17}, {64, 128, 64}, {37, 70, 96}};
    for (int i = 0; i < 4; i++) {
        int N = shapes[i][0], O = shapes[i][1], K = shapes[i][2];
        TwoMat w = weights(O, K);
        Two x = activations((size_t)N * K), y = output((size_t)N * O);
        Two dy = activations((size_t)N * O), dx = output((size_t)N * K);
        Two dw = floats((size_t)O * K);
        cpu->matmul_forward(cpu, y.c, x.c, w.c, N);
        gpu->matmul_forward(gpu, y.g, x.g, w.g, N);
        close_to("matmul_forward", y, 2e-5, .006);
        cpu->matmul_backward_input(cpu, dx.c, dy.c, w.c, N);
        gpu->matmul_backward_input(gpu, dx.g, dy.g, w.g, N);
        close_to("matmul_backward_input", dx, 2e-5, .006);
        cpu->matmul_backward_weight(cpu, dw.c, dy.c, x.c, N, O, K);
        gpu->matmul_backward_weight(gpu, dw.g, dy.g, x.g, N, O, K);
        close_to("matmul_backward_weight", dw, 2e-5, 2e-5);
        release_all();
    }
}

/* weights in blocks, of 8 and of 4 bits */
static void quantized_products(void **state) {
    (void)state;
    enum { N = 37, O = 70, K = 96 };
    float x[O * K];
    for (int t = 0; t < 2; t++) {
        Dtype type = t ? DT_Q4 : DT_Q8;
        Mat c = {.O = O, .K = K}, g = {.O = O, .K = K};
        for (int i = 0; i < O * K; i++) x[i] = rng_normal(9, RNG_INIT, 77, (uint64_t)i);
        assert_int_equal(cpu->alloc(cpu, &c.w, type, O * K, "test"), OK);
        assert_int_equal(gpu->alloc(gpu, &g.w, type, O * K, "test"), OK);
        cpu->upload(cpu, c.w, x, O * K);
        gpu->upload(gpu, g.w, x, O * K);
        Two in = activations(N * K), y = output(N * O), bias = normal_of(dtype, O, 1.0f);
        c.bias = bias.c;
        g.bias = bias.g;
        cpu->matmul_forward(cpu, y.c, in.c, c, N);
        gpu->matmul_forward(gpu, y.g, in.g, g, N);
        close_to("matmul_forward of quantized weights", y, 2e-5, .008);
        cpu->release(cpu, &c.w);
        gpu->release(gpu, &g.w);
        release_all();
    }
}

static void embedding(void **state) {
    (void)state;
    const int widths[] = {8, 37, 128};
    enum { N = 301, V = 23 };
    int ids[N];
    for (int n = 0; n < N; n++) ids[n] = n * n % V;
    for (int i = 0; i < 3; i++) {
        int C = widths[i];
        Two table = normal_of(DT_F32, (size_t)V * C, 1.0f), where = ints(ids, N);
        Two x = output((size_t)N * C), dx = activations((size_t)N * C);
        Two dtable = floats((size_t)V * C);
        cpu->embedding_forward(cpu, x.c, table.c, where.c, N, C, 1.5f);
        gpu->embedding_forward(gpu, x.g, table.g, where.g, N, C, 1.5f);
        close_to("embedding_forward", x, 0, .005);
        cpu->embedding_backward(cpu, dtable.c, dx.c, where.c, N, C, 1.5f);
        gpu->embedding_backward(gpu, dtable.g, dx.g, where.g, N, C, 1.5f);
        close_to("embedding_backward", dtable, 1e-5, 1e-5);
        if (dtype == DT_BF16) { /* a frozen network's table */
            Two frozen = activations((size_t)V * C), y = output((size_t)N * C);
            cpu->embedding_forward(cpu, y.c, frozen.c, where.c, N, C, 1.0f);
            gpu->embedding_forward(gpu, y.g, frozen.g, where.g, N, C, 1.0f);
            close_to("embedding_forward of a bf16 table", y, 0, 0);
        }
        gpu->embedding_backward(gpu, (Buf){NULL, DT_F32}, dx.g, where.g, N, C, 1.5f);
        release_all();
    }
}

static Norm norm_by(Buf w, Buf bias, int centred) {
    return (Norm){.w = w, .bias = bias, .plus = (float)centred, .eps = 1e-5f, .centred = centred};
}

static void norms_of(int N, int C, int centred) {
    size_t n = (size_t)N * C;
    Two x = activations(n), w = masters((size_t)C), out = output(n);
    Two bias = masters((size_t)C), stats = output_f32((size_t)N * (centred ? 2 : 1));
    Two dout = activations(n), dx = output(n), dw = floats((size_t)C);
    Norm c = norm_by(w.c, centred ? bias.c : none, centred);
    Norm g = norm_by(w.g, centred ? bias.g : none, centred);
    cpu->norm_forward(cpu, out.c, stats.c, none, x.c, none, c, N, C);
    gpu->norm_forward(gpu, out.g, stats.g, none, x.g, none, g, N, C);
    close_to("norm_forward", out, 1e-5, .005);
    close_to("norm_forward's stats", stats, 1e-5, 1e-5);
    cpu->norm_backward(cpu, dx.c, dw.c, none, dout.c, x.c, c, stats.c, N, C);
    gpu->norm_backward(gpu, dx.g, dw.g, none, dout.g, x.g, g, stats.g, N, C);
    close_to("norm_backward", dx, 2e-5, .006);
    close_to("norm_backward's dw", dw, 2e-5, 2e-5);
    gpu->norm_backward(gpu, dx.g, none, none, dout.g, x.g, g, stats.g, N, C);
    close_to("norm_backward without dw", dx, 2e-5, .006);
    Two y = activations(n), sum = output(n), dsum = activations(n);
    cpu->norm_forward(cpu, out.c, stats.c, sum.c, x.c, y.c, c, N, C);
    gpu->norm_forward(gpu, out.g, stats.g, sum.g, x.g, y.g, g, N, C);
    close_to("norm_forward's sum", sum, 0, .004);
    float *rounded_sum = host_floats(n); /* the same for both from here on */
    gpu->download(gpu, rounded_sum, sum.g, n);
    cpu->upload(cpu, sum.c, rounded_sum, n);
    free(rounded_sum);
    cpu->norm_forward(cpu, out.c, stats.c, none, sum.c, none, c, N, C);
    close_to("norm_forward of a sum", out, 1e-5, .005);
    cpu->norm_backward(cpu, dsum.c, dw.c, dsum.c, dout.c, sum.c, c, stats.c, N, C);
    gpu->norm_backward(gpu, dsum.g, dw.g, dsum.g, dout.g, sum.g, g, stats.g, N, C);
    close_to("norm_backward onto the stream's gradient", dsum, 2e-5, .006);
    close_to("norm_backward's dw, twice", dw, 2e-5, 2e-5);
    if (dtype == DT_BF16) { /* a frozen network's weights */
        Two frozen = activations((size_t)C), shift = activations((size_t)C), z = output(n);
        c = norm_by(frozen.c, centred ? shift.c : none, centred);
        g = norm_by(frozen.g, centred ? shift.g : none, centred);
        cpu->norm_forward(cpu, z.c, stats.c, none, x.c, none, c, N, C);
        gpu->norm_forward(gpu, z.g, stats.g, none, x.g, none, g, N, C);
        close_to("norm_forward with bf16 weights", z, 1e-5, .005);
    }
    release_all();
}

static void norms(void **state) {
    (void)state;
    const int shapes[][2] = {{3, 8}, {65, 37}, {130, 128}, {7, 576}, {300, 64}, {3, 5000}};
    for (int i = 0; i < 6; i++)
        for (int centred = 0; centred < 2; centred++) norms_of(shapes[i][0], shapes[i][1], centred);
}

static void head_norms(void **state) {
    (void)state;
    const int shapes[][3] = {{1, 1, 6},   {33, 3, 64},  {70, 4, 80},
                             {9, 2, 256}, {13, 1, 640}, {9, 2, 301}}; /* N, heads, HS */
    for (int i = 0; i < 6; i++) {
        int N = shapes[i][0], heads = shapes[i][1], HS = shapes[i][2], stride = (heads + 2) * HS;
        size_t all = (size_t)N * stride, n = (size_t)N * heads * HS, rows = (size_t)N * heads;
        Two qkv = activations(all), w = masters((size_t)HS), before = output(n);
        Two rstd = output_f32(rows), dqkv = activations(all), dw = floats((size_t)HS);
        Norm c = {.w = w.c, .plus = (float)(i % 2), .eps = 1e-5f};
        Norm g = {.w = w.g, .plus = (float)(i % 2), .eps = 1e-5f};
        cpu->headnorm_forward(cpu, qkv.c, before.c, rstd.c, c, N, stride, heads, HS);
        gpu->headnorm_forward(gpu, qkv.g, before.g, rstd.g, g, N, stride, heads, HS);
        close_to("headnorm_forward", qkv, 1e-5, .005);
        close_to("headnorm_forward's before", before, 0, 0);
        close_to("headnorm_forward's rstd", rstd, 1e-5, 1e-5);
        cpu->headnorm_backward(cpu, dqkv.c, dw.c, before.c, c, rstd.c, N, stride, heads, HS);
        gpu->headnorm_backward(gpu, dqkv.g, dw.g, before.g, g, rstd.g, N, stride, heads, HS);
        close_to("headnorm_backward", dqkv, 2e-5, .006);
        close_to("headnorm_backward's dw", dw, 2e-5, 2e-5);
        release_all();
    }
}

static void biases(void **state) {
    (void)state;
    const int shapes[][3] = {{1, 8, 8}, {3, 37, 7}, {65, 40, 33}, {130, 300, 64}};
    for (int i = 0; i < 4; i++) {
        int N = shapes[i][0], O = shapes[i][1], K = shapes[i][2];
        size_t n = (size_t)N * O;
        Two y = output(n), bias = masters((size_t)O), dw = floats((size_t)O), dy = activations(n);
        Two x = activations((size_t)N * K), copy = two_alloc(dtype, (size_t)O);
        TwoMat w = weights(O, K);
        w.c.bias = bias.c;
        w.g.bias = bias.g;
        if (dtype == DT_BF16) w.g.bias_packed = copy.g;
        gpu->pack(gpu, w.g);
        cpu->matmul_forward(cpu, y.c, x.c, w.c, N);
        gpu->matmul_forward(gpu, y.g, x.g, w.g, N);
        close_to("matmul_forward with a bias", y, 2e-5, .006);
        cpu->bias_backward(cpu, dw.c, dy.c, N, O);
        gpu->bias_backward(gpu, dw.g, dy.g, N, O);
        close_to("bias_backward", dw, 2e-5, 2e-5);
        gpu->bias_backward(gpu, (Buf){NULL, DT_F32}, dy.g, N, O);
        if (dtype == DT_BF16) { /* a frozen network's biases */
            Two frozen = activations((size_t)O);
            w.c.bias = frozen.c;
            w.g.bias = frozen.g;
            w.g.bias_packed = none;
            cpu->matmul_forward(cpu, y.c, x.c, w.c, N);
            gpu->matmul_forward(gpu, y.g, x.g, w.g, N);
            close_to("matmul_forward with a bf16 bias", y, 2e-5, .006);
        }
        release_all();
    }
}

static void rotary_and_activations(void **state) {
    (void)state;
    const int shapes[][3] = {{5, 3, 6}, {33, 4, 64}, {17, 2, 80}}; /* N, heads, HS */
    for (int i = 0; i < 3; i++) {
        int N = shapes[i][0], heads = shapes[i][1], HS = shapes[i][2], stride = (heads + 2) * HS;
        int positions[64];
        for (int n = 0; n < N; n++) positions[n] = n * 3 % 40;
        float angles[40 * 80];
        for (int p = 0; p < 40; p++)
            for (int d = 0; d < HS / 2; d++) {
                float angle = (float)p / powf(100.0f, 2.0f * (float)d / (float)HS);
                angles[p * HS + d] = cosf(angle);
                angles[p * HS + HS / 2 + d] = sinf(angle);
            }
        Two at = ints(positions, N), table = two_of(DT_F32, angles, (size_t)40 * HS);
        for (int k = 0; k < 4; k++) {
            int backward = k % 2, R = k < 2 ? HS : HS / 4 * 2; /* of which the table is one, too */
            Two qkv = activations((size_t)N * stride);
            cpu->rope(cpu, qkv.c, at.c, table.c, N, stride, heads, HS, R, backward);
            gpu->rope(gpu, qkv.g, at.g, table.g, N, stride, heads, HS, R, backward);
            close_to("rope", qkv, 1e-5, .006);
        }
        int FF = HS * 2 + (i == 0);
        Two gate_up = activations((size_t)N * 2 * FF), h = output((size_t)N * FF);
        Two dgate_up = output((size_t)N * 2 * FF);
        for (int k = 0; k < 6; k++) {
            FeedForward f = {k < 3 ? FF : 2 * FF, (Activation)(k % 3), k < 3};
            Two y = k < 3 ? h : output((size_t)N * 2 * FF), dy = activations((size_t)N * f.FF);
            cpu->activation_forward(cpu, y.c, gate_up.c, N, f);
            gpu->activation_forward(gpu, y.g, gate_up.g, N, f);
            close_to("activation_forward", y, 1e-5, .006);
            cpu->activation_backward(cpu, dgate_up.c, dy.c, gate_up.c, N, f);
            gpu->activation_backward(gpu, dgate_up.g, dy.g, gate_up.g, N, f);
            close_to("activation_backward", dgate_up, 1e-5, .006);
        }
        release_all();
    }
}

static Two attention_inputs(size_t n, const int *starts, int S, int NH, int NKV, int HS,
                            int growth) {
    int stride = (NH + 2 * NKV) * HS;
    float *x = host_floats(n);
    for (size_t i = 0; i < n; i++) x[i] = rng_normal(6, RNG_INIT, stream_of_numbers, (uint64_t)i);
    stream_of_numbers++;
    for (int s = 0; growth && s < S; s++)
        for (int t = starts[s]; t < starts[s + 1]; t++)
            for (int c = NH * HS; c < (NH + NKV) * HS; c++)
                x[(size_t)t * stride + c] *= 0.2f + (float)(t - starts[s]) / 50.0f;
    Two qkv = two_of(dtype, x, n);
    free(x);
    return qkv;
}

/* growth: keys become larger along a sequence, so that the running maximum moves all the time */
static void attention_case(const int *lengths, int S, AttentionShape a, int growth) {
    int NH = a.NH, NKV = a.NKV, HS = a.HS, starts[16] = {0};
    for (int s = 0; s < S; s++) starts[s + 1] = starts[s] + lengths[s];
    int N = starts[S];
    size_t wide = (size_t)N * (size_t)(NH + 2 * NKV) * (size_t)HS, n = (size_t)N * NH * HS;
    Two qkv = attention_inputs(wide, starts, S, NH, NKV, HS, growth);
    Two at = ints(starts, (size_t)S + 1), out = output(n);
    Two lse = output_f32(2 * (size_t)N * NH), dout = activations(n), dqkv = output(wide);
    cpu->attention_forward(cpu, out.c, lse.c, qkv.c, at.c, S, N, a);
    gpu->attention_forward(gpu, out.g, lse.g, qkv.g, at.g, S, N, a);
    close_to("attention_forward", out, 2e-5, .02);
    Two first = {lse.c, lse.g, (size_t)N * NH};
    float *c = host_floats(first.n), *g = host_floats(first.n);
    cpu->download(cpu, c, first.c, first.n);
    gpu->download(gpu, g, first.g, first.n);
    for (size_t i = 0; i < first.n; i++)
        assert_true(fabsf(c[i] - g[i]) <= (dtype == DT_BF16 ? 2e-3f : 2e-5f) * (1 + fabsf(c[i])));
    free(c);
    free(g);
    cpu->attention_backward(cpu, dqkv.c, dout.c, qkv.c, out.c, lse.c, at.c, S, N, a);
    gpu->attention_backward(gpu, dqkv.g, dout.g, qkv.g, out.g, lse.g, at.g, S, N, a);
    close_to("attention_backward", dqkv, 5e-5, growth ? .2 : .05);
    release_all();
}

static AttentionShape attention_of(const int *shape, int window, float softcap) {
    return (AttentionShape){shape[0], shape[1], shape[2], 1.0f / sqrtf((float)shape[2]),
                            window,   softcap};
}

static void attention(void **state) {
    (void)state;
    const int mixed[] = {1, 5, 64, 65, 1, 130}, whole[] = {128, 128}, one[] = {200};
    const int shapes[][3] = {{4, 2, 64},  {3, 1, 64}, {2, 2, 80}, {2, 1, 96},
                             {2, 1, 128}, {4, 2, 6},  {2, 1, 32}};
    for (int i = 0; i < 7; i++) {
        attention_case(mixed, 6, attention_of(shapes[i], 0, 0.0f), 0);
        attention_case(mixed, 6, attention_of(shapes[i], 37, i % 2 ? 0.0f : 1.5f), 0);
        if (i > 1) continue;
        attention_case(whole, 2, attention_of(shapes[i], 0, 0.0f), 0);
        attention_case(one, 1, attention_of(shapes[i], 0, 0.0f), 1);
        attention_case(one, 1, attention_of(shapes[i], 70, 0.0f), 1);
    }
}

/* Rows of different lengths, pages in no order, written in two pieces, then one query each. */
static void decoding_case(AttentionShape a, const int *lengths, int rows) {
    enum { MAX_PAGES = 12, TOKENS = 1024 };
    int NH = a.NH, NKV = a.NKV, HS = a.HS;
    int table[8 * MAX_PAGES], row[TOKENS], position[TOKENS], N = 0, pages = rows * MAX_PAGES;
    size_t page = (size_t)NKV * (size_t)HS * KV_PAGE, wide = (size_t)(NH + 2 * NKV) * (size_t)HS;
    for (int i = 0; i < pages; i++) table[i] = (i * 7 + 3) % pages;
    for (int r = 0; r < rows; r++)
        for (int t = 0; t < lengths[r]; t++, N++) {
            row[N] = r;
            position[N] = t;
        }
    assert_true(N <= TOKENS && pages % 7);
    Two keys = output((size_t)pages * page), values = output((size_t)pages * page);
    Two where = ints(table, (size_t)pages), qkv = activations((size_t)N * wide);
    Two of_row = ints(row, N), at = ints(position, N);
    KvLayer c = {keys.c, values.c, where.c, MAX_PAGES}, g = {keys.g, values.g, where.g, MAX_PAGES};
    cpu->kv_write(cpu, c, qkv.c, of_row.c, at.c, N, a);
    gpu->kv_write(gpu, g, qkv.g, of_row.g, at.g, N, a);
    int rows_now[8], last[8];
    for (int r = 0; r < rows; r++) {
        rows_now[r] = rows - 1 - r;
        last[r] = lengths[rows - 1 - r] - 1;
    }
    Two q = activations((size_t)rows * wide), rr = ints(rows_now, rows), pp = ints(last, rows);
    Two out = output((size_t)rows * NH * HS);
    cpu->attention_decode(cpu, out.c, q.c, c, rr.c, pp.c, rows, a);
    gpu->attention_decode(gpu, out.g, q.g, g, rr.g, pp.g, rows, a);
    close_to("attention_decode", out, 2e-5, .01);
    sentinels_stand("kv_write, keys", keys);
    sentinels_stand("kv_write, values", values);
    release_all();
}

static void decoding(void **state) {
    (void)state;
    const int lengths[] = {1, 33, 384, 64, 2};
    const int shapes[][3] = {{4, 2, 64},  {3, 1, 64}, {2, 2, 80},
                             {8, 2, 128}, {4, 2, 6},  {2, 1, 32}};
    const int rows[] = {5, 5, 3, 5, 5, 1};
    for (int i = 0; i < 6; i++) {
        decoding_case(attention_of(shapes[i], 0, 0.0f), lengths, rows[i]);
        decoding_case(attention_of(shapes[i], 50, i % 2 ? 2.0f : 0.0f), lengths, rows[i]);
    }
}

static void rows_and_scores(void **state) {
    (void)state;
    enum { N = 70, R = 31 };
    int rows[R];
    for (int r = 0; r < R; r++) rows[r] = (r * 13 + 5) % N;
    const int shapes[][2] = {{37, 1}, {128, 1}, {64, 3}};
    for (int i = 0; i < 3; i++) {
        int C = shapes[i][0], K = shapes[i][1];
        size_t n = (size_t)N * C;
        Two x = activations(n), some = output((size_t)R * C), back = output(n), at = ints(rows, R);
        cpu->gather_rows(cpu, some.c, x.c, at.c, R, C);
        gpu->gather_rows(gpu, some.g, x.g, at.g, R, C);
        close_to("gather_rows", some, 0, 0);
        cpu->scatter_rows(cpu, back.c, some.c, at.c, R, N, C);
        gpu->scatter_rows(gpu, back.g, some.g, at.g, R, N, C);
        close_to("scatter_rows", back, 0, 0);
        Two w = masters((size_t)K * C), score = output_f32((size_t)N * K);
        float d[N * 3];
        for (int j = 0; j < N * K; j++) d[j] = j % 5 ? 0.0f : (float)j / 10.0f - 3.0f;
        Two dscore = two_of(DT_F32, d, (size_t)N * K), dh = output(n), dw = floats((size_t)K * C);
        cpu->score_forward(cpu, score.c, x.c, w.c, N, C, K);
        gpu->score_forward(gpu, score.g, x.g, w.g, N, C, K);
        close_to("score_forward", score, 2e-5, 2e-5);
        cpu->score_backward(cpu, dh.c, dw.c, dscore.c, x.c, w.c, N, C, K);
        gpu->score_backward(gpu, dh.g, dw.g, dscore.g, x.g, w.g, N, C, K);
        close_to("score_backward", dh, 2e-5, .006);
        close_to("score_backward's dw", dw, 2e-5, 2e-5);
        release_all();
    }
}

static void head_case(int R, int V, int C, int chunk, float temperature, float softcap) {
    TwoMat w = weights(V, C);
    int targets[128];
    for (int r = 0; r < R; r++) targets[r] = (r * 7 + 1) % V;
    Two h = activations((size_t)R * C), y = ints(targets, R);
    Two logits = output_f32((size_t)chunk * V);
    Two logp = output_f32(R), entropy = output_f32(R), mean = output_f32(R), top1 = output_f32(R);
    HeadOut c = {logp.c, entropy.c, mean.c, top1.c}, g = {logp.g, entropy.g, mean.g, top1.g};
    cpu->head_forward(cpu, c, h.c, w.c, y.c, logits.c, chunk, R, temperature, softcap);
    gpu->head_forward(gpu, g, h.g, w.g, y.g, logits.g, chunk, R, temperature, softcap);
    close_to("head_forward's logp", logp, 2e-5, 2e-4);
    close_to("head_forward's entropy", entropy, 2e-5, 2e-4);
    close_to("head_forward's mean_logp", mean, 2e-5, 2e-4);
    close_to("head_forward's top1", top1, 0, 0);
    for (int which = 0; which < 4; which++) {
        Two a = floats(R), b = floats(R), m = floats(R);
        Two dh = output((size_t)R * C), dw = floats((size_t)V * C);
        Buf none = {NULL, DT_F32};
        int e = which == 1 || which == 3, u = which == 2 || which == 3;
        HeadGrad gc = {a.c, e ? b.c : none, u ? m.c : none};
        HeadGrad gg = {a.g, e ? b.g : none, u ? m.g : none};
        HeadOut nothing = {none, none, none, none};
        cpu->head_backward(cpu, dh.c, dw.c, gc, which ? nothing : c, h.c, w.c, y.c, logits.c, chunk,
                           R, temperature, softcap);
        gpu->head_backward(gpu, dh.g, dw.g, gg, which ? nothing : g, h.g, w.g, y.g, logits.g, chunk,
                           R, temperature, softcap);
        close_to("head_backward's dh", dh, 5e-5, .02);
        close_to("head_backward's dw", dw, 5e-5, .02);
        if (!which) close_to("head_backward's logp", logp, 2e-5, 2e-4);
        gpu->head_backward(gpu, dh.g, (Buf){NULL, DT_F32}, gg, nothing, h.g, w.g, y.g, logits.g,
                           chunk, R, temperature, softcap);
        close_to("head_backward without dw", dh, 5e-5, .02);
    }
    sentinels_stand("the head's logits", logits);
    release_all();
}

static void head(void **state) {
    (void)state;
    head_case(5, 37, 24, 5, 1.0f, 0.0f);
    head_case(13, 130, 64, 4, 0.7f, 0.0f);
    head_case(1, 1024, 32, 1, 1.0f, 0.0f);
    head_case(9, 1001, 37, 3, 1.3f, 0.0f);
    head_case(9, 1001, 37, 3, 1.3f, 2.0f);
    head_case(5, 64, 24, 2, 0.9f, 3.0f);
}

static void sample_both(int V, int C, SampleParams p, const Two *edits, const Two *edit_starts) {
    enum { R = 67 };
    SampleParams q = p;
    if (edits) p.edits = edits->c, p.edit_starts = edit_starts->c;
    if (edits) q.edits = edits->g, q.edit_starts = edit_starts->g;
    TwoMat w = weights(V, C);
    double u[R];
    for (int r = 0; r < R; r++) u[r] = rng_uniform(3, RNG_INIT, 1, (uint64_t)r);
    Two h = activations((size_t)R * C), logits = output_f32((size_t)16 * V);
    Two uniform = two_alloc(DT_F64, R), logp = output_f32(R), cut = output_f32(R);
    Two ids = two_alloc(DT_I32, R);
    cpu->upload(cpu, uniform.c, u, R);
    gpu->upload(gpu, uniform.g, u, R);
    cpu->sample(cpu, ids.c, logp.c, cut.c, h.c, w.c, uniform.c, logits.c, 16, R, p);
    gpu->sample(gpu, ids.g, logp.g, cut.g, h.g, w.g, uniform.g, logits.g, 16, R, q);
    int a[R], b[R], other = 0;
    float lc[R], lg[R], cc[R], cg[R];
    cpu->download(cpu, a, ids.c, R);
    gpu->download(gpu, b, ids.g, R);
    cpu->download(cpu, lc, logp.c, R);
    gpu->download(gpu, lg, logp.g, R);
    cpu->download(cpu, cc, cut.c, R);
    gpu->download(gpu, cg, cut.g, R);
    for (int r = 0; r < R; r++) {
        assert_true(b[r] >= 0 && b[r] < p.vocab);
        if (a[r] != b[r]) {
            other++; /* u fell between two tokens whose sums differ in the last bits */
            continue;
        }
        assert_true(fabsf(lc[r] - lg[r]) <= 2e-4f * (1 + fabsf(lc[r])));
        assert_true(fabsf(cc[r] - cg[r]) <= 1e-3f);
    }
    assert_true(other <= 1);
    release_all();
}

static void sample_case(int V, int C, SampleParams p) {
    sample_both(V, C, p, NULL, NULL);
}

/* The same with edits: a third of each row's ids, some of them banned, none of the first row. */
static void edited_sample_case(int V, int C, SampleParams p) {
    enum { R = 67 };
    int starts[R + 1] = {0, 0}, *ids = malloc((size_t)R * (size_t)V * sizeof(int)), n = 0;
    for (int r = 1; r < R; starts[++r] = n)
        for (int v = r % 3; v < p.vocab; v += 3) ids[n++] = v % 5 ? v : ~v;
    Two edits = two_alloc(DT_I32, (size_t)n), at = two_alloc(DT_I32, R + 1);
    cpu->upload(cpu, edits.c, ids, (size_t)n);
    gpu->upload(gpu, edits.g, ids, (size_t)n);
    cpu->upload(cpu, at.c, starts, R + 1);
    gpu->upload(gpu, at.g, starts, R + 1);
    free(ids);
    sample_both(V, C, p, &edits, &at);
}

static void sampling(void **state) {
    (void)state;
    edited_sample_case(
        1001, 32,
        (SampleParams){.temperature = 1.0f, .top_p = 1.0f, .vocab = 1000, .penalty = 1.3f});
    edited_sample_case(130, 24, (SampleParams){.top_p = 1.0f, .vocab = 120, .penalty = 2.0f});
    edited_sample_case(
        257, 32,
        (SampleParams){
            .temperature = 1.0f, .top_k = 50, .top_p = 0.9f, .vocab = 250, .penalty = 1.1f});
    sample_case(130, 24,
                (SampleParams){
                    .temperature = 0.0f, .top_k = 0, .top_p = 1.0f, .vocab = 120, .softcap = 1.5f});
    sample_case(130, 24,
                (SampleParams){.temperature = 0.7f, .top_k = 0, .top_p = 1.0f, .vocab = 130});
    sample_case(1001, 32,
                (SampleParams){.temperature = 1.0f, .top_k = 0, .top_p = 1.0f, .vocab = 1000});
    sample_case(1001, 32,
                (SampleParams){.temperature = 1.0f, .top_k = 20, .top_p = 1.0f, .vocab = 1001});
    sample_case(1001, 32,
                (SampleParams){.temperature = 1.2f, .top_k = 0, .top_p = 0.8f, .vocab = 1001});
    sample_case(257, 32,
                (SampleParams){.temperature = 1.0f, .top_p = 1.0f, .min_p = 0.1f, .vocab = 257});
    sample_case(257, 32,
                (SampleParams){.temperature = 1.0f, .top_k = 50, .top_p = 0.9f, .vocab = 250});
}

static void optimizer(void **state) {
    (void)state;
    const size_t sizes[] = {1, 6, 1003, 70001};
    for (int i = 0; i < 4; i++) {
        size_t n = sizes[i];
        Two w = floats(n), m = floats(n), g = floats(n);
        Two v = two_of(DT_F32, (float[]){0.5f}, 1);
        float *positive = host_floats(n);
        for (size_t k = 0; k < n; k++) positive[k] = 0.1f + (float)(k % 10) / 7.0f;
        v = two_of(DT_F32, positive, n);
        free(positive);
        AdamwParams p = {1e-2f, .9f, .99f, 1e-8f, .1f, .5f, .19f, .0199f};
        Buf none = {NULL, DT_F32};
        Two copy = output(n);
        for (size_t skip = 0; skip < 2 && skip < n; skip++) { /* aligned and not */
            cpu->adamw(cpu, buf_at(w.c, skip), buf_at(m.c, skip), buf_at(v.c, skip), none,
                       buf_at(g.c, skip), n - skip, p);
            Buf to = gpu->mirror ? buf_at(copy.g, skip) : none;
            Mat mat = {.w = buf_at(w.g, skip), .packed = to, .O = (int)(n - skip), .K = 1};
            if (skip)
                gpu->adamw_packed(gpu, mat, buf_at(m.g, skip), buf_at(v.g, skip), buf_at(g.g, skip),
                                  p);
            else
                gpu->adamw(gpu, w.g, m.g, v.g, to, g.g, n, p);
        }
        if (gpu->mirror) { /* the weights again, rounded */
            cpu->copy(cpu, copy.c, w.c, n);
            close_to("adamw's copy", copy, 0, .004);
        }
        close_to("adamw's w", w, 2e-6, 2e-6);
        close_to("adamw's m", m, 2e-6, 2e-6);
        close_to("adamw's v", v, 2e-6, 2e-6);
        double a = cpu->sum_squares(cpu, g.c, n), b = gpu->sum_squares(gpu, g.g, n);
        assert_true(fabs(a - b) <= 1e-9 * a);
        release_all();
    }
}

/* --- a whole network --- */

static const ModelConfig small = {.V = 61,
                                  .C = 32,
                                  .L = 2,
                                  .NH = 4,
                                  .NKV = 2,
                                  .HS = 8,
                                  .FF = 40,
                                  .max_positions = 64,
                                  .rope_theta = 1e4f,
                                  .norm_eps = 1e-5f,
                                  .qkv_bias = 1,
                                  .o_bias = 1,
                                  .mlp_bias = 1,
                                  .qk_norm = 1,
                                  .tied = 1,
                                  .lm_head = 1,
                                  .scores = 1,
                                  .init_std = .2f};

/* Two layers of the one, and what other families bring. */
static ModelConfig network_of(int kind) {
    static const Family families[] = {FAMILY_LLAMA, FAMILY_GEMMA2, FAMILY_GPT2, FAMILY_OLMO2,
                                      FAMILY_GPT_NEOX};
    return kind ? model_of_family(families[kind], &small) : small;
}
enum { NETWORKS = 5 };

enum { TOKENS = 47 };

typedef struct {
    float logp[TOKENS], entropy[TOKENS], score[TOKENS], next_logp[8];
    int drawn[8];
    float *grad, *weights;
    double norm;
} Trace;

static const int starts[] = {0, 1, 20, TOKENS};

/* Forward, backward, an optimizer step, then sampling with the cache, all on one backend. */
static void run_network(Backend *b, const ModelConfig *c, Trace *t) {
    Workspace *ws;
    Network net;
    Optim optim;
    KvCache kv;
    int ids[TOKENS], rows[3] = {2, 0, 1};
    uint8_t wanted[TOKENS];
    float g[TOKENS];
    for (int n = 0; n < TOKENS; n++) {
        ids[n] = (n * 17 + 3) % small.V;
        wanted[n] = n != starts[0] && n != starts[1] && n != starts[2] && n % 4 != 1;
        g[n] = wanted[n] ? 0.02f * (float)(n % 7 - 3) : 0.0f;
    }
    WorkspacePlan plan = {.tokens = TOKENS, .sequences = 3, .train = 1, .max_length = 64};
    assert_int_equal(workspace_create(&ws, b, &plan, &c, 1, NULL), OK);
    assert_int_equal(network_create(&net, b, c, ws, 1), OK);
    OptimConfig oc = {.learning_rate = 1e-2f,
                      .beta1 = .9f,
                      .beta2 = .999f,
                      .eps = 1e-8f,
                      .grad_clip = 1.0f,
                      .schedule = "constant"};
    assert_int_equal(optim_create(&optim, &net, &oc), OK);
    assert_int_equal(kv_create(&kv, b, c, 3, 64, 0), OK);
    assert_int_equal(weights_init(&net.w, 5), OK);
    Batch batch = {
        .S = 3, .N = TOKENS, .ids = ids, .starts = starts, .wanted = wanted, .temperature = 1.0f};
    TokenOutputs out = {.logp = t->logp, .entropy = t->entropy, .score = t->score};
    TokenGrads grads = {.logp = g, .score = g};
    assert_int_equal(network_forward(&net, &batch, &out), OK);
    assert_int_equal(network_backward(&net, &grads), OK);
    t->grad = host_floats(net.w.count);
    t->weights = host_floats(net.w.count);
    b->download(b, t->grad, net.grad, net.w.count);
    assert_int_equal(optim_step(&optim, 3e-3f, &t->norm), OK);
    b->download(b, t->weights, net.w.flat, net.w.count);

    int last[3], at[3];
    float cut[3];
    const double u[3] = {.3, .6, .9};
    for (int s = 0; s < 3; s++) {
        at[s] = starts[s + 1] - starts[s];
        assert_true(kv_reserve(&kv, rows[s], at[s] + 2));
    }
    kv_flush(&kv);
    SampleParams greedy = {.top_p = 1.0f, .vocab = small.V};
    assert_int_equal(network_prefill(&net, &kv, &batch, rows), OK);
    assert_int_equal(network_sample(&net, u, greedy, 3, last, t->next_logp, cut), OK);
    memcpy(t->drawn, last, sizeof last);
    for (int step = 1; step < 3; step++) { /* the second time it is the recorded step that runs */
        assert_int_equal(network_decode(&net, &kv, last, rows, at, 3), OK);
        assert_int_equal(network_sample(&net, u, greedy, 3, last, t->next_logp + step, cut), OK);
        for (int s = 0; s < 3; s++) at[s]++;
    }
    memcpy(t->drawn + 3, last, sizeof last);
    kv_release(&kv);
    optim_release(&optim);
    network_release(&net);
    workspace_release(ws);
}

static double relative(const float *a, const float *b, size_t n) {
    double diff = 0.0, whole = 0.0;
    for (size_t i = 0; i < n; i++) {
        diff += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        whole += (double)a[i] * a[i];
    }
    return sqrt(diff / whole);
}

static void compare_networks(const ModelConfig *m) {
    static Trace c, g, again;
    size_t count = tensors_count(m);
    int bits = dtype == DT_BF16;
    run_network(cpu, m, &c);
    run_network(gpu, m, &g);
    run_network(gpu, m, &again);
    for (int n = 0; n < TOKENS; n++) {
        if (n == starts[0] || n == starts[1] || n == starts[2] || n % 4 == 1) continue;
        assert_true(fabsf(c.logp[n] - g.logp[n]) < (bits ? .15f : 1e-4f));
        assert_true(fabsf(c.entropy[n] - g.entropy[n]) < (bits ? .15f : 1e-4f));
    }
    double gradient = relative(c.grad, g.grad, count);
    print_message("gradient of 2 layers of a %s: %.2g from the CPU's, logp within bounds\n",
                  family_row(m->family)->type, gradient);
    assert_true(gradient < (bits ? .05 : 1e-4));
    assert_true(relative(c.weights, g.weights, count) < (bits ? .02 : 1e-3));
    if (!bits) assert_memory_equal(c.drawn, g.drawn, 6 * sizeof(int));
    for (int s = 0; s < 3; s++)
        assert_true(fabsf(c.next_logp[s] - g.next_logp[s]) < (bits ? .3f : 1e-3f));
    /* the same seed, the same bytes */
    assert_memory_equal(g.grad, again.grad, count * sizeof(float));
    assert_memory_equal(g.weights, again.weights, count * sizeof(float));
    assert_memory_equal(g.drawn, again.drawn, sizeof g.drawn);
    Trace *all[] = {&c, &g, &again};
    for (int i = 0; i < 3; i++) {
        free(all[i]->grad);
        free(all[i]->weights);
    }
}

static void whole_networks(void **state) {
    (void)state;
    int kinds = dtype == DT_BF16 ? 2 : NETWORKS; /* emulated threads take their time */
    for (int kind = 0; kind < kinds; kind++) {
        ModelConfig m = network_of(kind);
        compare_networks(&m);
    }
}

static void no_pointer_is_missing(void **state) {
    (void)state;
    void *const *first = (void *const *)(const void *)&gpu->alloc;
    size_t n = (sizeof *gpu - offsetof(Backend, alloc)) / sizeof *first;
    for (size_t i = 0; i < n; i++) assert_non_null(first[i]);
}

/* Out of memory is a sentence, and the page can be used afterwards. */
static void too_much_memory_is_refused(void **state) {
    (void)state;
    Buf huge;
    assert_int_equal(gpu->alloc(gpu, &huge, DT_F32, (size_t)1 << 50, "a huge thing"), E_MEMORY);
    assert_non_null(strstr(status_message(), "a huge thing"));
    memory_and_sums(NULL);
}

/* --- batch invariance --- */

enum { ASKED = 9, ANSWER = 40, LONGEST = 64 };

static void answer(Rollout *out, Network *net, int rows, const RolloutRequest *requests) {
    const ModelConfig *m = &net->w.cfg;
    const SamplingConfig sampling = {
        .max_new_tokens = ANSWER, .temperature = 0.8f, .top_p = 1.0f, .ignore_eos = 1};
    RolloutEngine *e;
    assert_int_equal(rollout_create(out, ASKED, ASKED * LONGEST), OK);
    assert_int_equal(rollout_engine_create(&e, net->b, m, NULL, rows, LONGEST, ASKED, 0), OK);
    assert_int_equal(rollout_generate(out, e, net, requests, ASKED, &sampling, 3, NULL, NULL), OK);
    rollout_engine_release(e);
}

/* Answers have the same bytes alone and beside others, and the training forward's log-probs. */
static void invariant_page_of(const ModelConfig *c) {
    static int prompts[ASKED][LONGEST];
    Backend *b;
    Workspace *ws;
    Network net;
    RolloutRequest requests[ASKED];
    WorkspacePlan plan = {.tokens = 128, .sequences = ASKED, .train = 1, .max_length = LONGEST};
    assert_int_equal(cuda_create(&b, 0, dtype, 1), OK);
    assert_true(b->exact_decode && strstr(b->kernels, "invariant"));
    assert_int_equal(workspace_create(&ws, b, &plan, &c, 1, NULL), OK);
    assert_int_equal(network_create(&net, b, c, ws, 1), OK);
    assert_int_equal(weights_init(&net.w, 4), OK);
    for (int i = 0; i < ASKED; i++) {
        requests[i] = (RolloutRequest){prompts[i], 1 + i * 5 % 37, (uint64_t)i};
        for (int t = 0; t < LONGEST; t++) prompts[i][t] = (t * (i % 3 + 2) + 1) % small.V;
    }
    Rollout alone, together;
    answer(&alone, &net, 1, requests);
    answer(&together, &net, 5, requests);
    int N = alone.seq.N;
    assert_int_equal(N, together.seq.N);
    assert_memory_equal(alone.seq.ids, together.seq.ids, (size_t)N * sizeof(int));
    assert_memory_equal(alone.logp, together.logp, (size_t)N * sizeof(float));
    float *logp = host_floats((size_t)N);
    assert_int_equal(packed_forward(&alone.seq, &net, 128, 0.8f, &(TokenOutputs){.logp = logp}),
                     OK);
    for (int n = 0; n < N; n++)
        if (alone.seq.wanted[n]) assert_memory_equal(&logp[n], &alone.logp[n], sizeof *logp);
    free(logp);
    rollout_release(&alone);
    rollout_release(&together);
    network_release(&net);
    workspace_release(ws);
    cuda_release(b);
}

static void invariant_page(void **state) {
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        ModelConfig m = network_of(kind);
        invariant_page_of(&m);
    }
}

static int run_all(Dtype t) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_pointer_is_missing),
        cmocka_unit_test(memory_and_sums),
        cmocka_unit_test(products),
        cmocka_unit_test(quantized_products),
        cmocka_unit_test(embedding),
        cmocka_unit_test(norms),
        cmocka_unit_test(head_norms),
        cmocka_unit_test(biases),
        cmocka_unit_test(rotary_and_activations),
        cmocka_unit_test(attention),
        cmocka_unit_test(decoding),
        cmocka_unit_test(rows_and_scores),
        cmocka_unit_test(head),
        cmocka_unit_test(sampling),
        cmocka_unit_test(optimizer),
        cmocka_unit_test(whole_networks),
        cmocka_unit_test(invariant_page),
        cmocka_unit_test(too_much_memory_is_refused),
    };
    dtype = t;
    if (cuda_create(&gpu, 0, t, 0) != OK) {
        fprintf(stderr, "%s\n", status_message());
        return 1;
    }
    int failed =
        cmocka_run_group_tests_name(t == DT_F32 ? "cuda, f32" : "cuda, bf16", tests, NULL, NULL);
    cuda_release(gpu);
    return failed;
}

/* test_cuda [NAME]: all tests, or one */
int main(int argc, char **argv) {
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    if (threads_start(0) != OK || backend_create(&cpu, "cpu", "auto", "f32") != OK) return 1;
    int failed = run_all(DT_F32) + run_all(DT_BF16);
    backend_release(cpu);
    return failed != 0;
}
