/* test_monitor.c - what the page is made of: logs that grow and are cut, columns in bounded memory,
 * runs under a folder, and data of models that never becomes markup. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "monitor/page.h"
#include "monitor/report.h"
#include "monitor/sha256.h"
#include "tests/scratch.h"

static const char *write_text(const char *name, const char *text) {
    return scratch_write(name, text, strlen(text));
}

/* --- logs --- */

static void keep_line(void *ctx, const JsonDoc *doc, const char *line, size_t len) {
    (void)doc;
    text_add_bytes(ctx, line, len);
    text_add(ctx, ";");
}

static TailResult read_on(TailPos *pos, const char *path, size_t max, const char *expected) {
    TailResult r;
    Text t = {0};
    assert_int_equal(tail_read(&r, pos, path, max, keep_line, &t), OK);
    assert_string_equal(t.s ? t.s : "", expected);
    text_release(&t);
    return r;
}

static void a_log_grows(void **state) {
    (void)state;
    TailPos pos = {0};
    const char *path = scratch("grows.jsonl");
    read_on(&pos, path, SIZE_MAX, ""); /* not there yet */
    write_text("grows.jsonl", "{\"a\":1}\n{\"a\":2}\n{\"a\"");
    read_on(&pos, path, SIZE_MAX, "{\"a\":1};{\"a\":2};");
    assert_int_equal(pos.offset, 16);
    read_on(&pos, path, SIZE_MAX, ""); /* half a line is none */
    write_text("grows.jsonl", "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\r\n\n{\"a\":4}\n");
    read_on(&pos, path, SIZE_MAX, "{\"a\":3};{\"a\":4};");
    pos = (TailPos){0};
    read_on(&pos, path, 8, "{\"a\":1};"); /* in pieces */
    read_on(&pos, path, 8, "{\"a\":2};");
    pos = (TailPos){0};
    read_on(&pos, path, 2, "{\"a\":1};"); /* one line at least */
}

static void a_cut_is_noticed(void **state) {
    (void)state;
    TailPos pos = {0};
    const char *path = write_text("cut.jsonl", "{\"a\":1}\n{\"a\":2}\n");
    read_on(&pos, path, SIZE_MAX, "{\"a\":1};{\"a\":2};");
    write_text("cut.jsonl", "{\"a\":1}\n");
    assert_true(read_on(&pos, path, SIZE_MAX, "").cut);
    write_text("cut.jsonl", "{\"a\":1}\n{\"a\":7}\n{\"a\":8}\n"); /* and longer than before again */
    assert_true(read_on(&pos, path, SIZE_MAX, "").cut);
    write_text("cut.jsonl", "{\"a\":1}\n{\"a\":2}\n{\"a\":8}\n");
    assert_false(read_on(&pos, path, SIZE_MAX, "{\"a\":8};").cut);
    assert_int_equal(unlink(path), 0);
    assert_true(read_on(&pos, path, SIZE_MAX, "").cut);
}

static void bad_rows_are_counted(void **state) {
    (void)state;
    TailPos pos = {0};
    const char *path =
        write_text("bad.jsonl", "{\"a\":1}\nnonsense\n[1]\n{\"a\":NaN}\n{\"a\":2}\n");
    TailResult r = read_on(&pos, path, SIZE_MAX, "{\"a\":1};{\"a\":2};");
    assert_int_equal(r.bad, 3);
    assert_non_null(strstr(r.first_bad, "bad.jsonl"));
}

static void positions_as_text(void **state) {
    (void)state;
    static const char *const wrong[] = {"",       "12",
                                        "12-",    "-5",
                                        "12-xyz", " 1-2",
                                        "1-2 ",   "0x1-2",
                                        "1--2",   "99999999999999999999-1",
                                        "1-0x2",  "1-2-3",
                                        "+1-2",   "../../etc/passwd"};
    TailPos pos = {16, 0x0123456789abcdefu}, back = {0};
    Text t = {0};
    tail_pos_put(&t, &pos);
    assert_string_equal(t.s, "16-0123456789abcdef");
    assert_true(tail_pos_parse(&back, t.s));
    assert_int_equal(back.offset, pos.offset);
    assert_int_equal(back.mark, pos.mark);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (tail_pos_parse(&back, wrong[i])) fail_msg("\"%s\" was taken as a position", wrong[i]);
    text_release(&t);
}

