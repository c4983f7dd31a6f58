/* tokenizer_parts.h - the parts a tokenizer is made of; private to the tokenizer's own files.
 *
 * text -> added tokens are cut out -> NFC -> pieces (pretokenizer) -> ids (merges). Vocabulary
 * tokens are kept as the bytes they stand for, not in GPT-2's byte alphabet; a token with a
 * character outside of the alphabet, or a special one, is kept as it is written (verbatim) and
 * merges never make it. */
#ifndef TOKENIZER_PARTS_H
#define TOKENIZER_PARTS_H

#include <stdint.h>
#include "datasets/tokenizer.h"

/* ---- the byte alphabet (byte_alphabet.c) ---- */

void alphabet_encode(Text *out, const char *bytes, size_t n);
/* Appends the bytes of a token; 0 (nothing appended) when a character is outside of the alphabet.
 */
int alphabet_decode(Text *out, const char *token, size_t n);

/* Length of the longest valid UTF-8 prefix of s[0..n). */
size_t utf8_prefix(const char *s, size_t n);
/* Length of the character at s (valid UTF-8, n > 0) and its code point. */
int utf8_char(const char *s, size_t n, int32_t *code);
int utf8_is_space(int32_t code); /* Unicode White_Space */
int utf8_is_word(int32_t code);

/* ---- vocabulary and merges (bpe.c) ---- */

typedef enum { TOKEN_HOLE, TOKEN_BYTES, TOKEN_VERBATIM } TokenKind;
typedef struct {
    uint32_t at, len; /* its bytes in the pool */
    TokenKind kind;
} Token;

typedef struct {
    uint64_t pair; /* left id, right id */
    int rank, id;  /* rank -1: free slot */
} Merge;

typedef struct {
    Token *token;
    int n;
    Text pool;
    int *slot; /* open addressing: id, or -1 */
    size_t mask;
    int byte_id[256]; /* -1 when the vocabulary lacks it */
    Merge *merge;     /* open addressing by pair */
    size_t merge_mask;
    int n_merges, cap_merges;
    int *merge_left, *merge_right; /* by rank, for saving */
    int ignore_merges;
    Arena arena;
} Bpe;

enum { TOKENS_MAX = 1 << 24, TOKEN_BYTES_MAX = 1 << 16 };

Status bpe_reserve(Bpe *b, int n_tokens, int n_merges);
Status bpe_set_token(Bpe *b, int id, const char *bytes, size_t len, TokenKind kind);
Status bpe_index(Bpe *b); /* after the last token, before the first merge */
int bpe_find(const Bpe *b, const char *bytes, size_t len, TokenKind kind); /* -1 */
/* The next merge in order of rank, tokens as bytes; 0 when one of the three is not in the
 * vocabulary. */
int bpe_add_merge(Bpe *b, const char *left, size_t n_left, const char *right, size_t n_right);
void bpe_release(Bpe *b);

typedef struct { /* scratch of one encoding */
    int *id, *prev, *next;
    uint64_t *heap; /* rank, position */
    size_t cap, n_heap;
    Arena arena;
} BpeWork;
void bpe_encode_piece(const Bpe *b, BpeWork *w, const char *s, size_t n, Ids *out);
void bpe_work_release(BpeWork *w);

/* ---- pieces (pretokenize.c) ---- */

typedef struct Pretokenizer Pretokenizer;
typedef Status (*PieceFn)(void *ctx, const char *s, size_t n);

/* From the pre_tokenizer node of a tokenizer.json. */
Status pretokenizer_create(Pretokenizer **p, const JsonDoc *doc, const Json *node);
/* Calls emit for every piece of s; bytes that are not UTF-8 form pieces of their own. */
Status pretokenizer_run(const Pretokenizer *p, const char *s, size_t n, PieceFn emit, void *ctx);
void pretokenizer_release(Pretokenizer *p);

/* ---- added tokens (added_tokens.c) ---- */

typedef struct {
    int id;
    const char *content;
    int special, normalized, lstrip, rstrip, single_word;
} AddedToken;

typedef struct TrieNode {
    int child, sibling; /* node numbers, 0 none */
    int added;          /* index of the token that ends here, -1 none */
    uint8_t byte;
} TrieNode;

typedef struct {
    AddedToken *v;
    int n, cap;
    uint8_t starts[2][256]; /* bytes that raw and normalized ones begin with */
    int has[2];
    TrieNode *node; /* node 0: root of the raw ones, node 1: of the normalized ones */
    int n_nodes, cap_nodes;
} AddedTokens;

void added_index(AddedTokens *a, Arena *arena, int nfc);
typedef struct {
    size_t from, to; /* the stretch it takes, stripped whitespace included */
    const AddedToken *token;
} AddedMatch;
/* First match in s at or behind `at`; specials only with `special`. 0 when there is none. */
int added_find(const AddedTokens *a, int normalized, int special, const char *s, size_t n,
               size_t at, AddedMatch *m);

/* NFC of n bytes appended to out; bytes that are not UTF-8 pass unchanged (nfc.c). */
Status nfc_append(Text *out, const char *s, size_t n);

/* ---- the whole ---- */

typedef struct {
    const char *normalizer, *pre_tokenizer, *post_processor, *decoder; /* JSON, for saving */
} TokenizerSource;

struct Tokenizer {
    Bpe bpe;
    AddedTokens added;
    Pretokenizer *pre;
    int nfc;
    int *prefix, *suffix, n_prefix, n_suffix; /* what the post-processor adds */
    int bos, eos, pad;
    const char *unk; /* the model's unk_token, NULL when null */
    int *eos_set, n_eos;
    const char *chat_template;
    TokenizerSource source;
    int size;                       /* highest id + 1 */
    const AddedToken **added_by_id; /* [size] */
    uint64_t hash;
    Arena arena;
};

/* Reads normalizer, pre_tokenizer, post_processor and decoder of a tokenizer.json. */
Status tokenizer_read_parts(Tokenizer *t, const JsonDoc *doc);
/* The same for a splitting named as GGUF files name it: smollm, gpt-2, qwen2, llama-bpe. E_FORMAT
 * names others. */
Status tokenizer_set_splitting(Tokenizer *t, const char *pre);

Tokenizer *tokenizer_new(void);
void tokenizer_add_added(Tokenizer *t, const AddedToken *token);
/* The last step: indexes added tokens, settles eos and pad, hashes. */
Status tokenizer_finish(Tokenizer *t);
void tokenizer_add_eos(Tokenizer *t, int id); /* the first one is tokenizer_eos() */

#endif
