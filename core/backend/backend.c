/* backend.c - chooses the page of kernels, from a table of CPU features and never from timing. */
#include "core/backend/backend.h"

#include <stdlib.h>
#include <string.h>

#include "core/backend/cpu/cpu.h"

typedef struct {
    const char *name;
    int (*usable)(void);
    void (*fill)(Backend *b);
} CpuKind;

static int always(void) {
    return 1;
}
#if defined(__x86_64__)
static int has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
}
static int has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#endif

static const CpuKind kinds[] = {
#if defined(__x86_64__)
    {"avx512", has_avx512, cpu_page_avx512},
    {"avx2", has_avx2, cpu_page_avx2},
#endif
    {"portable", always, cpu_page_portable},
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

Status backend_create(Backend **out, const char *device, const char *kernels) {
    *out = NULL;
    if (strcmp(device, "cpu") && strcmp(device, "auto"))
        return status_fail(E_USAGE, "device \"%s\" is not known here: this build has cpu", device);
    const CpuKind *kind = NULL;
    for (int i = 0; i < N_KINDS && !kind; i++) {
        if (!strcmp(kernels, "auto") ? kinds[i].usable() : !strcmp(kernels, kinds[i].name))
            kind = &kinds[i];
    }
    if (!kind)
        return status_fail(E_USAGE, "kernels \"%s\" are not known: avx512, avx2, portable or auto",
                           kernels);
    if (!kind->usable())
        return status_fail(E_USAGE, "this processor cannot run the %s kernels", kernels);
    Backend *b = calloc(1, sizeof *b);
    if (!b) return status_fail(E_MEMORY, "no memory for a backend");
    b->device = "cpu";
    b->kernels = kind->name;
    kind->fill(b);
    *out = b;
    return OK;
}

void backend_release(Backend *b) {
    free(b);
}
