/* test_terminal.c - what is seen in a terminal: the progress line's parts, plots, lists of runs. */
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "core/base/terminal.h"
#include "core/base/text.h"
#include "core/run/spark.h"
#include "monitor/plot.h"
#include "monitor/runs.h"
#include "tests/scratch.h"

static void what_fits(void **state) {
    (void)state;
    assert_int_equal(terminal_fit("abcdef", 4), 4);
    assert_int_equal(terminal_fit("abc", 4), 3);
    assert_int_equal(terminal_fit("▁▂▃", 2), 6);                 /* whole characters */
    assert_int_equal(terminal_fit("\033[36mab\033[0mc", 2), 11); /* colours take no room */
    assert_int_equal(terminal_fit("a\033[36", 9), 5);            /* cut off, never beyond the end */
    assert_int_equal(terminal_fit("abc", 0), 0);
    assert_int_equal(terminal_fit("", 5), 0);
}

static void the_environment(void **state) {
    (void)state;
    setenv("LC_ALL", "", 1), setenv("LC_CTYPE", "", 1), setenv("LANG", "C", 1);
    assert_false(terminal_utf8());
    setenv("LANG", "de_DE.UTF-8", 1);
    assert_true(terminal_utf8());
    setenv("LC_ALL", "C.utf8", 1), setenv("LANG", "C", 1);
    assert_true(terminal_utf8());
    setenv("LC_ALL", "POSIX", 1), setenv("LANG", "C.UTF-8", 1);
    assert_false(terminal_utf8());
    int master = posix_openpt(O_RDWR | O_NOCTTY), pipes[2];
    if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0) skip();
    int terminal = open(ptsname(master), O_RDWR | O_NOCTTY);
    if (terminal < 0) skip();
    setenv("TERM", "xterm", 1), setenv("NO_COLOR", "", 1);
    assert_true(terminal_colors(terminal));
    setenv("NO_COLOR", "1", 1);
    assert_true(terminal_is(terminal));
    assert_false(terminal_colors(terminal));
    setenv("TERM", "dumb", 1), unsetenv("NO_COLOR");
    assert_false(terminal_is(terminal));
    assert_int_equal(pipe(pipes), 0);
    assert_false(terminal_is(pipes[1]));
    assert_int_equal(terminal_columns(pipes[1]), 80);
}

static void sparks(void **state) {
    (void)state;
    Spark s = {0};
    char out[SPARK_TEXT];
    spark_text(out, &s, 1);
    assert_string_equal(out, "");
    for (int i = 0; i < 8; i++) spark_add(&s, i);
    spark_add(&s, (double)NAN);
    spark_text(out, &s, 1);
    assert_string_equal(out, "▁▂▃▄▅▆▇█");
    spark_text(out, &s, 0);
    assert_string_equal(out, "_.,-~=^#");
    s = (Spark){0};
    for (int i = 0; i < 100000; i++) spark_add(&s, i < 50000 ? 0.0 : 1.0); /* any length fits */
    assert_in_range(s.n, SPARK_MAX / 2, SPARK_MAX);
    assert_true(s.mean[0] == 0.0);
    assert_true(s.mean[s.n - 1] == 1.0);
    s = (Spark){0};
    for (int i = 0; i < 3; i++) spark_add(&s, 5.0);
    spark_text(out, &s, 0);
    assert_string_equal(out, "~~~"); /* flat is in the middle */
}

static void add_row(Series *s, const char *json) {
    JsonDoc *doc;
    assert_int_equal(json_parse(&doc, "row", 1, json, strlen(json), JSON_STRICT), OK);
    series_add(s, json_root(doc));
    json_release(doc);
}

static void a_rising_curve(void **state) {
    (void)state;
    static Series s;
    Text t = {0};
    char row[64];
    PlotStyle style = {.width = 11 + 10, .height = 3 + 5};
    for (int i = 0; i < 5; i++) {
        snprintf(row, sizeof row, "{\"step\":%d,\"x\":%d,\"y\":-1}", i * 10, i);
        add_row(&s, row);
    }
    plot_curve(&t, &s, "x", "run", &style);
    assert_string_equal(t.s, "x  run  last 4\n"
                             "        4 +         *\n"
                             "          |       **\n"
                             "        2 +     **\n"
                             "          |  ***\n"
                             "        0 +**\n"
                             "          +----------\n"
                             "           0       40\n");
    text_clear(&t);
    style.log = 1;
    plot_curve(&t, &s, "y", "run", &style);
    assert_string_equal(t.s, "y  run: no values above 0\n");
    text_clear(&t);
    style = (PlotStyle){.width = 11 + 8, .height = 3 + 2, .utf8 = 1};
    plot_curve(&t, &s, "x", "run", &style);
    assert_non_null(strstr(t.s, "┤    ⣀⡠⠔⠊\n"));
    assert_non_null(strstr(t.s, "┤⣀⠤⠒⠉\n"));
    text_release(&t);
    series_clear(&s);
}

