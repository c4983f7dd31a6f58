/* cuda_decode.cu - the paged cache of keys and values (Kwon et al. 2023) and one query per row over
 * it, the keys of a row split between blocks (Dao et al. 2023, Flash-Decoding).
 *
 * Decoding waits for memory: keys and values are read once, in 16-byte pieces, for all query heads
 * of a group. A result depends on its own row of the inputs, and on the number of splits, which
 * follows from the batch's size, the cache's and the GPU's (decode_splits), never from positions:
 * launches are recorded. How a row's pages are shared out between its splits follows from its own
 * position. */
#include "core/backend/cuda/attention.cuh"

struct Decode {
    void *out, *keys, *values;
    const void *qkv;
    const int *table, *rows, *positions;
    float *partial; /* [N NH][splits][HS], then [N NH][splits][maximum, sum]; not with one split */
    int max_pages, N, splits;
    AttentionShape of;
};

static constexpr int WARPS = DECODE_WARPS, THREADS = WARPS * WARP;
static constexpr int PAGE = KV_PAGE; /* an int, as min() asks */

/* of scores that are counted in powers of two */
static __device__ __forceinline__ AttentionShape for_exp2(AttentionShape a) {
    a.softcap *= LOG2E;
    return a;
}

/* element where the keys (and the values) of a page of a kv head begin */
static __device__ __forceinline__ size_t page_at(const Decode &d, int n, int page, int kvh) {
    int of = d.table[(size_t)d.rows[n] * d.max_pages + page];
    return ((size_t)of * d.of.NKV + kvh) * d.of.HS * KV_PAGE;
}

/* --- writing --- */

static constexpr int TOKENS = PAGE, DEPTH = 64;

/* TOKENS tokens of one kv head, DEPTH of its dimensions. Neighbours in the batch are neighbours in
 * a page more often than not, so keys are turned round in shared memory and written a slot per
 * lane. */
template <class T> __global__ void __launch_bounds__(THREADS) write_pages(Decode d) {
    enum { PITCH = DEPTH + 4 / sizeof(T) }; /* an odd number of banks */
    __shared__ T turned[TOKENS * PITCH];
    int n0 = blockIdx.x * TOKENS, kvh = blockIdx.y, d0 = blockIdx.z * DEPTH;
    int depth = min(d.of.HS - d0, DEPTH), tokens = min(d.N - n0, TOKENS);
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    size_t stride = (size_t)(d.of.NH + 2 * d.of.NKV) * d.of.HS;
    const T *qkv = (const T *)d.qkv + (size_t)(d.of.NH + kvh) * d.of.HS + d0;

    for (int i = warp; i < tokens; i += WARPS) {
        int position = d.positions[n0 + i];
        size_t at = page_at(d, n0 + i, position / KV_PAGE, kvh);
        const T *k = qkv + (n0 + i) * stride, *v = k + (size_t)d.of.NKV * d.of.HS;
        T *to = (T *)d.values + at + (size_t)(position % KV_PAGE) * d.of.HS + d0;
        for (int x = lane; x < depth; x += WARP) {
            turned[i * PITCH + x] = k[x];
            to[x] = v[x];
        }
    }
    __syncthreads();
    if (lane >= tokens) return;
    int position = d.positions[n0 + lane];
    T *to = (T *)d.keys + page_at(d, n0 + lane, position / KV_PAGE, kvh) + position % KV_PAGE;
    for (int x = warp; x < depth; x += WARPS)
        to[(size_t)(d0 + x) * KV_PAGE] = turned[lane * PITCH + x];
}

/* --- decoding --- */

/* a number for each of the G query heads that share what is loaded */
template <int G> struct alignas(G % 4 ? 4 * G : 16) Heads { float v[G]; };

/* How the lanes of a warp share a page. Keys: a lane holds the 16 bytes of PER neighbouring slots
 * at every PER-th dimension; values: the 16 bytes of PER neighbouring dimensions of every SLOTS-th
 * slot. */
