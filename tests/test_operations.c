/* test_operations.c - single operations beside signed differences and the C library. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/backend/backend.h"
#include "core/backend/cpu/vec.h"
#include "core/base/threads.h"
#include "tests/gradient.h"
#include "tests/kernels.h"

/* sum of a fixed random number times each element of what an operation gives */
typedef struct {
    Backend *b;
    float *x, *w, *c; /* inputs and the numbers */
    Buf dx, dw;
    int N, C;
} Operation;

static double bias_loss(void *ctx) {
    Operation *o = ctx;
    size_t n = (size_t)o->N * (size_t)o->C;
    Buf x, y;
    Mat m = {.O = o->C, .K = 1}; /* one feature, weights 0 */
    size_t packed = o->b->packed_count(o->b, DT_F32, m.O, m.K);
    double sum = 0.0;
    float *out = malloc(n * sizeof *out);
    assert_int_equal(o->b->alloc(o->b, &x, DT_F32, (size_t)o->N, "test"), OK);
    assert_int_equal(o->b->alloc(o->b, &y, DT_F32, n, "test"), OK);
    assert_int_equal(o->b->alloc(o->b, &m.w, DT_F32, (size_t)o->C, "test"), OK);
    assert_int_equal(o->b->alloc(o->b, &m.packed, DT_F32, packed, "test"), OK);
    assert_int_equal(o->b->alloc(o->b, &m.bias, DT_F32, (size_t)o->C, "test"), OK);
    o->b->upload(o->b, x, o->x, (size_t)o->N);
    o->b->upload(o->b, m.bias, o->w, (size_t)o->C);
    o->b->pack(o->b, m);
    o->b->matmul_forward(o->b, y, x, m, o->N);
    o->b->download(o->b, out, y, n);
    for (size_t i = 0; i < n; i++) sum += (double)o->c[i] * out[i];
    free(out);
    Buf *all[] = {&x, &y, &m.w, &m.packed, &m.bias};
    for (int i = 0; i < 5; i++) o->b->release(o->b, all[i]);
    return sum;
}

static void the_gradient_of_a_bias(void **state) {
    (void)state;
    enum { ROWS = 7, WIDTH = 37 };
    float x[ROWS * WIDTH], w[WIDTH], c[ROWS * WIDTH], dw[WIDTH];
    fill_random(x, ROWS * WIDTH, 1, 1.0f);
    fill_random(w, WIDTH, 2, 1.0f);
    fill_random(c, ROWS * WIDTH, 3, 1.0f);
    for (int k = 0; k < F32_KERNELS; k++) {
        Operation o = {kernels_create(&cpu_kernels[k]), x, w, c, {0}, {0}, ROWS, WIDTH};
        Buf dy;
        if (!o.b) continue;
        assert_int_equal(o.b->alloc(o.b, &dy, DT_F32, ROWS * WIDTH, "test"), OK);
        assert_int_equal(o.b->alloc(o.b, &o.dw, DT_F32, WIDTH, "test"), OK);
        o.b->upload(o.b, dy, c, ROWS * WIDTH);
        o.b->bias_backward(o.b, o.dw, dy, ROWS, WIDTH);
        o.b->download(o.b, dw, o.dw, WIDTH);
        expect_gradient("bias", bias_loss, &o, w, dw, WIDTH, 1e-2, 1e-4);
        o.b->release(o.b, &dy);
        o.b->release(o.b, &o.dw);
        backend_release(o.b);
    }
}

/* The gradients that `loss` leaves in dx and dw, beside its signed differences; ends the backend.
 */
static void expect_both_gradients(const char *what, double (*loss)(void *), Operation *o,
                                  size_t n_x, size_t n_w) {
    Backend *b = o->b;
    float *dx = malloc(n_x * sizeof *dx), *dw = malloc(n_w * sizeof *dw);
    assert_int_equal(b->alloc(b, &o->dx, DT_F32, n_x, "test"), OK);
    assert_int_equal(b->alloc(b, &o->dw, DT_F32, n_w, "test"), OK);
    loss(o);
    b->download(b, dx, o->dx, n_x);
    b->download(b, dw, o->dw, n_w);
    b->release(b, &o->dx); /* from here on only the value is wanted */
    expect_gradient(what, loss, o, o->x, dx, n_x, 1e-2, 1e-3);
    expect_gradient(what, loss, o, o->w, dw, n_w, 1e-2, 1e-3);
    b->release(b, &o->dw);
    backend_release(b);
    free(dx), free(dw);
}

