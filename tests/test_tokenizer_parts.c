/* test_tokenizer_parts.c - the features of tokenizer.json one by one, on vocabularies of a few
 * tokens; the expected ids were derived by hand and compared with the reference library's. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "core/base/file.h"
#include "core/base/rng.h"
#include "datasets/tokenizer.h"
#include "tests/expect.h"
#include "tests/scratch.h"

/* ---- tokenizers of a few tokens ---- */

#define UNK    "\"unk_token\":\"<unk>\""
#define MERGES "\"a b\",\"\u2581 a\",\"\u2581 ab\",\"b c\",\"\u2581 \u2581\",\"1 2\",\", a\""
#define VOCAB                                                                                      \
    "\"<unk>\":0,\"<s>\":1,\"\u2581\":2,\"a\":3,\"b\":4,\"c\":5,\"A\":6,\"1\":7,\"2\":8,\",\":9,"  \
    "\"\u00e9\":10,\"e\":11,\"\u0301\":12,\"f\":13,\"i\":14,\"ab\":15,\"\u2581a\":16,"             \
    "\"\u2581ab\":17,\"bc\":18,\"\u2581\u2581\":19,\" \":20,\"\\n\":21,\"12\":22,\",a\":23,"       \
    "\"cab\":24"
#define SPECIAL                                                                                    \
    "{\"id\":0,\"content\":\"<unk>\",\"special\":true},{\"id\":1,\"content\":\"<s>\",\"special\":true}"
#define FUSE "{\"type\":\"Fuse\"}"

typedef struct {
    const char *normalizer, *pre, *post, *decoder; /* NULL: null, the decoder Fuse */
    const char *model, *vocab, *merges, *added;    /* more members, tokens, merges, added tokens */
    int bytes;                                     /* tokens 100..355 are bytes to fall back on */
} Parts;

static void put_json(Text *out, const Parts *p) {
    text_addf(out, "{\"added_tokens\":[" SPECIAL "%s%s]", p->added ? "," : "",
              p->added ? p->added : "");
    text_addf(out, ",\"normalizer\":%s", p->normalizer ? p->normalizer : "null");
    text_addf(out, ",\"pre_tokenizer\":%s", p->pre ? p->pre : "null");
    text_addf(out, ",\"post_processor\":%s", p->post ? p->post : "null");
    text_addf(out, ",\"decoder\":%s", p->decoder ? p->decoder : FUSE);
    text_addf(out, ",\"model\":{\"type\":\"BPE\",%s,\"byte_fallback\":%s,\"vocab\":{" VOCAB "%s%s",
              p->model ? p->model : UNK, p->bytes ? "true" : "false", p->vocab ? "," : "",
              p->vocab ? p->vocab : "");
    for (int i = 0; p->bytes && i < 256; i++) text_addf(out, ",\"<0x%02X>\":%d", i, 100 + i);
    text_addf(out, "},\"merges\":[" MERGES "%s%s]}}", p->merges ? "," : "",
              p->merges ? p->merges : "");
}

static Status try_open(Tokenizer **t, const Parts *p) {
    Text json = {0};
    put_json(&json, p);
    Status s = tokenizer_open_json(t, "test", json.s, json.len);
    text_release(&json);
    return s;
}

static Tokenizer *open_parts(const Parts *p) {
    Tokenizer *t = NULL;
    expect_ok(try_open(&t, p));
    return t;
}

enum { END = -1 };

static void compare(const char *what, const Ids *got, const int *want) {
    int n = 0;
    while (want[n] != END) n++;
    if (got->n == n && !memcmp(got->v, want, (size_t)n * sizeof(*want))) return;
    Text a = {0}, b = {0};
    json_put_ints(&a, got->v, got->n);
    json_put_ints(&b, want, n);
    fail_msg("%s gives %s, expected %s", what, a.s, b.s);
}

