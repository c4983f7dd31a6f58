/* attention.cuh - what attention over packed sequences and attention over pages share. */
#ifndef ATTENTION_CUH
#define ATTENTION_CUH

#include "core/backend/cuda/device.cuh"

static constexpr float LOG2E = 1.44269504f;

static inline float scale_of(int HS) {
    return 1.0f / sqrtf((float)HS);
}

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
