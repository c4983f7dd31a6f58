/* cpu_layers.c - embedding, norms with the residual sum before them, rotary
 * positions (Su et al. 2021), gated activations (Shazeer 2020): what stands between the products.
 * Tokens are split over threads in the forwards and in gradients of activations, columns in
 * gradients of weights, whose chains run over tokens in order. */
#include <string.h>

#include "core/backend/cpu/act.h"

typedef struct {
    act *out, *sum, *dx;
    float *stats, *dw;
    const act *x, *y, *dout, *dsum; /* y and dsum may be NULL */
    Buf w;
    Norm norm;
    const int *ids;
    int N, C;
    int stride, heads; /* of rows that hold heads of C */
    float scale;
} Rows;

enum { GRAIN = 16 }; /* rows: below this a second thread costs more than it brings */

static void embedding_rows(void *ctx, int first, int last) {
    const Rows *r = ctx;
    for (int n = first; n < last; n++) {
        act *out_n = r->out + (size_t)n * r->C;
        size_t from = (size_t)r->ids[n] * r->C;
        for (int c = 0; c < r->C; c += VW)
            astore_upto(out_n + c, vset1(r->scale) * weights_upto(r->w, from + c, r->C - c),
                        r->C - c);
    }
}

static void embedding_forward(Backend *b, Buf x, Buf emb, Buf ids, int N, int C, float scale) {
    (void)b;
    Rows r = {.out = acts(x), .w = emb, .ids = i32(ids), .C = C, .scale = scale};
    CPU(parallel)(N, 64, embedding_rows, &r);
}

static void embedding_columns(void *ctx, int first, int last) {
    const Rows *r = ctx;
    for (int n = 0; n < r->N; n++) {
        float *row = r->dw + (size_t)r->ids[n] * r->C;
        const act *dx_n = r->dx + (size_t)n * r->C;
        for (int c = first; c < last; c += VW) {
            int left = last - c;
            vf sum = vload_upto(row + c, left, 0.0f);
            vstore_upto(row + c, vfma(vset1(r->scale), aload_upto(dx_n + c, left), sum), left);
        }
    }
}

static void embedding_backward(Backend *b, Buf demb, Buf dx, Buf ids, int N, int C, float scale) {
    (void)b;
    if (!demb.ptr) return;
    Rows r = {.dw = f32(demb), .dx = acts(dx), .ids = i32(ids), .N = N, .C = C, .scale = scale};
    CPU(parallel)(C, 64, embedding_columns, &r);
}

/* Each loop over columns has a step of its own, for whole vectors and once for the tail: with
 * `left` a constant nothing is left of its branches. */
#define STEP static inline __attribute__((always_inline)) void

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

static void bias_columns(void *ctx, int first, int last) {
    const Rows *r = ctx;
    for (int n = 0; n < r->N; n++) {
        const act *dy_n = r->dout + (size_t)n * r->C;
        for (int c = first; c < last; c += VW) {
            int left = last - c;
            vf sum = vload_upto(r->dw + c, left, 0.0f) + aload_upto(dy_n + c, left);
            vstore_upto(r->dw + c, sum, left);
        }
    }
}

static void bias_backward(Backend *b, Buf dbias, Buf dy, int N, int O) {
    (void)b;
    if (!dbias.ptr) return;
    Rows r = {.dw = f32(dbias), .dout = acts(dy), .N = N, .C = O};
    CPU(parallel)(O, 64, bias_columns, &r);
}

typedef struct {
    act *qkv;
    const float *table;
    const int *positions;
    int stride, heads, HS, R, backward;
} Rope;

static void rope_rows(void *ctx, int first, int last) {
    const Rope *r = ctx;
    int half = r->R / 2;
    for (int n = first; n < last; n++) {
        const float *cosine = r->table + (size_t)r->positions[n] * r->R, *sine = cosine + half;
        for (int h = 0; h < r->heads; h++) {
            act *x = r->qkv + (size_t)n * r->stride + (size_t)h * r->HS, *y = x + half;
            for (int i = 0; i < half; i += VW) {
                int left = half - i;
                vf s = vload_upto(sine + i, left, 0.0f), c = vload_upto(cosine + i, left, 0.0f);
                vf a = aload_upto(x + i, left), b = aload_upto(y + i, left);
                if (r->backward) s = -s;
                astore_upto(x + i, a * c - b * s, left);
                astore_upto(y + i, b * c + a * s, left);
            }
        }
    }
}

static void rope(Backend *b, Buf qkv, Buf positions, Buf table, int N, int stride, int heads,
                 int HS, int R, int backward) {
    (void)b;
    Rope r = {acts(qkv), f32(table), i32(positions), stride, heads, HS, R, backward};
    CPU(parallel)(N, GRAIN, rope_rows, &r);
}

typedef struct {
    act *h, *dx;
    const act *x, *dh;
    FeedForward f;
} Act;

