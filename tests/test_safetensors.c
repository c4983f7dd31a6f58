/* test_safetensors.c - files that are read, and one bad file for every rule that refuses. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "core/base/text.h"
#include "core/model/safetensors.h"
#include "tests/expect.h"

static char path[64];

static int make_path(void **state) {
    (void)state;
    snprintf(path, sizeof(path), "/tmp/safetensors-%ld.safetensors", (long)getpid());
    return 0;
}

static int drop_path(void **state) {
    (void)state;
    unlink(path);
    return 0;
}

static Status open_parts(Safetensors **s, const char *header, size_t header_len,
                         size_t data_bytes) {
    Text t = {0};
    uint64_t len = header_len;
    text_add_bytes(&t, (const char *)&len, 8);
    text_add_bytes(&t, header, header_len);
    for (size_t i = 0; i < data_bytes; i++) text_add_bytes(&t, "\1", 1);
    expect_ok(file_write_atomic(path, t.s, t.len));
    text_release(&t);
    return safetensors_open(s, path);
}

static void expect_refusal(Status status, Safetensors **s, const char *part) {
    assert_int_equal(status, E_FORMAT);
    assert_null(*s);
    if (!strstr(status_message(), part))
        fail_msg("\"%s\" does not name \"%s\"", status_message(), part);
}

#define TENSOR(name, dtype, shape, from, to)                                                       \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #from "," #to   \
    "]}"

/* Every file but for one thing like {"x": F32 [2], "y": F32 [1]}, which is fine. */
static void test_every_rule_refuses(void **state) {
    (void)state;
    static const struct {
        const char *header, *part;
        size_t data;
    } bad[] = {
        {"{" TENSOR("x", "F32", "[2]", 0, 8) "," TENSOR("x", "F32", "[1]", 8, 12) "}", "x", 12},
        {"{" TENSOR("x", "F32", "[2]", 0, 8) "," TENSOR("y", "F32", "[1]", 12, 16) "}", "hole", 16},
        {"{" TENSOR("x", "F32", "[2]", 4, 12) "}", "hole", 12},
        {"{" TENSOR("x", "F32", "[2]", 0, 8) "," TENSOR("y", "F32", "[1]", 4, 8) "}", "overlaps",
         12},
        {"{" TENSOR("x", "F32", "[0]", 8, 0) "}", "backwards", 8},
        {"{" TENSOR("x", "F32", "[2]", 0, 8) "}", "belong to no tensor", 12},
        {"{" TENSOR("x", "F32", "[2]", 0, 8) "}", "beyond the end", 4},
        {"{" TENSOR("x", "F32", "[3]", 0, 8) "}", "8 bytes, not the 3", 8},
        {"{" TENSOR("x", "BF16", "[2]", 0, 8) "}", "8 bytes, not the 2", 8},
        /* 2^32 * 2^32 wraps to 0 values; times 4 bytes, 2^62 values wrap as well */
        {"{" TENSOR("x", "F32", "[4294967296,4294967296]", 0, 0) "}", "overflows", 0},
        {"{" TENSOR("x", "F32", "[2147483648,2147483648]", 0, 0) "}", "not the", 0},
        {"{" TENSOR("x", "F32", "[-2]", 0, 8) "}", "whole number", 8},
        {"{" TENSOR("x", "F32", "[1.5]", 0, 8) "}", "whole number", 8},
        {"{" TENSOR("x", "F32", "[\"2\"]", 0, 8) "}", "whole number", 8},
        {"{" TENSOR("x", "F32", "[2]", -1, 8) "}", "", 8},
        {"{" TENSOR("x", "F31", "[2]", 0, 8) "}", "F31", 8},
        {"{\"x\":{\"shape\":[2],\"data_offsets\":[0,8]}}", "dtype", 8},
        {"{\"x\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", "shape", 8},
        {"{\"x\":{\"dtype\":\"F32\",\"shape\":[2]}}", "data_offsets", 8},
        {"{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,8]}}", "begin, end", 8},
        {"{\"x\":{\"dtype\":\"F32\",\"shape\":{},\"data_offsets\":[0,4]}}", "shape", 4},
        {"{\"x\":[]}", "must be an object", 0},
        {"{\"__metadata__\":[]," TENSOR("x", "F32", "[2]", 0, 8) "}", "__metadata__", 8},
        {"{\"__metadata__\":{\"a\":1}," TENSOR("x", "F32", "[2]", 0, 8) "}", "strings only", 8},
        {" {" TENSOR("x", "F32", "[2]", 0, 8) "}", "start with {", 8},
        {"[]", "start with {", 0},
        {"", "start with {", 0},
        {"{" TENSOR("x", "F32", "[2]", 0, 8), "", 8},
        {"{" TENSOR("x", "F32", "[2]", 0, 8) "}}", "", 8},
        {"{" TENSOR("x\xff", "F32", "[2]", 0, 8) "}", "UTF-8", 8},
    };
    Safetensors *s;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        expect_refusal(open_parts(&s, bad[i].header, strlen(bad[i].header), bad[i].data), &s,
                       bad[i].part);
}

static void test_lengths_are_checked(void **state) {
    (void)state;
    Safetensors *s;
    expect_ok(file_write_atomic(path, "\2\0\0\0\0\0\0", 7));
    expect_refusal(safetensors_open(&s, path), &s, "7 bytes");
    expect_ok(file_write_atomic(path, "\3\0\0\0\0\0\0\0{}", 10));
    expect_refusal(safetensors_open(&s, path), &s, "beyond the end");
    expect_ok(file_write_atomic(path, "\377\377\377\377\377\377\377\377{}", 10));
    expect_refusal(safetensors_open(&s, path), &s, "too long");

    /* a header that is only too long: 100 000 001 bytes of {} and spaces */
    size_t n = 100000001;
    char *header = malloc(n);
    memset(header, ' ', n);
    memcpy(header, "{}", 2);
    expect_refusal(open_parts(&s, header, n, 0), &s, "too long");
    free(header);
}

