/* cuda_norm.cu - RMSNorm and LayerNorm, of the residual stream with the sum before it and of heads
 * within rows. Rows are read once where they fit into the registers of a team of threads. */
#include "core/backend/cuda/device.cuh"
#include "core/backend/cuda/row.cuh"

enum { THREADS = 256 };

/* --- norms: a team of LANES threads per row, small teams share a block --- */

enum { HELD = 4 };       /* times W: elements of a row that a thread keeps in registers */
enum { RESIDENT = 512 }; /* threads of the backward that fit on a multiprocessor for sure */

template <int LANES> struct Team {
    enum { BLOCK = LANES < 128 ? 128 : LANES, TEAMS = BLOCK / LANES };
};

template <int LANES> static __device__ __forceinline__ float team_sum(float x, float *room) {
    if constexpr (LANES == WARP)
        return warp_sum(x);
    else
        return block_sum<LANES>(x, room);
}

/* body(i, c) for each W columns c of this thread. Numbers of i < HELD stay in registers; those of a
 * row that is too long for that have i = HELD and are read again. */
template <int STEP, class Body>
static __device__ __forceinline__ void over_row(int first, int C, Body body) {
#pragma unroll
    for (int i = 0; i < HELD; i++)
        if (first + i * STEP < C) body(i, first + i * STEP);
    for (int c = first + HELD * STEP; c < C; c += STEP) body((int)HELD, c);
}

/* Rows of C that a kernel norms. Outputs may be heads within rows of `stride`. */
template <class T, class WT> struct NormRows {
    T *out, *sum, *dx;
    float *stats, *partial; /* partial: of dw, NULL not wanted */
    const T *x, *y, *dout, *dsum;
    const WT *w, *bias;
    float plus, eps;
    int N, C, heads, stride;
    bool centred;

    __device__ __forceinline__ size_t at(int n) const {
        return (size_t)(n / heads) * stride + (size_t)(n % heads) * C;
    }
};

template <class T, int W, class WT>
static __device__ __forceinline__ void norm_weights(float (&v)[W], const WT *w, float plus) {
    load_weights<T>(v, w);
#pragma unroll
    for (int j = 0; j < W; j++) v[j] += plus;
}

template <class T, class WT, int W, int LANES>
static __global__ void __launch_bounds__(Team<LANES>::BLOCK) norm_rows(NormRows<T, WT> a) {
    constexpr int STEP = LANES * W;
    __shared__ float room[Team<LANES>::BLOCK / WARP];
    int n = (int)blockIdx.x * Team<LANES>::TEAMS + (int)threadIdx.x / LANES, C = a.C;
    int first = (int)threadIdx.x % LANES * W;
    if (n >= a.N) return; /* a whole team */
    const T *x_n = a.x + (size_t)n * C, *y_n = a.y + (size_t)n * C;
    T *out_n = a.out + a.at(n), *sum_n = a.sum + (size_t)n * C;
    float held[HELD + 1][W], sum = 0.0f, mean = 0.0f;
    over_row<STEP>(first, C, [&](int i, int c) {
        load_few(held[i], x_n + c);
        if (a.y) {
            float more[W];
            load_few(more, y_n + c);
#pragma unroll
            for (int j = 0; j < W; j++) held[i][j] = to_f32(from_f32<T>(held[i][j] + more[j]));
            store_few(sum_n + c, held[i]);
        }
#pragma unroll
        for (int j = 0; j < W; j++)
            sum = a.centred ? sum + held[i][j] : fmaf(held[i][j], held[i][j], sum);
    });
    const T *from = a.y ? sum_n : x_n;
    if (a.centred) {
        mean = team_sum<LANES>(sum, room) / (float)C;
        sum = 0.0f;
        over_row<STEP>(first, C, [&](int i, int c) {
            if (i == HELD) load_few(held[i], from + c);
#pragma unroll
            for (int j = 0; j < W; j++) sum = fmaf(held[i][j] - mean, held[i][j] - mean, sum);
        });
    }
    float r = 1.0f / sqrtf(team_sum<LANES>(sum, room) / (float)C + a.eps);
    over_row<STEP>(first, C, [&](int i, int c) {
        float w_c[W], bias[W] = {};
        norm_weights<T>(w_c, a.w + c, a.plus);
        if (a.bias) load_weights<T>(bias, a.bias + c);
        if (i == HELD) load_few(held[i], from + c);
#pragma unroll
        for (int j = 0; j < W; j++) w_c[j] = w_c[j] * ((held[i][j] - mean) * r) + bias[j];
        store_few(out_n + c, w_c);
    });
    if (first) return;
    a.stats[n] = r;
    if (a.centred) a.stats[a.N + n] = mean;
}

