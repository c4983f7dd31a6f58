/* dataset_render.c - turns as text and ids.
 *
 * plain: a prompt and its completion are put together as they are. Messages become blocks
 *     System:\n...\n\nUser:\n...\n\nAssistant:\n...<eos>\n\n
 * chatml: <|im_start|>role\n...<|im_end|>\n for every turn, the opening <|im_start|>assistant\n for
 * the answer; a string prompt is one message of the user.
 *
 * With the layout auto a model that has a template of its own is written by that
 * (dataset_template.c).
 *
 * Text is cut where an answer starts and ends and the parts are encoded by themselves, as
 * generation does it. Data never becomes a special token: markers are put in by id, everything else
 * is encoded with special-token parsing off. */
#include <string.h>
#include "datasets/dataset_parts.h"

/* SmolLM2's template puts this first when the conversation has no system message. */
static const char smollm2_system[] =
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face";

static const char *const plain_roles[] = {"System", "User", "Assistant"};

/* What TOKENIZE_ADD_SPECIAL puts before a text, if it is the beginning-of-sequence token. */
static int leading_bos(const Tokenizer *t) {
    Ids ids = {0};
    int bos = tokenizer_bos(t);
    if (tokenizer_encode(t, "", 0, TOKENIZE_ADD_SPECIAL, &ids) != OK || ids.n == 0 ||
        ids.v[0] != bos)
        bos = -1;
    ids_release(&ids);
    return bos;
}

void renderer_init(Renderer *r, const Tokenizer *t, const DataConfig *cfg) {
    *r = (Renderer){.t = t, .cfg = cfg};
    r->im_start = tokenizer_id(t, "<|im_start|>");
    r->im_end = tokenizer_id(t, "<|im_end|>");
    r->bos = leading_bos(t);
}

void renderer_release(Renderer *r) {
    ids_release(&r->ids);
    text_release(&r->trained);
    text_release(&r->text);
    text_release(&r->pending);
    text_release(&r->messages);
    jinja_output_release(&r->out);
    chat_template_release(r->chat);
}

/* A template that cannot be read is no fault of a row. */
static Status use_template(Renderer *r) {
    r->templated = 1;
    if (r->chat || chat_template_of(&r->chat, r->t) == OK) return OK;
    return status_context(
        E_USAGE, "the model's own template cannot be used (the layouts plain and chatml can)");
}

static Status choose_layout(Renderer *r, const Example *e) {
    const char *layout = r->cfg->layout && r->cfg->layout[0] ? r->cfg->layout : "auto";
    int has_markers = r->im_start >= 0 && r->im_end >= 0;
    int automatic = !strcmp(layout, "auto");
    r->templated = 0;
    r->chatml = !strcmp(layout, "chatml") || (automatic && has_markers && e->is_chat);
    if (e->is_text) r->chatml = 0;
    if (r->chatml && !has_markers)
        return status_fail(E_USAGE,
                           "the layout chatml needs a tokenizer with <|im_start|> and <|im_end|>");
    r->end = r->chatml ? r->im_end : tokenizer_eos(r->t);
    if (r->end < 0) return status_fail(E_USAGE, "the tokenizer names no end-of-sequence token");
    return automatic && !e->is_text && tokenizer_chat_template(r->t)[0] ? use_template(r) : OK;
}

void renderer_mark(Renderer *r, int trained) {
    char flag = (char)trained;
    while (r->trained.len < (size_t)r->ids.n) text_add_bytes(&r->trained, &flag, 1);
}

static Status flush(Renderer *r, int trained) {
    if (r->pending.len) {
        TRY(tokenizer_encode(r->t, r->pending.s, r->pending.len, 0, &r->ids));
        text_add_bytes(&r->text, r->pending.s, r->pending.len);
        text_clear(&r->pending);
    }
    renderer_mark(r, trained);
    return OK;
}

static Status special(Renderer *r, int id, int trained) {
    TRY(flush(r, 0));
    ids_add(&r->ids, id);
    renderer_mark(r, trained);
    TRY(tokenizer_decode(r->t, &id, 1, 1, &r->text));
    r->open_ids = r->ids.n;
    r->open_text = r->text.len;
    return OK;
}

static Status start(Renderer *r, const Example *e) {
    TRY(choose_layout(r, e));
    r->ids.n = 0;
    text_clear(&r->trained);
    text_clear(&r->text);
    text_clear(&r->pending);
    r->open_ids = 0;
    r->open_text = 0;
    r->n_prompt = -1;
    r->differs = 0;
    return !r->templated && !r->chatml && r->bos >= 0 ? special(r, r->bos, 0) : OK;
}

static const Turn answer_turn = {ROLE_ASSISTANT, "assistant", "", NULL};

static Status open_turn(Renderer *r, const Turn *t) {
    if (turn_calls_tools(t))
        return status_fail(E_FORMAT, "a message calls tools: that needs the model's chat template");
    if (!r->chatml && t->role == ROLE_OTHER)
        return status_fail(E_FORMAT,
                           "the layout plain has no role \"%.60s\" (system, user, assistant)",
                           t->role_name);
    if (!r->chatml) {
        text_addf(&r->pending, "%s:\n", plain_roles[t->role]);
        return OK;
    }
    TRY(special(r, r->im_start, 0));
    text_addf(&r->pending, "%s\n", t->role_name);
    return OK;
}