template <class T> struct Share {
    enum { PER = Pack<T>::N, CHUNKS = KV_PAGE / PER };
    static_assert(WARP / CHUNKS == PER, "as many lanes share slots as there are slots");
};
static __host__ __device__ __forceinline__ int value_chunks(int HS, int per) {
    return HS / per;
}

/* The scaled scores of a page's slots for FEW of the G heads from `first` on: those of one slot,
 * chunk * PER + depth. Each lane sums its dimensions for PER slots, then lanes of the same slots
 * exchange halves until each has one. */
template <class T, int G, int FEW>
static __device__ __forceinline__ void page_scores(Heads<G> &mine, int first, const T *keys,
                                                   const Heads<G> *q, int HS) {
    constexpr int PER = Share<T>::PER, CHUNKS = Share<T>::CHUNKS;
    int lane = threadIdx.x % WARP, chunk = lane % CHUNKS, depth = lane / CHUNKS;
    float s[FEW][PER];
#pragma unroll
    for (int g = 0; g < FEW; g++)
#pragma unroll
        for (int i = 0; i < PER; i++) s[g][i] = 0.0f;
#pragma unroll 4
    for (int x = depth; x < HS; x += PER) {
        Pack<T> k = pack_load(keys + x * PAGE + chunk * PER);
        Heads<G> of = q[x];
#pragma unroll
        for (int i = 0; i < PER; i++) {
            float key = to_f32(k.v[i]);
#pragma unroll
            for (int g = 0; g < FEW; g++) s[g][i] = fmaf(of.v[first + g], key, s[g][i]);
        }
    }
#pragma unroll
    for (int half = PER / 2, with = WARP / 2; half; half /= 2, with /= 2)
#pragma unroll
        for (int g = 0; g < FEW; g++)
#pragma unroll
            for (int i = 0; i < half; i++) {
                bool upper = (lane & with) != 0;
                float give = upper ? s[g][i] : s[g][i + half];
                float keep = upper ? s[g][i + half] : s[g][i];
                s[g][i] = keep + __shfl_xor_sync(ALL_LANES, give, with);
            }
#pragma unroll
    for (int g = 0; g < FEW; g++) mine.v[first + g] = s[g][0];
}

/* What is in flight decides the speed: the first values of a page are asked for before its scores
 * are worked out, the number of the next page before this one; heads that fill the registers go
 * without the former. */
template <class T, int G> struct Shape {
    static constexpr int AHEAD = G > 4 ? 0 : 4, BLOCKS = G > 2 ? 3 : G > 1 ? 4 : 5;
};

/* o += weight * v for G heads */
template <class T, int G>
static __device__ __forceinline__ void add_value(float o[G][Share<T>::PER], const Pack<T> &v,
                                                 const Heads<G> &weight) {
#pragma unroll
    for (int i = 0; i < Share<T>::PER; i++) {
        float value = to_f32(v.v[i]);
#pragma unroll
        for (int g = 0; g < G; g++) o[g][i] = fmaf(weight.v[g], value, o[g][i]);
    }
}

/* one split of one row and kv head, for G of the group's query heads; each warp takes every
 * WARPS-th page, sums of warps are added at the end in their order */
