/* test_tokenizer.c - real tokenizers, and byte-level BPE by itself. test_tokenizer_parts.c goes
 * through the features one by one. */
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
#include "tests/expect.h"

static void expect_refusal(Status s, const char *part) {
    assert_int_not_equal(s, OK);
    if (!strstr(status_message(), part))
        fail_msg("\"%s\" does not name \"%s\"", status_message(), part);
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); /* other programs do not count */
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

/* Our JSON refuses \u0000 by design; a private-use character stands for it until the row is parsed.
 */
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

static void expect_text(const Text *got, const char *want, size_t n) {
    assert_int_equal(got->len, n);
    if (n) assert_memory_equal(got->s, want, n);
}

/* Token by token the same bytes come out as at once. */
static void expect_streamed(const Tokenizer *t, const Ids *ids, const Text *whole) {
    TokenizerStream at = {0};
    Text parts = {0};
    for (int i = 0; i < ids->n; i++)
        expect_ok(tokenizer_decode_next(t, &at, ids->v + i, 1, 1, &parts));
    expect_text(&parts, whole->s ? whole->s : "", whole->len);
    text_release(&parts);
}

/* Whether a text survives: NFC rewrites it, SentencePiece's space stands for a space, and a special
 * token in the midst of a text gains a space behind it. */
static int comes_back(const char *name, const char *text, const Ids *ids) {
    if (!strcmp(name, "qwen3")) return 0;
    if (!strcmp(name, "gpt2")) return 1;
    for (int i = 0; i < ids->n; i++)
        if (ids->v[i] < 3) return 0;
    return !strstr(text, "\u2581");
}

static void check_row(const Tokenizer *t, const char *path, char *line, int number,
                      const char *name, int *back) {
    JsonDoc *doc;
    Ids ids = {0};
    Text whole = {0};
    hide_nul(line);
    expect_ok(json_parse(&doc, path, number, line, strlen(line), 0));
    char *text = strdup(json_str(json_get(json_root(doc), "text")));
    size_t n = restore_nul(text);
    expect_ok(tokenizer_encode(t, text, n, TOKENIZE_PARSE_SPECIAL, &ids));
    expect_ids(text, &ids, json_get(json_root(doc), "ids"));
    expect_ok(tokenizer_decode(t, ids.v, ids.n, 1, &whole));
    expect_streamed(t, &ids, &whole);
    if (comes_back(name, text, &ids)) {
        expect_text(&whole, text, n);
        ++*back;
    }
    free(text);
    ids_release(&ids);
    text_release(&whole);
    json_release(doc);
}