static void expect_with(const Parts *p, const char *text, int flags, const int *want) {
    Tokenizer *t = open_parts(p);
    Ids ids = {0};
    expect_ok(tokenizer_encode(t, text, strlen(text), flags, &ids));
    compare(text, &ids, want);
    ids_release(&ids);
    tokenizer_release(t);
}

#define EXPECT(parts, text, ...)                                                                   \
    expect_with(parts, text, TOKENIZE_PARSE_SPECIAL, (const int[]){__VA_ARGS__, END})

static void expect_refusal(const Parts *p, const char *part) {
    Tokenizer *t = NULL;
    assert_int_not_equal(try_open(&t, p), OK);
    assert_null(t);
    if (!strstr(status_message(), part))
        fail_msg("\"%s\" does not name \"%s\"", status_message(), part);
}

/* ---- normalizers ---- */

#define NORMALIZED(...) (&(Parts){.normalizer = __VA_ARGS__})
#define PREPEND         "{\"type\":\"Prepend\",\"prepend\":\"\u2581\"}"
#define SPACES          "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\u2581\"}"
#define BOTH            "{\"type\":\"Sequence\",\"normalizers\":[" PREPEND "," SPACES "]}"
#define TYPE(name)      "{\"type\":\"" name "\"}"

static void test_normalizers(void **state) {
    (void)state;
    EXPECT(&(Parts){0}, "abc", 15, 5);
    EXPECT(NORMALIZED(BOTH), "ab ab", 17, 17);
    EXPECT(NORMALIZED(SPACES), "a  b", 3, 19, 4);
    EXPECT(NORMALIZED(BOTH), "ab<s>ab", 17, 1, 17); /* every stretch of text is prepended */
    EXPECT(NORMALIZED(TYPE("Lowercase")), "AaA", 3, 3, 3);
    EXPECT(NORMALIZED(TYPE("Lowercase")), "\u0130", 14, 0);
    EXPECT(NORMALIZED(TYPE("Strip")), " \tab\n\u3000", 15);
    EXPECT(NORMALIZED("{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":false}"), " ab\n",
           15, 21);
    EXPECT(NORMALIZED(TYPE("NFC")), "ae\u0301a", 3, 10, 3);
    EXPECT(NORMALIZED(TYPE("NFD")), "a\u00e9a", 3, 11, 12, 3);
    EXPECT(NORMALIZED(TYPE("NFKC")), "\ufb01e\u0301", 13, 14, 10);
    EXPECT(NORMALIZED(TYPE("NFKD")), "\ufb01\u00e9", 13, 14, 11, 12);
    EXPECT(NORMALIZED(
               "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"[0-9]+|(?=c)\"},\"content\":\"A\"}"),
           "a12bc", 3, 6, 4, 6, 5);
    EXPECT(NORMALIZED("{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Sequence\","
                      "\"normalizers\":[{\"type\":\"Lowercase\"}]},{\"type\":\"Strip\"}]}"),
           " A ", 3);
}

/* ---- pre-tokenizers ---- */

#define PRE(...) (&(Parts){.pre = __VA_ARGS__})
#define SPLIT(regex, behavior, invert)                                                             \
    PRE("{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" regex "\"},\"behavior\":\"" behavior       \
        "\",\"invert\":" invert "}")
#define META(scheme, split)                                                                        \
    PRE("{\"type\":\"Metaspace\",\"replacement\":\"\u2581\",\"prepend_scheme\":\"" scheme          \
        "\",\"split\":" split "}")