template <class T, int G>
__global__ void __launch_bounds__(THREADS, Shape<T, G>::BLOCKS) decode_pages(Decode d) {
    constexpr int PER = Share<T>::PER, CHUNKS = Share<T>::CHUNKS;
    constexpr int AHEAD = Shape<T, G>::AHEAD, FEW = G > 4 ? 4 : G;
    SHARED(shared);
    int group = d.of.NH / d.of.NKV, parts = (group + G - 1) / G, HS = d.of.HS;
    int chunks = value_chunks(HS, PER), slots = WARP / chunks; /* values: lanes by chunk and slot */
    Heads<G> *q = (Heads<G> *)shared;                          /* [HS] */
    Heads<G> *p = q + HS;                                      /* [WARPS][PAGE] */
    float *tops = (float *)(p + WARPS * PAGE);                 /* [WARPS][G], then sums alike */
    float *sums = tops + WARPS * G;
    float *outs = sums + WARPS * G; /* [WARPS * slots][G][HS] */

    int item = blockIdx.x, split = item % d.splits, part = item / d.splits % parts;
    int kvh = item / d.splits / parts % d.of.NKV, n = item / d.splits / parts / d.of.NKV;
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int head = kvh * group + part * G, heads = min(group - part * G, G);
    int T_n = d.positions[n] + 1, pages = (T_n + KV_PAGE - 1) / KV_PAGE;
    int begin = first_key(d.of, T_n - 1), skipped = begin / KV_PAGE;
    AttentionShape of = for_exp2(d.of);
    int per_split = (pages - skipped + d.splits - 1) / d.splits,
        first = skipped + split * per_split;
    int last = min(first + per_split, pages);

    const T *q_n = (const T *)d.qkv + (size_t)n * (d.of.NH + 2 * d.of.NKV) * HS + (size_t)head * HS;
    for (int i = threadIdx.x; i < G * HS; i += THREADS) {
        int g = i / HS, x = i % HS;
        q[x].v[g] = g < heads ? to_f32(q_n[i]) * (d.of.scale * LOG2E) : 0.0f;
    }
    float o[G][PER], m[G], l[G];
#pragma unroll
    for (int g = 0; g < G; g++) {
        m[g] = -INFINITY;
        l[g] = 0.0f;
#pragma unroll
        for (int i = 0; i < PER; i++) o[g][i] = 0.0f;
    }
    __syncthreads();

    int chunk = lane % chunks, slot = lane < slots * chunks ? lane / chunks : PAGE;
    int mine = lane % CHUNKS * PER + lane / CHUNKS; /* this lane's slot after page_scores */
    Heads<G> *p_warp = p + warp * PAGE;
    size_t next = first + warp < last ? page_at(d, n, first + warp, kvh) : 0;
    for (int page = first + warp; page < last; page += WARPS) {
        const T *keys = (const T *)d.keys + next, *values = (const T *)d.values + next;
        int count = min(T_n - page * PAGE, PAGE); /* slots behind them were never written */
        if (page + WARPS < last) next = page_at(d, n, page + WARPS, kvh);
        values += chunk * PER;
        Pack<T> ahead[AHEAD + 1];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            int at = slot + i * slots;
            if (at < count) ahead[i] = pack_load(values + (size_t)at * HS);
        }
        Heads<G> s; /* more than four heads at once do not fit: the keys come from L1 again */
#pragma unroll
        for (int g = 0; g < G; g += FEW) page_scores<T, G, FEW>(s, g, keys, q, HS);
#pragma unroll
        for (int g = 0; g < G; g++) {
            bool seen = mine < count && page * PAGE + mine >= begin;
            float score = seen ? bent(of, s.v[g]) : -INFINITY;
            float top = fmaxf(m[g], warp_max(score)), keep = exp2_for<T>(m[g] - top);
            s.v[g] = exp2_for<T>(score - top);
            l[g] = fmaf(l[g], keep, s.v[g]); /* of this lane's slots alone */
            m[g] = top;
#pragma unroll
            for (int i = 0; i < PER; i++) o[g][i] *= keep;
        }
        p_warp[mine] = s;
        __syncwarp();
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            if (slot + i * slots < count) add_value<T, G>(o, ahead[i], p_warp[slot + i * slots]);
#pragma unroll 4
        for (int at = slot + AHEAD * slots; at < count; at += slots)
            add_value<T, G>(o, pack_load(values + (size_t)at * HS), p_warp[at]);
        __syncwarp();
    }

