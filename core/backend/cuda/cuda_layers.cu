/* cuda_layers.cu - embedding, biases, rotary positions (Su et al. 2021), gated activations (Shazeer
 * 2020), sums: what stands between the products beside norms and is bound by bandwidth. */
#include "core/backend/cuda/device.cuh"
#include "core/backend/cuda/row.cuh"

enum { THREADS = 256 };

/* --- partial sums --- */

enum { COLUMNS = 32, GROUPS = THREADS / COLUMNS };

static __global__ void __launch_bounds__(THREADS)
    add_partials(float *to, const float *partial, int parts, size_t count) {
    __shared__ float sums[GROUPS][COLUMNS];
    int x = threadIdx.x % COLUMNS, group = threadIdx.x / COLUMNS;
    int each = (parts + GROUPS - 1) / GROUPS, first = group * each, last = min(first + each, parts);
    size_t c = (size_t)blockIdx.x * COLUMNS + x;
    float sum = 0.0f;
    if (c < count) {
#pragma unroll 8
        for (int p = first; p < last; p++) sum += partial[(size_t)p * count + c];
    }
    sums[group][x] = sum;
    __syncthreads();
    if (group == 0 && c < count) {
        for (int g = 1; g < GROUPS; g++) sum += sums[g][x];
        to[c] += sum;
    }
}

void cuda_add_partials(CudaBackend *b, float *to, int parts, size_t count) {
    LAUNCH(b, add_partials, blocks_for(count, COLUMNS), THREADS, 0, to, (const float *)b->scratch,
           parts, count);
}

/* --- embedding --- */

template <class T, class WT, int W>
static __global__ void __launch_bounds__(THREADS)
    embedding_rows(T *x, const WT *emb, const int *ids, int C, float scale) {
    size_t n = blockIdx.x;
    const WT *from = emb + (size_t)ids[n] * C;
    for (int c = (int)threadIdx.x * W; c < C; c += (int)blockDim.x * W) {
        float v[W];
        load_weights<T>(v, from + c);
#pragma unroll
        for (int j = 0; j < W; j++) v[j] *= scale;
        store_few(x + n * C + c, v);
    }
}

template <class T, class WT>
static void embed(CudaBackend *b, Buf x, Buf emb, Buf ids, int N, int C, float scale) {
    constexpr int W = Pack<T>::N;
    bool wide = wide_rows(C, W, x.ptr, emb.ptr);
    auto *kernel = wide ? embedding_rows<T, WT, W> : embedding_rows<T, WT, 1>;
    LAUNCH(b, kernel, N, row_threads(wide ? C / W : C), 0, as<T>(x), as<WT>(emb), as<int>(ids), C,
           scale);
}

static void embedding_forward(Backend *page, Buf x, Buf emb, Buf ids, int N, int C, float scale) {
    CudaBackend *b = cuda(page);
    if (N <= 0) return;
    if (x.dtype == DT_F32)
        embed<float, float>(b, x, emb, ids, N, C, scale);
    else if (emb.dtype == DT_F32)
        embed<bf16, float>(b, x, emb, ids, N, C, scale);
    else
        embed<bf16, bf16>(b, x, emb, ids, N, C, scale);
}

enum { SCAN_EACH = 16, SCAN = THREADS * SCAN_EACH }; /* ids looked at between two barriers */

/* Is there a token in front of n with the same id? */
static __device__ bool has_earlier(const int *ids, int n, int *room) {
    int id = ids[n];
    for (int end = n; end > 0; end -= SCAN) { /* backwards: frequent ids were seen lately */
        int found = 0;
#pragma unroll
        for (int k = 0; k < SCAN_EACH; k++) {
            int m = end - 1 - k * THREADS - (int)threadIdx.x;
            if (m >= 0) found |= ids[m] == id;
        }
        if (block_reduce<THREADS>(found, room, [](int a, int c) { return a | c; })) return true;
    }
    return false;
}

