/* bpe_encode.c - pieces into ids.
 *
 * SentencePiece-style models take a whole text as one piece. It is cut where no merge joins the
 * last character before and the first behind: merges on one side never see the other, so the ids
 * are the same and a text costs as much as its words. */
#include "datasets/tokenizer_parts.h"

#include <stdatomic.h>
#include <string.h>

/* What the vocabulary lacks becomes the unknown token, or nothing where the model names none. The
 * reference holds it back until a character that is known, beyond bytes fallen back on. */
typedef struct {
    const Bpe *b;
    int *id;
    int n, pending;
} Symbols;

static void put_pending(Symbols *y) {
    if (y->pending) y->id[y->n++] = y->b->unk;
    y->pending = 0;
}

static void put_known(Symbols *y, int id) {
    put_pending(y);
    y->id[y->n++] = id;
}

static void put_unknown(Symbols *y) {
    if (y->b->unk < 0) return;
    if (!y->b->fuse_unk) put_pending(y);
    y->pending = 1;
}

static void byte_symbols(Symbols *y, const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        int id = y->b->byte_id[(uint8_t)s[i]];
        if (id >= 0)
            put_known(y, id);
        else
            put_unknown(y);
    }
}

static int bytes_known(const Bpe *b, const char *s, int n) {
    int known = 1;
    for (int i = 0; i < n; i++) known &= b->byte_id[(uint8_t)s[i]] >= 0;
    return known;
}

static void char_symbols(Symbols *y, const char *s, size_t n) {
    const Bpe *b = y->b;
    for (size_t i = 0; i < n;) {
        int32_t code;
        int used = utf8_next(s + i, n - i, &code);
        int id = code < 0           ? -1
                 : code < BPE_CHARS ? b->char_id[code]
                                    : bpe_find_any(b, s + i, (size_t)used);
        if (id >= 0)
            put_known(y, id);
        else if (bytes_known(b, s + i, used))
            for (int k = 0; k < used; k++) y->id[y->n++] = b->byte_id[(uint8_t)s[i + (size_t)k]];
        else
            put_unknown(y);
        i += (size_t)used;
    }
}

/* Room for as many ids as there are bytes suffices. */
static int symbols(const Bpe *b, const char *s, size_t n, int *id) {
    Symbols y = {.b = b, .id = id};
    if (b->by_char)
        char_symbols(&y, s, n);
    else
        byte_symbols(&y, s, n);
    put_pending(&y);
    return y.n;
}

static void merge(const Bpe *b, BpeWork *w, const char *s, size_t n, Ids *out) {
    if (n <= BPE_SHORT) {
        int id[BPE_SHORT];
        bpe_merge_short(b, id, symbols(b, s, n, id), out);
        return;
    }
    bpe_work_reserve(w, n);
    int kept = symbols(b, s, n, w->id);
    if (kept > 0) bpe_merge_long(b, w, kept, out);
}

/* Most words are one token. Whether merging really leads to it is found out once for each token;
 * threads that find it out together write the same. */
enum { NOT_KNOWN, WHOLE, PARTS };

static void encode_word(const Bpe *b, BpeWork *w, const char *s, size_t n, Ids *out) {
    int id = bpe_find(b, s, n, TOKEN_BYTES);
    int known = id >= 0 ? atomic_load_explicit(&b->whole[id], memory_order_relaxed) : PARTS;
    if (known == WHOLE) {
        ids_add(out, id);
        return;
    }
    int before = out->n;
    merge(b, w, s, n, out);
    if (known == NOT_KNOWN) {
        known = out->n == before + 1 && out->v[before] == id ? WHOLE : PARTS;
        atomic_store_explicit(&b->whole[id], (uint8_t)known, memory_order_relaxed);
    }
}

static int joined(const Bpe *b, int32_t left, int32_t right) {
    size_t bit = bpe_join_bit(b, left, right);
    return (int)(b->joins[bit / 64] >> bit % 64 & 1);
}

static void encode_text(const Bpe *b, BpeWork *w, const char *s, size_t n, Ids *out) {
    size_t start = 0;
    int32_t left, right;
    size_t i = (size_t)utf8_next(s, n, &left);
    while (i < n) {
        int used = utf8_next(s + i, n - i, &right);
        if (!joined(b, left, right)) {
            encode_word(b, w, s + start, i - start, out);
            start = i;
        }
        left = right;
        i += (size_t)used;
    }
    encode_word(b, w, s + start, n - start, out);
}

void bpe_encode_piece(const Bpe *b, BpeWork *w, const char *s, size_t n, Ids *out) {
    if (b->ignore_merges) {
        int whole = bpe_find(b, s, n, TOKEN_BYTES);
        if (whole >= 0) {
            ids_add(out, whole);
            return;
        }
    }
    if (b->cuts)
        encode_text(b, w, s, n, out);
    else
        encode_word(b, w, s, n, out);
}
