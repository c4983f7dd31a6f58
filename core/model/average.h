/* average.h - a running average of a network's weights (Polyak & Juditsky 1992), beside them on the
 * backend. */
#ifndef AVERAGE_H
#define AVERAGE_H

#include "core/model/network.h"

typedef struct {
    const Network *net; /* NULL: there is no average, and every call does nothing */
    Buf w;              /* [net->w.count] */
    float decay;
} Average;

/* decay 0: none. The average is zero until average_start or a checkpoint fills it. */
Status average_create(Average *a, const Network *net, float decay);
void average_release(Average *a);
void average_start(Average *a);  /* becomes the weights as they are */
void average_update(Average *a); /* w <- decay w + (1 - decay) net */
/* The network's weights with the average's in their place, to be written and to be given back with
 * tensors_release(&view->t); it cannot compute. */
Status average_view(const Average *a, Weights *view);

#endif