/* What this block's rows add to dw, into its row of partial sums; columns behind the registers are
 * there already. */
template <int W, int LANES>
static __device__ void store_partial(float *mine, const float (&dw)[HELD + 1][W], int C) {
    constexpr int TEAMS = Team<LANES>::TEAMS;
    int team = (int)threadIdx.x / LANES, first = (int)threadIdx.x % LANES * W;
    if constexpr (TEAMS == 1) {
        over_row<LANES * W>(first, C, [&](int i, int c) {
            if (i < HELD) store_few(mine + c, dw[i]);
        });
    } else {
        __shared__ float sum[LANES * HELD * W];
        for (int t = 0; t < TEAMS; t++) {
            if (team == t)
                over_row<LANES * W>(first, C, [&](int i, int c) {
#pragma unroll
                    for (int j = 0; j < W; j++) sum[c + j] = t ? sum[c + j] + dw[i][j] : dw[i][j];
                });
            __syncthreads();
        }
        for (int c = (int)threadIdx.x; c < C; c += Team<LANES>::BLOCK) mine[c] = sum[c];
    }
}

/* Each block takes every gridDim-th group of rows, so that the sums for dw stay in registers. dx
 * may be dout. */
template <class T, class WT, int W, int LANES>
static __global__ void __launch_bounds__(Team<LANES>::BLOCK, RESIDENT / Team<LANES>::BLOCK)
    norm_drows(NormRows<T, WT> a) {
    constexpr int STEP = LANES * W, TEAMS = Team<LANES>::TEAMS;
    __shared__ float room[Team<LANES>::BLOCK / WARP];
    int first = (int)threadIdx.x % LANES * W, C = a.C;
    float *mine = a.partial ? a.partial + (size_t)blockIdx.x * C : NULL;
    float x_n[HELD + 1][W], g[HELD + 1][W], dw[HELD + 1][W] = {};
    if (mine)
        over_row<STEP>(first, C, [&](int i, int c) {
            if (i == HELD) store_few(mine + c, dw[i]);
        });
    for (int n = (int)blockIdx.x * TEAMS + (int)threadIdx.x / LANES; n < a.N;
         n += (int)gridDim.x * TEAMS) {
        size_t at = (size_t)n * C, out_at = a.at(n);
        float r = a.stats[n], mean = a.centred ? a.stats[a.N + n] : 0.0f, dot = 0.0f, all = 0.0f;
        over_row<STEP>(first, C, [&](int i, int c) {
            float w_c[W];
            load_few(x_n[i], a.x + at + c);
            load_few(g[i], a.dout + out_at + c);
            norm_weights<T>(w_c, a.w + c, a.plus);
#pragma unroll
            for (int j = 0; j < W; j++) {
                x_n[i][j] -= mean;
                dot = fmaf(g[i][j] * w_c[j], x_n[i][j], dot);
                all = fmaf(g[i][j], w_c[j], all);
            }
        });
        /* x enters its own row's rstd, hence the projection below; and its mean */
        float k = team_sum<LANES>(dot, room) * r * r / (float)C;
        float mean_g = a.centred ? team_sum<LANES>(all, room) / (float)C : 0.0f;
        over_row<STEP>(first, C, [&](int i, int c) {
            float d[W] = {}, w_c[W];
            norm_weights<T>(w_c, a.w + c, a.plus);
            if (a.dsum) load_few(d, a.dsum + at + c);
            if (i == HELD) {
                load_few(x_n[i], a.x + at + c);
                load_few(g[i], a.dout + out_at + c);
                if (mine) load_few(dw[i], mine + c);
#pragma unroll
                for (int j = 0; j < W; j++) x_n[i][j] -= mean;
            }
#pragma unroll
            for (int j = 0; j < W; j++) {
                d[j] += r * (g[i][j] * w_c[j] - mean_g - x_n[i][j] * k);
                dw[i][j] += g[i][j] * x_n[i][j] * r;
            }
            store_few(a.dx + out_at + c, d);
            if (i == HELD && mine) store_few(mine + c, dw[i]);
        });
    }
    if (mine) store_partial<W, LANES>(mine, dw, C);
}

