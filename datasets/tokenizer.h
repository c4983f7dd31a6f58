/* tokenizer.h - byte-pair encoding (Sennrich et al. 2016) from and to tokenizer.json: byte-level
 * (GPT-2's byte alphabet) and by character with bytes to fall back on (SentencePiece-style); from
 * GGUF metadata, and a trainer. Any feature of a tokenizer.json that is not supported is refused by
 * its name. Encoding is linear (n log n in the length of one piece). */
#ifndef TOKENIZER_H
#define TOKENIZER_H

#include "core/base/json.h"
#include "core/base/memory.h"

typedef struct Tokenizer Tokenizer;

typedef struct { /* growing list of ids */
    int *v;
    int n, cap;
} Ids;
void ids_add(Ids *ids, int id);
void ids_release(Ids *ids);

/* dir/tokenizer.json (+ tokenizer_config.json, generation_config.json, config.json for special
 * ids). */
Status tokenizer_open_dir(Tokenizer **t, const char *dir);
Status tokenizer_open_json(Tokenizer **t, const char *name, const char *json, size_t len);
/* GGUF metadata: tokenizer.ggml.model = gpt2; pre = smollm | gpt-2 | qwen2 | llama-bpe, others
 * refused. tokens[n] are byte-alphabet strings, types[n] the ggml token types (3 = control, 4 =
 * user defined), merges "a b". bos/eos -1 when absent. chat_template NULL when absent. */
typedef struct {
    const char *pre;
    const char *const *tokens;
    const int *types;
    int n_tokens;
    const char *const *merges;
    int n_merges;
    int bos, eos, pad;
    int add_bos, add_eos; /* what TOKENIZE_ADD_SPECIAL adds */
    const char *chat_template;
} GgufTokenizer;
Status tokenizer_from_gguf(Tokenizer **t, const GgufTokenizer *g);
Status tokenizer_open_gguf(Tokenizer **t, const char *path);
void tokenizer_release(Tokenizer *t);

/* Appends the ids of text. parse_special: special tokens in the text become their ids (template
 * text); without it they stay ordinary text (users' text). Added tokens that are not special (runs
 * of spaces, <think>) are found either way. add_special: what the post-processor adds. */
enum { TOKENIZE_PARSE_SPECIAL = 1, TOKENIZE_ADD_SPECIAL = 2 };
Status tokenizer_encode(const Tokenizer *t, const char *text, size_t len, int flags, Ids *out);

/* Text of a template with users' text in it: `data` has a byte for every byte of text, not 0 where
 * users wrote it. Special tokens are found where all their bytes are the template's; all else is as
 * for TOKENIZE_PARSE_SPECIAL. begins: else the text goes on behind another. */
Status tokenizer_encode_mixed(const Tokenizer *t, const char *text, const uint8_t *data, size_t len,
                              int begins, Ids *out);

/* Appends the bytes of ids; special tokens are left out unless keep_special. Ids out of range:
 * E_FORMAT. Where *out holds something the ids go on with it: models that put a space in front of
 * every text drop it again only where a text begins. */
Status tokenizer_decode(const Tokenizer *t, const int *ids, int n, int keep_special, Text *out);

/* A text decoded in parts: the parts' bytes, end to end, are those of decoding it at once, whatever
 * the first tokens are. {0} stands before a text; characters may be spread over parts. */
typedef struct {
    int begun, body, stripped;
} TokenizerStream;
Status tokenizer_decode_next(const Tokenizer *t, TokenizerStream *at, const int *ids, int n,
                             int keep_special, Text *out);

int tokenizer_vocab_size(const Tokenizer *t); /* highest id + 1 */
int tokenizer_eos(const Tokenizer *t);        /* the one appended to completions; -1 none */
/* Any id of the model's set; the special token <|im_end|>, where a chatml turn ends, always is. */
int tokenizer_is_eos(const Tokenizer *t, int id);
const int *tokenizer_eos_ids(const Tokenizer *t, int *n); /* the whole set, tokenizer_eos() first */
int tokenizer_pad(const Tokenizer *t); /* distinct from eos when the tokenizer has one; -1 none */
int tokenizer_bos(const Tokenizer *t);
int tokenizer_id(const Tokenizer *t,
                 const char *token); /* added or vocabulary token by content; -1 */
const char *tokenizer_chat_template(const Tokenizer *t); /* "" when none */
/* What chat templates call bos_token and eos_token; NULL when the tokenizer's config has none. */
const char *tokenizer_bos_text(const Tokenizer *t);
const char *tokenizer_eos_text(const Tokenizer *t);
uint64_t tokenizer_hash(const Tokenizer *t); /* of everything that changes ids */

/* Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json that transformers reads.
 */
Status tokenizer_save(const Tokenizer *t, const char *dir);

/* Trains byte-level BPE on texts: every byte is a token, single digits, GPT-2's splitting; special
 * tokens
 * <|pad|>, <|eos|>, <|im_start|>, <|im_end|> included in vocab_size. Deterministic (ties by
 * smallest ids). Where the text runs out of pairs that occur twice the vocabulary stays smaller. A
 * trainer finishes once. */
typedef struct BpeTrainer BpeTrainer;
Status bpe_trainer_create(BpeTrainer **b);
Status bpe_trainer_add(BpeTrainer *b, const char *text, size_t len);
Status bpe_trainer_finish(BpeTrainer *b, int vocab_size, Tokenizer **out);
void bpe_trainer_release(BpeTrainer *b);

#endif
