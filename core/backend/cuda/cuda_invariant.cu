/* cuda_invariant.cu - the attention of --batch-invariant: a decoded row has the bits of the
 * training forward's, because both are this one walk over blocks of KV_PAGE keys, aligned to
 * absolute positions, one warp for each query and head.
 *
 * The backward is the page's usual one: it needs no more than outputs and log-sum-exp. Compiled
 * without contraction, so that both sources of keys get the same instructions. */
#include "core/backend/cuda/attention.cuh"

enum { WARPS = 4, HS_MAX = 256, EACH = HS_MAX / WARP };

/* Keys and values of one kv head: of a packed sequence, or in pages. */
template <class T> struct Packed {
    const T *k, *v;
    int stride;
    __device__ __forceinline__ float key(int j, int d) const {
        return to_f32(k[(size_t)j * stride + d]);
    }
    __device__ __forceinline__ float value(int j, int d) const {
        return to_f32(v[(size_t)j * stride + d]);
    }
};

template <class T> struct Paged {
    const T *keys, *values; /* of kv head 0 of page 0 */
    const int *table;
    size_t page, head; /* elements of a page; where this head's begin */
    int HS;
    __device__ __forceinline__ float key(int j, int d) const {
        return to_f32(keys[table[j / KV_PAGE] * page + head + (size_t)d * KV_PAGE + j % KV_PAGE]);
    }
    __device__ __forceinline__ float value(int j, int d) const {
        return to_f32(values[table[j / KV_PAGE] * page + head + (size_t)(j % KV_PAGE) * HS + d]);
    }
};

/* o of the query q (shared, f32) at position length - 1; *lse if wanted. Lane j meets key j of a
 * block, then lane d gathers channel d. */
template <class T, class Keys>
static __device__ void attend(T *o, float *lse, const float *q, Keys keys, int length,
                              AttentionShape a) {
    int lane = threadIdx.x % WARP, HS = a.HS, begin = first_key(a, length - 1);
    float m = -INFINITY, l = 0.0f, acc[EACH] = {};
    for (int j0 = begin / KV_PAGE * KV_PAGE; j0 < length; j0 += KV_PAGE) {
        float s = 0.0f;
        int j = j0 + lane, count = min(length - j0, (int)KV_PAGE);
        bool seen = lane < count && j >= begin;
        if (seen)
            for (int d = 0; d < HS; d++) s = fmaf(q[d], keys.key(j, d), s);
        s = seen ? bent(a, s * a.scale) : -INFINITY;
        float m_new = fmaxf(m, warp_max(s)), keep = expf(m - m_new), p = expf(s - m_new);
        l = fmaf(l, keep, warp_sum(p));
        m = m_new;
        for (int i = 0; i < EACH; i++) acc[i] *= keep;
        for (int k = 0; k < count; k++) {
            float p_k = __shfl_sync(ALL_LANES, p, k);
            for (int i = 0; i < EACH; i++)
                if (lane + i * WARP < HS)
                    acc[i] = fmaf(p_k, keys.value(j0 + k, lane + i * WARP), acc[i]);
        }
    }
    for (int i = 0; i < EACH; i++)
        if (lane + i * WARP < HS) o[lane + i * WARP] = from_f32<T>(acc[i] / l);
    if (lse && lane == 0) *lse = m + logf(l);
}

template <class T>
static __device__ __forceinline__ void fetch_query(float *q, const T *row, int HS) {
    for (int d = threadIdx.x % WARP; d < HS; d += WARP) q[d] = to_f32(row[d]);
    __syncwarp();
}

/* the last of starts[0, S) that is not behind n */
static __device__ int start_of(const int *starts, int S, int n) {
    int low = 0, high = S;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (starts[middle] <= n)
            low = middle;
        else
            high = middle;
    }
    return starts[low];
}

