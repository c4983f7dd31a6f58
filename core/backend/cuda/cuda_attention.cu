/* cuda_attention.cu - causal grouped-query attention over packed sequences: FlashAttention-2 (Dao
 * 2023) with the online softmax of Milakov & Gimelshein 2018.
 *
 * Scores live in registers only. bf16 at the usual head sizes runs on tensor cores: the scores of a
 * warp's own rows come out of mma_bf16 in the layout in which the next product wants its left
 * operand. Everything else (f32, other head sizes) takes the general kernels at the end, in plain
 * f32 arithmetic.
 *
 * The backward has no atomics: one kernel owns keys and gathers their gradients over the queries
 * and the heads of the group, in order; another owns queries. That computes the scores twice, and
 * gives the same bytes for the same input. */
#include "core/backend/cuda/attention.cuh"
#include "core/backend/cuda/mma.cuh"

struct Attention {
    void *out, *dqkv;
    float *lse, *D; /* [N,NH] each: log-sum-exp of the scaled scores; rowsum(dout * out) */
    const void *qkv, *dout;
    const int *starts;
    int S, N;
    AttentionShape of;
};

/* One head of one sequence, by pointers to the sequence's first row. */
template <class T> struct Rows {
    const T *q, *k, *v, *dout;
    T *out, *dq, *dk, *dv;
    int stride, out_stride;
};

template <class T>
static __device__ __forceinline__ Rows<T> rows_of(const Attention &a, int first, int head,
                                                  int kvh) {
    Rows<T> r;
    r.stride = (a.of.NH + 2 * a.of.NKV) * a.of.HS;
    r.out_stride = a.of.NH * a.of.HS;
    size_t at = (size_t)first * r.stride, out_at = (size_t)first * r.out_stride + head * a.of.HS;
    size_t q_at = at + head * a.of.HS, k_at = at + (a.of.NH + kvh) * a.of.HS,
           v_at = k_at + a.of.NKV * a.of.HS;
    const T *qkv = (const T *)a.qkv;
    T *dqkv = (T *)a.dqkv;
    r.q = qkv + q_at;
    r.k = qkv + k_at;
    r.v = qkv + v_at;
    r.dout = (const T *)a.dout + out_at;
    r.out = (T *)a.out + out_at;
    r.dq = dqkv + q_at;
    r.dk = dqkv + k_at;
    r.dv = dqkv + v_at;
    return r;
}

/* --- which rows a block works on --- */

struct Place {
    int first, length; /* the sequence: its first row of the batch, its rows */
    int row;           /* the tile's first row within the sequence; past its end: nothing to do */
};

/* The host does not know where sequences start, so a launch offers N / ROWS + S slots and sequence
 * s takes those from starts[s] / ROWS + s on: never fewer than its tiles, as rounding a sum down
 * and adding one is no less than rounding a part up. Each warp searches for itself, 32 places at
 * once. */
template <int ROWS>
static __device__ __forceinline__ Place find_tile(const int *starts, int S, int slot) {
    int lane = threadIdx.x % WARP, low = 0, high = S; /* slot of low <= slot < slot of high */
    while (high - low > 1) {
        int step = (high - low + WARP - 1) / WARP, probe = low + (lane + 1) * step;
        bool before = probe < high && starts[probe] / ROWS + probe <= slot;
        low += __popc(__ballot_sync(ALL_LANES, before)) * step;
        high = min(high, low + step);
    }
    int first = starts[low];
    return Place{first, starts[low + 1] - first, (slot - first / ROWS - low) * ROWS};
}
static int slots_for(const Attention &a, int rows) {
    return tile_slots(a.N, a.S, rows);
}

/* --- tensor cores --- */

static constexpr int THREADS = 128, WARPS = THREADS / WARP;

/* Rows of HS bf16 in shared memory, an odd number of 16-byte chunks apart: eight rows of the same
 * chunk, which is what load_tiles reads at a time, lie in different banks. */
template <int HS> struct Tile {
    static constexpr int CHUNKS = HS / 8, PITCH = HS + 8;
    static_assert(HS % 16 == 0, "whole fragments");
    static __device__ __forceinline__ int at(int row, int chunk) { return row * PITCH + chunk * 8; }
};

/* rows [row, row + ROWS) of x, zeros from `end` on; asynchronous, by the whole block */
template <int HS, int ROWS>
static __device__ __forceinline__ void tile_fetch(bf16 *tile, const bf16 *x, int stride, int row,
                                                  int end) {
    /* a thread keeps its chunk and walks down the rows: one address each on both sides */
    constexpr int CHUNKS = Tile<HS>::CHUNKS, STEP = THREADS / CHUNKS / 8 * 8, PASSES = ROWS / STEP;
    static_assert(ROWS % STEP == 0, "every pass copies STEP rows");
    int r = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
    if (r >= STEP) return;
    const bf16 *from = x + (size_t)(row + r) * stride + chunk * 8;
    bf16 *to = tile + Tile<HS>::at(r, chunk);
#pragma unroll
    for (int i = 0; i < PASSES; i++) {
        copy_async(to + i * STEP * Tile<HS>::PITCH, from, row + r + i * STEP < end);
        from += STEP * stride;
    }
}

