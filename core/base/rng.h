/* rng.h - counter-based random numbers: Philox4x32-10 (Salmon et al. 2011, "Parallel random
 * numbers: as easy as 1, 2, 3"). No state to save: a number is a function of (seed, purpose,
 * sequence, position), so that sampling does not depend on batch, order or threads, and a resume
 * repeats it. */
#ifndef RNG_H
#define RNG_H

#include <stdint.h>

typedef enum { /* one per use, so that no two uses share numbers */
               RNG_INIT = 1,
               RNG_SHUFFLE,
               RNG_SAMPLE,
               RNG_NOISE,
               RNG_WORLD,
               RNG_MIXTURE,
               RNG_MINIBATCH,
               RNG_TEST,
               RNG_BOOTSTRAP,
} RngPurpose;

/* Four independent 32-bit words for key (seed, purpose) and counter (sequence, position). */
void rng_words(uint32_t out[4], uint64_t seed, RngPurpose purpose, uint64_t sequence,
               uint64_t position);

/* Uniform in [0,1) with 53 bits. */
double rng_uniform(uint64_t seed, RngPurpose purpose, uint64_t sequence, uint64_t position);

/* Standard normal (Box-Muller). */
float rng_normal(uint64_t seed, RngPurpose purpose, uint64_t sequence, uint64_t position);

/* A stream over positions 0, 1, 2, ... of one sequence, for code that just draws. */
typedef struct {
    uint64_t seed, sequence, position;
    RngPurpose purpose;
} Rng;
double rng_next(Rng *r);                 /* uniform in [0,1) */
int rng_below(Rng *r, int n);            /* uniform integer in [0,n), n > 0 */
void rng_shuffle(Rng *r, int *v, int n); /* Fisher-Yates */

#endif