static void test_splits(void **state) {
    (void)state;
    EXPECT(PRE("{\"type\":\"Split\",\"pattern\":{\"String\":\"b\"},\"behavior\":\"Isolated\"}"),
           "abc", 3, 4, 5);
    EXPECT(SPLIT("b", "Isolated", "false"), "abbc", 3, 4, 4, 5);
    EXPECT(SPLIT("b", "Removed", "false"), "abbc", 3, 5);
    EXPECT(SPLIT("b", "MergedWithPrevious", "false"), "abbc", 15, 4, 5);
    EXPECT(SPLIT("b", "MergedWithNext", "false"), "abbc", 3, 4, 18);
    EXPECT(SPLIT("[0-9]", "Isolated", "false"), "a12b", 3, 7, 8, 4);
    EXPECT(SPLIT("[0-9]", "Contiguous", "false"), "a12b", 3, 22, 4);
    EXPECT(SPLIT("[ab]", "Removed", "true"), "1ab2ab", 3, 4, 3, 4);
    EXPECT(SPLIT("[ab]", "Contiguous", "true"), "1ab2", 7, 15, 8);
    EXPECT(SPLIT("(?=b)", "MergedWithPrevious", "false"), "abc", 3, 18);
    EXPECT(SPLIT("\\\\s", "Removed", "false"), "a\u180e1", 3, 0, 7); /* no White_Space */
}

static void test_other_pretokenizers(void **state) {
    (void)state;
    EXPECT(PRE("{\"type\":\"Digits\",\"individual_digits\":true}"), "12ab", 7, 8, 15);
    EXPECT(PRE("{\"type\":\"Digits\",\"individual_digits\":false}"), "12ab", 22, 15);
    EXPECT(PRE(TYPE("Whitespace")), "ab, a", 15, 9, 3);
    EXPECT(PRE(TYPE("WhitespaceSplit")), "ab ,a", 15, 23);
    EXPECT(PRE("{\"type\":\"Punctuation\"}"), ",a", 9, 3);
    EXPECT(PRE("{\"type\":\"Punctuation\",\"behavior\":\"MergedWithNext\"}"), ",a", 23);
    EXPECT(PRE("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\","
               "\"individual_digits\":true},{\"type\":\"Metaspace\",\"replacement\":\"\u2581\","
               "\"prepend_scheme\":\"first\"}]}"),
           "ab12 ab", 17, 7, 8, 17);
}

static void test_metaspace(void **state) {
    (void)state;
    EXPECT(META("always", "true"), "ab ab", 17, 17);
    EXPECT(META("always", "true"), " ab", 17);
    EXPECT(META("never", "true"), "ab ab", 15, 17);
    EXPECT(META("first", "true"), "ab<s>ab", 17, 1, 15);
    EXPECT(META("first", "true"), "<s>ab", 1, 15);
    EXPECT(META("always", "true"), "ab<s>ab", 17, 1, 17);
    EXPECT(META("always", "true"), "a  b", 16, 2, 2, 4);
    EXPECT(META("always", "false"), "a  b", 16, 19, 4);
    EXPECT(PRE("{\"type\":\"Metaspace\",\"replacement\":\"\u2581\",\"add_prefix_space\":true}"),
           "ab", 17);
    EXPECT(PRE("{\"type\":\"Metaspace\",\"replacement\":\"\u2581\",\"add_prefix_space\":false,"
               "\"prepend_scheme\":\"never\"}"),
           "ab", 15);
}

#define BYTE_LEVEL(prefix, regex)                                                                  \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":" prefix ",\"use_regex\":" regex "}"

static void expect_bytes(const char *pre, const char *text, const int *want) {
    Text json = {0};
    Tokenizer *t = NULL;
    Ids ids = {0};
    text_addf(&json,
              "{\"pre_tokenizer\":%s,\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"vocab\":{"
              "\"a\":0,\"\u0120\":1,\"\u0120a\":2,\"a\u0120\":3,\"<?>\":4},\"unk_token\":\"<?>\","
              "\"merges\":[[\"a\",\"\u0120\"],[\"\u0120\",\"a\"]]}}",
              pre);
    expect_ok(tokenizer_open_json(&t, "test", json.s, json.len));
    expect_ok(tokenizer_encode(t, text, strlen(text), 0, &ids));
    compare(text, &ids, want);
    ids_release(&ids);
    tokenizer_release(t);
    text_release(&json);
}

