/* test_plan.c - the memory plan is true: what is allocated is what was planned, within 1 %, for
 * models, storage types and batches of many sizes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/base/memory.h"
#include "core/base/threads.h"
#include "core/model/optim.h"
#include "core/model/plan.h"
#include "tests/family_model.h"

static ModelConfig shape(int i) {
    static const int sizes[][7] = {/* V, C, L, NH, NKV, HS, FF */
                                   {1000, 64, 2, 4, 2, 16, 160},
                                   {333, 96, 1, 3, 1, 32, 200},
                                   {5000, 32, 3, 2, 2, 16, 64},
                                   {2048, 128, 4, 4, 2, 32, 384},
                                   {700, 80, 2, 5, 5, 16, 333}};
    const int *s = sizes[i % 5];
    return (ModelConfig){.V = s[0],
                         .C = s[1],
                         .L = s[2],
                         .NH = s[3],
                         .NKV = s[4],
                         .HS = s[5],
                         .FF = s[6],
                         .max_positions = 512,
                         .rope_theta = 1e4f,
                         .norm_eps = 1e-5f,
                         .tied = i % 2,
                         .lm_head = i % 7 != 3,
                         .scores = i % 7 == 3,
                         .init_std = .02f};
}

/* the same sizes in another family */
static ModelConfig shape_of(Family f, int i) {
    ModelConfig sizes = shape(i), m = model_of_family(f, &sizes);
    m.tied = sizes.tied;
    return m;
}

static size_t total(const Plan *p) {
    size_t sum = 0;
    for (int i = 0; i < p->n; i++) sum += p->row[i].bytes;
    return sum;
}

/* A trained and a frozen network, their workspace, an optimizer and a cache, planned and made. */
static void one_configuration(ModelConfig m, int i) {
    Backend *b;
    Workspace *ws;
    Network trained, frozen, quantized;
    Optim optim;
    KvCache kv;
    Plan plan = {0};
    const ModelConfig *c = &m;
    WorkspacePlan wp = {.tokens = 256 + 37 * i,
                        .sequences = 64,
                        .train = 1,
                        .recompute = i % 3 == 0,
                        .max_length = 128};
    OptimConfig oc = {.learning_rate = 1e-3f, .schedule = "constant"};
    int rows = 4 + i % 9, pages;
    assert_int_equal(backend_create(&b, "cpu", "auto", i % 2 ? "bf16" : "f32"), OK);
    pages = kv_pages(b, c, rows, wp.max_length, 0);
    plan_network(&plan, b, "trained", c, PLAN_TRAINED);
    plan_network(&plan, b, "frozen", c, PLAN_FROZEN);
    Dtype layers = i % 4 < 2 ? b->dtype : i % 4 == 2 ? DT_Q8 : DT_Q4;
    if (c->C % QUANT_BLOCK || c->FF % QUANT_BLOCK || c->NH * c->HS % QUANT_BLOCK) layers = b->dtype;
    plan_frozen(&plan, b, "quantized", c, layers, "reference_dtype");
    assert_int_equal(plan_activations(&plan, b, &wp, &c, 1, 128), OK);
    plan_add(&plan, kv_bytes(b, c, pages), "cache");

    size_t before = memory_in_use();
    assert_int_equal(workspace_create(&ws, b, &wp, &c, 1, NULL), OK);
    assert_int_equal(network_create(&trained, b, c, ws, 1), OK);
    assert_int_equal(network_create(&frozen, b, c, ws, 0), OK);
    assert_int_equal(network_create_frozen(&quantized, b, c, ws, layers), OK);
    assert_int_equal(optim_create(&optim, &trained, &oc), OK);
    assert_int_equal(kv_create(&kv, b, c, rows, wp.max_length, pages), OK);
    double used = (double)(memory_in_use() - before), planned = (double)total(&plan);
    if (used > 1.01 * planned || used < 0.99 * planned)
        fail_msg("configuration %d takes %.0f bytes, planned were %.0f", i, used, planned);

    kv_release(&kv);
    optim_release(&optim);
    network_release(&trained);
    network_release(&frozen);
    network_release(&quantized);
    workspace_release(ws);
    backend_release(b);
    assert_int_equal(memory_in_use(), before);
}

static void plans_are_true(void **state) {
    (void)state;
    for (int i = 0; i < 50; i++) one_configuration(shape(i), i);
    for (int i = 0; i < 4 * FAMILIES; i++) one_configuration(shape_of((Family)(i / 4), i), i);
}

/* Each change that a refusal may name saves what it says. */
static void changes_save_what_they_say(void **state) {
    (void)state;
    Backend *b;
    Plan plan = {0};
    ModelConfig m = shape(3);
    const ModelConfig *c = &m;
    WorkspacePlan wp = {.tokens = 2048, .sequences = 64, .train = 1, .max_length = 128};
    assert_int_equal(backend_create(&b, "cpu", "auto", "f32"), OK);
    assert_int_equal(plan_activations(&plan, b, &wp, &c, 1, 128), OK);
    assert_true(plan.n_changes >= 8);
    for (int i = 0; i < plan.n_changes; i++) {
        WorkspacePlan smaller = wp;
        size_t bytes;
        smaller.tokens = plan.change[i].micro_tokens;
        smaller.recompute = plan.change[i].recompute;
        assert_true(smaller.tokens >= 128);
        assert_int_equal(workspace_create(NULL, b, &smaller, &c, 1, &bytes), OK);
        assert_int_equal(bytes, total(&plan) - plan.change[i].saves);
    }
    backend_release(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plans_are_true),
        cmocka_unit_test(changes_save_what_they_say),
    };
    if (threads_start(1) != OK) return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
