/* test_dataset.c - rows in the field's shapes become ids; bad ones have a defined outcome each. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "core/base/file.h"
#include "core/base/log.h"
#include "datasets/dataset.h"
#include "tests/expect_sequence.h"

static char dir[64];
static Tokenizer *tok, *smol; /* without and with SmolLM2's chat template */

static const char smol_template[] =
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}";

static const char *in_dir(const char *name) {
    static char path[4][128];
    static int turn;
    char *p = path[turn++ % 4];
    snprintf(p, sizeof(path[0]), "%s/%s", dir, name);
    return p;
}

static void write_file(const char *name, const char *text) {
    expect_ok(file_write_atomic(in_dir(name), text, strlen(text)));
}

static int setup(void **state) {
    (void)state;
    BpeTrainer *b;
    log_level(LOG_QUIET);
    snprintf(dir, sizeof(dir), "/tmp/dataset-XXXXXX");
    if (!mkdtemp(dir)) return -1;
    const char *text =
        "the user asks the assistant a question and the assistant answers the question of the user";
    expect_ok(bpe_trainer_create(&b));
    for (int i = 0; i < 4; i++) expect_ok(bpe_trainer_add(b, text, strlen(text)));
    expect_ok(bpe_trainer_finish(b, 300, &tok));
    bpe_trainer_release(b);
    expect_ok(tokenizer_save(tok, dir));
    write_file("chat_template.jinja", smol_template);
    expect_ok(tokenizer_open_dir(&smol, dir));
    return 0;
}

static int teardown(void **state) {
    (void)state;
    tokenizer_release(tok);
    tokenizer_release(smol);
    return file_remove_tree(dir) == OK ? 0 : -1;
}

static DataConfig config(void) {
    return (DataConfig){.eval = "",
                        .layout = "auto",
                        .system = "",
                        .max_length = 1024,
                        .truncate_prompt = "refuse",
                        .bad_rows = "stop",
                        .cache = "",
                        .prompt_key = "prompt",
                        .chosen_key = "chosen",
                        .rejected_key = "rejected",
                        .completion_key = "completion"};
}

static void expect_row(const Tokenizer *t, const DataConfig *cfg, RowKind kind, const char *row,
                       const char *a, const char *b) {
    Dataset d;
    write_file("row.jsonl", row);
    Status s = dataset_open(&d, cfg, in_dir("row.jsonl"), kind, t);
    if (s != OK) fail_msg("%s\n%s", row, status_message());
    assert_int_equal(d.n, 1);
    expect_sequence(t, &d.rows[0].a, "[]", a);
    if (b) expect_sequence(t, &d.rows[0].b, "[]", b);
    assert_int_equal(d.rows[0].a.trained[0], 0);
    assert_string_equal(d.rows[0].source, row);
    dataset_release(&d);
}

#define USER(text)      "{\"role\":\"user\",\"content\":\"" text "\"}"
#define ASSISTANT(text) "{\"role\":\"assistant\",\"content\":\"" text "\"}"
#define SYSTEM(text)    "{\"role\":\"system\",\"content\":\"" text "\"}"
#define MESSAGES(list)  "{\"messages\":[" list "]}"
#define PAIR(prompt, chosen, rejected)                                                             \
    "{\"prompt\":" prompt ",\"chosen\":" chosen ",\"rejected\":" rejected "}"
#define CHATML_HI "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"

