/* test_data_tools.c - what a check finds in a data file is what a run refuses or remarks on; rows
 * are shown as the model sees them; a split keeps prompts together. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/stream.h"
#include "datasets/data_tools.h"
#include "datasets/dataset.h"
#include "tests/expect.h"
#include "tests/scratch.h"

static Arena arena;
static JsonDoc *report;

static void rows(const char *name, const char *text) {
    scratch_write(name, text, strlen(text));
}

static char *content(const char *name) {
    char *text = NULL;
    size_t len;
    expect_ok(file_read(&arena, &text, &len, scratch(name), 1 << 24));
    return text;
}

static int setup(void **state) {
    (void)state;
    BpeTrainer *b;
    Tokenizer *t;
    static const char text[] = "the user asks the assistant and the assistant answers the user";
    log_level(LOG_QUIET);
    expect_ok(bpe_trainer_create(&b));
    for (int i = 0; i < 4; i++) expect_ok(bpe_trainer_add(b, text, strlen(text)));
    expect_ok(bpe_trainer_finish(b, 300, &t));
    bpe_trainer_release(b);
    expect_ok(tokenizer_save(t, scratch("")));
    tokenizer_release(t);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    json_release(report);
    arena_release(&arena);
    return 0;
}

/* What a verb says on standard output; its status in *s. */
static char *said(Status (*verb)(int, char **), Status *s, const char *fmt, ...) {
    char flags[1024], *argv[32];
    int saved = dup(STDOUT_FILENO);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(flags, sizeof flags, fmt, ap);
    va_end(ap);
    fflush(stdout);
    assert_non_null(freopen(scratch("said"), "w", stdout));
    *s = verb(scratch_words(argv, flags), argv);
    fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    return content("said");
}

static void expect_in(const char *text, const char *part) {
    if (!strstr(text, part)) fail_msg("\"%s\" is not in\n%s", part, text);
}

/* ------------------------------------------------ check */

/* What a report says of its first file; valid until the next report. */
static const Json *first_file(const char *name) {
    json_release(report);
    expect_ok(json_parse_file(&report, scratch(name), JSON_STRICT));
    return json_first(json_get(json_root(report), "files"));
}

static int found(const Json *file, const char *what) {
    return (int)json_num(json_get(json_get(file, "found"), what));
}

static const char BOS[] = "{{ bos_token }}{{ messages[0].content }}{% if messages|length > 1 %}"
                          "{{ messages[1].content + eos_token }}{% endif %}";
static const char REWRITES[] =
    "{{ messages|length }}{% for m in messages %}{{ m.content }}{% endfor %}";
static const char SILENT[] = "{{ messages[0].content }}";

#define USER      "{\"role\":\"user\",\"content\":\"q\"}"
#define ASSISTANT "{\"role\":\"assistant\",\"content\":\"a\"}"