static double headnorm_loss(void *ctx) {
    Operation *o = ctx;
    int HS = o->C, stride = 3 * HS;
    size_t n = (size_t)o->N * (size_t)stride, two = 2 * (size_t)o->N * (size_t)HS;
    Buf qkv, before, rstd, w;
    double sum = 0.0;
    float *out = malloc(n * sizeof *out);
    assert_int_equal(o->b->alloc(o->b, &qkv, DT_F32, n, "test"), OK);
    assert_int_equal(o->b->alloc(o->b, &before, DT_F32, two, "test"), OK);
    assert_int_equal(o->b->alloc(o->b, &rstd, DT_F32, 2 * (size_t)o->N, "test"), OK);
    assert_int_equal(o->b->alloc(o->b, &w, DT_F32, (size_t)HS, "test"), OK);
    o->b->upload(o->b, qkv, o->x, n);
    o->b->upload(o->b, w, o->w, (size_t)HS);
    Norm norm = {.w = w, .plus = 1.0f, .eps = 1e-5f};
    o->b->headnorm_forward(o->b, qkv, before, rstd, norm, o->N, stride, 2, HS);
    o->b->download(o->b, out, qkv, n);
    for (size_t i = 0; i < n; i++) sum += (double)o->c[i] * out[i];
    if (o->dx.ptr) { /* the gradient, too */
        o->b->upload(o->b, o->dx, o->c, n);
        o->b->headnorm_backward(o->b, o->dx, o->dw, before, norm, rstd, o->N, stride, 2, HS);
    }
    free(out);
    o->b->release(o->b, &qkv);
    o->b->release(o->b, &before);
    o->b->release(o->b, &rstd);
    o->b->release(o->b, &w);
    return sum;
}

static void the_gradient_of_head_norms(void **state) {
    (void)state;
    enum { ROWS = 5, HS = 19, ALL = ROWS * 3 * HS };
    float x[ALL], w[HS], c[ALL];
    fill_random(x, ALL, 1, 1.0f);
    fill_random(w, HS, 2, 1.0f);
    fill_random(c, ALL, 3, 1.0f);
    for (int k = 0; k < F32_KERNELS; k++) {
        Operation o = {kernels_create(&cpu_kernels[k]), x, w, c, {0}, {0}, ROWS, HS};
        if (!o.b) continue;
        expect_both_gradients("head norms", headnorm_loss, &o, ALL, HS);
    }
}

/* of both kinds of norm; N is rows, and 100 more for the one with a mean */
static double norm_loss(void *ctx) {
    Operation *o = ctx;
    int N = o->N % 100, C = o->C, centred = o->N >= 100;
    size_t n = (size_t)N * (size_t)C;
    Buf x, out, stats, w, bias, none = {NULL, DT_F32};
    double sum = 0.0;
    float *host = malloc(n * sizeof *host);
    assert_int_equal(o->b->alloc(o->b, &x, DT_F32, n, "test"), OK);
    assert_int_equal(o->b->alloc(o->b, &out, DT_F32, n, "test"), OK);
    assert_int_equal(o->b->alloc(o->b, &stats, DT_F32, 2 * (size_t)N, "test"), OK);
    assert_int_equal(o->b->alloc(o->b, &w, DT_F32, (size_t)C, "test"), OK);
    assert_int_equal(o->b->alloc(o->b, &bias, DT_F32, (size_t)C, "test"), OK);
    o->b->upload(o->b, x, o->x, n);
    o->b->upload(o->b, w, o->w, (size_t)C);
    o->b->upload(o->b, bias, o->w, (size_t)C);
    Norm norm = {.w = w, .bias = none, .plus = 1.0f, .eps = 1e-5f, .centred = centred};
    if (centred) norm.bias = bias; /* w again: it adds to what the gradient by w must be */
    o->b->norm_forward(o->b, out, stats, none, x, none, norm, N, C);
    o->b->download(o->b, host, out, n);
    for (size_t i = 0; i < n; i++) sum += (double)o->c[i] * host[i];
    if (o->dx.ptr) {
        o->b->upload(o->b, out, o->c, n);
        if (centred) o->b->bias_backward(o->b, o->dw, out, N, C);
        o->b->norm_backward(o->b, o->dx, o->dw, none, out, x, norm, stats, N, C);
    }
    free(host);
    o->b->release(o->b, &x), o->b->release(o->b, &out), o->b->release(o->b, &stats);
    o->b->release(o->b, &w), o->b->release(o->b, &bias);
    return sum;
}

