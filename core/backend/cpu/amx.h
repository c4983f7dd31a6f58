/* amx.h - the instructions of AMX that products and their benchmark use: eight tiles of 16 rows of
 * 64 bytes, 16 x 32 bf16 or 16 x 16 f32.
 *
 * Of our own: gcc 12's intrinsics do not say that they read and write memory. The process must have
 * asked for permission, as backend_create does. */
#ifndef AMX_H
#define AMX_H

#include <stddef.h>
#include <stdint.h>

#define TILE_ZERO(t) __asm__ volatile("tilezero %%tmm" #t ::)
#define TILE_LOAD(t, from, stride)                                                                 \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t ::"r"(from), "r"((size_t)(stride)) : "memory")
#define TILE_STREAM(t, from, stride)                                                               \
    __asm__ volatile("tileloaddt1 (%0,%1,1), %%tmm" #t ::"r"(from), "r"((size_t)(stride))          \
                     : "memory")
#define TILE_STORE(t, to, stride)                                                                  \
    __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"(to), "r"((size_t)(stride))          \
                     : "memory")
#define TILE_DOT(c, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::)

/* Once for each thread, which keeps it: nobody may release the tiles. */
static inline void tiles_configure(void) {
    static _Thread_local int done;
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } c = {.palette = 1};
    if (done) return;
    done = 1;
    for (int i = 0; i < 8; i++) c.bytes[i] = 64, c.rows[i] = 16;
    __asm__ volatile("ldtilecfg %0" ::"m"(c));
}

#endif
