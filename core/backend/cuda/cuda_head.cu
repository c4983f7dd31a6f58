/* cuda_head.cu - the fused head: hidden state -> log-probability and entropy of asked tokens, in
 * chunks of rows, so that [R,V] never exists; rows by number; the scalar head. */
#include "core/backend/cuda/cuda_product.h"
#include "core/backend/cuda/device.cuh"
#include "core/backend/cuda/row.cuh"

enum { THREADS = 256, ROW_THREADS = 512 };

/* --- rows of logits --- */

typedef struct { /* of a chunk; NULL = not asked */
    float *z;
    const int *targets;
    float *logp, *entropy, *mean_logp, *top1;
    const float *g_logp, *g_entropy, *g_mean;
    int V;
    float inv, bend; /* 1 / temperature; temperature / softcap, 0 for none */
} HeadRows;

/* The outputs of this block's row; at_target: log p of its target. */
template <bool WIDE>
static __device__ RowStats head_outputs(const HeadRows &h, const float *z, float *at_target) {
    __shared__ float room[ROW_THREADS / WARP];
    int r = (int)blockIdx.x, y = h.targets[r];
    float t = z[y] * h.inv; /* read before a gradient takes its place */
    RowStats s = row_stats<ROW_THREADS, WIDE>(z, h.V, h.V, h.inv, room);
    *at_target = t - s.lse;
    if (threadIdx.x == 0) {
        if (h.logp) h.logp[r] = *at_target;
        if (h.entropy) h.entropy[r] = s.entropy;
        if (h.mean_logp) h.mean_logp[r] = s.mean_logp;
        if (h.top1) h.top1[r] = t >= s.max && s.top == y;
    }
    return s;
}

template <bool WIDE>
static __global__ void __launch_bounds__(ROW_THREADS) head_forward_rows(HeadRows h) {
    float at_target;
    head_outputs<WIDE>(h, h.z + (size_t)blockIdx.x * h.V, &at_target);
}

/* d logp/dz_v = [v = y] - p_v;  d H/dz_v = -p_v (log p_v + H);  d mean_logp/dz_v = 1/V - p_v; all /
 * T. The gradient takes the row's place; a row of bf16 its first half. */
template <class D, bool WIDE>
static __global__ void __launch_bounds__(ROW_THREADS) head_backward_rows(HeadRows h) {
    float *z = h.z + (size_t)blockIdx.x * h.V, at_target;
    D *dz = (D *)z;
    RowStats s = head_outputs<WIDE>(h, z, &at_target);
    float g_logp = h.g_logp ? h.g_logp[blockIdx.x] * h.inv : 0.0f;
    float g_entropy = h.g_entropy ? h.g_entropy[blockIdx.x] * h.inv : 0.0f;
    float g_mean = h.g_mean ? h.g_mean[blockIdx.x] * h.inv : 0.0f, uniform = g_mean / (float)h.V;
    for (int base = 0; base < h.V; base += ROW_THREADS * EACH) {
        float t[EACH];
        load_logits<ROW_THREADS, WIDE>(t, z, base, h.V, h.inv, 0.0f);
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            float logp = t[j] - s.lse, tanh = t[j] * h.bend;
            t[j] = uniform - expf(logp) * (g_logp + g_mean + g_entropy * (logp + s.entropy));
            t[j] *= 1.0f - tanh * tanh;
        }
        if (sizeof(D) < sizeof(float)) __syncthreads(); /* bf16s land on logits of this tile */
        int v = logit_at<ROW_THREADS, WIDE>(base, 0);
        if constexpr (WIDE) {
            if (v < h.V) store_few(dz + v, t);
        } else {
#pragma unroll
            for (int j = 0; j < EACH; j++, v += ROW_THREADS)
                if (v < h.V) dz[v] = from_f32<D>(t[j]);
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) { /* the target's own entry again, without cancellation */
        float p = expf(at_target);
        float d = g_logp * (1.0f - p) - p * (g_mean + g_entropy * (at_target + s.entropy));
        float tanh = (at_target + s.lse) * h.bend;
        dz[h.targets[blockIdx.x]] = from_f32<D>((d + uniform) * (1.0f - tanh * tanh));
    }
}

