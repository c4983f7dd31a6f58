/* cpu_head.c - the fused head: hidden state -> log-probability and entropy of asked tokens, in
 * chunks of rows, so that [R,V] never exists; sampling from the same numbers; the scalar head. */
#include <string.h>

#include "core/backend/cpu/act.h"

typedef struct { /* of z / temperature over the whole vocabulary */
    float max, lse, entropy, mean_logp;
} RowStats;

/* z becomes z/temperature (0: stays, as for greedy choice); its maximum, and its sum where asked */
static float temper_row(float *z, int V, float temperature, float *sum) {
    vf inv = vset1(temperature > 0.0f ? 1.0f / temperature : 1.0f), top = vset1(-INFINITY);
    vf total = {0};
    for (int v = 0; v < V; v += VW) {
        vf t = vload_upto(z + v, V - v, 0.0f) * inv;
        total = total + t;
        vstore_upto(z + v, t, V - v);
        top = vmax(top, V - v >= VW ? t : vload_n(z + v, V - v, -INFINITY));
    }
    if (sum) *sum = vsum(total);
    return vhmax(top);
}

/* One pass for the maximum, one for sum e^t and sum e^t t, t = z/temperature - max; both in lane
 * order, so a row's bits depend on its logits alone. z becomes z/temperature. */
static RowStats row_stats(float *z, int V, float temperature) {
    float total;
    RowStats s = {.max = temper_row(z, V, temperature, &total)};
    vf sum = {0}, weighted = {0};
    for (int v = 0; v < V; v += VW) {
        vf t = vload_upto(z + v, V - v, -INFINITY) - vset1(s.max), e = vexp(t);
        sum = sum + e;
        weighted = vfma(e, vmax(t, vset1(-1e30f)), weighted); /* 0 * -inf in a tail must stay 0 */
    }
    float S = vsum(sum), log_sum = logf(S);
    s.lse = s.max + log_sum;
    s.entropy = log_sum - vsum(weighted) / S;
    s.mean_logp = total / (float)V - s.lse;
    return s;
}

static void bend_row(float *z, int V, float softcap) {
    for (int v = 0; softcap > 0.0f && v < V; v += VW) {
        vf t = vtanh(vload_upto(z + v, V - v, 0.0f) * vset1(1.0f / softcap));
        vstore_upto(z + v, t * vset1(softcap), V - v);
    }
}

static float token_logp(const float *z, float lse, int id) {
    return z[id] - lse;
}

static int row_top(const float *z, int V, float max) {
    for (int v = 0; v < V; v++)
        if (z[v] == max) return v;
    return 0;
}

typedef struct {
    float *z;
    const int *targets;
    HeadOut out;
    HeadGrad grad;
    int V, r0;
    float temperature, softcap;
    int backward;
} Head;

/* d logp/dz_v = [v = y] - p_v;  d H/dz_v = -p_v (log p_v + H);  d mean_logp/dz_v = 1/V - p_v; all /
 * T, and times the slope 1 - (z_v bend)^2 of a bent logit (bend 0: as it is) */
static void row_gradient(float *z, RowStats s, int V, int target, float g_logp, float g_entropy,
                         float g_mean, float inv, float bend) {
    vf lse = vset1(s.lse), H = vset1(s.entropy), ge = vset1(-g_entropy * inv);
    vf gp = vset1(-(g_logp + g_mean) * inv), uniform = vset1(g_mean * inv / (float)V);
    float at_target = z[target] - s.lse, tanh_target = z[target] * bend;
    for (int v = 0; v < V; v += VW) {
        vf of = vload_upto(z + v, V - v, 0.0f), logp = of - lse, tanhs = of * vset1(bend);
        vf d = vexp(logp) * (gp + ge * (logp + H)) + uniform;
        if (bend > 0.0f) d = d * (vset1(1.0f) - tanhs * tanhs);
        vstore_upto(z + v, d, V - v);
    }
    float p = sexp(at_target); /* the target's own entry again, without cancellation */
    z[target] = g_logp * inv * (1.0f - p) -
                p * (g_mean * inv + g_entropy * inv * (at_target + s.entropy)) +
                g_mean * inv / (float)V;
    if (bend > 0.0f) z[target] *= 1.0f - tanh_target * tanh_target;
}

