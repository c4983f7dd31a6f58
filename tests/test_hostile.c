/* test_hostile.c - files that one check alone refuses: left out, that check would let them through,
 * or another would say something else. Each format's own tests hold the most of theirs;
 * tests/reference/ checks_are_tested.py finds what none notices. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "core/base/log.h"
#include "core/model/hf.h"
#include "core/run/run_inside.h"
#include "datasets/dataset.h"
#include "tests/scratch.h"

static void expect_refused(Status s, const char *part, const char *what) {
    if (s == OK || !strstr(status_message(), part))
        fail_msg("%s: status %d, \"%s\" does not say \"%s\"", what, s, status_message(), part);
}

/* ------------------------------------------------ tokenizer.json */

typedef struct {
    const char *normalizer, *pre, *post, *decoder, *model, *merges; /* NULL: what is harmless */
    const char *part;
} Bad;
#define REPEAT8(x)  x "," x "," x "," x "," x "," x "," x "," x
#define REPEAT64(x) REPEAT8(REPEAT8(x))
#define LOWER       "{\"type\":\"Lowercase\"}"
#define FUSE        "{\"type\":\"Fuse\"}"
#define STRIP(content, start, stop)                                                                \
    "{\"type\":\"Strip\",\"content\":\"" content "\",\"start\":" start ",\"stop\":" stop "}"
#define ALL_OF(kind, list) "{\"type\":\"Sequence\",\"" kind "\":[" list "]}"
#define REGEX(r)           "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" r "\"},\"behavior\":\"Isolated\"}"
#define BYTE_LEVEL         "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}"
#define TIMES8(x)          x x x x x x x x
#define KIB                TIMES8(TIMES8("0123456789abcdefg")) /* and 64 bytes more */

static Status open_tokenizer(const Bad *b) {
    Text json = {0};
    Tokenizer *t = NULL;
    text_addf(&json,
              "{\"added_tokens\":[],\"normalizer\":%s,\"pre_tokenizer\":%s,\"post_processor\":%s,"
              "\"decoder\":%s,\"model\":{\"type\":\"BPE\",%s\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},"
              "\"merges\":[%s]}}",
              b->normalizer ? b->normalizer : "null", b->pre ? b->pre : "null",
              b->post ? b->post : "null", b->decoder ? b->decoder : FUSE, b->model ? b->model : "",
              b->merges ? b->merges : "\"a b\"");
    Status s = tokenizer_open_json(&t, "t", json.s, json.len);
    text_release(&json);
    tokenizer_release(t);
    return s;
}