static void test_good_files(void **state) {
    (void)state;
    Safetensors *s;
    const char *header =
        "{\"__metadata__\":{\"a\":\"b\"}," TENSOR("y", "F32", "[]", 8, 12) "," TENSOR(
            "x", "F32", "[1,2]", 0, 8) "," TENSOR("e", "F32", "[0,5]", 8,
                                                  8) "," TENSOR("i", "I64", "[1]", 12, 20) "}   ";
    expect_ok(open_parts(&s, header, strlen(header), 20));
    assert_int_equal(safetensors_size(s), 4);
    assert_string_equal(safetensors_metadata(s, "a"), "b");
    assert_null(safetensors_metadata(s, "z"));
    assert_string_equal(safetensors_at(s, 0)->name, "x");
    const SafetensorsTensor *y = safetensors_find(s, "y"), *e = safetensors_find(s, "e");
    assert_int_equal(y->rank, 0);
    assert_int_equal(y->count, 1);
    assert_int_equal(e->count, 0);
    assert_int_equal(e->bytes, 0);
    assert_null(safetensors_find(s, "none"));
    float v;
    expect_ok(safetensors_read_f32(y, 0, 1, &v));
    assert_int_equal(safetensors_read_f32(y, 0, 2, &v), E_USAGE);
    assert_int_equal(safetensors_read_f32(safetensors_find(s, "i"), 0, 1, &v), E_FORMAT);
    assert_non_null(strstr(status_message(), "I64"));
    safetensors_close(s);

    expect_ok(open_parts(&s, "{}", 2, 0));
    assert_int_equal(safetensors_size(s), 0);
    assert_null(safetensors_find(s, "x"));
    safetensors_close(s);
}

static void test_written_is_read(void **state) {
    (void)state;
    static const SafetensorsEntry entries[] = {{"model.a \"q\"", "F32", 2, {2, 3}},
                                               {"b", "BF16", 1, {3}},
                                               {"c", "F16", 1, {2}},
                                               {"d", "F32", 1, {0}}};
    float a[6] = {1, -2, 3, 4, 5, 6.5f}, out[6];
    uint16_t b[3] = {0x3f80, 0xc000, 0x7f80}, c[2] = {0x3c00, 0x0001};
    SafetensorsWriter w;
    expect_ok(safetensors_writer_open(&w, path, entries, 4));
    expect_ok(safetensors_writer_write(&w, a, 8)); /* in pieces */
    expect_ok(safetensors_writer_write(&w, a + 2, 16));
    expect_ok(safetensors_writer_write(&w, b, sizeof(b)));
    assert_int_equal(safetensors_writer_write(&w, a, 5), E_USAGE);
    expect_ok(safetensors_writer_write(&w, c, sizeof(c)));
    expect_ok(safetensors_writer_commit(&w));

    Safetensors *s;
    expect_ok(safetensors_open(&s, path));
    assert_string_equal(safetensors_metadata(s, "format"), "pt");
    const SafetensorsTensor *t = safetensors_find(s, "model.a \"q\"");
    assert_int_equal(t->rank, 2);
    assert_int_equal(t->shape[1], 3);
    assert_int_equal((uintptr_t)t->data % 8, 0);
    expect_ok(safetensors_read_f32(t, 1, 5, out));
    assert_memory_equal(out, a + 1, 20);
    expect_ok(safetensors_read_f32(safetensors_find(s, "b"), 1, 2, out));
    assert_true(out[0] == -2 && out[1] > 1e38f);
    expect_ok(safetensors_read_f32(safetensors_find(s, "c"), 0, 2, out));
    assert_true(out[0] == 1 && out[1] == 0x1p-24f);
    safetensors_close(s);
}

static void test_unfinished_files_do_not_appear(void **state) {
    (void)state;
    static const SafetensorsEntry entry = {"a", "F32", 1, {2}};
    SafetensorsWriter w;
    unlink(path);
    expect_ok(safetensors_writer_open(&w, path, &entry, 1));
    assert_int_equal(safetensors_writer_commit(&w), E_USAGE);
    assert_false(file_exists(path));
    expect_ok(safetensors_writer_open(&w, path, &entry, 1));
    safetensors_writer_abort(&w);
    assert_false(file_exists(path));
}

static void test_100000_tensors(void **state) {
    (void)state;
    Text t = {0};
    text_add(&t, "{");
    for (int i = 0; i < 100000; i++)
        text_addf(
            &t,
            "%s\"model.layers.%d.weight\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[%d,%d]}",
            i ? "," : "", i, 4 * i, 4 * i + 4);
    text_add(&t, "}");
    Safetensors *s;
    struct timespec a, b;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    expect_ok(open_parts(&s, t.s, t.len, 400000));
    for (int i = 0; i < 100000; i += 1000) {
        char name[64];
        snprintf(name, sizeof(name), "model.layers.%d.weight", i);
        assert_non_null(safetensors_find(s, name));
    }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    double taken = (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
    if (taken > 5.0) fail_msg("100 000 tensors took %.2f s", taken);
    safetensors_close(s);
    text_release(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_rule_refuses),
        cmocka_unit_test(test_lengths_are_checked),
        cmocka_unit_test(test_good_files),
        cmocka_unit_test(test_written_is_read),
        cmocka_unit_test(test_unfinished_files_do_not_appear),
        cmocka_unit_test(test_100000_tensors),
    };
    return cmocka_run_group_tests(tests, make_path, drop_path);
}
