/* bpe_train.c - learns merges (Sennrich et al. 2016): the most frequent pair becomes a token, again
 * and again. Equal counts are settled by the smallest ids, so that the result depends on the text
 * alone.
 *
 * Texts are reduced to distinct pieces with counts. Every pair keeps its count and the pieces it
 * was seen in; a heap of (count, pair) is corrected lazily when an entry that has become stale is
 * taken. */
#include <stdlib.h>
#include <string.h>
#include "core/base/file.h"
#include "datasets/tokenizer_parts.h"

/* Pieces longer than this add no useful merges and would make one merge cost as much as a text. */
enum { PIECE_MAX = 256 };
static const char *const special_names[] = {"<|pad|>", "<|eos|>", "<|im_start|>", "<|im_end|>"};
enum { N_SPECIAL = 4, FIRST_MERGE = N_SPECIAL + 256 };

typedef struct {
    int *id; /* its symbols, a prefix of the bytes' room */
    int n;
    int64_t count;
} Piece;

typedef struct {
    uint64_t key; /* left id, right id */
    int64_t count;
    int *where; /* numbers of pieces, possibly repeated */
    int n_where, cap_where;
    int merge; /* the last merge that raised it */
} Pair;

typedef struct {
    int64_t count;
    uint64_t key;
    int pair;
} Candidate;

struct BpeTrainer {
    Tokenizer *shell; /* the splitting */
    RegexScratch *scratch;
    Piece *piece;
    int n_pieces, cap_pieces;
    int *piece_slot; /* open addressing: piece number + 1 */
    size_t piece_mask;

    Pair *pair;
    int n_pairs, cap_pairs;
    int *pair_slot; /* open addressing: pair number + 1 */
    size_t pair_mask;
    Candidate *heap;
    int n_heap, cap_heap;
    Arena arena;
};

/* Doubles *v when n items fill it; the old room stays in the arena. */
static void grow(Arena *a, void **v, int n, int *cap, size_t item) {
    if (n < *cap) return;
    CHECK(*cap < 1 << 29);
    int more = *cap ? 2 * *cap : 16;
    void *grown = arena_alloc(a, (size_t)more * item);
    if (n) memcpy(grown, *v, (size_t)n * item);
    *v = grown;
    *cap = more;
}

/* A piece's symbols are its bytes until merging starts, so pieces can be told apart by them. */
static size_t piece_place(const BpeTrainer *b, const int *id, int n) {
    size_t i = file_hash(id, (size_t)n * sizeof(*id), 0) & b->piece_mask;
    for (; b->piece_slot[i]; i = (i + 1) & b->piece_mask) {
        const Piece *p = &b->piece[b->piece_slot[i] - 1];
        if (p->n == n && !memcmp(p->id, id, (size_t)n * sizeof(*id))) break;
    }
    return i;
}

static void piece_table(BpeTrainer *b, size_t size) {
    b->piece_slot = arena_alloc(&b->arena, size * sizeof(int));
    b->piece_mask = size - 1;
    for (int i = 0; i < b->n_pieces; i++)
        b->piece_slot[piece_place(b, b->piece[i].id, b->piece[i].n)] = i + 1;
}

static Status count_piece(void *ctx, const char *s, size_t len) {
    BpeTrainer *b = ctx;
    int id[PIECE_MAX], n = len > PIECE_MAX ? PIECE_MAX : (int)len;
    for (int i = 0; i < n; i++) id[i] = N_SPECIAL + (uint8_t)s[i];
    size_t at = piece_place(b, id, n);
    if (b->piece_slot[at]) {
        b->piece[b->piece_slot[at] - 1].count++;
        return OK;
    }
    grow(&b->arena, (void **)&b->piece, b->n_pieces, &b->cap_pieces, sizeof(Piece));
    int *own = arena_alloc(&b->arena, (size_t)n * sizeof(int));
    memcpy(own, id, (size_t)n * sizeof(int));
    b->piece[b->n_pieces] = (Piece){own, n, 1};
    b->piece_slot[at] = ++b->n_pieces;
    if (2 * (size_t)b->n_pieces > b->piece_mask) piece_table(b, 2 * (b->piece_mask + 1));
    return OK;
}

Status bpe_trainer_create(BpeTrainer **b) {
    *b = calloc(1, sizeof(**b));
    if (!*b) return status_fail(E_MEMORY, "memory ran out before a tokenizer could be trained");
    (*b)->shell = tokenizer_new();
    piece_table(*b, 1 << 14);
    Status s = tokenizer_set_splitting((*b)->shell, "smollm");
    if (s == OK) return OK;
    bpe_trainer_release(*b);
    *b = NULL;
    return s;
}

Status bpe_trainer_add(BpeTrainer *b, const char *text, size_t len) {
    return pretokenizer_run(b->shell->pre, &b->scratch, text, len, 1, count_piece, b);
}

