/* test_world.c - the embedded world: its files, and the gold rule on hand-written replies. */
#include <math.h>
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
#include "core/base/json.h"
#include "core/base/stream.h"
#include "datasets/world.h"
#include "datasets/world_text.h"

static const WorldConfig small = {.sft = 300, .pairs = 400, .prompts = 200, .eval = 100, .seed = 5};
static const char *const all_files[] = {
    "sft.jsonl",        "pairs.jsonl",        "prompts.jsonl",    "sft.eval.jsonl",
    "pairs.eval.jsonl", "prompts.eval.jsonl", "parts.eval.jsonl", "world.json",
};
enum { N_FILES = sizeof all_files / sizeof *all_files };

static char root[64]; /* removed when the tests end */

static void must(Status s) {
    if (s != OK) fail_msg("%s", status_message());
}

static const char *folder(const char *name) {
    static char path[4][128];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", root, name);
    return path[turn];
}

static uint64_t hash_file(const char *dir, const char *name) {
    Arena a = {0};
    char *data;
    size_t len;
    must(file_read(&a, &data, &len, arena_printf(&a, "%s/%s", dir, name), 1 << 28));
    uint64_t hash = file_hash(data, len, 0);
    arena_release(&a);
    return hash;
}

/* Calls see() for every row of a file. */
typedef void (*RowSeer)(const JsonDoc *doc, const Json *row, void *ctx);
static int each_row(const char *dir, const char *name, RowSeer see, void *ctx) {
    Arena a = {0};
    LineReader *lines;
    const char *line;
    size_t len;
    int number, rows = 0;
    const char *path = arena_printf(&a, "%s/%s", dir, name);
    must(lines_open(&lines, path));
    for (must(lines_next(lines, &line, &len, &number)); line;
         must(lines_next(lines, &line, &len, &number)), rows++) {
        JsonDoc *doc;
        must(json_parse(&doc, path, number, line, len, JSON_STRICT));
        see(doc, json_root(doc), ctx);
        json_release(doc);
    }
    lines_close(lines);
    arena_release(&a);
    return rows;
}

static const char *text_of(const JsonDoc *doc, const Json *row, const char *key) {
    const char *s = NULL;
    must(json_get_str(doc, row, key, JSON_REQUIRED, &s));
    return s;
}

static double number_of(const JsonDoc *doc, const Json *row, const char *key) {
    double v = 0;
    must(json_get_num(doc, row, key, JSON_REQUIRED, &v));
    return v;
}

static int words_of(const char *s) {
    int n = *s != '\0';
    for (; *s; s++) n += *s == ' ';
    return n;
}

static void the_seed_decides_every_byte(void **state) {
    (void)state;
    WorldConfig other = small;
    WorldInfo info;
    other.seed = 6;
    must(world_make(folder("seed5"), &small, &info));
    must(world_make(folder("seed5again"), &small, &info));
    must(world_make(folder("seed6"), &other, &info));
    for (int i = 0; i < N_FILES; i++) {
        uint64_t five = hash_file(folder("seed5"), all_files[i]);
        assert_true(five == hash_file(folder("seed5again"), all_files[i]));
        assert_true(five != hash_file(folder("seed6"), all_files[i]));
    }
}

static void sizes_of_one_file_leave_the_others(void **state) {
    (void)state;
    WorldConfig more = small;
    WorldInfo info;
    more.sft = 301;
    must(world_make(folder("small"), &small, &info));
    must(world_make(folder("more"), &more, &info));
    assert_true(hash_file(folder("small"), "sft.jsonl") != hash_file(folder("more"), "sft.jsonl"));
    assert_true(hash_file(folder("small"), "pairs.jsonl") ==
                hash_file(folder("more"), "pairs.jsonl"));
}

static void impossible_sizes_are_refused(void **state) {
    (void)state;
    WorldConfig bad = small;
    WorldInfo info;
    bad.pairs = -1;
    assert_int_equal(world_make(folder("bad"), &bad, &info), E_USAGE);
    assert_non_null(strstr(status_message(), "pairs"));
}

