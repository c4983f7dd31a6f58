/* test_gguf.c - the GGUF reader, on files built here. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "core/base/file.h"
#include "core/base/json.h"
#include "core/base/text.h"
#include "core/model/gguf.h"
#include "core/model/half.h"
#include "datasets/tokenizer.h"
#include "tests/expect.h"

static char path[64];

static int make_path(void **state) {
    (void)state;
    snprintf(path, sizeof(path), "/tmp/gguf-%ld.gguf", (long)getpid());
    return 0;
}

static int drop_path(void **state) {
    (void)state;
    unlink(path);
    return 0;
}

/* ---- writing ---- */

static void put(Text *t, uint64_t v, int bytes) {
    text_add_bytes(t, (const char *)&v, (size_t)bytes);
}

static void put_string(Text *t, const char *s) {
    put(t, strlen(s), 8);
    text_add(t, s);
}

static void put_key(Text *t, const char *key, int kind) {
    put_string(t, key);
    put(t, (uint64_t)kind, 4);
}

static void put_header(Text *t, int version, int n_tensors, int n_entries) {
    text_clear(t);
    text_add(t, "GGUF");
    put(t, (uint64_t)version, 4);
    put(t, (uint64_t)n_tensors, 8);
    put(t, (uint64_t)n_entries, 8);
}

static void put_tensor(Text *t, const char *name, int rows, int cols, int type, uint64_t offset) {
    put_string(t, name);
    put(t, 2, 4);
    put(t, (uint64_t)cols, 8);
    put(t, (uint64_t)rows, 8);
    put(t, (uint64_t)type, 4);
    put(t, offset, 8);
}

static void put_padding(Text *t) {
    while (t->len % 32) put(t, 0, 1);
}

static Status open_text(Gguf **g, const Text *t) {
    expect_ok(file_write_atomic(path, t->s, t->len));
    return gguf_open(g, path);
}

static void expect_refusal(const Text *t, const char *part) {
    Gguf *g;
    assert_int_equal(open_text(&g, t), E_FORMAT);
    assert_null(g);
    if (!strstr(status_message(), part))
        fail_msg("\"%s\" does not name \"%s\"", status_message(), part);
}

/* ---- tests ---- */

static void test_metadata(void **state) {
    (void)state;
    Text t = {0};
    Gguf *g;
    put_header(&t, 3, 0, 8);
    put_key(&t, "name", 8), put_string(&t, "smøl");
    put_key(&t, "u32", 4), put(&t, 77, 4);
    put_key(&t, "i8", 1), put(&t, 0xff, 1);
    put_key(&t, "u64", 10), put(&t, (uint64_t)1 << 40, 8);
    float f = 1.5f;
    uint32_t bits;
    memcpy(&bits, &f, 4);
    put_key(&t, "f32", 6), put(&t, bits, 4);
    put_key(&t, "yes", 7), put(&t, 1, 1);
    put_key(&t, "words", 9), put(&t, 8, 4), put(&t, 2, 8), put_string(&t, "a"),
        put_string(&t, "bc");
    put_key(&t, "numbers", 9), put(&t, 5, 4), put(&t, 3, 8), put(&t, 1, 4), put(&t, 2, 4),
        put(&t, 0xffffffff, 4);
    expect_ok(open_text(&g, &t));

    const char *s = NULL, *const * words;
    const int *numbers;
    int i = 0, n, yes = 0;
    double d = 0;
    expect_ok(gguf_str(g, "name", GGUF_REQUIRED, &s));
    assert_string_equal(s, "smøl");
    expect_ok(gguf_int(g, "u32", GGUF_REQUIRED, &i));
    assert_int_equal(i, 77);
    expect_ok(gguf_int(g, "i8", GGUF_REQUIRED, &i));
    assert_int_equal(i, -1);
    expect_ok(gguf_float(g, "f32", GGUF_REQUIRED, &d));
    assert_true(d == 1.5);
    expect_ok(gguf_bool(g, "yes", GGUF_REQUIRED, &yes));
    assert_int_equal(yes, 1);
    expect_ok(gguf_strings(g, "words", GGUF_REQUIRED, &words, &n));
    assert_int_equal(n, 2);
    assert_string_equal(words[1], "bc");
    expect_ok(gguf_ints(g, "numbers", GGUF_REQUIRED, &numbers, &n));
    assert_int_equal(n, 3);
    assert_int_equal(numbers[2], -1);

    assert_int_equal(gguf_int(g, "absent", GGUF_REQUIRED, &i), E_FORMAT);
    i = 5;
    expect_ok(gguf_int(g, "absent", GGUF_OPTIONAL, &i));
    assert_int_equal(i, 5);
    assert_int_equal(gguf_int(g, "u64", GGUF_REQUIRED, &i), E_FORMAT); /* out of range */
    assert_int_equal(gguf_int(g, "name", GGUF_REQUIRED, &i), E_FORMAT);
    assert_int_equal(gguf_int(g, "f32", GGUF_REQUIRED, &i), E_FORMAT);
    assert_int_equal(gguf_bool(g, "u32", GGUF_REQUIRED, &i), E_FORMAT);
    assert_int_equal(gguf_str(g, "u32", GGUF_REQUIRED, &s), E_FORMAT);
    assert_int_equal(gguf_strings(g, "numbers", GGUF_REQUIRED, &words, &n), E_FORMAT);
    assert_int_equal(gguf_ints(g, "words", GGUF_REQUIRED, &numbers, &n), E_FORMAT);
    assert_int_equal(gguf_ints(g, "name", GGUF_REQUIRED, &numbers, &n), E_FORMAT);
    assert_non_null(strstr(status_message(), "must be an array"));
    assert_int_equal(gguf_float(g, "yes", GGUF_REQUIRED, &d), E_FORMAT);
    gguf_close(g);
    text_release(&t);
}