static void parts_of_a_tokenizer(void **state) {
    (void)state;
    static const Bad bad[] = {
        {.normalizer = "7", .part = "expected an object with a \"type\""},
        {.normalizer = ALL_OF("normalizers", REPEAT64(LOWER)), .part = "steps of normalizing"},
        {.normalizer = "{\"type\":\"Prepend\",\"prepend\":\"" KIB "\"}",
         .part = "Prepend inserts more"},
        {.normalizer =
             "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"" KIB "\"}",
         .part = "Replace inserts more"},
        {.pre = ALL_OF("pretokenizers", BYTE_LEVEL "," BYTE_LEVEL), .part = "after ByteLevel"},
        {.pre = REGEX("[a\\\\S]"), .part = "\\S inside a class"},
        {.pre = REGEX("[a\\\\W]"), .part = "\\W inside a class"},
        {.pre = REGEX("a\\\\"), .part = "a lone backslash"},
        {.pre = REGEX("\\\\p{L"), .part = "an open brace"},
        {.pre = REGEX("[a[b]]"), .part = "a class inside a class"},
        {.pre = REGEX("[a&&b]"), .part = "&& inside a class"},
        {.pre = REGEX("a{1,2}+"), .part = "a possessive"},
        {.pre = REGEX("a\\\\b"), .part = "a word boundary"},
        {.pre = BYTE_LEVEL,
         .decoder = STRIP(" ", "1", "0"),
         .part = "the decoder \"Strip\" is not supported"},
        {.post = "{\"type\":\"TemplateProcessing\",\"single\":[" REPEAT64(
             "{}") ",{}],\"pair\":[],"
                   "\"special_tokens\":{}}",
         .part = "template of 65 parts is too long"},
        {.decoder = ALL_OF("decoders", REPEAT64(STRIP(" ", "1", "0"))),
         .part = "steps of decoding"},
        {.decoder = STRIP("", "1", "0"), .part = "a content of one character"},
        {.decoder = STRIP("ab", "1", "0"), .part = "a content of one character"},
        {.decoder = STRIP(" ", "-1", "0"), .part = "not negative"},
        {.decoder = ALL_OF("decoders", FUSE "," STRIP("\xc3\xa9", "1", "0")),
         .part = "behind Fuse"},
        {.decoder = ALL_OF("decoders", FUSE "," STRIP(" ", "1", "0") "," STRIP("a", "1", "0")),
         .part = "behind Fuse"},
        {.decoder = ALL_OF("decoders", FUSE "," STRIP(" ", "2000", "0")),
         .part = "of 2000 characters"},
        {.model = "\"unk_token\":7,", .part = "unk_token must be a string"},
        {.merges = "[\"a\",7]", .part = "a merge must be \"a b\" or"},
        {.merges = "[\"a\",\"b\",\"c\"]", .part = "a merge must be \"a b\" or"},
        {.merges = "7", .part = "a merge must be \"a b\" or"},
        {.merges = "\"ab\"", .part = "one space between"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char what[32];
        snprintf(what, sizeof what, "row %zu", i);
        expect_refused(open_tokenizer(&bad[i]), bad[i].part, what);
    }
    assert_int_equal(open_tokenizer(&(Bad){.part = ""}), OK);
    Tokenizer *t;
    expect_refused(tokenizer_open_json(&t, "t", "[1]", 3), "must be a JSON object", "a list");
    expect_refused(tokenizer_open_dir(&t, scratch("")), "there is no tokenizer.json", "a folder");
}

static void vocabularies_of_gguf(void **state) {
    (void)state;
    static const char *const tokens[] = {"<|e|>", "a", "b", "ab"};
    static const char *const merges[] = {"a b"};
    static const int types[] = {3, 1, 1, 1};
    static char huge[2000];
    const char *const long_token[] = {huge, "a", "b", "ab"}, *const no_token[] = {"", "a", "b",
                                                                                  "ab"};
    const GgufTokenizer good = {"gpt-2", tokens, types, 4, merges, 1, -1, 0, -1, 0, 0, NULL};
    GgufTokenizer bad = good;
    Tokenizer *t;
    memset(huge, 'x', sizeof huge - 1);
    assert_int_equal(tokenizer_from_gguf(&t, &good), OK);
    tokenizer_release(t);
    bad.n_tokens = 0;
    expect_refused(tokenizer_from_gguf(&t, &bad), "0 tokens and 1 merges", "no tokens");
    bad.n_tokens = 4, bad.n_merges = -1;
    expect_refused(tokenizer_from_gguf(&t, &bad), "-1 merges", "merges");
    bad = good, bad.tokens = long_token;
    expect_refused(tokenizer_from_gguf(&t, &bad), "an added token must have", "a long token");
    bad.tokens = no_token;
    expect_refused(tokenizer_from_gguf(&t, &bad), "an added token must have", "an empty token");
    bad = good, bad.add_bos = 1;
    expect_refused(tokenizer_from_gguf(&t, &bad), "but names none", "no beginning");
    bad.bos = 4;
    expect_refused(tokenizer_from_gguf(&t, &bad), "but names none", "a beginning out of range");
    bad = good, bad.pre = "nonsense";
    expect_refused(tokenizer_from_gguf(&t, &bad), "nonsense", "a splitting");
}

/* ------------------------------------------------ indexes of shards */

static void indexes(void **state) {
    (void)state;
    static const struct {
        const char *index, *part;
    } bad[] = {
        {"{\"weight_map\":[]}", "\"weight_map\" must be an object"},
        {"{}", "weight_map"},
        {"{\"weight_map\":{\"a\":7}}", "weight_map must name files"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "leaves the directory"},
        {"{\"weight_map\":{\"a\":\"..\"}}", "leaves the directory"},
        {"{\"weight_map\":{\"a\":\"sub/a.safetensors\"}}", "leaves the directory"},
        {"{\"weight_map\":{\"a\":\"absent.safetensors\"}}", "absent.safetensors"},
        {"{\"weight_map\":{\"a\":\"x\",\"a\":\"y\"}}", "twice"},
    };
    Text types = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        scratch_write("model.safetensors.index.json", bad[i].index, strlen(bad[i].index));
        expect_refused(model_storage(&types, scratch("")), bad[i].part, bad[i].index);
    }
    ModelConfig m;
    scratch_write("file", "x", 1);
    expect_refused(model_read_config(&m, scratch("file")), "is not there", "a file as a model");
    /* more shards than are opened at once */
    static const char shard[] = "\2\0\0\0\0\0\0\0{}";
    text_add(&types, "{\"weight_map\":{");
    for (int i = 0; i <= SHARDS_MAX; i++) {
        char name[32];
        snprintf(name, sizeof name, "s%d", i);
        scratch_write(name, shard, sizeof shard - 1);
        text_addf(&types, "%s\"t%d\":\"s%d\"", i ? "," : "", i, i);
    }
    text_add(&types, "}}");
    scratch_write("model.safetensors.index.json", types.s, types.len);
    text_clear(&types);
    expect_refused(model_storage(&types, scratch("")), "more than 256 shards", "many shards");
    text_release(&types);
}

