/* repetition.h - which logits of a row change because of what its prompt and its response already
 * hold: the repetition penalty of CTRL (Keskar et al. 2019) and the ban of repeated n-grams (Paulus
 * et al. 2017), as transformers has them. */
#ifndef REPETITION_H
#define REPETITION_H

#include "core/backend/backend.h"

typedef struct {
    Backend *b;
    float penalty; /* 1 = off */
    int ngram;     /* 0 = off */
    int vocab;
    int *mark, now;            /* [vocab] the last row that took an id */
    int *edits, *starts, rows; /* of the rows so far, as SampleParams wants them */
    Buf dev_edits, dev_starts;
} Repetition;

/* Room for rows of up to max_length ids below vocab. E_MEMORY. */
Status repetition_create(Repetition *r, Backend *b, int vocab, int rows, int max_length);
void repetition_release(Repetition *r); /* {0} is fine */
void repetition_clear(Repetition *r, float penalty, int ngram);
void repetition_add_row(Repetition *r, const int *ids, int n);
/* The device gets the rows; p points at them. */
void repetition_apply(Repetition *r, SampleParams *p);

#endif
