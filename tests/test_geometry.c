/* test_geometry.c - how the GPU's work is cut into blocks: covers everything, fits what there is.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/backend/backend.h"
#include "core/backend/cuda/geometry.h"

static void blocks_cover_all_items(void **state) {
    (void)state;
    for (int per = 1; per < 300; per += 37)
        for (size_t items = 0; items < 2000; items += 7) {
            size_t room = (size_t)blocks_for(items, per) * (size_t)per;
            assert_true(room >= items && room < items + (size_t)per);
        }
    assert_int_equal(blocks_for((size_t)1 << 40, 1 << 20), 1 << 20);
}

static void a_row_has_whole_warps(void **state) {
    (void)state;
    for (int items = 1; items < 600; items++) {
        int threads = row_threads(items);
        assert_true(threads % LANES == 0 && threads >= LANES && threads <= 256);
        assert_true(threads >= items || threads == 256);
        assert_true(threads - items < LANES || threads == LANES);
    }
}

/* The tiles of attention are numbered without knowing the lengths: sequence s begins at slot
 * start / rows + s. No two sequences may meet, the last must end in time. */
static void tiles_of_sequences_do_not_meet(void **state) {
    (void)state;
    static const int lengths[] = {1, 64, 63, 65, 1, 1, 200, 128, 2, 127};
    enum { S = sizeof lengths / sizeof *lengths };
    for (int rows = 16; rows <= 128; rows *= 2) {
        int start = 0, end_of_last = 0, N = 0;
        for (int s = 0; s < S; s++) N += lengths[s];
        for (int s = 0; s < S; s++) {
            int first = start / rows + s;
            assert_true(first >= end_of_last);
            end_of_last = first + blocks_for((size_t)lengths[s], rows);
            start += lengths[s];
        }
        assert_true(end_of_last <= tile_slots(N, S, rows));
    }
}

static void keys_are_split_while_it_pays(void **state) {
    (void)state;
    size_t scratch = 64 << 20;
    /* one sequence of 8 kv heads, 4096 positions, on 132 SMs: many; a large batch: none */
    assert_int_equal(decode_splits(132, 8, 128, 1, 32, 64, scratch), 32);
    assert_int_equal(decode_splits(132, 8 * 256, 128, 256, 32, 64, scratch), 1);
    assert_int_equal(decode_splits(132, 8, 1, 1, 32, 64, scratch), 1); /* one page, one split */
    for (int N = 1; N <= 512; N *= 2)
        for (int HS = 64; HS <= 256; HS *= 2)
            for (int pages = 1; pages <= 4096; pages *= 4) {
                int splits = decode_splits(132, N * 8, pages, N, 32, HS, scratch);
                size_t partial = (size_t)splits * (size_t)N * 32 * (size_t)(HS + 2) * sizeof(float);
                assert_true(splits >= 1 && splits <= DECODE_SPLITS);
                assert_true(splits == 1 || partial <= scratch);
                assert_true(splits == 1 || (splits - 1) * DECODE_WARPS < pages);
            }
    assert_int_equal(decode_splits(132, 1, 4096, 1, 1, 64, 66 * sizeof(float) * 5), 5);
}

/* in f32 (4 elements of 16 bytes) and bf16 (8) */
static void decoding_fits_in_shared_memory(void **state) {
    (void)state;
    static const int sizes[] = {32, 64, 80, 96, 128, 256};
    for (int i = 0; i < 6; i++)
        for (int per = 4; per <= 8; per += 4) {
            int HS = sizes[i], most = HS / per <= LANES;
            if (HS % per || !most) continue;
            assert_true(decode_shared(8, HS, per, KV_PAGE) <= SHARED_LIMIT);
            assert_int_equal(decode_shared(8, HS, per, KV_PAGE),
                             8 * decode_shared(1, HS, per, KV_PAGE));
        }
    /* 64 queries, 4 x 32 weights, 8 maxima and sums, 4 warps x 4 slots x 64 values */
    assert_int_equal(decode_shared(1, 64, 8, 32), (64 + 128 + 8 + 1024) * sizeof(float));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_cover_all_items),
        cmocka_unit_test(a_row_has_whole_warps),
        cmocka_unit_test(tiles_of_sequences_do_not_meet),
        cmocka_unit_test(keys_are_split_while_it_pays),
        cmocka_unit_test(decoding_fits_in_shared_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
