/* template_tool.c - rlhf template: conversations as a model's chat template writes them. */
#include <stdio.h>
#include <string.h>

#include "core/model/hf.h"
#include "core/model/hub.h"
#include "core/run/settings.h"
#include "datasets/template.h"
#include "policy/rows.h"
#include "policy/tools.h"

typedef struct {
    const char *model, *template, *bos, *eos, *data, *out;
} TemplateConfig;
static const Field template_fields[] = {
    FIELD(TemplateConfig, model, FIELD_STRING, "", "model directory or GGUF file"),
    FIELD(TemplateConfig, template, FIELD_STRING, "", "a template file, in place of a model"),
    FIELD(TemplateConfig, bos, FIELD_STRING, "", "bos_token of the template file"),
    FIELD(TemplateConfig, eos, FIELD_STRING, "", "eos_token of the template file"),
    FIELD(TemplateConfig, data, FIELD_STRING, "", "JSONL file of rows (.zst and .gz, too)"),
    FIELD(TemplateConfig, out, FIELD_STRING, "-",
          "JSONL file to write (.zst and .gz, too); - is standard output"),
};

typedef struct {
    ChatTemplate *t;
    JinjaOutput out;
} TemplateTool;

static Status open_model(ChatTemplate **t, const char *name) {
    Tokenizer *tokenizer = NULL;
    char model[MODEL_PATH_MAX];
    TRY(model_find(model, name));
    if (!model_is_gguf(model)) return chat_template_open_dir(t, model);
    TRY(tokenizer_open_gguf(&tokenizer, model));
    Status s = chat_template_of(t, tokenizer);
    tokenizer_release(tokenizer);
    return s;
}

static Status open_template(ChatTemplate **t, const TemplateConfig *c) {
    ChatTokens tokens = {c->bos[0] ? c->bos : NULL, c->eos[0] ? c->eos : NULL};
    if (!c->model[0] == !c->template[0])
        return status_fail(E_USAGE, "give a model (--model DIR) or a template (--template FILE)");
    if (c->template[0]) return chat_template_open_file(t, c->template, &tokens);
    if (tokens.bos || tokens.eos)
        return status_fail(E_USAGE, "a model names its own tokens: --bos and --eos go with "
                                    "--template FILE");
    TRY(open_model(t, c->model));
    return *t ? OK : status_fail(E_USAGE, "%s has no chat template", c->model);
}

static Status no_ids(void *ctx, const JsonDoc *doc, Ids *ids) {
    (void)ctx, (void)doc, (void)ids;
    return OK;
}

static void put_spans(Text *line, const JinjaOutput *out) {
    json_put_key(line, "assistant_spans");
    text_add(line, "[");
    for (int i = 0; i < out->n_marks; i++)
        text_addf(line, "%s[%zu,%zu]", i ? "," : "", out->marks[i].from, out->marks[i].to);
    text_add(line, "]");
}

static Status put_row(TemplateTool *k, Rows *r, int row) {
    static const char *const own[] = {"text", "assistant_spans", "spans_error", "error", NULL};
    const JsonDoc *doc = r->doc[row];
    const Json *messages;
    const char *why = NULL;
    int generation_prompt = 0;
    TRY(json_get_node(doc, json_root(doc), "messages", JSON_REQUIRED, JSON_ARRAY, &messages));
    TRY(json_get_bool(doc, json_root(doc), "add_generation_prompt", JSON_OPTIONAL,
                      &generation_prompt));
    Status s = chat_template_render_marked(k->t, messages, generation_prompt, &k->out, &why);
    if (s != OK && s != E_FORMAT) return s;
    Text *line = rows_begin(r, row, own);
    json_put_key(line, s == OK ? "text" : "error");
    if (s == OK)
        json_put_string_n(line, k->out.text.s ? k->out.text.s : "", k->out.text.len);
    else
        json_put_string(line, status_message());
    if (s == OK && !why) put_spans(line, &k->out);
    if (s == OK && why) {
        json_put_key(line, "assistant_spans");
        text_add(line, "null");
        json_put_key(line, "spans_error");
        json_put_string(line, why);
    }
    return rows_put(r);
}

static Status template_rows(void *ctx, Rows *r) {
    for (int i = 0; i < r->n; i++) TRY(put_row(ctx, r, i));
    return OK;
}

static Status template_run(const TemplateConfig *c) {
    TemplateTool k = {0};
    Status s = open_template(&k.t, c);
    if (s == OK) s = rows_run(c->data, c->out, 0, 0, no_ids, template_rows, &k);
    chat_template_release(k.t);
    jinja_output_release(&k.out);
    return s;
}

Status template_main(int argc, char **argv) {
    static const char usage[] =
        "rlhf template (--model DIR | --template FILE.jinja [--bos S] [--eos S]) --data F [--out F]: rows {\"messages\"}\n"
        "with or without \"add_generation_prompt\" gain text and assistant_spans (bytes of text), or error";
    Arena arena = {0};
    TemplateConfig c;
    Section section = SECTION("", template_fields, &c);
    int help = 0;
    for (int i = 0; i < argc; i++) help |= !strcmp(argv[i], "--help");
    Status s = settings_load(&section, 1, &arena, NULL, help ? 0 : argc, argv);
    if (s == OK && help) {
        Text text = {0};
        text_addf(&text, "%s\n\n", usage);
        settings_help(&text, &section, 1);
        fputs(text.s, stdout);
        text_release(&text);
    } else if (s == OK) {
        s = template_run(&c);
    }
    arena_release(&arena);
    return s;
}
