/* test_events.c - TensorBoard's records, byte for byte. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "core/run/events.h"

static void is_hex(Text *t, const char *hex) {
    assert_int_equal(strlen(hex), 2 * t->len);
    for (size_t i = 0; i < t->len; i++) {
        unsigned byte;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
        assert_int_equal((unsigned char)t->s[i], byte);
    }
    text_release(t);
}

static void the_checksum(void **state) {
    (void)state;
    assert_int_equal(events_crc32c("123456789", 9), 0xe3069283u);
    assert_int_equal(events_crc32c("", 0), 0);
}

static void records(void **state) {
    (void)state;
    Text t = {0};
    Metrics m = {0};
    events_put_version(&t, 1700000000.0);
    is_hex(&t, "1800000000000000a37f4b220900000040fc54d9411a0d627261696e2e4576656e743a32eced8f9d");
    metrics_set(&m, "objective/kl", .5);
    events_put_scalars(&t, 1700000000.0, 7, &m);
    is_hex(&t, "220000000000000078113dfd0900000040fc54d94110072a150a130a0c6f626a6563746976652f6b6c"
               "150000003f4c99943c");
}

/* Numbers that are none are left out; a row of nothing else writes nothing. */
static void only_finite_numbers(void **state) {
    (void)state;
    Text one = {0}, two = {0};
    Metrics m = {0}, all = {0};
    metrics_set(&m, "a", 1.0);
    metrics_set(&all, "b", (double)NAN);
    events_put_scalars(&two, 1.0, 1, &all);
    assert_int_equal(two.len, 0);
    metrics_set(&all, "a", 1.0);
    events_put_scalars(&one, 1.0, 1, &m);
    events_put_scalars(&two, 1.0, 1, &all);
    assert_int_equal(one.len, two.len);
    assert_memory_equal(one.s, two.s, one.len);
    text_release(&one);
    text_release(&two);
}

/* A constant has one bin; the bytes are those of TensorBoard's own library. */
static void histograms(void **state) {
    (void)state;
    static const float two[] = {2, 2, (float)NAN, 2, (float)INFINITY}, none[] = {(float)NAN};
    Text t = {0};
    events_put_histogram(&t, 1700000000.0, 7, "scores", none, 1);
    events_put_histogram(&t, 1700000000.0, 7, "scores", none, 0);
    assert_int_equal(t.len, 0);
    events_put_histogram(&t, 1700000000.0, 7, "scores", two, 5);
    is_hex(&t, "5a00000000000000136fb4bf0900000040fc54d94110072a4d0a4b0a0673636f7265732a41090000"
               "00000000004011000000000000004019000000000000084021000000000000184029000000000000"
               "2840320800000000000000403a080000000000000840775b0717");
}

/* Every number lies in one bin, the greatest in the last. */
static void bins(void **state) {
    (void)state;
    float x[1000];
    double limit, count, sum = 0.0;
    Text t = {0};
    for (int i = 0; i < 1000; i++) x[i] = (float)i / 999.0f;
    events_put_histogram(&t, 1.0, 1, "x", x, 1000);
    const char *counts = t.s + t.len - 4 - 30 * 8, *limits = counts - 3 - 30 * 8;
    for (int i = 0; i < 30; i++) {
        memcpy(&count, counts + 8 * i, 8);
        memcpy(&limit, limits + 8 * i, 8);
        sum += count;
        assert_in_range((int)count, 32, 35);
        if (fabs(limit - (i + 1) / 30.0) > 1e-6) fail_msg("edge %d is %g", i, limit);
    }
    assert_true(sum == 1000.0);
    assert_true(limit == 1.0);
    text_release(&t);
}

static void texts(void **state) {
    (void)state;
    Text t = {0};
    events_put_text(&t, 1700000000.0, 7, "samples/0", "hello", 5);
    is_hex(&t, "3500000000000000d6c55de60900000040fc54d94110072a280a260a0973616d706c65732f30420f"
               "0807120412020801420568656c6c6f4a080a060a0474657874cce9ac37");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_checksum),
        cmocka_unit_test(records),
        cmocka_unit_test(only_finite_numbers),
        cmocka_unit_test(histograms),
        cmocka_unit_test(bins),
        cmocka_unit_test(texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
