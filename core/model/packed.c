/* packed.c - see packed.h. */
#include "core/model/packed.h"

#include <limits.h>
#include <string.h>

#include "core/base/memory.h"

Status packed_create(Packed *p, int max_S, size_t max_N) {
    *p = (Packed){0};
    if (max_N > INT_MAX)
        return status_fail(
            E_USAGE,
            "a step of %d sequences may have %zu tokens: too many; a smaller batch_size or max_length helps",
            max_S, max_N);
    *p = (Packed){.max_S = max_S, .max_N = (int)max_N};
    TRY(memory_alloc((void **)&p->ids, max_N * sizeof(int), "a step's tokens"));
    TRY(memory_alloc((void **)&p->starts, ((size_t)max_S + 1) * sizeof(int), "a step's sequences"));
    TRY(memory_alloc((void **)&p->local, ((size_t)max_S + 1) * sizeof(int), "a step's sequences"));
    return memory_alloc((void **)&p->wanted, max_N, "a step's mask");
}

void packed_release(Packed *p) {
    memory_release(p->ids);
    memory_release(p->starts);
    memory_release(p->local);
    memory_release(p->wanted);
    *p = (Packed){0};
}

void packed_clear(Packed *p) {
    p->S = p->N = 0;
}

void packed_add(Packed *p, const int *ids, const uint8_t *wanted, int n) {
    CHECK(p->S < p->max_S && n > 0 && n <= p->max_N - p->N);
    memcpy(p->ids + p->N, ids, (size_t)n * sizeof *ids);
    if (wanted)
        memcpy(p->wanted + p->N, wanted, (size_t)n);
    else
        memset(p->wanted + p->N, 0, (size_t)n);
    p->starts[0] = 0;
    p->N += n;
    p->starts[++p->S] = p->N;
}

int packed_wanted(const Packed *p) {
    int count = 0;
    for (int n = 0; n < p->N; n++) count += p->wanted[n] != 0;
    return count;
}

int packed_micro(Packed *p, int first, int group, int max_tokens, float temperature, Batch *b) {
    int last = first + group, offset = p->starts[first];
    CHECK(last <= p->S);
    while (last + group <= p->S && p->starts[last + group] - offset <= max_tokens) last += group;
    for (int s = first; s <= last; s++) p->local[s - first] = p->starts[s] - offset;
    *b = (Batch){.S = last - first,
                 .N = p->starts[last] - offset,
                 .ids = p->ids + offset,
                 .starts = p->local,
                 .wanted = p->wanted + offset,
                 .temperature = temperature,
                 .first = first};
    return last;
}

static float *at(float *array, size_t offset) {
    return array ? array + offset : NULL;
}

Status packed_forward(Packed *p, Network *net, int max_tokens, float temperature,
                      const TokenOutputs *out) {
    Batch b;
    for (int first = 0, last; first < p->S; first = last) {
        last = packed_micro(p, first, 1, max_tokens, temperature, &b);
        size_t offset = (size_t)p->starts[first];
        TokenOutputs part = {at(out->logp, offset), at(out->entropy, offset),
                             at(out->mean_logp, offset), at(out->top1, offset),
                             at(out->score, offset * (size_t)net->w.cfg.scores)};
        TRY(network_forward(net, &b, &part));
    }
    return OK;
}