template <class T>
static __global__ void __launch_bounds__(WARPS *WARP)
    forward_rows(T *out, float *lse, const T *qkv, const int *starts, int S, int N,
                 AttentionShape a) {
    __shared__ float room[WARPS][HS_MAX];
    int NH = a.NH, NKV = a.NKV, HS = a.HS;
    int item = (int)blockIdx.x * WARPS + (int)threadIdx.x / WARP, n = item / NH, h = item % NH;
    float *q = room[threadIdx.x / WARP];
    if (n >= N) return; /* a whole warp; no barrier of the block follows */
    int stride = (NH + 2 * NKV) * HS, first = start_of(starts, S, n), kvh = h / (NH / NKV);
    const T *base = qkv + (size_t)first * stride;
    Packed<T> keys = {base + (NH + kvh) * HS, base + (NH + NKV + kvh) * HS, stride};
    fetch_query(q, qkv + (size_t)n * stride + h * HS, HS);
    attend(out + ((size_t)n * NH + h) * HS, lse + (size_t)n * NH + h, q, keys, n - first + 1, a);
}

template <class T>
static __global__ void __launch_bounds__(WARPS *WARP)
    decode_rows(T *out, const T *qkv, const T *keys, const T *values, const int *table,
                int max_pages, const int *rows, const int *positions, int N, AttentionShape a) {
    __shared__ float room[WARPS][HS_MAX];
    int NH = a.NH, NKV = a.NKV, HS = a.HS;
    int item = (int)blockIdx.x * WARPS + (int)threadIdx.x / WARP, n = item / NH, h = item % NH;
    float *q = room[threadIdx.x / WARP];
    if (n >= N) return;
    int stride = (NH + 2 * NKV) * HS, kvh = h / (NH / NKV);
    size_t page = (size_t)NKV * HS * KV_PAGE, head = (size_t)kvh * HS * KV_PAGE;
    Paged<T> paged = {keys, values, table + (size_t)rows[n] * max_pages, page, head, HS};
    fetch_query(q, qkv + (size_t)n * stride + h * HS, HS);
    attend(out + ((size_t)n * NH + h) * HS, (float *)NULL, q, paged, positions[n] + 1, a);
}

template <class T>
static void forward_of(CudaBackend *b, Buf out, Buf lse, Buf qkv, Buf starts, int S, int N,
                       AttentionShape a) {
    auto *kernel = forward_rows<T>;
    LAUNCH(b, kernel, blocks_for((size_t)N * a.NH, WARPS), WARPS * WARP, 0, (T *)out.ptr,
           (float *)lse.ptr, (const T *)qkv.ptr, (const int *)starts.ptr, S, N, a);
}

static void attention_forward(Backend *page, Buf out, Buf lse, Buf qkv, Buf starts, int S, int N,
                              AttentionShape a) {
    CHECK(a.HS <= HS_MAX);
    if (N <= 0) return;
    if (qkv.dtype == DT_F32)
        forward_of<float>(cuda(page), out, lse, qkv, starts, S, N, a);
    else
        forward_of<bf16>(cuda(page), out, lse, qkv, starts, S, N, a);
}

template <class T>
static void decode_of(CudaBackend *b, Buf out, Buf qkv, KvLayer kv, Buf rows, Buf positions, int N,
                      AttentionShape a) {
    auto *kernel = decode_rows<T>;
    LAUNCH(b, kernel, blocks_for((size_t)N * a.NH, WARPS), WARPS * WARP, 0, (T *)out.ptr,
           (const T *)qkv.ptr, (const T *)kv.keys.ptr, (const T *)kv.values.ptr,
           (const int *)kv.table.ptr, kv.max_pages, (const int *)rows.ptr,
           (const int *)positions.ptr, N, a);
}

static void attention_decode(Backend *page, Buf out, Buf qkv, KvLayer kv, Buf rows, Buf positions,
                             int N, AttentionShape a) {
    CHECK(a.HS <= HS_MAX);
    if (N <= 0) return;
    if (qkv.dtype == DT_F32)
        decode_of<float>(cuda(page), out, qkv, kv, rows, positions, N, a);
    else
        decode_of<bf16>(cuda(page), out, qkv, kv, rows, positions, N, a);
}

void cuda_invariant_page(Backend *b) {
    b->attention_forward = attention_forward;
    b->attention_decode = attention_decode;
    b->exact_decode = 1;
}
