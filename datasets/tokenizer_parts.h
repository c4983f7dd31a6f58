/* tokenizer_parts.h - the parts a tokenizer is made of; private to the tokenizer's own files.
 *
 * text -> added tokens are cut out -> normalizer -> pieces (pretokenizer) -> ids (merges).
 * Byte-level models: vocabulary tokens are kept as the bytes they stand for, not in GPT-2's byte
 * alphabet; a token with a character outside of the alphabet is kept as it is written (verbatim).
 * Models by character (SentencePiece-style) keep every token as it is written. Special tokens are
 * verbatim in both, and merges never make one. */
#ifndef TOKENIZER_PARTS_H
#define TOKENIZER_PARTS_H

#include <stdint.h>
#include "datasets/regex.h"
#include "datasets/tokenizer.h"

enum { TOKENIZER_TEXT_MAX = 1 << 30 }; /* bytes of a text, before and after normalizing */

/* ---- the byte alphabet (byte_alphabet.c) ---- */

void alphabet_encode(Text *out, const char *bytes, size_t n);
/* Appends the bytes of a token; 0 (nothing appended) when a character is outside of the alphabet.
 */
int alphabet_decode(Text *out, const char *token, size_t n);

/* Length of the longest valid UTF-8 prefix of s[0..n). */
size_t utf8_prefix(const char *s, size_t n);
/* Length of the character at s (valid UTF-8, n > 0) and its code point. */
int utf8_char(const char *s, size_t n, int32_t *code);
static inline int utf8_next(const char *s, size_t n, int32_t *code) {
    *code = (uint8_t)*s;
    return *code < 0x80 ? 1 : utf8_char(s, n, code);
}
int utf8_is_word(int32_t code);
/* The end of the whitespace at s[at], and the start, not below floor, of the one that ends there.
 */
size_t utf8_skip_space(const char *s, size_t n, size_t at);
size_t utf8_skip_space_left(const char *s, size_t at, size_t floor);
/* Where a short string (a character) begins in s; NULL. */
const char *find_short(const char *s, size_t n, const char *what, size_t width);
/* Start of the character that ends at `at` > 0. */
size_t utf8_before(const char *s, size_t at);

/* ---- vocabulary and merges (bpe.c, bpe_merge.c, bpe_encode.c) ---- */

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
    int by_char;      /* symbols are characters, else bytes */
    int byte_id[256]; /* byte tokens, by_char "<0x0A>"; -1 when the vocabulary lacks it */
    int *char_id;     /* by_char: the characters below BPE_CHARS */
    int byte_fallback, unk, fuse_unk; /* unk -1: none */
    int cuts;                         /* a piece may be cut where no merge joins two characters */
    uint64_t *joins;                  /* by_char: hashed set of characters that merges join */
    size_t joins_mask;
    _Atomic(uint8_t) *whole; /* [n] what is known of the token as a word, bpe_encode.c */
    Merge *merge;            /* open addressing by pair */
    size_t merge_mask;
    int n_merges, cap_merges;
    int *merge_left, *merge_right; /* by rank, for saving */
    int ignore_merges;
    Arena arena;
} Bpe;

enum { TOKENS_MAX = 1 << 24, TOKEN_BYTES_MAX = 1 << 16, BPE_SHORT = 64, BPE_CHARS = 1 << 16 };

/* by_char and byte_fallback are set before. */
Status bpe_reserve(Bpe *b, int n_tokens, int n_merges);
Status bpe_set_token(Bpe *b, int id, const char *bytes, size_t len, TokenKind kind);
Status bpe_index(Bpe *b); /* after the last token, before the first merge */
int bpe_find(const Bpe *b, const char *bytes, size_t len, TokenKind kind); /* -1 */
int bpe_find_any(const Bpe *b, const char *bytes, size_t len);             /* of either kind; -1 */
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
/* Merges n symbols and appends what is left: up to BPE_SHORT in id, or any number in w->id. */
void bpe_merge_short(const Bpe *b, int *id, int n, Ids *out);
void bpe_merge_long(const Bpe *b, BpeWork *w, int n, Ids *out);
void bpe_work_reserve(BpeWork *w, size_t n);
void bpe_work_release(BpeWork *w);

static inline uint64_t pair_key(int left, int right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}
static inline uint64_t pair_hash(uint64_t pair) {
    uint64_t h = pair * 0x9e3779b97f4a7c15u;
    return h ^ h >> 32;
}
static inline size_t merge_slot(const Bpe *b, uint64_t pair) {
    size_t i = (size_t)pair_hash(pair) & b->merge_mask;
    while (b->merge[i].rank >= 0 && b->merge[i].pair != pair) i = (i + 1) & b->merge_mask;
    return i;
}
static inline size_t bpe_join_bit(const Bpe *b, int32_t left, int32_t right) {
    return (size_t)pair_hash(pair_key(left, right)) & b->joins_mask;
}

/* ---- normalizing (normalize.c, nfc.c) ---- */

typedef enum { UNICODE_NFC, UNICODE_NFD, UNICODE_NFKC, UNICODE_NFKD } UnicodeForm;
/* Appends the form of n bytes; bytes that are not UTF-8 pass unchanged. */
Status unicode_append(Text *out, const char *s, size_t n, UnicodeForm form);