/* s[16 MT, 8 NT] = A B^T: A is rows [row, row + 16 MT) of tile a, B rows [0, 8 NT) of tile b */
template <int HS, int MT, int NT>
static __device__ __forceinline__ void multiply_rows(float s[MT][NT][4], const bf16 *a, int row,
                                                     const bf16 *b) {
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < NT; n++) s[m][n][0] = s[m][n][1] = s[m][n][2] = s[m][n][3] = 0.0f;
#pragma unroll 2
    for (int k = 0; k < HS / 16; k++) {
        uint32_t left[MT][4], right[4];
#pragma unroll
        for (int m = 0; m < MT; m++)
            load_tiles(left[m], a + Tile<HS>::at(row + 16 * m + lane % 16, 2 * k + lane / 16));
#pragma unroll
        for (int n = 0; n < NT; n += 2) {
            load_tiles(right,
                       b + Tile<HS>::at(8 * n + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
#pragma unroll
            for (int m = 0; m < MT; m++) {
                mma_bf16(s[m][n], left[m], right);
                mma_bf16(s[m][n + 1], left[m], right + 2);
            }
        }
    }
}

/* o[16 MT, HS] += P B: P [16 MT, 16 KT] from registers, B the first 16 KT rows of tile b */
template <int HS, int MT, int KT>
static __device__ __forceinline__ void add_weighted(float o[MT][HS / 8][4],
                                                    const uint32_t p[MT][KT][4], const bf16 *b) {
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int k = 0; k < KT; k++)
#pragma unroll
        for (int n = 0; n < HS / 8; n += 2) {
            uint32_t right[4];
            load_tiles_transposed(right, b + Tile<HS>::at(16 * k + lane % 16, n + lane / 16));
#pragma unroll
            for (int m = 0; m < MT; m++) {
                mma_bf16(o[m][n], p[m][k], right);
                mma_bf16(o[m][n + 1], p[m][k], right + 2);
            }
        }
}

/* results of a product, rounded, as the left operand of the next */
template <int MT, int NT>
static __device__ __forceinline__ void as_left(uint32_t p[MT][NT / 2][4],
                                               const float s[MT][NT][4]) {
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < NT; n++) {
            p[m][n / 2][n % 2 * 2] = pack_bf16(s[m][n][0], s[m][n][1]);
            p[m][n / 2][n % 2 * 2 + 1] = pack_bf16(s[m][n][2], s[m][n][3]);
        }
}

template <int HS, int MT> static __device__ __forceinline__ void clear(float o[MT][HS / 8][4]) {
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < HS / 8; n++) o[m][n][0] = o[m][n][1] = o[m][n][2] = o[m][n][3] = 0.0f;
}

/* The warp's rows of o, each times its factor, to rows [row, row + count) of x, by way of those
 * rows of a tile that only this warp reads: so that stores are of 16 bytes. */
template <int HS, int MT>
static __device__ __forceinline__ void
rows_store(bf16 *x, int stride, int row, int count, bf16 *tile, int tile_row,
           const float o[MT][HS / 8][4], const float factor[MT][2]) {
    constexpr int CHUNKS = Tile<HS>::CHUNKS;
    int lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < HS / 8; n++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float f = factor[m][half];
                bf16 *to = tile + Tile<HS>::at(tile_row + 16 * m + 8 * half + g, n) + 2 * t;
                *(uint32_t *)to = pack_bf16(o[m][n][2 * half] * f, o[m][n][2 * half + 1] * f);
            }
    __syncwarp();
    for (int i = lane; i < min(count, 16 * MT) * CHUNKS; i += WARP) {
        int r = i / CHUNKS, chunk = i % CHUNKS;
        pack_store(x + (size_t)(row + r) * stride + chunk * 8,
                   pack_load(tile + Tile<HS>::at(tile_row + r, chunk)));
    }
}

/* Keys met so far: m, the reference of a row's exponents, and l, this lane's part of the sum of
 * 2^(s scale2 - m). m is the maximum when it is set, and stays while no score exceeds it by more
 * than SLACK: sums are right either way, and almost every tile goes without rescaling o, which
 * costs as much as the exponentials. */
template <int HS, int MT, int NT>
static __device__ __forceinline__ void softmax_step(float o[MT][HS / 8][4], float m[MT][2],
                                                    float l[MT][2], float s[MT][NT][4],
                                                    float scale2) {
    const float SLACK = 8.0f;
    float keep[MT][2];
    bool moved = false;
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float top = s[i][0][2 * half];
#pragma unroll
            for (int n = 0; n < NT; n++)
                top = fmaxf(top, fmaxf(s[i][n][2 * half], s[i][n][2 * half + 1]));
            top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 1));
            top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 2)) * scale2;
            bool move = top - m[i][half] > SLACK;
            keep[i][half] = move ? exp2_for<bf16>(m[i][half] - top) : 1.0f;
            if (move) m[i][half] = top;
            moved = moved || move;
        }
    if (__any_sync(ALL_LANES, moved)) {
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
#pragma unroll
                for (int n = 0; n < HS / 8; n++) o[i][n][j] *= keep[i][j / 2];
                if (j % 2) l[i][j / 2] *= keep[i][j / 2];
            }
    }
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int n = 0; n < NT; n++) {
                s[i][n][j] = exp2_for<bf16>(fmaf(s[i][n][j], scale2, -m[i][j / 2]));
                l[i][j / 2] += s[i][n][j];
            }
}

