/* bpe.c - vocabulary and merges of byte-pair encoding (Sennrich et al. 2016). */
#include <stdio.h>
#include <string.h>
#include "core/base/file.h"
#include "datasets/tokenizer_parts.h"

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
    b->joins_mask = 16 * (b->merge_mask + 1) - 1;
    if (b->by_char) b->joins = arena_alloc(&b->arena, (b->joins_mask + 1) / 8);
    b->unk = -1;
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

static void index_byte(Bpe *b, int byte) {
    char name[8] = {(char)byte};
    if (!b->by_char) {
        b->byte_id[byte] = bpe_find(b, name, 1, TOKEN_BYTES);
    } else {
        snprintf(name, sizeof(name), "<0x%02X>", byte);
        b->byte_id[byte] = b->byte_fallback ? bpe_find_any(b, name, 6) : -1;
    }
}

static void index_characters(Bpe *b) {
    b->char_id = arena_alloc(&b->arena, BPE_CHARS * sizeof(*b->char_id));
    memset(b->char_id, -1, BPE_CHARS * sizeof(*b->char_id));
    for (int id = 0; id < b->n; id++) {
        const Token *t = &b->token[id];
        const char *s = b->pool.s + t->at;
        int32_t code;
        if (t->kind == TOKEN_HOLE || t->len == 0 || t->len > 4) continue;
        if ((uint32_t)utf8_char(s, t->len, &code) == t->len && code >= 0 && code < BPE_CHARS)
            b->char_id[code] = id;
    }
    b->cuts = 1;
    for (int byte = 0; byte < 256; byte++) b->cuts &= b->byte_id[byte] >= 0;
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
    b->whole = arena_alloc(&b->arena, (size_t)b->n * sizeof(*b->whole));
    for (int byte = 0; byte < 256; byte++) index_byte(b, byte);
    if (b->by_char) index_characters(b);
    return OK;
}

int bpe_find(const Bpe *b, const char *bytes, size_t len, TokenKind kind) {
    return b->slot ? b->slot[token_slot(b, bytes, len, kind)] : -1;
}

int bpe_find_any(const Bpe *b, const char *bytes, size_t len) {
    int id = bpe_find(b, bytes, len, TOKEN_BYTES);
    return id >= 0 ? id : bpe_find(b, bytes, len, TOKEN_VERBATIM);
}

static int is_fallback(const Bpe *b, int id) {
    for (int byte = 0; byte < 256; byte++)
        if (b->byte_id[byte] == id) return 1;
    return 0;
}

/* Merges that join byte tokens reach across any two characters. */
static void note_join(Bpe *b, int l, int r, const char *left, size_t n_left, const char *right,
                      size_t n_right) {
    int is_name = n_left == 6 || n_right == 6;
    if (is_name && (is_fallback(b, l) || is_fallback(b, r))) b->cuts = 0;
    size_t last = n_left - 1;
    int32_t x, y;
    while (last > 0 && ((uint8_t)left[last] & 0xc0) == 0x80) last--;
    utf8_char(left + last, n_left - last, &x);
    utf8_char(right, n_right, &y);
    size_t bit = bpe_join_bit(b, x, y);
    b->joins[bit / 64] |= (uint64_t)1 << bit % 64;
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
    int l = bpe_find_any(b, left, n_left), r = bpe_find_any(b, right, n_right);
    int id = bpe_find_any(b, both, n_left + n_right);
    if (l < 0 || r < 0 || id < 0) return 0;
    /* no text may become a special token, nor part of one */
    if (is_verbatim(b, l) || is_verbatim(b, r) || is_verbatim(b, id)) return 1;
    int rank = b->n_merges++;
    b->merge_left[rank] = l;
    b->merge_right[rank] = r;
    b->merge[merge_slot(b, pair_key(l, r))] = (Merge){pair_key(l, r), rank, id};
    if (b->by_char) note_join(b, l, r, left, n_left, right, n_right);
    return 1;
}

void bpe_release(Bpe *b) {
    text_release(&b->pool);
    arena_release(&b->arena);
}