static void test_byte_level(void **state) {
    (void)state;
    expect_bytes(BYTE_LEVEL("false", "true"), "a a", (const int[]){0, 2, END});
    expect_bytes(BYTE_LEVEL("false", "false"), "a a", (const int[]){3, 0, END});
    expect_bytes(BYTE_LEVEL("true", "true"), "a a", (const int[]){2, 2, END});
    expect_bytes(BYTE_LEVEL("true", "true"), " a", (const int[]){2, END});
    expect_bytes(BYTE_LEVEL("false", "true"), "a\u00e9", (const int[]){0, 4, 4, END});
    expect_bytes(
        "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":"
        "{\"Regex\":\" \"},\"behavior\":\"MergedWithNext\"}," BYTE_LEVEL("false", "false") "]}",
        "a a", (const int[]){0, 2, END});
}

/* ---- the model ---- */

static void test_unknown_characters(void **state) {
    (void)state;
    Parts fused = {.model = UNK ",\"fuse_unk\":true"};
    Parts silent = {.model = "\"unk_token\":null"};
    EXPECT(&(Parts){0}, "zz", 0, 0);
    EXPECT(&fused, "zz", 0);
    EXPECT(&fused, "zaz", 0, 3, 0);
    EXPECT(&silent, "azb", 15); /* as if it were not there */
}

static void test_byte_fallback(void **state) {
    (void)state;
    Parts bytes = {.bytes = 1, .normalizer = BOTH};
    EXPECT(&bytes, "z", 2, 100 + 'z');
    EXPECT(&bytes, "ab\u65e5ab", 17, 100 + 0xe6, 100 + 0x97, 100 + 0xa5, 15);
    EXPECT(&bytes, "\U0001f642", 2, 100 + 0xf0, 100 + 0x9f, 100 + 0x99, 100 + 0x82);
    EXPECT(&bytes, "\xff\xe6", 2, 100 + 0xff, 100 + 0xe6);
    EXPECT(&bytes, "<0x41>", 2, 100 + '<', 100 + '0', 100 + 'x', 100 + '4', 7, 100 + '>');
    EXPECT(&bytes, "abc, a", 17, 5, 9, 16);
    /* merges of byte tokens reach across characters */
    Parts joined = {
        .bytes = 1, .vocab = "\"<0x7A><0x7A>\":30", .merges = "[\"<0x7A>\",\"<0x7A>\"]"};
    EXPECT(&joined, "zzz", 30, 100 + 'z');
}

static void test_merges(void **state) {
    (void)state;
    Parts ignore = {.model = UNK ",\"ignore_merges\":true"};
    EXPECT(&ignore, "cab", 24);
    EXPECT(&(Parts){0}, "cab", 5, 15);
    Parts spaces = {.vocab = "\"a a\":25,\" a\":26", .merges = "[\" \",\"a\"],[\"a\",\" a\"]"};
    EXPECT(&spaces, "a a", 25);
    Parts later = {.merges = "\"a b\""}; /* said twice, the later rank holds: "b c" comes first */
    EXPECT(&later, "abc", 3, 18);
}

/* ---- added tokens ---- */

#define ADDED(id, content, flags) "{\"id\":" #id ",\"content\":\"" content "\"" flags "}"

static void test_added_tokens(void **state) {
    (void)state;
    Parts p = {
        .added =
            ADDED(40, "<x>", "") "," ADDED(41, "<x>a", "") "," ADDED(42, "<l>", ",\"lstrip\":true") "," ADDED(
                43, "<r>",
                ",\"rstrip\":true") "," ADDED(44, "cc",
                                              ",\"single_word\":true") "," ADDED(45, "<S>",
                                                                                 ",\"special\":true")};
    EXPECT(&p, "<x>b<x>ab", 40, 4, 41, 4);
    EXPECT(&p, "a <l> b", 3, 42, 20, 4);
    EXPECT(&p, "a <r> \n b", 3, 20, 43, 4);
    EXPECT(&p, "a <r> <l>a", 3, 20, 43, 42, 3);
    EXPECT(&p, "cc acc cca cc", 44, 20, 3, 5, 5, 20, 5, 5, 3, 20, 44);
    EXPECT(&p, "<S>a", 45, 3);
    expect_with(&p, "<S><x>", 0, (const int[]){0, 0, 0, 40, END}); /* special ones stay text */
}