static void the_gradient_of_norms(void **state) {
    (void)state;
    enum { ROWS = 5, WIDTH = 37, ALL = ROWS * WIDTH };
    float x[ALL], w[WIDTH], c[ALL];
    fill_random(x, ALL, 1, 1.0f);
    fill_random(w, WIDTH, 2, 1.0f);
    fill_random(c, ALL, 3, 1.0f);
    for (int k = 0; k < 2 * F32_KERNELS; k++) {
        Operation o = {
            kernels_create(&cpu_kernels[k / 2]), x, w, c, {0}, {0}, ROWS + k % 2 * 100, WIDTH};
        if (!o.b) continue;
        expect_both_gradients("norm", norm_loss, &o, ALL, WIDTH);
    }
}

static double gelu_loss(void *ctx) {
    Operation *o = ctx;
    FeedForward f = {o->C, (Activation)(o->N % 10), o->N / 10}; /* one row; N says which */
    size_t n = (size_t)o->C, wide = n * (size_t)(f.gated + 1);
    Buf x, h;
    double sum = 0.0;
    float *host = malloc(n * sizeof *host);
    assert_int_equal(o->b->alloc(o->b, &x, DT_F32, wide, "test"), OK);
    assert_int_equal(o->b->alloc(o->b, &h, DT_F32, n, "test"), OK);
    o->b->upload(o->b, x, o->x, wide);
    o->b->activation_forward(o->b, h, x, 1, f);
    o->b->download(o->b, host, h, n);
    for (size_t i = 0; i < n; i++) sum += (double)o->c[i] * host[i];
    if (o->dx.ptr) {
        o->b->upload(o->b, h, o->c, n);
        o->b->activation_backward(o->b, o->dx, h, x, 1, f);
    }
    free(host);
    o->b->release(o->b, &x);
    o->b->release(o->b, &h);
    return sum;
}

static void the_gradient_of_activations(void **state) {
    (void)state;
    enum { WIDTH = 37 };
    float x[2 * WIDTH], c[WIDTH], dx[2 * WIDTH];
    fill_random(x, 2 * WIDTH, 1, 3.0f);
    fill_random(c, WIDTH, 3, 1.0f);
    for (int k = 0; k < F32_KERNELS; k++) {
        for (int which = 0; which < 6; which++) {
            Operation o = {kernels_create(&cpu_kernels[k]), x, NULL, c, {0}, {0}, 0, WIDTH};
            if (!o.b) continue;
            o.N = which % 3 + 10 * (which / 3);
            size_t n = which < 3 ? WIDTH : 2 * WIDTH;
            assert_int_equal(o.b->alloc(o.b, &o.dx, DT_F32, n, "test"), OK);
            gelu_loss(&o);
            o.b->download(o.b, dx, o.dx, n);
            o.b->release(o.b, &o.dx);
            expect_gradient("activation", gelu_loss, &o, x, dx, n, 1e-2, 1e-3);
            backend_release(o.b);
        }
    }
}

/* Far values and the C library's functions. */
static void gelus_are_what_they_say(void **state) {
    (void)state;
    enum { WIDTH = 4001 };
    static float x[WIDTH], h[WIDTH];
    for (int i = 0; i < WIDTH; i++) x[i] = (float)(i - WIDTH / 2) * 0.01f;
    for (int k = 0; k < F32_KERNELS; k++) {
        Backend *b = kernels_create(&cpu_kernels[k]);
        if (!b) continue;
        Buf in, out;
        assert_int_equal(b->alloc(b, &in, DT_F32, WIDTH, "test"), OK);
        assert_int_equal(b->alloc(b, &out, DT_F32, WIDTH, "test"), OK);
        b->upload(b, in, x, WIDTH);
        for (int act = ACT_GELU; act <= ACT_GELU_TANH; act++) {
            b->activation_forward(b, out, in, 1, (FeedForward){WIDTH, (Activation)act, 0});
            b->download(b, h, out, WIDTH);
            for (int i = 0; i < WIDTH; i++) {
                double v = x[i], inner = sqrt(2.0 / acos(-1.0)) * (v + 0.044715 * v * v * v);
                double share = act == ACT_GELU ? erfc(-v / sqrt(2.0)) : 1.0 + tanh(inner);
                assert_true(fabs(h[i] - .5 * v * share) < 4e-7 * (1.0 + fabs(v)));
            }
        }
        b->release(b, &in);
        b->release(b, &out);
        backend_release(b);
    }
}