#pragma unroll
    for (int g = 0; g < G; g++) {
        float sum = warp_sum(l[g]);
        if (lane == 0) {
            tops[warp * G + g] = m[g];
            sums[warp * G + g] = sum;
        }
        if (slot < PAGE)
#pragma unroll
            for (int i = 0; i < PER; i++)
                outs[((warp * slots + slot) * G + g) * HS + chunk * PER + i] = o[g][i];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < heads * HS; i += THREADS) {
        int g = i / HS, x = i % HS;
        float top = tops[g], sum = 0.0f, acc = 0.0f;
        for (int w = 1; w < WARPS; w++) top = fmaxf(top, tops[w * G + g]);
        for (int w = 0; w < WARPS; w++) {
            if (tops[w * G + g] == -INFINITY) continue; /* a warp without a page */
            float weight = exp2_for<T>(tops[w * G + g] - top), of_warp = 0.0f;
            for (int k = 0; k < slots; k++) of_warp += outs[((w * slots + k) * G + g) * HS + x];
            acc = fmaf(weight, of_warp, acc);
            sum = fmaf(weight, sums[w * G + g], sum);
        }
        size_t row = (size_t)n * d.of.NH + head + g;
        if (d.splits == 1) {
            ((T *)d.out)[row * HS + x] = from_f32<T>(acc / sum);
            continue;
        }
        size_t of_split = row * d.splits + split;
        float *stats = d.partial + (size_t)d.N * d.of.NH * d.splits * HS + of_split * 2;
        d.partial[of_split * HS + x] = acc;
        if (x == 0) {
            stats[0] = top;
            stats[1] = sum;
        }
    }
}

/* the splits of one row and head, in their order */
template <class T> __global__ void __launch_bounds__(THREADS) combine_splits(Decode d) {
    size_t row = blockIdx.x;
    const float *o = d.partial + row * d.splits * d.of.HS;
    const float *stats = d.partial + ((size_t)d.N * d.of.NH * d.of.HS + row * 2) * d.splits;
    float top = stats[0];
    for (int i = 1; i < d.splits; i++) top = fmaxf(top, stats[2 * i]);
    for (int x = threadIdx.x; x < d.of.HS; x += THREADS) {
        float acc = 0.0f, sum = 0.0f;
        for (int i = 0; i < d.splits; i++) { /* one without pages weighs 2^-inf */
            float weight = exp2_for<T>(stats[2 * i] - top);
            acc = fmaf(weight, o[(size_t)i * d.of.HS + x], acc);
            sum = fmaf(weight, stats[2 * i + 1], sum);
        }
        ((T *)d.out)[row * d.of.HS + x] = from_f32<T>(acc / sum);
    }
}

enum { HS_MAX = 256 };

/* Any even head size: a warp per row and query head, a slot of the page per lane. */
template <class T> __global__ void __launch_bounds__(THREADS) decode_general(Decode d) {
    int item = (int)blockIdx.x * WARPS + threadIdx.x / WARP, lane = threadIdx.x % WARP,
        HS = d.of.HS;
    if (item >= d.N * d.of.NH) return; /* whole warps */
    int n = item / d.of.NH, head = item % d.of.NH, kvh = head / (d.of.NH / d.of.NKV),
        T_n = d.positions[n] + 1;
    int begin = first_key(d.of, T_n - 1);
    AttentionShape of = for_exp2(d.of);
    const T *q = (const T *)d.qkv + (size_t)n * (d.of.NH + 2 * d.of.NKV) * HS + (size_t)head * HS;
    float o[HS_MAX / WARP], m = -INFINITY, l = 0.0f;
    for (int i = 0; i < HS_MAX / WARP; i++) o[i] = 0.0f;
    for (int page = begin / KV_PAGE; page * KV_PAGE < T_n; page++) {
        size_t at = page_at(d, n, page, kvh);
        const T *k = (const T *)d.keys + at, *v = (const T *)d.values + at;
        int count = min(T_n - page * KV_PAGE, PAGE);
        float s = 0.0f;
        for (int x = 0; x < HS; x++) s = fmaf(to_f32(q[x]), to_f32(k[x * KV_PAGE + lane]), s);
        bool seen = lane < count && page * PAGE + lane >= begin;
        s = seen ? bent(of, s * (d.of.scale * LOG2E)) : -INFINITY;
        float top = fmaxf(m, warp_max(s)), keep = exp2_for<T>(m - top), p = exp2_for<T>(s - top);
        for (int i = 0; i < HS_MAX / WARP; i++) o[i] *= keep;
        l = fmaf(l, keep, p);
        m = top;
        for (int slot = 0; slot < count; slot++) {
            float weight = __shfl_sync(ALL_LANES, p, slot);
#pragma unroll
            for (int i = 0; i < HS_MAX / WARP; i++) {
                int x = lane + i * WARP;
                if (x < HS) o[i] = fmaf(weight, to_f32(v[slot * HS + x]), o[i]);
            }
        }
    }
    float inverse = 1.0f / warp_sum(l);
    T *out = (T *)d.out + (size_t)item * HS;
#pragma unroll
    for (int i = 0; i < HS_MAX / WARP; i++)
        if (lane + i * WARP < HS) out[lane + i * WARP] = from_f32<T>(o[i] * inverse);
}

