/* data_order.c - which row stands at a position of the run, as a function of (seed, position). */
#include <stdlib.h>
#include "core/base/rng.h"
#include "datasets/dataset.h"

/* A permutation of [0, n) without a table: a Feistel network over the next power of four, walked
 * until it falls into the range (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
 */
static uint32_t permute(uint64_t seed, uint64_t sequence, uint32_t n, uint32_t x) {
    enum { ROUNDS = 6 };
    int half = 1;
    while ((uint64_t)1 << 2 * half < n) half++;
    uint32_t mask = (uint32_t)((uint64_t)1 << half) - 1;
    do {
        uint32_t left = x >> half, right = x & mask;
        for (int round = 0; round < ROUNDS; round++) {
            uint32_t word[4];
            rng_words(word, seed, RNG_SHUFFLE, sequence, (uint64_t)round << 32 | right);
            uint32_t mixed = left ^ (word[0] & mask);
            left = right;
            right = mixed;
        }
        x = left << half | right;
    } while (x >= n);
    return x;
}

/* Every set and every epoch has an order of its own. */
static uint32_t place(const DataOrder *o, int set, uint32_t n, uint64_t i) {
    return permute(o->seed, (uint64_t)(set + 1) << 40 | i / n, n, (uint32_t)(i % n));
}

static const Row *row_of_all(const DataOrder *o, uint64_t position) {
    int i = (int)place(o, -1, (uint32_t)o->total, position), k = 0;
    while (i >= o->sets[k].n) i -= o->sets[k++].n;
    return &o->sets[k].rows[i];
}

static int draw_set(const DataOrder *o, uint64_t position) {
    double sum = 0;
    for (int k = 0; k < o->n_sets; k++) sum += o->weights[k];
    double u = rng_uniform(o->seed, RNG_MIXTURE, 0, position) * sum;
    for (int k = 0; k < o->n_sets - 1; k++) {
        if (u < o->weights[k]) return k;
        u -= o->weights[k];
    }
    return o->n_sets - 1;
}

Status data_order_create(DataOrder *o, const Dataset *sets, int n_sets, const double *weights,
                         uint64_t seed) {
    *o = (DataOrder){
        .sets = sets, .n_sets = n_sets, .weights = n_sets > 1 ? weights : NULL, .seed = seed};
    for (int k = 0; k < n_sets; k++) {
        if (sets[k].n > INT32_MAX - o->total)
            return status_fail(E_USAGE, "the training files have too many rows");
        o->total += sets[k].n;
        if (o->weights && sets[k].n == 0)
            return status_fail(E_USAGE, "training file %d has a weight but no usable row", k + 1);
    }
    if (!o->total) return status_fail(E_USAGE, "there is no row to train on");
    if (!o->weights) return OK;
    o->drawn = calloc((size_t)n_sets, sizeof(*o->drawn));
    return o->drawn ? OK : status_fail(E_MEMORY, "memory ran out for the order of the data");
}

const Row *data_order_row(DataOrder *o, uint64_t position) {
    if (!o->weights) return row_of_all(o, position);
    if (position < o->next) {
        for (int k = 0; k < o->n_sets; k++) o->drawn[k] = 0;
        o->next = 0;
    }
    while (o->next < position) o->drawn[draw_set(o, o->next++)]++;
    int k = draw_set(o, position);
    return &o->sets[k].rows[place(o, k, (uint32_t)o->sets[k].n, o->drawn[k])];
}

void data_order_release(DataOrder *o) {
    free(o->drawn);
    o->drawn = NULL;
}
