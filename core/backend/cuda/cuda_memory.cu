/* cuda_memory.cu - the CUDA backend's creation, its device memory and copies, and recorded pieces
 * of work (CUDA graphs).
 *
 * Uploads go through a ring of pinned memory, so that they return at once; the ring is waited for
 * only when it is full. */
#include "core/backend/cuda/cuda_page.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/backend/cuda/cuda.h"
#include "core/backend/cuda/cuda_product.h"
#include "core/backend/cuda/device.cuh"

extern "C" {
#include "core/base/memory.h"
}

void cuda_failed(CudaBackend *b, cudaError_t e, const char *what) {
    if (b->page.error != OK) return;
    b->page.error =
        status_fail(E_DEVICE, "%s: %s failed: %s", b->name, what, cudaGetErrorString(e));
}

static void check(CudaBackend *b, cudaError_t e, const char *what) {
    if (e != cudaSuccess) cuda_failed(b, e, what);
}

/* --- memory --- */

static Status alloc(Backend *page, Buf *out, Dtype dtype, size_t count, const char *what) {
    CudaBackend *b = cuda(page);
    size_t bytes;
    *out = Buf{NULL, dtype};
    CHECK(!memory_frozen());
    cuda_forget_recordings(b);
    CHECK(count % dtype_block(dtype) == 0);
    TRY(memory_mul(&bytes, count / dtype_block(dtype), dtype_bytes(dtype), what));
    if (cudaMalloc(&out->ptr, bytes ? bytes : 1) != cudaSuccess) {
        size_t free_bytes = 0, total = 0;
        cudaGetLastError(); /* an allocation that failed must not fail the next launch */
        cudaMemGetInfo(&free_bytes, &total);
        out->ptr = NULL;
        return status_fail(
            E_MEMORY, "%s has no memory for %s: %.1f MiB are needed, %.1f of %.1f MiB are free",
            b->name, what, (double)bytes / (1 << 20), (double)free_bytes / (1 << 20),
            (double)total / (1 << 20));
    }
    check(b, cudaMemsetAsync(out->ptr, 0, bytes, b->stream), "filling memory");
    return b->page.error;
}

static Status alloc_host(Backend *page, Buf *out, Dtype dtype, size_t count, const char *what) {
    CudaBackend *b = cuda(page);
    size_t bytes;
    *out = Buf{NULL, dtype};
    CHECK(!memory_frozen() && b->n_host_memory < HOST_ALLOCATIONS_MAX);
    CHECK(count % dtype_block(dtype) == 0);
    TRY(memory_mul(&bytes, count / dtype_block(dtype), dtype_bytes(dtype), what));
    if (cudaMallocHost(&out->ptr, bytes ? bytes : 1) != cudaSuccess) {
        cudaGetLastError();
        out->ptr = NULL;
        return status_fail(E_MEMORY, "no pinned memory of the host for %s: %.1f MiB are needed",
                           what, (double)bytes / (1 << 20));
    }
    memset(out->ptr, 0, bytes);
    b->host_memory[b->n_host_memory++] = out->ptr;
    return OK;
}

/* Forgets a pointer of alloc_host; 0 when it is none. */
static int was_host_memory(CudaBackend *b, const void *p) {
    for (int i = 0; i < b->n_host_memory; i++) {
        if (b->host_memory[i] != p) continue;
        b->host_memory[i] = b->host_memory[--b->n_host_memory];
        return 1;
    }
    return 0;
}

static void release(Backend *page, Buf *buf) {
    CudaBackend *b = cuda(page);
    if (!buf->ptr) return;
    cuda_forget_recordings(b);
    check(b, cudaStreamSynchronize(b->stream), "waiting");
    if (was_host_memory(b, buf->ptr))
        cudaFreeHost(buf->ptr);
    else
        cudaFree(buf->ptr);
    buf->ptr = NULL;
}

static size_t memory_free(Backend *page) {
    size_t free_bytes = 0, total = 0;
    check(cuda(page), cudaMemGetInfo(&free_bytes, &total), "asking for free memory");
    return free_bytes;
}

static size_t host_bytes(Dtype t) { /* of one element on the host's side */
    return t == DT_BF16 || dtype_quantized(t) ? sizeof(float) : dtype_bytes(t);
}
static size_t device_bytes(Dtype t, size_t count) {
    return count / dtype_block(t) * dtype_bytes(t);
}