void bpe_trainer_release(BpeTrainer *b) {
    if (!b) return;
    tokenizer_release(b->shell);
    regex_scratch_release(b->scratch);
    arena_release(&b->arena);
    free(b);
}

/* ---- pairs ---- */

static size_t pair_place(const BpeTrainer *b, uint64_t key) {
    uint64_t h = key * 0x9e3779b97f4a7c15u;
    size_t i = (size_t)(h ^ h >> 32) & b->pair_mask;
    while (b->pair_slot[i] && b->pair[b->pair_slot[i] - 1].key != key) i = (i + 1) & b->pair_mask;
    return i;
}

static void pair_table(BpeTrainer *b, size_t size) {
    b->pair_slot = arena_alloc(&b->arena, size * sizeof(int));
    b->pair_mask = size - 1;
    for (int i = 0; i < b->n_pairs; i++) b->pair_slot[pair_place(b, b->pair[i].key)] = i + 1;
}

static int pair_number(BpeTrainer *b, int left, int right) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t at = pair_place(b, key);
    if (b->pair_slot[at]) return b->pair_slot[at] - 1;
    grow(&b->arena, (void **)&b->pair, b->n_pairs, &b->cap_pairs, sizeof(Pair));
    b->pair[b->n_pairs] = (Pair){.key = key};
    b->pair_slot[at] = ++b->n_pairs;
    if (2 * (size_t)b->n_pairs > b->pair_mask) pair_table(b, 2 * (b->pair_mask + 1));
    return b->n_pairs - 1;
}

static int pair_add(BpeTrainer *b, int left, int right, int64_t count, int piece) {
    int number = pair_number(b, left, right);
    Pair *p = &b->pair[number];
    p->count += count;
    if (count > 0 && (!p->n_where || p->where[p->n_where - 1] != piece)) {
        grow(&b->arena, (void **)&p->where, p->n_where, &p->cap_where, sizeof(int));
        p->where[p->n_where++] = piece;
    }
    return number;
}

static int comes_first(const Candidate *a, const Candidate *b) {
    return a->count != b->count ? a->count > b->count : a->key < b->key;
}

static void heap_push(BpeTrainer *b, int pair) {
    Candidate c = {b->pair[pair].count, b->pair[pair].key, pair};
    if (c.count <= 0) return;
    grow(&b->arena, (void **)&b->heap, b->n_heap, &b->cap_heap, sizeof(Candidate));
    int i = b->n_heap++;
    for (; i > 0 && comes_first(&c, &b->heap[(i - 1) / 2]); i = (i - 1) / 2)
        b->heap[i] = b->heap[(i - 1) / 2];
    b->heap[i] = c;
}

static Candidate heap_pop(BpeTrainer *b) {
    Candidate top = b->heap[0], last = b->heap[--b->n_heap];
    int i = 0;
    for (int c; (c = 2 * i + 1) < b->n_heap; i = c) {
        if (c + 1 < b->n_heap && comes_first(&b->heap[c + 1], &b->heap[c])) c++;
        if (!comes_first(&b->heap[c], &last)) break;
        b->heap[i] = b->heap[c];
    }
    b->heap[i] = last;
    return top;
}

/* The pair to merge next, -1 when none occurs twice. */
static int best_pair(BpeTrainer *b) {
    while (b->n_heap > 0) {
        Candidate c = heap_pop(b);
        if (c.count != b->pair[c.pair].count) {
            heap_push(b, c.pair);
            continue;
        }
        return c.count > 1 ? c.pair : -1;
    }
    return -1;
}

/* Replaces (left, right) by id in one piece and corrects the counts of the pairs it touches. Pairs
 * that became more frequent are noted in `risen`: an entry of the heap may only be too high, never
 * too low. */
static void merge_in_piece(BpeTrainer *b, int number, int left, int right, int id, Ids *risen) {
    Piece *p = &b->piece[number];
    int to = 0;
    for (int i = 0; i < p->n; i++) {
        if (i + 1 == p->n || p->id[i] != left || p->id[i + 1] != right) {
            p->id[to++] = p->id[i];
            continue;
        }
        if (to > 0) {
            pair_add(b, p->id[to - 1], left, -p->count, number);
            ids_add(risen, pair_add(b, p->id[to - 1], id, p->count, number));
        }
        if (i + 2 < p->n) {
            pair_add(b, right, p->id[i + 2], -p->count, number);
            ids_add(risen, pair_add(b, id, p->id[i + 2], p->count, number));
        }
        p->id[to++] = id;
        i++;
    }
    p->n = to;
}

static void merge_everywhere(BpeTrainer *b, int pair, int id, int merge, Ids *risen) {
    int left = (int)(b->pair[pair].key >> 32), right = (int)(uint32_t)b->pair[pair].key;
    int n = b->pair[pair].n_where;
    const int *where = b->pair[pair].where;
    risen->n = 0;
    for (int i = 0; i < n; i++) merge_in_piece(b, where[i], left, right, id, risen);
    b->pair[pair].count = 0;
    for (int i = 0; i < risen->n; i++) {
        Pair *p = &b->pair[risen->v[i]];
        if (p->merge == merge) continue;
        p->merge = merge;
        heap_push(b, risen->v[i]);
    }
}

