/* product_fixed.cu - the product of --batch-invariant: one tile and one order of k for every size,
 * so that a row of a result has the same bits whatever else is computed with it.
 *
 * bf16 on tensor cores, tiles of 64 x 64 with k in steps of 32; what is beyond an edge is zero,
 * which adds nothing. f32 takes product_plain, whose sums are chains over k already. */
#include "core/backend/cuda/cuda_product.h"
#include "core/backend/cuda/mma.cuh"

enum { TILE = 64, STEP = 32, PITCH = STEP + 8, THREADS = 128 };

/* x[TILE][STEP] from rows of a matrix, k along the row; element loads where 16 bytes do not fit */
static __device__ __forceinline__ void load_along(bf16 *tile, const bf16 *x, int ld, int row0,
                                                  int rows, int k0, int K, bool wide) {
    for (int i = threadIdx.x; i < TILE * STEP / 8; i += THREADS) {
        int r = i / (STEP / 8), c = i % (STEP / 8) * 8, row = row0 + r, k = k0 + c;
        bf16 *to = tile + r * PITCH + c;
        if (wide && row < rows && k + 8 <= K) {
            *reinterpret_cast<uint4 *>(to) =
                *reinterpret_cast<const uint4 *>(x + (size_t)row * ld + k);
            continue;
        }
        for (int j = 0; j < 8; j++)
            to[j] = row < rows && k + j < K ? x[(size_t)row * ld + k + j] : bf16{0};
    }
}

/* the same from a matrix that is stored [k][row] */
static __device__ __forceinline__ void load_across(bf16 *tile, const bf16 *x, int ld, int row0,
                                                   int rows, int k0, int K) {
    for (int i = threadIdx.x; i < TILE * STEP; i += THREADS) {
        int r = i % TILE, c = i / TILE;
        bool there = row0 + r < rows && k0 + c < K;
        tile[r * PITCH + c] = there ? x[(size_t)(k0 + c) * ld + row0 + r] : bf16{0};
    }
}

/* Each warp has a quarter: 32 x 32 of the tile, as 2 x 4 fragments. */
static __device__ __forceinline__ void multiply(float c[2][4][4], const bf16 *a, const bf16 *b) {
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int m0 = warp / 2 * 32, n0 = warp % 2 * 32;
    for (int k = 0; k < STEP; k += 16) {
        uint32_t fa[2][4], fb[2][4];
        for (int i = 0; i < 2; i++) /* tiles: rows 0-7 | 8-15 at k, then at k + 8 */
            load_tiles(fa[i], a + (m0 + 16 * i + lane % 16) * PITCH + k + lane / 16 * 8);
        for (int i = 0; i < 2; i++) /* columns 0-7 at k and k + 8, then columns 8-15 */
            load_tiles(fb[i],
                       b + (n0 + 16 * i + lane / 16 * 8 + lane % 8) * PITCH + k + lane / 8 % 2 * 8);
        for (int i = 0; i < 2; i++)
            for (int j = 0; j < 4; j++) mma_bf16(c[i][j], fa[i], fb[j / 2] + j % 2 * 2);
    }
}

template <class Out>
static __global__ void __launch_bounds__(THREADS)
    fixed_tiles(Out *C, const bf16 *A, const bf16 *B, ProductCall p, bool wide_a, bool wide_b) {
    __shared__ __align__(16) bf16 a[TILE * PITCH], b[TILE * PITCH];
    int m0 = (int)blockIdx.y * TILE, n0 = (int)blockIdx.x * TILE;
    float c[2][4][4] = {};
    for (int k = 0; k < p.K; k += STEP) {
        if (p.a_transposed)
            load_across(a, A, p.lda, m0, p.M, k, p.K);
        else
            load_along(a, A, p.lda, m0, p.M, k, p.K, wide_a);
        if (p.b_transposed)
            load_along(b, B, p.ldb, n0, p.N, k, p.K, wide_b);
        else
            load_across(b, B, p.ldb, n0, p.N, k, p.K);
        __syncthreads();
        multiply(c, a, b);
        __syncthreads();
    }
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
            for (int e = 0; e < 4; e++) {
                int row = m0 + warp / 2 * 32 + 16 * i + lane / 4 + e / 2 * 8;
                int column = n0 + warp % 2 * 32 + 8 * j + lane % 4 * 2 + e % 2;
                if (row >= p.M || column >= p.N) continue;
                Out *to = C + (size_t)row * p.ldc + column;
                float sum = p.add ? to_f32(*to) + c[i][j][e] : c[i][j][e];
                if (p.bias) sum += to_f32(((const Out *)p.bias)[column]);
                *to = from_f32<Out>(sum);
            }
}

template <class Out> static void run(CudaBackend *b, const ProductCall *call) {
    enum { ROWS_MAX = 65535 * TILE }; /* a grid's height is limited */
    auto *kernel = fixed_tiles<Out>;
    ProductCall c = *call;
    if (!c.lda) c.lda = c.a_transposed ? c.M : c.K;
    if (!c.ldb) c.ldb = c.b_transposed ? c.K : c.N;
    if (!c.ldc) c.ldc = c.N;
    bool wide_a = (uintptr_t)c.A % 16 == 0 && c.lda % 8 == 0;
    bool wide_b = (uintptr_t)c.B % 16 == 0 && c.ldb % 8 == 0;
    for (int row = 0; row < call->M; row += ROWS_MAX) {
        c.M = call->M - row < ROWS_MAX ? call->M - row : ROWS_MAX;
        dim3 grid((unsigned)((c.N + TILE - 1) / TILE), (unsigned)((c.M + TILE - 1) / TILE));
        const bf16 *A =
            (const bf16 *)call->A + (c.a_transposed ? (size_t)row : (size_t)row * c.lda);
        LAUNCH(b, kernel, grid, THREADS, 0, (Out *)call->C + (size_t)row * c.ldc, A,
               (const bf16 *)call->B, c, wide_a, wide_b);
    }
}

void product_fixed(CudaBackend *b, const ProductCall *c) {
    if (c->in == DT_F32)
        product_plain(b, c);
    else if (c->out == DT_F32)
        run<float>(b, c);
    else
        run<bf16>(b, c);
}
