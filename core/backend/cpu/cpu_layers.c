/* cpu_layers.c - embedding, gradients of biases, rotary positions (Su et al. 2021), gated
 * activations (Shazeer 2020): what stands between the products beside norms. Tokens are split over
 * threads in the forwards and in gradients of activations, columns in gradients of weights, whose
 * chains run over tokens in order. */
#include "core/backend/cpu/act.h"
#include "core/backend/cpu/step.h"

typedef struct {
    act *out, *dx;
    float *dw;
    const act *dout;
    Buf w;
    const int *ids;
    int N, C;
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
    b->bias_backward = bias_backward;
    b->rope = rope;
    b->activation_forward = activation_forward;
    b->activation_backward = activation_backward;
}
