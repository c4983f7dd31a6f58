/* cpu.h - the CPU's page. Every file of this folder is compiled once per instruction set and
 * storage type; CPU(name) gives each copy its own symbols (cpu_name_avx2, cpu_name_avx2_bf16). */
#ifndef CPU_H
#define CPU_H

#include "core/backend/backend.h"

void cpu_page_avx512(Backend *b);
void cpu_page_avx2(Backend *b);
void cpu_page_portable(Backend *b);
void cpu_page_avx512_bf16(Backend *b);
void cpu_page_avx2_bf16(Backend *b);
void cpu_page_portable_bf16(Backend *b);
/* avx512_bf16 with products by bf16 instructions; plain: portable_bf16 with them in C, for tests */
void cpu_page_amx(Backend *b);
void cpu_page_avx512bf16(Backend *b);
void cpu_page_amx_plain(Backend *b);
void cpu_page_avx512bf16_plain(Backend *b);

/* A thread's room for packed blocks, on a 64-byte boundary: one for all pages, since the thread's
 * stack holds it. A call, not a variable: some linkers cannot place one that vectors refer to. */
enum { CPU_SCRATCH = 2 << 20 };
void *cpu_scratch(void);

#ifdef CPU_ISA
#define CPU_PASTE_(name, isa) cpu_##name##_##isa
#define CPU_PASTE(name, isa)  CPU_PASTE_(name, isa)
#define CPU(name)             CPU_PASTE(name, CPU_ISA)

static inline float *f32(Buf b) {
    return (float *)b.ptr;
}
static inline int *i32(Buf b) {
    return (int *)b.ptr;
}
static inline double *f64(Buf b) {
    return (double *)b.ptr;
}
static inline int smaller(int a, int b) {
    return a < b ? a : b;
}

void CPU(page)(Backend *b);
/* each file of operations puts its own into the page */
void CPU(memory_page)(Backend *b);
void CPU(matmul_page)(Backend *b);
void CPU(layers_page)(Backend *b);
void CPU(norm_page)(Backend *b);
void CPU(attention_page)(Backend *b);
void CPU(head_page)(Backend *b);
void CPU(optim_page)(Backend *b);

/* Runs body(ctx, first, last) over ranges of [0, n): at least `grain` items each, split over
 * threads. */
typedef void (*CpuRange)(void *ctx, int first, int last);
void CPU(parallel)(int n, int grain, CpuRange body, void *ctx);

typedef struct {
    float *w, *m, *v;
    const float *g;
    size_t count;
    AdamwParams p;
} Adamw;
/* AdamW of elements first..last, in the caller's thread */
void CPU(adamw_range)(const Adamw *a, size_t first, size_t last);
#endif

#endif
