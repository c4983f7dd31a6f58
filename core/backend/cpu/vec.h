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

#include "core/backend/cpu/step.h"

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
static inline __mmask16 vmask(int n) { /* the first n lanes */
    return (__mmask16)(n <= 0 ? 0 : n >= VW ? 0xffff : (1u << n) - 1);
}
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
#if defined(__AVX512F__)
    return (vf)_mm512_mask_loadu_ps((__m512)vset1(fill), vmask(n), p);
#elif defined(__AVX2__)
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane);
    return vselect((vi)mask, (vf)_mm256_maskload_ps(p, mask), vset1(fill));
#else
    float t[VW];
    for (int i = 0; i < VW; i++) t[i] = i < n ? p[i] : fill;
    return vload(t);
#endif
}
static inline void vstore_n(float *p, vf v, int n) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, vmask(n), (__m512)v);
#elif defined(__AVX2__)
    /* piece by piece: a store with a mask is slow where there is no AVX-512 */
    if (n >= VW) vstore(p, v);
    if (n >= VW || n <= 0) return;
    __m128 piece = _mm256_castps256_ps128((__m256)v);
    if (n & 4) {
        _mm_storeu_ps(p, piece);
        piece = _mm256_extractf128_ps((__m256)v, 1);
        p += 4;
    }
    if (n & 2) {
        _mm_storel_epi64((__m128i *)(void *)p, _mm_castps_si128(piece));
        piece = _mm_movehl_ps(piece, piece);
        p += 2;
    }
    if (n & 1) _mm_store_ss(p, piece);
#else
    float t[VW];
    vstore(t, v);
    for (int i = 0; i < n; i++) p[i] = t[i];
#endif
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
/* spelled out: gcc's __builtin_convertvector goes by way of halves */
static inline vf vwiden(vh h) {
#if defined(__AVX512F__)
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)h), 16);
#elif defined(__AVX2__)
    return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)h), 16);
#else
    return (vf)(__builtin_convertvector(h, vu) << 16);
#endif
}
static inline vh vnarrow(vf x) {
    vu u = vround_bits(x) >> 16;
#if defined(__AVX512F__)
    return (vh)_mm512_cvtepi32_epi16((__m512i)u);
#elif defined(__AVX2__)
    return (vh)_mm_packus_epi32(_mm256_castsi256_si128((__m256i)u),
                                _mm256_extracti128_si256((__m256i)u, 1));
#else
    return __builtin_convertvector(u, vh);
#endif
}
/* pairs of them as they lie, two to a lane */
typedef float pairs_mem __attribute__((vector_size(VW * 4), aligned(2), may_alias));
static inline vf vload_pairs(const uint16_t *p) {
    return *(const pairs_mem *)(const void *)p;
}
/* lane by lane a pair of bf16: `low`, rounded, in the lower half, `high` in the upper */
static inline vf vpairs(vf low, vf high) {
    return (vf)(vround_bits(low) >> 16 | (vround_bits(high) & 0xffff0000u));
}
static inline vf vload_bf16(const uint16_t *p) {
    return vwiden(*(const vh_mem *)p);
}
static inline void vstore_bf16(uint16_t *p, vf v) {
    *(vh_mem *)p = vnarrow(v);
}
static inline vf vload_bf16_n(const uint16_t *p, int n) { /* 0 in the lanes from n on */
#if defined(__AVX512F__)
    return vwiden((vh)_mm256_maskz_loadu_epi16(vmask(n), p));
#elif defined(__AVX2__)
    uint64_t four = 0, rest = 0;
    uint32_t two = 0;
    if (n >= VW) return vload_bf16(p);
    if (n <= 0) return (vf){0};
    if (n & 4) memcpy(&four, p, sizeof four), p += 4;
    if (n & 2) memcpy(&two, p, sizeof two), p += 2;
    rest = two;
    if (n & 1) rest |= (uint64_t)*p << (n & 2 ? 32 : 0);
    return vwiden((vh)_mm_set_epi64x((int64_t)(n & 4 ? rest : 0), (int64_t)(n & 4 ? four : rest)));
#else
    uint16_t t[VW];
    for (int i = 0; i < VW; i++) t[i] = i < n ? p[i] : 0;
    return vload_bf16(t);
#endif
}
static inline void vstore_bf16_n(uint16_t *p, vf v, int n) {
#if defined(__AVX512F__)
    _mm256_mask_storeu_epi16(p, vmask(n), (__m256i)vnarrow(v));
#elif defined(__AVX2__)
    __m128i h = (__m128i)vnarrow(v);
    if (n >= VW) vstore_bf16(p, v);
    if (n >= VW || n <= 0) return;
    uint64_t four = (uint64_t)_mm_cvtsi128_si64(h);
    if (n & 4) {
        memcpy(p, &four, sizeof four);
        four = (uint64_t)_mm_extract_epi64(h, 1);
        p += 4;
    }
    uint32_t two = (uint32_t)four;
    if (n & 2) {
        memcpy(p, &two, sizeof two);
        two = (uint32_t)(four >> 32);
        p += 2;
    }
    if (n & 1) *p = (uint16_t)two;
#else
    uint16_t t[VW];
    vstore_bf16(t, v);
    for (int i = 0; i < n; i++) p[i] = t[i];
#endif
}

