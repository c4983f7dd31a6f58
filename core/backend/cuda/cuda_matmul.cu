/* cuda_matmul.cu - the page's products: which operand is stored how, and the bf16 copy of weights.
 */
#include "core/backend/cuda/cuda_product.h"
#include "core/backend/cuda/device.cuh"

/* The weights as products read them: the bf16 copy, or the stored ones where they are of the page's
 * type already. */
const void *cuda_weights(const Mat *m, Dtype dtype) {
    CHECK(m->packed.ptr || m->w.dtype == dtype);
    return m->packed.ptr ? m->packed.ptr : m->w.ptr;
}

static size_t packed_count(Backend *page, Dtype w, int O, int K) {
    return w == page->dtype || dtype_quantized(w) ? 0 : (size_t)O * (size_t)K;
}

enum { PACK_THREADS = 256, PACK_EACH = 8 };

static __global__ void __launch_bounds__(PACK_THREADS)
    round_weights(bf16 *__restrict__ to, const float *__restrict__ from, size_t count) {
    size_t i = ((size_t)blockIdx.x * PACK_THREADS + threadIdx.x) * PACK_EACH;
    if (i + PACK_EACH <= count) {
        Pack<float> a = pack_load(from + i), b = pack_load(from + i + 4);
        uint4 v = make_uint4(pack_bf16(a.v[0], a.v[1]), pack_bf16(a.v[2], a.v[3]),
                             pack_bf16(b.v[0], b.v[1]), pack_bf16(b.v[2], b.v[3]));
        *reinterpret_cast<uint4 *>(to + i) = v;
    } else {
        for (; i < count; i++) to[i] = from_f32<bf16>(from[i]);
    }
}

static __global__ void __launch_bounds__(PACK_THREADS)
    round_weights_unaligned(bf16 *__restrict__ to, const float *__restrict__ from, size_t count) {
    size_t i = (size_t)blockIdx.x * PACK_THREADS + threadIdx.x;
    if (i < count) to[i] = from_f32<bf16>(from[i]);
}

static void round_range(CudaBackend *b, Buf to_, Buf from_, size_t count) {
    bf16 *to = (bf16 *)to_.ptr;
    const float *from = (const float *)from_.ptr;
    if (((uintptr_t)to | (uintptr_t)from) % 16)
        LAUNCH(b, round_weights_unaligned, blocks_for(count, PACK_THREADS), PACK_THREADS, 0, to,
               from, count);
    else
        LAUNCH(b, round_weights, blocks_for(count, PACK_THREADS * PACK_EACH), PACK_THREADS, 0, to,
               from, count);
}

static void pack(Backend *page, Mat m) {
    if (m.packed.ptr) round_range(cuda(page), m.packed, m.w, (size_t)m.O * (size_t)m.K);
    if (m.bias_packed.ptr) round_range(cuda(page), m.bias_packed, m.bias, (size_t)m.O);
}

/* A thread for each EACH numbers of a block. */
enum { UNPACK_EACH = 8 };

template <class T>
static __global__ void __launch_bounds__(PACK_THREADS)
    unpack_quantized(T *__restrict__ to, const void *__restrict__ from, int is_q8, size_t count) {
    size_t i = ((size_t)blockIdx.x * PACK_THREADS + threadIdx.x) * UNPACK_EACH;
    if (i >= count) return;
    size_t block = i / QUANT_BLOCK;
    int first = (int)(i % QUANT_BLOCK);
    if (is_q8) {
        const BlockQ8 *b = (const BlockQ8 *)from + block;
#pragma unroll
        for (int j = 0; j < UNPACK_EACH; j++)
            to[i + j] = from_f32<T>(b->scale * (float)b->q[first + j]);
    } else {
        const BlockQ4 *b = (const BlockQ4 *)from + block;
        int half = first / (QUANT_BLOCK / 2), at = first % (QUANT_BLOCK / 2);
#pragma unroll
        for (int j = 0; j < UNPACK_EACH; j++)
            to[i + j] = from_f32<T>(b->scale * (float)((b->q[at + j] >> 4 * half & 15) - 8));
    }
}

template <class T> static void unpack(CudaBackend *b, void *to, Buf from, size_t count) {
    LAUNCH(b, unpack_quantized<T>, blocks_for(count, PACK_THREADS * UNPACK_EACH), PACK_THREADS, 0,
           (T *)to, (const void *)from.ptr, from.dtype == DT_Q8, count);
}

/* As many rows of the weights at a time as the scratch holds, in the page's type. */
static void quantized_forward(CudaBackend *b, ProductCall call, const Mat *w) {
    size_t size = dtype_bytes(call.in);
    int most = (int)(SCRATCH_BYTES / ((size_t)w->K * size));
    CHECK(most > 0);
    char *C = (char *)call.C;
    const char *bias = (const char *)call.bias;
    for (int o = 0; o < w->O; o += most) {
        int rows = w->O - o < most ? w->O - o : most;
        Buf from = buf_at(w->w, (size_t)o * w->K);
        if (call.in == DT_BF16)
            unpack<bf16>(b, b->scratch, from, (size_t)rows * w->K);
        else
            unpack<float>(b, b->scratch, from, (size_t)rows * w->K);
        call.B = b->scratch;
        call.C = C + (size_t)o * dtype_bytes(call.out);
        call.bias = bias ? bias + (size_t)o * dtype_bytes(call.out) : NULL;
        call.N = rows;
        call.ldc = w->O;
        product_run(b, &call);
    }
}

static void matmul_forward(Backend *page, Buf y, Buf x, Mat w, int N) {
    ProductCall call = {};
    call.A = x.ptr;
    call.C = y.ptr;
    call.bias = w.bias_packed.ptr ? w.bias_packed.ptr : w.bias.ptr;
    CHECK(!call.bias || w.bias_packed.ptr || w.bias.dtype == y.dtype);
    call.in = x.dtype;
    call.out = y.dtype;
    call.M = N;
    call.N = w.O;
    call.K = w.K;
    call.b_transposed = 1;
    if (dtype_quantized(w.w.dtype)) {
        quantized_forward(cuda(page), call, &w);
        return;
    }
    call.B = cuda_weights(&w, x.dtype);
    product_run(cuda(page), &call);
}

static void matmul_backward_input(Backend *page, Buf dx, Buf dy, Mat w, int N) {
    ProductCall call = {};
    call.A = dy.ptr;
    call.B = cuda_weights(&w, dy.dtype);
    call.C = dx.ptr;
    call.in = dy.dtype;
    call.out = dx.dtype;
    call.M = N;
    call.N = w.K;
    call.K = w.O;
    product_run(cuda(page), &call);
}

static void matmul_backward_weight(Backend *page, Buf dw, Buf dy, Buf x, int N, int O, int K) {
    if (!dw.ptr) return;
    ProductCall call = {};
    call.A = dy.ptr;
    call.B = x.ptr;
    call.C = dw.ptr;
    call.in = x.dtype;
    call.out = DT_F32;
    call.M = O;
    call.N = K;
    call.K = N;
    call.a_transposed = 1;
    call.add = 1;
    product_run(cuda(page), &call);
}

void cuda_matmul_page(Backend *b) {
    b->packed_count = packed_count;
    b->pack = pack;
    b->matmul_forward = matmul_forward;
    b->matmul_backward_input = matmul_backward_input;
    b->matmul_backward_weight = matmul_backward_weight;
}