static void test_normalized_added_tokens(void **state) {
    (void)state;
    Parts p = {.normalizer = TYPE("Lowercase"),
               .added = ADDED(40, "AXB", ",\"normalized\":true") "," ADDED(41, "BC", "")};
    EXPECT(&p, "axb", 40);
    EXPECT(&p, "cAxBc", 5, 40, 5);
    EXPECT(&p, "bcBC", 18, 41);
    EXPECT(&p, "AXBC", 3, 0, 41); /* those of the raw text come first */
    Parts prepended = {.normalizer = BOTH, .added = ADDED(40, "<x>", ",\"normalized\":true")};
    EXPECT(&prepended, "a <x>", 16, 40);
    EXPECT(&prepended, "a<x>", 16, 0, 0, 0);
}

/* As many as gemma has, and every one is found. */
static void test_many_added_tokens(void **state) {
    (void)state;
    enum { N = 6415 };
    Text added = {0}, text = {0};
    Ids ids = {0};
    for (int i = 0; i < N; i++) {
        text_addf(&added, "%s{\"id\":%d,\"content\":\"<unused%d>\"}", i ? "," : "", 400 + i, i);
        text_addf(&text, "<unused%d>", i);
    }
    Tokenizer *t = open_parts(&(Parts){.bytes = 1, .added = added.s});
    expect_ok(tokenizer_encode(t, text.s, text.len, 0, &ids));
    assert_int_equal(ids.n, N);
    for (int i = 0; i < N; i++) assert_int_equal(ids.v[i], 400 + i);
    ids_release(&ids);
    text_release(&added);
    text_release(&text);
    tokenizer_release(t);
}

/* ---- post-processors ---- */

#define TEMPLATE                                                                                   \
    "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},{"           \
    "\"Sequence\":{\"id\":\"A\"}},{\"SpecialToken\":{\"id\":\"e\"}}],\"special_tokens\":{"         \
    "\"<s>\":{\"id\":\"<s>\",\"ids\":[1]},\"e\":{\"id\":\"e\",\"ids\":[%s]}}}"

static void test_post_processors(void **state) {
    (void)state;
    Text post = {0};
    text_addf(&post, TEMPLATE, "11,12");
    Parts p = {.post = post.s};
    expect_with(&p, "ab", TOKENIZE_ADD_SPECIAL, (const int[]){1, 15, 11, 12, END});
    expect_with(&p, "ab", 0, (const int[]){15, END});
    Text both = {0};
    text_addf(&both, "{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},%s]}",
              post.s);
    p.post = both.s;
    expect_with(&p, "", TOKENIZE_ADD_SPECIAL, (const int[]){1, 11, 12, END});
    text_clear(&post);
    text_addf(&post, TEMPLATE, "99999");
    expect_refusal(&(Parts){.post = post.s}, "99999");
    text_release(&both);
    text_release(&post);
}

/* ---- decoders ---- */

/* At once, in one token at a time, and appended to what is there. */
static void expect_decoded(const Parts *p, const char *want, const int *ids) {
    Tokenizer *t = open_parts(p);
    Text whole = {0}, parts = {0};
    TokenizerStream at = {0};
    int n = 0;
    while (ids[n] != END) n++;
    expect_ok(tokenizer_decode(t, ids, n, 0, &whole));
    for (int i = 0; i < n; i++) expect_ok(tokenizer_decode_next(t, &at, ids + i, 1, 0, &parts));
    assert_string_equal(whole.s ? whole.s : "", want);
    assert_string_equal(parts.s ? parts.s : "", want);
    text_release(&whole);
    text_release(&parts);
    tokenizer_release(t);
}
#define DECODED(parts, text, ...) expect_decoded(parts, text, (const int[]){__VA_ARGS__, END})
#define CHAIN(...)                                                                                 \
    (&(Parts){.bytes = 1, .decoder = "{\"type\":\"Sequence\",\"decoders\":[" __VA_ARGS__ "]}"})
