/* product_plain.cu - a matrix product without requirements: any size, any alignment, both storage
 * types. For what cuBLASLt refuses, such as rows of an odd number of bf16. */
#include "core/backend/cuda/cuda_product.h"
#include "core/backend/cuda/device.cuh"

enum { TILE = 16 };

template <class In, class Out>
static __global__ void __launch_bounds__(TILE *TILE)
    product_tiles(Out *C, const In *A, const In *B, ProductCall k) {
    __shared__ float a[TILE][TILE + 1], b[TILE][TILE + 1];
    int x = threadIdx.x % TILE, y = threadIdx.x / TILE;
    int row = (int)blockIdx.y * TILE + y, column = (int)blockIdx.x * TILE + x;
    float sum = 0.0f;
    for (int k0 = 0; k0 < k.K; k0 += TILE) {
        /* A is read along its rows as stored, B too: neighbours in x are neighbours in memory */
        int ra = (int)blockIdx.y * TILE + (k.a_transposed ? x : y);
        int ka = k0 + (k.a_transposed ? y : x);
        int cb = (int)blockIdx.x * TILE + (k.b_transposed ? y : x);
        int kb = k0 + (k.b_transposed ? x : y);
        size_t at_a = k.a_transposed ? (size_t)ka * k.lda + ra : (size_t)ra * k.lda + ka;
        size_t at_b = k.b_transposed ? (size_t)cb * k.ldb + kb : (size_t)kb * k.ldb + cb;
        float va = ra < k.M && ka < k.K ? to_f32(A[at_a]) : 0.0f;
        float vb = cb < k.N && kb < k.K ? to_f32(B[at_b]) : 0.0f;
        (k.a_transposed ? a[x][y] : a[y][x]) = va;
        (k.b_transposed ? b[x][y] : b[y][x]) = vb;
        __syncthreads();
        for (int i = 0; i < TILE; i++) sum = fmaf(a[y][i], b[i][x], sum);
        __syncthreads();
    }
    if (row >= k.M || column >= k.N) return;
    Out *c = C + (size_t)row * k.ldc + column;
    if (k.add) sum = to_f32(*c) + sum;
    if (k.bias) sum += to_f32(((const Out *)k.bias)[column]);
    *c = from_f32<Out>(sum);
}

template <class In, class Out> static void run(CudaBackend *b, const ProductCall *call) {
    auto *kernel = product_tiles<In, Out>;
    ProductCall c = *call;
    if (!c.lda) c.lda = c.a_transposed ? c.M : c.K;
    if (!c.ldb) c.ldb = c.b_transposed ? c.K : c.N;
    if (!c.ldc) c.ldc = c.N;
    for (int row = 0; row < call->M; row += 65535 * TILE) { /* a grid's height is limited */
        c.M = call->M - row < 65535 * TILE ? call->M - row : 65535 * TILE;
        dim3 grid((unsigned)((c.N + TILE - 1) / TILE), (unsigned)((c.M + TILE - 1) / TILE));
        const In *A = (const In *)call->A + (c.a_transposed ? (size_t)row : (size_t)row * c.lda);
        LAUNCH(b, kernel, grid, TILE * TILE, 0, (Out *)call->C + (size_t)row * c.ldc, A,
               (const In *)call->B, c);
    }
}

void product_plain(CudaBackend *b, const ProductCall *c) {
    if (c->in == DT_F32)
        run<float, float>(b, c);
    else if (c->out == DT_F32)
        run<bf16, float>(b, c);
    else
        run<bf16, bf16>(b, c);
}