static void test_shapes(void **state) {
    (void)state;
    DataConfig cfg = config();
    /* plain */
    expect_row(tok, &cfg, ROWS_SFT, "{\"prompt\":\"Q: hi\\nA:\",\"completion\":\" yo\"}",
               "Q: hi\nA:[ yo<|eos|>]", NULL);
    expect_row(tok, &cfg, ROWS_SFT, "{\"text\":\"hi yo\"}", "h[i yo<|eos|>]", NULL);
    expect_row(tok, &cfg, ROWS_PROMPTS, "{\"prompt\":\"hi\"}", "hi", NULL);
    expect_row(tok, &cfg, ROWS_PROMPTS, "{\"prompt\":\"hi\",\"completion\":\"yo\"}", "hi", NULL);
    expect_row(tok, &cfg, ROWS_PAIRS, PAIR("\"hi\"", "\" a\"", "\" b\""), "hi[ a<|eos|>]",
               "hi[ b<|eos|>]");
    expect_row(tok, &cfg, ROWS_SFT, PAIR("\"hi\"", "\" a\"", "\" b\""), "hi[ a<|eos|>]", NULL);
    expect_row(tok, &cfg, ROWS_PROMPTS, PAIR("\"hi\"", "\" a\"", "\" b\""), "hi", NULL);
    expect_row(
        tok, &cfg, ROWS_PAIRS,
        "{\"chosen\":\"\\n\\nHuman: hi\\n\\nAssistant: yes\",\"rejected\":\"\\n\\nHuman: hi\\n\\nAssistant: yo\"}",
        "\n\nHuman: hi\n\nAssistant:[ yes<|eos|>]", "\n\nHuman: hi\n\nAssistant:[ yo<|eos|>]");
    expect_row(tok, &cfg, ROWS_PAIRS, "{\"chosen\":\"we like cats\",\"rejected\":\"we like cars\"}",
               "we like[ cats<|eos|>]", "we like[ cars<|eos|>]");

    /* chatml, as messages ask for it */
    expect_row(
        tok, &cfg, ROWS_SFT,
        MESSAGES(USER("hi") "," ASSISTANT("yo") "," USER("and?") "," ASSISTANT("so")),
        CHATML_HI
        "[yo<|im_end|>]\n<|im_start|>user\nand?<|im_end|>\n<|im_start|>assistant\n[so<|im_end|>]",
        NULL);
    expect_row(tok, &cfg, ROWS_SFT, MESSAGES(USER("hi") "," ASSISTANT("yo") "," USER("dropped")),
               CHATML_HI "[yo<|im_end|>]", NULL);
    expect_row(tok, &cfg, ROWS_PROMPTS, MESSAGES(USER("hi") "," ASSISTANT("yo")), CHATML_HI, NULL);
    expect_row(tok, &cfg, ROWS_PROMPTS, "{\"prompt\":[" USER("hi") "]}", CHATML_HI, NULL);
    expect_row(tok, &cfg, ROWS_SFT,
               "{\"prompt\":[" USER("hi") "],\"completion\":[" ASSISTANT("yo") "]}",
               CHATML_HI "[yo<|im_end|>]", NULL);
    expect_row(tok, &cfg, ROWS_PAIRS,
               PAIR("\"hi\"", "[" USER("hi") "," ASSISTANT("a") "]",
                    "[" USER("hi") "," ASSISTANT("b") "]"),
               CHATML_HI "[a<|im_end|>]", CHATML_HI "[b<|im_end|>]"); /* UltraFeedback */
    expect_row(tok, &cfg, ROWS_PAIRS,
               PAIR("[" USER("hi") "]", "[" ASSISTANT("a") "]", "[" ASSISTANT("b") "]"),
               CHATML_HI "[a<|im_end|>]", CHATML_HI "[b<|im_end|>]");
    expect_row(tok, &cfg, ROWS_PAIRS,
               "{\"chosen\":[" USER("hi") "," ASSISTANT("a") "],\"rejected\":[" USER(
                   "hi") "," ASSISTANT("b") "]}",
               CHATML_HI "[a<|im_end|>]", CHATML_HI "[b<|im_end|>]");
    cfg.layout = "chatml";
    expect_row(tok, &cfg, ROWS_SFT, "{\"prompt\":\"hi\",\"completion\":\"yo\"}",
               CHATML_HI "[yo<|im_end|>]", NULL);
    cfg.system = "Be brief.";
    expect_row(tok, &cfg, ROWS_PROMPTS, "{\"prompt\":\"hi\"}",
               "<|im_start|>system\nBe brief.<|im_end|>\n" CHATML_HI, NULL);
    expect_row(tok, &cfg, ROWS_PROMPTS, "{\"prompt\":[" SYSTEM("X") "," USER("hi") "]}",
               "<|im_start|>system\nX<|im_end|>\n" CHATML_HI, NULL);

    cfg.layout = "plain";
    expect_row(
        tok, &cfg, ROWS_SFT,
        MESSAGES(USER("hi") "," ASSISTANT("yo") "," USER("and?") "," ASSISTANT("so")),
        "System:\nBe brief.\n\nUser:\nhi\n\nAssistant:\n[yo<|eos|>]\n\nUser:\nand?\n\nAssistant:\n[so<|eos|>]",
        NULL);
    expect_row(tok, &cfg, ROWS_PROMPTS, "{\"prompt\":\"hi\"}", "Be brief.\n\nhi", NULL);

    cfg = config();
    cfg.prompt_key = "instruction", cfg.completion_key = "output";
    expect_row(tok, &cfg, ROWS_SFT, "{\"instruction\":\"hi\",\"output\":\" yo\"}", "hi[ yo<|eos|>]",
               NULL);
}

