/* dataset.h - records of a JSONL file in the field's shapes, as token ids with what is trained.
 *
 * One way of tokenizing for every trainer: ids = encode(prompt) ++ encode(completion) ++ EOS; text
 * of users is encoded with special-token parsing off, template text with it on.
 *
 * Shapes, found by their keys: {text} {prompt} {prompt, completion} {messages} {prompt, chosen,
 * rejected} {chosen, rejected}; prompts and answers are strings or lists of role/content. Layouts:
 * plain puts a string prompt and its answer together as they are, and messages as blocks
 * "System:\n...\n\n", "User:\n...\n\n", "Assistant:\n...<eos>\n\n"; chatml is
 * <|im_start|>role\n...<|im_end|>\n, a string prompt being one message of the user. auto lets the
 * model's own chat template write prompts and messages, a string being one message of the user;
 * without one it takes chatml when the tokenizer has these two tokens and the row holds messages,
 * else plain. */
#ifndef DATASET_H
#define DATASET_H

#include "datasets/tokenizer.h"
#include "core/run/settings.h"

typedef struct {
    StringList train;      /* files; several are mixed by `weights` */
    StringList weights;    /* numbers, one per train file; empty: by size */
    const char *eval;      /* file, "" none */
    const char *layout;    /* how messages and prompts become text: auto|plain|chatml */
    const char *system;    /* system message put first when the row has none, "" none */
    int max_length;        /* tokens of prompt + completion; longer rows are dropped and counted */
    int max_prompt_length; /* 0: no limit of its own */
    const char *truncate_prompt; /* refuse|left */
    const char *bad_rows;        /* stop | skip:N */
    const char *cache;           /* folder for tokenized rows, "" none */
    int limit;                   /* at most this many rows of each file, 0 all */
    int eval_limit;
    const char *prompt_key, *chosen_key, *rejected_key, *completion_key; /* column names */
} DataConfig;
extern const Field data_fields[];
extern const int data_n_fields;

typedef enum { ROWS_SFT, ROWS_PAIRS, ROWS_PROMPTS } RowKind;

/* What a check finds in a row. A faulty row is refused (data.bad_rows); a remark is counted. */
typedef enum {
    FAULT_SHAPE,      /* missing or wrong keys, a conversation that the template refuses */
    FAULT_JSON,       /* bad JSON or UTF-8 */
    FAULT_EMPTY,      /* an empty prompt, message or answer */
    FAULT_SAME,       /* chosen = rejected, as text or as tokens */
    FAULT_NO_PROMPT,  /* chosen and rejected do not begin alike, or differently from the prompt */
    FAULT_NOT_PREFIX, /* the prompt is not the beginning of the prompt with its answer */
    FAULT_DOUBLED,    /* a beginning or an end that is added by itself stands there already */
    FAULT_UNTRAINED,  /* no token is trained but an end */
    REMARK_LONG,      /* over max_length or max_prompt_length: left out, or cut as asked */
    REMARK_SEAM, /* the tokenizer would join the prompt's last letters with the answer's first */
    REMARK_DUPLICATE, /* the same ids as an earlier row */
    REMARK_OVERLAP,   /* its prompt is among the training rows'; of an eval file */
    ROW_FAULTS,
    FIRST_REMARK = REMARK_LONG
} RowFault;
extern const char *const fault_names[ROW_FAULTS]; /* "shape", ... as reports call them */

typedef struct {
    int line;
    RowFault fault;
    const char *reason; /* a sentence */
} Finding;

enum { FINDINGS_MAX = 100000 }; /* what is beyond is counted only */

typedef struct { /* one sequence */
    const int *ids;
    const uint8_t *trained; /* [n] tokens in the loss (never ids[0]) */
    int n, n_prompt;        /* n_prompt: tokens before the completion (first trained for chats) */
} Sequence;

typedef struct {
    Sequence a, b;                   /* SFT and prompts: a. Pairs: a = chosen, b = rejected */
    const char *prompt, *completion; /* text, for judges and samples: prompt as shown to the model;
                                        completion NULL if none */
    const char *source; /* the whole row as JSON (the world's gold rule reads its keys from here) */
    const char *subset; /* "" none */
    float margin;       /* NAN when the row has none */
    int line;
} Row;

typedef struct { /* tokens */
    int p50, p90, p95, p99, max;
} Lengths;

typedef struct {
    Row *rows;
    int n, n_read;                      /* usable; those left out among them */
    int found[ROW_FAULTS], dropped_bad; /* counted, reported by dataset_report */
    Finding *findings;                  /* in the order of lines */
    int n_findings;
    const char *rejects;               /* rows left out, as lines of JSON; "" none */
    Lengths prompt, completion, whole; /* of all good rows, those too long among them */
    RowKind kind;
    uint64_t hash; /* of the ids: part of the keys of caches */
    Arena arena;
} Dataset;

/* Reads one file. Bad rows as cfg->bad_rows: stop with file:line:column, or skip up to N, counted
 * and kept in `rejects`. Over-long rows are dropped and counted, never cut. */
Status dataset_open(Dataset *d, const DataConfig *cfg, const char *path, RowKind kind,
                    const Tokenizer *t);
/* The rows left out into a file of them, in which rows of other data files stay; nothing to write
 * leaves no file. */
Status dataset_write_rejects(const Dataset *d, const char *path, const char *rejects_path);
void dataset_release(Dataset *d);
/* A line or two to the log, with one rendered sample. */
void dataset_report(const Dataset *d, const char *path);

/* Notes the rows of eval whose prompt (of a text: all of it) training has, too: REMARK_OVERLAP. */
void dataset_overlap(Dataset *eval, const Dataset *train, int n_train);

/* Renders one prompt as the model sees it and appends its ids: a plain string, or messages
 * ([{"role","content"}]) with the layout's turn markers and the opening of the assistant's turn. */
Status prompt_encode(const Tokenizer *t, const DataConfig *cfg, const JsonDoc *doc,
                     const Json *prompt, Ids *out, Text *rendered);

/* The order of training: epoch after epoch of a seeded permutation of all rows; with weights every
 * position draws a set and takes the next row of that set's own epochs. A pure function of (seed,
 * position): nothing to save but the position. Going through positions in order is fast; with
 * weights a step back counts anew. */
typedef struct {
    const Dataset *sets;
    int n_sets;
    const double *weights; /* NULL: one set, or by size */
    uint64_t seed;
    int total;             /* rows in one epoch */
    uint64_t next, *drawn; /* with weights: rows drawn from each set before position `next` */
} DataOrder;
Status data_order_create(DataOrder *o, const Dataset *sets, int n_sets, const double *weights,
                         uint64_t seed);
/* Row number `position` of the whole run. */
const Row *data_order_row(DataOrder *o, uint64_t position);
void data_order_release(DataOrder *o);

#endif
