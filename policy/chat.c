/* chat.c - rlhf chat: a conversation line by line. The whole history is written by the model's
 * template and read anew for every answer; what no longer fits goes from its oldest turn. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/log.h"
#include "datasets/stage.h"
#include "policy/answer_stream.h"
#include "policy/tool_model.h"
#include "policy/tools.h"

typedef struct {
    AnswerConfig answer;
    const char *layout, *system;
    int context;
} ChatConfig;

static const Field chat_fields[] = {
    FIELD(ChatConfig, system, FIELD_STRING, "", "system message"),
    FIELD_OF(ChatConfig, layout, "auto", "auto|plain|chatml", "how messages become text"),
    ANSWER_FIELDS(ChatConfig, "0.7", "0.95", "512"),
    FIELD_IN(ChatConfig, context, FIELD_INT, "0", 0, 1 << 24,
             "tokens of history and answer; 0: what the model has, up to 4096"),
};

typedef struct {
    const ChatConfig *cfg;
    DataConfig layout;
    SamplingConfig sampling;
    ToolModel m;
    RolloutEngine *engine;
    Rollout rollout;
    int context;
    char **said; /* question, answer, question ... */
    int n, cap;
    uint64_t answers;
} Chat;

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number) {
    (void)signal_number;
    interrupted = 1;
}
static int is_interrupted(void) {
    return interrupted != 0;
}

/* ------------------------------------------------ history */

static Status remember(Chat *k, const char *text, size_t len) {
    if (k->n == k->cap) {
        int cap = k->cap ? 2 * k->cap : 16;
        char **said = realloc(k->said, (size_t)cap * sizeof *said);
        if (!said) return status_fail(E_MEMORY, "no memory for a longer conversation");
        k->said = said;
        k->cap = cap;
    }
    char *copy = strndup(text, len);
    if (!copy) return status_fail(E_MEMORY, "no memory for a longer conversation");
    k->said[k->n++] = copy;
    return OK;
}

/* The first n of what was said. */
static void forget_first(Chat *k, int n) {
    if (!n) return;
    for (int i = 0; i < n; i++) free(k->said[i]);
    k->n -= n;
    memmove(k->said, k->said + n, (size_t)k->n * sizeof *k->said);
}

static void forget_last(Chat *k) {
    free(k->said[--k->n]);
}

static Status encode_history(Chat *k, Ids *ids) {
    Text list = {0};
    JsonDoc *doc = NULL;
    text_add(&list, "[");
    for (int i = 0; i < k->n; i++) {
        text_addf(&list, "%s{\"role\":\"%s\",\"content\":", i ? "," : "",
                  i % 2 ? "assistant" : "user");
        json_put_string_n(&list, k->said[i], strlen(k->said[i]));
        text_add(&list, "}");
    }
    text_add(&list, "]");
    ids->n = 0;
    Status s = json_parse(&doc, "chat", 1, list.s, list.len, JSON_STRICT);
    if (s == OK) s = prompt_encode(k->m.t, &k->layout, doc, json_root(doc), ids, NULL);
    json_release(doc);
    text_release(&list);
    return s;
}

/* The history as ids, cut from its oldest turn until an answer has room. */
static Status fit_history(Chat *k, Ids *ids) {
    int longest = k->cfg->answer.max_tokens, quarter = k->context / 4, cut = 0;
    int room = quarter < longest ? quarter : longest;
    TRY(encode_history(k, ids));
    while (ids->n > k->context - room && k->n > 1) {
        forget_first(k, 2);
        cut++;
        TRY(encode_history(k, ids));
    }
    if (cut)
        log_info("(the context of %d tokens is full: the oldest %d turns are forgotten)",
                 k->context, cut);
    if (ids->n >= k->context)
        return status_fail(E_FORMAT, "this message has %d tokens, the context only %d", ids->n,
                           k->context);
    return OK;
}

/* ------------------------------------------------ answers */

static Status draw_answer(Chat *k, const Ids *ids, AnswerStream *shown) {
    struct sigaction stop = {.sa_handler = on_interrupt}, before;
    RolloutRequest request = {ids->v, ids->n, k->answers++};
    SamplingConfig sampling = k->sampling;
    if (sampling.max_new_tokens > k->context - ids->n)
        sampling.max_new_tokens = k->context - ids->n;
    TRY(tool_model_room(&k->m, stage_micro_tokens(0, ids->n)));
    stop.sa_flags = SA_RESTART;
    interrupted = 0;
    sigaction(SIGINT, &stop, &before);
    Status s = rollout_generate(&k->rollout, k->engine, &k->m.net, &request, 1, &sampling,
                                k->cfg->answer.seed, answer_stream_token, shown);
    sigaction(SIGINT, &before, NULL);
    return s == OK ? answer_stream_end(shown, k->rollout.stop[0]) : s;
}

