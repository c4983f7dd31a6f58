/* cpu_norm.c - RMSNorm and LayerNorm, of the residual stream with the sum before it and of heads
 * within rows. Tokens are split over threads in the forwards and in gradients of activations,
 * columns in gradients of weights, whose chains run over tokens in order. */
#include <string.h>

#include "core/backend/cpu/act.h"
#include "core/backend/cpu/step.h"

typedef struct {
    act *out, *sum, *dx;
    float *stats, *dw;
    const act *x, *y, *dout, *dsum; /* y and dsum may be NULL */
    Norm norm;
    int N, C;
    int stride, heads; /* of rows that hold heads of C */
} Rows;

enum { GRAIN = 16 }; /* rows: below this a second thread costs more than it brings */

static inline vf norm_weights(const Rows *r, int c, int left) {
    return weights_upto(r->norm.w, (size_t)c, left) + vset1(r->norm.plus);
}

STEP norm_step(const Rows *r, act *out_n, const act *x_n, float mean, float rstd, int c, int left) {
    vf v = (aload_upto(x_n + c, left) - vset1(mean)) * vset1(rstd) * norm_weights(r, c, left);
    if (r->norm.bias.ptr) v = v + weights_upto(r->norm.bias, (size_t)c, left);
    astore_upto(out_n + c, v, left);
}

static float row_mean(const act *x_n, int C) {
    vf sum = {0};
    for (int c = 0; c < C; c += VW) sum = sum + aload_upto(x_n + c, C - c);
    return vsum(sum) / (float)C;
}

STEP square_step(vf *sum, const act *x_n, float mean, int c, int left) {
    vf v = aload_upto(x_n + c, left) - vset1(mean);
    if (left < VW) v = vfirst(v, left);
    *sum = vfma(v, v, *sum);
}

/* Leaves 1 / deviation in *rstd, the mean behind it where there is one. */
static void norm_row(const Rows *r, act *out_n, const act *x_n, float *rstd, float *mean) {
    vf sum = {0};
    int c = 0;
    float centre = mean ? row_mean(x_n, r->C) : 0.0f;
    for (; c + VW <= r->C; c += VW) square_step(&sum, x_n, centre, c, VW);
    if (c < r->C) square_step(&sum, x_n, centre, c, r->C - c);
    *rstd = 1.0f / sqrtf(vsum(sum) / (float)r->C + r->norm.eps);
    if (mean) *mean = centre;
    c = 0;
    for (; c + VW <= r->C; c += VW) norm_step(r, out_n, x_n, centre, *rstd, c, VW);
    if (c < r->C) norm_step(r, out_n, x_n, centre, *rstd, c, r->C - c);
}

static const act *sum_row(const Rows *r, size_t at) {
    if (!r->y) return r->x + at;
    const act *x_n = r->x + at, *y_n = r->y + at;
    act *sum_n = r->sum + at;
    for (int c = 0; c < r->C; c += VW) {
        int left = r->C - c;
        astore_upto(sum_n + c, aload_upto(x_n + c, left) + aload_upto(y_n + c, left), left);
    }
    return sum_n;
}

/* where the means begin, behind all rows' rstd; NULL without */
static float *means_of(const Rows *r) {
    return r->norm.centred ? r->stats + r->N : NULL;
}

static void norm_rows(void *ctx, int first, int last) {
    const Rows *r = ctx;
    float *means = means_of(r);
    for (int n = first; n < last; n++) {
        size_t at = (size_t)n * r->C;
        norm_row(r, r->out + at, sum_row(r, at), r->stats + n, means ? means + n : NULL);
    }
}

static void norm_forward(Backend *b, Buf out, Buf stats, Buf sum, Buf x, Buf y, Norm w, int N,
                         int C) {
    (void)b;
    Rows r = {.out = acts(out),
              .stats = f32(stats),
              .sum = acts(sum),
              .x = acts(x),
              .y = acts(y),
              .norm = w,
              .N = N,
              .C = C};
    CPU(parallel)(N, GRAIN, norm_rows, &r);
}

STEP dot_step(const Rows *r, vf *dot, vf *all, const act *dout_n, const act *x_n, float mean, int c,
              int left) {
    vf g = aload_upto(dout_n + c, left) * norm_weights(r, c, left);
    *dot = vfma(g, aload_upto(x_n + c, left) - vset1(mean), *dot);
    if (r->norm.centred) *all = *all + g;
}

STEP dx_step(const Rows *r, act *dx_n, const act *dsum_n, const act *dout_n, const act *x_n,
             float mean, float rstd, float k, float mean_g, int c, int left) {
    vf g = aload_upto(dout_n + c, left) * norm_weights(r, c, left), of_mean = vset1(mean_g);
    vf v = aload_upto(x_n + c, left) - vset1(mean);
    vf d = vset1(rstd) * (g - of_mean - v * vset1(k));
    astore_upto(dx_n + c, dsum_n ? aload_upto(dsum_n + c, left) + d : d, left);
}