#define TO_SPACE "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\u2581\"},\"content\":\" \"}"
#define STRIP(start, end)                                                                          \
    "{\"type\":\"Strip\",\"content\":\" \",\"start\":" start ",\"stop\":" end "}"
#define LLAMA CHAIN(TO_SPACE ",{\"type\":\"ByteFallback\"}," FUSE "," STRIP("1", "0"))
#define META_DECODER(scheme)                                                                       \
    (&(Parts){.decoder = "{\"type\":\"Metaspace\",\"replacement\":\"\u2581\",\"prepend_scheme\":"  \
                         "\"" scheme "\"}"})

static void test_decoders(void **state) {
    (void)state;
    DECODED(LLAMA, "ab ab", 17, 17);
    DECODED(LLAMA, " ab", 2, 17); /* one space goes, even when its token is empty then */
    DECODED(LLAMA, "ab", 1, 17);  /* special tokens left out are no beginning */
    DECODED(LLAMA, "\u65e5 a", 100 + 0xe6, 100 + 0x97, 100 + 0xa5, 16);
    DECODED(LLAMA, "\xff\xe6", 100 + 0xff, 100 + 0xe6);
    DECODED(LLAMA, "a", 100 + ' ', 3);
    DECODED(CHAIN(TO_SPACE ",{\"type\":\"ByteFallback\"}," FUSE), " ab ab", 17, 17);
    DECODED(CHAIN(TO_SPACE "," STRIP("1", "0")), "abab", 17, 17); /* of every token, without Fuse */
    DECODED(CHAIN(STRIP("0", "1")), "", 20);
    DECODED(META_DECODER("always"), "ab ab", 17, 17);
    DECODED(META_DECODER("first"), " ab", 19, 17);
    DECODED(META_DECODER("never"), " ab ab", 17, 17);
    DECODED(CHAIN("{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"[ac]\"},\"content\":\"x\"}"),
            "xbx", 15, 5);
}

static void test_decoding_goes_on_with_what_is_there(void **state) {
    (void)state;
    Tokenizer *t = open_parts(LLAMA);
    Text out = {0};
    text_add(&out, "x");
    expect_ok(tokenizer_decode(t, (const int[]){17}, 1, 1, &out));
    assert_string_equal(out.s, "x ab");
    text_clear(&out);
    expect_ok(tokenizer_decode(t, (const int[]){1, 17}, 2, 1, &out));
    assert_string_equal(out.s, "<s> ab");
    assert_int_not_equal(tokenizer_decode(t, (const int[]){60}, 1, 1, &out), OK);
    assert_non_null(strstr(status_message(), "60"));
    text_release(&out);
    tokenizer_release(t);
}

static void test_saved_is_the_same(void **state) {
    (void)state;
    const char *dir = scratch("saved");
    expect_ok(file_mkdirs(dir));
    Parts p = *LLAMA;
    p.normalizer = BOTH;
    p.model = UNK ",\"fuse_unk\":true";
    p.added = ADDED(40, "<x>", ",\"normalized\":true");
    p.vocab = "\"a a\":25,\" a\":26", p.merges = "[\" \",\"a\"],[\"a\",\" a\"]";
    Tokenizer *t = open_parts(&p), *again = NULL;
    expect_ok(tokenizer_save(t, dir));
    expect_ok(tokenizer_open_dir(&again, dir));
    assert_true(tokenizer_hash(again) == tokenizer_hash(t));
    tokenizer_release(again);
    tokenizer_release(t);
}