static uint16_t round_to_bf16(float x) { /* nearest even; NaN stays NaN */
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

static void to_device_layout(void *to, const void *from, size_t count, Dtype t) {
    if (dtype_quantized(t)) {
        quantize(to, t, (const float *)from, count);
        return;
    }
    if (t != DT_BF16) {
        memcpy(to, from, count * dtype_bytes(t));
        return;
    }
    const float *f = (const float *)from;
    for (size_t i = 0; i < count; i++) ((uint16_t *)to)[i] = round_to_bf16(f[i]);
}

static void to_host_layout(void *to, const void *from, size_t count, Dtype t) {
    if (dtype_quantized(t)) {
        dequantize((float *)to, from, t, count);
        return;
    }
    if (t != DT_BF16) {
        memcpy(to, from, count * dtype_bytes(t));
        return;
    }
    const bf16 *x = (const bf16 *)from;
    for (size_t i = 0; i < count; i++) ((float *)to)[i] = to_f32(x[i]);
}

/* room in the pinned ring for `bytes` */
static char *stage(CudaBackend *b, size_t bytes) {
    bytes = (bytes + 255) / 256 * 256;
    if (b->staging_at + bytes > STAGING_BYTES) {
        check(b, cudaStreamSynchronize(b->stream), "waiting for uploads");
        b->staging_at = 0;
    }
    char *at = (char *)b->staging + b->staging_at;
    b->staging_at += bytes;
    return at;
}

static const size_t PIECE = STAGING_BYTES / 8; /* elements of at most 8 bytes */

static void upload(Backend *page, Buf to, const void *from, size_t count) {
    CudaBackend *b = cuda(page);
    CHECK(!b->capturing);
    for (size_t at = 0; at < count; at += PIECE) {
        size_t n = count - at < PIECE ? count - at : PIECE, bytes = device_bytes(to.dtype, n);
        char *host = stage(b, bytes);
        to_device_layout(host, (const char *)from + at * host_bytes(to.dtype), n, to.dtype);
        check(b, cudaMemcpyAsync(buf_at(to, at).ptr, host, bytes, cudaMemcpyDefault, b->stream),
              "an upload");
    }
}

static void download(Backend *page, void *to, Buf from, size_t count) {
    CudaBackend *b = cuda(page);
    CHECK(!b->capturing);
    for (size_t at = 0; at < count; at += PIECE) {
        size_t n = count - at < PIECE ? count - at : PIECE, bytes = device_bytes(from.dtype, n);
        char *host = stage(b, bytes);
        check(b, cudaMemcpyAsync(host, buf_at(from, at).ptr, bytes, cudaMemcpyDefault, b->stream),
              "a download");
        check(b, cudaStreamSynchronize(b->stream), "waiting for a download");
        to_host_layout((char *)to + at * host_bytes(from.dtype), host, n, from.dtype);
    }
}

static void copy(Backend *page, Buf to, Buf from, size_t count) {
    CudaBackend *b = cuda(page);
    if (count)
        check(b,
              cudaMemcpyAsync(to.ptr, from.ptr, count * dtype_bytes(to.dtype), cudaMemcpyDefault,
                              b->stream),
              "a copy");
}

static void zero(Backend *page, Buf to, size_t count) {
    CudaBackend *b = cuda(page);
    if (count)
        check(b, cudaMemsetAsync(to.ptr, 0, count * dtype_bytes(to.dtype), b->stream),
              "filling memory");
}

static Status sync(Backend *page) {
    CudaBackend *b = cuda(page);
    check(b, cudaStreamSynchronize(b->stream), "the work up to here");
    return b->page.error;
}

/* --- recorded pieces of work --- */

void cuda_forget_recordings(CudaBackend *b) {
    CHECK(!b->capturing);
    for (int i = 0; i < b->n_recordings; i++) cudaGraphExecDestroy(b->recordings[i].graph);
    b->n_recordings = 0;
}

static int replay_begin(Backend *page, uint64_t key) {
    CudaBackend *b = cuda(page);
    CHECK(!b->capturing);
    for (int i = 0; i < b->n_recordings; i++) {
        if (b->recordings[i].key != key) continue;
        check(b, cudaGraphLaunch(b->recordings[i].graph, b->stream), "a recorded step");
        return 1;
    }
    if (b->page.error != OK) return 0;
    if (b->n_recordings == RECORDINGS_MAX) cuda_forget_recordings(b);
    cudaError_t e = cudaStreamBeginCapture(b->stream, cudaStreamCaptureModeThreadLocal);
    check(b, e, "recording a step");
    b->capturing = e == cudaSuccess;
    b->recordings[b->n_recordings].key = key;
    return 0;
}

static void replay_end(Backend *page) {
    CudaBackend *b = cuda(page);
    cudaGraph_t graph = NULL;
    cudaGraphExec_t *exec = &b->recordings[b->n_recordings].graph;
    if (!b->capturing) return;
    b->capturing = 0;
    cudaError_t e = cudaStreamEndCapture(b->stream, &graph);
    if (e == cudaSuccess) e = cudaGraphInstantiate(exec, graph, 0);
    if (graph) cudaGraphDestroy(graph);
    if (e == cudaSuccess) {
        b->n_recordings++;
        e = cudaGraphLaunch(*exec, b->stream);
    }
    check(b, e, "recording a step");
}

void cuda_memory_page(Backend *b) {
    b->alloc = alloc;
    b->alloc_host = alloc_host;
    b->release = release;
    b->memory_free = memory_free;
    b->upload = upload;
    b->download = download;
    b->copy = copy;
    b->zero = zero;
    b->sync = sync;
    b->replay_begin = replay_begin;
    b->replay_end = replay_end;
}

/* --- creation --- */

static int sm_of(int device) { /* 90 for an H100, 0 when it does not say */
    int major = 0, minor = 0;
    cudaError_t e = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (e == cudaSuccess)
        e = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    return e == cudaSuccess ? 10 * major + minor : 0;
}

static int usable(int device) {
    return sm_of(device) >= 80;
}

int cuda_is_built(void) {
    return 1;
}

int cuda_device_count(void) {
    int n = 0, usable_ones = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess) {
        cudaGetLastError();
        return 0;
    }
    for (int i = 0; i < n; i++) usable_ones += usable(i);
    return usable_ones;
}