/* --- columns --- */

static void add_row(Series *s, const char *json) {
    JsonDoc *doc;
    assert_int_equal(json_parse(&doc, "row", 1, json, strlen(json), JSON_STRICT), OK);
    series_add(s, json_root(doc));
    json_release(doc);
}

static void columns_of_a_short_log(void **state) {
    (void)state;
    static Series s;
    Text t = {0};
    add_row(&s, "{\"step\":1,\"loss\":2.5,\"note\":\"text\"}");
    add_row(&s, "{\"step\":2,\"loss\":null,\"eval/loss\":0.333333333}");
    add_row(&s, "{\"step\":3,\"loss\":1.25e-9}");
    series_put(&t, &s);
    assert_string_equal(t.s, "{\"step\":[1,2,3],\"loss\":[2.5,null,1.25e-09],"
                             "\"eval/loss\":{\"at\":[1],\"v\":[0.3333333]}}");
    assert_true(series_last(&s, "loss") == 1.25e-9);
    assert_true(isnan(series_last(&s, "absent")));
    text_release(&t);
    series_clear(&s);
}

/* Peaks, the first and the last step survive; memory does not grow. */
static void columns_of_a_long_log(void **state) {
    (void)state;
    static Series s;
    enum { ROWS = 300000, PEAK = 123457 };
    char row[128];
    for (int i = 1; i <= ROWS; i++) {
        snprintf(row, sizeof row, "{\"step\":%d,\"x\":%d%s}", i,
                 i == PEAK ? 1000
                 : i == 7  ? -9
                           : 1,
                 i == 50000 ? ",\"eval/y\":4" : "");
        add_row(&s, row);
    }
    int n = series_rows(&s), peaks = 0, pits = 0, evals = 0;
    const Column *step = series_column(&s, "step"), *x = series_column(&s, "x");
    const Column *y = series_column(&s, "eval/y");
    assert_in_range(n, SERIES_ROWS / 2, SERIES_ROWS + SERIES_GROUP);
    assert_true(step->v[0] == 1);
    assert_true(step->v[n - 1] == ROWS);
    for (int i = 0; i < n; i++) {
        if (i && step->v[i] <= step->v[i - 1])
            fail_msg("step %g behind %g", step->v[i], step->v[i - 1]);
        peaks += x->v[i] == 1000;
        pits += x->v[i] == -9;
        evals += y->v[i] == 4;
        if (x->v[i] == 1000 && fabs(step->v[i] - PEAK) > 2 * s.group * s.every)
            fail_msg("the peak of step %d is at %g", PEAK, step->v[i]);
    }
    assert_int_equal(peaks, 1);
    assert_int_equal(pits, 1);
    assert_int_equal(evals, 1);
    assert_true(s.rows == ROWS);
    series_clear(&s);
}

/* --- run directories --- */

static void make_run(const char *dir, const char *verb, double began) {
    char path[256], text[256];
    snprintf(path, sizeof path, "%s", scratch(dir));
    assert_int_equal(file_mkdirs(path), OK);
    snprintf(path, sizeof path, "%s/recipe.json", dir);
    write_text(path, "{\"model\":\"m\",\"ppo\":{\"clip\":0.2}}");
    snprintf(path, sizeof path, "%s/run.json", dir);
    snprintf(text, sizeof text, "{\"verb\":\"%s\",\"finished\":true,\"step\":2}", verb);
    write_text(path, text);
    snprintf(path, sizeof path, "%s/metrics.jsonl", dir);
    snprintf(
        text, sizeof text,
        "{\"step\":1,\"wall_time\":%.1f,\"loss\":3}\n{\"step\":2,\"wall_time\":%.1f,\"loss\":2}\n",
        began, began + 1);
    write_text(path, text);
}

