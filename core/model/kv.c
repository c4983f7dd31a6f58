/* kv.c - the paged cache of keys and values (Kwon et al. 2023): pages of KV_PAGE positions, a table
 * per row, a stack of free pages. */
#include <stdlib.h>

#include "core/model/network.h"

static int pages_for(int length) {
    return (length + KV_PAGE - 1) / KV_PAGE;
}

static size_t page_elements(const ModelConfig *cfg) {
    return (size_t)cfg->NKV * (size_t)cfg->HS * KV_PAGE;
}

size_t kv_bytes(const ModelConfig *cfg, int rows, int max_length) {
    return 2 * (size_t)cfg->L * (size_t)rows * (size_t)pages_for(max_length) * page_elements(cfg) *
           sizeof(float);
}

Status kv_create(KvCache *kv, Backend *b, const ModelConfig *cfg, int rows, int max_length,
                 int n_pages) {
    *kv = (KvCache){.b = b, .rows = rows, .max_pages = pages_for(max_length), .L = cfg->L};
    kv->n_pages = n_pages ? n_pages : rows * kv->max_pages;
    kv->keys = calloc((size_t)cfg->L, sizeof(Buf));
    kv->values = calloc((size_t)cfg->L, sizeof(Buf));
    kv->host_table = calloc((size_t)rows * (size_t)kv->max_pages, sizeof(int));
    kv->free_pages = calloc((size_t)kv->n_pages, sizeof(int));
    kv->held = calloc((size_t)rows, sizeof(int));
    if (!kv->keys || !kv->values || !kv->host_table || !kv->free_pages || !kv->held)
        return status_fail(E_MEMORY, "no memory for the table of a cache of %d rows", rows);
    for (int l = 0; l < cfg->L; l++) {
        TRY(b->alloc(b, &kv->keys[l], DT_F32, (size_t)kv->n_pages * page_elements(cfg),
                     "cached keys"));
        TRY(b->alloc(b, &kv->values[l], DT_F32, (size_t)kv->n_pages * page_elements(cfg),
                     "cached values"));
    }
    TRY(b->alloc(b, &kv->table, DT_I32, (size_t)rows * (size_t)kv->max_pages, "page table"));
    for (int p = 0; p < kv->n_pages; p++) kv->free_pages[kv->n_free++] = kv->n_pages - 1 - p;
    return OK;
}

void kv_release(KvCache *kv) {
    if (!kv->b) return;
    for (int l = 0; l < kv->L; l++) {
        if (kv->keys) kv->b->release(kv->b, &kv->keys[l]);
        if (kv->values) kv->b->release(kv->b, &kv->values[l]);
    }
    kv->b->release(kv->b, &kv->table);
    free(kv->keys);
    free(kv->values);
    free(kv->host_table);
    free(kv->free_pages);
    free(kv->held);
    *kv = (KvCache){0};
}

int kv_reserve(KvCache *kv, int row, int length) {
    int want = pages_for(length);
    CHECK(row >= 0 && row < kv->rows && want <= kv->max_pages);
    if (want - kv->held[row] > kv->n_free) return 0;
    while (kv->held[row] < want)
        kv->host_table[row * kv->max_pages + kv->held[row]++] = kv->free_pages[--kv->n_free];
    return 1;
}

void kv_drop(KvCache *kv, int row) {
    while (kv->held[row] > 0)
        kv->free_pages[kv->n_free++] = kv->host_table[row * kv->max_pages + --kv->held[row]];
}

void kv_flush(KvCache *kv) {
    kv->b->upload(kv->b, kv->table, kv->host_table, (size_t)kv->rows * (size_t)kv->max_pages);
}
