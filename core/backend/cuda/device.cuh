/* device.cuh - what every kernel uses: storage types, 16-byte accesses, sums over warps and blocks.
 */
#ifndef DEVICE_CUH
#define DEVICE_CUH

#include <math.h>
#include <stdint.h>

#include "core/backend/cuda/cuda.h"

struct bf16 {
    uint16_t bits;
};

static __host__ __device__ __forceinline__ float to_f32(float x) {
    return x;
}
static __host__ __device__ __forceinline__ float to_f32(bf16 x) {
    union {
        uint32_t u;
        float f;
    } v = {(uint32_t)x.bits << 16};
    return v.f;
}

/* two f32 rounded to nearest even and packed, the first in the low half */
static __device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
#ifdef __CUDACC__
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
#else
    return emulator_bf16(low) | (uint32_t)emulator_bf16(high) << 16;
#endif
}

template <class T> __device__ T from_f32(float x);
template <> __device__ __forceinline__ float from_f32<float>(float x) {
    return x;
}
template <> __device__ __forceinline__ bf16 from_f32<bf16>(float x) {
    return bf16{(uint16_t)(pack_bf16(x, 0.0f) & 0xffffu)};
}

/* 16 bytes of T: the widest access; addresses must be multiples of 16 */
template <class T> struct alignas(16) Pack {
    enum { N = 16 / sizeof(T) };
    T v[N];
};
template <class T> static __device__ __forceinline__ Pack<T> pack_load(const T *p) {
    return *reinterpret_cast<const Pack<T> *>(p);
}
template <class T> static __device__ __forceinline__ void pack_store(T *p, Pack<T> v) {
    *reinterpret_cast<Pack<T> *>(p) = v;
}

enum { WARP = 32 };
static constexpr unsigned ALL_LANES = 0xffffffffu;

/* over the warp, in one fixed tree; every lane gets the result */
static __device__ __forceinline__ float warp_sum(float x) {
    for (int o = WARP / 2; o; o /= 2) x += __shfl_xor_sync(ALL_LANES, x, o);
    return x;
}
static __device__ __forceinline__ float warp_max(float x) {
    for (int o = WARP / 2; o; o /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, o));
    return x;
}

/* over a block of THREADS, every thread gets the result; `room` is shared memory of THREADS / 32
 * floats, free again on return */
template <int THREADS> static __device__ __forceinline__ float block_sum(float x, float *room) {
    x = warp_sum(x);
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = x;
    __syncthreads();
    float s = 0.0f;
    for (int i = 0; i < THREADS / WARP; i++) s += room[i];
    __syncthreads();
    return s;
}
template <int THREADS> static __device__ __forceinline__ float block_max(float x, float *room) {
    x = warp_max(x);
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = x;
    __syncthreads();
    float s = room[0];
    for (int i = 1; i < THREADS / WARP; i++) s = fmaxf(s, room[i]);
    __syncthreads();
    return s;
}

/* Shared memory whose size the launch gives: SHARED(name) declares char name[]. */
#ifdef __CUDACC__
#define SHARED(name) extern __shared__ __align__(128) char name[]
#else
#define SHARED(name) char *name = emulator_shared()
#endif

#endif