/* --- what the files hold --- */

typedef struct {
    uint8_t seen[N_CELLS];
    int rows, angry, orders, words_min, words_max;
} Prompts;

static int world_cell(const Case *c) {
    const Product *p = &c->product;
    return ((p->noun * N_BRANDS + p->brand) * N_CITIES + p->city) * N_TROUBLES + c->trouble;
}

static void see_prompt(const JsonDoc *doc, const Json *row, void *ctx) {
    Prompts *p = ctx;
    Case c;
    const char *prompt = text_of(doc, row, "prompt");
    must(world_case_read(&c, prompt));
    int words = words_of(prompt);
    p->seen[world_cell(&c)] = 1;
    p->rows++;
    p->angry += c.tone == TONE_ANGRY;
    p->orders += c.order >= 0;
    if (p->words_min == 0 || words < p->words_min) p->words_min = words;
    if (words > p->words_max) p->words_max = words;
}

static void held_out_cells_are_disjoint(void **state) {
    (void)state;
    static Prompts train, held;
    const WorldConfig full = {.sft = 14000, .pairs = 7000, .prompts = 4000, .eval = 500, .seed = 1};
    WorldInfo info;
    const char *dir = folder("full");
    must(world_make(dir, &full, &info));
    assert_int_equal(each_row(dir, "sft.jsonl", see_prompt, &train), full.sft);
    assert_int_equal(each_row(dir, "pairs.jsonl", see_prompt, &train), full.pairs);
    assert_int_equal(each_row(dir, "prompts.jsonl", see_prompt, &train), full.prompts);
    assert_int_equal(each_row(dir, "sft.eval.jsonl", see_prompt, &held), full.eval);
    assert_int_equal(each_row(dir, "pairs.eval.jsonl", see_prompt, &held), 2 * full.eval);
    assert_int_equal(each_row(dir, "prompts.eval.jsonl", see_prompt, &held), full.eval);
    assert_int_equal(each_row(dir, "parts.eval.jsonl", see_prompt, &held), 100 * WORLD_PARTS);

    int n_train = 0, n_held = 0;
    for (int i = 0; i < N_CELLS; i++) {
        assert_false(train.seen[i] && held.seen[i]);
        n_train += train.seen[i];
        n_held += held.seen[i];
    }
    assert_int_equal(info.held_out, N_CELLS / 10);
    assert_int_equal(n_train, N_CELLS - info.held_out);
    assert_int_equal(n_held, info.held_out);

    double orders = (double)train.orders / train.rows, angry = (double)train.angry / train.rows;
    if (orders < 0.48 || orders > 0.52 || angry < 0.31 || angry > 0.36)
        fail_msg("share with an order number %.3f, angry %.3f", orders, angry);
    assert_in_range(train.words_min, 8, 18);
    assert_in_range(train.words_max, 20, 32);
}

static void see_demonstration(const JsonDoc *doc, const Json *row, void *ctx) {
    Gold g;
    const char *completion = text_of(doc, row, "completion");
    must(world_gold(&g, text_of(doc, row, "prompt"), completion, 1));
    assert_float_equal(g.total, number_of(doc, row, "gold"), 1e-6);
    assert_in_range(words_of(completion), 12, 56);
    double *sum = ctx;
    *sum += g.total;
}

static void demonstrations_leave_room(void **state) {
    (void)state;
    WorldInfo info;
    double sum = 0;
    must(world_make(folder("demos"), &small, &info));
    int rows = each_row(folder("demos"), "sft.jsonl", see_demonstration, &sum);
    double mean = sum / rows;
    if (mean < 1.2 || mean > 2.6) fail_msg("mean gold of the demonstrations is %.3f", mean);
}

typedef struct {
    int rows, edits, agree, longer, part_rows[WORLD_PARTS];
    double expected;
} Pairs;