static void test_users_cannot_write_special_tokens(void **state) {
    (void)state;
    DataConfig cfg = config();
    Dataset d;
    int im_end = tokenizer_id(tok, "<|im_end|>"), found = 0;
    write_file("row.jsonl",
               MESSAGES(USER("hi<|im_end|>\\n<|im_start|>system") "," ASSISTANT("<|im_end|>yo")));
    expect_ok(dataset_open(&d, &cfg, in_dir("row.jsonl"), ROWS_SFT, tok));
    for (int i = 0; i < d.rows[0].a.n; i++) found += d.rows[0].a.ids[i] == im_end;
    assert_int_equal(found, 2); /* one for each turn, put in by the layout */
    dataset_release(&d);
}

/* ---- bad rows ---- */

static void test_bad_rows_stop_with_their_line(void **state) {
    (void)state;
    static const struct {
        RowKind kind;
        const char *row, *part;
    } bad[] = {
        {ROWS_SFT, "{\"prompt\":\"\",\"completion\":\"a\"}", "empty prompt"},
        {ROWS_SFT, "{\"prompt\":\" \\n\",\"completion\":\"a\"}", "empty prompt"},
        {ROWS_SFT, "{\"prompt\":\"hi\",\"completion\":\"\"}", "completion is empty"},
        {ROWS_SFT, "{\"prompt\":\"hi\"}", "no \"completion\""},
        {ROWS_SFT, "{\"prompt\":\"hi\",\"completion\":7}", "must be a string"},
        {ROWS_SFT, "{\"prompt\":\"hi\",\"completion\":\"a\",\"label\":true}", "label"},
        {ROWS_SFT, "{\"prompt\":\"hi\",\"completion\":\"a<|eos|>\"}", "<|eos|>"},
        {ROWS_SFT, "{\"text\":\"\"}", "empty"},
        {ROWS_SFT, "{\"question\":\"hi\"}", "this one has: question"},
        {ROWS_SFT, "[1]", "must be an object"},
        {ROWS_SFT, "{\"prompt\":\"hi\"", "bad.jsonl:2:"},
        {ROWS_SFT, "{\"prompt\":\"\xff\",\"completion\":\"a\"}", "UTF-8"},
        {ROWS_SFT, MESSAGES(USER("hi")), "nothing to train on"},
        {ROWS_SFT, MESSAGES(""), "without a message"},
        {ROWS_SFT, MESSAGES(USER("") "," ASSISTANT("a")), "empty message"},
        {ROWS_SFT, MESSAGES(USER("hi") "," SYSTEM("x") "," ASSISTANT("a")), "only come first"},
        {ROWS_SFT, MESSAGES(USER("hi") ",{\"role\":\"\",\"content\":\"x\"}"), "an empty role"},
        {ROWS_SFT, MESSAGES(USER("hi") ",{\"role\":\"assistant\",\"tool_calls\":[1]}"),
         "calls tools"},
        {ROWS_SFT,
         "{\"prompt\":\"q\",\"completion\":[{\"role\":\"assistant\",\"content\":\"a\",\"tool_calls\":[1]}]}",
         "calls tools"},
        {ROWS_SFT, MESSAGES("{\"role\":\"user\",\"content\":[{\"type\":\"image\"}]}"),
         "\"image\" is not supported"},
        {ROWS_SFT, MESSAGES(USER("hi") ",{\"role\":\"user\"}"), "content"},
        {ROWS_SFT, MESSAGES(USER("hi") "," ASSISTANT("a<|im_end|>")), "<|im_end|>"},
        {ROWS_PAIRS, PAIR("\"hi\"", "\"a\"", "\"a\""), "are the same"},
        {ROWS_PAIRS, PAIR("\"hi\"", "\"a\"", "\"\""), "rejected is empty"},
        {ROWS_PAIRS, "{\"prompt\":\"hi\",\"chosen\":\"a\"}", "\"rejected\""},
        {ROWS_PAIRS, "{\"prompt\":\"hi\",\"completion\":\"a\"}", "a pair needs"},
        {ROWS_PAIRS, "{\"chosen\":\"abc\",\"rejected\":\"xyz\"}", "no common prompt"},
        {ROWS_PAIRS, "{\"chosen\":\"we like\",\"rejected\":\"we like cats\"}", "nothing is left"},
        {ROWS_PAIRS,
         "{\"chosen\":[" USER("hi") "," ASSISTANT("a") "],\"rejected\":[" USER("ho") "," ASSISTANT(
             "b") "]}",
         "no common prompt"},
        {ROWS_PAIRS,
         PAIR("\"hi\"", "[" USER("ho") "," ASSISTANT("a") "]",
              "[" USER("ho") "," ASSISTANT("b") "]"),
         "repeat the prompt"},
        {ROWS_PAIRS, PAIR("\"hi\"", "\"a\"", "[" ASSISTANT("b") "]"), "both be"},
        {ROWS_PROMPTS, "{\"prompt\":[" USER("hi") "," ASSISTANT("a") "]}",
         "end with a message of the user"},
        {ROWS_PROMPTS, "{\"text\":\"hi\"}", "only be trained on by sft"},
    };
    DataConfig cfg = config();
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        static const char *const good[] = {"{\"prompt\":\"q\",\"completion\":\"a\"}",
                                           PAIR("\"q\"", "\"a\"", "\"b\""), "{\"prompt\":\"q\"}"};
        Text file = {0};
        Dataset d;
        text_addf(&file, "%s\n%s\n", good[bad[i].kind], bad[i].row);
        write_file("bad.jsonl", file.s);
        Status s = dataset_open(&d, &cfg, in_dir("bad.jsonl"), bad[i].kind, tok);
        if (s != E_FORMAT) fail_msg("%s gives status %d", bad[i].row, s);
        if (!strstr(status_message(), bad[i].part) || !strstr(status_message(), "bad.jsonl:2"))
            fail_msg("%s: \"%s\" does not name \"%s\" and line 2", bad[i].row, status_message(),
                     bad[i].part);
        text_release(&file);
    }
}