/* Rows of a block and what it walks over. A warp has one or two tiles of 16 rows: with two, what is
 * walked over is read from shared memory half as often, as far as registers go. */
template <int HS> struct ForwardShape {
    static constexpr int MT = 2, ROWS = 16 * MT * WARPS, KEYS = HS < 128 ? 64 : 32;
    static constexpr size_t shared = (ROWS + 4 * KEYS) * Tile<HS>::PITCH * sizeof(bf16);
    static_assert(shared <= (size_t)SHARED_LIMIT, "fits");
};

template <int HS> __global__ void __launch_bounds__(THREADS) forward_tensor(Attention a) {
    typedef ForwardShape<HS> Shape;
    constexpr int MT = Shape::MT, ROWS = Shape::ROWS, KEYS = Shape::KEYS, NT = KEYS / 8;
    constexpr int TILE = KEYS * Tile<HS>::PITCH;
    SHARED(shared);
    bf16 *q = (bf16 *)shared, *k = q + ROWS * Tile<HS>::PITCH, *v = k + 2 * TILE;

    /* late tiles see the most keys: they start first */
    int head = blockIdx.x % a.of.NH, slot = (int)(gridDim.x - 1 - blockIdx.x) / a.of.NH;
    head = a.of.NH - 1 - head;
    Place at = find_tile<ROWS>(a.starts, a.S, slot);
    if (at.row >= at.length) return;
    Rows<bf16> x = rows_of<bf16>(a, at.first, head, head / (a.of.NH / a.of.NKV));
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    int row = at.row + warp * 16 * MT, tiles = (min(at.row + ROWS, at.length) + KEYS - 1) / KEYS;
    int first = first_key(a.of, at.row) / KEYS, begin = first * KEYS;
    float scale2 = a.of.scale * LOG2E;

    float o[MT][HS / 8][4], m[MT][2], l[MT][2];
    clear<HS, MT>(o);
    for (int i = 0; i < MT; i++) m[i][0] = m[i][1] = NOTHING_YET, l[i][0] = l[i][1] = 0.0f;

    tile_fetch<HS, ROWS>(q, x.q, x.stride, at.row, at.length);
    tile_fetch<HS, KEYS>(k, x.k, x.stride, begin, at.length);
    tile_fetch<HS, KEYS>(v, x.v, x.stride, begin, at.length);
    copy_commit();
    for (int tile = first; tile < tiles; tile++) {
        int k0 = tile * KEYS, stage = (tile - first) % 2;
        copy_wait<0>();
        __syncthreads(); /* this tile is there, and nobody reads the one before it any more */
        if (tile + 1 < tiles) {
            int next = (1 - stage) * TILE;
            tile_fetch<HS, KEYS>(k + next, x.k, x.stride, k0 + KEYS, at.length);
            tile_fetch<HS, KEYS>(v + next, x.v, x.stride, k0 + KEYS, at.length);
            copy_commit();
        }
        /* nothing here for this warp */
        if (row >= at.length || k0 >= row + 16 * MT || k0 + KEYS <= first_key(a.of, row)) continue;

        float s[MT][NT][4];
        multiply_rows<HS, MT, NT>(s, q, warp * 16 * MT, k + stage * TILE);
        /* some keys come after some queries, or too long before them */
        if (k0 + KEYS - 1 > row || k0 < first_key(a.of, row + 16 * MT - 1)) {
#pragma unroll
            for (int i = 0; i < MT; i++)
#pragma unroll
                for (int n = 0; n < NT; n++)
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        if (!sees(a.of, row + 16 * i + g + j / 2 * 8, k0 + 8 * n + 2 * t + j % 2))
                            s[i][n][j] = -INFINITY;
        }
        softmax_step<HS, MT, NT>(o, m, l, s, scale2);
        uint32_t p[MT][NT / 2][4];
        as_left<MT, NT>(p, s);
        add_weighted<HS, MT, NT / 2>(o, p, v + stage * TILE);
    }

    float inverse[MT][2];
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float sum = l[i][half];
            sum += __shfl_xor_sync(ALL_LANES, sum, 1);
            sum += __shfl_xor_sync(ALL_LANES, sum, 2);
            inverse[i][half] = 1.0f / sum;
            int r = row + 16 * i + 8 * half + g;
            if (t == 0 && r < at.length)
                a.lse[(size_t)(at.first + r) * a.of.NH + head] = m[i][half] / LOG2E + logf(sum);
        }
    rows_store<HS, MT>(x.out, x.out_stride, row, at.length - row, q, warp * 16 * MT, o, inverse);
}

/* --- backward --- */