static void head_rows(void *ctx, int first, int last) {
    const Head *h = ctx;
    for (int i = first; i < last; i++) {
        float *z = h->z + (size_t)i * h->V;
        int r = h->r0 + i, y = h->targets[r];
        bend_row(z, h->V, h->softcap);
        RowStats s = row_stats(z, h->V, h->temperature);
        if (h->out.logp.ptr) f32(h->out.logp)[r] = token_logp(z, s.lse, y);
        if (h->out.entropy.ptr) f32(h->out.entropy)[r] = s.entropy;
        if (h->out.mean_logp.ptr) f32(h->out.mean_logp)[r] = s.mean_logp;
        if (h->out.top1.ptr) f32(h->out.top1)[r] = z[y] >= s.max && row_top(z, h->V, s.max) == y;
        if (!h->backward) continue;
        row_gradient(z, s, h->V, y, h->grad.logp.ptr ? f32(h->grad.logp)[r] : 0.0f,
                     h->grad.entropy.ptr ? f32(h->grad.entropy)[r] : 0.0f,
                     h->grad.mean_logp.ptr ? f32(h->grad.mean_logp)[r] : 0.0f,
                     1.0f / h->temperature, h->softcap > 0.0f ? h->temperature / h->softcap : 0.0f);
    }
}

static void head_forward(Backend *b, HeadOut out, Buf h, Mat w, Buf targets, Buf logits, int chunk,
                         int R, float temperature, float softcap) {
    for (int r = 0; r < R; r += chunk) {
        int n = R - r < chunk ? R - r : chunk;
        b->matmul_forward(b, logits, buf_at(h, (size_t)r * w.K), w, n);
        Head rows = {.z = f32(logits),
                     .targets = i32(targets),
                     .out = out,
                     .V = w.O,
                     .r0 = r,
                     .temperature = temperature,
                     .softcap = softcap};
        CPU(parallel)(n, 2, head_rows, &rows);
    }
}

static void head_backward(Backend *b, Buf dh, Buf dw, HeadGrad grad, HeadOut out, Buf h, Mat w,
                          Buf targets, Buf logits, int chunk, int R, float temperature,
                          float softcap) {
    for (int r = 0; r < R; r += chunk) {
        int n = R - r < chunk ? R - r : chunk;
        Buf h_r = buf_at(h, (size_t)r * w.K);
        b->matmul_forward(b, logits, h_r, w, n);
        Head rows = {.z = f32(logits),
                     .targets = i32(targets),
                     .out = out,
                     .grad = grad,
                     .V = w.O,
                     .r0 = r,
                     .temperature = temperature,
                     .softcap = softcap,
                     .backward = 1};
        CPU(parallel)(n, 2, head_rows, &rows);
        b->matmul_backward_input(b, buf_at(dh, (size_t)r * w.K), logits, w, n);
        if (dw.ptr) b->matmul_backward_weight(b, dw, logits, h_r, n, w.O, w.K);
    }
}

typedef struct {
    act *out;
    const act *x;
    const int *rows;
    int C;
} Gather;

static void gather_range(void *ctx, int first, int last) {
    const Gather *g = ctx;
    for (int r = first; r < last; r++)
        memcpy(g->out + (size_t)r * g->C, g->x + (size_t)g->rows[r] * g->C,
               (size_t)g->C * sizeof(act));
}

static void gather_rows(Backend *b, Buf out, Buf x, Buf rows, int R, int C) {
    (void)b;
    Gather g = {acts(out), acts(x), i32(rows), C};
    CPU(parallel)(R, 64, gather_range, &g);
}