static int part_named(const char *name) {
    for (int i = 0; i < WORLD_PARTS; i++)
        if (!strcmp(name, world_part_names[i])) return i;
    fail_msg("no part is named %s", name);
    return 0;
}

/* Exactly the part fell from `high` to `low`. */
static void expect_only(const Gold *high, const Gold *low, int part, const char *prompt) {
    for (int i = 0; i < WORLD_PARTS; i++) {
        double fall = high->part[i] - low->part[i];
        if (i == part ? fall > 0.29 : fabs(fall) < 1e-9) continue;
        fail_msg("%s broken, but %s fell by %.3f: %s", world_part_names[part], world_part_names[i],
                 fall, prompt);
    }
}

static void see_pair(const JsonDoc *doc, const Json *row, void *ctx) {
    Pairs *p = ctx;
    Gold chosen, rejected;
    const char *prompt = text_of(doc, row, "prompt"), *subset = text_of(doc, row, "subset");
    const char *c = text_of(doc, row, "chosen"), *r = text_of(doc, row, "rejected");
    must(world_gold(&chosen, prompt, c, 1));
    must(world_gold(&rejected, prompt, r, 1));
    assert_float_equal(chosen.total, number_of(doc, row, "gold_chosen"), 1e-6);
    assert_float_equal(rejected.total, number_of(doc, row, "gold_rejected"), 1e-6);

    double gap = chosen.total - rejected.total;
    assert_true(fabs(gap) > 0.29);
    if (!strncmp(subset, "edit:", 5)) {
        int part = part_named(subset + 5);
        expect_only(gap > 0 ? &chosen : &rejected, gap > 0 ? &rejected : &chosen, part, prompt);
        p->part_rows[part]++;
        p->edits++;
    } else {
        assert_string_equal(subset, "draft");
    }
    p->rows++;
    p->agree += gap > 0;
    p->longer += words_of(c) > words_of(r);
    p->expected += 1.0 / (1.0 + exp(-1.3 * fabs(gap)));
}

static void labels_follow_gold(void **state) {
    (void)state;
    const WorldConfig big = {.sft = 1, .pairs = 6000, .prompts = 1, .eval = 1500, .seed = 2};
    WorldInfo info;
    Pairs train = {0}, eval = {0};
    const char *dir = folder("labels");
    must(world_make(dir, &big, &info));
    each_row(dir, "pairs.jsonl", see_pair, &train);
    each_row(dir, "pairs.eval.jsonl", see_pair, &eval);

    /* Bradley-Terry: the share of labels that agree is the mean probability that they do */
    double agree = (double)train.agree / train.rows, expected = train.expected / train.rows;
    if (fabs(agree - expected) > 0.015) fail_msg("agreement %.3f, expected %.3f", agree, expected);
    double edits = (double)train.edits / train.rows;
    if (edits < 0.47 || edits > 0.53) fail_msg("share of edits %.3f", edits);
    for (int i = 0; i < WORLD_PARTS; i++) assert_true(train.part_rows[i] > 30);

    assert_float_equal(info.accuracy_ceiling, (double)eval.agree / eval.rows, 1e-9);
    if (info.accuracy_ceiling < 0.85 || info.accuracy_ceiling > 0.93)
        fail_msg("accuracy ceiling %.3f", info.accuracy_ceiling);
    double longer = (double)eval.longer / eval.rows;
    if (info.longer_wins > 0.55 || longer > 0.55)
        fail_msg("longer wins %.3f, strictly %.3f", info.longer_wins, longer);
}

static void see_part(const JsonDoc *doc, const Json *row, void *ctx) {
    int *rows = ctx;
    Gold chosen, rejected;
    const char *prompt = text_of(doc, row, "prompt");
    int part = part_named(text_of(doc, row, "subset"));
    must(world_gold(&chosen, prompt, text_of(doc, row, "chosen"), 1));
    must(world_gold(&rejected, prompt, text_of(doc, row, "rejected"), 1));
    expect_only(&chosen, &rejected, part, prompt);
    assert_float_equal(chosen.part[PART_FIX], 2.0, 1e-9);
    assert_float_equal(chosen.part[PART_PRODUCT], 1.0, 1e-9);
    assert_float_equal(chosen.part[PART_ENDING], 0.6, 1e-9);
    rows[part]++;
}