static void put_block(Text *t, int type) {
    put(t, 0x3800, 2);                /* d = 0.5 */
    if (type == 3) put(t, 0xc000, 2); /* m = -2 */
    for (int i = 0; i < (type == 8 ? 32 : 16); i++)
        put(t, (uint64_t)(type == 8 ? i - 16 : i | (15 - i) << 4), 1);
}

static void test_tensors_are_dequantized(void **state) {
    (void)state;
    Text t = {0};
    Gguf *g;
    put_header(&t, 2, 6, 0);
    put_tensor(&t, "f32", 2, 3, 0, 0);
    put_tensor(&t, "f16", 1, 4, 1, 32);
    put_tensor(&t, "bf16", 1, 2, 30, 64);
    put_tensor(&t, "q8_0", 1, 32, 8, 96);
    put_tensor(&t, "q4_0", 1, 32, 2, 160);
    put_tensor(&t, "q4_1", 1, 32, 3, 192);
    put_padding(&t);
    float f32[6] = {1, 2, 3, 4, 5, -6};
    text_add_bytes(&t, (const char *)f32, sizeof(f32));
    put_padding(&t);
    put(&t, 0x3c00, 2), put(&t, 0x8001, 2), put(&t, 0x7c00, 2),
        put(&t, 0xc580, 2); /* 1 -2^-24 inf -5.5 */
    put_padding(&t);
    put(&t, 0x3f80, 2), put(&t, 0xc0a0, 2); /* 1 -5 */
    put_padding(&t);
    put_block(&t, 8), put_padding(&t);
    put_block(&t, 2), put_padding(&t);
    put_block(&t, 3), put_padding(&t);
    expect_ok(open_text(&g, &t));
    assert_int_equal(gguf_n_tensors(g), 6);
    assert_null(gguf_tensor(g, "none"));

    float out[32];
    const GgufTensor *x = gguf_tensor(g, "f32");
    assert_int_equal(x->rows, 2);
    assert_int_equal(x->cols, 3);
    expect_ok(gguf_read(g, x, 1, 1, out));
    assert_true(out[0] == 4 && out[2] == -6);
    assert_int_equal(gguf_read(g, x, 1, 2, out), E_USAGE);
    expect_ok(gguf_read(g, gguf_tensor(g, "f16"), 0, 1, out));
    assert_true(out[0] == 1 && out[1] == -0x1p-24f && isinf(out[2]) && out[3] == -5.5f);
    expect_ok(gguf_read(g, gguf_tensor(g, "bf16"), 0, 1, out));
    assert_true(out[0] == 1 && out[1] == -5);
    expect_ok(gguf_read(g, gguf_tensor(g, "q8_0"), 0, 1, out));
    assert_true(out[0] == -8 && out[31] == 7.5f);
    expect_ok(gguf_read(g, gguf_tensor(g, "q4_0"), 0, 1, out));
    assert_true(out[0] == -4 && out[15] == 3.5f && out[16] == 3.5f && out[31] == -4);
    expect_ok(gguf_read(g, gguf_tensor(g, "q4_1"), 0, 1, out));
    assert_true(out[0] == -2 && out[15] == 5.5f && out[16] == 5.5f && out[31] == -2);
    gguf_close(g);
    text_release(&t);
}

