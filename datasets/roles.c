/* roles.c - A4: the models of a run (policy, reference, critic, judge) are fed one another's token
 * ids. If one was trained with another tokenizer or chat template, it silently reads another text
 * than the policy wrote. */
#include "datasets/stage.h"

#include <stdio.h>
#include <string.h>

#include "core/base/file.h"
#include "core/base/log.h"
#include "core/model/hf.h"
#include "core/model/hub.h"
#include "datasets/tokenizer_parts.h"

/* Contractions, digits, spaces, accents, a ligature, CJK, an emoji: what pre-tokenizers and
 * normalizers are known to treat differently. */
static const char probe[] =
    "The cat's 12345 mats cost \xE2\x82\xAC"
    "67.89,  don't\tthey?\n\n"
    "  NA\xC3\x8FVE na\x69\xCC\x88ve \xEF\xAC\x81 \xE6\xBC\xA2\xE5\xAD\x97 \xF0\x9F\x98\x80 x_1+=y; ";

/* ------------------------------------------------ the first difference, in words */

/* The token's text as it reads after other text; 0 where the id is no token. */
static int token_text(const Tokenizer *t, int id, Text *out) {
    TokenizerStream at = {.begun = 1, .body = 1};
    text_clear(out);
    return id < t->size && tokenizer_decode_next(t, &at, &id, 1, 1, out) == OK;
}

static int same_text(const Text *a, const Text *b) {
    return a->len == b->len && (!a->len || !memcmp(a->s, b->s, a->len));
}

static void put_quoted(Text *out, const char *s, size_t n) {
    json_put_string_n(out, s ? s : "", n > 60 ? 60 : n);
}

/* Tokens that only the role has do not count: the run never feeds them to it. */
static int differ_in_tokens(Text *out, const Tokenizer *run, const Tokenizer *role) {
    Text a = {0}, b = {0};
    int differs = 0;
    for (int id = 0; id < run->size && !differs; id++) {
        int known = token_text(run, id, &a), in_role = token_text(role, id, &b);
        if (!known || (in_role && same_text(&a, &b))) continue;
        differs = 1;
        text_addf(out, "token %d is ", id);
        put_quoted(out, a.s, a.len);
        text_add(out, in_role ? " in the first and " : " in the first and none in the second");
        if (in_role) put_quoted(out, b.s, b.len), text_add(out, " in the second");
    }
    text_release(&a);
    text_release(&b);
    return differs;
}

static void put_merge(Text *out, const Tokenizer *t, int i) {
    Text text = {0};
    int pair[2] = {t->bpe.merge_left[i], t->bpe.merge_right[i]};
    for (int k = 0; k < 2; k++) {
        token_text(t, pair[k], &text);
        if (k) text_add(out, "+");
        put_quoted(out, text.s, text.len);
    }
    text_release(&text);
}

static int differ_in_merges(Text *out, const Tokenizer *run, const Tokenizer *role) {
    const Bpe *a = &run->bpe, *b = &role->bpe;
    int n = a->n_merges < b->n_merges ? a->n_merges : b->n_merges, i = 0;
    while (i < n && a->merge_left[i] == b->merge_left[i] && a->merge_right[i] == b->merge_right[i])
        i++;
    if (i == n) return 0; /* further merges of one make tokens that the other has not */
    text_addf(out, "their tokens are the same, but merge %d is ", i);
    put_merge(out, run, i);
    text_add(out, " in the first and ");
    put_merge(out, role, i);
    text_add(out, " in the second");
    return 1;
}

static Status differ_in_splitting(Text *out, const Tokenizer *run, const Tokenizer *role,
                                  int *differs) {
    Ids a = {0}, b = {0};
    Status s = tokenizer_encode(run, probe, sizeof probe - 1, TOKENIZE_ADD_SPECIAL, &a);
    if (s == OK) s = tokenizer_encode(role, probe, sizeof probe - 1, TOKENIZE_ADD_SPECIAL, &b);
    int i = 0;
    while (i < a.n && i < b.n && a.v[i] == b.v[i]) i++;
    *differs = s == OK && (i < a.n || i < b.n);
    if (*differs)
        text_addf(out,
                  "their tokens are the same, but a text is cut otherwise (its token %d is %d in "
                  "the first and %d in the second)",
                  i, i < a.n ? a.v[i] : -1, i < b.n ? b.v[i] : -1);
    ids_release(&a);
    ids_release(&b);
    return s;
}