static __global__ void __launch_bounds__(THREADS) bend(float *z, size_t count, float softcap) {
    size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < count) z[i] = softcap * tanhf(z[i] / softcap);
}

void cuda_bend_logits(CudaBackend *b, float *z, size_t count, float softcap) {
    if (softcap > 0.0f && count)
        LAUNCH(b, bend, blocks_for(count, THREADS), THREADS, 0, z, count, softcap);
}

/* --- chunks --- */

static HeadRows chunk_rows(HeadOut out, HeadGrad grad, Buf targets, Buf logits, int V, int r,
                           float temperature, float softcap) {
    size_t at = (size_t)r;
    HeadRows h = {};
    h.z = as<float>(logits);
    h.targets = as<int>(targets) + r;
    h.logp = as<float>(buf_at(out.logp, at));
    h.entropy = as<float>(buf_at(out.entropy, at));
    h.mean_logp = as<float>(buf_at(out.mean_logp, at));
    h.top1 = as<float>(buf_at(out.top1, at));
    h.g_logp = as<float>(buf_at(grad.logp, at));
    h.g_entropy = as<float>(buf_at(grad.entropy, at));
    h.g_mean = as<float>(buf_at(grad.mean_logp, at));
    h.V = V;
    h.inv = 1.0f / temperature;
    h.bend = softcap > 0.0f ? temperature / softcap : 0.0f;
    return h;
}

static void head_forward(Backend *page, HeadOut out, Buf h, Mat w, Buf targets, Buf logits,
                         int chunk, int R, float temperature, float softcap) {
    CudaBackend *b = cuda(page);
    auto *kernel =
        wide_rows(w.O, EACH, logits.ptr) ? head_forward_rows<true> : head_forward_rows<false>;
    for (int r = 0; r < R; r += chunk) {
        int n = R - r < chunk ? R - r : chunk;
        page->matmul_forward(page, logits, buf_at(h, (size_t)r * w.K), w, n);
        cuda_bend_logits(b, as<float>(logits), (size_t)n * w.O, softcap);
        HeadRows rows = chunk_rows(out, HeadGrad{}, targets, logits, w.O, r, temperature, softcap);
        LAUNCH(b, kernel, n, ROW_THREADS, 0, rows);
    }
}

/* dh = dlogits w, dw += dlogits^T h, where rows of dlogits lie `stride` elements apart */
static void gradient_products(CudaBackend *b, Buf dh, Buf dw, Buf h, const Mat *w, Buf logits,
                              int n, int stride) {
    ProductCall c = {};
    c.A = logits.ptr;
    c.B = cuda_weights(w, h.dtype);
    c.C = dh.ptr;
    c.in = h.dtype;
    c.out = dh.dtype;
    c.M = n;
    c.N = w->K;
    c.K = w->O;
    c.lda = stride;
    product_run(b, &c);
    if (!dw.ptr) return;
    c.B = h.ptr;
    c.C = dw.ptr;
    c.out = DT_F32;
    c.M = w->O;
    c.K = n;
    c.a_transposed = 1;
    c.add = 1;
    product_run(b, &c);
}

static void head_backward(Backend *page, Buf dh, Buf dw, HeadGrad grad, HeadOut out, Buf h, Mat w,
                          Buf targets, Buf logits, int chunk, int R, float temperature,
                          float softcap) {
    CudaBackend *b = cuda(page);
    bool wide = wide_rows(w.O, EACH, logits.ptr), bits = h.dtype == DT_BF16;
    auto *kernel = bits   ? wide ? head_backward_rows<bf16, true> : head_backward_rows<bf16, false>
                     : wide ? head_backward_rows<float, true>
                          : head_backward_rows<float, false>;
    for (int r = 0; r < R; r += chunk) {
        int n = R - r < chunk ? R - r : chunk;
        Buf h_r = buf_at(h, (size_t)r * w.K), dh_r = buf_at(dh, (size_t)r * w.K);
        page->matmul_forward(page, logits, h_r, w, n);
        cuda_bend_logits(b, as<float>(logits), (size_t)n * w.O, softcap);
        HeadRows rows = chunk_rows(out, grad, targets, logits, w.O, r, temperature, softcap);
        LAUNCH(b, kernel, n, ROW_THREADS, 0, rows);
        gradient_products(b, dh_r, dw, h_r, &w, logits, n, bits ? 2 * w.O : w.O);
    }
}

