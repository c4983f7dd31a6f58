/* kernels.h - the CPU's kernels as tests run them: those of this processor, bf16 instructions
 * written out in C, and AMX's instructions on an emulator. */
#ifndef KERNELS_H
#define KERNELS_H

#include "core/backend/backend.h"

typedef struct {
    const char *name, *dtype;
    int pairs; /* products take k in pairs or more: a weight gradient depends on batches' cuts */
} CpuKernels;

enum { F32_KERNELS = 3, CPU_KERNELS = 11 };
extern const CpuKernels cpu_kernels[CPU_KERNELS]; /* f32 first, there the portable ones */

/* NULL, and a line that says so, where they do not run on this processor. */
Backend *kernels_create(const CpuKernels *k);

#endif
