/* vec.h - one vector type per instruction set: VW floats, with the few operations that kernels
 * need.
 *
 * vfma is written out, never left to the compiler's contraction: a lane's bits must not depend on
 * which copy of a loop it went through. Tails use the same lanes with loads cut short. */
#ifndef VEC_H
#define VEC_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
enum { VW = 16 };
#elif defined(__AVX2__)
#include <immintrin.h>
enum { VW = 8 };
#else
enum { VW = 4 };
#endif

typedef float vf __attribute__((vector_size(VW * 4)));
typedef int32_t vi __attribute__((vector_size(VW * 4)));
typedef float vf_mem __attribute__((vector_size(VW * 4), aligned(4), may_alias));

static inline vf vload(const float *p) {
    return *(const vf_mem *)p;
}
static inline void vstore(float *p, vf v) {
    *(vf_mem *)p = v;
}
static inline vf vset1(float x) {
    return x - (vf){0};
}
static inline vf vselect(vi mask, vf a, vf b) {
    return (vf)(((vi)a & mask) | ((vi)b & ~mask));
}

#if defined(__AVX512F__)
static inline vf vfma(vf a, vf b, vf c) {
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
static inline vf vmax(vf a, vf b) {
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
}
static inline vf vmin(vf a, vf b) {
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
}
static inline float sfma(float a, float b, float c) {
    return __builtin_fmaf(a, b, c);
}
#elif defined(__AVX2__)
static inline vf vfma(vf a, vf b, vf c) {
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
static inline vf vmax(vf a, vf b) {
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
}
static inline vf vmin(vf a, vf b) {
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
}
static inline float sfma(float a, float b, float c) {
    return __builtin_fmaf(a, b, c);
}
#else
static inline vf vfma(vf a, vf b, vf c) {
    return a * b + c;
}
static inline vf vmax(vf a, vf b) {
    return vselect(a > b, a, b);
}
static inline vf vmin(vf a, vf b) {
    return vselect(a < b, a, b);
}
static inline float sfma(float a, float b, float c) {
    return a * b + c;
}
#endif

/* the first n floats of p, `fill` in the other lanes */
static inline vf vload_n(const float *p, int n, float fill) {
    float t[VW];
    for (int i = 0; i < VW; i++) t[i] = i < n ? p[i] : fill;
    return vload(t);
}
static inline void vstore_n(float *p, vf v, int n) {
    float t[VW];
    vstore(t, v);
    for (int i = 0; i < n; i++) p[i] = t[i];
}
/* whole vectors take the fast way; the value of a lane is the same either way */
static inline vf vload_upto(const float *p, int n, float fill) {
    return n >= VW ? vload(p) : vload_n(p, n, fill);
}
static inline void vstore_upto(float *p, vf v, int n) {
    if (n >= VW)
        vstore(p, v);
    else
        vstore_n(p, v, n);
}

/* bf16 is the upper half of a float. Widening is exact; narrowing rounds to nearest even and keeps
 * NaN. */
typedef uint16_t vh __attribute__((vector_size(VW * 2)));
typedef uint32_t vu __attribute__((vector_size(VW * 4)));
typedef uint16_t vh_mem __attribute__((vector_size(VW * 2), aligned(2), may_alias));

static inline vu vround_bits(vf x) { /* the bf16 in the upper halves; below it anything */
    vu u = (vu)x, up = u + 0x7fff + (u >> 16 & 1);
#if defined(__AVX512F__)
    __mmask16 nan = _mm512_cmp_ps_mask((__m512)x, (__m512)x, _CMP_UNORD_Q);
    return (vu)_mm512_mask_mov_epi32((__m512i)up, nan, _mm512_set1_epi32(0x7fc00000));
#elif defined(__AVX2__)
    __m256 nan = _mm256_cmp_ps((__m256)x, (__m256)x, _CMP_UNORD_Q);
    __m256 quiet = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000));
    return (vu)_mm256_blendv_ps((__m256)up, quiet, nan);
#else
    vu nan = (vu)(x != x);
    return (up & ~nan) | (nan & 0x7fc00000u);
#endif
}
static inline vf vround(vf x) {
    return (vf)(vround_bits(x) & 0xffff0000u);
}
/* spelled out where gcc's __builtin_convertvector goes by way of halves */
static inline vf vwiden(vh h) {
#if defined(__AVX2__) && !defined(__AVX512F__)
    return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)h), 16);
