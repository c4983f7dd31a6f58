/* no_cuda.c - the CUDA page of a build without CUDA. */
#include "core/backend/cuda/cuda_page.h"

int cuda_is_built(void) {
    return 0;
}

int cuda_device_count(void) {
    return 0;
}

Status cuda_create(Backend **b, int device, Dtype dtype, int invariant) {
    (void)dtype;
    (void)invariant;
    *b = NULL;
    return status_fail(
        E_USAGE, "device \"cuda:%d\": this build has no CUDA (make says what it lacks)", device);
}

void cuda_release(Backend *b) {
    CHECK(!b);
}
