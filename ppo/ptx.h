/* ptx.h - PPO-ptx: the likelihood of other text joins each update of the actor, against forgetting
 * (Ouyang et al. 2022, eq. 2). */
#ifndef PTX_H
#define PTX_H

#include "core/model/packed.h"
#include "datasets/dataset.h"

typedef struct {
    Dataset data;
    DataOrder order;
    Packed batch;
    float *logp, *dlogp; /* [max_N] */
    double nll;          /* sums since ptx_clear */
    int64_t tokens;
} Ptx;

/* Rows of a JSONL file, tokenized as SFT's. E_USAGE when there is none. */
Status ptx_open(Ptx *p, const char *path, const DataConfig *cfg, const Tokenizer *t, uint64_t seed);
Status ptx_create(Ptx *p, int batch_size, int max_length); /* memory of a batch */
void ptx_release(Ptx *p);
void ptx_clear(Ptx *p);
/* Adds the gradient of coef times the mean NLL of the trained tokens of the next rows, at
 * temperature 1; *position goes on by as many rows. */
Status ptx_learn(Ptx *p, Network *actor, uint64_t *position, float coef, int micro_tokens);

#endif