/* ------------------------------------------------ checkpoints */

/* Manifests whose hash is right, and that lie all the same. */
static void manifests(void **state) {
    (void)state;
#define FILES(name, bytes)                                                                         \
    "\"files\":[{\"name\":\"" name "\",\"bytes\":" bytes ",\"xxh3\":\"6de3431b05f7c11f\"}]"
#define MANIFEST(format, step, files)                                                              \
    "\"format\":" format ",\"step\":" step ",\"logs\":{}," files "}\n"
    static const struct {
        const char *manifest, *part;
    } bad[] = {
        {MANIFEST("9", "1", FILES("weights", "\"10\"")), "has format 9"},
        {MANIFEST("1", "2", FILES("weights", "\"10\"")), "is of step 2, not of step 1"},
        {MANIFEST("1", "1", FILES("../weights", "\"10\"")), "is not the name of a file"},
        {MANIFEST("1", "1", FILES("", "\"10\"")), "is not the name of a file"},
        {MANIFEST("1", "1", FILES("weights", "10")), "\"bytes\""},
        {MANIFEST("1", "1", FILES("weights", "\"1x\"")), "a whole number in quotes"},
        {MANIFEST("1", "1", FILES("weights", "\"11\"")), "instead of 11"},
        {MANIFEST("1", "1", FILES("absent", "\"10\"")), "absent"},
        {MANIFEST("1", "1", "\"files\":7"), "\"files\" must be an array"},
    };
    RunConfig cfg = {.dir = scratch("run"), .best = "", .overwrite = 1};
    Run *run;
    CheckpointWriter *w;
    Checkpoint *c;
    StepDir dirs[STEP_DIRS_MAX];
    char folder[RUN_PATH], path[RUN_PATH + 20];
    int n = 0;
    assert_int_equal(run_open(&run, &cfg, "sft", "{\"verb\":\"sft\"}"), OK);
    assert_int_equal(run_begin(run), OK);
    assert_int_equal(checkpoint_begin(&w, run, 1), OK);
    assert_int_equal(checkpoint_add(w, "weights", "0123456789", 10), OK);
    assert_int_equal(checkpoint_commit(w), OK);
    assert_int_equal(checkpoint_list(run, dirs, &n), OK);
    checkpoint_path(folder, run, dirs[0], "");
    snprintf(path, sizeof path, "%s/manifest.json", folder);
    for (int i = -1; i < (int)(sizeof bad / sizeof *bad); i++) {
        const char *rest = i < 0 ? MANIFEST("1", "1", FILES("weights", "\"10\"")) : bad[i].manifest;
        Text text = {0};
        char head[MANIFEST_HEAD + 1];
        manifest_head(head, rest, strlen(rest));
        text_addf(&text, "%s%s", head, rest);
        assert_int_equal(file_write_atomic(path, text.s, text.len), OK);
        text_release(&text);
        Status s = checkpoint_open_latest(&c, run);
        if (i < 0)
            assert_int_equal(s, OK);
        else
            expect_refused(s, bad[i].part, rest);
        checkpoint_close(c);
    }
    run_close(run);
}

