/* tokenizer.c - encoding and look-ups of a tokenizer that has been read or trained. */
#include <stdlib.h>
#include <string.h>
#include "core/base/file.h"
#include "datasets/tokenizer_parts.h"

void ids_add(Ids *ids, int id) {
    if (ids->n == ids->cap) {
        int cap = ids->cap ? 2 * ids->cap : 64;
        int *v = cap > 0 ? realloc(ids->v, (size_t)cap * sizeof(*v)) : NULL;
        if (!v) {
            status_fail(E_MEMORY, "memory ran out for a list of %d token ids", ids->n);
            CHECK(!"memory for token ids");
        }
        ids->v = v;
        ids->cap = cap;
    }
    ids->v[ids->n++] = id;
}

void ids_release(Ids *ids) {
    free(ids->v);
    *ids = (Ids){0};
}

Tokenizer *tokenizer_new(void) {
    Arena arena = {0};
    Tokenizer *t = arena_alloc(&arena, sizeof(*t));
    t->arena = arena;
    t->bos = t->eos = t->pad = -1;
    return t;
}

void tokenizer_release(Tokenizer *t) {
    if (!t) return;
    bpe_release(&t->bpe);
    normalizer_release(&t->normalizer);
    decoder_release(&t->decoder);
    pretokenizer_release(t->pre);
    Arena arena = t->arena;
    arena_release(&arena);
}

void tokenizer_add_added(Tokenizer *t, const AddedToken *token) {
    AddedTokens *a = &t->added;
    if (a->n == a->cap) {
        a->cap = a->cap ? 2 * a->cap : 32;
        AddedToken *v = arena_alloc(&t->arena, (size_t)a->cap * sizeof(*v));
        if (a->n) memcpy(v, a->v, (size_t)a->n * sizeof(*v));
        a->v = v;
    }
    a->v[a->n] = *token;
    a->v[a->n++].content = arena_strdup(&t->arena, token->content);
}

void tokenizer_add_eos(Tokenizer *t, int id) {
    if (id < 0 || tokenizer_is_eos(t, id)) return;
    int *set = arena_alloc(&t->arena, (size_t)(t->n_eos + 1) * sizeof(*set));
    if (t->n_eos) memcpy(set, t->eos_set, (size_t)t->n_eos * sizeof(*set));
    set[t->n_eos++] = id;
    t->eos_set = set;
    if (t->eos < 0) t->eos = id;
}

/* Of a token as vocabularies write it; -1. */
static int vocabulary_id(const Bpe *b, const char *token) {
    size_t n = strlen(token);
    if (b->by_char) return bpe_find_any(b, token, n);
    Text bytes = {0};
    int id = alphabet_decode(&bytes, token, n)
                 ? bpe_find(b, bytes.s ? bytes.s : "", bytes.len, TOKEN_BYTES)
                 : -1;
    text_release(&bytes);
    return id >= 0 ? id : bpe_find(b, token, n, TOKEN_VERBATIM);
}

static int special_id(const Tokenizer *t, const char *name) {
    for (int i = 0; i < t->added.n; i++)
        if (t->added.v[i].special && !strcmp(t->added.v[i].content, name)) return t->added.v[i].id;
    return -1;
}

static int first_special(const Tokenizer *t, const char *const *names, int not_this) {
    for (; *names; names++) {
        int id = special_id(t, *names);
        if (id >= 0 && id != not_this) return id;
    }
    return -1;
}

static void settle_eos_and_pad(Tokenizer *t) {
    static const char *const eos_names[] = {"<|eos|>", "<|endoftext|>", "<|end_of_text|>", "</s>",
                                            NULL};
    static const char *const pad_names[] = {
        "<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<|endoftext|>", NULL};
    if (t->eos < 0) tokenizer_add_eos(t, first_special(t, eos_names, -1));
    tokenizer_add_eos(t, special_id(t, "<|im_end|>"));
    if (t->pad < 0 || t->pad == t->eos) t->pad = first_special(t, pad_names, t->eos);
}

static uint64_t hash_string(const char *s, uint64_t h) {
    return s ? file_hash(s, strlen(s) + 1, h) : file_hash("", 0, h + 1);
}

