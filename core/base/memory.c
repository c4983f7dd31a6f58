/* memory.c - arenas and the frozen allocator. */
#include "core/base/memory.h"

#include <malloc.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { ALIGN = 64, BLOCK = 64 * 1024 };

struct ArenaBlock {
    ArenaBlock *next;
    size_t size, used;
};

static size_t round_up(size_t n) {
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

static _Noreturn void out_of_memory(size_t bytes) {
    fprintf(stderr, "rlhf: out of host memory: %zu more bytes were needed\n", bytes);
    abort();
}

static ArenaBlock *block_create(size_t payload) {
    size_t size = round_up(sizeof(ArenaBlock)) + (payload > BLOCK ? round_up(payload) : BLOCK);
    ArenaBlock *b = aligned_alloc(ALIGN, size);
    if (!b) out_of_memory(size);
    *b = (ArenaBlock){NULL, size, round_up(sizeof(ArenaBlock))};
    return b;
}

void *arena_alloc(Arena *a, size_t bytes) {
    if (bytes > SIZE_MAX / 2) out_of_memory(bytes);
    bytes = round_up(bytes ? bytes : 1);
    if (!a->head || a->head->size - a->head->used < bytes) {
        ArenaBlock *b = block_create(bytes);
        b->next = a->head;
        a->head = b;
        a->reserved += b->size;
    }
    void *p = (char *)a->head + a->head->used;
    a->head->used += bytes;
    a->used += bytes;
    return memset(p, 0, bytes);
}

char *arena_strndup(Arena *a, const char *s, size_t n) {
    char *p = arena_alloc(a, n + 1);
    if (n) memcpy(p, s, n);
    return p;
}

char *arena_strdup(Arena *a, const char *s) {
    return arena_strndup(a, s, strlen(s));
}

char *arena_printf(Arena *a, const char *fmt, ...) {
    va_list ap, measure;
    va_start(ap, fmt);
    va_copy(measure, ap);
    int n = vsnprintf(NULL, 0, fmt, measure);
    va_end(measure);
    CHECK(n >= 0);
    char *p = arena_alloc(a, (size_t)n + 1);
    vsnprintf(p, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return p;
}

static void blocks_free(Arena *a, ArenaBlock *keep) {
    for (ArenaBlock *b = a->head, *next; b; b = next) {
        next = b->next;
        if (b == keep) continue;
        a->reserved -= b->size;
        free(b);
    }
}

void arena_clear(Arena *a) {
    ArenaBlock *largest = a->head;
    for (ArenaBlock *b = a->head; b; b = b->next)
        if (b->size > largest->size) largest = b;
    blocks_free(a, largest);
    a->head = largest;
    a->used = 0;
    if (!largest) return;
    largest->next = NULL;
    largest->used = round_up(sizeof(ArenaBlock));
}

void arena_release(Arena *a) {
    blocks_free(a, NULL);
    *a = (Arena){0};
}

Status memory_mul(size_t *out, size_t a, size_t b, const char *what) {
    if (__builtin_mul_overflow(a, b, out))
        return status_fail(E_MEMORY, "%s: %zu x %zu bytes is more than can be addressed", what, a,
                           b);
    return OK;
}

/* Weights and pages of keys and values are read in another order than they lie in: with pages of
 * 4 KiB every few lines wait for an address to be translated. A system that does not grant huge
 * ones loses nothing. */
static void ask_for_huge_pages(void *p, size_t size) {
    uintptr_t huge = (uintptr_t)2 << 20, first = ((uintptr_t)p + huge - 1) / huge * huge,
              end = ((uintptr_t)p + size) / huge * huge;
    if (first < end) madvise((void *)first, end - first, MADV_HUGEPAGE);
}

static int frozen;
static size_t in_use; /* of memory_alloc, in bytes */

Status memory_alloc(void **out, size_t bytes, const char *what) {
    CHECK(!frozen); /* all tensor memory is planned before the first step */
    *out = NULL;
    if (bytes > SIZE_MAX / 2) return status_fail(E_MEMORY, "%s: absurd size %zu", what, bytes);
    size_t size = round_up(bytes ? bytes : 1);
    *out = aligned_alloc(ALIGN, size);
    if (!*out) return status_fail(E_MEMORY, "%s: cannot allocate %zu bytes", what, bytes);
    ask_for_huge_pages(*out, size);
    memset(*out, 0, size);
    in_use += malloc_usable_size(*out);
    return OK;
}

void memory_release(void *p) {
    if (p) in_use -= malloc_usable_size(p);
    free(p);
}

size_t memory_in_use(void) {
    return in_use;
}

/* The first number of a one-line file, or behind `key` at the start of a line; SIZE_MAX without. */
static size_t number_in(const char *path, const char *key) {
    char line[256];
    unsigned long long value;
    size_t found = SIZE_MAX;
    FILE *f = fopen(path, "r");
    if (!f) return SIZE_MAX;
    while (found == SIZE_MAX && fgets(line, sizeof line, f)) {
        if (strncmp(line, key, strlen(key))) continue;
        if (sscanf(line + strlen(key), "%llu", &value) == 1) found = (size_t)value;
    }
    fclose(f);
    return found;
}

static size_t kib_in(const char *path, const char *key) {
    size_t kib = number_in(path, key);
    return kib > SIZE_MAX / 1024 ? SIZE_MAX : kib * 1024;
}

size_t memory_resident(void) {
    return kib_in("/proc/self/status", "VmRSS:");
}

size_t memory_resident_peak(void) {
    return kib_in("/proc/self/status", "VmHWM:");
}

size_t memory_available(void) {
    size_t available = kib_in("/proc/meminfo", "MemAvailable:");
    size_t most = number_in("/sys/fs/cgroup/memory.max", "");
    size_t used = number_in("/sys/fs/cgroup/memory.current", "");
    if (most != SIZE_MAX && used != SIZE_MAX) {
        size_t left = used < most ? most - used : 0;
        if (left < available) available = left;
    }
    return available;
}

void memory_freeze(void) {
    frozen = 1;
}
void memory_thaw(void) {
    frozen = 0;
}
int memory_frozen(void) {
    return frozen;
}
