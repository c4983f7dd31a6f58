/* backend.c - chooses the page of kernels, from a table of CPU features and never from timing. */
#include "core/backend/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "core/backend/cpu/cpu.h"
#include "core/backend/cuda/cuda_page.h"
#include "core/base/log.h"

typedef struct {
    const char *name;
    int (*usable)(void);
    int (*chosen)(void); /* by "auto"; NULL: where it is usable */
    void (*fill_f32)(Backend *b), (*fill_bf16)(Backend *b); /* NULL: not in this storage type */
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

/* What compilers of 2022 have no names for. */
static int has_avx512bf16(void) {
    unsigned a, b, c, d;
    return has_avx512() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && a >> 5 & 1;
}
/* On Intel the dot products run at half the rate of f32, and AMX is there instead. */
static int is_amd(void) {
    return __builtin_cpu_is("amd");
}

/* The kernel keeps the tiles' state only for a process that asked. */
static int has_amx(void) {
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    unsigned a, b, c, d, low, high;
    if (!has_avx512() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    if (!(d >> 22 & 1) || !(d >> 24 & 1)) return 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low >> 17 & 3) != 3) return 0;
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
#endif

void *cpu_scratch(void) {
    static _Thread_local _Alignas(64) unsigned char scratch[CPU_SCRATCH];
    return scratch;
}

/* "auto" takes the first that fits. */
static const CpuKind kinds[] = {
#if defined(__x86_64__)
    {"amx", has_amx, NULL, NULL, cpu_page_amx},
    {"avx512bf16", has_avx512bf16, is_amd, NULL, cpu_page_avx512bf16},
    {"avx512", has_avx512, NULL, cpu_page_avx512, cpu_page_avx512_bf16},
    {"avx2", has_avx2, NULL, cpu_page_avx2, cpu_page_avx2_bf16},
#endif
    {"portable", always, NULL, cpu_page_portable, cpu_page_portable_bf16},
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

typedef void (*Fill)(Backend *b);

static Fill fill_of(const CpuKind *kind, Dtype dtype) {
    return dtype == DT_BF16 ? kind->fill_bf16 : kind->fill_f32;
}

static int is_choice(const CpuKind *k, Dtype dtype) {
    return fill_of(k, dtype) && k->usable() && (!k->chosen || k->chosen());
}

static Status find_kind(const CpuKind **out, const char *kernels, Dtype dtype) {
    int any = !strcmp(kernels, "auto");
    for (const CpuKind *k = kinds; k < kinds + N_KINDS; k++) {
        if (any ? !is_choice(k, dtype) : strcmp(kernels, k->name) != 0) continue;
        if (!fill_of(k, dtype))
            return status_fail(E_USAGE, "the %s kernels do not compute in %s", kernels,
                               dtype_name(dtype));
        if (!k->usable())
            return status_fail(E_USAGE, "this processor cannot run the %s kernels", kernels);
        *out = k;
        return OK;
    }
    return status_fail(
        E_USAGE, "kernels \"%s\" are not known: amx, avx512bf16, avx512, avx2, portable or auto",
        kernels);
}

/* What "auto" stores: bf16 where there are instructions that multiply it, which are kinds of their
 * own. */
static Dtype cpu_dtype(void) {
    for (const CpuKind *k = kinds; k < kinds + N_KINDS; k++)
        if (!k->fill_f32 && is_choice(k, DT_BF16)) return DT_BF16;
    return DT_F32;
}

static Status cpu_create(Backend **out, const char *kernels, Dtype dtype) {
    const CpuKind *kind = NULL;
    TRY(find_kind(&kind, kernels, dtype));
    Backend *b = calloc(1, sizeof *b);
    if (!b) return status_fail(E_MEMORY, "no memory for a backend");
    b->device = "cpu";
    b->kernels = kind->name;
    b->dtype = dtype;
    b->logits_bytes = (size_t)32 << 20;
    b->logits_rows = 256;
    b->exact_decode = 1;
    fill_of(kind, dtype)(b);
    *out = b;
    return OK;
}

/* "cuda" and "cuda:N" */
static int is_gpu(const char *device, int *number) {
    char end;
    *number = 0;
    return !strcmp(device, "cuda") ||
           (sscanf(device, "cuda:%d%c", number, &end) == 1 && *number >= 0);
}

Status backend_create(Backend **out, const char *device, const char *kernels, const char *dtype) {
    int gpu, any = !strcmp(device, "auto"), on_gpu = is_gpu(device, &gpu);
    *out = NULL;
    if (!any && !on_gpu && strcmp(device, "cpu"))
        return status_fail(
            E_USAGE, "device \"%s\" is not known: auto, cpu, cuda:0 (or another GPU)", device);
    if (strcmp(dtype, "f32") && strcmp(dtype, "bf16") && strcmp(dtype, "auto"))
        return status_fail(E_USAGE, "dtype \"%s\" is not known: f32, bf16 or auto", dtype);
    /* kernels by name are a CPU's, unless the checkpoint of a GPU asks for its own */
    int invariant = !strcmp(kernels, "invariant"), choose = invariant || !strcmp(kernels, "auto");
    int for_gpu = choose || !strncmp(kernels, "cuda", 4);
    if (any && for_gpu && cuda_is_built()) {
        on_gpu = cuda_device_count() > 0;
        if (!on_gpu) log_info("no usable GPU: the CPU is used");
    }
    Dtype t = strcmp(dtype, "f32") ? DT_BF16 : DT_F32;
    if (!on_gpu && !strcmp(dtype, "auto")) t = cpu_dtype();
    if (!on_gpu) return cpu_create(out, choose ? "auto" : kernels, t);
    TRY(cuda_create(out, gpu, t, invariant || strstr(kernels, "-invariant") != NULL));
    if (choose || !strcmp(kernels, (*out)->kernels)) return OK;
    Status s =
        status_fail(E_USAGE, "kernels \"%s\": %s has %s", kernels, (*out)->device, (*out)->kernels);
    backend_release(*out);
    *out = NULL;
    return s;
}

void backend_release(Backend *b) {
    if (b && strncmp(b->device, "cuda", 4) == 0)
        cuda_release(b);
    else
        free(b);
}
