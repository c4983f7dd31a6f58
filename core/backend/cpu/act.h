/* act.h - activations in their storage type: loads widen to f32, stores round to nearest even. In
 * f32 they are plain loads and stores.
 *
 * Weights are read through weights_upto: on a bf16 page an f32 weight is rounded first, so that a
 * trained network and its frozen copy, which is stored rounded, compute the same bits. */
#ifndef ACT_H
#define ACT_H

#include "core/backend/cpu/cpu.h"
#include "core/backend/cpu/vec.h"

static inline uint16_t *bf16(Buf b) {
    return (uint16_t *)b.ptr;
}

#if defined(CPU_BF16)
typedef uint16_t act;
static inline vf aload(const act *p) {
    return vload_bf16(p);
}
static inline void astore(act *p, vf v) {
    vstore_bf16(p, v);
}
static inline vf aload_n(const act *p, int n) {
    return vload_bf16_n(p, n);
}
static inline void astore_n(act *p, vf v, int n) {
    vstore_bf16_n(p, v, n);
}
static inline float aget(act x) {
    union {
        uint32_t u;
        float f;
    } bits = {(uint32_t)x << 16};
    return bits.f;
}
#else
typedef float act;
static inline vf aload(const act *p) {
    return vload(p);
}
static inline void astore(act *p, vf v) {
    vstore(p, v);
}
static inline vf aload_n(const act *p, int n) {
    return vload_n(p, n, 0.0f);
}
static inline void astore_n(act *p, vf v, int n) {
    vstore_n(p, v, n);
}
static inline float aget(act x) {
    return x;
}
#endif

static inline act *acts(Buf b) {
    return (act *)b.ptr;
}
/* the first n lanes; 0 in the others */
static inline vf aload_upto(const act *p, int n) {
    return n >= VW ? aload(p) : aload_n(p, n);
}
static inline void astore_upto(act *p, vf v, int n) {
    if (n >= VW)
        astore(p, v);
    else
        astore_n(p, v, n);
}

/* of a buffer of either type, from element `at` on */
static inline vf any_upto(Buf x, size_t at, int n) {
    if (x.dtype != DT_BF16) return vload_upto(f32(x) + at, n, 0.0f);
    return n >= VW ? vload_bf16(bf16(x) + at) : vload_bf16_n(bf16(x) + at, n);
}
static inline vf weights_upto(Buf w, size_t at, int n) {
#if defined(CPU_BF16)
    return vround(any_upto(w, at, n));
#else
    return vload_upto(f32(w) + at, n, 0.0f);
#endif
}

#endif