/* D = rowsum(dout * out) (Dao 2023, 3.1.2): one warp per row and head */
template <class T> __global__ void __launch_bounds__(THREADS) backward_sums(Attention a) {
    size_t item = (size_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    if (item >= (size_t)a.N * a.of.NH) return; /* whole warps */
    const Pair<T> *x = (const Pair<T> *)((const T *)a.out + item * a.of.HS);
    const Pair<T> *y = (const Pair<T> *)((const T *)a.dout + item * a.of.HS);
    float sum = 0.0f;
    for (int i = threadIdx.x % WARP; i < a.of.HS / 2; i += WARP) {
        Pair<T> o = x[i], d = y[i];
        sum = fmaf(to_f32(o.v[0]), to_f32(d.v[0]), sum);
        sum = fmaf(to_f32(o.v[1]), to_f32(d.v[1]), sum);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) a.D[item] = sum;
}

/* dk and dv of a tile of keys. Products are turned round, keys are rows: S^T = K Q^T, dV += P^T dO,
 * dP^T = V dO^T, dK += dS^T Q, with the keys' rows never leaving their warp. */
template <int HS> struct KeysShape {
    static constexpr int MT = HS <= 64 ? 2 : 1, ROWS = 16 * MT * WARPS;
    static constexpr int QUERIES = HS <= 64 || HS == 128 ? 32 : 64;
    static constexpr size_t shared =
        (2 * ROWS + 4 * QUERIES) * Tile<HS>::PITCH * sizeof(bf16) + 4 * QUERIES * sizeof(float);
    static_assert(shared <= (size_t)SHARED_LIMIT, "fits");
};

template <int HS> __global__ void __launch_bounds__(THREADS) backward_keys_tensor(Attention a) {
    typedef KeysShape<HS> Shape;
    constexpr int MT = Shape::MT, ROWS = Shape::ROWS, QUERIES = Shape::QUERIES, NT = QUERIES / 8;
    constexpr int TILE = QUERIES * Tile<HS>::PITCH;
    SHARED(shared);
    bf16 *k = (bf16 *)shared, *v = k + ROWS * Tile<HS>::PITCH, *q = v + ROWS * Tile<HS>::PITCH;
    bf16 *dout = q + 2 * TILE;
    float *stats = (float *)(dout + 2 * TILE); /* [2 stages][lse, D][QUERIES] */

    int kvh = blockIdx.x % a.of.NKV, group = a.of.NH / a.of.NKV;
    Place at = find_tile<ROWS>(a.starts, a.S, (int)blockIdx.x / a.of.NKV);
    if (at.row >= at.length) return;
    Rows<bf16> x = rows_of<bf16>(a, at.first, kvh * group, kvh);
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    int row = at.row + warp * 16 * MT; /* the warp's first key */
    int end = end_query(a.of, at.row + ROWS - 1, at.length);
    int per_head = (end - at.row + QUERIES - 1) / QUERIES, tiles = group * per_head;
    float scale2 = a.of.scale * LOG2E;

    /* tile of queries `tile` of all heads in turn; its lse or D for this thread comes back */
    int of_query = threadIdx.x % QUERIES, which = threadIdx.x / QUERIES;
    auto fetch = [&](int tile, int stage) {
        int h = tile / per_head, q0 = at.row + tile % per_head * QUERIES;
        tile_fetch<HS, QUERIES>(q + stage * TILE, x.q + h * HS, x.stride, q0, at.length);
        tile_fetch<HS, QUERIES>(dout + stage * TILE, x.dout + h * HS, x.out_stride, q0, at.length);
        copy_commit();
        size_t from = (size_t)(at.first + q0 + of_query) * a.of.NH + kvh * group + h;
        /* no such query: p = 2^-inf */
        if (which > 1 || q0 + of_query >= at.length) return which ? 0.0f : INFINITY;
        return which ? a.D[from] : a.lse[from] * LOG2E;
    };
    auto keep_stat = [&](int stage, float stat) {
        if (which < 2) stats[stage * 2 * QUERIES + threadIdx.x] = stat;
    };

    float dk[MT][HS / 8][4], dv[MT][HS / 8][4];
    clear<HS, MT>(dk);
    clear<HS, MT>(dv);
    tile_fetch<HS, ROWS>(k, x.k, x.stride, at.row, at.length);
    tile_fetch<HS, ROWS>(v, x.v, x.stride, at.row, at.length);
    keep_stat(0, fetch(0, 0));
    for (int tile = 0; tile < tiles; tile++) {
        int stage = tile % 2, q0 = at.row + tile % per_head * QUERIES;
        float stat = 0.0f;
        copy_wait<0>();
        __syncthreads();
        if (tile + 1 < tiles) stat = fetch(tile + 1, 1 - stage);

        int last = row + 16 * MT - 1; /* the warp's last key */
        if (row < at.length && row < q0 + QUERIES && q0 < end_query(a.of, last, at.length)) {
            const float *lse = stats + stage * 2 * QUERIES, *D = lse + QUERIES;
            float s[MT][NT][4], dp[MT][NT][4];
            uint32_t left[MT][NT / 2][4];
            multiply_rows<HS, MT, NT>(s, k, warp * 16 * MT, q + stage * TILE);
            bool all = last <= q0 && row >= first_key(a.of, q0 + QUERIES - 1);
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    int c = 8 * n + 2 * t + j % 2;
#pragma unroll
                    for (int i = 0; i < MT; i++) {
                        float p = exp2_for<bf16>(fmaf(s[i][n][j], scale2, -lse[c]));
                        bool seen = all || sees(a.of, q0 + c, row + 16 * i + g + j / 2 * 8);
                        s[i][n][j] = seen ? p : 0.0f;
                    }
                }
            as_left<MT, NT>(left, s);
            add_weighted<HS, MT, NT / 2>(dv, left, dout + stage * TILE);
            multiply_rows<HS, MT, NT>(dp, v, warp * 16 * MT, dout + stage * TILE);
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int j = 0; j < 4; j++)
#pragma unroll
                    for (int i = 0; i < MT; i++)
                        s[i][n][j] *= dp[i][n][j] - D[8 * n + 2 * t + j % 2];
            as_left<MT, NT>(left, s);
            add_weighted<HS, MT, NT / 2>(dk, left, q + stage * TILE);
        }
        if (tile + 1 < tiles) keep_stat(1 - stage, stat);
    }

    float ones[MT][2], scales[MT][2]; /* dS was left unscaled */
    for (int i = 0; i < MT; i++)
        ones[i][0] = ones[i][1] = 1.0f, scales[i][0] = scales[i][1] = a.of.scale;
    rows_store<HS, MT>(x.dk, x.stride, row, at.length - row, k, warp * 16 * MT, dk, scales);
    rows_store<HS, MT>(x.dv, x.stride, row, at.length - row, v, warp * 16 * MT, dv, ones);
}

