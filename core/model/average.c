/* average.c - see average.h. */
#include "core/model/average.h"

Status average_create(Average *a, const Network *net, float decay) {
    *a = (Average){.decay = decay};
    if (decay == 0.0f) return OK;
    a->net = net;
    return net->b->alloc(net->b, &a->w, DT_F32, net->w.count, "average of weights");
}

void average_release(Average *a) {
    if (a->net && a->net->b) a->net->b->release(a->net->b, &a->w);
    *a = (Average){0};
}

void average_start(Average *a) {
    if (a->net) a->net->b->copy(a->net->b, a->w, a->net->w.flat, a->net->w.count);
}

void average_update(Average *a) {
    if (a->net) a->net->b->lerp(a->net->b, a->w, a->net->w.flat, a->net->w.count, 1.0f - a->decay);
}

Status average_view(const Average *a, Weights *view) {
    *view = (Weights){.cfg = a->net->w.cfg, .b = a->net->b, .flat = a->w, .count = a->net->w.count};
    return tensors_carve(&view->cfg, &view->t, view->flat);
}
