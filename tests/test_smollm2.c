/* test_smollm2.c - SmolLM2-135M-Instruct (`make smollm2`) beside PyTorch: token ids exactly, the
 * log-probability of every token, the greedy answer. tests/fixtures/smollm2.py made the numbers. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "core/base/stream.h"
#include "core/base/threads.h"
#include "datasets/dataset.h"
#include "policy/rollout.h"
#include "policy/tool_model.h"

static const char model_path[] = "models/smollm2-135m-instruct.gguf";
static const char fixture[] = "tests/fixtures/smollm2.jsonl";

enum { ROWS_MAX = 32, ANSWER_MAX = 40 };
static ToolModel model;
static int present, n_rows;
static JsonDoc *row[ROWS_MAX];

static void read_rows(void) {
    LineReader *r;
    const char *line;
    size_t len;
    int number;
    assert_int_equal(lines_open(&r, fixture), OK);
    while (lines_next(r, &line, &len, &number) == OK && line) {
        assert_true(n_rows < ROWS_MAX);
        assert_int_equal(json_parse(&row[n_rows], fixture, number, line, len, JSON_STRICT), OK);
        n_rows++;
    }
    lines_close(r);
    assert_true(n_rows > 10);
}

static int open_model(void **state) {
    (void)state;
    assert_int_equal(threads_start(0), OK);
    present = file_exists(model_path);
    if (!present) {
        printf("%s is absent: skipped (make smollm2 fetches it)\n", model_path);
        return 0;
    }
    read_rows();
    ToolConfig cfg = {
        .model = model_path, .tokenizer = "", .device = "cpu", .kernels = "auto", .dtype = "f32"};
    Status s = tool_model_open(&model, &cfg, TOOL_LANGUAGE);
    if (s != OK) printf("%s\n", status_message());
    return s;
}

static int close_model(void **state) {
    (void)state;
    if (present) tool_model_close(&model);
    while (n_rows) json_release(row[--n_rows]);
    threads_stop();
    return 0;
}

static const Json *member(int i, const char *key) {
    return json_get(json_root(row[i]), key);
}

static int is_text(int i) {
    return member(i, "text") != NULL;
}

static void expect_ids(int i, const char *key, const int *ids, int n) {
    const Json *want = json_first(member(i, key));
    for (int k = 0; k < n; k++, want = json_next(want)) {
        int id = want ? (int)json_num(want) : -1;
        if (ids[k] != id) printf("row %d, token %d: %d, expected %d\n", i, k, ids[k], id);
        assert_int_equal(ids[k], id);
    }
    assert_int_equal(n, json_size(member(i, key)));
}

/* A text as it stands, or a question through the model's own layout. */
static void encode(int i, Ids *ids) {
    DataConfig layout = {.layout = "auto", .system = ""};
    ids->n = 0;
    if (is_text(i)) {
        const char *text = json_str(member(i, "text"));
        int flags = json_bool(member(i, "parse_special")) ? TOKENIZE_PARSE_SPECIAL : 0;
        assert_int_equal(tokenizer_encode(model.t, text, strlen(text), flags, ids), OK);
    } else {
        assert_int_equal(prompt_encode(model.t, &layout, row[i], member(i, "prompt"), ids, NULL),
                         OK);
    }
}

static void token_ids_are_exact(void **state) {
    (void)state;
    Ids ids = {0};
    if (!present) skip();
    for (int i = 0; i < n_rows; i++) {
        encode(i, &ids);
        expect_ids(i, "ids", ids.v, ids.n);
    }
    ids_release(&ids);
}

static double worst_logp(int i, const float *logp) {
    double worst = 0.0;
    const Json *want = json_first(member(i, "logp"));
    for (int n = 1; want; n++, want = json_next(want))
        worst = fmax(worst, fabs(logp[n] - json_num(want)));
    return worst;
}

static void log_probabilities_agree(void **state) {
    (void)state;
    Ids ids = {0};
    double worst = 0.0;
    int tokens = 0;
    if (!present) skip();
    for (int i = 0; i < n_rows; i++) {
        encode(i, &ids);
        assert_int_equal(tool_model_room(&model, ids.n), OK);
        packed_clear(&model.batch);
        packed_add(&model.batch, ids.v, NULL, ids.n);
        for (int n = 1; n < ids.n; n++) model.batch.wanted[n] = 1;
        TokenOutputs out = {.logp = model.out[0]};
        assert_int_equal(packed_forward(&model.batch, &model.net, ids.n, 1.0f, &out), OK);
        double d = worst_logp(i, model.out[0]);
        if (!(d < 2e-3)) printf("row %d: log-probabilities differ by %g\n", i, d);
        assert_true(d < 2e-3);
        worst = fmax(worst, d);
        tokens += ids.n - 1;
    }
    printf("largest difference of %d log-probabilities: %.2g\n", tokens, worst);
    ids_release(&ids);
}

static void the_greedy_answer_is_the_same(void **state) {
    (void)state;
    Ids ids = {0};
    RolloutEngine *engine;
    Rollout rollout;
    Text text = {0};
    if (!present) skip();
    int i = n_rows - 1;
    assert_false(is_text(i));
    encode(i, &ids);
    int length = ids.n + ANSWER_MAX;
    SamplingConfig greedy = {.max_new_tokens = ANSWER_MAX, .top_p = 1.0f, .rows = 1};
    RolloutRequest request = {ids.v, ids.n, 0};
    assert_int_equal(tool_model_room(&model, length), OK);
    assert_int_equal(
        rollout_engine_create(&engine, model.b, &model.net.w.cfg, model.t, 1, length, 1, 0), OK);
    assert_int_equal(rollout_create(&rollout, 1, length), OK);
    assert_int_equal(
        rollout_generate(&rollout, engine, &model.net, &request, 1, &greedy, 1, NULL, NULL), OK);
    expect_ids(i, "completion_ids", rollout_response(&rollout, 0), rollout_length(&rollout, 0));
    assert_int_equal(rollout_text(&rollout, 0, model.t, &text), OK);
    assert_string_equal(text.s, json_str(member(i, "completion")));
    assert_non_null(strstr(text.s, "Paris"));
    printf("%s -> %s\n", json_str(member(i, "prompt")), text.s);
    text_release(&text);
    rollout_release(&rollout);
    rollout_engine_release(engine);
    ids_release(&ids);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(token_ids_are_exact),
        cmocka_unit_test(log_probabilities_agree),
        cmocka_unit_test(the_greedy_answer_is_the_same),
    };
    return cmocka_run_group_tests_name("smollm2", tests, open_model, close_model);
}