/* dq of a tile of queries */
template <int HS> struct QueriesShape {
    static constexpr int MT = HS <= 64 ? 2 : 1, ROWS = 16 * MT * WARPS;
    static constexpr int KEYS = HS <= 64 || HS == 128 ? 32 : 64;
    static constexpr size_t shared = (2 * ROWS + 4 * KEYS) * Tile<HS>::PITCH * sizeof(bf16);
    static_assert(shared <= (size_t)SHARED_LIMIT, "fits");
};

template <int HS> __global__ void __launch_bounds__(THREADS) backward_queries_tensor(Attention a) {
    typedef QueriesShape<HS> Shape;
    constexpr int MT = Shape::MT, ROWS = Shape::ROWS, KEYS = Shape::KEYS, NT = KEYS / 8;
    constexpr int TILE = KEYS * Tile<HS>::PITCH;
    SHARED(shared);
    bf16 *q = (bf16 *)shared, *dout = q + ROWS * Tile<HS>::PITCH;
    bf16 *k = dout + ROWS * Tile<HS>::PITCH, *v = k + 2 * TILE;

    int head = a.of.NH - 1 - (int)blockIdx.x % a.of.NH,
        slot = (int)(gridDim.x - 1 - blockIdx.x) / a.of.NH;
    Place at = find_tile<ROWS>(a.starts, a.S, slot);
    if (at.row >= at.length) return;
    Rows<bf16> x = rows_of<bf16>(a, at.first, head, head / (a.of.NH / a.of.NKV));
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    int row = at.row + warp * 16 * MT, tiles = (min(at.row + ROWS, at.length) + KEYS - 1) / KEYS;
    int first = first_key(a.of, at.row) / KEYS, begin = first * KEYS;
    float scale2 = a.of.scale * LOG2E, lse[MT][2], D[MT][2], dq[MT][HS / 8][4];

    tile_fetch<HS, ROWS>(q, x.q, x.stride, at.row, at.length);
    tile_fetch<HS, ROWS>(dout, x.dout, x.out_stride, at.row, at.length);
    tile_fetch<HS, KEYS>(k, x.k, x.stride, begin, at.length);
    tile_fetch<HS, KEYS>(v, x.v, x.stride, begin, at.length);
    copy_commit();
    clear<HS, MT>(dq);
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int r = row + 16 * i + 8 * half + g;
            size_t from = (size_t)(at.first + r) * a.of.NH + head;
            lse[i][half] = r < at.length ? a.lse[from] * LOG2E : 0.0f;
            D[i][half] = r < at.length ? a.D[from] : 0.0f;
        }
    for (int tile = first; tile < tiles; tile++) {
        int k0 = tile * KEYS, stage = (tile - first) % 2;
        copy_wait<0>();
        __syncthreads();
        if (tile + 1 < tiles) {
            tile_fetch<HS, KEYS>(k + (1 - stage) * TILE, x.k, x.stride, k0 + KEYS, at.length);
            tile_fetch<HS, KEYS>(v + (1 - stage) * TILE, x.v, x.stride, k0 + KEYS, at.length);
            copy_commit();
        }
        if (row >= at.length || k0 >= row + 16 * MT || k0 + KEYS <= first_key(a.of, row)) continue;

        float s[MT][NT][4], dp[MT][NT][4];
        multiply_rows<HS, MT, NT>(s, q, warp * 16 * MT, k + stage * TILE);
        multiply_rows<HS, MT, NT>(dp, dout, warp * 16 * MT, v + stage * TILE);
        bool all = k0 + KEYS - 1 <= row && k0 >= first_key(a.of, row + 16 * MT - 1);
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    float p = exp2_for<bf16>(fmaf(s[i][n][j], scale2, -lse[i][j / 2]));
                    int key = k0 + 8 * n + 2 * t + j % 2;
                    bool seen = all || sees(a.of, row + 16 * i + g + j / 2 * 8, key);
                    s[i][n][j] = seen ? p * (dp[i][n][j] - D[i][j / 2]) : 0.0f;
                }
        uint32_t left[MT][NT / 2][4];
        as_left<MT, NT>(left, s);
        add_weighted<HS, MT, NT / 2>(dq, left, k + stage * TILE);
    }
    float scales[MT][2];
    for (int i = 0; i < MT; i++) scales[i][0] = scales[i][1] = a.of.scale;
    rows_store<HS, MT>(x.dq, x.stride, row, at.length - row, q, warp * 16 * MT, dq, scales);
}