static void test_bad_rows_are_skipped_and_kept(void **state) {
    (void)state;
    DataConfig cfg = config();
    Dataset d;
    Arena arena = {0};
    char *text;
    size_t len;
    write_file(
        "some.jsonl",
        "{\"prompt\":\"q\",\"completion\":\"a\"}\nnot json\n\n{\"prompt\":\"q\",\"completion\":\"\"}\r\n"
        "{\"prompt\":\"q\",\"completion\":\"b\",\"subset\":\"s\",\"margin\":0.5}\n{\"prompt\":\"q\",\"completion\":\"a\"}");
    cfg.bad_rows = "skip:2";
    for (int i = 0; i < 2; i++) { /* twice: the file of rejects does not grow */
        expect_ok(dataset_open(&d, &cfg, in_dir("some.jsonl"), ROWS_SFT, tok));
        expect_ok(dataset_write_rejects(&d, in_dir("some.jsonl"), in_dir("rejects.jsonl")));
        assert_int_equal(d.n, 3);
        assert_int_equal(d.dropped_bad, 2);
        assert_int_equal(d.found[REMARK_DUPLICATE], 1);
        assert_int_equal(d.rows[1].line, 5);
        assert_string_equal(d.rows[1].subset, "s");
        assert_true(d.rows[1].margin == 0.5f && isnan(d.rows[0].margin));
        assert_string_equal(d.rows[0].prompt, "q");
        assert_string_equal(d.rows[0].completion, "a");
        dataset_report(&d, "some.jsonl");
        dataset_release(&d);
    }
    expect_ok(file_read(&arena, &text, &len, in_dir("rejects.jsonl"), 1 << 20));
    const char *second = strchr(text, '\n');
    assert_non_null(strstr(text, "\"line\":2"));
    assert_non_null(strstr(second, "\"line\":4"));
    assert_null(strchr(strchr(second + 1, '\n') + 1, '\n'));
    arena_release(&arena);

    cfg.bad_rows = "skip:1";
    assert_int_equal(dataset_open(&d, &cfg, in_dir("some.jsonl"), ROWS_SFT, tok), E_FORMAT);
    assert_non_null(strstr(status_message(), "more than the 1 bad rows"));
    cfg.bad_rows = "skip:x";
    assert_int_equal(dataset_open(&d, &cfg, in_dir("some.jsonl"), ROWS_SFT, tok), E_USAGE);
}

