/* test_tokenizer.c - byte-level BPE against real tokenizers, and by itself. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <zstd.h>
#include "core/base/file.h"
#include "core/base/rng.h"
#include "core/base/stream.h"
#include "datasets/tokenizer.h"

static void expect_ok(Status s) {
    if (s != OK) fail_msg("status %d: %s", s, status_message());
}

static void expect_refusal(Status s, const char *part) {
    assert_int_not_equal(s, OK);
    if (!strstr(status_message(), part))
        fail_msg("\"%s\" does not name \"%s\"", status_message(), part);
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- fixtures ---- */

static const char FIXTURES[] = "../shared/fixtures/tokenizers";

static Tokenizer *open_fixture(const char *name, Status *status) {
    char path[256], *packed;
    size_t len;
    Arena arena = {0};
    snprintf(path, sizeof(path), "%s/%s/tokenizer.json.zst", FIXTURES, name);
    if (!file_exists(path)) {
        print_message("skipped: %s is absent\n", path);
        skip();
    }
    expect_ok(file_read(&arena, &packed, &len, path, 64 << 20));
    size_t size = (size_t)ZSTD_getFrameContentSize(packed, len);
    assert_true(size > 0 && size < 256 << 20);
    char *json = malloc(size);
    assert_int_equal(ZSTD_decompress(json, size, packed, len), size);
    Tokenizer *t = NULL;
    *status = tokenizer_open_json(&t, name, json, size);
    free(json);
    arena_release(&arena);
    return t;
}

static void expect_ids(const char *text, const Ids *got, const Json *want) {
    int same = got->n == json_size(want), i = 0;
    for (const Json *n = json_first(want); n && same; n = json_next(n))
        same = got->v[i++] == (int)json_num(n);
    if (same) return;
    Text a = {0}, b = {0};
    json_put_ints(&a, got->v, got->n);
    json_put_node(&b, want);
    fail_msg("\"%s\" gives %s, expected %s", text, a.s, b.s);
}

/* Our JSON refuses \u0000 by design; a private-use character stands for it until the row is parsed. */
static void hide_nul(char *line) {
    for (char *p; (p = strstr(line, "\\u0000"));) memcpy(p, "\\ue000", 6);
}

static size_t restore_nul(char *text) {
    size_t n = 0;
    for (const char *p = text; *p; n++) {
        int hidden = !strncmp(p, "\xee\x80\x80", 3);
        text[n] = hidden ? 0 : *p;
        p += hidden ? 3 : 1;
    }
    text[n] = 0;
    return n;
}

static void check_row(const Tokenizer *t, const char *path, char *line, int number, int decodes) {
    JsonDoc *doc;
    Ids ids = {0};
    Text back = {0};
    hide_nul(line);
    expect_ok(json_parse(&doc, path, number, line, strlen(line), 0));
    char *text = strdup(json_str(json_get(json_root(doc), "text")));
    size_t n = restore_nul(text);
    expect_ok(tokenizer_encode(t, text, n, TOKENIZE_PARSE_SPECIAL, &ids));
    expect_ids(text, &ids, json_get(json_root(doc), "ids"));
    expect_ok(tokenizer_decode(t, ids.v, ids.n, 1, &back));
    assert_int_equal(decodes ? back.len : n, n);
    if (decodes && n) assert_memory_equal(back.s, text, n);
    free(text);
    ids_release(&ids);
    text_release(&back);
    json_release(doc);
}

static int check_vectors(const Tokenizer *t, const char *name) {
    char path[256];
    LineReader *r;
    const char *line;
    size_t len;
    int number, rows = 0;
    snprintf(path, sizeof(path), "%s/%s/vectors.jsonl", FIXTURES, name);
    expect_ok(lines_open(&r, path));
    for (;;) {
        expect_ok(lines_next(r, &line, &len, &number));
        if (!line) break;
        char *copy = strdup(line);
        check_row(t, path, copy, number, !strcmp(name, "gpt2"));
        free(copy);
        rows++;
    }
    lines_close(r);
    return rows;
}

static void test_fixture(const char *name) {
    Status s;
    Tokenizer *t = open_fixture(name, &s);
    expect_ok(s);
    assert_true(check_vectors(t, name) > 417);

    /* saved and read again it is the same tokenizer */
    char dir[] = "/tmp/tokenizer-XXXXXX";
    assert_non_null(mkdtemp(dir));
    expect_ok(tokenizer_save(t, dir));
    Tokenizer *again;
    expect_ok(tokenizer_open_dir(&again, dir));
    assert_true(check_vectors(again, name) > 417);
    assert_int_equal(tokenizer_vocab_size(again), tokenizer_vocab_size(t));
    assert_int_equal(tokenizer_eos(again), tokenizer_eos(t));
    tokenizer_release(again);
    tokenizer_release(t);
    expect_ok(file_remove_tree(dir));
}

static void test_gpt2(void **state) {
    (void)state;
    test_fixture("gpt2");
}

static void test_qwen3(void **state) {
    (void)state;
    test_fixture("qwen3");
}

static void test_mistral_is_refused_by_feature(void **state) {
    (void)state;
    Status s;
    open_fixture("mistral", &s);
    expect_refusal(s, "byte_fallback");
}

static double time_encode(const Tokenizer *t, const char *s, size_t n, int *count) {
    Ids ids = {0};
    double start = seconds();
    expect_ok(tokenizer_encode(t, s, n, 0, &ids));
    double taken = seconds() - start;
    *count = ids.n;
    ids_release(&ids);
    return taken;
}

static void expect_linear_time(const Tokenizer *t) {
    enum { N = 1 << 20 };
    char *s = malloc(N);
    for (int c = 0; c < 256; c += c == 'a' ? 31 : 1) {
        if (c != 'a' && c != ' ' && c != '\n' && c != '1' && c != '.' && c != 0xff && c != 0)
            continue;
        int n;
        memset(s, c, N);
        double taken = time_encode(t, s, N, &n);
        if (taken > 1.0) fail_msg("1 MiB of byte %d took %.2f s", c, taken);
        assert_true(n > 0);
    }
    free(s);
}

static void test_time_is_linear(void **state) {
    (void)state;
    static const char *const names[] = {"gpt2", "qwen3"};
    for (int i = 0; i < 2; i++) {
        Status s;
        Tokenizer *t = open_fixture(names[i], &s);
        expect_ok(s);
        expect_linear_time(t);
        tokenizer_release(t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gpt2),
        cmocka_unit_test(test_qwen3),
        cmocka_unit_test(test_mistral_is_refused_by_feature),
        cmocka_unit_test(test_time_is_linear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