/* --- any even head size up to 8 W, in f32 arithmetic --- */

/* Eight lanes share a row: lane c of them has columns c, c + 8, ... of its scores and of its sums.
 * Tiles are zero beyond HS and beyond the sequence. */
template <int W> struct General {
    enum { ROWS = W > 16 ? 16 : 32, BLOCK = 8 * ROWS, PITCH = 8 * W + 1, TILE = ROWS * PITCH };
    enum { PART = ROWS / 8, WEIGHTS = ROWS * (ROWS + 1) };
    static constexpr size_t shared(int tiles, int weights) {
        return (size_t)(tiles * TILE + weights * WEIGHTS) * sizeof(float);
    }
};

template <class T, int W>
static __device__ __forceinline__ void general_load(float *tile, const T *x, int stride, int row,
                                                    int end, int HS) {
    typedef General<W> G;
    for (int i = threadIdx.x; i < G::ROWS * 8 * W; i += G::BLOCK) {
        int r = i / (8 * W), d = i % (8 * W);
        bool valid = row + r < end && d < HS;
        tile[r * G::PITCH + d] = valid ? to_f32(x[(size_t)(row + r) * stride + d]) : 0.0f;
    }
}

/* s[i] = x . row c + 8 i of the tile */
template <int W>
static __device__ __forceinline__ void general_dots(float s[], const float *x, const float *tile,
                                                    int c, int HS) {
    typedef General<W> G;
    for (int i = 0; i < G::PART; i++) s[i] = 0.0f;
    for (int d = 0; d < HS; d++)
#pragma unroll
        for (int i = 0; i < G::PART; i++) s[i] = fmaf(x[d], tile[(c + 8 * i) * G::PITCH + d], s[i]);
}

/* o[i] += sum over j of w[j] times column c + 8 i of row j of the tile */
template <int W>
static __device__ __forceinline__ void general_add(float o[], const float *w, const float *tile,
                                                   int c) {
    typedef General<W> G;
    for (int j = 0; j < G::ROWS; j++)
#pragma unroll
        for (int i = 0; i < W; i++) o[i] = fmaf(w[j], tile[j * G::PITCH + c + 8 * i], o[i]);
}

template <class T, int W>
static __device__ __forceinline__ void general_store(T *x, const float o[], float factor, int c,
                                                     int HS) {
#pragma unroll
    for (int i = 0; i < W; i++)
        if (c + 8 * i < HS) x[c + 8 * i] = from_f32<T>(o[i] * factor);
}

template <class T, int W>
__global__ void __launch_bounds__(General<W>::BLOCK, 1) forward_general(Attention a) {
    typedef General<W> G;
    SHARED(shared);
    float *q = (float *)shared, *k = q + G::TILE, *v = k + G::TILE, *weights = v + G::TILE;
    int head = blockIdx.x % a.of.NH;
    Place at = find_tile<G::ROWS>(a.starts, a.S, (int)blockIdx.x / a.of.NH);
    if (at.row >= at.length) return;
    Rows<T> x = rows_of<T>(a, at.first, head, head / (a.of.NH / a.of.NKV));
    int r = threadIdx.x / 8, c = threadIdx.x % 8, row = at.row + r;
    float *w = weights + r * (G::ROWS + 1), o[W], m = NOTHING_YET, l = 0.0f;
    for (int i = 0; i < W; i++) o[i] = 0.0f;

    general_load<T, W>(q, x.q, x.stride, at.row, at.length, a.of.HS);
    int begin = first_key(a.of, at.row) / G::ROWS * G::ROWS;
    for (int k0 = begin; k0 < min(at.row + G::ROWS, at.length); k0 += G::ROWS) {
        __syncthreads();
        general_load<T, W>(k, x.k, x.stride, k0, at.length, a.of.HS);
        general_load<T, W>(v, x.v, x.stride, k0, at.length, a.of.HS);
        __syncthreads();
        float s[G::PART], top = m, sum = 0.0f;
        general_dots<W>(s, q + r * G::PITCH, k, c, a.of.HS);
        for (int i = 0; i < G::PART; i++) {
            s[i] = sees(a.of, row, k0 + c + 8 * i) ? bent(a.of, s[i] * a.of.scale) : -INFINITY;
            top = fmaxf(top, s[i]);
        }
        for (int with = 1; with < 8; with *= 2)
            top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, with));
        for (int i = 0; i < G::PART; i++) {
            float p = expf(s[i] - top);
            w[c + 8 * i] = p;
            sum += p;
        }
        float keep = expf(m - top);
        for (int i = 0; i < W; i++) o[i] *= keep;
        l = fmaf(l, keep, sum);
        m = top;
        __syncwarp(); /* a row's eight lanes are of one warp */
        general_add<W>(o, w, v, c);
        __syncwarp();
    }
    for (int with = 1; with < 8; with *= 2) l += __shfl_xor_sync(ALL_LANES, l, with);
    if (row >= at.length) return;
    general_store<T, W>(x.out + (size_t)row * x.out_stride, o, 1.0f / l, c, a.of.HS);
    if (c == 0) a.lse[(size_t)(at.first + row) * a.of.NH + head] = m + logf(l);
}

