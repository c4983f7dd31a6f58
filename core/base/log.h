/* log.h - what a person running the program sees, on stderr. */
#ifndef LOG_H
#define LOG_H

typedef enum { LOG_QUIET, LOG_NORMAL, LOG_DEBUG } LogLevel;
void log_level(LogLevel level);
void log_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_warn(const char *fmt, ...)
    __attribute__((format(printf, 1, 2))); /* "warning: " in front */
void log_debug(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* The one progress line: overwritten in place on a terminal, at most one plain line per few seconds
 * in a pipe (force = 1 always prints). log_progress_end leaves it standing. */
void log_progress(int force, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void log_progress_end(void);

#endif
