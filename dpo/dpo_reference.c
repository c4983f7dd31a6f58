/* dpo_reference.c - the reference's log-probs of all pairs: they never change, so they are computed
 * once, before the first step, and kept in the run directory for a resume. */
#include <stdio.h>
#include <string.h>

#include "core/base/file.h"
#include "core/base/log.h"
#include "dpo/dpo_inside.h"

double *dpo_reference_of(const Dpo *d, const Row *row) {
    for (int i = 0; i < d->data.n_sets; i++) {
        const Dataset *set = &d->data.sets[i];
        if (row >= set->rows && row < set->rows + set->n)
            return d->ref + 2 * (d->first_row[i] + (row - set->rows));
    }
    CHECK(row >= d->data.eval.rows && row < d->data.eval.rows + d->data.eval.n);
    return d->eval_ref + 2 * (row - d->data.eval.rows);
}

static Status reference_of_set(Dpo *d, const Dataset *set) {
    for (int row = 0, first = 0; row < set->n; first = row) {
        packed_clear(&d->batch);
        for (; row < set->n && d->batch.S + 2 <= d->batch.max_S; row++)
            dpo_add_pair(d, &set->rows[row]);
        TRY(packed_forward(&d->batch, &d->reference, d->micro_tokens, 1.0f,
                           &(TokenOutputs){.logp = d->logp}));
        for (int i = first; i < row; i++) {
            double *ref = dpo_reference_of(d, &set->rows[i]);
            ref[0] = dpo_sum_logp(d, 2 * (i - first));
            ref[1] = dpo_sum_logp(d, 2 * (i - first) + 1);
        }
    }
    return OK;
}

/* The cache's key: the reference's weights, every set's ids, the kernels, the storage type. */
static Status reference_key(Dpo *d, uint64_t *key) {
    TRY(weights_hash(&d->reference.w, key));
    for (int i = 0; i < d->data.n_sets; i++)
        *key = file_hash(&d->data.sets[i].hash, sizeof(uint64_t), *key);
    *key = file_hash(&d->data.eval.hash, sizeof(uint64_t), *key);
    *key = file_hash(d->session.b->kernels, strlen(d->session.b->kernels), *key);
    const char *dtype = dtype_name(d->session.b->dtype);
    *key = file_hash(dtype, strlen(dtype), *key);
    return OK;
}

Status dpo_reference_logps(Dpo *d) {
    char path[1300];
    uint64_t key;
    size_t bytes = 2 * d->pairs * sizeof(double);
    TRY(reference_key(d, &key));
    snprintf(path, sizeof path, "%s/reference-%016llx.logps", run_dir(d->session.run),
             (unsigned long long)key);
    FileMap map;
    if (file_exists(path) && file_map(&map, path) == OK) {
        int good =
            map.len == bytes + sizeof key &&
            file_hash(map.data, bytes, key) == *(const uint64_t *)(const void *)(map.data + bytes);
        if (good)
            memcpy(d->ref, map.data, bytes);
        else
            log_warn("%s is damaged; the reference's log-probs are computed again", path);
        file_unmap(&map);
        if (good) return OK;
    }
    log_info("reference log-probs of %zu pairs, once", d->pairs);
    for (int i = 0; i < d->data.n_sets; i++) TRY(reference_of_set(d, &d->data.sets[i]));
    TRY(reference_of_set(d, &d->data.eval));
    uint64_t hash = file_hash(d->ref, bytes, key);
    FileWriter w;
    TRY(file_writer_open(&w, path));
    Status s = file_writer_write(&w, d->ref, bytes);
    if (s == OK) s = file_writer_write(&w, &hash, sizeof hash);
    if (s == OK) return file_writer_commit(&w);
    file_writer_abort(&w);
    return s;
}