/* The tokens of [base, base + SCAN) whose id is `id`, in order, into list; how many. */
static __device__ int list_equal(int *list, int *room, const int *ids, int N, int base, int id) {
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, mine = 0, before = 0, all = 0;
    int first = base + warp * WARP * SCAN_EACH + lane;
    unsigned equal[SCAN_EACH];
#pragma unroll
    for (int k = 0; k < SCAN_EACH; k++) {
        int m = first + k * WARP;
        equal[k] = __ballot_sync(ALL_LANES, m < N && ids[m] == id);
        mine += __popc(equal[k]);
    }
    if (lane == 0) room[warp] = mine;
    __syncthreads();
    for (int w = 0; w < THREADS / WARP; w++) {
        before += w < warp ? room[w] : 0;
        all += room[w];
    }
#pragma unroll
    for (int k = 0; k < SCAN_EACH; k++) {
        int rank = __popc(equal[k] & ((1u << lane) - 1));
        if (equal[k] >> lane & 1) list[before + rank] = first + k * WARP;
        before += __popc(equal[k]);
    }
    __syncthreads();
    return all;
}

/* A block per token. That of an id's first token adds the rows of all of them, in order. */
template <class T, int W>
static __global__ void __launch_bounds__(THREADS)
    embedding_add(float *demb, const T *dx, const int *ids, int N, int C, float scale) {
    __shared__ int list[SCAN], room[THREADS / WARP];
    int n = (int)blockIdx.x, id = ids[n];
    if (has_earlier(ids, n, room)) return;
    float *row = demb + (size_t)id * C;
    for (int base = n; base < N; base += SCAN) {
        int count = list_equal(list, room, ids, N, base, id);
        for (int c = (int)threadIdx.x * W; count && c < C; c += THREADS * W) {
            float sum[W], v[W];
            load_few(sum, row + c);
#pragma unroll 4
            for (int i = 0; i < count; i++) {
                load_few(v, dx + (size_t)list[i] * C + c);
#pragma unroll
                for (int j = 0; j < W; j++) sum[j] = fmaf(scale, v[j], sum[j]);
            }
            store_few(row + c, sum);
        }
        __syncthreads();
    }
}

template <class T>
static void embed_add(CudaBackend *b, Buf demb, Buf dx, Buf ids, int N, int C, float scale) {
    constexpr int W = Pack<T>::N;
    auto *kernel = wide_rows(C, W, demb.ptr, dx.ptr) ? embedding_add<T, W> : embedding_add<T, 1>;
    LAUNCH(b, kernel, N, THREADS, 0, as<float>(demb), as<T>(dx), as<int>(ids), N, C, scale);
}

static void embedding_backward(Backend *page, Buf demb, Buf dx, Buf ids, int N, int C,
                               float scale) {
    if (!demb.ptr || N <= 0) return;
    if (dx.dtype == DT_F32)
        embed_add<float>(cuda(page), demb, dx, ids, N, C, scale);
    else
        embed_add<bf16>(cuda(page), demb, dx, ids, N, C, scale);
}

/* --- gradients of biases --- */

/* A thread per column and share of the tokens. */
template <class T>
static __global__ void __launch_bounds__(THREADS)
    bias_shares(float *partial, const T *dy, int N, int O, int parts) {
    int share = (int)blockIdx.x % parts, each = (N + parts - 1) / parts;
    int c = (int)blockIdx.x / parts * THREADS + (int)threadIdx.x, last = min(N, (share + 1) * each);
    if (c >= O) return;
    float sum = 0.0f;
#pragma unroll 4
    for (int n = share * each; n < last; n++) sum += to_f32(dy[(size_t)n * O + c]);
    partial[(size_t)share * O + c] = sum;
}

template <class T> static void bias_sum(CudaBackend *b, Buf dbias, Buf dy, int N, int O) {
    size_t fit = SCRATCH_BYTES / ((size_t)O * sizeof(float));
    int parts = blocks_for((size_t)N, WARP);
    if ((size_t)parts > fit) parts = (int)fit;
    CHECK(parts > 0);
    LAUNCH(b, bias_shares<T>, blocks_for((size_t)O, THREADS) * parts, THREADS, 0,
           (float *)b->scratch, as<T>(dy), N, O, parts);
    cuda_add_partials(b, as<float>(dbias), parts, (size_t)O);
}

static void bias_backward(Backend *page, Buf dbias, Buf dy, int N, int O) {
    if (!dbias.ptr || N <= 0) return;
    if (dy.dtype == DT_F32)
        bias_sum<float>(cuda(page), dbias, dy, N, O);
    else
        bias_sum<bf16>(cuda(page), dbias, dy, N, O);
}

/* --- rotary positions --- */

