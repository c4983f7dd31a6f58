/* quant.h - weights in blocks of 32 along a row: a scale and integers of 8 or 4 bits, rounded to
 * nearest even. Which integers: as GGUF's Q8_0 and Q4_0, with a scale in f32.
 *
 * Only what is frozen is stored so: products read a block's 32 values as f32 (or rounded to bf16),
 * in the order of any other weights. */
#ifndef QUANT_H
#define QUANT_H

#include <math.h>
#include <string.h>

#include "core/backend/backend.h"

typedef struct {
    float scale;
    int8_t q[QUANT_BLOCK];
} BlockQ8;
typedef struct {
    float scale;
    uint8_t q[QUANT_BLOCK / 2]; /* value i in the lower half of q[i], value 16 + i in the upper */
} BlockQ4;

static inline void quantize_q8(BlockQ8 *to, const float *x) {
    float most = 0.0f;
    for (int i = 0; i < QUANT_BLOCK; i++) most = fmaxf(most, fabsf(x[i]));
    float inverse = most > 0.0f ? 127.0f / most : 0.0f;
    to->scale = most / 127.0f;
    for (int i = 0; i < QUANT_BLOCK; i++) to->q[i] = (int8_t)rintf(x[i] * inverse);
}

/* The value of largest magnitude becomes -8 times the scale: the one that has no positive twin. */
static inline void quantize_q4(BlockQ4 *to, const float *x) {
    float most = 0.0f;
    for (int i = 0; i < QUANT_BLOCK; i++)
        if (fabsf(x[i]) > fabsf(most)) most = x[i];
    float inverse = most != 0.0f ? -8.0f / most : 0.0f;
    to->scale = most / -8.0f;
    for (int i = 0; i < QUANT_BLOCK / 2; i++) {
        float low = rintf(x[i] * inverse) + 8.0f;
        float high = rintf(x[i + QUANT_BLOCK / 2] * inverse) + 8.0f;
        to->q[i] = (uint8_t)((int)fminf(low, 15.0f) | (int)fminf(high, 15.0f) << 4);
    }
}

static inline void dequantize_q8(float *to, const BlockQ8 *from) {
    for (int i = 0; i < QUANT_BLOCK; i++) to[i] = from->scale * (float)from->q[i];
}
static inline void dequantize_q4(float *to, const BlockQ4 *from) {
    for (int i = 0; i < QUANT_BLOCK / 2; i++) {
        to[i] = from->scale * (float)((from->q[i] & 15) - 8);
        to[i + QUANT_BLOCK / 2] = from->scale * (float)((from->q[i] >> 4) - 8);
    }
}

/* `count` values, whole blocks, in host memory */
static inline void quantize(void *to, Dtype t, const float *from, size_t count) {
    for (size_t i = 0; i < count / QUANT_BLOCK; i++, from += QUANT_BLOCK) {
        if (t == DT_Q8)
            quantize_q8((BlockQ8 *)to + i, from);
        else
            quantize_q4((BlockQ4 *)to + i, from);
    }
}
static inline void dequantize(float *to, const void *from, Dtype t, size_t count) {
    for (size_t i = 0; i < count / QUANT_BLOCK; i++, to += QUANT_BLOCK) {
        if (t == DT_Q8)
            dequantize_q8(to, (const BlockQ8 *)from + i);
        else
            dequantize_q4(to, (const BlockQ4 *)from + i);
    }
}

#endif
