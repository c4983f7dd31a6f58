/* answer_stream.h - an answer shown on standard output while it is drawn: whole characters only,
 * and nothing that may yet turn out to be the beginning of a stop text. */
#ifndef ANSWER_STREAM_H
#define ANSWER_STREAM_H

#include "policy/rollout.h"

typedef struct {
    const Tokenizer *t;
    const StringList *stop;
    TokenizerStream at;
    Text text;                /* the answer so far; without its stop text after the end */
    size_t shown;             /* bytes of it */
    size_t held;              /* bytes at the end that are kept back */
    int (*interrupted)(void); /* NULL: nothing ends an answer early */
} AnswerStream;

void answer_stream_begin(AnswerStream *s, const Tokenizer *t, const StringList *stop);
int answer_stream_token(void *stream, int request, int id); /* a RolloutWatch */
/* Shows the rest and a newline. E_IO when nobody reads it. */
Status answer_stream_end(AnswerStream *s, StopReason why);
void answer_stream_release(AnswerStream *s);

/* Where an answer ends before a stop text; its length when there is none. */
size_t answer_before_stop(const Text *text, const StringList *stop);

#endif
