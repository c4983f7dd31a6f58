/* rng.c - Philox4x32-10. */
#include "core/base/rng.h"

#include <math.h>

void rng_words(uint32_t out[4], uint64_t seed, RngPurpose purpose, uint64_t sequence,
               uint64_t position) {
    uint32_t c[4] = {(uint32_t)position, (uint32_t)(position >> 32), (uint32_t)sequence,
                     (uint32_t)(sequence >> 32)};
    uint32_t k0 = (uint32_t)seed ^ ((uint32_t)purpose * 0x85EBCA6Bu),
             k1 = (uint32_t)(seed >> 32) ^ (uint32_t)purpose;
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c[0], p1 = (uint64_t)0xCD9E8D57u * c[2];
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c[1] ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c[3] ^ k1;
        c[1] = (uint32_t)p1;
        c[3] = (uint32_t)p0;
        c[0] = n0;
        c[2] = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    for (int i = 0; i < 4; i++) out[i] = c[i];
}

static double uniform53(uint32_t a, uint32_t b) {
    return (double)(((uint64_t)a << 21) ^ (b >> 11)) * 0x1p-53;
}

double rng_uniform(uint64_t seed, RngPurpose purpose, uint64_t sequence, uint64_t position) {
    uint32_t w[4];
    rng_words(w, seed, purpose, sequence, position);
    return uniform53(w[0], w[1]);
}

float rng_normal(uint64_t seed, RngPurpose purpose, uint64_t sequence, uint64_t position) {
    uint32_t w[4];
    rng_words(w, seed, purpose, sequence, position);
    double u = 1.0 - uniform53(w[0], w[1]), v = uniform53(w[2], w[3]);
    return (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v));
}

double rng_next(Rng *r) {
    return rng_uniform(r->seed, r->purpose, r->sequence, r->position++);
}

int rng_below(Rng *r, int n) {
    return (int)(rng_next(r) * n);
}

void rng_shuffle(Rng *r, int *v, int n) {
    for (int i = n - 1; i > 0; i--) {
        int j = rng_below(r, i + 1), t = v[i];
        v[i] = v[j];
        v[j] = t;
    }
}
