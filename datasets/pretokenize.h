/* pretokenize.h - the stages of a pre-tokenizer; private to pretokenize.c and pretokenize_read.c.
 */
#ifndef PRETOKENIZE_H
#define PRETOKENIZE_H

#include "datasets/tokenizer_parts.h"

enum { MAX_STAGES = 16 };
typedef enum { ISOLATED, REMOVED, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT, CONTIGUOUS } Behavior;
typedef enum { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER } PrependScheme;

typedef struct {
    Regex *regex; /* NULL: the stage does not split by a regex */
    Behavior behavior;
    int invert;
    int prefix_space; /* ByteLevel's add_prefix_space */
    /* Metaspace: spaces become this character (NULL: another stage), which begins a piece */
    const char *space;
    PrependScheme prepend;
    int split;
} Stage;

struct Pretokenizer {
    Stage stage[MAX_STAGES];
    int n;
    int bytes; /* ends in ByteLevel */
    Arena arena;
};

#endif
