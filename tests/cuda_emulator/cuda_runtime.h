/* cuda_runtime.h - stands in for CUDA's header when the sources in core/backend/cuda are compiled
 * as plain C++: device code runs on the CPU, every thread of a block in turn.
 *
 * Threads are fibers that change places only where real ones may wait for each other: barriers,
 * shuffles and the other operations of a whole warp. So what is tested is every index, every sum,
 * every fragment layout and every barrier that is missing in one of the two orders in which threads
 * are run (EMULATOR_ORDER=descending); not tested are true concurrency and speed. Memory is filled
 * with NaN and ends at a page that cannot be touched; asynchronous copies happen as late as their
 * wait allows. */
#ifndef EMULATED_CUDA_RUNTIME_H
#define EMULATED_CUDA_RUNTIME_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <algorithm>
#include <functional>
#include <tuple>

#define __global__
#define __device__
#define __host__
#define __constant__    static
#define __shared__      static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

using std::max;
using std::min;

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

#define EMULATED_VECTORS(T, name)                                                                  \
    struct alignas(2 * sizeof(T)) name##2 {                                                        \
        T x, y;                                                                                    \
    };                                                                                             \
    struct alignas(16) name##4 {                                                                   \
        T x, y, z, w;                                                                              \
    };                                                                                             \
    static inline name##2 make_##name##2(T x, T y) {                                               \
        return {x, y};                                                                             \
    }                                                                                              \
    static inline name##4 make_##name##4(T x, T y, T z, T w) {                                     \
        return {x, y, z, w};                                                                       \
    }
EMULATED_VECTORS(float, float)
EMULATED_VECTORS(int, int)
EMULATED_VECTORS(unsigned, uint)

/* --- threads --- */

typedef struct {
    dim3 thread, block;
    int lane;
} EmulatedPlace;
extern EmulatedPlace *emulator_place;
extern dim3 emulator_block_dim, emulator_grid_dim;
#define threadIdx (emulator_place->thread)
#define blockIdx  (emulator_place->block)
#define blockDim  emulator_block_dim
#define gridDim   emulator_grid_dim

void emulator_launch(dim3 grid, dim3 block, size_t shared, const char *name,
                     std::function<void()> kernel);
/* runs host code in the stream's order: now, or whenever what is being recorded runs */
void emulator_run(std::function<void()> call);
/* arguments become values at the launch, as on a GPU: what is recorded holds no names */
template <class... P, class... A>
static inline void emulator_call(dim3 grid, dim3 block, size_t shared, const char *name,
                                 void (*kernel)(P...), A... a) {
    std::tuple<P...> values(static_cast<P>(a)...);
    emulator_launch(grid, block, shared, name, [=] { std::apply(kernel, values); });
}
char *emulator_shared(void);
void __syncthreads(void);
void __syncwarp(unsigned mask = 0xffffffffu);
/* publishes n <= 32 bytes of this lane; returns the warp's, [lane][32] bytes, until its next
 * exchange but one */
const unsigned char (*emulator_exchange(unsigned mask, const void *mine, size_t n))[32];

template <class T> static inline T emulator_shuffle(unsigned mask, T x, int from) {
    const unsigned char(*all)[32] = emulator_exchange(mask, &x, sizeof x);
    T y;
    memcpy(&y, all[from], sizeof y);
    return y;
}
template <class T> static inline T __shfl_sync(unsigned mask, T x, int from, int width = 32) {
    int lane = emulator_place->lane;
    return emulator_shuffle(mask, x, lane / width * width + ((from % width) + width) % width);
}
template <class T> static inline T __shfl_xor_sync(unsigned mask, T x, int with, int width = 32) {
    int lane = emulator_place->lane, from = lane ^ with;
    return emulator_shuffle(mask, x, from / width == lane / width ? from : lane);
}
template <class T> static inline T __shfl_up_sync(unsigned mask, T x, int by, int width = 32) {
    int lane = emulator_place->lane, from = lane % width >= by ? lane - by : lane;
    return emulator_shuffle(mask, x, from);
}
template <class T> static inline T __shfl_down_sync(unsigned mask, T x, int by, int width = 32) {
    int lane = emulator_place->lane, from = lane % width + by < width ? lane + by : lane;
    return emulator_shuffle(mask, x, from);
}
unsigned __ballot_sync(unsigned mask, int yes);
static inline int __any_sync(unsigned mask, int yes) {
    return __ballot_sync(mask, yes) != 0;
}
int __all_sync(unsigned mask, int yes);

/* --- arithmetic --- */

uint16_t emulator_bf16(float x);
static inline unsigned __float_as_uint(float x) {
    unsigned u;
    memcpy(&u, &x, 4);
    return u;
}
static inline float __uint_as_float(unsigned u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}
static inline float rsqrtf(float x) {
    return 1.0f / sqrtf(x);
}
#define __expf expf /* glibc keeps that name for itself */
static inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
static inline int __ffs(int x) {
    return __builtin_ffs(x);
}
static inline int __clz(int x) {
    return x ? __builtin_clz((unsigned)x) : 32;
}
template <class T> static inline T __ldg(const T *p) {
    return *p;
}

void emulator_mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2]);
void emulator_load_tiles(uint32_t r[4], const void *row, int transposed);
void emulator_copy_async(void *to, const void *from, bool valid);
void emulator_copy_commit(void);
void emulator_copy_wait(int pending);

/* --- the runtime's calls that core/backend/cuda makes --- */

typedef enum {
    cudaSuccess,
    cudaErrorMemoryAllocation = 2,
    cudaErrorNotSupported = 801
} cudaError_t;
typedef struct EmulatedStream *cudaStream_t;
typedef struct EmulatedGraph *cudaGraph_t;
typedef struct EmulatedGraph *cudaGraphExec_t;
enum { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDefault };
typedef int cudaMemcpyKind;
enum { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum { cudaStreamNonBlocking = 1, cudaStreamCaptureModeThreadLocal = 1 };
enum {
    cudaDevAttrMultiProcessorCount,
    cudaDevAttrMaxSharedMemoryPerBlockOptin,
    cudaDevAttrComputeCapabilityMajor,
    cudaDevAttrComputeCapabilityMinor,
};

cudaError_t cudaMalloc(void **p, size_t bytes);
cudaError_t cudaFree(void *p);
cudaError_t cudaMallocHost(void **p, size_t bytes);
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaStreamBeginCapture(cudaStream_t s, int mode);
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s);
cudaError_t cudaGraphDestroy(cudaGraph_t g);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x);
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetAttribute(int *value, int attribute, int device);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total);
cudaError_t cudaPeekAtLastError(void);
cudaError_t cudaGetLastError(void);
const char *cudaGetErrorString(cudaError_t e);
template <class F> static inline cudaError_t cudaFuncSetAttribute(F *, int, int bytes) {
    return bytes <= 99 * 1024 ? cudaSuccess : cudaErrorNotSupported;
}

#endif