static double attention_loss(void *ctx) {
    Operation *o = ctx;
    AttentionShape a = {2, 1, o->C, .3f, 37, 1.2f}; /* one head's window ends within a block */
    int starts[3] = {0, 3, o->N};
    size_t n = (size_t)o->N * 4 * (size_t)o->C, half = n / 2;
    Buf qkv, out, lse, st;
    double sum = 0.0;
    float *host = malloc(half * sizeof *host);
    assert_int_equal(o->b->alloc(o->b, &qkv, DT_F32, n, "test"), OK);
    assert_int_equal(o->b->alloc(o->b, &out, DT_F32, half, "test"), OK);
    assert_int_equal(o->b->alloc(o->b, &lse, DT_F32, 4 * (size_t)o->N, "test"), OK);
    assert_int_equal(o->b->alloc(o->b, &st, DT_I32, 3, "test"), OK);
    o->b->upload(o->b, qkv, o->x, n);
    o->b->upload(o->b, st, starts, 3);
    o->b->attention_forward(o->b, out, lse, qkv, st, 2, o->N, a);
    o->b->download(o->b, host, out, half);
    for (size_t i = 0; i < half; i++) sum += (double)o->c[i] * host[i];
    if (o->dw.ptr) { /* dout, and the gradient, too */
        o->b->upload(o->b, o->dw, o->c, half);
        o->b->attention_backward(o->b, o->dx, o->dw, qkv, out, lse, st, 2, o->N, a);
    }
    free(host);
    o->b->release(o->b, &qkv);
    o->b->release(o->b, &out);
    o->b->release(o->b, &lse);
    o->b->release(o->b, &st);
    return sum;
}

static void the_gradient_of_windowed_attention(void **state) {
    (void)state;
    enum { ROWS = 75, HS = 6, ALL = ROWS * 4 * HS };
    static float x[ALL], c[ALL / 2], dx[ALL];
    fill_random(x, ALL, 1, 2.0f);
    fill_random(c, ALL / 2, 3, 1.0f);
    for (int k = 0; k < F32_KERNELS; k++) {
        Operation o = {kernels_create(&cpu_kernels[k]), x, NULL, c, {0}, {0}, ROWS, HS};
        if (!o.b) continue;
        assert_int_equal(o.b->alloc(o.b, &o.dx, DT_F32, ALL, "test"), OK);
        assert_int_equal(o.b->alloc(o.b, &o.dw, DT_F32, ALL / 2, "test"), OK);
        attention_loss(&o);
        o.b->download(o.b, dx, o.dx, ALL);
        o.b->release(o.b, &o.dx);
        o.b->release(o.b, &o.dw);
        expect_gradient("windowed attention", attention_loss, &o, x, dx, ALL, 1e-2, 1e-3);
        backend_release(o.b);
    }
}

/* Forward and backward of heads [first, first + n) of `all`, which share a key and value head. */
static void gradient_of_heads(Backend *b, float *dq, const float *qkv, const float *dout, int T,
                              int HS, int all, int first, int n) {
    AttentionShape a = {.NH = n, .NKV = 1, .HS = HS, .scale = .1f};
    size_t width = (size_t)(n + 2) * (size_t)HS, heads = (size_t)n * (size_t)HS, rows = (size_t)T;
    size_t all_width = (size_t)(all + 2) * (size_t)HS, all_heads = (size_t)all * (size_t)HS;
    float *x = malloc(rows * width * sizeof *x), *d = malloc(rows * heads * sizeof *d);
    for (size_t t = 0; t < rows; t++) {
        memcpy(x + t * width, qkv + t * all_width + first * HS, heads * sizeof *x);
        memcpy(x + t * width + heads, qkv + t * all_width + all_heads, 2 * (size_t)HS * sizeof *x);
        memcpy(d + t * heads, dout + t * all_heads + first * HS, heads * sizeof *d);
    }
    Buf in, out, lse, grad, dx, starts;
    Buf *acts[] = {&in, &out, &grad, &dx};
    size_t counts[] = {rows * width, rows * heads, rows * heads, rows * width};
    for (int i = 0; i < 4; i++)
        assert_int_equal(b->alloc(b, acts[i], b->dtype, counts[i], "test"), OK);
    assert_int_equal(b->alloc(b, &lse, DT_F32, 2 * rows * (size_t)n, "test"), OK);
    assert_int_equal(b->alloc(b, &starts, DT_I32, 2, "test"), OK);
    b->upload(b, in, x, counts[0]);
    b->upload(b, grad, d, counts[2]);
    b->upload(b, starts, (int[]){0, T}, 2);
    b->attention_forward(b, out, lse, in, starts, 1, T, a);
    b->attention_backward(b, dx, grad, in, out, lse, starts, 1, T, a);
    b->download(b, x, dx, counts[0]);
    for (size_t t = 0; t < rows; t++) memcpy(dq + t * heads, x + t * width, heads * sizeof *x);
    for (int i = 0; i < 4; i++) b->release(b, acts[i]);
    b->release(b, &lse), b->release(b, &starts);
    free(x), free(d);
}