static int is_blank(const char *s, size_t n) {
    return strspn(s ? s : "", " \t\r\n") >= n;
}

/* A question that cannot be answered is forgotten, and the conversation goes on. */
static Status answer(Chat *k, const char *question, size_t len) {
    AnswerStream shown;
    Ids ids = {0};
    TRY(remember(k, question, len));
    answer_stream_begin(&shown, k->m.t, &k->sampling.stop);
    shown.interrupted = is_interrupted;
    Status s = fit_history(k, &ids);
    if (s == OK) {
        s = draw_answer(k, &ids, &shown);
        if (s == OK && !is_blank(shown.text.s, shown.text.len))
            s = remember(k, shown.text.s, shown.text.len);
        else
            forget_last(k);
    } else if (s == E_FORMAT) {
        log_warn("%s", status_message());
        forget_last(k);
        s = OK;
    }
    ids_release(&ids);
    answer_stream_release(&shown);
    return s;
}

/* ------------------------------------------------ lines */

typedef enum { GO_ON, LEAVE } Next;

static Status take_line(Chat *k, char *line, size_t len, Next *next) {
    while (len && (line[len - 1] == '\n' || line[len - 1] == '\r')) line[--len] = '\0';
    if (is_blank(line, len)) return OK;
    if (!strcmp(line, "/quit")) {
        *next = LEAVE;
        return OK;
    }
    if (!strcmp(line, "/reset")) {
        forget_first(k, k->n);
        k->answers = 0;
        log_info("(a new conversation)");
        return OK;
    }
    if (line[0] == '/' && !strchr(line, ' ')) {
        log_warn("%s is no command: /reset begins a new conversation, /quit ends", line);
        return OK;
    }
    return answer(k, line, len);
}

static Status converse(Chat *k) {
    int terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    Status s = OK;
    Next next = GO_ON;
    if (terminal) puts("/reset begins a new conversation, /quit ends, Ctrl-C stops an answer");
    while (s == OK && next == GO_ON) {
        if (terminal) fputs("> ", stdout);
        fflush(stdout);
        if ((len = getline(&line, &cap, stdin)) < 0) break;
        s = take_line(k, line, (size_t)len, &next);
    }
    free(line);
    return s;
}

static Status open_chat(Chat *k, const ToolConfig *c) {
    if (c->data[0] || strcmp(c->out, "-"))
        return status_fail(E_USAGE, "rlhf chat reads lines and writes answers: --data and --out "
                                    "are rlhf generate's");
    TRY(tool_model_open(&k->m, c, TOOL_LANGUAGE));
    const ModelConfig *m = &k->m.net.w.cfg;
    k->context = k->cfg->context ? k->cfg->context : 4096;
    if (k->context > m->max_positions) k->context = m->max_positions;
    k->layout = (DataConfig){.layout = k->cfg->layout, .system = k->cfg->system};
    k->sampling = answer_sampling(&k->cfg->answer);
    k->sampling.rows = 1;
    TRY(rollout_engine_create(&k->engine, k->m.b, m, k->m.t, 1, k->context, 1, 0));
    return rollout_create(&k->rollout, 1, (size_t)k->context);
}

Status chat_main(int argc, char **argv) {
    static const char usage[] =
        "rlhf chat --model DIR [--system TEXT]: a conversation, a line a turn; /reset begins a new one, /quit ends,\n"
        "Ctrl-C stops an answer";
    Arena arena = {0};
    ToolConfig c;
    ChatConfig own;
    Section section = SECTION("", chat_fields, &own);
    Chat k = {.cfg = &own};
    int go;
    Status s = tool_settings(&arena, &c, &section, usage, argc, argv, &go);
    if (s == OK && go) s = open_chat(&k, &c);
    if (s == OK && go) s = converse(&k);
    forget_first(&k, k.n);
    free(k.said);
    rollout_engine_release(k.engine);
    rollout_release(&k.rollout);
    tool_model_close(&k.m);
    arena_release(&arena);
    return s;
}