static void scatter_range(void *ctx, int first, int last) {
    const Gather *g = ctx;
    for (int r = first; r < last; r++)
        memcpy(g->out + (size_t)g->rows[r] * g->C, g->x + (size_t)r * g->C,
               (size_t)g->C * sizeof(act));
}

static void scatter_rows(Backend *b, Buf out, Buf x, Buf rows, int R, int N, int C) {
    b->zero(b, out, (size_t)N * C);
    Gather g = {acts(out), acts(x), i32(rows), C};
    CPU(parallel)(R, 64, scatter_range, &g);
}

typedef struct {
    float *score, *dw;
    act *dh;
    const act *h;
    const float *dscore;
    Buf w;
    int N, C, K;
} Score;

static void score_rows(void *ctx, int first, int last) {
    const Score *s = ctx;
    for (int n = first; n < last; n++) {
        const act *h_n = s->h + (size_t)n * s->C;
        for (int k = 0; k < s->K; k++) {
            size_t w_k = (size_t)k * s->C;
            vf sum = {0};
            for (int c = 0; c < s->C; c += VW) {
                int left = s->C - c;
                sum = vfma(aload_upto(h_n + c, left), weights_upto(s->w, w_k + c, left), sum);
            }
            s->score[(size_t)n * s->K + k] = vsum(sum);
        }
    }
}

static void score_forward(Backend *b, Buf score, Buf h, Buf w, int N, int C, int K) {
    (void)b;
    Score s = {.score = f32(score), .h = acts(h), .w = w, .C = C, .K = K};
    CPU(parallel)(N, 64, score_rows, &s);
}

static void score_dh(void *ctx, int first, int last) {
    const Score *s = ctx;
    for (int n = first; n < last; n++) {
        const float *dscore_n = s->dscore + (size_t)n * s->K;
        for (int c = 0; c < s->C; c += VW) {
            int left = s->C - c;
            vf d = {0};
            for (int k = 0; k < s->K; k++)
                d = vfma(vset1(dscore_n[k]), weights_upto(s->w, (size_t)k * s->C + c, left), d);
            astore_upto(s->dh + (size_t)n * s->C + c, d, left);
        }
    }
}

static void score_dw(void *ctx, int first, int last) {
    const Score *s = ctx;
    for (int n = 0; n < s->N; n++) {
        const act *h_n = s->h + (size_t)n * s->C;
        for (int k = 0; k < s->K; k++) {
            float d = s->dscore[(size_t)n * s->K + k], *dw_k = s->dw + (size_t)k * s->C;
            if (d == 0.0f) continue; /* most tokens have no score in a reward model's loss */
            for (int c = first; c < last; c += VW) {
                int left = last - c;
                vf sum =
                    vfma(vset1(d), aload_upto(h_n + c, left), vload_upto(dw_k + c, left, 0.0f));
                vstore_upto(dw_k + c, sum, left);
            }
        }
    }
}

static void score_backward(Backend *b, Buf dh, Buf dw, Buf dscore, Buf h, Buf w, int N, int C,
                           int K) {
    (void)b;
    Score s = {.dh = acts(dh),
               .dw = f32(dw),
               .dscore = f32(dscore),
               .h = acts(h),
               .w = w,
               .N = N,
               .C = C,
               .K = K};
    CPU(parallel)(N, 64, score_dh, &s);
    if (dw.ptr) CPU(parallel)(C, 64, score_dw, &s);
}

/* tokens whose masses are added in pairs, before the sum joins the rest */
enum { SIDE_BY_SIDE = 16 };
_Static_assert(SIDE_BY_SIDE % VW == 0, "whole vectors");

/* A token's mass is e^(z - max). They are summed in f64, SIDE_BY_SIDE neighbours as a tree and
 * these one after the other; sums at the beginning of blocks tell where to look for a token. */
enum { MASS_BLOCKS = 256 };
typedef struct {
    double whole, before[MASS_BLOCKS];
    int block; /* tokens */
} Mass;