/* A row that only one rule refuses: the check and a run say so with its line. */
static void each_fault_is_found_and_stops_a_run(void **state) {
    (void)state;
    static const struct {
        const char *what, *template, *row;
        RowKind kind;
    } bad[] = {
        {"json", NULL, "{\"prompt\":\"q\",\"completion\":\"a\"", ROWS_SFT},
        {"json", NULL, "{\"prompt\":\"q\",\"completion\":\"\xff\"}", ROWS_SFT},
        {"json", NULL, "{\"prompt\":\"q\",\"prompt\":\"r\",\"completion\":\"a\"}", ROWS_SFT},
        {"shape", NULL, "{\"prompt\":\"q\"}", ROWS_SFT},
        {"shape", NULL, "{\"prompt\":\"q\",\"chosen\":\"a\"}", ROWS_PAIRS},
        {"shape", NULL, "[1]", ROWS_SFT},
        {"empty", NULL, "{\"prompt\":\" \\n\",\"completion\":\"a\"}", ROWS_SFT},
        {"empty", NULL, "{\"prompt\":\"q\",\"completion\":\"\"}", ROWS_SFT},
        {"empty", NULL, "{\"messages\":[]}", ROWS_SFT},
        {"empty", NULL, "{\"chosen\":\"we like\",\"rejected\":\"we like cars\"}", ROWS_PAIRS},
        {"same_answers", NULL, "{\"prompt\":\"q\",\"chosen\":\"a\",\"rejected\":\"a\"}",
         ROWS_PAIRS},
        {"no_common_prompt", NULL, "{\"chosen\":\"yes\",\"rejected\":\"no\"}", ROWS_PAIRS},
        {"no_common_prompt", NULL,
         "{\"prompt\":\"other\",\"chosen\":[" USER "," ASSISTANT "],\"rejected\":[" USER
         ",{\"role\":\"assistant\",\"content\":\"b\"}]}",
         ROWS_PAIRS},
        {"prompt_not_prefix", REWRITES, "{\"prompt\":\"q\",\"completion\":\"a\"}", ROWS_SFT},
        {"doubled_bos_eos", NULL, "{\"prompt\":\"q\",\"completion\":\"a<|eos|>\"}", ROWS_SFT},
        {"doubled_bos_eos", BOS, "{\"prompt\":\"<|pad|>q\",\"completion\":\"a\"}", ROWS_SFT},
        {"nothing_to_train", SILENT, "{\"prompt\":\"q\",\"completion\":\"a\"}", ROWS_SFT},
        {"nothing_to_train", NULL, "{\"messages\":[" USER "]}", ROWS_SFT},
    };
    static const char *const kinds[] = {"sft", "pairs", "prompts"};
    static const char *const good[] = {"{\"prompt\":\"p\",\"completion\":\"a\"}",
                                       "{\"prompt\":\"p\",\"chosen\":\"a\",\"rejected\":\"b\"}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Text file = {0};
        Status s;
        unlink(scratch("chat_template.jinja"));
        if (bad[i].template) rows("chat_template.jinja", bad[i].template);
        rows("special_tokens_map.json", "{\"eos_token\":\"<|eos|>\",\"bos_token\":\"<|pad|>\"}");
        if (!bad[i].template || bad[i].template == BOS) text_add(&file, good[bad[i].kind]);
        text_addf(&file, "\n\n%s\n", bad[i].row);
        rows("bad.jsonl", file.s);
        text_release(&file);
        said(data_check_main, &s, "@bad.jsonl --model @ --kind %s --out @r.json",
             kinds[bad[i].kind]);
        if (s != E_FORMAT) fail_msg("%s: status %d %s", bad[i].row, s, status_message());
        const Json *f = first_file("r.json");
        if (found(f, bad[i].what) != 1 || (int)json_num(json_get(f, "refused")) != 1)
            fail_msg("%s is not found as %s:\n%s", bad[i].row, bad[i].what, content("r.json"));
        const Json *finding = json_first(json_get(f, "findings"));
        assert_int_equal((int)json_num(json_get(finding, "line")), 3);
        assert_string_equal(json_str(json_get(finding, "found")), bad[i].what);

        DataConfig cfg = {.eval = "",
                          .layout = "auto",
                          .system = "",
                          .max_length = 64,
                          .truncate_prompt = "refuse",
                          .bad_rows = "stop",
                          .cache = ""};
        Tokenizer *t;
        Dataset d;
        expect_ok(tokenizer_open_dir(&t, scratch("")));
        assert_int_equal(dataset_open(&d, &cfg, scratch("bad.jsonl"), bad[i].kind, t), E_FORMAT);
        assert_string_equal(status_message(), json_str(json_get(finding, "reason")));
        tokenizer_release(t);
    }
    unlink(scratch("chat_template.jinja"));
    unlink(scratch("special_tokens_map.json"));
}

static void remarks_are_counted(void **state) {
    (void)state;
    Status s;
    rows("train.jsonl",
         "{\"prompt\":\"one\",\"completion\":\"a\"}\n"
         "{\"prompt\":\"the us\",\"completion\":\"er asks\"}\n"
         "{\"prompt\":\"one\",\"completion\":\"a\"}\n"
         "{\"prompt\":\"far too many letters\",\"completion\":\"xyzxyzxyzxyzxyzxyzxyzxyz\"}\n");
    rows("eval.jsonl", "{\"prompt\":\"two\",\"completion\":\"a\"}\n"
                       "{\"prompt\":\"one\",\"completion\":\"b\"}\n");
    char *text = said(data_check_main, &s,
                      "@train.jsonl --model @ --eval @eval.jsonl --max-length 30 --out @r.json");
    expect_ok(s);
    const Json *f = first_file("r.json"), *e = json_next(f);
    assert_int_equal(found(f, "duplicate"), 1);
    assert_int_equal(found(f, "seam"), 1);
    assert_int_equal(found(f, "too_long"), 1);
    assert_int_equal((int)json_num(json_get(f, "usable")), 3);
    assert_int_equal(found(e, "eval_overlap"), 1);
    assert_int_equal((int)json_num(json_get(json_first(json_get(e, "findings")), "line")), 2);
    const Json *together = json_get(json_get(f, "tokens"), "together");
    assert_true(json_num(json_get(together, "max")) > 30);
    expect_in(text, "duplicate                1  line 3\n");
    expect_in(text, "eval_overlap             1  line 2\n");
    expect_in(text, "seam                     1  line 2\n");
    expect_in(text, "too_long                 1  line 4\n");
}

static void the_cache_keeps_what_was_found(void **state) {
    (void)state;
    Status s;
    char *first = said(data_check_main, &s, "@train.jsonl --model @ --cache @cache");
    expect_ok(s);
    assert_string_equal(first, said(data_check_main, &s, "@train.jsonl --model @ --cache @cache"));
    expect_ok(s);
    expect_in(first, "duplicate");
}

