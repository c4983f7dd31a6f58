/* degenerate.c - see degenerate.h. */
#include "policy/degenerate.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

enum { GRAM = 4, LEAST_TOKENS = 8, LEAST_BYTES = 64 };

typedef struct {
    int ids[GRAM];
} Gram;

static int compare_grams(const void *a, const void *b) {
    return memcmp(a, b, sizeof(Gram)); /* any order will do: equal ones become neighbours */
}

double repetition_share(const int *ids, int n) {
    int grams = n - GRAM + 1, again = 0;
    if (n < LEAST_TOKENS) return 0.0;
    Gram *all = malloc((size_t)grams * sizeof *all);
    if (!all) return 0.0;
    for (int i = 0; i < grams; i++) memcpy(all[i].ids, ids + i, sizeof(Gram));
    qsort(all, (size_t)grams, sizeof *all, compare_grams);
    for (int i = 1; i < grams; i++) again += !compare_grams(&all[i - 1], &all[i]);
    free(all);
    return (double)again / grams;
}

double compression_ratio(const char *text, size_t n) {
    if (n < LEAST_BYTES) return 1.0;
    size_t room = ZSTD_compressBound(n);
    char *out = malloc(room);
    if (!out) return 1.0;
    size_t size = ZSTD_compress(out, room, text, n, 3);
    free(out);
    return ZSTD_isError(size) || !size ? 1.0 : (double)n / (double)size;
}

static int same_prompt(const Rollout *r, int a, int b) {
    int n = r->n_prompt[a];
    return n == r->n_prompt[b] && !memcmp(r->seq.ids + r->seq.starts[a],
                                          r->seq.ids + r->seq.starts[b], (size_t)n * sizeof(int));
}

static int same_response(const Rollout *r, int a, int b) {
    int n = rollout_length(r, a);
    return n == rollout_length(r, b) &&
           !memcmp(rollout_response(r, a), rollout_response(r, b), (size_t)n * sizeof(int));
}

static int has_duplicate(const Rollout *r, int s) {
    for (int other = 0; other < r->seq.S; other++)
        if (other != s && same_response(r, s, other) && !same_prompt(r, s, other)) return 1;
    return 0;
}

Status degenerate_shares(Degenerate *out, const Rollout *r, const Tokenizer *t) {
    Text text = {0};
    int repeat = 0, compress = 0, duplicate = 0, S = r->seq.S;
    Status status = OK;
    *out = (Degenerate){0};
    for (int s = 0; s < S && status == OK; s++) {
        text_clear(&text);
        status = rollout_text(r, s, t, &text);
        repeat += repetition_share(rollout_response(r, s), rollout_length(r, s)) > 0.5;
        compress += status == OK && compression_ratio(text.s ? text.s : "", text.len) > 6.0;
        duplicate += has_duplicate(r, s);
    }
    text_release(&text);
    if (S) *out = (Degenerate){(double)repeat / S, (double)compress / S, (double)duplicate / S};
    return status;
}
