/* cuda.h - the CUDA page's common ground: the backend's state, launches, and who fills what.
 *
 * Files and contracts are those of ../cpu. All work goes to one stream in order; nothing waits for
 * the device but download, sum_squares and sync. There are no atomics on floating point anywhere:
 * every sum has one order, so the same seed gives the same bytes on the same GPU.
 *
 * The same sources compile as plain C++ against tests/cuda_emulator, which runs every thread of a
 * block in turn on the CPU: that is how kernels are tested on machines without a GPU. */
#ifndef CUDA_H
#define CUDA_H

#include <cuda_runtime.h>

extern "C" {
#include "core/backend/backend.h"
#include "core/backend/cuda/geometry.h"
#include "core/backend/quant.h"
}

struct Product; /* cuda_product.h */

enum {
    SCRATCH_BYTES = 64 << 20,
    STAGING_BYTES = 8 << 20,
    RECORDINGS_MAX = 256,
    HOST_ALLOCATIONS_MAX = 64
};

typedef struct {
    Backend page; /* first: a Backend * is a CudaBackend * */
    int device, sms;
    size_t shared_max; /* bytes of shared memory a block may ask for */
    cudaStream_t stream;
    struct Product *product;
    void *scratch; /* device: partial sums of reductions and of split keys, SCRATCH_BYTES */
    void *staging; /* pinned host memory, a ring of STAGING_BYTES for uploads */
    size_t staging_at;
    struct {
        uint64_t key;
        cudaGraphExec_t graph;
    } recordings[RECORDINGS_MAX];
    int n_recordings;
    void *host_memory[HOST_ALLOCATIONS_MAX]; /* of alloc_host */
    int n_host_memory;
    int invariant; /* --batch-invariant: a row's bits do not depend on what else is computed */
    int capturing; /* a piece of work is being recorded: nothing may touch the host */
    char name[16], kernels[32]; /* "cuda:0"; "cuda-sm90": bits are promised per kind of GPU */
} CudaBackend;

static inline CudaBackend *cuda(Backend *b) {
    return (CudaBackend *)b;
}

/* Remembers the first failure with what failed; later ones are its consequences. */
void cuda_failed(CudaBackend *b, cudaError_t e, const char *what);

/* Recordings hold addresses: they go when memory comes or goes. */
void cuda_forget_recordings(CudaBackend *b);

/* kernel<<<grid, block, shared bytes>>>(args) on the backend's stream. A template's instance goes
 * through a variable: auto *kernel = norm_forward<bf16>; */
#ifdef __CUDACC__
#define LAUNCH(b, kernel, grid, block, shared, ...)                                                \
    do {                                                                                           \
        (kernel)<<<(grid), (block), (shared), (b)->stream>>>(__VA_ARGS__);                         \
        cudaError_t launched_ = cudaPeekAtLastError();                                             \
        if (launched_ != cudaSuccess) cuda_failed(b, launched_, #kernel);                          \
    } while (0)
#else
#define LAUNCH(b, kernel, grid, block, shared, ...)                                                \
    ((void)(b), emulator_call((grid), (block), (shared), #kernel, (kernel), __VA_ARGS__))
#endif

/* each file of operations puts its own into the page */
void cuda_memory_page(Backend *b);
void cuda_matmul_page(Backend *b);
void cuda_layers_page(Backend *b);
void cuda_norm_page(Backend *b);
void cuda_attention_page(Backend *b);
void cuda_decode_page(Backend *b);
void cuda_head_page(Backend *b);
void cuda_sample_page(Backend *b);
void cuda_optim_page(Backend *b);
void cuda_invariant_page(Backend *b); /* after the others, with --batch-invariant */

#endif
