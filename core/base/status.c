/* status.c - the sentence that goes with a failed Status. */
#include "core/base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static _Thread_local char message[2048];

Status status_fail(Status s, const char *fmt, ...) {
    char next[sizeof message]; /* the arguments may point into the old sentence */
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(next, sizeof next, fmt, ap);
    va_end(ap);
    snprintf(message, sizeof message, "%s", next);
    return s;
}

Status status_context(Status s, const char *fmt, ...) {
    char context[512], next[sizeof message + sizeof context + 2];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(context, sizeof context, fmt, ap);
    va_end(ap);
    snprintf(next, sizeof next, "%s: %s", context, message);
    snprintf(message, sizeof message, "%.*s", (int)sizeof message - 1, next);
    return s;
}

const char *status_message(void) {
    return message;
}

_Noreturn void check_failed(const char *cond, const char *file, int line) {
    fprintf(stderr, "rlhf: internal error: %s:%d: CHECK(%s) failed\n", file, line, cond);
    abort();
}
