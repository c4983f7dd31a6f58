/* degenerate.h - signs that a policy has collapsed: answers that repeat themselves, that compress
 * too well, or that are the same for different prompts. */
#ifndef DEGENERATE_H
#define DEGENERATE_H

#include "policy/rollout.h"

/* Share of a response's 4-grams of tokens that occurred before in it; 0 for fewer than 8 tokens. */
double repetition_share(const int *ids, int n);
/* Bytes of a text per byte of it compressed (zstd, level 3); 1 for texts under 64 bytes. */
double compression_ratio(const char *text, size_t n);

typedef struct {         /* shares of a rollout's responses */
    double repetition;   /* that repeat more than half of their 4-grams */
    double compressible; /* that compress more than six times */
    double duplicate;    /* that equal the response to another prompt */
} Degenerate;
Status degenerate_shares(Degenerate *out, const Rollout *r, const Tokenizer *t);

#endif