static void runs_under_a_folder(void **state) {
    (void)state;
    make_run("pipe/zeta", "sft", 100);
    make_run("pipe/alpha", "ppo", 200);
    assert_int_equal(file_mkdirs(scratch("pipe/world")), OK);
    RunViews v;
    const char *paths[] = {scratch("pipe")};
    assert_int_equal(views_open(&v, paths, 1, 0), OK);
    assert_int_equal(v.n, 2);
    assert_string_equal(v.run[0]->name, "zeta"); /* it began first */
    assert_string_equal(v.run[0]->verb, "sft");
    assert_string_equal(v.run[0]->state, "finished");
    assert_string_equal(v.run[1]->name, "alpha");
    uint64_t before = views_signature(&v);
    views_refresh(&v);
    assert_true(views_signature(&v) == before);
    make_run("pipe/beta", "dpo", 300); /* a stage that begins later */
    views_refresh(&v);
    assert_int_equal(v.n, 3);
    assert_true(views_signature(&v) != before);
    views_close(&v);
    const char *none[] = {scratch("pipe/world")};
    assert_int_equal(views_open(&v, none, 1, 0), E_USAGE);
    assert_non_null(strstr(status_message(), "holds none"));
    assert_int_equal(views_open(&v, none, 1, 1), OK);
    views_close(&v);
    const char *absent[] = {"/nowhere/at/all"};
    assert_int_equal(views_open(&v, absent, 1, 1), E_USAGE);
}

static void a_resume_cuts_the_view_back(void **state) {
    (void)state;
    RunView *v;
    make_run("resumed", "ppo", 100);
    write_text("resumed/alarms.jsonl", "{\"step\":1,\"id\":\"A1\"}\n{\"step\":2,\"id\":\"A1\"}\n");
    assert_int_equal(view_open(&v, scratch("resumed"), "resumed"), OK);
    assert_int_equal(v->series.rows, 2);
    assert_int_equal(v->alarms.n, 2);
    write_text("resumed/alarms.jsonl", "{\"step\":1,\"id\":\"A1\"}\n");
    view_refresh(v);
    assert_int_equal(v->alarms.n, 1);
    assert_int_equal(v->series.rows, 2);
    write_text("resumed/metrics.jsonl", "{\"step\":1,\"wall_time\":100,\"loss\":3}\n");
    view_refresh(v);
    assert_int_equal(v->series.rows, 1);
    assert_true(series_last(&v->series, "step") == 1);
    view_close(v);
}

/* Whatever is missing, empty or broken is told and is no end. */
static void broken_files(void **state) {
    (void)state;
    RunView *v;
    make_run("broken", "ppo", 100);
    assert_int_equal(file_mkdirs(scratch("broken/evals")), OK);
    write_text("broken/run.json", "{\"verb\":");
    write_text("broken/recipe.json", "[]");
    write_text("broken/evals/a.json", "nonsense");
    write_text("broken/evals/b.json", "{\"kind\":\"reward\",\"accuracy\":0.75}");
    write_text("broken/metrics.jsonl", "");
    assert_int_equal(view_open(&v, scratch("broken"), "broken"), OK);
    assert_string_not_equal(v->trouble, "");
    assert_string_equal(v->state, "stopped");
    assert_string_equal(v->evals.s,
                        "[{\"file\":\"b.json\",\"kind\":\"reward\",\"accuracy\":0.75}]");
    Text t = {0};
    JsonDoc *doc;
    view_put(&t, v, 1);
    assert_int_equal(json_parse(&doc, "view", 1, t.s, t.len, JSON_STRICT), OK);
    json_release(doc);
    text_release(&t);
    view_close(v);
}

static void rows_are_bounded(void **state) {
    (void)state;
    RunView *v;
    Text t = {0};
    make_run("talkative", "ppo", 100);
    for (int i = 0; i < 6000; i++)
        text_addf(&t, "{\"step\":%d,\"prompt\":\"p\",\"completion\":\"c\"}\n", i);
    scratch_write("talkative/samples.jsonl", t.s, t.len);
    assert_int_equal(view_open(&v, scratch("talkative"), "talkative"), OK);
    assert_int_equal(v->samples.n, VIEW_ROWS);
    assert_int_equal(v->samples.left_out, 6000 - VIEW_ROWS);
    assert_non_null(strstr(v->samples.row[0], "\"step\":0,"));
    assert_non_null(strstr(v->samples.row[VIEW_ROWS - 1], "\"step\":5999,"));
    view_close(v);
    text_release(&t);
}

