/* cpu_layers.c - embedding, RMSNorm (Zhang & Sennrich 2019), rotary positions (Su et al. 2021),
 * SwiGLU (Shazeer 2020): what stands between the products. Tokens are split over threads in the
 * forwards and in gradients of activations, columns in gradients of weights, whose chains run over
 * tokens in order. */
#include "core/backend/cpu/cpu.h"

#include <string.h>

#include "core/backend/cpu/vec.h"

typedef struct {
    float *out, *rstd, *dx, *dw;
    const float *x, *w, *dout, *saved;
    const int *ids;
    int N, C;
    float eps;
} Rows;

enum { GRAIN = 16 }; /* rows: below this a second thread costs more than it brings */

static void embedding_rows(void *ctx, int first, int last) {
    const Rows *r = ctx;
    for (int n = first; n < last; n++)
        memcpy(r->out + (size_t)n * r->C, r->w + (size_t)r->ids[n] * r->C,
               (size_t)r->C * sizeof(float));
}

static void embedding_forward(Backend *b, Buf x, Buf emb, Buf ids, int N, int C) {
    (void)b;
    Rows r = {.out = f32(x), .w = f32(emb), .ids = i32(ids), .C = C};
    CPU(parallel)(N, 64, embedding_rows, &r);
}

static void embedding_columns(void *ctx, int first, int last) {
    const Rows *r = ctx;
    for (int n = 0; n < r->N; n++) {
        float *row = r->dw + (size_t)r->ids[n] * r->C;
        const float *dx_n = r->dx + (size_t)n * r->C;
        for (int c = first; c < last; c++) row[c] += dx_n[c];
    }
}

static void embedding_backward(Backend *b, Buf demb, Buf dx, Buf ids, int N, int C) {
    (void)b;
    if (!demb.ptr) return;
    Rows r = {.dw = f32(demb), .dx = f32(dx), .ids = i32(ids), .N = N, .C = C};
    CPU(parallel)(C, 64, embedding_columns, &r);
}

static void rmsnorm_rows(void *ctx, int first, int last) {
    const Rows *r = ctx;
    for (int n = first; n < last; n++) {
        const float *x_n = r->x + (size_t)n * r->C;
        float *out_n = r->out + (size_t)n * r->C;
        vf sum = {0};
        for (int c = 0; c < r->C; c += VW) {
            vf v = vload_upto(x_n + c, r->C - c, 0.0f);
            sum = vfma(v, v, sum);
        }
        float rstd = 1.0f / sqrtf(vsum(sum) / (float)r->C + r->eps);
        for (int c = 0; c < r->C; c++) out_n[c] = x_n[c] * rstd * r->w[c];
        r->rstd[n] = rstd;
    }
}

static void rmsnorm_forward(Backend *b, Buf out, Buf rstd, Buf x, Buf w, int N, int C, float eps) {
    (void)b;
    Rows r = {.out = f32(out), .rstd = f32(rstd), .x = f32(x), .w = f32(w), .C = C, .eps = eps};
    CPU(parallel)(N, GRAIN, rmsnorm_rows, &r);
}

static void rmsnorm_dx(void *ctx, int first, int last) {
    const Rows *r = ctx;
    for (int n = first; n < last; n++) {
        const float *x_n = r->x + (size_t)n * r->C, *dout_n = r->dout + (size_t)n * r->C;
        float *dx_n = r->dx + (size_t)n * r->C, rstd = r->saved[n];

        /* x enters its own row's rstd, hence the projection below */
        vf dot = {0};
        for (int c = 0; c < r->C; c += VW) {
            vf g = vload_upto(dout_n + c, r->C - c, 0.0f) * vload_upto(r->w + c, r->C - c, 0.0f);
            dot = vfma(g, vload_upto(x_n + c, r->C - c, 0.0f), dot);
        }
        float k = vsum(dot) * rstd * rstd / (float)r->C;
        for (int c = 0; c < r->C; c++) dx_n[c] = rstd * (dout_n[c] * r->w[c] - x_n[c] * k);
    }
}

static void rmsnorm_dw(void *ctx, int first, int last) {
    const Rows *r = ctx;
    for (int n = 0; n < r->N; n++) {
        const float *x_n = r->x + (size_t)n * r->C, *dout_n = r->dout + (size_t)n * r->C;
        float rstd = r->saved[n];
        for (int c = first; c < last; c++) r->dw[c] += dout_n[c] * x_n[c] * rstd;
    }
}