template <class T, int W>
static __global__ void __launch_bounds__(THREADS)
    rope_rows(T *qkv, const int *positions, const float *table, int stride, int heads, int HS,
              int R, float sign) {
    int half = R / 2, packs = half / W;
    const float *cosine = table + (size_t)positions[blockIdx.x] * R, *sine = cosine + half;
    for (int i = (int)threadIdx.x; i < heads * packs; i += (int)blockDim.x) {
        int h = i / packs, at = (i - h * packs) * W;
        T *x = qkv + (size_t)blockIdx.x * stride + (size_t)h * HS + at, *y = x + half;
        float a[W], b[W], c[W], s[W], to_x[W], to_y[W];
        load_few(a, x);
        load_few(b, y);
        load_few(c, cosine + at);
        load_few(s, sine + at);
#pragma unroll
        for (int j = 0; j < W; j++) {
            to_x[j] = a[j] * c[j] - b[j] * (sign * s[j]);
            to_y[j] = b[j] * c[j] + a[j] * (sign * s[j]);
        }
        store_few(x, to_x);
        store_few(y, to_y);
    }
}

template <class T>
static void rotate(CudaBackend *b, Buf qkv, Buf positions, Buf table, int N, int stride, int heads,
                   int HS, int R, float sign) {
    constexpr int W = Pack<T>::N;
    bool wide = wide_rows(R / 2, W, qkv.ptr, table.ptr) && HS % W == 0 && stride % W == 0;
    auto *kernel = wide ? rope_rows<T, W> : rope_rows<T, 1>;
    int items = heads * (R / 2) / (wide ? W : 1);
    if (items > 0)
        LAUNCH(b, kernel, N, row_threads(items), 0, as<T>(qkv), as<int>(positions),
               as<float>(table), stride, heads, HS, R, sign);
}

static void rope(Backend *page, Buf qkv, Buf positions, Buf table, int N, int stride, int heads,
                 int HS, int R, int backward) {
    float sign = backward ? -1.0f : 1.0f;
    if (N <= 0) return;
    if (qkv.dtype == DT_F32)
        rotate<float>(cuda(page), qkv, positions, table, N, stride, heads, HS, R, sign);
    else
        rotate<bf16>(cuda(page), qkv, positions, table, N, stride, heads, HS, R, sign);
}

/* --- the feed-forward's activation --- */

/* act(g), and in *slope its derivative */
static __device__ __forceinline__ float activate(Activation act, float g, float *slope) {
    if (act == ACT_SILU) {
        float s = 1.0f / (1.0f + expf(-g));
        *slope = s * (1.0f + g * (1.0f - s));
        return g * s;
    }
    if (act == ACT_GELU) {
        float share = 0.5f * (1.0f + erff(g * 0.70710678119f));
        *slope = share + g * 0.3989422804f * expf(-0.5f * g * g);
        return g * share;
    }
    const float k = 0.7978845608f, cube = 0.044715f;
    float t = tanhf(k * (g + cube * g * g * g)), share = 0.5f * (1.0f + t);
    *slope = share + 0.5f * g * (1.0f - t * t) * k * (1.0f + 3.0f * cube * g * g);
    return g * share;
}

template <class T, int W>
static __global__ void __launch_bounds__(THREADS) act_rows(T *h, const T *x, FeedForward f) {
    size_t n = blockIdx.x;
    const T *gate = x + n * (f.gated ? 2 * f.FF : f.FF), *up = gate + f.FF;
    for (int i = (int)threadIdx.x * W; i < f.FF; i += (int)blockDim.x * W) {
        float g[W], u[W], slope;
        load_few(g, gate + i);
        if (f.gated) load_few(u, up + i);
#pragma unroll
        for (int j = 0; j < W; j++) g[j] = activate(f.act, g[j], &slope) * (f.gated ? u[j] : 1.0f);
        store_few(h + n * f.FF + i, g);
    }
}

template <class T, int W>
static __global__ void __launch_bounds__(THREADS)
    act_drows(T *dx, const T *dh, const T *x, FeedForward f) {
    size_t n = blockIdx.x, row = n * (f.gated ? 2 * f.FF : f.FF);
    const T *gate = x + row, *up = gate + f.FF;
    T *dgate = dx + row, *dup = dgate + f.FF;
    for (int i = (int)threadIdx.x * W; i < f.FF; i += (int)blockDim.x * W) {
        float g[W], u[W], d[W], slope;
        load_few(g, gate + i);
        load_few(d, dh + n * f.FF + i);
        if (f.gated) load_few(u, up + i);
#pragma unroll
        for (int j = 0; j < W; j++) {
            float d_j = d[j];
            d[j] = d_j * activate(f.act, g[j], &slope);
            g[j] = d_j * (f.gated ? u[j] : 1.0f) * slope;
        }
        store_few(dgate + i, g);
        if (f.gated) store_few(dup + i, d);
    }
}

