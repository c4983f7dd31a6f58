/* row.cuh - rows of a matrix, several neighbours at a time, and what the head and the sampler ask
 * of a row of logits. */
#ifndef ROW_CUH
#define ROW_CUH

#include <limits.h>

#include "core/backend/cuda/device.cuh"

template <class T> static inline T *as(Buf b) {
    return (T *)b.ptr;
}

/* May rows of C elements at these addresses be read 16 bytes at a time, W elements each? */
template <class... P> static inline bool wide_rows(int C, int W, P... p) {
    return C % W == 0 && (((uintptr_t)p | ...)) % 16 == 0;
}

/* W neighbours as f32; whole packs need an address that is a multiple of 16 */
template <int W, class T>
static __device__ __forceinline__ void load_few(float (&v)[W], const T *p) {
    if constexpr (W % Pack<T>::N == 0) {
#pragma unroll
        for (int i = 0; i < W; i += Pack<T>::N) {
            Pack<T> q = pack_load(p + i);
#pragma unroll
            for (int j = 0; j < Pack<T>::N; j++) v[i + j] = to_f32(q.v[j]);
        }
    } else {
        static_assert(W == 1, "either whole packs or one by one");
        v[0] = to_f32(p[0]);
    }
}

/* Weights on a page of T: on a bf16 page an f32 master is read rounded, so that a trained network
 * and its frozen copy, which is stored rounded, compute the same bits. */
template <class T, int W, class WT>
static __device__ __forceinline__ void load_weights(float (&v)[W], const WT *p) {
    load_few(v, p);
    if constexpr (sizeof(T) == 2 && sizeof(WT) == 4) {
#pragma unroll
        for (int j = 0; j < W; j++) v[j] = to_f32(from_f32<bf16>(v[j]));
    }
}

template <int W> static __device__ __forceinline__ void store_few(float *p, const float (&v)[W]) {
    if constexpr (W % 4 == 0) {
#pragma unroll
        for (int i = 0; i < W; i += 4)
            *reinterpret_cast<float4 *>(p + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
    } else {
        static_assert(W == 1, "either whole packs or one by one");
        p[0] = v[0];
    }
}
template <int W> static __device__ __forceinline__ void store_few(bf16 *p, const float (&v)[W]) {
    if constexpr (W == 8) {
        *reinterpret_cast<uint4 *>(p) = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]),
                                                   pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
    } else {
        static_assert(W == 1, "either a whole pack or one by one");
        p[0] = from_f32<bf16>(v[0]);
    }
}

/* block_sum for any type and any commutative way to make one of two; `room` has THREADS / 32 */
template <int THREADS, class T, class Two>
static __device__ __forceinline__ T block_reduce(T x, T *room, Two two) {
    for (int o = WARP / 2; o; o /= 2) x = two(x, __shfl_xor_sync(ALL_LANES, x, o));
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = x;
    __syncthreads();
    T all = room[0];
    for (int i = 1; i < THREADS / WARP; i++) all = two(all, room[i]);
    __syncthreads();
    return all;
}

/* --- rows of logits: a block of THREADS walks over tiles of THREADS * EACH --- */

enum { EACH = 8 }; /* logits of a tile per thread: neighbours where rows are wide */

template <int THREADS, bool WIDE> static __device__ __forceinline__ int logit_at(int base, int j) {
    return base + (WIDE ? (int)threadIdx.x * EACH + j : j * THREADS + (int)threadIdx.x);
}

/* this thread's logits times inv, `fill` behind the row's end */
template <int THREADS, bool WIDE>
static __device__ __forceinline__ void load_logits(float (&t)[EACH], const float *z, int base,
                                                   int V, float inv, float fill) {
    if constexpr (WIDE) {
        int v = logit_at<THREADS, WIDE>(base, 0);
        bool inside = v < V; /* V is a multiple of EACH */
        if (inside) load_few(t, z + v);
#pragma unroll
        for (int j = 0; j < EACH; j++) t[j] = inside ? t[j] * inv : fill;
    } else {
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            int v = logit_at<THREADS, WIDE>(base, j);
            t[j] = v < V ? z[v] * inv : fill;
        }
    }
}

typedef struct { /* of z / temperature over the whole row; top: first argmax below `vocab` */
    float max, lse, entropy, mean_logp;
    int top;
} RowStats;

/* One pass: sums of e^t and e^t t hang on the largest t so far (Milakov & Gimelshein 2018). */
template <int THREADS, bool WIDE>
static __device__ RowStats row_stats(const float *z, int V, int vocab, float inv, float *room) {
    float max = -1e30f, sum = 0.0f, weighted = 0.0f, total = 0.0f, best = -INFINITY;
    int top = INT_MAX;
    for (int base = 0; base < V; base += THREADS * EACH) {
        float t[EACH];
        load_logits<THREADS, WIDE>(t, z, base, V, inv, -INFINITY);
        float high = t[0];
#pragma unroll
        for (int j = 1; j < EACH; j++) high = fmaxf(high, t[j]);
        if (high > max) {
            float shrink = expf(max - high);
            weighted = (weighted + sum * (max - high)) * shrink;
            sum *= shrink;
            max = high;
        }
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            float d = fmaxf(t[j] - max, -1e30f), e = expf(d); /* 0 * -inf must stay 0 */
            sum += e;
            weighted = fmaf(e, d, weighted);
            if (logit_at<THREADS, WIDE>(base, j) < V) total += t[j];
        }
        if (high > best) {
#pragma unroll
            for (int j = 0; j < EACH; j++) {
                int v = logit_at<THREADS, WIDE>(base, j);
                if (t[j] > best && v < vocab) {
                    best = t[j];
                    top = v;
                }
            }
        }
    }
    RowStats s;
    s.max = block_max<THREADS>(max, room);
    float shrink = expf(max - s.max);
    weighted = block_sum<THREADS>((weighted + sum * (max - s.max)) * shrink, room);
    sum = block_sum<THREADS>(sum * shrink, room);
    total = block_sum<THREADS>(total, room);
    float log_sum = logf(sum), highest = block_max<THREADS>(best, room);
    s.lse = s.max + log_sum;
    s.entropy = log_sum - weighted / sum;
    s.mean_logp = total / (float)V - s.lse;
    top = block_reduce<THREADS>(best == highest ? top : INT_MAX, (int *)room,
                                [](int a, int b) { return min(a, b); });
    s.top = top == INT_MAX ? 0 : top; /* a row of NaN has none */
    return s;
}

/* z = softcap tanh(z / softcap), unless softcap is 0 */
void cuda_bend_logits(CudaBackend *b, float *z, size_t count, float softcap);

/* to[i] += the sum over `parts` of scratch[part][i], in a fixed order */
void cuda_add_partials(CudaBackend *b, float *to, int parts, size_t count);

#endif
