/* cuda_optim.cu - AdamW over flat ranges (Loshchilov & Hutter 2019) and the gradient norm. */
#include "core/backend/cuda/device.cuh"
#include "core/backend/cuda/row.cuh"

enum { THREADS = 256 };

template <int W>
static __device__ __forceinline__ void adamw_few(float *w, float *m, float *v, bf16 *copy,
                                                 const float *g, size_t i, const AdamwParams &p) {
    float w_i[W], m_i[W], v_i[W], g_i[W];
    load_few(w_i, w + i);
    load_few(m_i, m + i);
    load_few(v_i, v + i);
    load_few(g_i, g + i);
#pragma unroll
    for (int j = 0; j < W; j++) {
        float d = g_i[j] * p.grad_scale;
        m_i[j] = p.beta1 * m_i[j] + (1.0f - p.beta1) * d;
        v_i[j] = p.beta2 * v_i[j] + (1.0f - p.beta2) * d * d;
        float step = (m_i[j] / p.correction1) / (sqrtf(v_i[j] / p.correction2) + p.eps);
        w_i[j] -= p.lr * (step + p.weight_decay * w_i[j]);
    }
    store_few(w + i, w_i);
    store_few(m + i, m_i);
    store_few(v + i, v_i);
    if (!copy) return;
    if constexpr (W == 4)
        *reinterpret_cast<uint2 *>(copy + i) =
            make_uint2(pack_bf16(w_i[0], w_i[1]), pack_bf16(w_i[2], w_i[3]));
    else
        copy[i] = from_f32<bf16>(w_i[0]);
}

template <int W>
static __global__ void __launch_bounds__(THREADS)
    adamw_range(float *w, float *m, float *v, bf16 *copy, const float *g, size_t count,
                AdamwParams p) {
    size_t i = ((size_t)blockIdx.x * THREADS + threadIdx.x) * W;
    if (i + W <= count)
        adamw_few<W>(w, m, v, copy, g, i, p);
    else
        for (; i < count; i++) adamw_few<1>(w, m, v, copy, g, i, p);
}

static void adamw(Backend *page, Buf w, Buf m, Buf v, Buf copy, Buf g, size_t count,
                  AdamwParams p) {
    CudaBackend *b = cuda(page);
    bool wide = wide_rows(0, 4, w.ptr, m.ptr, v.ptr, g.ptr) && (uintptr_t)copy.ptr % 8 == 0;
    auto *kernel = wide ? adamw_range<4> : adamw_range<1>;
    if (count)
        LAUNCH(b, kernel, blocks_for(count, THREADS * (wide ? 4 : 1)), THREADS, 0, as<float>(w),
               as<float>(m), as<float>(v), as<bf16>(copy), as<float>(g), count, p);
}

static void adamw_packed(Backend *page, Mat w, Buf m, Buf v, Buf g, AdamwParams p) {
    adamw(page, w.w, m, v, w.packed, g, (size_t)w.O * (size_t)w.K, p);
}

/* Every gridDim-th tile of THREADS * W: what a thread adds up depends on the count alone. */
template <class T, int W>
static __global__ void __launch_bounds__(THREADS) squares(double *sums, const T *g, size_t count) {
    __shared__ double room[THREADS / WARP];
    size_t step = (size_t)gridDim.x * THREADS * W;
    double sum = 0.0;
#pragma unroll 4
    for (size_t i = ((size_t)blockIdx.x * THREADS + threadIdx.x) * W; i + W <= count; i += step) {
        float v[W];
        load_few(v, g + i);
#pragma unroll
        for (int j = 0; j < W; j++) sum += (double)v[j] * (double)v[j];
    }
    size_t tail = count / W * W + threadIdx.x;
    if (blockIdx.x == 0 && tail < count) sum += (double)to_f32(g[tail]) * (double)to_f32(g[tail]);
    sum = block_reduce<THREADS>(sum, room, [](double a, double c) { return a + c; });
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

enum { PARTS_MAX = 1024 };

template <class T> static int squares_parts(CudaBackend *b, Buf g, size_t count) {
    constexpr int W = Pack<T>::N;
    bool wide = wide_rows(0, W, g.ptr);
    auto *kernel = wide ? squares<T, W> : squares<T, 1>;
    size_t tiles = (count + THREADS * W - 1) / (THREADS * W);
    int parts = tiles < PARTS_MAX ? (int)tiles : PARTS_MAX;
    LAUNCH(b, kernel, parts, THREADS, 0, (double *)b->scratch, as<T>(g), count);
    return parts;
}

static double sum_squares(Backend *page, Buf g, size_t count) {
    CudaBackend *b = cuda(page);
    double sums[PARTS_MAX], sum = 0.0;
    CHECK(!b->capturing);
    if (!count) return 0.0;
    int parts =
        g.dtype == DT_F32 ? squares_parts<float>(b, g, count) : squares_parts<bf16>(b, g, count);
    cudaError_t e = cudaMemcpyAsync(sums, b->scratch, (size_t)parts * sizeof *sums,
                                    cudaMemcpyDeviceToHost, b->stream);
    if (e == cudaSuccess) e = cudaStreamSynchronize(b->stream);
    if (e != cudaSuccess) {
        cuda_failed(b, e, "sum_squares");
        return 0.0;
    }
    for (int i = 0; i < parts; i++) sum += sums[i];
    return sum;
}

void cuda_optim_page(Backend *b) {
    b->adamw = adamw;
    b->adamw_packed = adamw_packed;
    b->sum_squares = sum_squares;
}
