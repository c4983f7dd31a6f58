/* cpu_optim.c - AdamW over flat ranges (Loshchilov & Hutter 2019) and the gradient norm. */
#include "core/backend/cpu/cpu.h"

#include <math.h>

#include "core/base/threads.h"

enum { CHUNK = 16384, PARTS = 4096 };

void CPU(adamw_range)(const Adamw *a, size_t first, size_t last) {
    AdamwParams p = a->p;
    for (size_t i = first; i < last; i++) {
        float g = a->g[i] * p.grad_scale;
        float m = p.beta1 * a->m[i] + (1.0f - p.beta1) * g;
        float v = p.beta2 * a->v[i] + (1.0f - p.beta2) * g * g;
        a->m[i] = m;
        a->v[i] = v;
        float step = (m / p.correction1) / (sqrtf(v / p.correction2) + p.eps);
        a->w[i] -= p.lr * (step + p.weight_decay * a->w[i]);
    }
}

static void adamw_chunks(void *ctx, int first, int last) {
    const Adamw *a = ctx;
    size_t end = (size_t)last * CHUNK < a->count ? (size_t)last * CHUNK : a->count;
    CPU(adamw_range)(a, (size_t)first * CHUNK, end);
}

static void adamw(Backend *b, Buf w, Buf m, Buf v, Buf copy, Buf g, size_t count, AdamwParams p) {
    (void)b;
    CHECK(!copy.ptr); /* packed in another order */
    Adamw a = {f32(w), f32(m), f32(v), f32(g), count, p};
    CPU(parallel)((int)((count + CHUNK - 1) / CHUNK), 2, adamw_chunks, &a);
}

typedef struct {
    const float *g;
    size_t count, part; /* elements; elements per part */
    double sums[PARTS];
} Squares;

static void squares_range(void *ctx, int first, int last) {
    Squares *s = ctx;
    for (int i = first; i < last; i++) {
        size_t end = (size_t)(i + 1) * s->part < s->count ? (size_t)(i + 1) * s->part : s->count;
        double lane[8] = {0};
        size_t at = (size_t)i * s->part;
        for (; at + 8 <= end; at += 8)
            for (int j = 0; j < 8; j++) lane[j] += (double)s->g[at + j] * s->g[at + j];
        for (; at < end; at++) lane[0] += (double)s->g[at] * s->g[at];
        s->sums[i] = ((lane[0] + lane[1]) + (lane[2] + lane[3])) +
                     ((lane[4] + lane[5]) + (lane[6] + lane[7]));
    }
}

static double sum_squares(Backend *b, Buf g, size_t count) {
    (void)b;
    Squares s = {.g = f32(g), .count = count, .part = CHUNK};
    while (count > s.part * PARTS) s.part *= 2;
    int parts = (int)((count + s.part - 1) / s.part);
    CPU(parallel)(parts, 2, squares_range, &s);
    double sum = 0.0;
    for (int i = 0; i < parts; i++) sum += s.sums[i];
    return sum;
}

void CPU(optim_page)(Backend *b) {
    b->adamw = adamw;
    b->sum_squares = sum_squares;
}