/* --- rows by number --- */

static void gather_rows(Backend *page, Buf out, Buf x, Buf rows, int R, int C) {
    page->embedding_forward(page, out, x, rows, R, C, 1.0f);
}

template <class T, int W>
static __global__ void __launch_bounds__(THREADS)
    scatter(T *out, const T *x, const int *rows, int C) {
    size_t r = blockIdx.x;
    T *to = out + (size_t)rows[r] * C;
    for (int c = (int)threadIdx.x * W; c < C; c += (int)blockDim.x * W) {
        float v[W];
        load_few(v, x + r * C + c);
        store_few(to + c, v);
    }
}

template <class T> static void scatter_all(CudaBackend *b, Buf out, Buf x, Buf rows, int R, int C) {
    constexpr int W = Pack<T>::N;
    bool wide = wide_rows(C, W, out.ptr, x.ptr);
    auto *kernel = wide ? scatter<T, W> : scatter<T, 1>;
    LAUNCH(b, kernel, R, row_threads(wide ? C / W : C), 0, as<T>(out), as<T>(x), as<int>(rows), C);
}

static void scatter_rows(Backend *page, Buf out, Buf x, Buf rows, int R, int N, int C) {
    page->zero(page, out, (size_t)N * C);
    if (R <= 0) return;
    if (x.dtype == DT_F32)
        scatter_all<float>(cuda(page), out, x, rows, R, C);
    else
        scatter_all<bf16>(cuda(page), out, x, rows, R, C);
}

/* --- scalar heads --- */

typedef struct {
    Buf score, dh, dw, dscore, h, w;
    int N, C, K;
} Score;

template <class T, class WT, int W>
static __global__ void __launch_bounds__(THREADS)
    score_rows(float *score, const T *h, const WT *w, int N, int C, int K) {
    int lane = threadIdx.x % WARP, n = (int)blockIdx.x * (THREADS / WARP) + (int)threadIdx.x / WARP;
    if (n >= N) return; /* a whole warp */
    for (int k = 0; k < K; k++) {
        float sum = 0.0f;
#pragma unroll 4
        for (int c = lane * W; c < C; c += WARP * W) {
            float a[W], w_c[W];
            load_few(a, h + (size_t)n * C + c);
            load_weights<T>(w_c, w + (size_t)k * C + c);
#pragma unroll
            for (int j = 0; j < W; j++) sum = fmaf(a[j], w_c[j], sum);
        }
        sum = warp_sum(sum);
        if (lane == 0) score[(size_t)n * K + k] = sum;
    }
}

template <class T, class WT, int W>
static __global__ void __launch_bounds__(THREADS)
    score_dh(T *dh, const float *dscore, const WT *w, int C, int K) {
    size_t n = blockIdx.x;
    for (int c = (int)threadIdx.x * W; c < C; c += (int)blockDim.x * W) {
        float d[W] = {}, w_c[W];
        for (int k = 0; k < K; k++) {
            float s = dscore[n * K + k];
            load_weights<T>(w_c, w + (size_t)k * C + c);
#pragma unroll
            for (int j = 0; j < W; j++) d[j] = fmaf(s, w_c[j], d[j]);
        }
        store_few(dh + n * C + c, d);
    }
}

/* Sums over `rows` tokens, into row blockIdx.y of the partial sums [K,C]. Most tokens have no score
 * in a reward model's loss: theirs are not read. */