/* --- the page --- */

static void hashes(void **state) {
    (void)state;
    static const struct {
        const char *text, *base64;
    } known[] = {
        {"", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="},
        {"abc", "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "JI1qYdIGOLjlwCaTDD5gOaM85Flk/yFn9uzt1BnbBsE="},
    };
    char out[45];
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        sha256_base64(out, known[i].text, strlen(known[i].text));
        assert_string_equal(out, known[i].base64);
    }
}

static void text_that_stays_text(void **state) {
    (void)state;
    Text t = {0};
    page_put_inert(&t, "{\"a\":\"</script><b>\"}", 20);
    assert_string_equal(t.s, "{\"a\":\"\\u003c/script>\\u003cb>\"}");
    text_clear(&t);
    page_put_escaped(&t, "<a href=\"x\">'&'</a>");
    assert_string_equal(t.s, "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;");
    text_release(&t);
}

static int count(const char *text, const char *what) {
    int n = 0;
    for (const char *p = text; (p = strstr(p, what)); p += strlen(what)) n++;
    return n;
}

/* A completion that is a script, in every place where a run directory can hold one. */
static void a_report_over_hostile_text(void **state) {
    (void)state;
    static const char evil[] = "</script><script>alert(1)</script><!--";
    Arena a = {0};
    char *page;
    size_t len;
    make_run("hostile", "ppo", 100);
    write_text(
        "hostile/samples.jsonl",
        arena_printf(&a, "{\"step\":0,\"prompt\":\"%s\",\"completion\":\"%s\"}\n", evil, evil));
    write_text("hostile/alarms.jsonl",
               arena_printf(&a, "{\"step\":1,\"id\":\"A1\",\"cause\":\"%s\"}\n", evil));
    write_text("hostile/metrics.jsonl",
               arena_printf(&a, "{\"step\":1,\"wall_time\":1,\"%s\":2}\n", evil));
    write_text("hostile/recipe.json", arena_printf(&a, "{\"model\":\"%s\"}", evil));
    const char *paths[] = {scratch("hostile")};
    assert_int_equal(report_write(scratch("out.html"), paths, 1), OK);
    assert_int_equal(file_read(&a, &page, &len, scratch("out.html"), 64 << 20), OK);
    assert_int_equal(strlen(page), len);
    assert_int_equal(count(page, "alert(1)"), 5);
    assert_int_equal(count(page, "<script>alert"), 0);
    assert_int_equal(count(page, "<script"),
                     3); /* the data, the plotting library, the page's own */
    assert_int_equal(count(page, "</script>"), 3);
    assert_int_equal(count(page, "<!--"), 0);
    assert_int_equal(count(page, "http-equiv=\"Content-Security-Policy\""), 1);
    /* the data still says what the files say */
    const char *at = strstr(page, "id=\"data\">") + 10, *end = strstr(at, "</script>");
    JsonDoc *doc;
    assert_int_equal(json_parse(&doc, "data", 1, at, (size_t)(end - at), JSON_STRICT), OK);
    const Json *run = json_first(json_get(json_root(doc), "runs"));
    assert_string_equal(json_str(json_get(json_first(json_get(run, "samples")), "completion")),
                        evil);
    json_release(doc);
    arena_release(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_log_grows),
        cmocka_unit_test(a_cut_is_noticed),
        cmocka_unit_test(bad_rows_are_counted),
        cmocka_unit_test(positions_as_text),
        cmocka_unit_test(columns_of_a_short_log),
        cmocka_unit_test(columns_of_a_long_log),
        cmocka_unit_test(runs_under_a_folder),
        cmocka_unit_test(a_resume_cuts_the_view_back),
        cmocka_unit_test(broken_files),
        cmocka_unit_test(rows_are_bounded),
        cmocka_unit_test(hashes),
        cmocka_unit_test(text_that_stays_text),
        cmocka_unit_test(a_report_over_hostile_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