typedef struct { /* tempered logits */
    const float *z;
    int V, vocab; /* tokens that have mass: the first ones */
    float max;
} Row;

static double sum_of_tree(const float p[SIDE_BY_SIDE]) {
    double sum[SIDE_BY_SIDE];
    for (int i = 0; i < SIDE_BY_SIDE; i++) sum[i] = p[i];
    for (int w = SIDE_BY_SIDE / 2; w; w /= 2)
        for (int i = 0; i < w; i++) sum[i] += sum[i + w];
    return sum[0];
}

/* p = the masses of the neighbours from v on, 0 of those whose logit is below the threshold; their
 * sum. All of V are added to `lanes`. */
static double masses(float p[SIDE_BY_SIDE], const Row *r, int v, float threshold, vf *lanes) {
    for (int i = 0; i < SIDE_BY_SIDE; i += VW) {
        vf logit = vload_upto(r->z + v + i, r->V - v - i, -INFINITY);
        vf e = vexp(logit - vset1(r->max));
        *lanes = *lanes + e;
        vstore(p + i, vselect(logit >= vset1(threshold), e, (vf){0}));
    }
    for (int i = r->vocab > v ? r->vocab - v : 0; i < SIDE_BY_SIDE; i++) p[i] = 0.0f;
    return sum_of_tree(p);
}

/* The mass of the tokens whose logit is at least the threshold; returns the sum over all of V, in
 * the order of row_stats. */
static float weigh_tokens(Mass *m, const Row *r, float threshold) {
    float p[SIDE_BY_SIDE];
    double mass = 0.0;
    vf lanes = {0};
    m->block = (r->V / MASS_BLOCKS + SIDE_BY_SIDE) / SIDE_BY_SIDE * SIDE_BY_SIDE;
    for (int v = 0, k = 0; v < r->V; k++) {
        int end = smaller(v + m->block, r->V);
        for (m->before[k] = mass; v < end; v += SIDE_BY_SIDE)
            mass += masses(p, r, v, threshold, &lanes);
    }
    m->whole = mass;
    return vsum(lanes);
}

static double mass_from(const Row *r, float threshold) {
    Mass m;
    weigh_tokens(&m, r, threshold);
    return m.whole;
}

/* The first token at which their running mass exceeds `enough`, or the last that has any. */
static int token_at(const Mass *m, const Row *r, float threshold, double enough) {
    float p[SIDE_BY_SIDE];
    vf ignored = {0};
    int block = 0, token = 0, is_there = m->whole > enough;
    while ((block + 1) * m->block < r->V && m->before[block + 1] <= enough) block++;
    double mass = is_there ? m->before[block] : 0.0;
    for (int v = is_there ? block * m->block : 0; v < r->V; v += SIDE_BY_SIDE) {
        double running = mass, sum = masses(p, r, v, threshold, &ignored);
        mass += sum;
        if (is_there && mass <= enough) continue;
        for (int i = 0; i < SIDE_BY_SIDE; i++) {
            running += p[i];
            if (p[i] > 0.0f) token = v + i;
            if (is_there && running > enough && p[i] > 0.0f) return token;
        }
    }
    return token;
}

/* Does the threshold still keep >= top_k tokens, or >= top_p mass where top_k is 0? */
static int keeps_enough(const Row *r, float threshold, int top_k, double top_p) {
    if (!top_k) return mass_from(r, threshold) >= top_p;
    int count = 0;
    for (int v = 0; v < r->vocab; v++) count += r->z[v] >= threshold;
    return count >= top_k;
}

/* The largest threshold that keeps enough. Logits sit on a line, so 60 halvings between the largest
 * and the smallest separate any two floats that differ. */