/* In bf16, gradients of queries are summed in scratch, or in a walk of their own where that is too
 * small, as for the eight heads here: a head has the same bits alone, when it fits. */
static void gradients_of_queries_do_not_depend_on_room(void **state) {
    (void)state;
    enum { T = 270, HS = 256, ALL = 8, ONE = 5 };
    static float qkv[T * (ALL + 2) * HS], dout[T * ALL * HS], all[T * ALL * HS], one[T * HS];
    fill_random(qkv, T * (ALL + 2) * HS, 1, 1.0f);
    fill_random(dout, T * ALL * HS, 2, 1.0f);
    for (int k = 0; k < CPU_KERNELS; k++) {
        Backend *b = kernels_create(&cpu_kernels[k]);
        if (!b) continue;
        gradient_of_heads(b, all, qkv, dout, T, HS, ALL, 0, ALL);
        gradient_of_heads(b, one, qkv, dout, T, HS, ALL, ONE, 1);
        for (int t = 0; t < T; t++)
            assert_memory_equal(one + t * HS, all + (t * ALL + ONE) * HS, HS * sizeof *one);
        backend_release(b);
    }
}

static void an_average_moves_by_its_share(void **state) {
    (void)state;
    enum { MANY = 100003 }; /* several chunks, the last one short */
    static float out[MANY], x[MANY], got[MANY];
    fill_random(out, MANY, 1, 1.0f);
    fill_random(x, MANY, 2, 1.0f);
    for (int k = 0; k < F32_KERNELS; k++) {
        Backend *b = kernels_create(&cpu_kernels[k]);
        Buf to, from;
        if (!b) continue;
        threads_start(2);
        assert_int_equal(b->alloc(b, &to, DT_F32, MANY, "test"), OK);
        assert_int_equal(b->alloc(b, &from, DT_F32, MANY, "test"), OK);
        b->upload(b, to, out, MANY);
        b->upload(b, from, x, MANY);
        b->lerp(b, to, from, MANY, 0.0f);
        b->download(b, got, to, MANY);
        assert_memory_equal(got, out, sizeof out);
        b->lerp(b, to, from, MANY - 1, .1f); /* the last one is not its own */
        b->download(b, got, to, MANY);
        for (int i = 0; i < MANY - 1; i++) assert_true(got[i] == out[i] + .1f * (x[i] - out[i]));
        assert_true(got[MANY - 1] == out[MANY - 1]);
        b->release(b, &to);
        b->release(b, &from);
        backend_release(b);
    }
    threads_start(1);
}

/* vec.h promises 2 units in the last place; here without fused multiply-adds, the least exact way.
 */
static void exp_is_within_its_promise(void **state) {
    (void)state;
    double worst = 0.0;
    for (float x = -86.9f; x < 87.9f; x += 0.00173f) {
        double want = exp((double)x), unit = nextafterf((float)want, INFINITY) - (float)want;
        worst = fmax(worst, fabs((double)sexp(x) - want) / unit);
    }
    printf("exp: %.2f units in the last place\n", worst);
    assert_true(worst < 2.0);
    assert_true(sexp(-INFINITY) == 0.0f && sexp(-88.0f) == 0.0f && sexp(0.0f) == 1.0f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_gradient_of_a_bias),
        cmocka_unit_test(the_gradient_of_head_norms),
        cmocka_unit_test(the_gradient_of_windowed_attention),
        cmocka_unit_test(gradients_of_queries_do_not_depend_on_room),
        cmocka_unit_test(the_gradient_of_norms),
        cmocka_unit_test(the_gradient_of_activations),
        cmocka_unit_test(gelus_are_what_they_say),
        cmocka_unit_test(an_average_moves_by_its_share),
        cmocka_unit_test(exp_is_within_its_promise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
