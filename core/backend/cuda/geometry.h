/* geometry.h - how work is cut into blocks of threads, and what a block shares: plain C, so that
 * tests/test_geometry.c checks it on machines without CUDA. */
#ifndef GEOMETRY_H
#define GEOMETRY_H

#include <stddef.h>

enum {
    LANES = 32,              /* of a warp */
    SHARED_LIMIT = 99 << 10, /* bytes of shared memory of a block, on sm_86 and sm_89 the least */
    DECODE_WARPS = 4,
    DECODE_SPLITS = 64,       /* of a row's keys, at most */
    DECODE_BLOCKS_PER_SM = 8, /* wanted to keep an SM busy */
};

static inline int blocks_for(size_t items, int per_block) {
    return (int)((items + (size_t)per_block - 1) / (size_t)per_block);
}

/* Threads of a block that has `items` pieces of work, each for one thread: whole warps, 256 at
 * most.
 */
static inline int row_threads(int items) {
    return items >= 256 ? 256 : (items + LANES - 1) / LANES * LANES;
}

/* Tiles of `rows` rows that cover S sequences of N tokens in all, whatever their lengths: each has
 * one that is not full at most. */
static inline int tile_slots(int N, int S, int rows) {
    return N / rows + S;
}

/* Blocks over which decoding splits the keys of a row: enough to keep `sms` busy beside `blocks`
 * others, as long as every warp has a page of the longest row and the partial sums of `heads` heads
 * of HS for each of N rows fit in `scratch` bytes. */
static inline int decode_splits(int sms, int blocks, int max_pages, int N, int heads, int HS,
                                size_t scratch) {
    size_t row_bytes = (size_t)N * (size_t)heads * (size_t)(HS + 2) * sizeof(float);
    int splits = DECODE_BLOCKS_PER_SM * sms / blocks,
        pages = blocks_for((size_t)max_pages, DECODE_WARPS);
    if (splits > DECODE_SPLITS) splits = DECODE_SPLITS;
    if (splits > pages) splits = pages;
    if ((size_t)splits * row_bytes > scratch) splits = (int)(scratch / row_bytes);
    return splits > 1 ? splits : 1;
}

/* Bytes that a block of decoding shares: for `group` query heads of HS the queries, the weights of
 * a page for each warp, their maxima and sums, and the sums of values, where a row of values takes
 * HS / per lanes of a warp. */
static inline size_t decode_shared(int group, int HS, int per, int page) {
    int slots = LANES / (HS / per); /* of a page that a warp reads at once */
    size_t floats =
        (size_t)(HS + DECODE_WARPS * page + 2 * DECODE_WARPS + DECODE_WARPS * slots * HS);
    return (size_t)group * floats * sizeof(float);
}

#endif