/* phi(x), the normal density, and Phi(x), its integral, to 1.5e-7 (Abramowitz & Stegun 7.1.26) */
static inline vf normal(vf x, vf *density) {
    vf z = vselect(x < (vf){0}, -x, x), tail = vexp(vset1(-0.5f) * x * x);
    vf t = vset1(1.0f) / vfma(vset1(0.3275911f * 0.70710678119f), z, vset1(1.0f));
    vf p = vset1(1.061405429f);
    p = vfma(p, t, vset1(-1.453152027f));
    p = vfma(p, t, vset1(1.421413741f));
    p = vfma(p, t, vset1(-0.284496736f));
    p = vfma(p, t, vset1(0.254829592f));
    vf above = vset1(0.5f) * p * t * tail; /* 1 - Phi(|x|) */
    *density = vset1(0.3989422804f) * tail;
    return vselect(x < (vf){0}, above, vset1(1.0f) - above);
}

/* Values of act(g) and act'(g) for the two gelus. */
static inline vf gelu(vf g, Activation act, vf *slope) {
    const vf one = vset1(1.0f), half = vset1(0.5f);
    if (act == ACT_GELU) {
        vf density, share = normal(g, &density);
        *slope = share + g * density;
        return g * share;
    }
    const vf k = vset1(0.7978845608f), cube = vset1(0.044715f);
    vf t = vtanh(k * (g + cube * g * g * g)), share = half * (one + t);
    *slope = share + half * g * (one - t * t) * k * (one + vset1(3.0f) * cube * g * g);
    return g * share;
}

STEP act_step(const Act *a, act *h, const act *gate, const act *up, int i, int left) {
    vf g = aload_upto(gate + i, left), slope;
    vf y = a->f.act == ACT_SILU ? g * vsigmoid(g) : gelu(g, a->f.act, &slope);
    astore_upto(h + i, a->f.gated ? y * aload_upto(up + i, left) : y, left);
}

static void act_rows(void *ctx, int first, int last) {
    const Act *a = ctx;
    int FF = a->f.FF;
    for (int n = first; n < last; n++) {
        const act *gate = a->x + (size_t)n * (a->f.gated ? 2 * FF : FF), *up = gate + FF;
        act *h = a->h + (size_t)n * FF;
        int i = 0;
        for (; i + VW <= FF; i += VW) act_step(a, h, gate, up, i, VW);
        if (i < FF) act_step(a, h, gate, up, i, FF - i);
    }
}

static void activation_forward(Backend *b, Buf h, Buf x, int N, FeedForward f) {
    (void)b;
    Act a = {.h = acts(h), .x = acts(x), .f = f};
    CPU(parallel)(N, GRAIN, act_rows, &a);
}

/* d silu(g) = sigma(g) (1 + g (1 - sigma(g))) */
STEP act_dstep(const Act *a, act *dgate, act *dup, const act *gate, const act *up, const act *dh,
               int i, int left) {
    vf g = aload_upto(gate + i, left), d = aload_upto(dh + i, left), slope;
    vf u = a->f.gated ? aload_upto(up + i, left) : vset1(1.0f);
    if (a->f.act == ACT_SILU) {
        vf sig = vsigmoid(g);
        astore_upto(dgate + i, d * u * sig * (vset1(1.0f) + g * (vset1(1.0f) - sig)), left);
        if (a->f.gated) astore_upto(dup + i, d * g * sig, left);
        return;
    }
    vf y = gelu(g, a->f.act, &slope);
    astore_upto(dgate + i, d * u * slope, left);
    if (a->f.gated) astore_upto(dup + i, d * y, left);
}

static void act_drows(void *ctx, int first, int last) {
    const Act *a = ctx;
    int FF = a->f.FF;
    for (int n = first; n < last; n++) {
        size_t row = (size_t)n * (a->f.gated ? 2 * FF : FF);
        const act *gate = a->x + row, *up = gate + FF, *dh = a->dh + (size_t)n * FF;
        act *dgate = a->dx + row, *dup = dgate + FF;
        int i = 0;
        for (; i + VW <= FF; i += VW) act_dstep(a, dgate, dup, gate, up, dh, i, VW);
        if (i < FF) act_dstep(a, dgate, dup, gate, up, dh, i, FF - i);
    }
}

static void activation_backward(Backend *b, Buf dx, Buf dh, Buf x, int N, FeedForward f) {
    (void)b;
    Act a = {.dx = acts(dx), .dh = acts(dh), .x = acts(x), .f = f};
    CPU(parallel)(N, GRAIN, act_drows, &a);
}

void CPU(layers_page)(Backend *b) {
    b->embedding_forward = embedding_forward;
    b->embedding_backward = embedding_backward;
    b->norm_forward = norm_forward;
    b->norm_backward = norm_backward;
    b->headnorm_forward = headnorm_forward;
    b->headnorm_backward = headnorm_backward;
    b->bias_backward = bias_backward;
    b->rope = rope;
    b->activation_forward = activation_forward;
    b->activation_backward = activation_backward;
}