/* v with 0 in the lanes from n on */
static inline vf vfirst(vf v, int n) {
#if defined(__AVX512F__)
    return (vf)_mm512_maskz_mov_ps(vmask(n), (__m512)v);
#else
    float t[VW];
    vstore(t, v);
    return vload_n(t, n, 0.0f);
#endif
}

/* r[i][j] becomes r[j][i]: blocks of s x s change places across the diagonal, s = 1, 2, 4, 8. */
#define LOWER_(l, s)       ((l) & (s) ? VW + (l) - (s) : (l))
#define UPPER_(l, s)       ((l) & (s) ? VW + (l) : (l) + (s))
#define LANES4_(of, l, s)  of(l, s), of(l + 1, s), of(l + 2, s), of(l + 3, s)
#define LANES8_(of, l, s)  LANES4_(of, l, s), LANES4_(of, l + 4, s)
#define LANES16_(of, l, s) LANES8_(of, l, s), LANES8_(of, l + 8, s)
#if defined(__AVX512F__)
#define LANES_(of, s) LANES16_(of, 0, s)
#elif defined(__AVX2__)
#define LANES_(of, s) LANES8_(of, 0, s)
#else
#define LANES_(of, s) LANES4_(of, 0, s)
#endif
#define TRANSPOSE_STEP_(s)                                                                         \
    UNROLL for (int i_ = 0; i_ < VW; i_++) {                                                       \
        if (i_ & (s)) continue;                                                                    \
        vf a_ = r[i_], b_ = r[i_ + (s)];                                                           \
        r[i_] = __builtin_shufflevector(a_, b_, LANES_(LOWER_, s));                                \
        r[i_ + (s)] = __builtin_shufflevector(a_, b_, LANES_(UPPER_, s));                          \
    }
static inline void vtranspose(vf r[VW]) {
    TRANSPOSE_STEP_(1)
    TRANSPOSE_STEP_(2)
#if defined(__AVX2__)
    TRANSPOSE_STEP_(4)
#endif
#if defined(__AVX512F__)
    TRANSPOSE_STEP_(8)
#endif
}

/* Lane i meets lane i + VW/2, then i + VW/4 and so on: a fixed order. */
#define OTHER_(l, s)    ((l) ^ (s))
#define FOLD_(op, v, s) v = op(v, __builtin_shufflevector(v, v, LANES_(OTHER_, s)))
#if defined(__AVX512F__)
#define REDUCE_(op, v) FOLD_(op, v, 8), FOLD_(op, v, 4), FOLD_(op, v, 2), FOLD_(op, v, 1)
#elif defined(__AVX2__)
#define REDUCE_(op, v) FOLD_(op, v, 4), FOLD_(op, v, 2), FOLD_(op, v, 1)
#else
#define REDUCE_(op, v) FOLD_(op, v, 2), FOLD_(op, v, 1)
#endif
static inline vf vadd(vf a, vf b) {
    return a + b;
}
static inline float vsum(vf v) {
    REDUCE_(vadd, v);
    return v[0];
}
static inline float vhmax(vf v) {
    REDUCE_(vmax, v);
    return v[0];
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