static float cut_at(const Row *r, int top_k, double top_p) {
    float low = r->max, high = r->max;
    for (int v = 0; v < r->vocab; v++)
        if (r->z[v] < low) low = r->z[v];
    low = fmaxf(low, high - 1000.0f); /* below that, probabilities are 0 */
    if (keeps_enough(r, high, top_k, top_p)) return high;
    for (int i = 0; i < 60; i++) {
        float middle = low + (high - low) * 0.5f;
        if (middle <= low || middle >= high) break;
        if (keeps_enough(r, middle, top_k, top_p))
            low = middle;
        else
            high = middle;
    }
    return low;
}

static float top_logit(const Row *r) {
    float top = -INFINITY;
    for (int v = 0; v < r->vocab; v++) top = r->z[v] > top ? r->z[v] : top;
    return top;
}

/* Inverse transform: the first token at which the running mass exceeds u times what is kept, which
 * m says then. */
static int draw(Mass *m, const Row *r, const SampleParams *p, double u) {
    float threshold = -INFINITY;
    if (p->top_k > 0 && p->top_k < p->vocab) {
        threshold = cut_at(r, p->top_k, 0.0);
        weigh_tokens(m, r, threshold);
    }
    if (p->top_p < 1.0f) {
        threshold = fmaxf(threshold, cut_at(r, 0, p->top_p * m->whole));
        weigh_tokens(m, r, threshold);
    }
    if (p->min_p > 0.0f) {
        threshold = fmaxf(threshold, top_logit(r) + logf(p->min_p));
        weigh_tokens(m, r, threshold);
    }
    return token_at(m, r, threshold, u * m->whole);
}

typedef struct {
    float *z, *logp, *cut;
    int *ids;
    const double *uniform;
    int V, r0;
    SampleParams p;
} Sample;

static void edit_row(float *z, const SampleParams *p, int r) {
    if (!p->edits.ptr) return;
    const int *edits = i32(p->edits), *starts = i32(p->edit_starts);
    for (int i = starts[r]; i < starts[r + 1]; i++) {
        int id = edits[i];
        if (id < 0)
            z[~id] = -INFINITY;
        else
            z[id] = z[id] < 0.0f ? z[id] * p->penalty : z[id] / p->penalty;
    }
}

static void sample_rows(void *ctx, int first, int last) {
    const Sample *s = ctx;
    for (int i = first; i < last; i++) {
        float *z = s->z + (size_t)i * s->V;
        int r = s->r0 + i;
        bend_row(z, s->V, s->p.softcap);
        edit_row(z, &s->p, r);
        Row row = {z, s->V, s->p.vocab, temper_row(z, s->V, s->p.temperature, NULL)};
        Mass m;
        float sum = weigh_tokens(&m, &row, -INFINITY), lse = row.max + logf(sum);
        double whole = m.whole;
        s->cut[r] = 0.0f;
        if (s->p.temperature > 0.0f) {
            s->ids[r] = draw(&m, &row, &s->p, s->uniform[r]);
            s->cut[r] = (float)((whole - m.whole) / (double)sum);
        } else {
            s->ids[r] = row_top(z, s->p.vocab, top_logit(&row));
        }
        s->logp[r] = token_logp(z, lse, s->ids[r]);
    }
}

static void sample(Backend *b, Buf ids, Buf logp, Buf cut, Buf h, Mat w, Buf uniform, Buf logits,
                   int chunk, int R, SampleParams p) {
    for (int r = 0; r < R; r += chunk) {
        int n = R - r < chunk ? R - r : chunk;
        b->matmul_forward(b, logits, buf_at(h, (size_t)r * w.K), w, n);
        Sample rows = {f32(logits), f32(logp), f32(cut), i32(ids), f64(uniform), w.O, r, p};
        CPU(parallel)(n, 1, sample_rows, &rows);
    }
}

void CPU(head_page)(Backend *b) {
    b->gather_rows = gather_rows;
    b->scatter_rows = scatter_rows;
    b->head_forward = head_forward;
    b->head_backward = head_backward;
    b->score_forward = score_forward;
    b->score_backward = score_backward;
    b->sample = sample;
}
