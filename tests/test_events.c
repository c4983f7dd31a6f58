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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_checksum),
        cmocka_unit_test(records),
        cmocka_unit_test(only_finite_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
