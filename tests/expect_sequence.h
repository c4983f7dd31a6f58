/* expect_sequence.h - a row's tokens as text, with the trained stretches marked. Comes after
 * cmocka.h. */
#ifndef EXPECT_SEQUENCE_H
#define EXPECT_SEQUENCE_H

#include <string.h>

#include "core/base/text.h"
#include "datasets/dataset.h"
#include "tests/expect.h"

/* marks: what stands before and behind a trained stretch, "[]" */
static inline void expect_sequence(const Tokenizer *t, const Sequence *q, const char marks[2],
                                   const char *want) {
    Text got = {0};
    int trained = 0;
    for (int i = 0; i < q->n; i++) {
        if (q->trained[i] != trained) text_add_bytes(&got, &marks[trained], 1);
        trained = q->trained[i];
        expect_ok(tokenizer_decode(t, &q->ids[i], 1, 1, &got));
    }
    if (trained) text_add_bytes(&got, &marks[1], 1);
    if (strcmp(got.s ? got.s : "", want)) fail_msg("got\n%s\nexpected\n%s", got.s, want);
    text_release(&got);
}

#endif
