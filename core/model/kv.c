/* kv.c - the paged cache of keys and values (Kwon et al. 2023): pages of KV_PAGE positions, a table
 * per row, a stack of free pages, and an index of full pages by the tokens up to their end, so that
 * rows that begin alike share them. */
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "core/model/network.h"

static int pages_for(int length) {
    return (length + KV_PAGE - 1) / KV_PAGE;
}

static size_t page_elements(const ModelConfig *cfg) {
    return (size_t)cfg->NKV * (size_t)cfg->HS * KV_PAGE;
}

static size_t page_bytes(const Backend *b, const ModelConfig *cfg) {
    return 2 * (size_t)cfg->L * page_elements(cfg) * dtype_bytes(b->dtype);
}

int kv_pages(const Backend *b, const ModelConfig *cfg, int rows, int max_length, int mib) {
    size_t least = (size_t)pages_for(max_length), most = (size_t)rows * least;
    size_t n = mib ? ((size_t)mib << 20) / page_bytes(b, cfg) : most;
    return (int)(n < least ? least : n > most ? most : n);
}

size_t kv_bytes(const Backend *b, const ModelConfig *cfg, int pages) {
    return (size_t)pages * page_bytes(b, cfg);
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
    kv->page = calloc((size_t)kv->n_pages, sizeof *kv->page);
    kv->n_buckets = 2 * kv->n_pages + 1;
    kv->buckets = calloc((size_t)kv->n_buckets, sizeof(int));
    if (!kv->keys || !kv->values || !kv->host_table || !kv->free_pages || !kv->held || !kv->page ||
        !kv->buckets)
        return status_fail(E_MEMORY, "no memory for the table of a cache of %d rows", rows);
    for (int l = 0; l < cfg->L; l++) {
        TRY(b->alloc(b, &kv->keys[l], b->dtype, (size_t)kv->n_pages * page_elements(cfg),
                     "cached keys"));
        TRY(b->alloc(b, &kv->values[l], b->dtype, (size_t)kv->n_pages * page_elements(cfg),
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
    free(kv->page);
    free(kv->buckets);
    *kv = (KvCache){0};
}

int kv_reserve(KvCache *kv, int row, int length) {
    int want = pages_for(length);
    CHECK(row >= 0 && row < kv->rows && want <= kv->max_pages);
    if (want - kv->held[row] > kv->n_free) return 0;
    while (kv->held[row] < want) {
        int page = kv->free_pages[--kv->n_free];
        kv->page[page] = (KvPage){.users = 1};
        kv->host_table[row * kv->max_pages + kv->held[row]++] = page;
        kv->changed = 1;
    }
    return 1;
}

/* --- the index: chains of pages (number + 1, 0 ends) from buckets --- */

static int *bucket_of(const KvCache *kv, uint64_t hash) {
    return &kv->buckets[hash % (uint64_t)kv->n_buckets];
}

static void forget(KvCache *kv, int page) {
    if (!kv->page[page].ids) return;
    int *at = bucket_of(kv, kv->page[page].hash);
    while (*at != page + 1) at = &kv->page[*at - 1].next;
    *at = kv->page[page].next;
    kv->page[page].ids = NULL;
}

void kv_drop(KvCache *kv, int row) {
    while (kv->held[row] > 0) {
        int page = kv->host_table[row * kv->max_pages + --kv->held[row]];
        if (--kv->page[page].users > 0) continue;
        forget(kv, page);
        kv->free_pages[kv->n_free++] = page;
    }
}

/* The page that holds positions [n - KV_PAGE, n) of a sequence that begins with ids[0, n), -1 none.
 */
static int find_page(const KvCache *kv, uint64_t hash, const int *ids, int n) {
    for (int at = *bucket_of(kv, hash); at; at = kv->page[at - 1].next) {
        const KvPage *p = &kv->page[at - 1];
        if (p->hash == hash && p->n == n && !memcmp(p->ids, ids, (size_t)n * sizeof *ids))
            return at - 1;
    }
    return -1;
}

int kv_share(KvCache *kv, int row, const int *ids, int n) {
    uint64_t hash = 0;
    CHECK(kv->held[row] == 0);
    for (int end = KV_PAGE; end < n; end += KV_PAGE) { /* the last token is computed in any case */
        hash = file_hash(ids + end - KV_PAGE, KV_PAGE * sizeof *ids, hash);
        int page = find_page(kv, hash, ids, end);
        if (page < 0) break;
        kv->page[page].users++;
        kv->changed = 1;
        kv->host_table[row * kv->max_pages + kv->held[row]++] = page;
    }
    return kv->held[row] * KV_PAGE;
}

void kv_offer(KvCache *kv, int row, const int *ids, int n) {
    uint64_t hash = 0;
    for (int end = KV_PAGE, i = 0; end <= n; end += KV_PAGE, i++) {
        int page = kv->host_table[row * kv->max_pages + i];
        hash = file_hash(ids + end - KV_PAGE, KV_PAGE * sizeof *ids, hash);
        if (kv->page[page].ids || find_page(kv, hash, ids, end) >= 0) continue;
        int *bucket = bucket_of(kv, hash);
        kv->page[page].hash = hash;
        kv->page[page].ids = ids;
        kv->page[page].n = end;
        kv->page[page].next = *bucket;
        *bucket = page + 1;
    }
}

void kv_flush(KvCache *kv) {
    if (!kv->changed) return;
    kv->changed = 0;
    kv->b->upload(kv->b, kv->table, kv->host_table, (size_t)kv->rows * (size_t)kv->max_pages);
}
