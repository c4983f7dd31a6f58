/* log.c - messages and the one progress line, on stderr. */
#include "core/base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/terminal.h"

enum { PIPE_SECONDS = 5 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static LogLevel wanted = LOG_NORMAL;
static int line_open; /* a progress line stands unfinished on the terminal */
static double last_plain = -1e9;

void log_level(LogLevel level) {
    pthread_mutex_lock(&lock);
    wanted = level;
    pthread_mutex_unlock(&lock);
}

static void message(LogLevel level, const char *prefix, const char *fmt, va_list ap) {
    char text[4096];
    vsnprintf(text, sizeof text, fmt, ap);
    pthread_mutex_lock(&lock);
    if (level <= wanted) {
        fprintf(stderr, "%s%s%s\n", line_open ? "\r\033[K" : "", prefix, text);
        line_open = 0;
    }
    pthread_mutex_unlock(&lock);
}

void log_info(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    message(LOG_NORMAL, "", fmt, ap);
    va_end(ap);
}

void log_warn(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    message(LOG_QUIET, "warning: ", fmt, ap);
    va_end(ap);
}

void log_debug(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    message(LOG_DEBUG, "", fmt, ap);
    va_end(ap);
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void show(int force, const char *text) {
    if (terminal_is(STDERR_FILENO)) {
        /* a line that wraps could not be overwritten in place */
        size_t fits = terminal_fit(text, terminal_columns(STDERR_FILENO) - 1);
        const char *plain = strchr(text, '\033') ? "\033[0m" : "";
        fprintf(stderr, "\r%.*s%s\033[K", (int)fits, text, plain);
        fflush(stderr);
        line_open = 1;
        return;
    }
    double now = seconds();
    if (!force && now - last_plain < PIPE_SECONDS) return;
    last_plain = now;
    fprintf(stderr, "%s\n", text);
}

void log_progress(int force, const char *fmt, ...) {
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    pthread_mutex_lock(&lock);
    if (wanted >= LOG_NORMAL) show(force, text);
    pthread_mutex_unlock(&lock);
}

void log_progress_end(void) {
    pthread_mutex_lock(&lock);
    if (line_open) fputc('\n', stderr);
    line_open = 0;
    pthread_mutex_unlock(&lock);
}