typedef struct {
    const char *literal, *content; /* literal NULL: the regex */
    size_t n_literal, n_content;
    Regex *regex;
} Replacer;
Status replacer_read(Replacer *r, Arena *a, const JsonDoc *doc, const Json *node);
Status replacer_run(const Replacer *r, const char *s, size_t n, Text *out);
void replacer_release(Replacer *r);

typedef enum {
    NORMALIZE_FORM,
    NORMALIZE_PREPEND,
    NORMALIZE_REPLACE,
    NORMALIZE_LOWERCASE,
    NORMALIZE_STRIP
} NormalizeKind;
typedef struct {
    NormalizeKind kind;
    UnicodeForm form;
    int left, right;    /* Strip */
    const char *prefix; /* Prepend */
    Replacer replace;
} NormalizeStep;

enum { NORMALIZE_STEPS = 16 };
typedef struct {
    NormalizeStep step[NORMALIZE_STEPS];
    int n; /* 0: text passes as it is */
} Normalizer;

/* Adds the steps of a normalizer node; released also when this fails. */
Status normalizer_read(Normalizer *n, Arena *a, const JsonDoc *doc, const Json *node);
/* Puts the normalized text into *out, in place of what is there; for a normalizer with steps. */
Status normalizer_run(const Normalizer *n, const char *s, size_t len, Text *out);
int normalizer_composes(const Normalizer *n); /* NFC is among the steps */
void normalizer_release(Normalizer *n);

/* ---- pieces (pretokenize.c, pretokenize_read.c) ---- */

typedef struct Pretokenizer Pretokenizer;
typedef Status (*PieceFn)(void *ctx, const char *s, size_t n);

/* From the pre_tokenizer node of a tokenizer.json; NULL: a text is one piece. */
Status pretokenizer_create(Pretokenizer **p, const JsonDoc *doc, const Json *node);
int pretokenizer_is_bytes(const Pretokenizer *p); /* byte-level, else by character */
/* Calls emit for every piece of s; bytes that are not UTF-8 form pieces of their own. first: s
 * begins the text. *scratch is made where it is NULL. */
Status pretokenizer_run(const Pretokenizer *p, RegexScratch **scratch, const char *s, size_t n,
                        int first, PieceFn emit, void *ctx);
void pretokenizer_release(Pretokenizer *p);
/* The character and whether one is put in front of texts, of a Metaspace node. */
Status metaspace_read(const JsonDoc *doc, const Json *node, const char **space, int *prepends);

/* ---- added tokens (added_tokens.c) ---- */

/* A text that nearly matches everywhere costs this many steps per byte. */
enum { ADDED_BYTES_MAX = 256 };

typedef struct {
    int id;
    const char *content;
    const char *matched; /* what is looked for, set by added_index: the content, normalized */
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

Status added_index(AddedTokens *a, Arena *arena, const Normalizer *n);
typedef struct {
    size_t from, to; /* the stretch it takes, stripped whitespace included */
    const AddedToken *token;
} AddedMatch;
/* First match in s at or behind `at`; specials only with `special`, and only where no byte of
 * theirs is marked in `data` (NULL: none is). 0 when there is none. */
int added_find(const AddedTokens *a, int normalized, int special, const char *s,
               const uint8_t *data, size_t n, size_t at, AddedMatch *m);

/* ---- decoding (decode.c, decode_read.c) ---- */

typedef enum { DECODE_REPLACE, DECODE_METASPACE, DECODE_BYTE_FALLBACK, DECODE_STRIP } DecodeKind;
typedef struct {
    DecodeKind kind;
    Replacer replace;
    const char *content; /* Strip's, Metaspace's character */
    int start, stop; /* Strip: how often at most; Metaspace: start: it drops spaces at a start */
} DecodeStep;

enum { DECODE_STEPS = 16 };
typedef struct { /* what models by character do; byte-level ones have none of it */
    DecodeStep step[DECODE_STEPS];
    int n, fused;
    char strip; /* behind Fuse: dropped up to n_strip times at the start of a text */
    int n_strip;
    /* bytes of every token that is not a text's first */
    Text pool;
    uint32_t *at; /* [size + 1] */
} Decoder;

Status decoder_read(Decoder *d, Arena *a, const JsonDoc *doc, const Json *node, int by_char);
Status decoder_index(Tokenizer *t); /* once the vocabulary is complete */
void decoder_release(Decoder *d);

/* ---- the whole ---- */

typedef struct {
    const char *normalizer, *pre_tokenizer, *post_processor, *decoder; /* JSON, for saving */
} TokenizerSource;

struct Tokenizer {
    Bpe bpe;
    AddedTokens added;
    Normalizer normalizer;
    Pretokenizer *pre;
    Decoder decoder;
    int *prefix, *suffix, n_prefix, n_suffix; /* what the post-processor adds */
    int bos, eos, pad;
    const char *unk; /* the model's unk_token, NULL when null */
    int *eos_set, n_eos;
    const char *chat_template;
    int named; /* a config file names special tokens: those that it leaves out have no name */
    const char *bos_text, *eos_text;
    TokenizerSource source;
    int size;                       /* highest id + 1 */
    const AddedToken **added_by_id; /* [size] */
    uint64_t hash;
    Arena arena;
};

/* An object's "type". */
Status json_node_type(const JsonDoc *doc, const Json *n, const char **type);
/* tokenizer_config.json and the other files beside a tokenizer.json. */
Status tokenizer_read_dir(Tokenizer *t, const char *dir);
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
