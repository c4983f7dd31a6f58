/* test_tools.c - the tools over rows, end to end on tiny random models: what one writes the next
 * one reads, and neither batches, threads nor chunks change a byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "core/base/threads.h"
#include "core/model/hf.h"
#include "datasets/tokenizer.h"
#include "policy/tools.h"
#include "tests/scratch.h"

static const ModelConfig shape = {.C = 32,
                                  .L = 2,
                                  .NH = 2,
                                  .NKV = 1,
                                  .HS = 16,
                                  .FF = 48,
                                  .max_positions = 96,
                                  .rope_theta = 10000.0f,
                                  .norm_eps = 1e-5f,
                                  .init_std = 0.2f,
                                  .bos = -1,
                                  .pad = -1};
static const char corpus[] =
    "hello world, the cat sat on the mat. hello cat, hello mat, the world is round and "
    "the hello is long. Where is the cat? On the mat, and the mat is on the world.";

static Tokenizer *tokenizer;
static Arena arena;

/* ------------------------------------------------ models and calls */

static void write_model(const char *name, ModelConfig cfg, uint64_t seed) {
    Backend *b;
    Weights w;
    assert_int_equal(backend_create(&b, "cpu", "portable", "f32"), OK);
    assert_int_equal(weights_create(&w, b, &cfg, DT_F32), OK);
    assert_int_equal(weights_init(&w, seed), OK);
    assert_int_equal(model_write(&w, scratch(name)), OK);
    assert_int_equal(tokenizer_save(tokenizer, scratch(name)), OK);
    weights_release(&w);
    backend_release(b);
}

static int create_models(void **state) {
    (void)state;
    BpeTrainer *t;
    assert_int_equal(threads_start(1), OK);
    assert_int_equal(bpe_trainer_create(&t), OK);
    assert_int_equal(bpe_trainer_add(t, corpus, strlen(corpus)), OK);
    assert_int_equal(bpe_trainer_finish(t, 290, &tokenizer), OK);
    bpe_trainer_release(t);
    ModelConfig cfg = shape;
    cfg.V = tokenizer_vocab_size(tokenizer) + 3; /* rows behind the vocabulary are never sampled */
    cfg.eos[0] = tokenizer_eos(tokenizer);
    cfg.n_eos = 1;
    cfg.lm_head = 1;
    write_model("lm", cfg, 7);
    cfg.lm_head = 0;
    cfg.scores = 1;
    write_model("rm", cfg, 8);
    return 0;
}

static int release_all(void **state) {
    (void)state;
    tokenizer_release(tokenizer);
    threads_stop();
    arena_release(&arena);
    return 0;
}

typedef Status (*Tool)(int argc, char **argv);

/* flags: as scratch_words takes them */
static Status call(Tool tool, const char *fmt, ...) {
    char flags[1024], *argv[64];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(flags, sizeof flags, fmt, ap);
    va_end(ap);
    return tool(scratch_words(argv, flags), argv);
}

