/* status.h - how every fallible function reports failure.
 *
 * A fallible function returns a Status; the sentence for the user is kept per
 * thread and read with status_message(). Nothing below rlhf.c calls exit(). */
#ifndef STATUS_H
#define STATUS_H

typedef enum {
    OK = 0,
    E_USAGE = -1,     /* the caller's request makes no sense: bad flag, bad recipe */
    E_IO = -2,        /* a file could not be opened, read or written */
    E_FORMAT = -3,    /* a file was read but is not what it claims to be */
    E_MEMORY = -4,    /* host or device memory ran out */
    E_DEVICE = -5,    /* the backend failed; sticky until the process ends */
    E_NUMERIC = -6,   /* numbers went wrong: NaN, Inf, a run that cannot go on */
    E_STOPPED = -100, /* asked to stop (SIGTERM, SIGINT): state was saved, not a failure */
} Status;

/* Sets the calling thread's sentence (printf style, one line, no trailing newline); returns s. */
Status status_fail(Status s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Puts "context: " in front of the sentence already kept; returns s unchanged. */
Status status_context(Status s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The calling thread's last sentence; "" when there was none. Borrowed until the next failure. */
const char *status_message(void);

#define TRY(call)                                                                                  \
    do {                                                                                           \
        Status s_ = (call);                                                                        \
        if (s_ != OK) return s_;                                                                   \
    } while (0)

/* CHECK is for our own bugs only: always compiled, its condition always evaluated, ends by abort().
 */
#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) check_failed(#cond, __FILE__, __LINE__);                                      \
    } while (0)
__attribute__((noreturn)) void check_failed(const char *cond, const char *file, int line);

#endif