static uint64_t hash_all(const Tokenizer *t) {
    const Bpe *b = &t->bpe;
    uint64_t h = file_hash(b->token, (size_t)b->n * sizeof(*b->token), 1);
    h = file_hash(b->pool.s, b->pool.len, h);
    h = file_hash(b->merge_left, (size_t)b->n_merges * sizeof(int), h);
    h = file_hash(b->merge_right, (size_t)b->n_merges * sizeof(int), h);
    for (int i = 0; i < t->added.n; i++) {
        const AddedToken *a = &t->added.v[i];
        int flags[] = {a->id, a->special, a->normalized, a->lstrip, a->rstrip, a->single_word};
        h = hash_string(a->content, file_hash(flags, sizeof(flags), h));
    }
    h = hash_string(t->source.normalizer, h);
    h = hash_string(t->source.pre_tokenizer, h);
    h = hash_string(t->chat_template, h);
    h = hash_string(t->bos_text, hash_string(t->eos_text, h));
    int nfc = normalizer_composes(&t->normalizer);
    int numbers[] = {t->bos, t->eos, t->pad, nfc, b->ignore_merges, t->n_prefix, t->n_suffix};
    h = file_hash(numbers, sizeof(numbers), h);
    int by_char[] = {b->byte_fallback, b->unk, b->fuse_unk};
    if (b->by_char) h = file_hash(by_char, sizeof(by_char), h);
    h = file_hash(t->eos_set, (size_t)t->n_eos * sizeof(int), h);
    h = file_hash(t->prefix, (size_t)t->n_prefix * sizeof(int), h);
    return file_hash(t->suffix, (size_t)t->n_suffix * sizeof(int), h);
}

static const char *text_of(Tokenizer *t, int id) {
    Text text = {0};
    const char *s = NULL;
    if (id >= 0 && tokenizer_decode(t, &id, 1, 1, &text) == OK)
        s = arena_strndup(&t->arena, text.s ? text.s : "", text.len);
    text_release(&text);
    return s;
}

static int in_range(const Tokenizer *t, int id) {
    return id < t->size ? id : -1;
}

/* The reference goes by the vocabulary where a file contradicts itself; here that is refused. */
static Status place_added(Tokenizer *t, const AddedToken *a) {
    const AddedToken *other = t->added_by_id[a->id];
    if (other && strcmp(other->content, a->content))
        return status_fail(E_FORMAT, "the added tokens \"%.80s\" and \"%.80s\" have the same id %d",
                           other->content, a->content, a->id);
    int id = vocabulary_id(&t->bpe, a->content);
    if (id >= 0 && id != a->id)
        return status_fail(E_FORMAT,
                           "the added token \"%.80s\" has the id %d, in the vocabulary %d",
                           a->content, a->id, id);
    if (id < 0 && a->id < t->bpe.n && t->bpe.token[a->id].kind != TOKEN_HOLE)
        return status_fail(E_FORMAT,
                           "the id %d of the added token \"%.80s\" is another token's in the "
                           "vocabulary",
                           a->id, a->content);
    t->added_by_id[a->id] = a;
    return OK;
}

static Status check_ends(const Tokenizer *t, const int *ids, int n) {
    for (int i = 0; i < n; i++)
        if (ids[i] >= t->size)
            return status_fail(E_FORMAT, "the post-processor adds the id %d to a vocabulary of %d",
                               ids[i], t->size);
    return OK;
}

Status tokenizer_finish(Tokenizer *t) {
    t->size = t->bpe.n;
    for (int i = 0; i < t->added.n; i++)
        if (t->added.v[i].id >= t->size) t->size = t->added.v[i].id + 1;
    if (t->size == 0) return status_fail(E_FORMAT, "the vocabulary is empty");
    t->added_by_id = arena_alloc(&t->arena, (size_t)t->size * sizeof(*t->added_by_id));
    for (int i = 0; i < t->added.n; i++) TRY(place_added(t, &t->added.v[i]));
    TRY(added_index(&t->added, &t->arena, &t->normalizer));
    TRY(check_ends(t, t->prefix, t->n_prefix));
    TRY(check_ends(t, t->suffix, t->n_suffix));
    if (t->bpe.by_char) TRY(decoder_index(t));

    int kept = 0; /* ids of config files that the vocabulary does not have */
    for (int i = 0; i < t->n_eos; i++)
        if (t->eos_set[i] < t->size) t->eos_set[kept++] = t->eos_set[i];
    t->n_eos = kept;
    t->eos = kept ? t->eos_set[0] : -1;
    t->bos = in_range(t, t->bos);
    t->pad = in_range(t, t->pad);
    settle_eos_and_pad(t);
    if (!t->named) {
        t->bos_text = text_of(t, t->bos);
        t->eos_text = text_of(t, t->eos);
    }
    t->hash = hash_all(t);
    return OK;
}

typedef struct {
    const Tokenizer *t;
    const Normalizer *normalizer;
    int special, begins; /* begins: nothing stands before the text */
    RegexScratch *scratch;
    BpeWork work;
    Ids *out;
} Encoding;

static Status emit_piece(void *ctx, const char *s, size_t n) {
    Encoding *e = ctx;
    bpe_encode_piece(&e->t->bpe, &e->work, s, n, e->out);
    return OK;
}

static Status encode_pieces(Encoding *e, const char *s, size_t n, int first) {
    return n ? pretokenizer_run(e->t->pre, &e->scratch, s, n, first, emit_piece, e) : OK;
}