/* --- launches --- */

template <class T, int G> static void decode_fast(CudaBackend *b, Decode d) {
    int parts = (d.of.NH / d.of.NKV + G - 1) / G, blocks = d.N * d.of.NKV * parts;
    size_t shared = decode_shared(G, d.of.HS, Share<T>::PER, PAGE);
    auto *kernel = decode_pages<T, G>;
    auto *combine = combine_splits<T>;
    d.splits = decode_splits(b->sms, blocks, d.max_pages, d.N, d.of.NH, d.of.HS, SCRATCH_BYTES);
    d.partial = (float *)b->scratch;
    allow_shared(b, kernel, shared);
    LAUNCH(b, kernel, blocks * d.splits, THREADS, shared, d);
    if (d.splits > 1) LAUNCH(b, combine, d.N * d.of.NH, THREADS, 0, d);
}

template <class T> static void decode_of(CudaBackend *b, Decode d) {
    int per = Share<T>::PER, group = d.of.NH / d.of.NKV;
    bool fast = d.of.HS % per == 0 && value_chunks(d.of.HS, per) <= WARP && aligned16(d.keys) &&
                aligned16(d.values);
    auto *general = decode_general<T>;
    if (!fast)
        LAUNCH(b, general, blocks_for((size_t)d.N * d.of.NH, WARPS), THREADS, 0, d);
    else if (group == 1)
        decode_fast<T, 1>(b, d);
    else if (group == 2)
        decode_fast<T, 2>(b, d);
    else if (group <= 4)
        decode_fast<T, 4>(b, d);
    else
        decode_fast<T, 8>(b, d);
}

static Decode decode_args(KvLayer kv, Buf qkv, Buf rows, Buf positions, int N, AttentionShape of) {
    Decode d = {};
    d.keys = kv.keys.ptr, d.values = kv.values.ptr, d.qkv = qkv.ptr;
    d.table = (const int *)kv.table.ptr, d.max_pages = kv.max_pages;
    d.rows = (const int *)rows.ptr, d.positions = (const int *)positions.ptr;
    d.N = N, d.of = of, d.splits = 1;
    return d;
}

static void kv_write(Backend *page, KvLayer kv, Buf qkv, Buf rows, Buf positions, int N,
                     AttentionShape of) {
    CudaBackend *b = cuda(page);
    CHECK(kv.keys.dtype == qkv.dtype);
    if (N == 0) return;
    Decode d = decode_args(kv, qkv, rows, positions, N, of);
    dim3 grid((unsigned)blocks_for((size_t)N, TOKENS), (unsigned)of.NKV,
              (unsigned)blocks_for((size_t)of.HS, DEPTH));
    auto *in_bf16 = write_pages<bf16>;
    auto *in_f32 = write_pages<float>;
    if (qkv.dtype == DT_BF16)
        LAUNCH(b, in_bf16, grid, THREADS, 0, d);
    else
        LAUNCH(b, in_f32, grid, THREADS, 0, d);
}

static void attention_decode(Backend *page, Buf out, Buf qkv, KvLayer kv, Buf rows, Buf positions,
                             int N, AttentionShape of) {
    CudaBackend *b = cuda(page);
    CHECK(of.HS <= HS_MAX && of.NH % of.NKV == 0 && kv.keys.dtype == qkv.dtype);
    if (N == 0) return;
    Decode d = decode_args(kv, qkv, rows, positions, N, of);
    d.out = out.ptr;
    if (qkv.dtype == DT_BF16)
        decode_of<bf16>(b, d);
    else
        decode_of<float>(b, d);
}

void cuda_decode_page(Backend *b) {
    b->kv_write = kv_write;
    b->attention_decode = attention_decode;
}