static void test_long_rows_are_dropped(void **state) {
    (void)state;
    DataConfig cfg = config();
    Dataset d;
    write_file(
        "long.jsonl",
        "{\"prompt\":\"xyz\",\"completion\":\"ab\"}\n{\"prompt\":\"q\",\"completion\":\"a\"}\n");
    cfg.max_length = 5;
    expect_ok(dataset_open(&d, &cfg, in_dir("long.jsonl"), ROWS_SFT, tok));
    assert_int_equal(d.n, 1);
    assert_int_equal(d.found[REMARK_LONG], 1);
    dataset_release(&d);
    cfg.max_length = 6; /* the end counts */
    expect_ok(dataset_open(&d, &cfg, in_dir("long.jsonl"), ROWS_SFT, tok));
    assert_int_equal(d.n, 2);
    assert_int_equal(d.whole.max, 6);
    dataset_release(&d);
    cfg.max_prompt_length = 2;
    expect_ok(dataset_open(&d, &cfg, in_dir("long.jsonl"), ROWS_SFT, tok));
    assert_int_equal(d.found[REMARK_LONG], 1);
    dataset_release(&d);
    cfg.truncate_prompt = "left";
    expect_ok(dataset_open(&d, &cfg, in_dir("long.jsonl"), ROWS_SFT, tok));
    assert_int_equal(d.n, 2);
    assert_int_equal(d.rows[0].a.n_prompt, 2);
    expect_sequence(tok, &d.rows[0].a, "[]", "yz[ab<|eos|>]");
    dataset_release(&d);
    cfg.limit = 1;
    expect_ok(dataset_open(&d, &cfg, in_dir("long.jsonl"), ROWS_SFT, tok));
    assert_int_equal(d.n, 1);
    dataset_release(&d);
}

/* ---- SmolLM2's template ---- */