template <class T, int W>
__global__ void __launch_bounds__(General<W>::BLOCK, 1) backward_keys_general(Attention a) {
    typedef General<W> G;
    SHARED(shared);
    float *k = (float *)shared, *v = k + G::TILE, *q = v + G::TILE, *dout = q + G::TILE;
    float *weights = dout + G::TILE;
    int kvh = blockIdx.x % a.of.NKV, group = a.of.NH / a.of.NKV;
    Place at = find_tile<G::ROWS>(a.starts, a.S, (int)blockIdx.x / a.of.NKV);
    if (at.row >= at.length) return;
    Rows<T> x = rows_of<T>(a, at.first, kvh * group, kvh);
    int r = threadIdx.x / 8, c = threadIdx.x % 8, row = at.row + r;
    float *w = weights + r * (G::ROWS + 1), *dw = w + G::WEIGHTS, dk[W], dv[W];
    for (int i = 0; i < W; i++) dk[i] = dv[i] = 0.0f;

    general_load<T, W>(k, x.k, x.stride, at.row, at.length, a.of.HS);
    general_load<T, W>(v, x.v, x.stride, at.row, at.length, a.of.HS);
    int end = end_query(a.of, at.row + G::ROWS - 1, at.length);
    for (int h = 0; h < group; h++)
        for (int q0 = at.row; q0 < end; q0 += G::ROWS) {
            __syncthreads();
            general_load<T, W>(q, x.q + h * a.of.HS, x.stride, q0, at.length, a.of.HS);
            general_load<T, W>(dout, x.dout + h * a.of.HS, x.out_stride, q0, at.length, a.of.HS);
            __syncthreads();
            float s[G::PART], dp[G::PART];
            general_dots<W>(s, k + r * G::PITCH, q, c, a.of.HS);
            general_dots<W>(dp, v + r * G::PITCH, dout, c, a.of.HS);
            for (int i = 0; i < G::PART; i++) {
                int query = q0 + c + 8 * i;
                bool seen = query < at.length && sees(a.of, query, row);
                size_t from = (size_t)(at.first + query) * a.of.NH + kvh * group + h;
                float z = s[i] * a.of.scale, p = seen ? expf(bent(a.of, z) - a.lse[from]) : 0.0f;
                w[c + 8 * i] = p;
                dw[c + 8 * i] = seen ? p * (dp[i] - a.D[from]) * bent_slope(a.of, z) : 0.0f;
            }
            __syncwarp();
            general_add<W>(dv, w, dout, c);
            general_add<W>(dk, dw, q, c);
            __syncwarp();
        }
    if (row >= at.length) return;
    general_store<T, W>(x.dk + (size_t)row * x.stride, dk, a.of.scale, c, a.of.HS);
    general_store<T, W>(x.dv + (size_t)row * x.stride, dv, 1.0f, c, a.of.HS);
}

template <class T, int W>
__global__ void __launch_bounds__(General<W>::BLOCK, 1) backward_queries_general(Attention a) {
    typedef General<W> G;
    SHARED(shared);
    float *q = (float *)shared, *dout = q + G::TILE, *k = dout + G::TILE, *v = k + G::TILE;
    float *weights = v + G::TILE;
    int head = blockIdx.x % a.of.NH;
    Place at = find_tile<G::ROWS>(a.starts, a.S, (int)blockIdx.x / a.of.NH);
    if (at.row >= at.length) return;
    Rows<T> x = rows_of<T>(a, at.first, head, head / (a.of.NH / a.of.NKV));
    int r = threadIdx.x / 8, c = threadIdx.x % 8, row = at.row + r;
    size_t from = (size_t)(at.first + min(row, at.length - 1)) * a.of.NH + head;
    float *dw = weights + r * (G::ROWS + 1), dq[W], lse = a.lse[from], D = a.D[from];
    for (int i = 0; i < W; i++) dq[i] = 0.0f;

    general_load<T, W>(q, x.q, x.stride, at.row, at.length, a.of.HS);
    general_load<T, W>(dout, x.dout, x.out_stride, at.row, at.length, a.of.HS);
    int begin = first_key(a.of, at.row) / G::ROWS * G::ROWS;
    for (int k0 = begin; k0 < min(at.row + G::ROWS, at.length); k0 += G::ROWS) {
        __syncthreads();
        general_load<T, W>(k, x.k, x.stride, k0, at.length, a.of.HS);
        general_load<T, W>(v, x.v, x.stride, k0, at.length, a.of.HS);
        __syncthreads();
        float s[G::PART], dp[G::PART];
        general_dots<W>(s, q + r * G::PITCH, k, c, a.of.HS);
        general_dots<W>(dp, dout + r * G::PITCH, v, c, a.of.HS);
        for (int i = 0; i < G::PART; i++) {
            float z = s[i] * a.of.scale, p = expf(bent(a.of, z) - lse);
            bool seen = sees(a.of, row, k0 + c + 8 * i);
            dw[c + 8 * i] = seen ? p * (dp[i] - D) * bent_slope(a.of, z) : 0.0f;
        }
        __syncwarp();
        general_add<W>(dq, dw, k, c);
        __syncwarp();
    }
    if (row >= at.length) return;
    general_store<T, W>(x.dq + (size_t)row * x.stride, dq, a.of.scale, c, a.of.HS);
}

/* --- which kernels --- */

