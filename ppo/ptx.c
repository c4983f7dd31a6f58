/* ptx.c - see ptx.h. */
#include "ppo/ptx.h"

#include "core/base/memory.h"

Status ptx_open(Ptx *p, const char *path, const DataConfig *cfg, const Tokenizer *t,
                uint64_t seed) {
    DataConfig rows = *cfg;
    rows.max_prompt_length = 0; /* that one leaves room for responses, and here are none */
    if (!path[0]) return status_fail(E_USAGE, "ppo.ptx_coef needs a file ppo.ptx_data");
    TRY(dataset_open(&p->data, &rows, path, ROWS_SFT, t));
    dataset_report(&p->data, path);
    if (!p->data.n)
        return status_fail(E_USAGE, "%s has no usable row (see the counts above)", path);
    return data_order_create(&p->order, &p->data, 1, NULL, seed);
}

Status ptx_create(Ptx *p, int batch_size, int max_length) {
    size_t max_N = (size_t)batch_size * (size_t)max_length;
    TRY(packed_create(&p->batch, batch_size, max_N));
    TRY(memory_alloc((void **)&p->logp, max_N * sizeof(float), "numbers of other text"));
    return memory_alloc((void **)&p->dlogp, max_N * sizeof(float), "numbers of other text");
}

void ptx_release(Ptx *p) {
    memory_release(p->logp);
    memory_release(p->dlogp);
    packed_release(&p->batch);
    data_order_release(&p->order);
    dataset_release(&p->data);
    *p = (Ptx){0};
}

void ptx_clear(Ptx *p) {
    p->nll = 0.0;
    p->tokens = 0;
}

Status ptx_learn(Ptx *p, Network *actor, uint64_t *position, float coef, int micro_tokens) {
    packed_clear(&p->batch);
    while (p->batch.S < p->batch.max_S) {
        const Sequence *q = &data_order_row(&p->order, (*position)++)->a;
        packed_add(&p->batch, q->ids, q->trained, q->n);
    }
    int tokens = packed_wanted(&p->batch);
    for (int n = 0; n < p->batch.N; n++) p->dlogp[n] = -coef / (float)tokens;
    for (int first = 0, last; first < p->batch.S; first = last) {
        Batch b;
        last = packed_micro(&p->batch, first, 1, micro_tokens, 1.0f, &b);
        size_t at = (size_t)p->batch.starts[first];
        TRY(network_learn(actor, &b, &(TokenGrads){.logp = p->dlogp + at},
                          &(TokenOutputs){.logp = p->logp + at}));
    }
    for (int n = 0; n < p->batch.N; n++)
        if (p->batch.wanted[n]) p->nll -= p->logp[n];
    p->tokens += tokens;
    return OK;
}