static int check_vectors(const Tokenizer *t, const char *name) {
    char path[256];
    LineReader *r;
    const char *line;
    size_t len;
    int number, rows = 0, back = 0;
    snprintf(path, sizeof(path), "%s/%s/vectors.jsonl", FIXTURES, name);
    expect_ok(lines_open(&r, path));
    for (;;) {
        expect_ok(lines_next(r, &line, &len, &number));
        if (!line) break;
        char *copy = strdup(line);
        check_row(t, path, copy, number, name, &back);
        free(copy);
        rows++;
    }
    lines_close(r);
    assert_true(!strcmp(name, "qwen3") || 10 * back > 9 * rows);
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

static void test_mistral(void **state) {
    (void)state;
    test_fixture("mistral");
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

/* A search that is not linear takes minutes here; how fast a linear one is, is for benchmarks. */
static void expect_linear_time(const Tokenizer *t) {
    enum { N = 1 << 20 };
    char *s = malloc(N);
    for (int c = 0; c < 256; c += c == 'a' ? 31 : 1) {
        if (c != 'a' && c != ' ' && c != '\n' && c != '1' && c != '.' && c != 0xff && c != 0)
            continue;
        int n;
        memset(s, c, N);
        double taken = time_encode(t, s, N, &n);
        if (taken > 5.0) fail_msg("1 MiB of byte %d took %.2f s", c, taken);
        assert_true(n > 0);
    }
    for (int i = 0; i < N; i += 2)
        memcpy(s + i, i % 4 ? "\xcc\x81" : "\xcc\xa7", 2); /* marks to be ordered */
    int n;
    double taken = time_encode(t, s, N, &n);
    if (taken > 5.0) fail_msg("1 MiB of combining marks took %.2f s", taken);
    free(s);
}

static void test_time_is_linear(void **state) {
    (void)state;
    static const char *const names[] = {"gpt2", "qwen3", "mistral"};
    for (int i = 0; i < 3; i++) {
        Status s;
        Tokenizer *t = open_fixture(names[i], &s);
        expect_ok(s);
        expect_linear_time(t);
        tokenizer_release(t);
    }
}

/* ---- trained here ---- */

static const char *const words[] = {"the",    "refund", "order",    "please",  "sorry",
                                    "thanks", "router", "restart",  "cable",   "is",
                                    "a",      "of",     "customer", "support", "42"};

static void add_text(BpeTrainer *b, uint64_t seed, int n_texts) {
    Rng r = {.seed = seed, .purpose = RNG_TEST};
    Text text = {0};
    for (int i = 0; i < n_texts; i++) {
        text_clear(&text);
        for (int k = 0; k < 40; k++) {
            if (rng_below(&r, 4) == 0)
                text_addf(&text, "w%dx%d ", rng_below(&r, 400), rng_below(&r, 30));
            text_addf(&text, "%s%s", words[rng_below(&r, 15)], rng_below(&r, 8) ? " " : ".\n");
        }
        expect_ok(bpe_trainer_add(b, text.s, text.len));
    }
    text_release(&text);
}

static Tokenizer *train(int n_texts, int vocab_size) {
    BpeTrainer *b;
    Tokenizer *t;
    expect_ok(bpe_trainer_create(&b));
    add_text(b, 7, n_texts);
    expect_ok(bpe_trainer_finish(b, vocab_size, &t));
    bpe_trainer_release(b);
    return t;
}

static void encode_string(const Tokenizer *t, const char *s, int flags, Ids *ids) {
    ids->n = 0;
    expect_ok(tokenizer_encode(t, s, strlen(s), flags, ids));
}

static void test_trainer(void **state) {
    (void)state;
    double start = seconds();
    Tokenizer *t = train(10000, 2048), *again; /* about 3 MB */
    double taken = seconds() - start;
    if (taken > 10.0) fail_msg("training took %.2f s", taken);
    again = train(10000, 2048);
    assert_true(tokenizer_hash(t) == tokenizer_hash(again));
    tokenizer_release(again);

    Ids ids = {0};
    encode_string(t, " refund", 0, &ids);
    assert_int_equal(ids.n, 1);
    encode_string(t, "2024", 0, &ids); /* digits stay single */
    assert_int_equal(ids.n, 4);
    assert_int_equal(tokenizer_pad(t), tokenizer_id(t, "<|pad|>"));
    assert_int_equal(tokenizer_eos(t), tokenizer_id(t, "<|eos|>"));
    assert_int_not_equal(tokenizer_pad(t), tokenizer_eos(t));
    assert_true(tokenizer_is_eos(t, tokenizer_id(t, "<|im_end|>")));
    int n_eos;
    assert_int_equal(tokenizer_eos_ids(t, &n_eos)[0], tokenizer_eos(t));
    assert_int_equal(n_eos, 2);
    assert_int_equal(tokenizer_id(t, "no such token"), -1);
    ids_release(&ids);
    tokenizer_release(t);
}

static void test_trainer_settles_ties_by_ids(void **state) {
    (void)state;
    BpeTrainer *b;
    Tokenizer *t;
    expect_ok(bpe_trainer_create(&b));
    expect_ok(bpe_trainer_add(b, "xy,ab,xy,ab,", 12));
    expect_refusal(bpe_trainer_finish(b, 10, &t), "260");
    expect_ok(bpe_trainer_finish(b, 261, &t));
    assert_int_equal(tokenizer_vocab_size(t), 261);
    assert_int_equal(tokenizer_id(t, "ab"), 260);
    bpe_trainer_release(b);
    tokenizer_release(t);
}

static void test_random_bytes_come_back(void **state) {
    (void)state;
    Tokenizer *t = train(200, 512);
    Rng r = {.seed = 3, .purpose = RNG_TEST};
    for (int i = 0; i < 300; i++) {
        char s[256];
        int n = rng_below(&r, 256), range = i % 2 ? 256 : 128;
        for (int k = 0; k < n; k++) s[k] = (char)rng_below(&r, range);
        Ids ids = {0};
        Text back = {0};
        expect_ok(tokenizer_encode(t, s, (size_t)n, 0, &ids));
        expect_ok(tokenizer_decode(t, ids.v, ids.n, 0, &back));
        assert_int_equal(back.len, n);
        if (n) assert_memory_equal(back.s, s, n);
        ids_release(&ids);
        text_release(&back);
    }
    tokenizer_release(t);
}

static void test_special_tokens_in_user_text_stay_text(void **state) {
    (void)state;
    Tokenizer *t = train(200, 512);
    Ids ids = {0};
    Text back = {0};
    const char *text = "hi<|eos|><|im_start|>x";
    encode_string(t, text, TOKENIZE_PARSE_SPECIAL, &ids);
    int found = 0;
    for (int i = 0; i < ids.n; i++) found += ids.v[i] < 4;
    assert_int_equal(found, 2);
    expect_ok(tokenizer_decode(t, ids.v, ids.n, 0, &back));
    assert_string_equal(back.s, "hix");

    text_clear(&back);
    encode_string(t, text, 0, &ids);
    for (int i = 0; i < ids.n; i++) assert_true(ids.v[i] >= 4);
    expect_ok(tokenizer_decode(t, ids.v, ids.n, 0, &back));
    assert_string_equal(back.s, text);

    int beyond = tokenizer_vocab_size(t), below = -1;
    expect_refusal(tokenizer_decode(t, &beyond, 1, 0, &back), "outside of the vocabulary");
    expect_refusal(tokenizer_decode(t, &below, 1, 0, &back), "outside of the vocabulary");
    text_release(&back);
    ids_release(&ids);
    tokenizer_release(t);
}

static void test_saved_is_the_same(void **state) {
    (void)state;
    char dir[] = "/tmp/tokenizer-XXXXXX";
    assert_non_null(mkdtemp(dir));
    Tokenizer *t = train(500, 700), *again;
    expect_ok(tokenizer_save(t, dir));
    expect_ok(tokenizer_open_dir(&again, dir));
    assert_true(tokenizer_hash(again) == tokenizer_hash(t));
    tokenizer_release(again);
    tokenizer_release(t);
    expect_ok(file_remove_tree(dir));
}

/* ---- small tokenizers ---- */

#define MODEL                                                                                      \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"\u0120\":3},\"merges\":[\"a b\"]}"
#define BYTES "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false}"

static void test_unsupported_features_are_named(void **state) {
    (void)state;
    static const char *const bad[][2] = {
        {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}}", "UnicodeScripts"},
        {"{" MODEL ",\"pre_tokenizer\":null}", "decoder"},
        {"{" MODEL "," BYTES ",\"normalizer\":{\"type\":\"Precompiled\"}}", "Precompiled"},
        {"{" MODEL "," BYTES ",\"decoder\":{\"type\":\"WordPiece\"}}", "WordPiece"},
        {"{" MODEL "," BYTES ",\"post_processor\":{\"type\":\"BertProcessing\"}}",
         "BertProcessing"},
        {"{" BYTES ",\"model\":{\"type\":\"Unigram\"}}", "Unigram"},
        {"{" BYTES ",\"model\":{\"byte_fallback\":true,\"vocab\":{\"a\":0},\"merges\":[]}}",
         "byte_fallback"},
        {"{" BYTES ",\"model\":{\"dropout\":0.1}}", "dropout"},
        {"{" BYTES ",\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}", "lacks"},
        {"{" BYTES ",\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"ab\"]}}", "one space"},
        {"{" BYTES ",\"model\":{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", "id 0"},
        {"{" BYTES ",\"model\":{\"vocab\":{\"a\":-1},\"merges\":[]}}", "out of range"},
        {"{" BYTES ",\"model\":{\"vocab\":{\"a\":99999999},\"merges\":[]}}", "out of range"},
        {"{" BYTES ",\"model\":{\"vocab\":{\"a\":0.5},\"merges\":[]}}", "out of range"},
        {"{" BYTES ",\"model\":{\"vocab\":{},\"merges\":[]}}", "empty"},
        {"{" MODEL "," BYTES ",\"added_tokens\":[{\"id\":-4,\"content\":\"x\"}]}", "out of range"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        Tokenizer *t;
        expect_refusal(tokenizer_open_json(&t, "test", bad[i][0], strlen(bad[i][0])), bad[i][1]);
        assert_null(t);
    }
}

static void test_regexes_with_another_meaning_are_refused(void **state) {
    (void)state;
    static const char *const bad[][2] = {
        {"[a&&b]", "&&"},    {"[a[bc]]", "class inside"}, {"\\\\bx", "boundary"},
        {"[^\\\\S]", "\\S"}, {"x{1,2}+", "possessive"},   {"(x", "compiled"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        char json[1024];
        Tokenizer *t;
        snprintf(
            json, sizeof(json),
            "{" MODEL
            ",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","
            "\"pattern\":{\"Regex\":\"%s\"},\"behavior\":\"Isolated\"},{\"type\":\"ByteLevel\",\"use_regex\":false}]}}",
            bad[i][0]);
        expect_refusal(tokenizer_open_json(&t, "test", json, strlen(json)), bad[i][1]);
    }
}

static void expect_pieces(const char *split, const char *text, int n, const int *want) {
    char json[1024];
    Tokenizer *t;
    Ids ids = {0};
    snprintf(
        json, sizeof(json),
        "{" MODEL
        ",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[%s,{\"type\":\"ByteLevel\","
        "\"add_prefix_space\":false,\"use_regex\":false}]},\"added_tokens\":[{\"id\":4,\"content\":\"<s>\",\"special\":true,\"rstrip\":true,\"lstrip\":true},"
        "{\"id\":5,\"content\":\"<s>a\"},{\"id\":6,\"content\":\"ba\",\"single_word\":true}]}",
        split);
    expect_ok(tokenizer_open_json(&t, "test", json, strlen(json)));
    expect_ok(tokenizer_encode(t, text, strlen(text), TOKENIZE_PARSE_SPECIAL, &ids));
    if (ids.n != n || memcmp(ids.v, want, (size_t)n * sizeof(int))) {
        Text got = {0};
        json_put_ints(&got, ids.v, ids.n);
        fail_msg("%s: \"%s\" gives %s", split, text, got.s);
    }
    ids_release(&ids);
    tokenizer_release(t);
}

#define SPLIT(regex, behavior)                                                                     \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex "\"},\"behavior\":\"" behavior "\"}"

static void test_splits_and_added_tokens(void **state) {
    (void)state;
    expect_pieces(SPLIT("x", "Isolated"), "abab", 2, (const int[]){2, 2});
    expect_pieces(SPLIT("a", "Isolated"), "aab", 3, (const int[]){0, 0, 1});
    expect_pieces(SPLIT("b", "Removed"), "abab", 2, (const int[]){0, 0});
    expect_pieces(SPLIT("a", "MergedWithPrevious"), "abab", 4, (const int[]){0, 1, 0, 1});
    expect_pieces(SPLIT("b", "MergedWithPrevious"), "abab", 2, (const int[]){2, 2});
    expect_pieces(SPLIT("a", "MergedWithNext"), "abab", 2, (const int[]){2, 2});
    expect_pieces(SPLIT("(?=b)", "Isolated"), "ab", 2, (const int[]){0, 1});
    expect_pieces(SPLIT("x", "Isolated"), "a <s> b", 3, (const int[]){0, 4, 1}); /* stripped */
    expect_pieces(SPLIT("x", "Isolated"), "<s>ab", 2, (const int[]){5, 1});      /* longest first */
    expect_pieces(SPLIT("x", "Isolated"), "ba", 1, (const int[]){6});
    expect_pieces(SPLIT("x", "Isolated"), "aba ba", 4,
                  (const int[]){2, 0, 3, 6}); /* whole words only */
}

static void test_gguf_splittings(void **state) {
    (void)state;
    static const char *tokens[] = {"<|im_end|>",   "1",  "2", "\u0120",
                                   "\u0120\u0120", "12", "a", "\u01201"};
    static const int types[] = {3, 1, 1, 1, 1, 1, 1, 1};
    static const char *merges[] = {"\u0120 \u0120", "1 2", "\u0120 1"};
    GgufTokenizer g = {.pre = "smollm",
                       .tokens = tokens,
                       .types = types,
                       .n_tokens = 8,
                       .merges = merges,
                       .n_merges = 3,
                       .bos = -1,
                       .eos = 0,
                       .pad = 0};
    static const struct {
        const char *pre;
        int n, ids[6];
    } want[] = {{"smollm", 3, {4, 1, 2}},
                {"gpt-2", 3, {3, 3, 5}},
                {"qwen2", 4, {3, 3, 1, 2}},
                {"llama-bpe", 3, {3, 3, 5}}};
    for (int i = 0; i < 4; i++) {
        Tokenizer *t;
        Ids ids = {0};
        g.pre = want[i].pre;
        expect_ok(tokenizer_from_gguf(&t, &g));
        encode_string(t, "  12", 0, &ids);
        if (ids.n != want[i].n || memcmp(ids.v, want[i].ids, (size_t)ids.n * sizeof(int)))
            fail_msg("%s splits \"  12\" into %d tokens: %d %d ...", g.pre, ids.n, ids.v[0],
                     ids.v[1]);
        assert_int_equal(tokenizer_eos(t), 0);
        assert_int_equal(tokenizer_pad(t), -1); /* never the same as eos */
        ids_release(&ids);
        tokenizer_release(t);
    }
    Tokenizer *t;
    g.pre = "tekken";
    expect_refusal(tokenizer_from_gguf(&t, &g), "tekken");
    g.pre = "gpt-2";
    g.n_merges = 3, merges[0] = "\u0120\u0120";
    expect_refusal(tokenizer_from_gguf(&t, &g), "merge 0");
    merges[0] = "\u0120 \u0120";
    g.add_bos = 1;
    expect_refusal(tokenizer_from_gguf(&t, &g), "beginning");
    g.bos = 0;
    expect_ok(tokenizer_from_gguf(&t, &g));
    Ids ids = {0};
    encode_string(t, "a", TOKENIZE_ADD_SPECIAL, &ids);
    assert_int_equal(ids.n, 2);
    assert_int_equal(ids.v[0], 0);
    ids_release(&ids);
    tokenizer_release(t);
}

static void encode_nfc(const char *text, Ids *ids) {
    static Tokenizer *t;
    const char *json = "{\"normalizer\":{\"type\":\"NFC\"}," BYTES
                       ",\"model\":{\"vocab\":{\"\u00cc\":0,\"\u0123\":1,\"\u00a7\":2,\"a\":3,"
                       "\"\u00c3\":4,\"\u00a1\":5},\"merges\":[]}}";
    if (!text) {
        tokenizer_release(t);
        t = NULL;
        return;
    }
    if (!t) expect_ok(tokenizer_open_json(&t, "test", json, strlen(json)));
    encode_string(t, text, 0, ids);
}

static void test_marks_come_in_canonical_order(void **state) {
    (void)state;
    Text s = {0};
    Ids ids = {0};
    encode_nfc("a\u0301", &ids); /* composes */
    assert_int_equal(ids.n, 2);
    assert_int_equal(ids.v[0], 4);
    /* the class of U+0327 is below that of U+0301, however long the run */
    for (int pairs = 1; pairs < 60; pairs += 7) {
        text_clear(&s);
        for (int i = 0; i < pairs; i++) text_add(&s, "\u0301\u0327");
        encode_nfc(s.s, &ids);
        assert_int_equal(ids.n, 4 * pairs);
        for (int i = 0; i < 2 * pairs; i++) assert_int_equal(ids.v[2 * i + 1], i < pairs ? 2 : 1);
    }
    encode_nfc(NULL, NULL);
    text_release(&s);
    ids_release(&ids);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gpt2),
        cmocka_unit_test(test_qwen3),
        cmocka_unit_test(test_mistral),
        cmocka_unit_test(test_time_is_linear),
        cmocka_unit_test(test_trainer),
        cmocka_unit_test(test_trainer_settles_ties_by_ids),
        cmocka_unit_test(test_random_bytes_come_back),
        cmocka_unit_test(test_special_tokens_in_user_text_stay_text),
        cmocka_unit_test(test_saved_is_the_same),
        cmocka_unit_test(test_unsupported_features_are_named),
        cmocka_unit_test(test_regexes_with_another_meaning_are_refused),
        cmocka_unit_test(test_splits_and_added_tokens),
        cmocka_unit_test(test_gguf_splittings),
        cmocka_unit_test(test_marks_come_in_canonical_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
