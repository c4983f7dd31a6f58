/* bpe.c - vocabulary, merges and the merge loop of byte-pair encoding (Sennrich et al. 2016).
 *
 * The pair of lowest rank is merged first, leftmost first among equals. Short pieces scan for it;
 * long ones keep a heap of (rank, position), so that a piece of n bytes costs n log n. */
#include <string.h>
#include "core/base/file.h"
#include "datasets/tokenizer_parts.h"

enum { SHORT_PIECE = 64 };
static const int NO_RANK = INT32_MAX;

static size_t table_size(int n) {
    size_t size = 16;
    while (size < 2 * (size_t)n) size *= 2;
    return size;
}

Status bpe_reserve(Bpe *b, int n_tokens, int n_merges) {
    CHECK(n_tokens >= 0 && n_tokens <= TOKENS_MAX && n_merges >= 0 && n_merges <= TOKENS_MAX);
    b->n = n_tokens;
    b->token = arena_alloc(&b->arena, (size_t)n_tokens * sizeof(*b->token));
    b->cap_merges = n_merges;
    b->merge_left = arena_alloc(&b->arena, (size_t)n_merges * sizeof(int));
    b->merge_right = arena_alloc(&b->arena, (size_t)n_merges * sizeof(int));
    b->merge_mask = table_size(n_merges) - 1;
    b->merge = arena_alloc(&b->arena, (b->merge_mask + 1) * sizeof(*b->merge));
    for (size_t i = 0; i <= b->merge_mask; i++) b->merge[i].rank = -1;
    return OK;
}

Status bpe_set_token(Bpe *b, int id, const char *bytes, size_t len, TokenKind kind) {
    CHECK(id >= 0 && id < b->n);
    if (len > TOKEN_BYTES_MAX) return status_fail(E_FORMAT, "token %d is %zu bytes long", id, len);
    if (b->token[id].kind != TOKEN_HOLE)
        return status_fail(E_FORMAT, "two tokens of the vocabulary have the id %d", id);
    if (b->pool.len + len > UINT32_MAX)
        return status_fail(E_FORMAT, "the vocabulary is larger than 4 GiB");
    b->token[id] = (Token){(uint32_t)b->pool.len, (uint32_t)len, kind};
    text_add_bytes(&b->pool, bytes, len);
    return OK;
}

static size_t token_slot(const Bpe *b, const char *bytes, size_t len, TokenKind kind) {
    size_t i = file_hash(bytes, len, kind) & b->mask;
    for (; b->slot[i] >= 0; i = (i + 1) & b->mask) {
        const Token *t = &b->token[b->slot[i]];
        if (t->kind == kind && t->len == len && !memcmp(b->pool.s + t->at, bytes, len)) break;
    }
    return i;
}

Status bpe_index(Bpe *b) {
    b->mask = table_size(b->n) - 1;
    b->slot = arena_alloc(&b->arena, (b->mask + 1) * sizeof(*b->slot));
    memset(b->slot, -1, (b->mask + 1) * sizeof(*b->slot));
    text_add(&b->pool, "");
    for (int id = 0; id < b->n; id++) {
        const Token *t = &b->token[id];
        if (t->kind == TOKEN_HOLE) continue;
        size_t i = token_slot(b, b->pool.s + t->at, t->len, t->kind);
        if (b->slot[i] >= 0)
            return status_fail(E_FORMAT, "tokens %d and %d of the vocabulary are the same",
                               b->slot[i], id);
        b->slot[i] = id;
    }
    for (int byte = 0; byte < 256; byte++) {
        char c = (char)byte;
        b->byte_id[byte] = bpe_find(b, &c, 1, TOKEN_BYTES);
    }
    return OK;
}

int bpe_find(const Bpe *b, const char *bytes, size_t len, TokenKind kind) {
    return b->slot ? b->slot[token_slot(b, bytes, len, kind)] : -1;
}

static uint64_t pair_key(int left, int right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static size_t merge_slot(const Bpe *b, uint64_t pair) {
    uint64_t h = pair * 0x9e3779b97f4a7c15u;
    size_t i = (size_t)(h ^ h >> 32) & b->merge_mask;
    while (b->merge[i].rank >= 0 && b->merge[i].pair != pair) i = (i + 1) & b->merge_mask;
    return i;
}

static int find_any(const Bpe *b, const char *bytes, size_t len) {
    int id = bpe_find(b, bytes, len, TOKEN_BYTES);
    return id >= 0 ? id : bpe_find(b, bytes, len, TOKEN_VERBATIM);
}

static int is_verbatim(const Bpe *b, int id) {
    return b->token[id].kind == TOKEN_VERBATIM;
}

int bpe_add_merge(Bpe *b, const char *left, size_t n_left, const char *right, size_t n_right) {
    CHECK(b->n_merges < b->cap_merges);
    char both[2 * TOKEN_BYTES_MAX];
    if (n_left > TOKEN_BYTES_MAX || n_right > TOKEN_BYTES_MAX) return 0;
    memcpy(both, left, n_left);
    memcpy(both + n_left, right, n_right);
    int l = find_any(b, left, n_left), r = find_any(b, right, n_right);
    int id = find_any(b, both, n_left + n_right);
    if (l < 0 || r < 0 || id < 0) return 0;
    /* no text may become a special token, nor part of one */
    if (is_verbatim(b, l) || is_verbatim(b, r) || is_verbatim(b, id)) return 1;
    int rank = b->n_merges++;
    b->merge_left[rank] = l;
    b->merge_right[rank] = r;
    b->merge[merge_slot(b, pair_key(l, r))] = (Merge){pair_key(l, r), rank, id};
    return 1;
}

void bpe_release(Bpe *b) {
    text_release(&b->pool);
    arena_release(&b->arena);
}

static int rank_of(const Bpe *b, int left, int right) {
    const Merge *m = &b->merge[merge_slot(b, pair_key(left, right))];
    return m->rank < 0 ? NO_RANK : m->rank;
}

static int merged(const Bpe *b, int left, int right) {
    return b->merge[merge_slot(b, pair_key(left, right))].id;
}

static void encode_short(const Bpe *b, int *id, int n, Ids *out) {
    int rank[SHORT_PIECE];
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

static void work_reserve(BpeWork *w, size_t n) {
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

static void encode_long(const Bpe *b, BpeWork *w, int n, Ids *out) {
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

/* A byte that the vocabulary lacks is left out, as the reference does without an unknown token. */
static int byte_ids(const Bpe *b, const char *s, size_t n, int *id) {
    int kept = 0;
    for (size_t i = 0; i < n; i++) {
        int v = b->byte_id[(uint8_t)s[i]];
        if (v >= 0) id[kept++] = v;
    }
    return kept;
}

void bpe_encode_piece(const Bpe *b, BpeWork *w, const char *s, size_t n, Ids *out) {
    if (b->ignore_merges) {
        int whole = bpe_find(b, s, n, TOKEN_BYTES);
        if (whole >= 0) {
            ids_add(out, whole);
            return;
        }
    }
    if (n <= SHORT_PIECE) {
        int id[SHORT_PIECE];
        encode_short(b, id, byte_ids(b, s, n, id), out);
        return;
    }
    work_reserve(w, n);
    int kept = byte_ids(b, s, n, w->id);
    if (kept > 0) encode_long(b, w, kept, out);
}

void bpe_work_release(BpeWork *w) {
    arena_release(&w->arena);
}