static void kinds_are_told_by_keys(void **state) {
    (void)state;
    Status s;
    rows("x.jsonl", "not json\n{\"prompt\":\"p\",\"chosen\":\"a\",\"rejected\":\"b\"}\n");
    expect_in(said(data_check_main, &s, "@x.jsonl --model @"), "1 rows to use as pairs");
    assert_int_equal(s, E_FORMAT);
    rows("x.jsonl", "{\"prompt\":\"p\"}\n");
    expect_in(said(data_check_main, &s, "@x.jsonl --model @"), "1 rows to use as prompts");
    expect_ok(s);
    rows("x.jsonl", "{\"text\":\"p q\"}\n");
    expect_in(said(data_check_main, &s, "@x.jsonl --model @"), "1 rows to use as sft");
    rows("x.jsonl", "");
    said(data_check_main, &s, "@x.jsonl --model @");
    assert_int_equal(s, E_FORMAT);
}

static void parquet_is_named(void **state) {
    (void)state;
    Status s;
    rows("x.parquet", "PAR1\x15\x04");
    said(data_check_main, &s, "@x.parquet --model @");
    assert_int_equal(s, E_FORMAT);
    expect_in(status_message(), "is Parquet");
    expect_in(status_message(), "to_json");
}

/* ------------------------------------------------ show */

static void rows_are_shown_with_what_is_trained(void **state) {
    (void)state;
    Status s;
    rows("x.jsonl", "{\"prompt\":\"q\",\"chosen\":\"\\u001b[2Ja\",\"rejected\":\"b\\u009b\"}\nbad\n"
                    "{\"prompt\":\"r\",\"chosen\":\"a\",\"rejected\":\"b\"}\n");
    int muted = stderr_mute();
    char *text = said(data_show_main, &s, "@x.jsonl --model @ --rows 1");
    stderr_unmute(muted);
    expect_ok(s);
    assert_string_equal(text,
                        "--- line 1, chosen: 7 tokens, 6 trained\nq[[\\x1b[2Ja<|eos|>]]\n"
                        "--- line 1, rejected: 5 tokens, 4 trained\nq[[b\\xc2\x9b<|eos|>]]\n");
    rows("x.jsonl", "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},"
                    "{\"role\":\"assistant\",\"content\":\"yo\"}]}\n");
    text = said(data_show_main, &s, "@x.jsonl --model @");
    expect_in(text, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n[[yo<|im_end|>]]\n");
}

/* ------------------------------------------------ split */

static int lines_of(const char *name, char lines[][80]) {
    int n = 0;
    for (char *line = strtok(content(name), "\n"); line; line = strtok(NULL, "\n"))
        snprintf(lines[n++], 80, "%s", line);
    return n;
}

static void a_split_keeps_prompts_together(void **state) {
    (void)state;
    static char train[256][80], eval[256][80], again[256][80];
    Text file = {0};
    Status s;
    for (int i = 0; i < 200; i++)
        text_addf(&file, "{\"prompt\":\"question %d\",\"completion\":\"answer %d\"}\n", i % 80, i);
    rows("all.jsonl", file.s);
    text_release(&file);
    said(data_split_main, &s, "@all.jsonl --out @s1 --eval-fraction 0.2 --seed 3");
    expect_ok(s);
    int n = lines_of("s1/train.jsonl", train), m = lines_of("s1/eval.jsonl", eval);
    assert_int_equal(n + m, 200);
    assert_in_range(m, 38, 42);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < m; k++)
            if (!strncmp(train[i], eval[k], strcspn(train[i], ",")))
                fail_msg("%s and %s", train[i], eval[k]);
    said(data_split_main, &s, "@all.jsonl --out @s2 --eval-fraction 0.2 --seed 3");
    assert_string_equal(content("s1/eval.jsonl"), content("s2/eval.jsonl"));
    said(data_split_main, &s, "@all.jsonl --out @s2 --eval-fraction 0.2 --seed 4");
    lines_of("s2/eval.jsonl", again);
    assert_string_not_equal(content("s1/eval.jsonl"), content("s2/eval.jsonl"));

    rows("one.jsonl",
         "{\"prompt\":\"q\",\"completion\":\"a\"}\n{\"prompt\":\"q\",\"completion\":\"b\"}\n");
    said(data_split_main, &s, "@one.jsonl --out @s3 --eval-fraction 0.5");
    assert_int_equal(s, E_FORMAT);
    assert_false(file_exists(scratch("s3/train.jsonl")));
    rows("one.jsonl", "{\"prompt\":\"q\",\"completion\":\"a\"}\n{\"prompt\":7}\n");
    said(data_split_main, &s, "@one.jsonl --out @s3 --eval-fraction 0.5");
    expect_in(status_message(), "one.jsonl:2:2");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_fault_is_found_and_stops_a_run),
        cmocka_unit_test(remarks_are_counted),
        cmocka_unit_test(the_cache_keeps_what_was_found),
        cmocka_unit_test(kinds_are_told_by_keys),
        cmocka_unit_test(parquet_is_named),
        cmocka_unit_test(rows_are_shown_with_what_is_trained),
        cmocka_unit_test(a_split_keeps_prompts_together),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
