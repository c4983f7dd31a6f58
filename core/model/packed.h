/* packed.h - the sequences of one optimizer step, end to end in their canonical order.
 *
 * A micro-batch is a consecutive run of it, so every per-token array of the step is cut by the same
 * offset and results do not depend on where the cuts fall (docs/design.md "Bits"). */
#ifndef PACKED_H
#define PACKED_H

#include "core/model/network.h"

typedef struct {
    int S, N, max_S, max_N;
    int *ids, *starts; /* [max_N]; [max_S + 1] */
    uint8_t *wanted;   /* [max_N] tokens in the loss */
    int *local;        /* starts of the current micro-batch */
} Packed;

/* E_USAGE when max_N is more than an int counts. */
Status packed_create(Packed *p, int max_S, size_t max_N);
void packed_release(Packed *p);
void packed_clear(Packed *p);
/* Appends a sequence; wanted NULL = none. CHECKs that there is room. */
void packed_add(Packed *p, const int *ids, const uint8_t *wanted, int n);
int packed_wanted(const Packed *p); /* tokens in the loss */

/* The micro-batch that begins with sequence `first`: as many whole groups of `group` sequences as
 * fit in max_tokens, at least one. Returns one past its last sequence; p->starts[first] is its
 * offset. */
int packed_micro(Packed *p, int first, int group, int max_tokens, float temperature, Batch *b);

/* Forward over all micro-batches; out's arrays have N entries (score N * scores). */
Status packed_forward(Packed *p, Network *net, int max_tokens, float temperature,
                      const TokenOutputs *out);

#endif
