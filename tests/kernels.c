/* kernels.c - see kernels.h. */
#include "tests/kernels.h"

#include <stdio.h>
#include <string.h>

#include "core/backend/cpu/cpu.h"
#include "tests/amx_emulator.h"

const CpuKernels cpu_kernels[CPU_KERNELS] = {
    {"portable", "f32", 0},    {"avx2", "f32", 0},         {"avx512", "f32", 0},
    {"portable", "bf16", 0},   {"avx2", "bf16", 0},        {"avx512", "bf16", 0},
    {"avx512bf16", "bf16", 1}, {"amx", "bf16", 1},         {"avx512bf16 in C", "bf16", 1},
    {"amx in C", "bf16", 1},   {"amx emulated", "bf16", 1}};

static int emulate_amx(void) {
    Backend *b;
    if (backend_create(&b, "cpu", "amx", "bf16") != OK) return amx_emulate();
    backend_release(b);
    return 0;
}

/* Pages that replace products of another one. */
static const struct {
    const char *name, *over;
    void (*put)(Backend *b);
    int (*usable)(void);
} replacing[] = {
    {"avx512bf16 in C", "portable", cpu_page_avx512bf16_plain, NULL},
    {"amx in C", "portable", cpu_page_amx_plain, NULL},
#if defined(__x86_64__)
    {"amx emulated", "avx512", cpu_page_amx, emulate_amx},
#endif
};

Backend *kernels_create(const CpuKernels *k) {
    Backend *b;
    size_t n = sizeof replacing / sizeof *replacing, i = 0;
    while (i < n && strcmp(k->name, replacing[i].name)) i++;
    if (backend_create(&b, "cpu", i < n ? replacing[i].over : k->name, k->dtype) != OK) {
        printf("%s, %s: not on this processor\n", k->name, k->dtype);
        return NULL;
    }
    if (i == n) return b;
    if (replacing[i].usable && !replacing[i].usable()) {
        printf("%s: not needed, or not possible, on this processor\n", k->name);
        backend_release(b);
        return NULL;
    }
    b->kernels = k->name;
    replacing[i].put(b);
    return b;
}