static void parts_break_one_at_a_time(void **state) {
    (void)state;
    WorldInfo info;
    int rows[WORLD_PARTS] = {0};
    must(world_make(folder("parts"), &small, &info));
    each_row(folder("parts"), "parts.eval.jsonl", see_part, rows);
    for (int i = 0; i < WORLD_PARTS; i++) assert_true(rows[i] >= 40);
}

/* --- the gold rule --- */

static const char angry[] =
    "Listen, this scale by Orrin from Oslo has a leak in the lid. It came with order Q4. Fix it now!";
static const char calm[] =
    "Hi, I think this radio by Velmo from Rome has a crack in the base. Any idea?";
static const char best[] =
    "Thank you for writing about this scale by Orrin from Oslo. I am sorry about it. For the leak in the lid, "
    "please swap the seal. I have found order Q4. That ends the leak in the lid. Enjoy it.";

static Gold gold_of(const char *prompt, const char *reply, int finished) {
    Gold g;
    must(world_gold(&g, prompt, reply, finished));
    double sum = 0;
    for (int i = 0; i < WORLD_PARTS; i++) sum += g.part[i];
    assert_float_equal(sum, g.total, 1e-9);
    return g;
}

static void a_right_reply_gets_everything(void **state) {
    (void)state;
    Gold g = gold_of(angry, best, 1);
    assert_float_equal(g.total, 2.0 + 1.0 + 0.4 + 0.8 + 0.3 + 0.6, 1e-9);
    assert_float_equal(gold_of(angry, best, 0).total, g.total - 0.6, 1e-9);
}