typedef struct {
    Buf out, stats, sum, x, y; /* forward */
    Buf dx, dw, dsum, dout;    /* backward */
    Norm norm;
    int N, C, heads, stride;
} NormCall;

template <class T, class WT>
static NormRows<T, WT> norm_rows_of(CudaBackend *b, const NormCall &a) {
    NormRows<T, WT> r = {};
    r.out = as<T>(a.out), r.sum = as<T>(a.sum), r.dx = as<T>(a.dx);
    r.stats = as<float>(a.stats), r.partial = a.dw.ptr ? (float *)b->scratch : NULL;
    r.x = as<T>(a.x), r.y = as<T>(a.y), r.dout = as<T>(a.dout), r.dsum = as<T>(a.dsum);
    r.w = as<WT>(a.norm.w), r.bias = as<WT>(a.norm.bias);
    r.plus = a.norm.plus, r.eps = a.norm.eps, r.centred = a.norm.centred;
    r.N = a.N, r.C = a.C, r.heads = a.heads, r.stride = a.stride;
    return r;
}

template <class T, class WT, int W, int LANES>
static void norm_teams(CudaBackend *b, const NormCall &a, bool backward) {
    constexpr int TEAMS = Team<LANES>::TEAMS;
    auto *forward_kernel = norm_rows<T, WT, W, LANES>;
    auto *backward_kernel = norm_drows<T, WT, W, LANES>;
    NormRows<T, WT> rows = norm_rows_of<T, WT>(b, a);
    int blocks = blocks_for((size_t)a.N, TEAMS), block = Team<LANES>::BLOCK;
    if (!backward) {
        LAUNCH(b, forward_kernel, blocks, block, 0, rows);
        return;
    }
    size_t fit = SCRATCH_BYTES / ((size_t)a.C * sizeof(float));
    int resident = b->sms * (RESIDENT / Team<LANES>::BLOCK); /* one wave of equal shares */
    if (blocks > resident) blocks = resident;
    if (rows.partial && (size_t)blocks > fit) blocks = (int)fit;
    CHECK(blocks > 0);
    LAUNCH(b, backward_kernel, blocks, block, 0, rows);
    if (rows.partial) cuda_add_partials(b, as<float>(a.dw), blocks, (size_t)a.C);
}

template <class T, class WT, int W>
static void norm_width(CudaBackend *b, const NormCall &a, bool backward) {
    if (a.C <= WARP * HELD * W)
        norm_teams<T, WT, W, WARP>(b, a, backward);
    else if (a.C <= 128 * HELD * W)
        norm_teams<T, WT, W, 128>(b, a, backward);
    else
        norm_teams<T, WT, W, 512>(b, a, backward);
}

template <class T, class WT>
static void norm_types(CudaBackend *b, const NormCall &a, bool backward) {
    constexpr int W = Pack<T>::N;
    const void *w = a.norm.w.ptr, *bias = a.norm.bias.ptr;
    bool wide = backward ? wide_rows(a.C, W, a.dx.ptr, a.dsum.ptr, a.dout.ptr, a.x.ptr, w)
                         : wide_rows(a.C, W, a.out.ptr, a.sum.ptr, a.x.ptr, a.y.ptr, w, bias);
    if (wide && a.stride % W == 0)
        norm_width<T, WT, W>(b, a, backward);
    else
        norm_width<T, WT, 1>(b, a, backward);
}

static void norm(CudaBackend *b, const NormCall &a, bool backward) {
    if (a.N <= 0) return;
    if (a.x.dtype == DT_F32)
        norm_types<float, float>(b, a, backward);
    else if (a.norm.w.dtype == DT_F32)
        norm_types<bf16, float>(b, a, backward);
    else
        norm_types<bf16, bf16>(b, a, backward);
}