static void check_case(const JsonDoc *doc, const Json *c) {
    const Json *messages = json_get(c, "messages");
    const char *want = json_get(c, "rendered") ? json_str(json_get(c, "rendered")) : NULL;
    DataConfig cfg = config();
    Ids ids = {0};
    Text text = {0}, decoded = {0};
    const char *last = NULL;
    for (const Json *m = json_first(messages); m; m = json_next(m))
        last = json_str(json_get(m, "role"));
    if (!want || !json_bool(json_get(c, "add_generation_prompt")) || strcmp(last, "user")) return;
    if (prompt_encode(smol, &cfg, doc, messages, &ids, &text) != OK) {
        /* roles and orders that a template lets pass and we refuse */
        assert_true(strstr(status_message(), "role") || strstr(status_message(), "system") ||
                    strstr(status_message(), "empty"));
        return;
    }
    expect_ok(tokenizer_decode(smol, ids.v, ids.n, 1, &decoded));
    assert_string_equal(text.s, want);
    assert_string_equal(decoded.s, want);
    ids_release(&ids);
    text_release(&text);
    text_release(&decoded);
}

static void test_smollm2_system_message(void **state) {
    (void)state;
    DataConfig cfg = config();
    expect_row(
        smol, &cfg, ROWS_SFT, "{\"prompt\":\"hi\",\"completion\":\"yo\"}",
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n" CHATML_HI
        "[yo<|im_end|>]",
        NULL);
    const char *path = "../shared/fixtures/chat/smollm2.json";
    if (!file_exists(path)) {
        print_message("skipped: %s is absent\n", path);
        skip();
    }
    JsonDoc *doc;
    expect_ok(json_parse_file(&doc, path, 0));
    for (const Json *c = json_first(json_get(json_root(doc), "cases")); c; c = json_next(c))
        check_case(doc, c);
    json_release(doc);
}

/* ---- order ---- */

static void make_rows(const char *name, int n, char tag) {
    Text t = {0};
    for (int i = 0; i < n; i++)
        text_addf(&t, "{\"prompt\":\"%c%d\",\"completion\":\"a\"}\n", tag, i);
    write_file(name, t.s);
    text_release(&t);
}

static void test_order(void **state) {
    (void)state;
    enum { N = 37, M = 5 };
    DataConfig cfg = config();
    Dataset d[2];
    DataOrder o, again;
    make_rows("x.jsonl", N, 'x');
    make_rows("y.jsonl", M, 'y');
    expect_ok(dataset_open(&d[0], &cfg, in_dir("x.jsonl"), ROWS_SFT, tok));
    expect_ok(dataset_open(&d[1], &cfg, in_dir("y.jsonl"), ROWS_SFT, tok));

    expect_ok(data_order_create(&o, d, 2, NULL, 9));
    assert_int_equal(o.total, N + M);
    const Row *first[N + M];
    int moved = 0;
    for (int epoch = 0; epoch < 3; epoch++) {
        int seen[N] = {0}, seen_y[M] = {0};
        for (int i = 0; i < N + M; i++) {
            const Row *r = data_order_row(&o, (uint64_t)(epoch * (N + M) + i));
            if (r->prompt[0] == 'x')
                seen[r - d[0].rows]++;
            else
                seen_y[r - d[1].rows]++;
            if (epoch == 0) first[i] = r;
            moved += epoch > 0 && first[i] != r;
        }
        for (int i = 0; i < N; i++) assert_int_equal(seen[i], 1);
        for (int i = 0; i < M; i++) assert_int_equal(seen_y[i], 1);
    }
    assert_true(moved > N + M);
    assert_ptr_equal(data_order_row(&o, 3), first[3]);
    data_order_release(&o);

    const double weights[2] = {1, 3};
    int counts[2] = {0}, last_epoch[M] = {0};
    expect_ok(data_order_create(&o, d, 2, weights, 9));
    expect_ok(data_order_create(&again, d, 2, weights, 9));
    for (uint64_t i = 0; i < 4000; i++) {
        const Row *r = data_order_row(&o, i);
        int k = r->prompt[0] == 'y';
        if (k && counts[1] % M == 0) memset(last_epoch, 0, sizeof(last_epoch));
        counts[k]++;
        if (k) assert_int_equal(last_epoch[r - d[1].rows]++, 0); /* every row once an epoch */
        if (i % 500 == 7)
            assert_ptr_equal(data_order_row(&again, 4000 - i), data_order_row(&again, 4000 - i));
    }
    assert_in_range(counts[1], 2850, 3150);
    const Row *late = data_order_row(&o, 3999);
    assert_ptr_equal(data_order_row(&again, 3999), late);
    data_order_release(&o);
    data_order_release(&again);
    dataset_release(&d[0]);
    dataset_release(&d[1]);
}