template <class T> static void act_all(CudaBackend *b, Buf h, Buf x, int N, FeedForward f) {
    constexpr int W = Pack<T>::N;
    bool wide = wide_rows(f.FF, W, h.ptr, x.ptr);
    auto *kernel = wide ? act_rows<T, W> : act_rows<T, 1>;
    LAUNCH(b, kernel, N, row_threads(wide ? f.FF / W : f.FF), 0, as<T>(h), as<T>(x), f);
}

template <class T>
static void act_gradient(CudaBackend *b, Buf dx, Buf dh, Buf x, int N, FeedForward f) {
    constexpr int W = Pack<T>::N;
    bool wide = wide_rows(f.FF, W, dx.ptr, dh.ptr, x.ptr);
    auto *kernel = wide ? act_drows<T, W> : act_drows<T, 1>;
    LAUNCH(b, kernel, N, row_threads(wide ? f.FF / W : f.FF), 0, as<T>(dx), as<T>(dh), as<T>(x), f);
}

static void activation_forward(Backend *page, Buf h, Buf x, int N, FeedForward f) {
    if (N <= 0) return;
    if (h.dtype == DT_F32)
        act_all<float>(cuda(page), h, x, N, f);
    else
        act_all<bf16>(cuda(page), h, x, N, f);
}

static void activation_backward(Backend *page, Buf dx, Buf dh, Buf x, int N, FeedForward f) {
    if (N <= 0) return;
    if (dh.dtype == DT_F32)
        act_gradient<float>(cuda(page), dx, dh, x, N, f);
    else
        act_gradient<bf16>(cuda(page), dx, dh, x, N, f);
}

/* --- flat ranges: W elements per thread, the tail one by one --- */

/* Without y it is out += t (x - out), a running average; with y it is out = x + y. */
template <class T, int W>
static __device__ __forceinline__ void combine(T *out, const T *x, const T *y, size_t i, float t) {
    float a[W], c[W];
    load_few(a, x + i);
    load_few(c, (y ? y : out) + i);
#pragma unroll
    for (int j = 0; j < W; j++) a[j] = y ? a[j] + c[j] : c[j] + t * (a[j] - c[j]);
    store_few(out + i, a);
}

template <class T, int W>
static __global__ void __launch_bounds__(THREADS)
    combine_range(T *out, const T *x, const T *y, size_t count, float t) {
    size_t i = ((size_t)blockIdx.x * THREADS + threadIdx.x) * W;
    if (i + W <= count)
        combine<T, W>(out, x, y, i, t);
    else
        for (; i < count; i++) combine<T, 1>(out, x, y, i, t);
}

template <class T>
static void combine_all(CudaBackend *b, Buf out, Buf x, Buf y, size_t count, float t) {
    constexpr int W = Pack<T>::N;
    bool wide = wide_rows(0, W, out.ptr, x.ptr, y.ptr);
    auto *kernel = wide ? combine_range<T, W> : combine_range<T, 1>;
    LAUNCH(b, kernel, blocks_for(count, THREADS * (wide ? W : 1)), THREADS, 0, as<T>(out), as<T>(x),
           as<T>(y), count, t);
}

static void add(Backend *page, Buf out, Buf x, Buf y, size_t count) {
    if (!count) return;
    if (out.dtype == DT_F32)
        combine_all<float>(cuda(page), out, x, y, count, 0.0f);
    else
        combine_all<bf16>(cuda(page), out, x, y, count, 0.0f);
}

static void lerp(Backend *page, Buf out, Buf x, size_t count, float t) {
    Buf none = {NULL, out.dtype};
    if (!count) return;
    if (out.dtype == DT_F32)
        combine_all<float>(cuda(page), out, x, none, count, t);
    else
        combine_all<bf16>(cuda(page), out, x, none, count, t);
}

void cuda_layers_page(Backend *b) {
    b->add = add;
    b->lerp = lerp;
    b->embedding_forward = embedding_forward;
    b->embedding_backward = embedding_backward;
    b->bias_backward = bias_backward;
    b->rope = rope;
    b->activation_forward = activation_forward;
    b->activation_backward = activation_backward;
}