static Status close_turn(Renderer *r, Role role) {
    if (r->chatml || role == ROLE_ASSISTANT) TRY(special(r, r->end, 0));
    text_add(&r->pending, r->chatml ? "\n" : "\n\n");
    return OK;
}

static Status put_turn(Renderer *r, const Turn *t) {
    TRY(open_turn(r, t));
    text_add(&r->pending, t->content);
    return close_turn(r, t->role);
}

static const char *system_message(const Renderer *r, const Example *e) {
    if (e->n && e->turn[0].role == ROLE_SYSTEM) return "";
    if (r->cfg->system && r->cfg->system[0]) return r->cfg->system;
    return r->chatml && strstr(tokenizer_chat_template(r->t), smollm2_system) ? smollm2_system : "";
}

static Status put_system(Renderer *r, const Example *e) {
    const char *system = system_message(r, e);
    if (!*system) return OK;
    if (r->chatml || e->is_chat) return put_turn(r, &(Turn){ROLE_SYSTEM, "system", system, NULL});
    text_addf(&r->pending, "%s\n\n", system);
    return OK;
}

static Status open_answer(Renderer *r, const Turn *t) {
    TRY(open_turn(r, t));
    return flush(r, 0);
}

static void prompt_ends_here(Renderer *r) {
    r->n_prompt = r->ids.n;
    r->prompt_text = r->text.len;
    r->seam_ids = r->open_ids;
    r->seam_text = r->open_text;
}

Status render_prompt(Renderer *r, const Example *e) {
    TRY(start(r, e));
    if (r->templated) return template_prompt(r, e);
    TRY(put_system(r, e));
    if (!r->chatml && !e->is_chat) {
        text_add(&r->pending, e->turn[0].content);
        TRY(flush(r, 0));
    } else {
        for (int i = 0; i < e->n; i++) TRY(put_turn(r, &e->turn[i]));
        TRY(open_answer(r, &answer_turn));
    }
    prompt_ends_here(r);
    return OK;
}

static Status put_answer(Renderer *r, const char *answer) {
    text_add(&r->pending, answer);
    TRY(flush(r, 1));
    return special(r, r->end, 1);
}

Status render_answer(Renderer *r, const char *answer) {
    r->ids.n = r->n_prompt;
    r->trained.len = (size_t)r->n_prompt;
    r->text.len = r->prompt_text;
    return r->templated ? template_answer(r, answer) : put_answer(r, answer);
}

/* All of a rendering that holds the end of the prompt and the answer, encoded at once. */
static Status encode_across(const Renderer *r, const char *answer, Ids *out) {
    if (r->templated) return chat_encode(r->t, &r->out, 0, r->out.text.len, out);
    Text text = {0};
    text_add_bytes(&text, r->text.s + r->seam_text, r->prompt_text - r->seam_text);
    text_add(&text, answer);
    Status s = tokenizer_encode(r->t, text.s, text.len, 0, out);
    text_release(&text);
    return s;
}

Status render_seam(const Renderer *r, const char *answer, int *joined) {
    Ids ids = {0};
    int from = r->templated ? 0 : r->seam_ids, n = r->n_prompt - from;
    Status s = encode_across(r, answer, &ids);
    if (s == OK && (ids.n < n || (n && memcmp(ids.v, r->ids.v + from, (size_t)n * sizeof(int)))))
        *joined = 1;
    ids_release(&ids);
    return s;
}

static Status render_text(Renderer *r, const Example *e) {
    TRY(put_answer(r, e->turn[0].content));
    /* nothing predicts the first token */
    r->trained.s[0] = 0;
    r->n_prompt = 1;
    r->prompt_text = 0;
    return OK;
}

Status render_all(Renderer *r, const Example *e, const char **first) {
    TRY(start(r, e));
    *first = e->turn[0].content;
    if (e->is_text) return render_text(r, e);
    if (r->templated) return template_all(r, e, first);
    TRY(put_system(r, e));
    for (int i = 0; i < e->n; i++) {
        const Turn *t = &e->turn[i];
        if (t->role != ROLE_ASSISTANT) {
            TRY(put_turn(r, t));
            continue;
        }
        TRY(open_answer(r, t));
        if (r->n_prompt < 0) {
            prompt_ends_here(r);
            *first = t->content;
        }
        TRY(put_answer(r, t->content));
        text_add(&r->pending, r->chatml ? "\n" : "\n\n");
    }
    return OK; /* what is pending stands behind the last end and is left out */
}

Status render_status(const JsonDoc *doc, Status s) {
    if (s != E_FORMAT) return s;
    Text why = {0};
    text_add(&why, status_message());
    s = json_fail(doc, NULL, "%s", why.s);
    text_release(&why);
    return s;
}

Status prompt_encode(const Tokenizer *t, const DataConfig *cfg, const JsonDoc *doc,
                     const Json *prompt, Ids *out, Text *rendered) {
    Example e = {0};
    Arena arena = {0};
    Renderer r;
    renderer_init(&r, t, cfg);
    Status s = example_prompt(&e, &(RowReader){.arena = &arena, .doc = doc}, prompt);
    if (s == OK) s = render_status(doc, render_prompt(&r, &e));
    for (int i = 0; s == OK && i < r.ids.n; i++) ids_add(out, r.ids.v[i]);
    if (s == OK && rendered) text_add_bytes(rendered, r.text.s ? r.text.s : "", r.text.len);
    renderer_release(&r);
    arena_release(&arena);
    return s;
}