/* --- the commands, by what they print --- */

static const char *make_run(const char *dir, const char *recipe, const char *result) {
    char path[256];
    assert_int_equal(file_mkdirs(scratch(dir)), OK);
    snprintf(path, sizeof path, "%s/recipe.json", dir);
    scratch_write(path, recipe, strlen(recipe));
    snprintf(path, sizeof path, "%s/run.json", dir);
    scratch_write(path, result, strlen(result));
    snprintf(path, sizeof path, "%s/metrics.jsonl", dir);
    static const char rows[] =
        "{\"step\":1,\"wall_time\":5,\"loss\":3}\n{\"step\":2,\"wall_time\":6,\"loss\":2}\n";
    scratch_write(path, rows, sizeof rows - 1);
    return scratch(dir);
}

/* Runs a command with its standard output in a text. */
static Status output_of(Text *out, Status (*command)(int, char **), int argc, char **argv) {
    const char *path = scratch("output");
    fflush(stdout);
    int saved = dup(STDOUT_FILENO), fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    dup2(fd, STDOUT_FILENO);
    Status s = command(argc, argv);
    fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    close(fd);
    Arena a = {0};
    char *data;
    size_t len;
    assert_int_equal(file_read(&a, &data, &len, path, 1 << 20), OK);
    text_clear(out);
    text_add_bytes(out, data, len);
    arena_release(&a);
    return s;
}

static void plots(void **state) {
    (void)state;
    Text t = {0};
    char *dir = (char *)make_run("p", "{}", "{\"verb\":\"sft\",\"finished\":true}");
    assert_int_equal(output_of(&t, plot_main, 2, (char *[]){dir, "loss"}), OK);
    assert_non_null(strstr(t.s, "loss  p  last 2\n"));
    assert_int_equal(output_of(&t, plot_main, 2, (char *[]){dir, "lo*"}), OK);
    assert_non_null(strstr(t.s, "loss  p  last 2\n"));
    assert_int_equal(output_of(&t, plot_main, 1, (char *[]){dir}), OK);
    assert_non_null(strstr(t.s, "loss  p  last 2\n"));
    assert_int_equal(output_of(&t, plot_main, 2, (char *[]){dir, "los"}), E_USAGE);
    assert_non_null(strstr(status_message(), "did you mean \"loss\""));
    assert_int_equal(output_of(&t, plot_main, 1, (char *[]){"loss"}), E_USAGE);
    assert_int_equal(output_of(&t, plot_main, 4, (char *[]){dir, "loss", "--width", "2"}), E_USAGE);
    text_release(&t);
}

static void lists(void **state) {
    (void)state;
    Text t = {0};
    make_run("all/one/ppo", "{\"ppo\":{\"clip\":0.2,\"epochs\":4}}",
             "{\"verb\":\"ppo\",\"finished\":true,\"gold_after\":3.25}");
    make_run("all/two/ppo", "{\"ppo\":{\"clip\":0.3,\"epochs\":4}}",
             "{\"verb\":\"ppo\",\"finished\":false}");
    char *dir = (char *)scratch("all");
    assert_int_equal(output_of(&t, runs_main, 1, (char *[]){dir}), OK);
    assert_non_null(strstr(t.s, "one/ppo  ppo     finished        2  gold_after 3.25\n"));
    assert_non_null(strstr(t.s, "two/ppo  ppo     stopped         2  loss 2\n"));
    assert_null(strstr(t.s, "ppo.clip"));
    assert_int_equal(output_of(&t, runs_main, 2, (char *[]){dir, "--compare"}), OK);
    const char *differ = strstr(t.s, "settings that differ"),
               *figures = strstr(t.s, "last figures");
    assert_non_null(differ);
    assert_non_null(figures);
    const char *clip = strstr(differ, "ppo.clip"), *gold = strstr(figures, "gold_after");
    assert_true(clip && clip < figures);
    char a[16], b[16];
    assert_int_equal(sscanf(clip, "ppo.clip %15s %15s\n", a, b), 2);
    assert_string_equal(a, "0.2");
    assert_string_equal(b, "0.3");
    assert_null(strstr(t.s, "ppo.epochs")); /* it is the same */
    assert_non_null(gold);
    assert_int_equal(sscanf(gold, "gold_after %15s %15s\n", a, b), 2);
    assert_string_equal(a, "3.25");
    assert_string_equal(b, "-");
    assert_int_equal(output_of(&t, runs_main, 1, (char *[]){"/nowhere/at/all"}), E_USAGE);
    file_mkdirs(scratch("empty"));
    assert_int_equal(output_of(&t, runs_main, 1, (char *[]){(char *)scratch("empty")}), E_USAGE);
    text_release(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_fits), cmocka_unit_test(the_environment),
        cmocka_unit_test(sparks),    cmocka_unit_test(a_rising_curve),
        cmocka_unit_test(plots),     cmocka_unit_test(lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