template <class T, int W>
static __global__ void __launch_bounds__(THREADS)
    score_dw(float *partial, const float *dscore, const T *h, int N, int C, int K, int rows) {
    int lane = threadIdx.x % WARP, c = ((int)blockIdx.x * (int)blockDim.x + (int)threadIdx.x) * W;
    int first = (int)blockIdx.y * rows, last = min(N, first + rows);
    for (int k = 0; k < K; k++) {
        float sum[W] = {}, v[W];
        for (int n = first; n < last; n += WARP) {
            float mine = n + lane < last ? dscore[(size_t)(n + lane) * K + k] : 0.0f;
            unsigned some = __ballot_sync(ALL_LANES, mine != 0.0f);
            for (; some; some &= some - 1) {
                int i = __ffs((int)some) - 1;
                float d = __shfl_sync(ALL_LANES, mine, i);
                if (c >= C) continue;
                load_few(v, h + (size_t)(n + i) * C + c);
#pragma unroll
                for (int j = 0; j < W; j++) sum[j] = fmaf(d, v[j], sum[j]);
            }
        }
        if (c < C) store_few(partial + ((size_t)blockIdx.y * K + k) * C + c, sum);
    }
}

enum { PARTS_MAX = 512 };

template <class T, int W> static void score_weight(CudaBackend *b, Score s) {
    size_t count = (size_t)s.K * s.C, fit = SCRATCH_BYTES / (count * sizeof(float));
    int items = s.C / W, threads = row_threads(items);
    int most = fit < PARTS_MAX ? (int)fit : PARTS_MAX;
    CHECK(most > 0);
    int rows = (blocks_for((size_t)s.N, most) + WARP - 1) / WARP * WARP;
    int parts = blocks_for((size_t)s.N, rows);
    auto *kernel = score_dw<T, W>;
    dim3 grid((unsigned)blocks_for((size_t)items, threads), (unsigned)parts);
    LAUNCH(b, kernel, grid, threads, 0, (float *)b->scratch, as<float>(s.dscore), as<T>(s.h), s.N,
           s.C, s.K, rows);
    cuda_add_partials(b, as<float>(s.dw), parts, count);
}

template <class T, class WT, int W>
static void score_width(CudaBackend *b, Score s, bool backward) {
    auto *forward_kernel = score_rows<T, WT, W>;
    auto *backward_kernel = score_dh<T, WT, W>;
    if (!backward) {
        LAUNCH(b, forward_kernel, blocks_for((size_t)s.N, THREADS / WARP), THREADS, 0,
               as<float>(s.score), as<T>(s.h), as<WT>(s.w), s.N, s.C, s.K);
        return;
    }
    LAUNCH(b, backward_kernel, s.N, row_threads(s.C / W), 0, as<T>(s.dh), as<float>(s.dscore),
           as<WT>(s.w), s.C, s.K);
    if (s.dw.ptr) score_weight<T, W>(b, s);
}

template <class T, class WT> static void score_types(CudaBackend *b, Score s, bool backward) {
    constexpr int W = Pack<T>::N;
    if (wide_rows(s.C, W, s.h.ptr, s.w.ptr, s.dh.ptr))
        score_width<T, WT, W>(b, s, backward);
    else
        score_width<T, WT, 1>(b, s, backward);
}

static void score(CudaBackend *b, Score s, bool backward) {
    if (s.N <= 0) return;
    if (s.h.dtype == DT_F32)
        score_types<float, float>(b, s, backward);
    else if (s.w.dtype == DT_F32)
        score_types<bf16, float>(b, s, backward);
    else
        score_types<bf16, bf16>(b, s, backward);
}

static void score_forward(Backend *page, Buf to, Buf h, Buf w, int N, int C, int K) {
    Score s = {};
    s.score = to;
    s.h = h;
    s.w = w;
    s.N = N;
    s.C = C;
    s.K = K;
    score(cuda(page), s, false);
}

static void score_backward(Backend *page, Buf dh, Buf dw, Buf dscore, Buf h, Buf w, int N, int C,
                           int K) {
    Score s = {};
    s.dh = dh;
    s.dw = dw;
    s.dscore = dscore;
    s.h = h;
    s.w = w;
    s.N = N;
    s.C = C;
    s.K = K;
    score(cuda(page), s, true);
}

void cuda_head_page(Backend *b) {
    b->gather_rows = gather_rows;
    b->scatter_rows = scatter_rows;
    b->head_forward = head_forward;
    b->head_backward = head_backward;
    b->score_forward = score_forward;
    b->score_backward = score_backward;
}