/* ------------------------------------------------ rows */

#define MESSAGES(list) "{\"messages\":[" list "]}"
#define USER           "{\"role\":\"user\",\"content\":\"q\"}"
#define ASSISTANT      "{\"role\":\"assistant\",\"content\":\"a\"}"
#define CALLS          "{\"role\":\"assistant\",\"content\":\"a\",\"tool_calls\":[1]}"

static void rows(void **state) {
    (void)state;
    static const struct {
        RowKind kind;
        const char *row, *part;
    } bad[] = {
        {ROWS_SFT, MESSAGES("7"), "a message must be an object"},
        {ROWS_SFT, "{\"messages\":7}", "expected a list of messages"},
        {ROWS_PROMPTS, "{\"prompt\":7}", "a prompt must be a string or a list"},
        {ROWS_SFT, "{\"prompt\":\"q\",\"completion\":[" USER "]}",
         "must end with a message of the assistant"},
        {ROWS_SFT, MESSAGES(USER), "no message of the assistant"},
        {ROWS_SFT, MESSAGES(ASSISTANT), "no message of the user"},
        {ROWS_PROMPTS, MESSAGES(USER "," CALLS), "an answer that calls tools"},
        {ROWS_PROMPTS, MESSAGES("{\"role\":\"system\",\"content\":\"s\"}"),
         "must end with a message of the user"},
        {ROWS_PROMPTS, "{\"prompt\":[" USER "," ASSISTANT "]}",
         "must end with a message of the user"},
        {ROWS_SFT, "{\"text\":7}", "text must be a string"},
        {ROWS_SFT, "{\"text\":\"x\"}", "nothing to train on: there is no token but the end"},
        {ROWS_SFT, MESSAGES("{\"role\":\"user\",\"content\":[7]}"),
         "a part of a content must be an object"},
        {ROWS_SFT, MESSAGES("{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}"), "\"text\""},
        {ROWS_PAIRS, "{\"prompt\":\"q\",\"chosen\":\"a\",\"rejected\":[" USER "," ASSISTANT "]}",
         "both be lists"},
    };
    DataConfig cfg = {.eval = "",
                      .layout = "plain",
                      .system = "",
                      .max_length = 64,
                      .truncate_prompt = "refuse",
                      .bad_rows = "stop",
                      .cache = ""};
    BpeTrainer *b;
    Tokenizer *t;
    Dataset d;
    assert_int_equal(bpe_trainer_create(&b), OK);
    assert_int_equal(bpe_trainer_add(b, "abc", 3), OK);
    assert_int_equal(bpe_trainer_finish(b, 262, &t), OK);
    bpe_trainer_release(b);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *path = scratch_write("row.jsonl", bad[i].row, strlen(bad[i].row));
        Status s = dataset_open(&d, &cfg, path, bad[i].kind, t);
        if (s == OK) dataset_release(&d);
        expect_refused(s, bad[i].part, bad[i].row);
        assert_non_null(strstr(status_message(), "row.jsonl:1"));
    }
    tokenizer_release(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_of_a_tokenizer),
        cmocka_unit_test(vocabularies_of_gguf),
        cmocka_unit_test(indexes),
        cmocka_unit_test(manifests),
        cmocka_unit_test(rows),
    };
    log_level(LOG_QUIET);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