/* Text between raw added tokens, normalized: the normalized ones are cut out, the rest is split. */
static Status encode_normalized(Encoding *e, int special, const char *s, const uint8_t *data,
                                size_t n, int first) {
    size_t at = 0;
    AddedMatch m;
    while (added_find(&e->t->added, 1, special, s, data, n, at, &m)) {
        TRY(encode_pieces(e, s + at, m.from - at, first && at == 0));
        ids_add(e->out, m.token->id);
        at = m.to;
    }
    return encode_pieces(e, s + at, n - at, first && at == 0);
}

/* first: the stretch begins the text. Where normalizing moves bytes it is not known which were
 * data: no special token is found there when any was. */
static Status encode_stretch(Encoding *e, const char *s, const uint8_t *data, size_t n, int first) {
    if (n == 0) return OK;
    if (!e->normalizer->n) return encode_normalized(e, e->special, s, data, n, first);
    Text normal = {0};
    int special = e->special;
    Status status = normalizer_run(e->normalizer, s, n, &normal);
    if (status == OK && data && (normal.len != n || memcmp(normal.s, s, n))) {
        for (size_t i = 0; i < n; i++)
            if (data[i]) special = 0;
        data = NULL;
    }
    if (status == OK && normal.len)
        status = encode_normalized(e, special, normal.s, data, normal.len, first);
    text_release(&normal);
    return status;
}

static Status encode_text(Encoding *e, const char *s, const uint8_t *data, size_t n) {
    size_t at = 0;
    AddedMatch m;
    while (added_find(&e->t->added, 0, e->special, s, data, n, at, &m)) {
        TRY(encode_stretch(e, s + at, data ? data + at : NULL, m.from - at, e->begins && at == 0));
        ids_add(e->out, m.token->id);
        at = m.to;
    }
    return encode_stretch(e, s + at, data ? data + at : NULL, n - at, e->begins && at == 0);
}

static Status encode(Encoding *e, const char *s, const uint8_t *data, size_t n) {
    if (n > TOKENIZER_TEXT_MAX)
        return status_fail(E_USAGE, "a text of %zu bytes is too long to be encoded at once", n);
    Status status = encode_text(e, s, data, n);
    bpe_work_release(&e->work);
    regex_scratch_release(e->scratch);
    return status;
}

Status tokenizer_encode_mixed(const Tokenizer *t, const char *text, const uint8_t *data, size_t len,
                              int begins, Ids *out) {
    Normalizer inside = {.n = 0}; /* what is put before every text stands before this one already */
    for (int i = 0; i < t->normalizer.n; i++)
        if (t->normalizer.step[i].kind != NORMALIZE_PREPEND)
            inside.step[inside.n++] = t->normalizer.step[i];
    Encoding e = {.t = t,
                  .normalizer = begins ? &t->normalizer : &inside,
                  .special = 1,
                  .begins = begins,
                  .out = out};
    return encode(&e, text, data, len);
}

Status tokenizer_encode(const Tokenizer *t, const char *text, size_t len, int flags, Ids *out) {
    Encoding e = {.t = t,
                  .normalizer = &t->normalizer,
                  .special = (flags & TOKENIZE_PARSE_SPECIAL) != 0,
                  .begins = 1,
                  .out = out};
    int add = (flags & TOKENIZE_ADD_SPECIAL) != 0;
    for (int i = 0; add && i < t->n_prefix; i++) ids_add(out, t->prefix[i]);
    Status status = encode(&e, text, NULL, len);
    for (int i = 0; add && i < t->n_suffix; i++) ids_add(out, t->suffix[i]);
    return status;
}

int tokenizer_vocab_size(const Tokenizer *t) {
    return t->size;
}
int tokenizer_eos(const Tokenizer *t) {
    return t->eos;
}
int tokenizer_pad(const Tokenizer *t) {
    return t->pad;
}
int tokenizer_bos(const Tokenizer *t) {
    return t->bos;
}
uint64_t tokenizer_hash(const Tokenizer *t) {
    return t->hash;
}
const char *tokenizer_chat_template(const Tokenizer *t) {
    return t->chat_template ? t->chat_template : "";
}
const char *tokenizer_bos_text(const Tokenizer *t) {
    return t->bos_text;
}
const char *tokenizer_eos_text(const Tokenizer *t) {
    return t->eos_text;
}

const int *tokenizer_eos_ids(const Tokenizer *t, int *n) {
    *n = t->n_eos;
    return t->eos_set;
}

int tokenizer_is_eos(const Tokenizer *t, int id) {
    for (int i = 0; i < t->n_eos; i++)
        if (t->eos_set[i] == id) return 1;
    return 0;
}

int tokenizer_id(const Tokenizer *t, const char *token) {
    for (int i = 0; i < t->added.n; i++)
        if (!strcmp(t->added.v[i].content, token)) return t->added.v[i].id;
    return vocabulary_id(&t->bpe, token);
}
