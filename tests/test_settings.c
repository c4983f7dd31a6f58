/* test_settings.c - one table, every way to set a value, and every way to get it wrong. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "core/run/settings.h"

typedef struct {
    int epochs;
    float clip, kl_coef;
    const char *schedule;
    int whiten, warm;
} Ppo;
static const Field ppo_fields[] = {
    FIELD_IN(Ppo, epochs, FIELD_INT, "4", 1, 100, "passes over each rollout"),
    FIELD_IN(Ppo, clip, FIELD_FLOAT, "0.2", 0, 1, "epsilon of the clipped surrogate"),
    FIELD(Ppo, kl_coef, FIELD_FLOAT, "0.05", "price of leaving the reference"),
    FIELD_OF(Ppo, schedule, "cosine", "cosine|linear|constant", "learning rate's shape"),
    FIELD(Ppo, whiten, FIELD_BOOL, "true", "whiten advantages"),
    FIELD(Ppo, warm, FIELD_INT, "3", "in both sections"),
};

typedef struct {
    uint64_t seed;
    const char *dir;
    StringList data;
    int resume, warm;
} Common;
static const Field run_table[] = {
    FIELD(Common, seed, FIELD_U64, "1", "seed"),
    FIELD(Common, dir, FIELD_STRING, "", "directory"),
    FIELD(Common, data, FIELD_LIST, "", "files"),
    FIELD(Common, resume, FIELD_BOOL, "false", "continue"),
    FIELD(Common, warm, FIELD_INT, "5", "in both sections"),
};

typedef struct {
    float lr;
} Top;
static const Field top_fields[] = {
    FIELD_IN(Top, lr, FIELD_FLOAT, "1e-5", 0, INFINITY, "learning rate"),
};

static Top top;
static Common common;
static Ppo ppo;
static const Section sections[] = {
    SECTION("", top_fields, &top),
    SECTION("run", run_table, &common),
    SECTION("ppo", ppo_fields, &ppo),
};
static Arena arena;

/* The recipe may be NULL; flags are separated by spaces. */
static Status load(const char *recipe, const char *flags) {
    JsonDoc *doc = NULL;
    char copy[400], *argv[32];
    int argc = 0;
    arena_clear(&arena);
    if (recipe) TRY(json_parse(&doc, "r.json", 1, recipe, strlen(recipe), JSON_COMMENTS));
    snprintf(copy, sizeof copy, "%s", flags);
    for (char *t = strtok(copy, " "); t; t = strtok(NULL, " ")) argv[argc++] = t;
    Status s = settings_load(sections, 3, &arena, doc, argc, argv);
    json_release(doc);
    return s;
}

static void expect_load(const char *recipe, const char *flags) {
    Status s = load(recipe, flags);
    if (s != OK) print_error("%s\n", status_message());
    assert_int_equal(s, OK);
}

static void expect_message(Status got, Status wanted, const char *message) {
    if (got != wanted || strcmp(status_message(), message) != 0)
        print_error("expected %d %s\ngot      %d %s\n", wanted, message, got,
                    got == OK ? "" : status_message());
    assert_int_equal(got, wanted);
    assert_string_equal(status_message(), message);
}

static void defaults(void **state) {
    (void)state;
    expect_load(NULL, "");
    assert_int_equal(ppo.epochs, 4);
    assert_true(ppo.clip == 0.2f && ppo.kl_coef == 0.05f && top.lr == 1e-5f);
    assert_string_equal(ppo.schedule, "cosine");
    assert_int_equal(ppo.whiten, 1);
    assert_true(common.seed == 1);
    assert_string_equal(common.dir, "");
    assert_int_equal(common.data.n, 0);
    assert_int_equal(common.resume, 0);
}

static void recipe_then_flags(void **state) {
    (void)state;
    expect_load("{\"verb\":\"ppo\",\"name\":\"x\",\"stages\":[],\"inputs\":{},\"$schema\":\"s\",\n"
                "\"lr\":1e-4, \"run\":{\"seed\":7,\"data\":[\"a,b\",\"c\"],\"resume\":true},\n"
                "\"ppo\":{\"clip\":0.3,\"epochs\":2,\"schedule\":\"linear\"} // and a comment\n}",
                "--ppo.clip 0.5 --kl-coef=-1 --no-whiten");
    assert_true(top.lr == 1e-4f && ppo.clip == 0.5f && ppo.kl_coef == -1);
    assert_int_equal(ppo.epochs, 2);
    assert_int_equal(ppo.whiten, 0);
    assert_string_equal(ppo.schedule, "linear");
    assert_true(common.seed == 7);
    assert_int_equal(common.resume, 1);
    assert_int_equal(common.data.n, 2);
    assert_string_equal(common.data.items[0], "a,b");
    assert_string_equal(common.data.items[1], "c");
}

