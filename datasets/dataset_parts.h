/* dataset_parts.h - what a data set is made from; private to the files of the data set.
 *
 * a JSON row -> Example (turns and answers, whatever shape the row had) -> Renderer (text and ids
 * in one layout, or by the model's own template) -> Row. */
#ifndef DATASET_PARTS_H
#define DATASET_PARTS_H

#include <stdint.h>
#include "datasets/dataset.h"
#include "datasets/template.h"

typedef enum {
    ROLE_SYSTEM,
    ROLE_USER,
    ROLE_ASSISTANT,
    ROLE_OTHER /* for a template to know */
} Role;
typedef struct {
    Role role;
    const char *role_name, *content;
    const Json *message; /* all that the row says of it; NULL when it was a string */
} Turn;

/* ---- dataset_shapes.c ---- */

typedef struct {
    Turn *turn;
    int n;
    int is_chat;           /* came as role/content lists, not as a string */
    int is_text;           /* turn[0].content is text, all of it trained */
    int is_conversation;   /* every assistant turn is trained */
    const char *answer[2]; /* completion, or chosen and rejected; NULL none */
    const char *subset;
    float margin;
} Example;

typedef struct {
    Arena *arena; /* of what is read */
    const JsonDoc *doc;
    RowFault fault; /* out: what is wrong with a row that is refused */
} RowReader;
/* E_FORMAT with file:line:column for a row that is not one. */
Status example_read(Example *e, RowReader *in, const DataConfig *cfg, RowKind kind);
/* A prompt by itself: a string or a list of messages that ends with the user's or a tool's. */
Status example_prompt(Example *e, RowReader *in, const Json *prompt);
int turn_calls_tools(const Turn *t);

/* ---- dataset_render.c ---- */

typedef struct {
    const Tokenizer *t;
    const DataConfig *cfg;
    int chatml;
    int im_start, im_end, end; /* end: the id that ends an answer in this layout */
    int bos;                   /* put before plain text when the tokenizer does so, else -1 */
    Ids ids;
    Text trained; /* a byte for every id */
    Text text;    /* what the ids stand for */
    Text pending; /* text that is not encoded yet */
    int n_prompt; /* ids before the first trained one */
    size_t prompt_text;
    int open_ids; /* behind the last special token; at the prompt's end seam_ids */
    size_t open_text;
    int seam_ids;
    size_t seam_text;
    int differs;        /* the template writes the prompt differently where its answer follows */
    int templated;      /* the model's template writes this example */
    ChatTemplate *chat; /* opened when it is first needed */
    JinjaOutput out;
    Text messages; /* the conversation as JSON, its ] not there yet */
} Renderer;

void renderer_init(Renderer *r, const Tokenizer *t, const DataConfig *cfg);
void renderer_release(Renderer *r);
/* The prompt's turns and the opening of the answer; afterwards ids, text and n_prompt are the
 * prompt's. */
Status render_prompt(Renderer *r, const Example *e);
/* The answer and its end behind the prompt, in place of an earlier answer. */
Status render_answer(Renderer *r, const char *answer);
/* A whole conversation up to its last assistant turn, or a text; *first is the first trained
 * answer. */
Status render_all(Renderer *r, const Example *e, const char **first);

/* *joined = 1 where the prompt's ids are not the beginning of what the prompt and its answer, the
 * last one rendered, are encoded to as one text. */
Status render_seam(const Renderer *r, const char *answer, int *joined);

void renderer_mark(Renderer *r, int trained); /* the ids that have no flag yet */
/* Puts the row's place before the sentence of what a renderer refused about it. */
Status render_status(const JsonDoc *doc, Status s);

/* ---- dataset_template.c: the same three by the model's template ---- */

Status template_prompt(Renderer *r, const Example *e);
Status template_answer(Renderer *r, const char *answer);
Status template_all(Renderer *r, const Example *e, const char **first);

/* ---- dataset_check.c ---- */

void dataset_note(Dataset *d, int line, RowFault fault, const char *reason);
void lengths_measure(Lengths *out, Ids *v); /* sorts v */

/* ---- dataset_cache.c ---- */

/* The file that holds the tokenized rows of `path` under cfg, "" without a cache. */
Status cache_name(Text *name, const DataConfig *cfg, const char *path, RowKind kind,
                  const Tokenizer *t);
/* 1 and a filled d when the file is there and whole; a corrupt one is a warning and 0. */
int cache_load(Dataset *d, Text *rejects, const char *name);
/* Failing to write is a warning: the cache only saves time. */
void cache_store(const Dataset *d, const Text *rejects, const char *name);

#endif
