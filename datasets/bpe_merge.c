/* bpe_merge.c - the merge loop of byte-pair encoding: the pair of lowest rank is merged first,
 * leftmost first among equals. Short pieces scan for it; long ones keep a heap of (rank, position),
 * so that n symbols cost n log n. */
#include "datasets/tokenizer_parts.h"

#include <string.h>

static const int NO_RANK = INT32_MAX;

static int rank_of(const Bpe *b, int left, int right) {
    const Merge *m = &b->merge[merge_slot(b, pair_key(left, right))];
    return m->rank < 0 ? NO_RANK : m->rank;
}

static int merged(const Bpe *b, int left, int right) {
    return b->merge[merge_slot(b, pair_key(left, right))].id;
}

void bpe_merge_short(const Bpe *b, int *id, int n, Ids *out) {
    int rank[BPE_SHORT];
    for (int i = 0; i + 1 < n; i++) rank[i] = rank_of(b, id[i], id[i + 1]);
    while (n > 1) {
        int best = 0;
        for (int i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best]) best = i;
        if (rank[best] == NO_RANK) break;

        id[best] = merged(b, id[best], id[best + 1]);
        n--;
        memmove(id + best + 1, id + best + 2, (size_t)(n - best - 1) * sizeof(*id));
        if (best + 2 < n)
            memmove(rank + best + 1, rank + best + 2, (size_t)(n - best - 2) * sizeof(*rank));
        if (best > 0) rank[best - 1] = rank_of(b, id[best - 1], id[best]);
        if (best + 1 < n) rank[best] = rank_of(b, id[best], id[best + 1]);
    }
    for (int i = 0; i < n; i++) ids_add(out, id[i]);
}

static void heap_push(BpeWork *w, uint64_t v) {
    size_t i = w->n_heap++;
    for (; i > 0 && v < w->heap[(i - 1) / 2]; i = (i - 1) / 2) w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = v;
}

static uint64_t heap_pop(BpeWork *w) {
    uint64_t top = w->heap[0], v = w->heap[--w->n_heap];
    size_t i = 0;
    for (;;) {
        size_t c = 2 * i + 1;
        if (c >= w->n_heap) break;
        if (c + 1 < w->n_heap && w->heap[c + 1] < w->heap[c]) c++;
        if (v <= w->heap[c]) break;
        w->heap[i] = w->heap[c];
        i = c;
    }
    w->heap[i] = v;
    return top;
}

void bpe_work_reserve(BpeWork *w, size_t n) {
    if (n <= w->cap) return;
    arena_clear(&w->arena);
    w->cap = n + n / 2;
    w->id = arena_alloc(&w->arena, w->cap * sizeof(int));
    w->prev = arena_alloc(&w->arena, w->cap * sizeof(int));
    w->next = arena_alloc(&w->arena, w->cap * sizeof(int));
    w->heap =
        arena_alloc(&w->arena, 3 * w->cap * sizeof(uint64_t)); /* n - 1 pairs, two per merge */
}

static void push_pair(const Bpe *b, BpeWork *w, int at) {
    if (at < 0 || w->next[at] < 0) return;
    int rank = rank_of(b, w->id[at], w->id[w->next[at]]);
    if (rank != NO_RANK) heap_push(w, (uint64_t)rank << 32 | (uint32_t)at);
}

void bpe_merge_long(const Bpe *b, BpeWork *w, int n, Ids *out) {
    for (int i = 0; i < n; i++) {
        w->prev[i] = i - 1;
        w->next[i] = i + 1 < n ? i + 1 : -1;
    }
    w->n_heap = 0;
    for (int i = 0; i + 1 < n; i++) push_pair(b, w, i);
    while (w->n_heap > 0) {
        uint64_t top = heap_pop(w);
        int at = (int)(uint32_t)top, right = w->next[at];
        /* an entry is stale when its left end is gone or its pair has changed */
        if (w->id[at] < 0 || right < 0) continue;
        if (rank_of(b, w->id[at], w->id[right]) != (int)(top >> 32)) continue;

        w->id[at] = merged(b, w->id[at], w->id[right]);
        w->id[right] = -1;
        w->next[at] = w->next[right];
        if (w->next[at] >= 0) w->prev[w->next[at]] = at;
        push_pair(b, w, w->prev[at]);
        push_pair(b, w, at);
    }
    for (int i = 0; i >= 0; i = w->next[i]) ids_add(out, w->id[i]);
}

void bpe_work_release(BpeWork *w) {
    arena_release(&w->arena);
}