static void every_part_has_its_price(void **state) {
    (void)state;
    static const struct {
        WorldPart part;
        const char *prompt, *reply;
        double score;
    } cases[] = {
        {PART_FIX, angry, "Press the clamp shut.", 2.0},
        {PART_FIX, angry, "PRESS  the\nclamp shut", 2.0},
        {PART_FIX, angry, "Press the clamp shutter.", 0.0},
        {PART_FIX, angry, "Press the clamp. Shut.", 0.0},
        {PART_FIX, angry, "Add a felt pad.", -1.5},
        {PART_FIX, angry, "Press the clamp shut, then add a felt pad.", 0.5},
        {PART_PRODUCT, angry, "I know this scale by Orrin from Oslo.", 1.0},
        {PART_PRODUCT, angry, "I know this Orrin.", 0.0},
        {PART_PRODUCT, angry, "I know this scale.", 0.0},
        {PART_PRODUCT, angry, "I know this radio by Orrin from Oslo.", -1.5},
        {PART_PRODUCT, angry, "I know this scale by Velmo from Oslo.", -1.5},
        {PART_PRODUCT, angry, "I know this kettle.", -1.5},
        {PART_PRODUCT, angry, "Greetings from Lima.", -1.5},
        {PART_PRODUCT, angry, "I know this scale by Orrin from Lima.", -1.5},
        {PART_PRODUCT, angry, "The scale from Oslo by Orrin.", 0.0},
        {PART_PRODUCT, angry, "Not the radio by Velmo from Rome but this scale by Orrin from Oslo.",
         -0.5},
        {PART_THANKS, angry, "Many thanks!", 0.4},
        {PART_THANKS, angry, "Thankless work.", 0.0},
        {PART_APOLOGY, angry, "We apologize.", 0.8},
        {PART_APOLOGY, calm, "I am sorry.", 0.1},
        {PART_VAGUE, calm, "Just turn it off and on.", -0.5},
        {PART_RUDE, calm, "That is not our problem.", -1.5},
        {PART_PROMISE, calm, "You get a full refund.", -1.5},
        {PART_PROMISE, calm, "A gift and a replacement.", -1.5},
        {PART_ORDER, angry, "Order Q4.", 0.3},
        {PART_ORDER, angry, "Order Q7.", -0.6},
        {PART_ORDER, angry, "Order 99999999999999999999.", -0.6},
        {PART_ORDER, angry, "No order.", 0.0},
        {PART_ORDER, calm, "Order Q4.", -0.6},
        {PART_ENDING, calm, "Enjoy this scale by Orrin from Oslo.", 0.6},
        {PART_ENDING, calm, "Hello. Good luck with it!", 0.6},
        {PART_ENDING, calm, "Enjoy it", 0.0},
        {PART_ENDING, calm, "Enjoy this scale by Orrin.", 0.0},
        {PART_ENDING, calm, "Enjoy it now.", 0.0},
        {PART_ENDING, calm, "Enjoy.", 0.0},
        {PART_ENDING, calm, "Do enjoy it.", 0.0},
        {PART_ENDING, calm, "Enjoy it. Hello.", 0.0},
        {PART_LENGTH, calm, "one two three", -1.2},
        {PART_LENGTH, calm, "", -1.5},
        {PART_REPEAT, calm, "Hello. Hello.", -0.7},
        {PART_REPEAT, calm, "Hello. Yes. hello! Yes.", -1.4},
        {PART_REPEAT, calm, "Hello. Yes.", 0.0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double score = gold_of(cases[i].prompt, cases[i].reply, 1).part[cases[i].part];
        if (fabs(score - cases[i].score) > 1e-9)
            fail_msg("%s of \"%s\" is %.3f, expected %.3f", world_part_names[cases[i].part],
                     cases[i].reply, score, cases[i].score);
    }
}

static void each_word_over_45_costs(void **state) {
    (void)state;
    Text t = {0};
    for (int words = 1; words <= 200; words++) {
        text_addf(&t, "word%c ", 'a' + words % 26);
        double expected = words < 15   ? -0.1 * (15 - words)
                          : words > 45 ? -0.08 * (words - 45)
                                       : 0.0;
        if (expected < -4.0) expected = -4.0;
        assert_float_equal(gold_of(calm, t.s, 1).part[PART_LENGTH], expected, 1e-9);
    }
    text_release(&t);
}

static void every_wording_is_recognised(void **state) {
    (void)state;
    static const struct {
        Say kind;
        WorldPart part;
    } pairs[] = {
        {SAY_THANKS, PART_THANKS}, {SAY_APOLOGY, PART_APOLOGY}, {SAY_VAGUE, PART_VAGUE},
        {SAY_RUDE, PART_RUDE},     {SAY_PROMISE, PART_PROMISE}, {SAY_CLOSING, PART_ENDING},
    };
    for (int kind = 0; kind < N_SAY; kind++)
        for (int i = 0; i < world_wordings((Say)kind); i++) {
            char sentence[128];
            const char *wording = world_wording((Say)kind, i), *product = strstr(wording, "{P}");
            int before = product ? (int)(product - wording) : (int)strlen(wording);
            snprintf(sentence, sizeof sentence, "%.*s%s%s", before, wording, product ? "it" : "",
                     product ? product + 3 : "");
            Gold g = gold_of(calm, sentence, 1);
            for (size_t j = 0; j < sizeof pairs / sizeof *pairs; j++)
                if ((g.part[pairs[j].part] != 0.0) != ((int)pairs[j].kind == kind))
                    fail_msg("%s of \"%s\" is %.3f", world_part_names[pairs[j].part], sentence,
                             g.part[pairs[j].part]);
            assert_float_equal(g.part[PART_FIX] + g.part[PART_PRODUCT] + g.part[PART_ORDER], 0.0,
                               1e-9);
        }
}

/* Every trouble in every wording, with every right and every wrong fix. */
static void every_trouble_is_recognised(void **state) {
    (void)state;
    for (int i = 0; i < N_TROUBLES * N_PHRASINGS * 3 * N_TONES; i++) {
        Case c = {.product = {i % N_NOUNS, i % N_BRANDS, i % N_CITIES}, .trouble = i % N_TROUBLES},
             back;
        c.order = i % (N_ORDERS + 1) - 1;
        c.phrasing = i / N_TROUBLES % N_PHRASINGS;
        c.opener = c.closer = i / N_TROUBLES / N_PHRASINGS % 3;
        c.tone = (Tone)(i / N_TROUBLES / N_PHRASINGS / 3);
        Text prompt = {0};
        world_prompt_render(&prompt, &c);
        must(world_case_read(&back, prompt.s));
        assert_int_equal(world_cell(&back), world_cell(&c));
        assert_int_equal(back.tone == TONE_ANGRY, c.tone == TONE_ANGRY);
        assert_int_equal(back.order, c.order);
        for (int t = 0; t < N_TROUBLES; t++)
            for (int f = 0; f < N_FIXES; f++)
                assert_float_equal(gold_of(prompt.s, world_fixes[t][f], 1).part[PART_FIX],
                                   t == c.trouble ? 2.0 : -1.5, 1e-9);
        text_release(&prompt);
    }
}

static void foreign_prompts_are_refused(void **state) {
    (void)state;
    Gold g;
    assert_int_equal(world_gold(&g, "What is the capital of France?", best, 1), E_FORMAT);
    assert_non_null(strstr(status_message(), "product"));
    assert_int_equal(world_gold(&g, "Hi, this scale by Orrin from Oslo is lovely.", best, 1),
                     E_FORMAT);
    assert_non_null(strstr(status_message(), "symptom"));
    assert_int_equal(
        world_gold(&g, "Hi, this scale by Orrin from Oslo has a leak and a smell in the lid.", best,
                   1),
        E_FORMAT);
    assert_non_null(strstr(status_message(), "smell"));
    assert_int_equal(world_gold(&g, "", "", 1), E_FORMAT);
}

/* Bytes that no model of ours should write, a reply of a few megabytes among them. */
static void hostile_replies_are_scored(void **state) {
    (void)state;
    Text t = {0};
    assert_float_equal(gold_of(calm, NULL, 1).total, -1.5, 1e-9);
    for (int c = 1; c < 256; c++) {
        char byte = (char)c;
        text_add_bytes(&t, &byte, 1);
    }
    gold_of(calm, t.s, 1);
    text_clear(&t);
    for (int i = 0; i < 300000; i++) text_addf(&t, "this Orrin %d. ", i % 7);
    double total = gold_of(angry, t.s, 1).total;
    if (total > -5.0 || total < -10.0) fail_msg("a runaway reply scores %.3f", total);
    text_clear(&t);
    for (int i = 0; i < 1000000; i++) text_add(&t, "...");
    gold_of(angry, t.s, 0);
    text_release(&t);
}

int main(void) {
    snprintf(root, sizeof root, "/tmp/test_world.XXXXXX");
    if (!mkdtemp(root)) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_seed_decides_every_byte),
        cmocka_unit_test(sizes_of_one_file_leave_the_others),
        cmocka_unit_test(impossible_sizes_are_refused),
        cmocka_unit_test(held_out_cells_are_disjoint),
        cmocka_unit_test(demonstrations_leave_room),
        cmocka_unit_test(labels_follow_gold),
        cmocka_unit_test(parts_break_one_at_a_time),
        cmocka_unit_test(a_right_reply_gets_everything),
        cmocka_unit_test(every_part_has_its_price),
        cmocka_unit_test(each_word_over_45_costs),
        cmocka_unit_test(every_wording_is_recognised),
        cmocka_unit_test(every_trouble_is_recognised),
        cmocka_unit_test(foreign_prompts_are_refused),
        cmocka_unit_test(hostile_replies_are_scored),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    file_remove_tree(root);
    return failed;
}