static Status open_device(CudaBackend *b) {
    int n = 0, value = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e != cudaSuccess || b->device >= n)
        return status_fail(E_USAGE, "device \"%s\": %s", b->name,
                           e == cudaSuccess ? "there are fewer GPUs" : cudaGetErrorString(e));
    if (!usable(b->device))
        return status_fail(E_USAGE, "device \"%s\": the GPU is older than sm_80", b->name);
    snprintf(b->kernels, sizeof b->kernels, "cuda-sm%d%s", sm_of(b->device),
             b->invariant ? "-invariant" : "");
    e = cudaSetDevice(b->device);
    if (e == cudaSuccess) e = cudaStreamCreateWithFlags(&b->stream, cudaStreamNonBlocking);
    if (e == cudaSuccess) e = cudaMalloc(&b->scratch, SCRATCH_BYTES);
    if (e == cudaSuccess) e = cudaMallocHost(&b->staging, STAGING_BYTES);
    if (e == cudaSuccess)
        e = cudaDeviceGetAttribute(&b->sms, cudaDevAttrMultiProcessorCount, b->device);
    if (e == cudaSuccess)
        e = cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, b->device);
    b->shared_max = (size_t)value;
    if (e != cudaSuccess)
        return status_fail(E_DEVICE, "%s cannot be used: %s", b->name, cudaGetErrorString(e));
    return product_create(&b->product, b);
}

Status cuda_create(Backend **out, int device, Dtype dtype, int invariant) {
    *out = NULL;
    CudaBackend *b = (CudaBackend *)calloc(1, sizeof *b);
    if (!b) return status_fail(E_MEMORY, "no memory for a backend");
    b->device = device;
    snprintf(b->name, sizeof b->name, "cuda:%d", device);
    b->page.device = b->name;
    b->page.kernels = b->kernels;
    b->page.dtype = dtype;
    b->page.mirror = dtype != DT_F32;
    b->page.logits_bytes = (size_t)256 << 20;
    b->page.logits_rows = 4096;
    cuda_memory_page(&b->page);
    cuda_matmul_page(&b->page);
    cuda_layers_page(&b->page);
    cuda_norm_page(&b->page);
    cuda_attention_page(&b->page);
    cuda_decode_page(&b->page);
    cuda_head_page(&b->page);
    cuda_sample_page(&b->page);
    cuda_optim_page(&b->page);
    b->invariant = invariant;
    if (invariant) cuda_invariant_page(&b->page);
    Status s = open_device(b);
    if (s != OK)
        cuda_release(&b->page);
    else
        *out = &b->page;
    return s;
}

void cuda_release(Backend *page) {
    if (!page) return;
    CudaBackend *b = cuda(page);
    cuda_forget_recordings(b);
    product_release(b->product);
    if (b->staging) cudaFreeHost(b->staging);
    if (b->scratch) cudaFree(b->scratch);
    if (b->stream) cudaStreamDestroy(b->stream);
    free(b);
}
