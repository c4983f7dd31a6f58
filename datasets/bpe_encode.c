/* bpe_encode.c - pieces into ids.
 *
 * SentencePiece-style models take a whole text as one piece. It is cut where no merge joins the
 * last character before and the first behind: merges on one side never see the other, so the ids
 * are the same and a text costs as much as its words. */
#include "datasets/tokenizer_parts.h"

#include <stdatomic.h>
#include <string.h>

/* What the vocabulary lacks becomes the unknown token, or nothing where the model names none. */
static int unknown(const Bpe *b, int *id, int n, int *pending) {
    if (b->unk < 0 || (b->fuse_unk && *pending)) return n;
    *pending = 1;
    id[n] = b->unk;
    return n + 1;
}

static int byte_symbols(const Bpe *b, const char *s, size_t n, int *id) {
    int kept = 0, pending = 0;
    for (size_t i = 0; i < n; i++) {
        int v = b->byte_id[(uint8_t)s[i]];
        if (v < 0) {
            kept = unknown(b, id, kept, &pending);
            continue;
        }
        id[kept++] = v;
        pending = 0;
    }
    return kept;
}

static int bytes_known(const Bpe *b, const char *s, int n) {
    int known = 1;
    for (int i = 0; i < n; i++) known &= b->byte_id[(uint8_t)s[i]] >= 0;
    return known;
}

static int char_symbols(const Bpe *b, const char *s, size_t n, int *id) {
    int kept = 0, pending = 0;
    for (size_t i = 0; i < n;) {
        int32_t code;
        int used = utf8_next(s + i, n - i, &code);
        int v = code < 0           ? -1
                : code < BPE_CHARS ? b->char_id[code]
                                   : bpe_find_any(b, s + i, (size_t)used);
        if (v >= 0) {
            id[kept++] = v;
            pending = 0;
        } else if (bytes_known(b, s + i, used)) {
            for (int k = 0; k < used; k++) id[kept++] = b->byte_id[(uint8_t)s[i + (size_t)k]];
            pending = 0;
        } else {
            kept = unknown(b, id, kept, &pending);
        }
        i += (size_t)used;
    }
    return kept;
}

static int symbols(const Bpe *b, const char *s, size_t n, int *id) {
    return b->by_char ? char_symbols(b, s, n, id) : byte_symbols(b, s, n, id);
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