static void ways_to_write_a_flag(void **state) {
    (void)state;
    expect_load(NULL, "--seed 18446744073709551615 --data a,b,c --lr .5 --resume --epochs 1e1");
    assert_true(common.seed == UINT64_MAX);
    assert_int_equal(common.data.n, 3);
    assert_string_equal(common.data.items[2], "c");
    assert_true(top.lr == 0.5f);
    assert_int_equal(common.resume, 1);
    assert_int_equal(ppo.epochs, 10);

    expect_load(NULL, "--resume auto --run.dir=x=y");
    assert_int_equal(common.resume, 1);
    assert_string_equal(common.dir, "x=y");
    expect_load(NULL, "--resume false --whiten=off --dir --odd");
    assert_int_equal(common.resume, 0);
    assert_int_equal(ppo.whiten, 0);
    assert_string_equal(common.dir, "--odd");
    expect_load("{\"run\":{\"resume\":true}}", "--run.no-resume --ppo.warm 8");
    assert_int_equal(common.resume, 0);
    assert_int_equal(ppo.warm, 8);
    assert_int_equal(common.warm, 5);
}

static void wrong_flags(void **state) {
    (void)state;
    static const struct {
        const char *flags, *message;
    } cases[] = {
        {"--clpi 1", "unknown setting --clpi; did you mean --ppo.clip?"},
        {"--ppo.clpi 1", "unknown setting --ppo.clpi; did you mean --ppo.clip?"},
        {"--ppo.kl 1", "unknown setting --ppo.kl; did you mean --ppo.kl_coef?"},
        {"--zzzzzz 1", "unknown setting --zzzzzz"},
        {"--warm 1", "--warm could be --run.warm or --ppo.warm: write which"},
        {"--clip", "--clip needs a value"},
        {"--clip x", "--ppo.clip must be a number, not \"x\""},
        {"--clip 0.2x", "--ppo.clip must be a number, not \"0.2x\""},
        {"--clip nan", "--ppo.clip must be a finite number"},
        {"--clip 1.5", "--ppo.clip must be between 0 and 1, not 1.5"},
        {"--lr -1", "--lr must be at least 0, not -1"},
        {"--kl_coef 1e300", "--ppo.kl_coef is too large: 1e+300"},
        {"--epochs 2.5", "--ppo.epochs must be a whole number, not 2.5"},
        {"--ppo.warm 3000000000", "--ppo.warm is 3000000000, outside the range of an integer"},
        {"--seed -1", "--run.seed must be a whole number from 0 to 2^64-1, not \"-1\""},
        {"--seed 18446744073709551616",
         "--run.seed must be a whole number from 0 to 2^64-1, not \"18446744073709551616\""},
        {"--schedule square",
         "--ppo.schedule must be one of cosine|linear|constant, not \"square\""},
        {"--schedule cos", "--ppo.schedule must be one of cosine|linear|constant, not \"cos\""},
        {"--data a,,b", "--run.data holds an empty text (number 2 of 3)"},
        {"--whiten=maybe", "--ppo.whiten must be true or false, not \"maybe\""},
        {"--no-whiten=true", "--no-whiten takes no value"},
        {"clip 1", "unexpected argument \"clip\": settings begin with --"},
        {"--resume perhaps", "unexpected argument \"perhaps\": settings begin with --"},
        {"--", "unexpected argument \"--\": settings begin with --"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_message(load(NULL, cases[i].flags), E_USAGE, cases[i].message);
}

static void wrong_recipes(void **state) {
    (void)state;
    static const struct {
        const char *recipe, *message;
    } cases[] = {
        {"[]", "r.json:1:1: a recipe must be an object, not an array"},
        {"{\n  \"pppo\": {}}", "r.json:2:3: unknown setting \"pppo\"; did you mean \"ppo\"?"},
        {"{\"ppo\": {\n \"clip\": 0.1,\n \"eopchs\": 3}}",
         "r.json:3:2: unknown setting \"ppo.eopchs\"; did you mean \"ppo.epochs\"?"},
        {"{\"clip\": 0.1}", "r.json:1:2: unknown setting \"clip\"; did you mean \"ppo.clip\"?"},
        {"{\"ppo\": {\"seed\": 1}}",
         "r.json:1:10: unknown setting \"ppo.seed\"; did you mean \"run.seed\"?"},
        {"{\"qqqqqqqqqq\": 1}", "r.json:1:2: unknown setting \"qqqqqqqqqq\""},
        {"{\"ppo\": 3}", "r.json:1:2: \"ppo\" must be an object of settings, not a number"},
        {"{\"ppo\": {\"clip\": \"0.2\"}}", "r.json:1:10: ppo.clip must be a number, not a string"},
        {"{\"ppo\": {\"clip\": 7}}", "r.json:1:10: ppo.clip must be between 0 and 1, not 7"},
        {"{\"ppo\": {\"whiten\": 1}}",
         "r.json:1:10: ppo.whiten must be true or false, not a number"},
        {"{\"ppo\": {\"schedule\": null}}", "r.json:1:10: ppo.schedule must be a string, not null"},
        {"{\"run\": {\"data\": [1]}}", "r.json:1:10: run.data must hold strings, not a number"},
        {"{\"run\": {\"data\": [\"\"]}}",
         "r.json:1:10: run.data holds an empty text (number 1 of 1)"},
        {"{\"run\": {\"data\": {}}}",
         "r.json:1:10: run.data must be a string or an array of strings, not an object"},
        {"{\"run\": {\"seed\": 1e300}}",
         "r.json:1:10: run.seed must be between 0 and 2^53; write larger ones as a string"},
        {"{\"run\": {\"seed\": -1}}",
         "r.json:1:10: run.seed must be between 0 and 2^53; write larger ones as a string"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_message(load(cases[i].recipe, ""), E_FORMAT, cases[i].message);
}

static void what_is_written_loads_the_same(void **state) {
    (void)state;
    Text first = {0}, second = {0};
    expect_load(
        NULL, "--seed 18446744073709551615 --clip 0.1 --kl_coef 3.3e-7 --data a,b\"c --no-whiten");
    settings_write(&first, sections, 3);
    assert_non_null(strstr(first.s, "\"seed\": \"18446744073709551615\""));
    assert_non_null(strstr(first.s, "\"clip\": 0.1,")); /* a float, not its double */
    expect_load(first.s, "");
    settings_write(&second, sections, 3);
    assert_string_equal(first.s, second.s);
    text_release(&first);
    text_release(&second);
}

static void help_and_schema(void **state) {
    (void)state;
    Text help = {0}, schema = {0};
    JsonDoc *doc;
    settings_help(&help, sections, 3);
    assert_non_null(strstr(help.s, "--ppo.clip NUMBER"));
    assert_non_null(strstr(help.s, "epsilon of the clipped surrogate (0.2)"));
    assert_non_null(strstr(help.s, "--ppo.schedule cosine|linear|constant"));
    settings_schema(&schema, sections, 3);
    assert_int_equal(json_parse(&doc, "schema", 1, schema.s, schema.len, 0), OK);
    const Json *clip = json_get(json_get(json_get(json_root(doc), "ppo"), "properties"), "clip");
    assert_true(json_num(json_get(clip, "default")) == 0.2);
    assert_true(json_num(json_get(clip, "maximum")) == 1);
    assert_string_equal(json_str(json_get(clip, "type")), "number");
    const Json *lr = json_get(json_root(doc), "lr");
    assert_non_null(json_get(lr, "minimum"));
    assert_null(json_get(lr, "maximum"));
    json_release(doc);
    text_release(&help);
    text_release(&schema);
}

static void nearest_names(void **state) {
    (void)state;
    static const char *const names[] = {"learning_rate", "kl_coef", "lr", "batch"};
    assert_string_equal(settings_nearest("lerning_rate", names, 4), "learning_rate");
    assert_string_equal(settings_nearest("kl_coeff", names, 4), "kl_coef");
    assert_string_equal(settings_nearest("lrr", names, 4), "lr");
    assert_null(settings_nearest("temperature", names, 4));
    assert_null(settings_nearest("", names, 4));
    char endless[5000];
    memset(endless, 'l', sizeof endless - 1);
    endless[sizeof endless - 1] = '\0';
    assert_null(settings_nearest(endless, names, 4));
}

static int release_arena(void **state) {
    (void)state;
    arena_release(&arena);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),
        cmocka_unit_test(recipe_then_flags),
        cmocka_unit_test(ways_to_write_a_flag),
        cmocka_unit_test(wrong_flags),
        cmocka_unit_test(wrong_recipes),
        cmocka_unit_test(what_is_written_loads_the_same),
        cmocka_unit_test(help_and_schema),
        cmocka_unit_test(nearest_names),
    };
    return cmocka_run_group_tests(tests, NULL, release_arena);
}