static void rmsnorm_backward(Backend *b, Buf dx, Buf dw, Buf dout, Buf x, Buf w, Buf rstd, int N,
                             int C) {
    (void)b;
    Rows r = {.dx = f32(dx),
              .dw = f32(dw),
              .dout = f32(dout),
              .x = f32(x),
              .w = f32(w),
              .saved = f32(rstd),
              .N = N,
              .C = C};
    if (dw.ptr) CPU(parallel)(C, 64, rmsnorm_dw, &r); /* before dx, which may overwrite dout */
    CPU(parallel)(N, GRAIN, rmsnorm_dx, &r);
}

typedef struct {
    float *qkv;
    const float *table;
    const int *positions;
    int stride, heads, HS, backward;
} Rope;

static void rope_rows(void *ctx, int first, int last) {
    const Rope *r = ctx;
    int half = r->HS / 2;
    for (int n = first; n < last; n++) {
        const float *cosine = r->table + (size_t)r->positions[n] * r->HS, *sine = cosine + half;
        for (int h = 0; h < r->heads; h++) {
            float *x = r->qkv + (size_t)n * r->stride + (size_t)h * r->HS, *y = x + half;
            for (int i = 0; i < half; i++) {
                float s = r->backward ? -sine[i] : sine[i], a = x[i], c = y[i];
                x[i] = a * cosine[i] - c * s;
                y[i] = c * cosine[i] + a * s;
            }
        }
    }
}

static void rope(Backend *b, Buf qkv, Buf positions, Buf table, int N, int stride, int heads,
                 int HS, int backward) {
    (void)b;
    Rope r = {f32(qkv), f32(table), i32(positions), stride, heads, HS, backward};
    CPU(parallel)(N, GRAIN, rope_rows, &r);
}

typedef struct {
    float *h, *dgate_up;
    const float *gate_up, *dh;
    int FF;
} Swiglu;

static void swiglu_rows(void *ctx, int first, int last) {
    const Swiglu *s = ctx;
    for (int n = first; n < last; n++) {
        const float *gate = s->gate_up + (size_t)n * 2 * s->FF, *up = gate + s->FF;
        float *h = s->h + (size_t)n * s->FF;
        for (int i = 0; i < s->FF; i += VW) {
            int left = s->FF - i;
            vf g = vload_upto(gate + i, left, 0.0f);
            vstore_upto(h + i, g * vsigmoid(g) * vload_upto(up + i, left, 0.0f), left);
        }
    }
}

static void swiglu_forward(Backend *b, Buf h, Buf gate_up, int N, int FF) {
    (void)b;
    Swiglu s = {.h = f32(h), .gate_up = f32(gate_up), .FF = FF};
    CPU(parallel)(N, GRAIN, swiglu_rows, &s);
}

/* d silu(g) = sigma(g) (1 + g (1 - sigma(g))) */
static void swiglu_drows(void *ctx, int first, int last) {
    const Swiglu *s = ctx;
    for (int n = first; n < last; n++) {
        const float *gate = s->gate_up + (size_t)n * 2 * s->FF, *up = gate + s->FF;
        const float *dh = s->dh + (size_t)n * s->FF;
        float *dgate = s->dgate_up + (size_t)n * 2 * s->FF, *dup = dgate + s->FF;
        for (int i = 0; i < s->FF; i += VW) {
            int left = s->FF - i;
            vf g = vload_upto(gate + i, left, 0.0f), u = vload_upto(up + i, left, 0.0f);
            vf d = vload_upto(dh + i, left, 0.0f), sig = vsigmoid(g);
            vstore_upto(dgate + i, d * u * sig * (vset1(1.0f) + g * (vset1(1.0f) - sig)), left);
            vstore_upto(dup + i, d * g * sig, left);
        }
    }
}

static void swiglu_backward(Backend *b, Buf dgate_up, Buf dh, Buf gate_up, int N, int FF) {
    (void)b;
    Swiglu s = {.dgate_up = f32(dgate_up), .dh = f32(dh), .gate_up = f32(gate_up), .FF = FF};
    CPU(parallel)(N, GRAIN, swiglu_drows, &s);
}

void CPU(layers_page)(Backend *b) {
    b->embedding_forward = embedding_forward;
    b->embedding_backward = embedding_backward;
    b->rmsnorm_forward = rmsnorm_forward;
    b->rmsnorm_backward = rmsnorm_backward;
    b->rope = rope;
    b->swiglu_forward = swiglu_forward;
    b->swiglu_backward = swiglu_backward;
}