/* A block of random bytes of each format, by tests/reference/make_gguf.py. */
static void test_blocks_are_as_the_gguf_package_reads_them(void **state) {
    (void)state;
    JsonDoc *doc;
    int formats = 0;
    expect_ok(json_parse_file(&doc, "tests/fixtures/gguf/blocks.json", JSON_STRICT));
    for (const Json *b = json_first(json_root(doc)); b; b = json_next(b), formats++) {
        const Json *bytes = json_get(b, "bytes"), *values = json_get(b, "values");
        Text t = {0};
        Gguf *g;
        float out[256], *at = out;
        int n = json_size(values);
        put_header(&t, 3, 1, 0);
        put_tensor(&t, "x", 1, n, (int)json_num(json_get(b, "type")), 0);
        put_padding(&t);
        for (const Json *e = json_first(bytes); e; e = json_next(e))
            put(&t, (uint64_t)json_num(e), 1);
        expect_ok(open_text(&g, &t));
        assert_string_equal(gguf_tensor(g, "x")->dtype, json_key(b));
        expect_ok(gguf_read(g, gguf_tensor(g, "x"), 0, 1, out));
        for (const Json *e = json_first(values); e; e = json_next(e), at++)
            if (*at != (float)json_num(e))
                fail_msg("%s: value %d is %g, %g in the gguf package", json_key(b), (int)(at - out),
                         (double)*at, json_num(e));
        gguf_close(g);
        text_release(&t);
    }
    assert_int_equal(formats, 6);
    json_release(doc);
}

static void test_every_cut_is_refused(void **state) {
    (void)state;
    Text t = {0};
    put_header(&t, 3, 1, 2);
    put_key(&t, "name", 8), put_string(&t, "abc");
    put_key(&t, "words", 9), put(&t, 8, 4), put(&t, 2, 8), put_string(&t, "a"),
        put_string(&t, "bc");
    put_tensor(&t, "x", 1, 32, 8, 0);
    size_t described = t.len;
    put_padding(&t);
    put_block(&t, 8);
    size_t full = t.len;
    for (t.len = 4; t.len < full; t.len++)
        expect_refusal(&t, t.len < described ? "cut short" : "beyond the end");
    t.len = 3;
    expect_refusal(&t, "not a GGUF");
    t.len = full;
    Gguf *g;
    expect_ok(open_text(&g, &t));
    gguf_close(g);
    text_release(&t);
}

static void bad_tensor(Text *t, int rows, int cols, int type, uint64_t offset, const char *part) {
    put_header(t, 3, 1, 0);
    put_tensor(t, "x", rows, cols, type, offset);
    put_padding(t);
    for (int i = 0; i < 64; i++) put(t, 0, 1);
    expect_refusal(t, part);
}

static void test_lies_are_refused(void **state) {
    (void)state;
    Text t = {0};
    put_header(&t, 1, 0, 0);
    expect_refusal(&t, "version 1");
    put_header(&t, 3 << 24, 0, 0);
    expect_refusal(&t, "big-endian");
    put_header(&t, 3, 0, 0);
    t.s[0] = 'X';
    expect_refusal(&t, "not a GGUF");
    put_header(&t, 3, 0x7fffffff, 0);
    expect_refusal(&t, "cut short");
    put_header(&t, 3, 0, 0x7fffffff);
    expect_refusal(&t, "cut short");
    put_header(&t, 3, 0, 1);
    put_key(&t, "", 7), put(&t, 1, 1), put(&t, 0, 8);
    expect_refusal(&t, "0 bytes");
    put_header(&t, 3, 0, 2);
    put_key(&t, "a", 7), put(&t, 1, 1), put_key(&t, "a", 7), put(&t, 1, 1);
    expect_refusal(&t, "twice");
    put_header(&t, 3, 0, 1);
    put_key(&t, "a", 99), put(&t, 1, 8);
    expect_refusal(&t, "unknown type 99");
    put_header(&t, 3, 0, 1);
    put_key(&t, "a", 9), put(&t, 4, 4), put(&t, (uint64_t)1 << 62, 8);
    expect_refusal(&t, "cut short");
    put_header(&t, 3, 0, 1);
    put_key(&t, "a\xff", 7), put(&t, 1, 1);
    expect_refusal(&t, "UTF-8");
    put_header(&t, 3, 0, 1);
    put_key(&t, "general.alignment", 4), put(&t, 24, 4);
    expect_refusal(&t, "power of two");
    put_header(&t, 3, 0, 1);
    put_key(&t, "a", 9);
    for (int i = 0; i < 8; i++) put(&t, 9, 4), put(&t, 1, 8);
    expect_refusal(&t, "too deep");
    put_header(&t, 3, 1, 0);
    put_string(&t, "x"), put(&t, 9, 4);
    for (int i = 0; i < 12; i++) put(&t, 1, 8);
    expect_refusal(&t, "9 dimensions");
    bad_tensor(&t, 0x7fffffff, 0x7fffffff, 0, 0, "impossible dimensions");
    bad_tensor(&t, 1, 33, 8, 0, "no whole blocks");
    bad_tensor(&t, 1, 4, 0, 4, "not aligned");
    bad_tensor(&t, 8, 8, 0, 0, "beyond the end");
    bad_tensor(&t, 1, 1, 0, (uint64_t)1 << 60, "beyond the end");
    put_header(&t, 3, 2, 0);
    put_tensor(&t, "x", 1, 1, 0, 0), put_tensor(&t, "x", 1, 1, 0, 0);
    put_padding(&t), put(&t, 0, 8);
    expect_refusal(&t, "twice");

    Gguf *g; /* a type that is not supported is refused by name when it is read */
    float out[256];
    put_header(&t, 3, 1, 0);
    put_tensor(&t, "x", 1, 256, 11, 0);
    expect_ok(open_text(&g, &t));
    assert_int_equal(gguf_read(g, gguf_tensor(g, "x"), 0, 1, out), E_FORMAT);
    assert_non_null(strstr(status_message(), "Q3_K"));
    gguf_close(g);
    text_release(&t);
}

