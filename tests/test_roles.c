/* test_roles.c - A4: two tokenizers of one size that differ in a token, a merge, in how a text is
 * cut or in their chat templates are told apart, by the first difference; the same one read from
 * another place is the same. */
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

static Arena arena;

static void train(const char *dir, const char *text, int size) {
    BpeTrainer *b;
    Tokenizer *t;
    expect_ok(bpe_trainer_create(&b));
    for (int i = 0; i < 4; i++) expect_ok(bpe_trainer_add(b, text, strlen(text)));
    expect_ok(bpe_trainer_finish(b, size, &t));
    bpe_trainer_release(b);
    expect_ok(file_mkdirs(scratch(dir)));
    expect_ok(tokenizer_save(t, scratch(dir)));
    tokenizer_release(t);
}

/* The tokenizer of "one" with `from` in its tokenizer.json replaced wherever it stands. */
static void change(const char *dir, const char *from, const char *to) {
    char *text, path[200];
    size_t len;
    Text out = {0};
    expect_ok(file_read(&arena, &text, &len, scratch("one/tokenizer.json"), 1 << 24));
    assert_non_null(strstr(text, from));
    for (char *at; (at = strstr(text, from)); text = at + strlen(from)) {
        text_add_bytes(&out, text, (size_t)(at - text));
        text_add(&out, to);
    }
    text_add(&out, text);
    expect_ok(file_mkdirs(scratch(dir)));
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    scratch_write(path, out.s, out.len);
    text_release(&out);
}

static const char *difference(const char *run, const char *role, int templates) {
    Tokenizer *a, *b;
    Text how = {0};
    expect_ok(tokenizer_open_dir(&a, scratch(run)));
    expect_ok(tokenizer_open_dir(&b, scratch(role)));
    expect_ok(tokenizers_differ(&how, a, b, templates));
    tokenizer_release(a);
    tokenizer_release(b);
    const char *kept = arena_strdup(&arena, how.s ? how.s : "");
    text_release(&how);
    return kept;
}

static void expect_in(const char *text, const char *part) {
    if (!strstr(text, part)) fail_msg("\"%s\" is not in \"%s\"", part, text);
}

static const char english[] = "the answer to the question is the answer that the user wants";

static int setup(void **state) {
    (void)state;
    log_level(LOG_QUIET);
    train("one", english, 280);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    arena_release(&arena);
    return 0;
}

static void the_same_is_the_same(void **state) {
    (void)state;
    train("again", english, 280);
    train("more", english, 284); /* what only the role knows is never asked of it */
    assert_string_equal(difference("one", "again", 1), "");
    assert_string_equal(difference("one", "more", 1), "");
    expect_in(difference("more", "one", 1), "token 280 is \"");
    expect_in(difference("more", "one", 1), "in the first and none in the second");
}

static void differences_of_one_size_are_named(void **state) {
    (void)state;
    train("other", "un mot vaut mieux que deux mots et un mot vaut un autre mot ou deux", 280);
    expect_in(difference("one", "other", 1), "token 260 is \"");
    change("renamed", "\"<|im_start|>\"", "\"<|im_begin|>\"");
    expect_in(difference("one", "renamed", 1),
              "token 2 is \"<|im_start|>\" in the first and \"<|im_begin|>\" in the second");
    change("composed", "\"normalizer\":null", "\"normalizer\":{\"type\":\"NFC\"}");
    expect_in(difference("one", "composed", 1), "a text is cut otherwise");
    /* the first two merges change places */
    char *json, merges[400], swapped[400], a[100], b[100];
    size_t len;
    expect_ok(file_read(&arena, &json, &len, scratch("one/tokenizer.json"), 1 << 24));
    assert_int_equal(sscanf(strstr(json, "\"merges\":["), "\"merges\":[ %99[^,], %99[^,],", a, b),
                     2);
    snprintf(merges, sizeof merges, "[\n%s,\n%s,", a, b);
    snprintf(swapped, sizeof swapped, "[\n%s,\n%s,", b, a);
    change("swapped", merges, swapped);
    expect_in(difference("one", "swapped", 1), "their tokens are the same, but merge 0 is ");
}

static void templates_count_where_they_are_used(void **state) {
    (void)state;
    static const char ours[] = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}",
                      theirs[] = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}";
    char ended[200];
    train("a", english, 280);
    train("b", english, 280);
    scratch_write("a/chat_template.jinja", ours, strlen(ours));
    expect_in(difference("a", "b", 1), "only the first has a chat template");
    expect_in(difference("b", "a", 1), "only the second has a chat template");
    scratch_write("b/chat_template.jinja", theirs, strlen(theirs));
    expect_in(difference("a", "b", 1),
              "their chat templates differ from byte 23 on: \"<|{{ m.role }}|>");
    assert_string_equal(difference("a", "b", 0), "");
    snprintf(ended, sizeof ended, "%s\n\n", ours); /* an editor's last line is no difference */
    scratch_write("b/chat_template.jinja", ended, strlen(ended));
    assert_string_equal(difference("a", "b", 1), "");
}

static void a_role_is_refused_by_both_names(void **state) {
    (void)state;
    Tokenizer *t;
    Arena settings = {0};
    Stage s = {.cfg = {.model = scratch("one"), .tokenizer = ""}, .data = {.layout = "auto"}};
    Section alarms = {"alarms", alarm_fields, alarm_n_fields, &s.run.alarms};
    expect_ok(settings_load(&alarms, 1, &settings, NULL, 0, NULL));
    change("begun", "\"<|im_start|>\"", "\"<|im_begin|>\"");
    expect_ok(file_mkdirs(scratch("bare")));
    expect_ok(tokenizer_open_dir(&t, scratch("one")));
    assert_int_equal(stage_check_role(&s, t, "reward model", scratch("begun")), E_FORMAT);
    expect_in(status_message(), scratch("one"));
    expect_in(status_message(), scratch("begun"));
    expect_in(status_message(), "token 2 is \"<|im_start|>\" in the first");
    expect_ok(stage_check_role(&s, t, "reference", scratch("one")));
    expect_ok(stage_check_role(&s, t, "reference", scratch("bare"))); /* no tokenizer in it */
    expect_ok(stage_check_role(&s, t, "critic", ""));
    s.run.alarms.enabled = 0;
    expect_ok(stage_check_role(&s, t, "reward model", scratch("begun")));
    tokenizer_release(t);
    arena_release(&settings);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_is_the_same),
        cmocka_unit_test(differences_of_one_size_are_named),
        cmocka_unit_test(templates_count_where_they_are_used),
        cmocka_unit_test(a_role_is_refused_by_both_names),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