/* ---- what is refused, and what must not take long ---- */

static void test_refusals(void **state) {
    (void)state;
    expect_refusal(NORMALIZED(TYPE("BertNormalizer")), "BertNormalizer");
    expect_refusal(
        NORMALIZED("{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"\"}"),
        "not empty");
    expect_refusal(NORMALIZED("{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"[a&&b]\"},"
                              "\"content\":\"\"}"),
                   "&&");
    expect_refusal(PRE(TYPE("UnicodeScripts")), "UnicodeScripts");
    expect_refusal(SPLIT("a", "Sometimes", "false"), "Sometimes");
    expect_refusal(META("second", "true"), "second");
    expect_refusal(PRE("{\"type\":\"Metaspace\",\"replacement\":\"__\"}"), "one character");
    expect_refusal(PRE("{\"type\":\"Metaspace\",\"replacement\":\"_\",\"add_prefix_space\":false,"
                       "\"prepend_scheme\":\"always\"}"),
                   "contradicts");
    expect_refusal(&(Parts){.post = TYPE("RobertaProcessing")}, "RobertaProcessing");
    expect_refusal(&(Parts){.decoder = "null"}, "decoder");
    expect_refusal(&(Parts){.decoder = TYPE("CTC")}, "CTC");
    expect_refusal(&(Parts){.decoder = TYPE("ByteLevel")}, "ByteLevel");
    expect_refusal(CHAIN(FUSE "," STRIP("0", "1")), "stop");
    expect_refusal(CHAIN(FUSE "," TO_SPACE), "behind Fuse");
    expect_refusal(&(Parts){.model = "\"unk_token\":\"<none>\""}, "<none>");
    expect_refusal(&(Parts){.model = UNK ",\"end_of_word_suffix\":\"</w>\""}, "end_of_word_suffix");
    expect_refusal(&(Parts){.merges = "\"a q\""}, "lacks");
    expect_refusal(&(Parts){.merges = "\"a a\""}, "lacks");
    expect_refusal(&(Parts){.merges = "[\"a\",\"\"]"}, "lacks");
    expect_refusal(&(Parts){.vocab = "\"x\":3"}, "id 3");
    expect_refusal(&(Parts){.vocab = "\"x\":2000000000"}, "out of range");
    expect_refusal(&(Parts){.added = ADDED(40, "ab", "")}, "vocabulary 15");
    expect_refusal(&(Parts){.added = ADDED(15, "<x>", "")}, "another token's");
    expect_refusal(&(Parts){.added = ADDED(40, "<x>", "") "," ADDED(40, "<y>", "")}, "same id 40");
}

static void test_added_tokens_are_short(void **state) {
    (void)state;
    Text added = {0};
    text_add(&added, "{\"id\":40,\"content\":\"");
    for (int i = 0; i < 257; i++) text_add(&added, "a");
    text_add(&added, "\"}");
    expect_refusal(&(Parts){.added = added.s}, "1 to 256 bytes");
    expect_refusal(&(Parts){.added = ADDED(40, "", "")}, "1 to 256 bytes");
    text_release(&added);
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t); /* other programs do not count */
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* 1 MiB of every byte: of one word where merges can go on and on, and of letters without end. */
static void expect_linear(const Parts *p) {
    enum { N = 1 << 20 };
    static const unsigned char kinds[] = {'a', 'z', ' ', '\n', '1', 0xff, 0xe2, 0};
    Tokenizer *t = open_parts(p);
    char *s = malloc(N);
    for (size_t i = 0; i < sizeof(kinds); i++) {
        Ids ids = {0};
        Text back = {0};
        memset(s, kinds[i], N);
        double start = seconds();
        expect_ok(tokenizer_encode(t, s, N, 0, &ids));
        expect_ok(tokenizer_decode(t, ids.v, ids.n, 1, &back));
        double taken = seconds() - start;
        if (taken > 5.0) fail_msg("1 MiB of byte %d took %.2f s", kinds[i], taken);
        if (p->bytes && !p->pre) { /* Metaspace loses a space at the start */
            assert_int_equal(back.len, N);
            assert_memory_equal(back.s, s, N);
        }
        text_release(&back);
        ids_release(&ids);
    }
    free(s);
    tokenizer_release(t);
}

