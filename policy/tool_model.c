/* tool_model.c - see tool_model.h. */
#include "policy/tool_model.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "core/base/threads.h"
#include "core/model/hf.h"
#include "datasets/stage.h"

const Field tool_fields[] = {
    FIELD(ToolConfig, model, FIELD_STRING, "", "model directory or GGUF file"),
    FIELD(ToolConfig, tokenizer, FIELD_STRING, "", "tokenizer directory; empty: the model's own"),
    FIELD(ToolConfig, data, FIELD_STRING, "", "JSONL file of rows (.zst and .gz, too)"),
    FIELD(ToolConfig, out, FIELD_STRING, "-",
          "JSONL file to write (.zst and .gz, too); - is standard output"),
    FIELD(ToolConfig, device, FIELD_STRING, "auto",
          "auto (a GPU where there is one), cpu, or cuda:0"),
    FIELD_OF(ToolConfig, kernels, "auto", "auto|amx|avx512bf16|avx512|avx2|portable",
             "instruction set of the CPU kernels"),
    FIELD_OF(ToolConfig, dtype, "f32", "f32|bf16",
             "storage of activations and weights; sums in f32"),
    FIELD_IN(ToolConfig, threads, FIELD_INT, "0", 0, 1024, "threads; 0 = all cores"),
};
const int tool_n_fields = sizeof tool_fields / sizeof *tool_fields;

Status tool_settings(Arena *a, ToolConfig *c, const Section *own, const char *usage, int argc,
                     char **argv, int *go) {
    Section sections[2] = {{"", tool_fields, tool_n_fields, c}};
    int n = 1, help = 0;
    if (own) sections[n++] = *own;
    for (int i = 0; i < argc; i++) help |= !strcmp(argv[i], "--help");
    *go = !help;
    TRY(settings_load(sections, n, a, NULL, help ? 0 : argc, argv));
    if (!help) return OK;
    Text text = {0};
    text_addf(&text, "%s\n\n", usage);
    settings_help(&text, sections, n);
    fputs(text.s, stdout);
    text_release(&text);
    return OK;
}

SamplingConfig answer_sampling(const AnswerConfig *c) {
    return (SamplingConfig){.max_new_tokens = c->max_tokens,
                            .temperature = c->greedy ? 0.0f : c->temperature,
                            .top_k = c->top_k,
                            .top_p = c->top_p,
                            .min_p = c->min_p,
                            .repetition_penalty = c->repetition_penalty,
                            .no_repeat_ngram = c->no_repeat_ngram};
}

static Status check_need(const ModelConfig *m, const ToolConfig *c, const Tokenizer *t,
                         ToolNeed need) {
    if (need == TOOL_LANGUAGE && !m->lm_head)
        return status_fail(E_FORMAT, "%s is a reward model: it has no language-model head",
                           c->model);
    if (need == TOOL_SCORE && !m->scores)
        return status_fail(E_FORMAT, "%s has no score head: it is not a reward model", c->model);
    if (need == TOOL_SCORE && m->scores > 1)
        return status_fail(E_FORMAT, "%s gives %d numbers for a text, not one score", c->model,
                           m->scores);
    if (tokenizer_vocab_size(t) > m->V)
        return status_fail(E_FORMAT, "the tokenizer has %d tokens, the model %s embeds only %d",
                           tokenizer_vocab_size(t), c->model, m->V);
    return OK;
}

Status tool_model_open(ToolModel *m, const ToolConfig *c, ToolNeed need) {
    *m = (ToolModel){0};
    if (!c->model[0] && !(need == TOOL_TOKENIZER && c->tokenizer[0]))
        return status_fail(E_USAGE, "--model DIR is missing");
    TRY(threads_start(c->threads));
    TRY(stage_tokenizer(&m->t, &(Stage){.cfg = {.model = c->model, .tokenizer = c->tokenizer}}));
    if (need == TOOL_TOKENIZER) return OK;
    ModelConfig cfg;
    memset(&cfg, 0, sizeof cfg);
    TRY(model_read_config(&cfg, c->model));
    TRY(check_need(&cfg, c, m->t, need));
    TRY(backend_create(&m->b, c->device, c->kernels, c->dtype));
    /* the network takes its rotary table's length from the workspace that it is made with */
    const ModelConfig *configs = &cfg;
    WorkspacePlan plan = {.tokens = 1, .sequences = 1, .max_length = cfg.max_positions};
    TRY(workspace_create(&m->ws, m->b, &plan, &configs, 1, NULL));
    TRY(network_create(&m->net, m->b, &cfg, m->ws, 0));
    return model_read_weights(&m->net.w, c->model, 0);
}

static void release_room(ToolModel *m) {
    workspace_release(m->ws);
    packed_release(&m->batch);
    for (int i = 0; i < 2; i++) memory_release(m->out[i]);
    m->ws = m->net.ws = NULL;
    m->out[0] = m->out[1] = NULL;
    m->tokens = 0;
}

void tool_model_close(ToolModel *m) {
    network_release(&m->net);
    release_room(m);
    if (m->b) backend_release(m->b);
    tokenizer_release(m->t);
    *m = (ToolModel){0};
}

Status tool_model_room(ToolModel *m, int tokens) {
    const ModelConfig *cfg = &m->net.w.cfg;
    if (tokens <= m->tokens) return OK;
    release_room(m);
    WorkspacePlan plan = {.tokens = tokens, .sequences = tokens, .max_length = cfg->max_positions};
    TRY(workspace_create(&m->ws, m->b, &plan, &cfg, 1, NULL));
    m->net.ws = m->ws;
    TRY(packed_create(&m->batch, tokens, (size_t)tokens));
    for (int i = 0; i < 2; i++)
        TRY(memory_alloc((void **)&m->out[i], (size_t)tokens * sizeof(float), "outputs"));
    m->tokens = tokens;
    return OK;
}

Status tool_model_take(ToolModel *m, const Rows *r, int first, int wanted, int *last) {
    TRY(tool_model_room(m, stage_micro_tokens(0, rows_length(r, first))));
    packed_clear(&m->batch);
    for (*last = first; *last < r->n && rows_length(r, *last) <= m->tokens - m->batch.N; ++*last) {
        int start = m->batch.N;
        packed_add(&m->batch, rows_ids(r, *last), NULL, rows_length(r, *last));
        if (!wanted) continue;
        for (int n = start + 1; n < m->batch.N; n++) m->batch.wanted[n] = 1;
    }
    return OK;
}
