/* template.h - a model's own chat template: a conversation as text, where the assistant speaks in
 * it, and which bytes were taken from the messages. */
#ifndef TEMPLATE_H
#define TEMPLATE_H

#include "datasets/jinja.h"
#include "datasets/tokenizer.h"

typedef struct ChatTemplate ChatTemplate;

typedef struct { /* what a template sees beside messages; NULL: the variable is undefined */
    const char *bos, *eos;
} ChatTokens;

/* chat_template.jinja of a model directory, else "chat_template" of its tokenizer_config.json (a
 * string, or the one named "default" of a list), with the tokens of tokenizer_config.json. *t is
 * NULL when the directory has no template. */
Status chat_template_open_dir(ChatTemplate **t, const char *dir);
Status chat_template_open_file(ChatTemplate **t, const char *path, const ChatTokens *tokens);
Status chat_template_open(ChatTemplate **t, const char *name, const char *text,
                          const ChatTokens *tokens);
/* The template that came with a tokenizer; *t is NULL when it has none. */
Status chat_template_of(ChatTemplate **t, const Tokenizer *tokenizer);
void chat_template_release(ChatTemplate *t); /* NULL is fine */
/* What strftime_now() shows; else the time at which the template was opened. */
void chat_template_set_time(ChatTemplate *t, int64_t now);

/* The first n messages (-1: all) of a list of {"role", "content", ...}; tools and documents are
 * none. out->data marks the bytes of the messages; a role out of the usual ones counts as the
 * template's own. E_FORMAT with the template's sentence when it refuses the conversation. */
Status chat_template_render(const ChatTemplate *t, const Json *messages, int n,
                            int add_generation_prompt, JinjaOutput *out);

/* The same, with out->marks the spans of the assistant's messages. Where the template has no
 * generation blocks the span of an answer is what the rendering up to and with it adds to the
 * rendering before it with the generation prompt; both must be beginnings of the whole. When they
 * are not, *why is a sentence and there are no spans; else *why is NULL. */
Status chat_template_render_marked(const ChatTemplate *t, const Json *messages,
                                   int add_generation_prompt, JinjaOutput *out, const char **why);
int chat_template_has_marks(const ChatTemplate *t);

/* An answer ends where the tokenizer's template ends it: the special token that it writes behind an
 * answer becomes one of the tokenizer's ends. A template that cannot be read or used teaches
 * nothing: who renders with it is told why. */
void chat_template_teach_end(Tokenizer *tokenizer);

/* A rendering as ids: special tokens are found in the template's own text only; all else is
 * encoded as the whole text would be. Of the bytes [from, to). */
Status chat_encode(const Tokenizer *t, const JinjaOutput *r, size_t from, size_t to, Ids *out);

#endif