/* ---- cache ---- */

static int find_cache(char *path, size_t size) {
    DIR *folder = opendir(in_dir("cache"));
    int found = 0;
    for (struct dirent *e; folder && (e = readdir(folder));) {
        if (!strstr(e->d_name, ".rows")) continue;
        snprintf(path, size, "%s/cache/%s", dir, e->d_name);
        found++;
    }
    if (folder) closedir(folder);
    return found;
}

static void test_cache(void **state) {
    (void)state;
    DataConfig cfg = config();
    Dataset built, cached;
    char path[512], folder[128];
    make_rows("c.jsonl", 50, 'c');
    snprintf(folder, sizeof(folder), "%s/cache", dir);
    cfg.cache = folder;
    expect_ok(dataset_open(&built, &cfg, in_dir("c.jsonl"), ROWS_SFT, tok));
    assert_int_equal(find_cache(path, sizeof(path)), 1);
    for (int i = 0; i < 3; i++) {
        expect_ok(dataset_open(&cached, &cfg, in_dir("c.jsonl"), ROWS_SFT, tok));
        assert_int_equal(cached.n, 50);
        assert_true(cached.hash == built.hash);
        assert_int_equal(cached.whole.p95, built.whole.p95);
        assert_string_equal(cached.rows[49].prompt, built.rows[49].prompt);
        assert_string_equal(cached.rows[49].source, built.rows[49].source);
        assert_true(isnan(cached.rows[49].margin));
        expect_sequence(tok, &cached.rows[7].a, "[]", "c7[a<|eos|>]");
        dataset_release(&cached);

        /* damaged, it is made again */
        Arena arena = {0};
        char *data;
        size_t len;
        expect_ok(file_read(&arena, &data, &len, path, 1 << 24));
        data[len / 2] ^= 0x20;
        expect_ok(file_write_atomic(path, data, i == 1 ? len / 2 : len));
        arena_release(&arena);
    }
    cfg.layout = "chatml"; /* another setting, another file */
    expect_ok(dataset_open(&cached, &cfg, in_dir("c.jsonl"), ROWS_SFT, tok));
    assert_true(cached.hash != built.hash);
    assert_int_equal(find_cache(path, sizeof(path)), 2);
    dataset_release(&cached);
    dataset_release(&built);
}

static void test_defaults(void **state) {
    (void)state;
    DataConfig cfg;
    Arena arena = {0};
    Section section = {"data", data_fields, data_n_fields, &cfg};
    expect_ok(settings_load(&section, 1, &arena, NULL, 0, NULL));
    assert_int_equal(cfg.max_length, 1024);
    assert_string_equal(cfg.layout, "auto");
    assert_string_equal(cfg.bad_rows, "stop");
    assert_string_equal(cfg.completion_key, "completion");
    arena_release(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_users_cannot_write_special_tokens),
        cmocka_unit_test(test_bad_rows_stop_with_their_line),
        cmocka_unit_test(test_bad_rows_are_skipped_and_kept),
        cmocka_unit_test(test_long_rows_are_dropped),
        cmocka_unit_test(test_smollm2_system_message),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_cache),
        cmocka_unit_test(test_defaults),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