static void test_tokenizer(void **state) {
    (void)state;
    Text t = {0};
    Tokenizer *tok;
    put_header(&t, 3, 0, 5);
    put_key(&t, "tokenizer.ggml.model", 8), put_string(&t, "gpt2");
    put_key(&t, "tokenizer.ggml.pre", 8), put_string(&t, "smollm");
    put_key(&t, "tokenizer.ggml.tokens", 9), put(&t, 8, 4), put(&t, 4, 8);
    put_string(&t, "<|im_end|>"), put_string(&t, "a"), put_string(&t, "b"), put_string(&t, "ab");
    put_key(&t, "tokenizer.ggml.token_type", 9), put(&t, 5, 4), put(&t, 4, 8);
    put(&t, 3, 4), put(&t, 1, 4), put(&t, 1, 4), put(&t, 1, 4);
    put_key(&t, "tokenizer.ggml.merges", 9), put(&t, 8, 4), put(&t, 1, 8), put_string(&t, "a b");
    expect_ok(file_write_atomic(path, t.s, t.len));
    expect_ok(tokenizer_open_gguf(&tok, path));
    assert_int_equal(tokenizer_vocab_size(tok), 4);
    assert_true(tokenizer_is_eos(tok, 0));
    tokenizer_release(tok);

    memcpy(memmem(t.s, t.len, "smollm", 6), "tekken", 6);
    expect_ok(file_write_atomic(path, t.s, t.len));
    assert_int_equal(tokenizer_open_gguf(&tok, path), E_FORMAT);
    assert_non_null(strstr(status_message(), "tekken"));
    text_release(&t);
}

static void test_smollm2(void **state) {
    (void)state;
    const char *file = "models/smollm2-135m-instruct.gguf";
    if (!file_exists(file)) {
        print_message("skipped: %s is absent (make smollm2 fetches it)\n", file);
        skip();
    }
    Tokenizer *t;
    Ids ids = {0};
    expect_ok(tokenizer_open_gguf(&t, file));
    expect_ok(tokenizer_encode(t, "  5", 3, 0, &ids));
    assert_int_equal(ids.n, 2);
    assert_int_equal(ids.v[0], 256);
    assert_int_equal(ids.v[1], 37);
    assert_int_equal(tokenizer_eos(t), tokenizer_id(t, "<|im_end|>"));
    ids_release(&ids);
    tokenizer_release(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_metadata),
        cmocka_unit_test(test_tensors_are_dequantized),
        cmocka_unit_test(test_blocks_are_as_the_gguf_package_reads_them),
        cmocka_unit_test(test_every_cut_is_refused),
        cmocka_unit_test(test_lies_are_refused),
        cmocka_unit_test(test_tokenizer),
        cmocka_unit_test(test_smollm2),
    };
    return cmocka_run_group_tests(tests, make_path, drop_path);
}
