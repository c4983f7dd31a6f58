/* test_data_alarms.c - A15: each remark on a data set raises its alarm when it is of more than a
 * twentieth of the rows, and none when it is of fewer or the data are clean. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "core/base/log.h"
#include "datasets/stage.h"
#include "tests/expect.h"
#include "tests/scratch.h"

enum { ROWS = 200 };

static Tokenizer *tok;
static Arena arena;
static DataConfig data;
static AlarmConfig alarms;

static int setup(void **state) {
    (void)state;
    BpeTrainer *b;
    static const char text[] = "how many answers are there to a question there are many answers";
    log_level(LOG_QUIET);
    expect_ok(bpe_trainer_create(&b));
    for (int i = 0; i < 4; i++) expect_ok(bpe_trainer_add(b, text, strlen(text)));
    expect_ok(bpe_trainer_finish(b, 300, &tok));
    bpe_trainer_release(b);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    tokenizer_release(tok);
    arena_release(&arena);
    return 0;
}

static void begin(const char *off) {
    Section s[] = {{"data", data_fields, data_n_fields, &data},
                   {"alarms", alarm_fields, alarm_n_fields, &alarms}};
    char *argv[] = {"--alarms.off", (char *)off};
    expect_ok(settings_load(s, 2, &arena, NULL, 2, argv));
    data.max_length = 40;
    data.bad_rows = "skip:100";
}

/* alarms.jsonl of a run on the rows, of which `spoiled` are what `row` says and the others well. */
typedef void (*PutRow)(Text *t, int i, int spoiled);
static const char *raised(PutRow row, int spoiled, RowKind kind, const Dataset *train) {
    Text file = {0};
    Dataset d;
    Run *run;
    char *text;
    size_t len;
    RunConfig cfg = {.dir = scratch("run"), .best = "", .overwrite = 1, .alarms = alarms};
    for (int i = 0; i < ROWS; i++) row(&file, i, i < spoiled);
    scratch_write("rows.jsonl", file.s, file.len);
    text_release(&file);
    expect_ok(dataset_open(&d, &data, scratch("rows.jsonl"), kind, tok));
    if (train) dataset_overlap(&d, train, 1);
    expect_ok(run_open(&run, &cfg, "sft", "{}"));
    expect_ok(run_begin(run));
    dataset_alarms(&d, "rows.jsonl", &alarms, run);
    run_close(run);
    dataset_release(&d);
    expect_ok(file_read(&arena, &text, &len, scratch("run/alarms.jsonl"), 1 << 20));
    return text;
}

static void put_pair(Text *t, int i, int longer) {
    text_addf(t, "{\"prompt\":\"how %d\",\"chosen\":\"%s\",\"rejected\":\"%s\"}\n", i,
              longer ? "many answers" : "many", longer ? "few" : "few questions");
}
static void put_long(Text *t, int i, int spoiled) {
    text_addf(t, "{\"prompt\":\"how %d\",\"completion\":\"%s\"}\n", i,
              spoiled ? "one two three four five six seven eight nine ten eleven" : "many");
}
static void put_bad(Text *t, int i, int spoiled) {
    text_addf(t, "{\"prompt\":\"how %d\",\"completion\":\"%s\"}\n", i, spoiled ? "" : "many");
}
static void put_copy(Text *t, int i, int spoiled) { /* of row 0 */
    text_addf(t, "{\"prompt\":\"how %d\",\"completion\":\"many\"}\n", spoiled ? 0 : i);
}
static void put_seam(Text *t, int i, int spoiled) {
    text_addf(t, "{\"prompt\":\"%d how%s\",\"completion\":\"%smany\"}\n", i, spoiled ? " " : "",
              spoiled ? "" : " ");
}

static void each_remark_is_raised_beyond_its_share(void **state) {
    (void)state;
    static const struct {
        PutRow row;
        RowKind kind;
        int few, many; /* a twentieth of the rows is 10 */
        const char *name, *setting;
    } cases[] = {
        {put_long, ROWS_SFT, 10, 11, "too-long", "data.max_length"},
        {put_bad, ROWS_SFT, 10, 11, "bad-rows", "data.bad_rows"},
        {put_copy, ROWS_SFT, 11, 12, "duplicate-rows", "data.train"}, /* the first is no copy */
        {put_seam, ROWS_SFT, 10, 11, "inside-tokens", "data.train"},
        {put_pair, ROWS_PAIRS, 140, 141, "chosen-are-longer", "data.train"},
        {put_pair, ROWS_PAIRS, 60, 59, "chosen-are-shorter", "data.train"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char want[200];
        begin("A16");
        assert_string_equal(raised(cases[i].row, cases[i].few, cases[i].kind, NULL), "");
        const char *rows = raised(cases[i].row, cases[i].many, cases[i].kind, NULL);
        snprintf(want, sizeof want,
                 "\"id\":\"A15\",\"name\":\"%s\",\"severity\":\"warn\",\"metric\":\"data/%s\","
                 "\"cause\":\"rows.jsonl: ",
                 cases[i].name, cases[i].name);
        if (!strstr(rows, want)) fail_msg("no %s in %s", cases[i].name, rows);
        snprintf(want, sizeof want, "\"setting\":\"%s\"", cases[i].setting);
        assert_non_null(strstr(rows, want));
        assert_null(strchr(strchr(rows, '\n') + 1, '\n')); /* one alarm */
        begin(cases[i].name);
        assert_string_equal(raised(cases[i].row, cases[i].many, cases[i].kind, NULL), "");
    }
}

static void held_out_rows_that_are_trained_on_are_raised(void **state) {
    (void)state;
    Dataset train;
    Text file = {0};
    begin("");
    for (int i = 0; i < 11; i++) put_copy(&file, i, 0);
    scratch_write("train.jsonl", file.s, file.len);
    text_release(&file);
    expect_ok(dataset_open(&train, &data, scratch("train.jsonl"), ROWS_SFT, tok));
    assert_non_null(strstr(raised(put_copy, 0, ROWS_SFT, &train), "\"name\":\"eval-overlap\""));
    train.n = 10;
    assert_string_equal(raised(put_copy, 0, ROWS_SFT, &train), "");
    train.n = 11;
    dataset_release(&train);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_remark_is_raised_beyond_its_share),
        cmocka_unit_test(held_out_rows_that_are_trained_on_are_raised),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
