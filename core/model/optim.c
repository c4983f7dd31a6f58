/* optim.c - one optimizer step over the flat ranges of a network. */
#include "core/model/optim.h"

#include <math.h>
#include <string.h>

#include "core/base/log.h"

/* Of a norm, after clipping: the second moments hold squares in f32. */
static const double LARGEST = 1e18;

Status optim_create(Optim *o, Network *net, const OptimConfig *cfg) {
    CHECK(net->grad.ptr);
    *o = (Optim){.net = net, .cfg = *cfg};
    int host = cfg->optimizer_device && !strcmp(cfg->optimizer_device, "host");
    Status (*alloc)(Backend *, Buf *, Dtype, size_t, const char *) =
        host ? net->b->alloc_host : net->b->alloc;
    TRY(alloc(net->b, &o->m, DT_F32, net->w.count, "first moments"));
    return alloc(net->b, &o->v, DT_F32, net->w.count, "second moments");
}

void optim_release(Optim *o) {
    if (!o->net || !o->net->b) return;
    o->net->b->release(o->net->b, &o->m);
    o->net->b->release(o->net->b, &o->v);
    *o = (Optim){0};
}

float optim_rate(const OptimConfig *cfg, int step, int total) {
    double warmup = cfg->warmup < 1.0f ? floor((double)cfg->warmup * total) : (double)cfg->warmup;
    if (step < warmup) return (float)(cfg->learning_rate * (step + 1) / warmup);
    double left = total - warmup, done = left > 0.0 ? (step - warmup) / left : 1.0;
    if (done > 1.0) done = 1.0;
    if (!strcmp(cfg->schedule, "constant")) return cfg->learning_rate;
    if (!strcmp(cfg->schedule, "linear")) return (float)(cfg->learning_rate * (1.0 - done));
    return (float)(cfg->learning_rate * 0.5 * (1.0 + cos(3.14159265358979323846 * done)));
}

typedef struct {
    Optim *o;
    AdamwParams p;
    size_t first,
        count; /* the range gathered so far: neighbours with the same decay go in one call */
    int decay;
    size_t done; /* end of the last packed update: w_k, w_v and w_up went with their neighbour */
} Update;

static AdamwParams params_of(const Update *u, int decay) {
    AdamwParams p = u->p;
    if (!decay) p.weight_decay = 0.0f;
    return p;
}

static void update_range(Update *u) {
    Network *net = u->o->net;
    if (!u->count) return;
    Buf copy = net->b->mirror ? buf_at(net->w.packed, u->first) : (Buf){NULL, net->b->dtype};
    net->b->adamw(net->b, buf_at(net->w.flat, u->first), buf_at(u->o->m, u->first),
                  buf_at(u->o->v, u->first), copy, buf_at(net->grad, u->first), u->count,
                  params_of(u, u->decay));
    u->count = 0;
}

/* Weights that products read packed are a call of their own, which writes that copy, too. */
static void update_packed(Update *u, const Mat *w, const TensorInfo *info) {
    Optim *o = u->o;
    Backend *b = o->net->b;
    b->adamw_packed(b, *w, buf_at(o->m, info->offset), buf_at(o->v, info->offset),
                    buf_at(o->net->grad, info->offset), params_of(u, info->decay));
    u->done = info->offset + (size_t)w->O * (size_t)w->K;
}

static Status update_tensor(void *ctx, const TensorInfo *info, Buf *slot) {
    Update *u = ctx;
    size_t count = (size_t)info->rows * (size_t)info->cols;
    if (info->offset < u->done) return OK;
    const Mat *w = weights_mat(&u->o->net->w, info->layer, *slot);
    if (w && w->packed.ptr && !u->o->net->b->mirror) {
        update_range(u);
        update_packed(u, w, info);
        return OK;
    }
    if (u->count && info->decay != u->decay && u->p.weight_decay > 0.0f) update_range(u);
    if (!u->count) {
        u->first = info->offset;
        u->decay = info->decay;
    }
    u->count += count;
    return OK;
}

typedef struct {
    Network *net;
    const char *bad;
    char name[80];
} Search;

static Status find_bad(void *ctx, const TensorInfo *info, Buf *slot) {
    Search *s = ctx;
    if (s->bad) return OK;
    size_t count = (size_t)info->rows * (size_t)info->cols;
    if (s->net->b->sum_squares(s->net->b, *slot, count) <= LARGEST * LARGEST) return OK;
    memcpy(s->name, info->name, sizeof s->name);
    s->bad = s->name;
    return OK;
}

static Status skip_step(Optim *o) {
    Search s = {.net = o->net};
    TRY(tensors_visit(&o->net->w.cfg, &o->net->g, find_bad, &s));
    const char *bad = s.bad ? s.bad : "all tensors together";
    network_zero_grads(o->net);
    o->skipped++;
    log_warn("the gradient of %s is not finite, or above %g: the step is left out", bad, LARGEST);
    if (++o->skipped_in_row < 3) return OK;
    return status_fail(
        E_NUMERIC,
        "the gradient of %s was not finite three steps in a row; the weights are those "
        "before these steps (a lower learning_rate or grad_clip may help)",
        bad);
}

Status optim_step(Optim *o, float rate, double *norm) {
    Network *net = o->net;
    Backend *b = net->b;
    const ModelConfig *m = &net->w.cfg;
    if (net->grad_tied.ptr)
        b->add(b, net->g.tok_emb, net->g.tok_emb, net->grad_tied, (size_t)m->V * (size_t)m->C);
    *norm = sqrt(b->sum_squares(b, net->grad, net->w.count));
    double clip = o->cfg.grad_clip,
           scale = clip > 0.0 && *norm > clip ? clip / (*norm + 1e-6) : 1.0;
    if (!(*norm * scale <= LARGEST)) return skip_step(o); /* NaN, too */
    o->skipped_in_row = 0;
    o->step++;
    Update u = {.o = o,
                .p = {.lr = rate,
                      .beta1 = o->cfg.beta1,
                      .beta2 = o->cfg.beta2,
                      .eps = o->cfg.eps,
                      .weight_decay = o->cfg.weight_decay,
                      .grad_scale = (float)scale,
                      .correction1 = (float)(1.0 - pow(o->cfg.beta1, (double)o->step)),
                      .correction2 = (float)(1.0 - pow(o->cfg.beta2, (double)o->step))}};
    TRY(tensors_visit(m, &net->w.t, update_tensor, &u));
    update_range(&u);
    network_zero_grads(net);
    return b->sync(b);
}
