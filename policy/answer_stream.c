/* answer_stream.c - see answer_stream.h. */
#include "policy/answer_stream.h"

#include <stdio.h>
#include <string.h>

size_t answer_before_stop(const Text *text, const StringList *stop) {
    size_t end = text->len;
    for (int i = 0; i < stop->n; i++) {
        size_t n = strlen(stop->items[i]);
        const char *hit = text->s ? memmem(text->s, text->len, stop->items[i], n) : NULL;
        if (n && hit && (size_t)(hit - text->s) < end) end = (size_t)(hit - text->s);
    }
    return end;
}

/* The most of n bytes that cuts no character; bytes that are none are taken as they are. */
static size_t whole_characters(const char *s, size_t n) {
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        unsigned char c = (unsigned char)s[n - back];
        if (c < 0x80) return n;
        if (c < 0xc0) continue;
        size_t need = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
        return back < need ? n - back : n;
    }
    return n;
}

static void show(AnswerStream *s, size_t upto) {
    if (upto <= s->shown) return;
    fwrite(s->text.s + s->shown, 1, upto - s->shown, stdout);
    fflush(stdout);
    s->shown = upto;
}

void answer_stream_begin(AnswerStream *s, const Tokenizer *t, const StringList *stop) {
    *s = (AnswerStream){.t = t, .stop = stop};
    for (int i = 0; i < stop->n; i++)
        if (strlen(stop->items[i]) > s->held + 1) s->held = strlen(stop->items[i]) - 1;
}

int answer_stream_token(void *stream, int request, int id) {
    (void)request;
    AnswerStream *s = stream;
    int enough = s->interrupted && s->interrupted();
    if (tokenizer_decode_next(s->t, &s->at, &id, 1, 0, &s->text) != OK || !s->text.s) return enough;
    size_t end = s->text.len > s->held ? s->text.len - s->held : 0;
    size_t stop = answer_before_stop(&s->text, s->stop);
    show(s, whole_characters(s->text.s, stop < end ? stop : end));
    return enough;
}

Status answer_stream_end(AnswerStream *s, StopReason why) {
    if (why == STOP_STRING) s->text.len = answer_before_stop(&s->text, s->stop);
    if (s->text.s) show(s, s->text.len);
    if (putchar('\n') == EOF || fflush(stdout) == EOF)
        return status_fail(E_IO, "cannot write to standard output");
    return OK;
}

void answer_stream_release(AnswerStream *s) {
    text_release(&s->text);
}