template <class Kernel>
static void launch(CudaBackend *b, Kernel *kernel, int grid, int block, size_t shared,
                   Attention a) {
    allow_shared(b, kernel, shared);
    LAUNCH(b, kernel, grid, block, shared, a);
}

template <int HS> static void forward_on_tensor(CudaBackend *b, Attention a) {
    typedef ForwardShape<HS> F;
    launch(b, forward_tensor<HS>, slots_for(a, F::ROWS) * a.of.NH, THREADS, F::shared, a);
}
template <int HS> static void backward_on_tensor(CudaBackend *b, Attention a) {
    typedef KeysShape<HS> K;
    typedef QueriesShape<HS> Q;
    launch(b, backward_keys_tensor<HS>, slots_for(a, K::ROWS) * a.of.NKV, THREADS, K::shared, a);
    launch(b, backward_queries_tensor<HS>, slots_for(a, Q::ROWS) * a.of.NH, THREADS, Q::shared, a);
}

template <class T, int W> static void forward_in_general(CudaBackend *b, Attention a) {
    typedef General<W> G;
    int grid = slots_for(a, G::ROWS) * a.of.NH;
    launch(b, forward_general<T, W>, grid, G::BLOCK, G::shared(3, 1), a);
}
template <class T, int W> static void backward_in_general(CudaBackend *b, Attention a) {
    typedef General<W> G;
    int slots = slots_for(a, G::ROWS);
    launch(b, backward_keys_general<T, W>, slots * a.of.NKV, G::BLOCK, G::shared(4, 2), a);
    launch(b, backward_queries_general<T, W>, slots * a.of.NH, G::BLOCK, G::shared(4, 1), a);
}
template <class T> static void forward_of(CudaBackend *b, Attention a) {
    if (a.of.HS <= 64)
        forward_in_general<T, 8>(b, a);
    else if (a.of.HS <= 128)
        forward_in_general<T, 16>(b, a);
    else
        forward_in_general<T, 32>(b, a);
}
template <class T> static void backward_of(CudaBackend *b, Attention a) {
    if (a.of.HS <= 64)
        backward_in_general<T, 8>(b, a);
    else if (a.of.HS <= 128)
        backward_in_general<T, 16>(b, a);
    else
        backward_in_general<T, 32>(b, a);
}

/* 0: no instance for tensor cores, which leave scores as they are */
static int tensor_size(const Attention &a, Dtype dtype) {
    bool aligned = aligned16(a.qkv) && aligned16(a.out) && aligned16(a.dout) && aligned16(a.dqkv);
    bool size = a.of.HS == 64 || a.of.HS == 80 || a.of.HS == 96 || a.of.HS == 128;
    return dtype == DT_BF16 && aligned && size && !(a.of.softcap > 0.0f) ? a.of.HS : 0;
}

static void attention_forward(Backend *page, Buf out, Buf lse, Buf qkv, Buf starts, int S, int N,
                              AttentionShape of) {
    CudaBackend *b = cuda(page);
    CHECK(of.HS <= 256 && of.HS % 2 == 0 && of.NH % of.NKV == 0);
    if (S == 0 || N == 0) return;
    Attention a = {};
    a.out = out.ptr, a.lse = (float *)lse.ptr, a.qkv = qkv.ptr, a.starts = (const int *)starts.ptr;
    a.S = S, a.N = N, a.of = of;
    switch (tensor_size(a, qkv.dtype)) {
    case 64: forward_on_tensor<64>(b, a); return;
    case 80: forward_on_tensor<80>(b, a); return;
    case 96: forward_on_tensor<96>(b, a); return;
    case 128: forward_on_tensor<128>(b, a); return;
    }
    if (qkv.dtype == DT_BF16)
        forward_of<bf16>(b, a);
    else
        forward_of<float>(b, a);
}

static void attention_backward(Backend *page, Buf dqkv, Buf dout, Buf qkv, Buf out, Buf lse,
                               Buf starts, int S, int N, AttentionShape of) {
    CudaBackend *b = cuda(page);
    CHECK(of.HS <= 256 && of.HS % 2 == 0 && of.NH % of.NKV == 0);
    if (S == 0 || N == 0) return;
    Attention a = {};
    a.out = out.ptr, a.dqkv = dqkv.ptr, a.qkv = qkv.ptr, a.dout = dout.ptr;
    a.lse = (float *)lse.ptr, a.D = a.lse + (size_t)N * of.NH, a.starts = (const int *)starts.ptr;
    a.S = S, a.N = N, a.of = of;
    int grid = blocks_for((size_t)N * of.NH, WARPS);
    if (qkv.dtype == DT_BF16)
        launch(b, backward_sums<bf16>, grid, THREADS, 0, a);
    else
        launch(b, backward_sums<float>, grid, THREADS, 0, a);
    switch (tensor_size(a, qkv.dtype)) {
    case 64: backward_on_tensor<64>(b, a); return;
    case 80: backward_on_tensor<80>(b, a); return;
    case 96: backward_on_tensor<96>(b, a); return;
    case 128: backward_on_tensor<128>(b, a); return;
    }
    if (qkv.dtype == DT_BF16)
        backward_of<bf16>(b, a);
    else
        backward_of<float>(b, a);
}

void cuda_attention_page(Backend *b) {
    b->attention_forward = attention_forward;
    b->attention_backward = attention_backward;
}