/* "aa", "aaaa", ... of up to 1024: the longest chains of merges. */
static void put_doubling(Text *vocab, Text *merges) {
    char run[1025];
    memset(run, 'a', 1024);
    run[1024] = '\0';
    for (int n = 2, id = 60; n <= 1024; n *= 2, id++) {
        text_addf(vocab, "%s\"%.*s\":%d", n > 2 ? "," : "", n, run, id);
        text_addf(merges, "%s\"%.*s %.*s\"", n > 2 ? "," : "", n / 2, run, n / 2, run);
    }
}

static void test_time_is_linear(void **state) {
    (void)state;
    Text vocab = {0}, merges = {0};
    put_doubling(&vocab, &merges);
    Parts p = *LLAMA;
    p.normalizer = BOTH, p.vocab = vocab.s, p.merges = merges.s;
    expect_linear(&p);
    p.normalizer = NULL;
    p.pre = META("always", "true")->pre;
    expect_linear(&p);
    p.bytes = 0, p.pre = NULL; /* nothing to cut by */
    expect_linear(&p);
    p.model = UNK ",\"fuse_unk\":true";
    p.pre = SPLIT(" ", "MergedWithPrevious", "false")->pre;
    expect_linear(&p);
    text_release(&vocab);
    text_release(&merges);
}

/* Cutting a text where no merge reaches across changes nothing: the same model with one merge of
 * byte tokens, which forbids cuts, gives the same ids. */
static void test_cuts_change_nothing(void **state) {
    (void)state;
    Parts free_ = {.bytes = 1, .normalizer = BOTH};
    Parts bound = free_;
    bound.vocab = "\"<0x00><0x00>\":30", bound.merges = "[\"<0x00>\",\"<0x00>\"]";
    Tokenizer *a = open_parts(&free_), *b = open_parts(&bound);
    Rng r = {.seed = 5, .purpose = RNG_TEST};
    for (int i = 0; i < 2000; i++) {
        static const char *const atoms[] = {"a", "b", "c", " ", "1", "2", ",", "z", "\u65e5"};
        Text s = {0};
        Ids x = {0}, y = {0};
        for (int n = rng_below(&r, 40); n >= 0; n--) text_add(&s, atoms[rng_below(&r, 9)]);
        expect_ok(tokenizer_encode(a, s.s, s.len, 0, &x));
        expect_ok(tokenizer_encode(b, s.s, s.len, 0, &y));
        ids_add(&y, END);
        compare(s.s, &x, y.v);
        text_release(&s);
        ids_release(&x);
        ids_release(&y);
    }
    tokenizer_release(a);
    tokenizer_release(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_normalizers),
        cmocka_unit_test(test_splits),
        cmocka_unit_test(test_other_pretokenizers),
        cmocka_unit_test(test_metaspace),
        cmocka_unit_test(test_byte_level),
        cmocka_unit_test(test_unknown_characters),
        cmocka_unit_test(test_byte_fallback),
        cmocka_unit_test(test_merges),
        cmocka_unit_test(test_added_tokens),
        cmocka_unit_test(test_normalized_added_tokens),
        cmocka_unit_test(test_many_added_tokens),
        cmocka_unit_test(test_post_processors),
        cmocka_unit_test(test_decoders),
        cmocka_unit_test(test_decoding_goes_on_with_what_is_there),
        cmocka_unit_test(test_saved_is_the_same),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_added_tokens_are_short),
        cmocka_unit_test(test_time_is_linear),
        cmocka_unit_test(test_cuts_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
