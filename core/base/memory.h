/* memory.h - host memory: checked allocation, arenas, and the freeze after planning.
 *
 * An Arena owns everything carved from it and is released at once. memory_freeze() marks the end of
 * planning: from there memory_alloc (tensors, scratch) is a bug and stops the program; arenas
 * (records, strings) may still grow and count their growth. */
#ifndef MEMORY_H
#define MEMORY_H

#include <stddef.h>
#include "core/base/status.h"

typedef struct ArenaBlock ArenaBlock;
typedef struct {
    ArenaBlock *head;
    size_t used, reserved; /* bytes handed out; bytes taken from the system */
} Arena;

/* {0} is a valid empty arena. arena_alloc returns zeroed, 64-byte aligned memory; it never returns
 * NULL: out of memory in an arena ends the program with one sentence (records are small). */
void *arena_alloc(Arena *a, size_t bytes);
char *arena_strdup(Arena *a, const char *s);
char *arena_strndup(Arena *a, const char *s, size_t n);
char *arena_printf(Arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void arena_clear(Arena *a);   /* forgets the content, keeps the largest block */
void arena_release(Arena *a); /* gives everything back */

/* a * b, or E_MEMORY naming `what` when it overflows. */
Status memory_mul(size_t *out, size_t a, size_t b, const char *what);

/* Zeroed 64-byte aligned memory for tensors and scratch, before the freeze only. E_MEMORY with
 * `what`. */
Status memory_alloc(void **out, size_t bytes, const char *what);
void memory_release(void *p);
/* Bytes of memory_alloc now: what a memory plan is checked against. */
size_t memory_in_use(void);

/* Bytes that this process could take now: what the system has available, or what its control group
 * still allows. SIZE_MAX where neither says. */
size_t memory_available(void);
/* Bytes of this process in memory now, and the most there ever were. SIZE_MAX where the system does
 * not say. */
size_t memory_resident(void);
size_t memory_resident_peak(void);

void memory_freeze(void);
void memory_thaw(void); /* a stage of a pipeline ended; the next one plans anew */
int memory_frozen(void);

#endif
