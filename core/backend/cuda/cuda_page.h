/* cuda_page.h - what the rest of the program knows of the CUDA backend. A build without CUDA links
 * no_cuda.c in its place, which refuses in one sentence. */
#ifndef CUDA_PAGE_H
#define CUDA_PAGE_H

#ifdef __cplusplus
extern "C" {
#endif

#include "core/backend/backend.h"

/* Whether this build has CUDA at all. */
int cuda_is_built(void);
/* GPUs that can be used: 0 without CUDA, without a driver, or without a GPU of sm_80 or newer. */
int cuda_device_count(void);
/* The page of GPU `device`; dtype DT_F32 or DT_BF16. invariant: a row's bits do not depend on what
 * else is computed, and decoding has the training forward's. E_USAGE when there is no such GPU,
 * E_DEVICE. */
Status cuda_create(Backend **b, int device, Dtype dtype, int invariant);
void cuda_release(Backend *b);

#ifdef __cplusplus
}
#endif

#endif