/* dx_n may be dsum_n (NULL: none) or dout_n */
static void dx_row(const Rows *r, act *dx_n, const act *dsum_n, const act *dout_n, const act *x_n,
                   float rstd, float mean) {
    /* x enters its own row's rstd, hence the projection below; and its mean */
    vf dot = {0}, all = {0};
    int c = 0;
    for (; c + VW <= r->C; c += VW) dot_step(r, &dot, &all, dout_n, x_n, mean, c, VW);
    if (c < r->C) dot_step(r, &dot, &all, dout_n, x_n, mean, c, r->C - c);
    float k = vsum(dot) * rstd * rstd / (float)r->C, mean_g = vsum(all) / (float)r->C;
    c = 0;
    for (; c + VW <= r->C; c += VW)
        dx_step(r, dx_n, dsum_n, dout_n, x_n, mean, rstd, k, mean_g, c, VW);
    if (c < r->C) dx_step(r, dx_n, dsum_n, dout_n, x_n, mean, rstd, k, mean_g, c, r->C - c);
}

static void norm_dx(void *ctx, int first, int last) {
    const Rows *r = ctx;
    const float *means = means_of(r);
    for (int n = first; n < last; n++) {
        size_t at = (size_t)n * r->C;
        const act *dsum_n = r->dsum ? r->dsum + at : NULL;
        dx_row(r, r->dx + at, dsum_n, r->dout + at, r->x + at, r->stats[n],
               means ? means[n] : 0.0f);
    }
}

STEP dw_step(const Rows *r, const act *dout_n, const act *x_n, float mean, float rstd, int c,
             int left) {
    vf v = aload_upto(x_n + c, left) - vset1(mean);
    vf d = aload_upto(dout_n + c, left) * v * vset1(rstd);
    vstore_upto(r->dw + c, vload_upto(r->dw + c, left, 0.0f) + d, left);
}

static void norm_dw(void *ctx, int first, int last) {
    const Rows *r = ctx;
    const float *means = means_of(r);
    for (int n = 0; n < r->N; n++) {
        const act *x_n = r->x + (size_t)n * r->C, *dout_n = r->dout + (size_t)n * r->C;
        float mean = means ? means[n] : 0.0f;
        int c = first;
        for (; c + VW <= last; c += VW) dw_step(r, dout_n, x_n, mean, r->stats[n], c, VW);
        if (c < last) dw_step(r, dout_n, x_n, mean, r->stats[n], c, last - c);
    }
}

static void norm_backward(Backend *b, Buf dx, Buf dw, Buf dsum, Buf dout, Buf x, Norm w, Buf stats,
                          int N, int C) {
    (void)b;
    Rows r = {.dx = acts(dx),
              .dw = f32(dw),
              .dsum = acts(dsum),
              .dout = acts(dout),
              .x = acts(x),
              .norm = w,
              .stats = f32(stats),
              .N = N,
              .C = C};
    if (dw.ptr) CPU(parallel)(C, 64, norm_dw, &r); /* before dx, which may overwrite dout */
    CPU(parallel)(N, GRAIN, norm_dx, &r);
}

static void headnorm_rows(void *ctx, int first, int last) {
    const Rows *r = ctx;
    for (int n = first; n < last; n++) {
        for (int h = 0; h < r->heads; h++) {
            size_t row = (size_t)n * r->heads + h;
            act *x = r->out + (size_t)n * r->stride + (size_t)h * r->C, *was = r->dx + row * r->C;
            memcpy(was, x, (size_t)r->C * sizeof *x);
            norm_row(r, x, was, r->stats + row, NULL);
        }
    }
}

static void headnorm_forward(Backend *b, Buf qkv, Buf before, Buf rstd, Norm w, int N, int stride,
                             int heads, int HS) {
    (void)b;
    Rows r = {.out = acts(qkv),
              .dx = acts(before),
              .stats = f32(rstd),
              .norm = w,
              .C = HS,
              .stride = stride,
              .heads = heads};
    CPU(parallel)(N, GRAIN, headnorm_rows, &r);
}

static void headnorm_dx(void *ctx, int first, int last) {
    const Rows *r = ctx;
    for (int n = first; n < last; n++) {
        for (int h = 0; h < r->heads; h++) {
            size_t row = (size_t)n * r->heads + h;
            act *d = r->dx + (size_t)n * r->stride + (size_t)h * r->C;
            dx_row(r, d, NULL, d, r->x + row * r->C, r->stats[row], 0.0f);
        }
    }
}

static void headnorm_dw(void *ctx, int first, int last) {
    const Rows *r = ctx;
    for (int n = 0; n < r->N; n++) {
        for (int h = 0; h < r->heads; h++) {
            size_t row = (size_t)n * r->heads + h;
            const act *d = r->dx + (size_t)n * r->stride + (size_t)h * r->C;
            for (int c = first; c < last; c += VW)
                dw_step(r, d, r->x + row * r->C, 0.0f, r->stats[row], c, last - c);
        }
    }
}

static void headnorm_backward(Backend *b, Buf dqkv, Buf dw, Buf before, Norm w, Buf rstd, int N,
                              int stride, int heads, int HS) {
    (void)b;
    Rows r = {.dx = acts(dqkv),
              .dw = f32(dw),
              .x = acts(before),
              .norm = w,
              .stats = f32(rstd),
              .N = N,
              .C = HS,
              .stride = stride,
              .heads = heads};
    if (dw.ptr) CPU(parallel)(HS, 64, headnorm_dw, &r); /* before dx overwrites what it reads */
    CPU(parallel)(N, GRAIN, headnorm_dx, &r);
}

void CPU(norm_page)(Backend *b) {
    b->norm_forward = norm_forward;
    b->norm_backward = norm_backward;
    b->headnorm_forward = headnorm_forward;
    b->headnorm_backward = headnorm_backward;
}