static void norm_forward(Backend *page, Buf out, Buf stats, Buf sum, Buf x, Buf y, Norm w, int N,
                         int C) {
    NormCall a = {};
    a.out = out, a.stats = stats, a.sum = sum, a.x = x, a.y = y, a.norm = w;
    a.N = N, a.C = C, a.heads = 1, a.stride = C;
    norm(cuda(page), a, false);
}

static void norm_backward(Backend *page, Buf dx, Buf dw, Buf dsum, Buf dout, Buf x, Norm w,
                          Buf stats, int N, int C) {
    NormCall a = {};
    a.dx = dx, a.dw = dw, a.dsum = dsum, a.dout = dout, a.x = x, a.norm = w, a.stats = stats;
    a.N = N, a.C = C, a.heads = 1, a.stride = C;
    norm(cuda(page), a, true);
}

/* --- RMSNorm of heads within rows: a warp per head --- */

enum { HEADS = THREADS / WARP, LANE_MAX = 8 }; /* heads of a block; elements per lane: HS <= 256 */

template <class T, class WT>
static __global__ void __launch_bounds__(THREADS)
    headnorm_rows(T *qkv, T *before, float *rstd, const WT *w, float plus, int rows, int stride,
                  int heads, int HS, float eps) {
    int row = (int)blockIdx.x * HEADS + (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    if (row >= rows) return; /* a whole warp */
    T *x = qkv + (size_t)(row / heads) * stride + (size_t)(row % heads) * HS;
    T *was = before + (size_t)row * HS;
    float v[LANE_MAX], sum = 0.0f;
#pragma unroll
    for (int i = 0; i < LANE_MAX; i++) {
        int c = i * WARP + lane;
        if (c >= HS) continue;
        was[c] = x[c];
        v[i] = to_f32(x[c]);
        sum = fmaf(v[i], v[i], sum);
    }
    float r = 1.0f / sqrtf(warp_sum(sum) / (float)HS + eps);
#pragma unroll
    for (int i = 0; i < LANE_MAX; i++) {
        int c = i * WARP + lane;
        float w_c[1];
        if (c >= HS) continue;
        norm_weights<T>(w_c, w + c, plus);
        x[c] = from_f32<T>(w_c[0] * (v[i] * r));
    }
    if (lane == 0) rstd[row] = r;
}

/* Each warp takes every so manieth head, so that its sums for dw stay in registers. */
template <class T, class WT>
static __global__ void __launch_bounds__(THREADS)
    headnorm_drows(T *dqkv, float *partial, const T *before, const WT *w, float plus,
                   const float *rstd, int rows, int stride, int heads, int HS) {
    __shared__ float sums[LANE_MAX * WARP];
    int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
    float dw[LANE_MAX] = {};
    for (int row = (int)blockIdx.x * HEADS + warp; row < rows; row += (int)gridDim.x * HEADS) {
        T *d = dqkv + (size_t)(row / heads) * stride + (size_t)(row % heads) * HS;
        const T *x = before + (size_t)row * HS;
        float x_c[LANE_MAX], g[LANE_MAX], r = rstd[row], dot = 0.0f;
#pragma unroll
        for (int i = 0; i < LANE_MAX; i++) {
            int c = i * WARP + lane;
            float w_c[1];
            if (c >= HS) continue;
            norm_weights<T>(w_c, w + c, plus);
            x_c[i] = to_f32(x[c]);
            g[i] = to_f32(d[c]);
            dw[i] += g[i] * x_c[i] * r;
            g[i] *= w_c[0];
            dot = fmaf(g[i], x_c[i], dot);
        }
        float k = warp_sum(dot) * r * r / (float)HS;
#pragma unroll
        for (int i = 0; i < LANE_MAX; i++) {
            int c = i * WARP + lane;
            if (c < HS) d[c] = from_f32<T>(r * (g[i] - x_c[i] * k));
        }
    }
    for (int t = 0; t < HEADS; t++) {
#pragma unroll
        for (int i = 0; i < LANE_MAX; i++) {
            int c = i * WARP + lane;
            if (warp == t) sums[c] = t ? sums[c] + dw[i] : dw[i];
        }
        __syncthreads();
    }
    for (int c = (int)threadIdx.x; partial && c < HS; c += THREADS)
        partial[(size_t)blockIdx.x * HS + c] = sums[c];
}

/* what is going to be normed, out of rows of `stride` */
template <class T>
static __global__ void __launch_bounds__(THREADS)
    keep_heads(T *before, const T *qkv, int stride, int wide) {
    const T *from = qkv + (size_t)blockIdx.x * stride;
    T *to = before + (size_t)blockIdx.x * wide;
    for (int c = (int)threadIdx.x; c < wide; c += (int)blockDim.x) to[c] = from[c];
}

typedef struct {
    Buf qkv, before, rstd, dw;
    Norm norm;
    int N, stride, heads, HS;
} HeadNorm;

/* Heads that a warp cannot hold, such as all of q at once: the norm of whole rows. */
template <class T> static void headnorm_wide(CudaBackend *b, const HeadNorm &a, bool backward) {
    NormCall c = {};
    c.stats = a.rstd, c.x = a.before, c.norm = a.norm, c.N = a.N * a.heads, c.C = a.HS;
    c.heads = a.heads, c.stride = a.stride;
    if (backward) {
        c.dx = c.dout = a.qkv, c.dw = a.dw;
    } else {
        int wide = a.heads * a.HS;
        LAUNCH(b, keep_heads<T>, a.N, row_threads(wide), 0, as<T>(a.before), as<T>(a.qkv), a.stride,
               wide);
        c.out = a.qkv;
    }
    norm(b, c, backward);
}

template <class T, class WT>
static void headnorm(CudaBackend *b, const HeadNorm &a, bool backward) {
    auto *forward_kernel = headnorm_rows<T, WT>;
    auto *backward_kernel = headnorm_drows<T, WT>;
    int rows = a.N * a.heads, blocks = blocks_for((size_t)rows, HEADS);
    if (a.HS > LANE_MAX * WARP) {
        headnorm_wide<T>(b, a, backward);
        return;
    }
    if (!backward) {
        LAUNCH(b, forward_kernel, blocks, THREADS, 0, as<T>(a.qkv), as<T>(a.before),
               as<float>(a.rstd), as<WT>(a.norm.w), a.norm.plus, rows, a.stride, a.heads, a.HS,
               a.norm.eps);
        return;
    }
    float *partial = a.dw.ptr ? (float *)b->scratch : NULL;
    int resident = b->sms * (RESIDENT / THREADS);
    if (blocks > resident) blocks = resident;
    LAUNCH(b, backward_kernel, blocks, THREADS, 0, as<T>(a.qkv), partial, as<T>(a.before),
           as<WT>(a.norm.w), a.norm.plus, as<float>(a.rstd), rows, a.stride, a.heads, a.HS);
    if (partial) cuda_add_partials(b, as<float>(a.dw), blocks, (size_t)a.HS);
}

static void headnorm_types(CudaBackend *b, const HeadNorm &a, bool backward) {
    if (a.N <= 0) return;
    if (a.qkv.dtype == DT_F32)
        headnorm<float, float>(b, a, backward);
    else if (a.norm.w.dtype == DT_F32)
        headnorm<bf16, float>(b, a, backward);
    else
        headnorm<bf16, bf16>(b, a, backward);
}

static void headnorm_forward(Backend *page, Buf qkv, Buf before, Buf rstd, Norm w, int N,
                             int stride, int heads, int HS) {
    HeadNorm a = {qkv, before, rstd, {NULL, DT_F32}, w, N, stride, heads, HS};
    headnorm_types(cuda(page), a, false);
}

static void headnorm_backward(Backend *page, Buf dqkv, Buf dw, Buf before, Norm w, Buf rstd, int N,
                              int stride, int heads, int HS) {
    HeadNorm a = {dqkv, before, rstd, dw, w, N, stride, heads, HS};
    headnorm_types(cuda(page), a, true);
}

void cuda_norm_page(Backend *b) {
    b->norm_forward = norm_forward;
    b->norm_backward = norm_backward;
    b->headnorm_forward = headnorm_forward;
    b->headnorm_backward = headnorm_backward;
}