#else
    return (vf)(__builtin_convertvector(h, vu) << 16);
#endif
}
static inline vh vnarrow(vf x) {
    vu u = vround_bits(x) >> 16;
#if defined(__AVX2__) && !defined(__AVX512F__)
    return (vh)_mm_packus_epi32(_mm256_castsi256_si128((__m256i)u),
                                _mm256_extracti128_si256((__m256i)u, 1));
#else
    return __builtin_convertvector(u, vh);
#endif
}
static inline vf vload_bf16(const uint16_t *p) {
    return vwiden(*(const vh_mem *)p);
}
static inline void vstore_bf16(uint16_t *p, vf v) {
    *(vh_mem *)p = vnarrow(v);
}
static inline vf vload_bf16_n(const uint16_t *p, int n) { /* 0 in the lanes from n on */
    uint16_t t[VW];
    for (int i = 0; i < VW; i++) t[i] = i < n ? p[i] : 0;
    return vload_bf16(t);
}
static inline void vstore_bf16_n(uint16_t *p, vf v, int n) {
    uint16_t t[VW];
    vstore_bf16(t, v);
    for (int i = 0; i < n; i++) p[i] = t[i];
}

/* v with 0 in the lanes from n on */
static inline vf vfirst(vf v, int n) {
    float t[VW];
    vstore(t, v);
    return vload_n(t, n, 0.0f);
}

static inline float vsum(vf v) { /* pairwise, in a fixed order */
    float t[VW];
    vstore(t, v);
    for (int w = VW / 2; w; w /= 2)
        for (int i = 0; i < w; i++) t[i] += t[i + w];
    return t[0];
}
static inline float vhmax(vf v) {
    float t[VW];
    vstore(t, v);
    for (int w = VW / 2; w; w /= 2)
        for (int i = 0; i < w; i++) t[i] = t[i] > t[i + w] ? t[i] : t[i + w];
    return t[0];
}

/* The one exp: x = n ln2 + r, |r| <= ln2/2, minimax-like polynomial of degree 6 in r; error under 2
 * ulp. Below -87 (and for -inf) exactly 0, above 88 saturated at exp(88). */
static inline vf vexp(vf x) {
    const vf magic = vset1(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    vi zero = x < vset1(-87.0f);
    vf y = vmin(vmax(x, vset1(-87.0f)), vset1(88.0f));
    vf shifted = vfma(y, vset1(1.44269504089f), magic);
    vf n = shifted - magic;
    vf r = vfma(n, vset1(-0.693359375f), y);
    r = vfma(n, vset1(2.12194440e-4f), r);
    vf p = vset1(1.9875691500e-4f);
    p = vfma(p, r, vset1(1.3981999507e-3f));
    p = vfma(p, r, vset1(8.3334519073e-3f));
    p = vfma(p, r, vset1(4.1665795894e-2f));
    p = vfma(p, r, vset1(1.6666665459e-1f));
    p = vfma(p, r, vset1(5.0000001201e-1f));
    p = vfma(p, r * r, r) + vset1(1.0f);
    vi exponent = ((vi)shifted - (vi)magic) << 23;
    vf e = (vf)((vi)p + exponent);
    return vselect(zero, (vf){0}, e);
}

static inline float sexp(float x) {
    return vexp(vset1(x))[0];
}
static inline vf vsigmoid(vf x) {
    return vset1(1.0f) / (vset1(1.0f) + vexp(-x));
}

/* An odd polynomial where 1 - 2 / (e^2x + 1) would cancel. */
static inline vf vtanh(vf x) {
    vf z = x * x, p = vset1(-5.70498872745e-3f);
    p = vfma(p, z, vset1(2.06390887954e-2f));
    p = vfma(p, z, vset1(-5.37397155531e-2f));
    p = vfma(p, z, vset1(1.33314422036e-1f));
    p = vfma(p, z, vset1(-3.33332819422e-1f));
    vf far = vset1(1.0f) - vset1(2.0f) / (vexp(x + x) + vset1(1.0f));
    return vselect(z < vset1(0.390625f), vfma(p * z, x, x), far);
}

#endif