static void count_pairs(BpeTrainer *b) {
    pair_table(b, 1 << 14);
    for (int i = 0; i < b->n_pieces; i++) {
        const Piece *p = &b->piece[i];
        for (int k = 0; k + 1 < p->n; k++) pair_add(b, p->id[k], p->id[k + 1], p->count, i);
    }
    for (int i = 0; i < b->n_pairs; i++) heap_push(b, i);
}

/* ---- the vocabulary ---- */

static Status set_base(Tokenizer *t) {
    for (int i = 0; i < N_SPECIAL; i++) {
        AddedToken a = {.id = i, .content = special_names[i], .special = 1};
        tokenizer_add_added(t, &a);
        TRY(bpe_set_token(&t->bpe, i, special_names[i], strlen(special_names[i]), TOKEN_VERBATIM));
    }
    for (int byte = 0; byte < 256; byte++) {
        char c = (char)byte;
        TRY(bpe_set_token(&t->bpe, N_SPECIAL + byte, &c, 1, TOKEN_BYTES));
    }
    return OK;
}

static void token_bytes(Text *out, const Bpe *b, int id) {
    text_add_bytes(out, b->pool.s + b->token[id].at, b->token[id].len);
}

/* Two routes may make the same bytes ("a bc" and "ab c"); the later one gets no second token. */
static int known(const Bpe *b, const Text *bytes, int n_tokens) {
    for (int id = 0; id < n_tokens; id++) {
        const Token *t = &b->token[id];
        if (t->len == bytes->len && !memcmp(b->pool.s + t->at, bytes->s, bytes->len)) return id;
    }
    return -1;
}

typedef struct {
    Ids left, right, risen;
    Text bytes;
} Learning;

static Status learn(BpeTrainer *b, Bpe *bpe, int vocab_size, Learning *l, int *n_tokens) {
    int next = FIRST_MERGE;
    count_pairs(b);
    while (next < vocab_size) {
        int pair = best_pair(b);
        if (pair < 0) break;
        int left = (int)(b->pair[pair].key >> 32), right = (int)(uint32_t)b->pair[pair].key;
        text_clear(&l->bytes);
        token_bytes(&l->bytes, bpe, left);
        token_bytes(&l->bytes, bpe, right);
        int id = known(bpe, &l->bytes, next);
        if (id < 0) {
            id = next++;
            TRY(bpe_set_token(bpe, id, l->bytes.s, l->bytes.len, TOKEN_BYTES));
        }
        ids_add(&l->left, left);
        ids_add(&l->right, right);
        merge_everywhere(b, pair, id, l->left.n, &l->risen);
    }
    *n_tokens = next;
    return OK;
}

static Status assemble(Tokenizer *t, const Bpe *from, const Learning *l, int n_tokens) {
    TRY(bpe_reserve(&t->bpe, n_tokens, l->left.n));
    TRY(set_base(t));
    for (int id = FIRST_MERGE; id < n_tokens; id++) {
        const Token *token = &from->token[id];
        TRY(bpe_set_token(&t->bpe, id, from->pool.s + token->at, token->len, TOKEN_BYTES));
    }
    TRY(bpe_index(&t->bpe));
    for (int i = 0; i < l->left.n; i++) {
        const Token *a = &from->token[l->left.v[i]], *b = &from->token[l->right.v[i]];
        CHECK(bpe_add_merge(&t->bpe, from->pool.s + a->at, a->len, from->pool.s + b->at, b->len));
    }
    TRY(tokenizer_set_splitting(t, "smollm"));
    t->pad = 0;
    tokenizer_add_eos(t, 1);
    return tokenizer_finish(t);
}

static Status train(BpeTrainer *b, int vocab_size, Learning *l, Tokenizer *out) {
    int n_tokens = 0;
    Bpe *bpe = &b->shell->bpe;
    TRY(bpe_reserve(bpe, vocab_size, 0));
    TRY(set_base(b->shell));
    TRY(learn(b, bpe, vocab_size, l, &n_tokens));
    return assemble(out, bpe, l, n_tokens);
}

Status bpe_trainer_finish(BpeTrainer *b, int vocab_size, Tokenizer **out) {
    *out = NULL;
    if (vocab_size < FIRST_MERGE || vocab_size > TOKENS_MAX)
        return status_fail(E_USAGE, "a vocabulary must have %d to %d tokens, not %d", FIRST_MERGE,
                           TOKENS_MAX, vocab_size);
    Learning l = {0};
    Tokenizer *t = tokenizer_new();
    Status s = train(b, vocab_size, &l, t);
    ids_release(&l.left);
    ids_release(&l.right);
    ids_release(&l.risen);
    text_release(&l.bytes);
    if (s == OK)
        *out = t;
    else
        tokenizer_release(t);
    return s;
}
