/* attention.cuh - what attention over packed sequences and attention over pages share. */
#ifndef ATTENTION_CUH
#define ATTENTION_CUH

#include "core/backend/cuda/device.cuh"

static constexpr float LOG2E = 1.44269504f;

/* the first key that the query at `row` sees */
static __device__ __forceinline__ int first_key(const AttentionShape &a, int row) {
    return a.window ? max(row - a.window + 1, 0) : 0;
}
/* the end of the queries that see `key`, in a sequence of `length` */
static __device__ __forceinline__ int end_query(const AttentionShape &a, int key, int length) {
    return a.window ? min(key + a.window, length) : length;
}
static __device__ __forceinline__ bool sees(const AttentionShape &a, int query, int key) {
    return key <= query && key >= first_key(a, query);
}

/* a scaled score as the softmax gets it, and by how much that moves with it */
static __device__ __forceinline__ float bent(const AttentionShape &a, float s) {
    return a.softcap > 0.0f ? a.softcap * tanhf(s / a.softcap) : s;
}
static __device__ __forceinline__ float bent_slope(const AttentionShape &a, float s) {
    float bend = a.softcap > 0.0f ? tanhf(s / a.softcap) : 0.0f;
    return 1.0f - bend * bend;
}

/* below every score: exponentials by it are 0, and never of inf - inf */
static constexpr float NOTHING_YET = -1e30f;

/* 2^x: one instruction for values that are going to be rounded to bf16, exact to the last bits for
 * f32 */
template <class T> static __device__ __forceinline__ float exp2_for(float x) {
    return exp2f(x);
}
template <> __device__ __forceinline__ float exp2_for<bf16>(float x) {
#ifdef __CUDACC__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}

/* Two neighbours of T: the widest access that an even head size allows. */
template <class T> struct alignas(2 * sizeof(T)) Pair { T v[2]; };

static inline bool aligned16(const void *p) {
    return (uintptr_t)p % 16 == 0;
}

/* more than 48 KiB of shared memory has to be asked for, kernel by kernel */
template <class Kernel> static void allow_shared(CudaBackend *b, Kernel *kernel, size_t bytes) {
    if (bytes <= 48 << 10) return;
    cudaError_t e =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    if (e != cudaSuccess) cuda_failed(b, e, "asking for shared memory");
}

#endif