static size_t trimmed(const char *s) {
    size_t n = strlen(s);
    while (n && strchr(" \t\r\n", s[n - 1])) n--;
    return n;
}

static int differ_in_template(Text *out, const Tokenizer *run, const Tokenizer *role) {
    const char *a = tokenizer_chat_template(run), *b = tokenizer_chat_template(role);
    size_t n = trimmed(a), m = trimmed(b), i = 0;
    while (i < n && i < m && a[i] == b[i]) i++;
    if (i == n && i == m) return 0;
    if (!n || !m) {
        text_addf(out, "only the %s has a chat template", n ? "first" : "second");
        return 1;
    }
    while (i > 0 && ((uint8_t)a[i] & 0xc0) == 0x80) i--; /* to where a character begins */
    text_addf(out, "their chat templates differ from byte %zu on: ", i);
    put_quoted(out, a + i, n - i);
    text_add(out, " in the first and ");
    put_quoted(out, b + i, m - i);
    text_add(out, " in the second");
    return 1;
}

Status tokenizers_differ(Text *out, const Tokenizer *run, const Tokenizer *role, int templates) {
    int differs;
    text_clear(out);
    if (differ_in_tokens(out, run, role) || differ_in_merges(out, run, role)) return OK;
    TRY(differ_in_splitting(out, run, role, &differs));
    if (!differs && templates) differ_in_template(out, run, role);
    return OK;
}

/* ------------------------------------------------ a role of a run */

/* NULL where there is none, or none that can be read: the run has the policy's. */
static Tokenizer *tokenizer_beside(const char *path) {
    char found[MODEL_PATH_MAX], file[MODEL_PATH_MAX + 20];
    Tokenizer *t = NULL;
    if (model_find(found, path) != OK) return NULL; /* reported when its weights are read */
    snprintf(file, sizeof file, "%s/tokenizer.json", found);
    int gguf = model_is_gguf(found);
    if (!gguf && !file_exists(file)) return NULL;
    if ((gguf ? tokenizer_open_gguf(&t, found) : tokenizer_open_dir(&t, found)) == OK) return t;
    log_warn("the tokenizer of %s is not compared with the policy's: %s", path, status_message());
    return NULL;
}

Status stage_check_role(const Stage *s, const Tokenizer *run, const char *role, const char *path) {
    const char *policy = s->cfg.tokenizer[0] ? s->cfg.tokenizer : s->cfg.model;
    if (!path[0] || !strcmp(path, policy) || !strcmp(path, s->cfg.model)) return OK;
    if (alarm_is_off(&s->run.alarms, "A4", "roles-differ")) return OK;
    Tokenizer *t = tokenizer_beside(path);
    Text how = {0};
    if (!t) return OK;
    Status status = tokenizers_differ(&how, run, t, !strcmp(s->data.layout, "auto"));
    if (status == OK && how.len)
        status = status_fail(E_FORMAT,
                             "A4: the policy (%s) and the %s (%s) do not read the same: %s "
                             "(--alarms.off roles-differ goes on all the same)",
                             policy, role, path, how.s);
    tokenizer_release(t);
    text_release(&how);
    return status;
}

Status stage_read_role(ModelConfig *m, const Stage *s, const Tokenizer *run, const char *role,
                       const char *path) {
    TRY(model_read_config(m, path));
    TRY(stage_check_role(s, run, role, path));
    if (m->V < tokenizer_vocab_size(run))
        return status_fail(E_FORMAT, "the %s (%s) embeds %d tokens, the tokenizer has %d", role,
                           path, m->V, tokenizer_vocab_size(run));
    if (m->max_positions < s->data.max_length)
        return status_fail(E_USAGE, "data.max_length %d is more than the %d positions of the %s",
                           s->data.max_length, m->max_positions, role);
    return OK;
}

Status stage_check_head(const ModelConfig *m, const char *role, const char *path, RoleHead head) {
    if (head == HEAD_SCORE && m->scores != 1)
        return status_fail(E_FORMAT, "%s has no head for one score: it is not a reward model",
                           path);
    if (head == HEAD_LANGUAGE && !m->lm_head)
        return status_fail(E_FORMAT, "%s has no language-model head: it cannot be the %s", path,
                           role);
    return OK;
}