static void succeed(Tool tool, const char *fmt, ...) {
    char flags[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(flags, sizeof flags, fmt, ap);
    va_end(ap);
    if (call(tool, "%s", flags) != OK) fail_msg("%s: %s", flags, status_message());
}

static void rows(const char *name, const char *text) {
    scratch_write(name, text, strlen(text));
}

static char *content(const char *name) {
    char *text = NULL;
    size_t len;
    assert_int_equal(file_read(&arena, &text, &len, scratch(name), 1 << 24), OK);
    return text;
}

/* Line number n (from 0) of a file, parsed. */
static JsonDoc *line_of(const char *name, int n) {
    const char *p = content(name);
    JsonDoc *doc;
    while (n--) {
        p = strchr(p, '\n');
        assert_non_null(p);
        p++;
    }
    assert_int_equal(json_parse(&doc, name, 1, p, strcspn(p, "\n"), 0), OK);
    return doc;
}

static int lines(const char *name) {
    int n = 0;
    for (const char *p = content(name); (p = strchr(p, '\n')); p++) n++;
    return n;
}

static const Json *get(const JsonDoc *doc, const char *key) {
    const Json *n = json_get(json_root(doc), key);
    if (!n) fail_msg("the row has no %s", key);
    return n;
}

static void same_bytes(const char *a, const char *b) {
    assert_string_equal(content(a), content(b));
}

static const char questions[] =
    "{\"prompt\":\"hello world\",\"id\":7}\n"
    "{\"prompt\":\"the cat sat on the mat. Where is the cat?\",\"tags\":[\"a\",{\"b\":null}]}\n"
    "\n"
    "{\"messages\":[{\"role\":\"user\",\"content\":\"Where is the mat?\"}]}\n"
    "{\"ids\":[40,41,42,43]}\n"
    "{\"prompt\":\"x\"}\n";

/* ------------------------------------------------ generate */

static void logp_of_answers_is_that_of_logprobs(void **state) {
    (void)state;
    rows("ids", "{\"ids\":[40,41,42]}\n{\"ids\":[50]}\n{\"ids\":[60,61,62,63,64,65,66,67]}\n");
    succeed(generate_main, "--model @lm --data @ids --out @answers --max-tokens 20 --logp");
    Text joined = {0};
    for (int i = 0; i < 3; i++) {
        JsonDoc *doc = line_of("answers", i);
        const Json *lists[] = {get(doc, "ids"), get(doc, "completion_ids")};
        for (int k = 0; k < 2; k++)
            for (const Json *n = json_first(lists[k]); n; n = json_next(n))
                text_addf(&joined, "%s%.0f", !k && n == json_first(lists[0]) ? "{\"ids\":[" : ",",
                          json_num(n));
        text_add(&joined, "]}\n");
        json_release(doc);
    }
    rows("joined", joined.s);
    text_release(&joined);
    succeed(logprobs_main, "--model @lm --data @joined --out @logps");
    for (int i = 0; i < 3; i++) {
        JsonDoc *a = line_of("answers", i), *b = line_of("logps", i);
        int skip = json_size(get(a, "ids")) - 1;
        const Json *want = json_first(get(a, "logp")), *have = json_first(get(b, "logp"));
        assert_int_equal(json_size(get(b, "logp")), json_size(get(b, "ids")) - 1);
        assert_int_equal(json_size(get(b, "entropy")), json_size(get(b, "ids")) - 1);
        while (skip--) have = json_next(have);
        for (; want; want = json_next(want), have = json_next(have))
            assert_float_equal(json_num(want), json_num(have), 0);
        assert_null(have);
        json_release(a);
        json_release(b);
    }
}

static void neither_threads_nor_rows_change_answers(void **state) {
    (void)state;
    rows("q", questions);
    succeed(generate_main, "--model @lm --data @q --out @a1 --max-tokens 24 --threads 1 --seed 3");
    assert_int_equal(lines("a1"), 5);
    for (int threads = 2; threads <= 3; threads++) {
        succeed(generate_main,
                "--model @lm --data @q --out @a2 --max-tokens 24 --threads %d --seed 3", threads);
        same_bytes("a1", "a2");
    }
    for (int n = 1; n <= 4; n++) {
        succeed(generate_main, "--model @lm --data @q --out @a2 --max-tokens 24 --rows %d --seed 3",
                n);
        same_bytes("a1", "a2");
    }
    succeed(generate_main, "--model @lm --data @q --out @a2 --max-tokens 24 --seed 4");
    assert_string_not_equal(content("a1"), content("a2"));
}

static void refused(Tool tool, const char *flags, const char *sentence) {
    Status s = call(tool, "%s", flags);
    if (s == OK) fail_msg("accepted: %s", flags);
    if (!strstr(status_message(), sentence))
        fail_msg("%s\n  says: %s\n  not:  %s", flags, status_message(), sentence);
}

static void keys_are_kept(void **state) {
    (void)state;
    rows("q", questions);
    succeed(generate_main, "--model @lm --data @q --out @a --max-tokens 4");
    assert_memory_equal(content("a"), "{\"prompt\":\"hello world\",\"id\":7,\"completion\":", 44);
    JsonDoc *doc = line_of("a", 1);
    Text tags = {0};
    json_put_node(&tags, get(doc, "tags"));
    assert_string_equal(tags.s, "[\"a\",{\"b\":null}]");
    const char *stop = json_str(get(doc, "stop"));
    assert_true(!strcmp(stop, "eos") || !strcmp(stop, "length"));
    text_release(&tags);
    json_release(doc);
}

static void a_long_file_goes_in_chunks(void **state) {
    (void)state;
    Text t = {0};
    for (int i = 0; i < 600; i++)
        text_addf(&t, "{\"ids\":[%d,%d],\"n\":%d}\n", 20 + i % 200, 30 + i % 7, i);
    rows("many", t.s);
    text_release(&t);
    succeed(generate_main, "--model @lm --data @many --out @a --max-tokens 3 --greedy");
    assert_int_equal(lines("a"), 600);
    for (int i = 0; i < 600; i += 299) {
        char alone[80];
        snprintf(alone, sizeof alone, "{\"ids\":[%d,%d],\"n\":%d}\n", 20 + i % 200, 30 + i % 7, i);
        rows("one", alone);
        succeed(generate_main, "--model @lm --data @one --out @b --max-tokens 3 --greedy");
        JsonDoc *a = line_of("a", i), *b = line_of("b", 0);
        assert_string_equal(json_str(get(a, "completion")), json_str(get(b, "completion")));
        assert_int_equal((int)json_num(get(a, "n")), i);
        json_release(a);
        json_release(b);
    }
}

static void samples_are_numbered(void **state) {
    (void)state;
    rows("q", "{\"ids\":[40,41]}\n{\"ids\":[50]}\n");
    succeed(generate_main, "--model @lm --data @q --out @a --max-tokens 12 --samples 3");
    assert_int_equal(lines("a"), 6);
    int differ = 0;
    for (int i = 0; i < 6; i++) {
        JsonDoc *a = line_of("a", i), *b = line_of("a", i - i % 3);
        assert_int_equal((int)json_num(get(a, "sample")), i % 3);
        differ += strcmp(json_str(get(a, "completion")), json_str(get(b, "completion"))) != 0;
        json_release(a);
        json_release(b);
    }
    assert_true(differ >= 3);
}

static void a_stop_text_is_cut_off(void **state) {
    (void)state;
    rows("q", "{\"ids\":[40,41,42]}\n");
    succeed(generate_main, "--model @lm --data @q --out @a --max-tokens 30 --ignore-eos");
    JsonDoc *whole = line_of("a", 0);
    const char *text = json_str(get(whole, "completion"));
    char stop[3] = "";
    for (const char *p = text + 4; p[0] && p[1] && !stop[0]; p++) /* two plain letters inside it */
        if (p[0] > '0' && p[1] > '0' && p[0] < 127 && p[1] < 127) memcpy(stop, p, 2);
    if (!stop[0]) fail_msg("no plain letters in \"%s\"", text);
    succeed(generate_main, "--model @lm --data @q --out @b --max-tokens 30 --ignore-eos --stop %s",
            stop);
    JsonDoc *cut = line_of("b", 0);
    const char *part = json_str(get(cut, "completion"));
    assert_string_equal(json_str(get(cut, "stop")), "string");
    assert_int_equal(strlen(part), strstr(text, stop) - text);
    assert_memory_equal(part, text, strlen(part));
    json_release(whole);
    json_release(cut);
}

static char *shown(const char *prompt, const char *flags) {
    char all[256], *argv[16] = {"--prompt", (char *)prompt};
    int argc = 2, saved = dup(STDOUT_FILENO);
    snprintf(all, sizeof all, "%s", flags);
    for (char *word = strtok(all, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word[0] == '@' ? (char *)scratch(word + 1) : word;
    fflush(stdout);
    assert_non_null(freopen(scratch("shown"), "w", stdout));
    Status s = generate_main(argc, argv);
    fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    if (s != OK) fail_msg("%s", status_message());
    return content("shown");
}

static void a_prompt_is_answered_on_standard_output(void **state) {
    (void)state;
    rows("q", "{\"prompt\":\"hello world\"}\n");
    for (int seed = 1; seed <= 4; seed++) {
        char flags[128];
        snprintf(flags, sizeof flags, "--model @lm --max-tokens 20 --seed %d --stop el,at", seed);
        succeed(generate_main, "%s --data @q --out @a", flags);
        JsonDoc *doc = line_of("a", 0);
        char *text = shown("hello world", flags);
        size_t n = strlen(text);
        assert_true(n > 0 && text[n - 1] == '\n');
        Text json = {0}, want = {0}; /* as JSON: what is no UTF-8 looks the same then */
        json_put_string_n(&json, text, n - 1);
        json_put_string(&want, json_str(get(doc, "completion")));
        assert_string_equal(json.s, want.s);
        text_release(&json);
        text_release(&want);
        json_release(doc);
    }
}

/* ------------------------------------------------ chat */

/* What rlhf chat says to these lines. */
static char *talk(const char *flags, const char *lines_said) {
    int in = dup(STDIN_FILENO), out = dup(STDOUT_FILENO);
    rows("lines", lines_said);
    fflush(stdout);
    assert_non_null(freopen(scratch("lines"), "r", stdin));
    assert_non_null(freopen(scratch("shown"), "w", stdout));
    Status s = call(chat_main, "--model @lm --greedy --max-tokens 12 %s", flags);
    fflush(stdout);
    dup2(in, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    close(in);
    close(out);
    clearerr(stdin);
    if (s != OK) fail_msg("%s", status_message());
    return content("shown");
}

/* What rlhf generate says to a conversation, as JSON writes it. */
static char *generated(char *const *turns, int from, int n, const char *system) {
    Text row = {0};
    text_add(&row, "{\"messages\":[");
    if (system) text_addf(&row, "{\"role\":\"system\",\"content\":\"%s\"},", system);
    for (int i = from; i < n; i++) {
        text_addf(&row, "%s{\"role\":\"%s\",\"content\":", i > from ? "," : "",
                  i % 2 ? "assistant" : "user");
        json_put_string_n(&row, turns[i], strlen(turns[i]));
        text_add(&row, "}");
    }
    text_add(&row, "]}\n");
    rows("talk", row.s);
    text_release(&row);
    succeed(generate_main, "--model @lm --greedy --max-tokens 12 --data @talk --out @reply");
    JsonDoc *doc = line_of("reply", 0);
    char *copy = arena_strdup(&arena, json_str(get(doc, "completion")));
    json_release(doc);
    return copy;
}

static void same_text(const char *shown_bytes, const char *text) {
    Text a = {0}, b = {0};
    json_put_string_n(&a, shown_bytes, strlen(shown_bytes));
    json_put_string(&b, text);
    assert_string_equal(a.s, b.s);
    text_release(&a);
    text_release(&b);
}

/* The last answer to the first n of these lines, without its newline. */
static char *last_answer(const char *flags, const char *const *questions, int n) {
    Text said = {0};
    size_t before = 0;
    for (int i = 0; i < n; i++) {
        if (i == n - 1) before = i ? strlen(talk(flags, said.s)) : 0;
        text_addf(&said, "%s\n", questions[i]);
    }
    char *all = talk(flags, said.s);
    text_release(&said);
    all[strlen(all) - 1] = '\0';
    return all + before;
}

static void a_chat_is_a_conversation(void **state) {
    (void)state;
    static const char *const questions[] = {"hello", "the cat"};
    char *turns[3];
    turns[0] = (char *)questions[0], turns[2] = (char *)questions[1];
    turns[1] = last_answer("", questions, 1);
    same_text(turns[1], generated(turns, 0, 1, NULL));
    char *second = last_answer("", questions, 2);
    same_text(second, generated(turns, 0, 3, NULL));
    same_text(last_answer("--system brief", questions, 1), generated(turns, 0, 1, "brief"));
}

static void commands_of_a_chat(void **state) {
    (void)state;
    int muted = stderr_mute();
    char *once = talk("", "hello\n");
    char *twice = talk("", "hello\n/reset\n\n/nonsense\nhello\n/quit\nhello\n");
    stderr_unmute(muted);
    size_t n = strlen(once);
    assert_int_equal(strlen(twice), 2 * n);
    assert_memory_equal(twice, once, n);
    assert_memory_equal(twice + n, once, n);
}

/* The context holds some 60 tokens: what was said first is forgotten, and the rest is not. */
static void a_full_context_forgets_the_oldest(void **state) {
    (void)state;
    enum { N = 6 };
    static const char *const questions[N] = {"hello world", "the cat", "the mat",
                                             "hello mat",   "the hat", "hello cat"};
    char *turns[2 * N];
    int muted = stderr_mute();
    for (int i = 0; i < N; i++) {
        turns[2 * i] = (char *)questions[i];
        turns[2 * i + 1] = last_answer("--context 64", questions, i + 1);
    }
    stderr_unmute(muted);
    int matches = 0, n = 2 * N - 1;
    for (int from = n - 1; from >= 2 && !matches; from -= 2) {
        Text a = {0}, b = {0};
        json_put_string_n(&a, turns[n], strlen(turns[n]));
        json_put_string(&b, generated(turns, from, n, NULL));
        matches = !strcmp(a.s, b.s);
        text_release(&a);
        text_release(&b);
    }
    assert_true(matches);
}

/* ------------------------------------------------ score, logprobs, tokenize */

static const char replies[] =
    "{\"prompt\":\"hello world\",\"completion\":\" the cat\"}\n"
    "{\"prompt\":\"hello\",\"response\":\" mat\"}\n"
    "{\"prompt\":\"hello\",\"text\":\"\"}\n"
    "{\"ids\":[33,34,35]}\n"
    "{\"text\":\"the world is round\"}\n"
    "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"b\"}]}\n";

static void a_score_is_the_same_alone(void **state) {
    (void)state;
    char copy[sizeof replies];
    Text alone = {0};
    rows("r", replies);
    succeed(score_main, "--model @rm --data @r --out @s1 --threads 1");
    for (int threads = 2; threads <= 3; threads++) {
        succeed(score_main, "--model @rm --data @r --out @s2 --threads %d", threads);
        same_bytes("s1", "s2");
    }
    memcpy(copy, replies, sizeof copy);
    for (char *line = copy, *end; (end = strchr(line, '\n')); line = end + 1) {
        scratch_write("one", line, (size_t)(end + 1 - line));
        succeed(score_main, "--model @rm --data @one --out @s2");
        text_add(&alone, content("s2"));
    }
    assert_string_equal(content("s1"), alone.s);
    text_release(&alone);
}

static double score_of(const char *row) {
    rows("one", row);
    succeed(score_main, "--model @rm --data @one --out @s");
    JsonDoc *doc = line_of("s", 0);
    double score = json_num(get(doc, "score"));
    json_release(doc);
    return score;
}

static void scored_is_prompt_answer_and_end(void **state) {
    (void)state;
    Ids ids = {0};
    Text row = {0};
    assert_int_equal(tokenizer_encode(tokenizer, "hello world", 11, 0, &ids), OK);
    assert_int_equal(tokenizer_encode(tokenizer, " the <|eos|> cat", 16, 0, &ids), OK);
    ids_add(&ids, tokenizer_eos(tokenizer));
    text_add(&row, "{\"ids\":");
    json_put_ints(&row, ids.v, ids.n);
    text_add(&row, "}\n");
    double want = score_of(row.s);
    static const char *const names[] = {"completion", "response", "text"};
    for (int i = 0; i < 3; i++) {
        text_clear(&row);
        text_addf(&row,
                  "{\"prompt\":\"hello world\",\"%s\":\" the <|eos|> cat\",\"chosen\":\"no\"}\n",
                  names[i]);
        assert_float_equal(score_of(row.s), want, 0);
    }
    text_clear(&row);
    text_addf(&row, "{\"text\":\"hello\",\"ids\":");
    json_put_ints(&row, ids.v, ids.n);
    text_add(&row, ",\"prompt\":\"a\",\"completion\":\"b\"}\n");
    assert_float_equal(score_of(row.s), want, 0);
    text_release(&row);
    ids_release(&ids);
}

static void answers_can_be_scored(void **state) {
    (void)state;
    rows(
        "q",
        "{\"prompt\":\"hello world\"}\n{\"prompt\":\"the cat sat\"}\n{\"prompt\":\"x\",\"score\":9}\n");
    succeed(generate_main, "--model @lm --data @q --out @a.zst --max-tokens 9");
    succeed(score_main, "--model @rm --data @a.zst --out @s");
    succeed(score_main, "--model @rm --data @s --out @s2"); /* its own output, too */
    same_bytes("s", "s2");
    assert_int_equal(lines("s"), 3);
}

static void logprobs_are_the_same_alone(void **state) {
    (void)state;
    rows(
        "r",
        "{\"text\":\"hello world, the cat\"}\n{\"ids\":[9]}\n{\"ids\":[30,31,32,33,34,35],\"logp\":\"old\"}\n");
    succeed(logprobs_main, "--model @lm --data @r --out @p1 --threads 1");
    for (int threads = 2; threads <= 3; threads++) {
        succeed(logprobs_main, "--model @lm --data @r --out @p2 --threads %d", threads);
        same_bytes("p1", "p2");
    }
    rows("r", "{\"ids\":[9]}\n{\"ids\":[30,31,32,33,34,35]}\n");
    succeed(logprobs_main, "--model @lm --data @r --out @p2");
    const char *all = content("p1"), *one = "{\"ids\":[9],\"logp\":[],\"entropy\":[]}\n";
    assert_string_equal(all + strcspn(all, "\n") + 1, content("p2"));
    assert_memory_equal(content("p2"), one, strlen(one));
}

static void special_tokens_of_a_text(void **state) {
    (void)state;
    int eos = tokenizer_eos(tokenizer);
    rows("t", "{\"text\":\"a<|eos|>b\",\"more\":1}\n{\"text\":\"\"}\n");
    succeed(tokenize_main, "--model @lm --data @t --out @ids");
    JsonDoc *doc = line_of("ids", 0);
    assert_int_equal(json_size(get(doc, "ids")), 3);
    assert_int_equal((int)json_num(json_next(json_first(get(doc, "ids")))), eos);
    get(doc, "more");
    json_release(doc);
    doc = line_of("ids", 1);
    assert_int_equal(json_size(get(doc, "ids")), 0);
    json_release(doc);
    succeed(tokenize_main, "--tokenizer @lm --data @t --out @ids --no-parse-special");
    doc = line_of("ids", 0);
    assert_true(json_size(get(doc, "ids")) > 3);
    for (const Json *n = json_first(get(doc, "ids")); n; n = json_next(n))
        assert_int_not_equal((int)json_num(n), eos);
    json_release(doc);
}

static char *ids_of(const char *row) {
    rows("one", row);
    succeed(tokenize_main, "--model @lm --data @one --out @ids");
    Text t = {0};
    JsonDoc *doc = line_of("ids", 0);
    json_put_node(&t, get(doc, "ids"));
    char *copy = arena_strdup(&arena, t.s);
    text_release(&t);
    json_release(doc);
    return copy;
}

/* Every tool takes a conversation, and sees in it what the model was trained on. */
static void conversations_are_rendered(void **state) {
    (void)state;
    static const char question[] = "{\"role\":\"user\",\"content\":\"the cat\"}";
    char row[512], *prompt, *whole;
    prompt =
        ids_of("{\"text\":\"<|im_start|>user\\nthe cat<|im_end|>\\n<|im_start|>assistant\\n\"}");
    whole = ids_of("{\"text\":\"<|im_start|>user\\nthe cat<|im_end|>\\n<|im_start|>assistant\\n"
                   "the mat<|im_end|>\"}");
    static const char *const prompts[] = {"{\"messages\":[%s]}", "{\"prompt\":[%s]}"};
    static const char *const answered[] = {
        "{\"messages\":[%s,{\"role\":\"assistant\",\"content\":\"the mat\"}]}",
        "{\"prompt\":[%s],\"completion\":\"the mat\"}",
        "{\"prompt\":[%s],\"response\":\"the mat\",\"messages\":7}",
    };
    for (int i = 0; i < 5; i++) {
        snprintf(row, sizeof row, i < 2 ? prompts[i] : answered[i - 2], question);
        assert_string_equal(ids_of(row), i < 2 ? prompt : whole);
        rows("one", row);
        succeed(logprobs_main, "--model @lm --data @one --out @p");
        JsonDoc *doc = line_of("p", 0);
        Text ids = {0};
        json_put_node(&ids, get(doc, "ids"));
        assert_string_equal(ids.s, i < 2 ? prompt : whole);
        text_release(&ids);
        json_release(doc);
        if (i < 2)
            assert_int_equal(call(score_main, "--model @rm --data @one --out @s"), E_FORMAT);
        else
            succeed(score_main, "--model @rm --data @one --out @s");
    }
    /* what only a template knows goes through, too */
    snprintf(row, sizeof row, "{\"messages\":[%s,{\"role\":\"tool\",\"content\":\"3\"}]}",
             question);
    rows("one", row);
    succeed(generate_main, "--model @lm --data @one --out @a --max-tokens 3");
    refused(generate_main, "--model @lm --data @one --out @a --max-tokens 3 --layout plain",
            "one:1: the layout plain has no role \"tool\"");
}

static void expect_detokenized(const char *flags, int row, const char *want) {
    succeed(detokenize_main, "--tokenizer @lm --data @ids --out @text %s", flags);
    JsonDoc *doc = line_of("text", row);
    assert_string_equal(json_str(get(doc, "text")), want);
    get(doc, "ids");
    get(doc, "more");
    json_release(doc);
}

static void ids_become_their_text_again(void **state) {
    (void)state;
    rows("t", "{\"text\":\"a<|eos|>b\",\"more\":1}\n{\"text\":\"\",\"more\":2}\n");
    succeed(tokenize_main, "--model @lm --data @t --out @ids");
    expect_detokenized("", 0, "a<|eos|>b");
    expect_detokenized("--skip-special", 0, "ab");
    expect_detokenized("", 1, "");
}

/* ------------------------------------------------ refusals */

static void bad_rows_are_named(void **state) {
    (void)state;
    static const struct {
        Tool tool;
        const char *model, *row, *sentence;
    } bad[] = {
        {logprobs_main, "lm", "{\"ids\":[1,2,99999]}", "bad:3:13: 99999 is no token id"},
        {logprobs_main, "lm", "{\"ids\":[1,-2]}", "bad:3:11: -2 is no token id"},
        {logprobs_main, "lm", "{\"ids\":[1,1e300]}", "bad:3:11: "},
        {logprobs_main, "lm", "{\"ids\":[1,2.5]}", "bad:3:11: 2.5 is no token id"},
        {logprobs_main, "lm", "{\"ids\":[1,\"2\"]}",
         "bad:3:11: ids must hold numbers, not a string"},
        {logprobs_main, "lm", "{\"ids\":7}", "bad:3:2: \"ids\" must be an array"},
        {logprobs_main, "lm", "{\"ids\":[]}", "bad:3: the row has no token"},
        {logprobs_main, "lm", "{\"text\":\"\"}", "bad:3: the row has no token"},
        {logprobs_main, "lm", "{\"a\":1}",
         "bad:3: a row needs \"prompt\", \"messages\" or \"text\""},
        {tokenize_main, "lm", "{\"messages\":[{\"role\":\"user\"}]}",
         "bad:3:14: the key \"content\" is missing"},
        {logprobs_main, "lm", "[1]", "bad:3:1: a row must be an object, not an array"},
        {logprobs_main, "lm", "{\"ids\":[1],}", "bad:3:11: "},
        {generate_main, "lm", "{\"prompt\":7}", "bad:3:2: "},
        {generate_main, "lm", "{\"prompt\":\"\"}", "bad:3:2: an empty prompt"},
        {generate_main, "lm", "{\"question\":\"a\"}",
         "bad:3: a row needs \"ids\", \"prompt\" or \"messages\""},
        {generate_main, "lm", "{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\"}]}",
         "bad:3:2: "},
        {score_main, "rm", "{\"prompt\":\"a\"}",
         "bad:3:2: a prompt without a \"completion\" to score"},
        {score_main, "rm", "{\"prompt\":\"a\",\"completion\":7}", "bad:3:15: "},
        {score_main, "rm", "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}",
         "bad:3:2: the conversation ends without"},
        {score_main, "rm", "{\"a\":1}",
         "bad:3: a row needs \"prompt\", \"messages\" or \"text\", and an answer"},
        {detokenize_main, "lm", "{\"ids\":[-1]}", "bad:"},
        {tokenize_main, "lm", "{\"ids\":[1],\"text\":null}", "bad:3:12: \"text\" must be a string"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Text t = {0};
        char flags[128];
        const char *good = bad[i].tool == tokenize_main ? "{\"text\":\"a\"}" : "{\"ids\":[40]}";
        text_addf(&t, "%s\n\n%s\n", good, bad[i].row);
        rows("bad", t.s);
        snprintf(flags, sizeof flags, "--model @%s --data @bad --out @none --max-tokens 2",
                 bad[i].model);
        if (bad[i].tool != generate_main) *strstr(flags, " --max-tokens") = '\0';
        refused(bad[i].tool, flags, bad[i].sentence);
        assert_false(file_exists(scratch("none")));
        text_release(&t);
    }
}

static void a_device_is_not_replaced(void **state) {
    (void)state;
    struct stat link;
    rows("q", "{\"ids\":[40]}\n");
    assert_int_equal(symlink("/dev/null", scratch("null")),
                     0); /* a mistake here shall not cost the real one */
    succeed(logprobs_main, "--model @lm --data @q --out @null");
    assert_int_equal(lstat(scratch("null"), &link), 0);
    assert_true(S_ISLNK(link.st_mode));
    assert_int_equal(unlink(scratch("null")), 0);
    assert_int_equal(symlink("/dev/full", scratch("full")), 0);
    refused(logprobs_main, "--model @lm --data @q --out @full", "No space left on device");
}

static void too_long_rows_are_named(void **state) {
    (void)state;
    for (int n = 95; n <= 97; n++) {
        Text t = {0};
        for (int i = 0; i < n; i++) text_add(&t, i ? ",40" : "{\"ids\":[40");
        text_add(&t, "]}\n");
        rows("long", t.s);
        text_release(&t);
        if (n == 97)
            refused(logprobs_main, "--model @lm --data @long --out @o",
                    "long:1: the row has 97 tokens, the model takes at most 96");
        else
            succeed(logprobs_main, "--model @lm --data @long --out @o");
        if (n > 95)
            refused(generate_main, "--model @lm --data @long --out @o",
                    "tokens, the model takes at most 95");
        else
            succeed(generate_main, "--model @lm --data @long --out @o --max-tokens 50");
    }
}

static void flags_are_checked(void **state) {
    (void)state;
    rows("q", questions);
    refused(generate_main, "--model @lm --data @q --temprature 1", "did you mean --temperature?");
    refused(score_main, "--model @rm --date @q", "did you mean --data?");
    refused(tokenize_main, "--model @lm --data @q --add-specials", "did you mean --add_special?");
    refused(logprobs_main, "--model @lm --data @q --threads x", "threads must be a number");
    refused(generate_main, "--model @lm", "--prompt TEXT");
    refused(generate_main, "--model @lm --data @q --prompt a", "--prompt TEXT");
    refused(generate_main, "--model @lm --data @q --top-p 0", "top_p must be between");
    refused(generate_main, "--data @q", "--model DIR is missing");
    refused(chat_main, "--model @lm --data @q", "--data and --out are rlhf generate's");
    refused(logprobs_main, "--model @lm", "--data FILE.jsonl is missing");
    refused(score_main, "--model @lm --data @q", "no score head");
    refused(logprobs_main, "--model @rm --data @q", "no language-model head");
    refused(logprobs_main, "--model @nowhere --data @q", "nowhere");
    refused(logprobs_main, "--model @lm --data @nothing", "nothing");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logp_of_answers_is_that_of_logprobs),
        cmocka_unit_test(neither_threads_nor_rows_change_answers),
        cmocka_unit_test(keys_are_kept),
        cmocka_unit_test(a_long_file_goes_in_chunks),
        cmocka_unit_test(samples_are_numbered),
        cmocka_unit_test(a_stop_text_is_cut_off),
        cmocka_unit_test(a_prompt_is_answered_on_standard_output),
        cmocka_unit_test(a_chat_is_a_conversation),
        cmocka_unit_test(commands_of_a_chat),
        cmocka_unit_test(a_full_context_forgets_the_oldest),
        cmocka_unit_test(a_score_is_the_same_alone),
        cmocka_unit_test(scored_is_prompt_answer_and_end),
        cmocka_unit_test(answers_can_be_scored),
        cmocka_unit_test(logprobs_are_the_same_alone),
        cmocka_unit_test(special_tokens_of_a_text),
        cmocka_unit_test(conversations_are_rendered),
        cmocka_unit_test(ids_become_their_text_again),
        cmocka_unit_test(bad_rows_are_named),
        cmocka_unit_test(a_device_is_not_replaced),
        cmocka_unit_test(too_long_rows_are_named),
        cmocka_unit_test(flags_are_checked),
    };
    return cmocka_run_group_tests(tests, create_models, release_all);
}
