/* half.h - 16-bit floats as files hold them. */
#ifndef HALF_H
#define HALF_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline float float_of_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

static inline float bf16_to_f32(uint16_t h) {
    return float_of_bits((uint32_t)h << 16);
}

/* x as bf16 holds it, rounded to nearest even */
static inline float bf16_rounded(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return bf16_to_f32((uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16));
}

static inline float f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h >> 15) << 31, exponent = h >> 10 & 31, mantissa = h & 1023;
    if (exponent == 31) return float_of_bits(sign | 0x7f800000u | mantissa << 13);
    if (exponent > 0) return float_of_bits(sign | (exponent + 112) << 23 | mantissa << 13);
    float small = (float)mantissa * 0x1p-24f; /* subnormal, or zero */
    return sign ? -small : small;
}

static inline uint32_t bits_of_float(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof(bits));
    return bits;
}

/* Both round to nearest even; a NaN stays one. */
static inline uint16_t f32_to_bf16(float f) {
    uint32_t x = bits_of_float(f);
    if (f != f) return (uint16_t)(x >> 16 | 0x40);
    return (uint16_t)((x + 0x7fff + (x >> 16 & 1)) >> 16);
}

static inline uint16_t f32_to_f16(float f) {
    uint32_t x = bits_of_float(f), sign = x >> 16 & 0x8000;
    x &= 0x7fffffff;
    if (x > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (x >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* from 65520 on it rounds to infinity */
    if (x < 0x38800000) return (uint16_t)(sign | (uint32_t)nearbyintf(fabsf(f) * 0x1p24f));
    return (uint16_t)(sign | (x + 0xfff + (x >> 13 & 1) - 0x38000000) >> 13);
}

#endif
