/* signals.c - SIGTERM and SIGINT ask once; the second one ends the process by itself. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "core/run/run.h"

static volatile sig_atomic_t stop_wanted, save_wanted;

static void on_stop(int signal_number) {
    static const char text[] = "\nstopping after this step and a save; once more leaves at once\n";
    int saved = errno;
    (void)signal_number;
    stop_wanted = 1;
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    ssize_t ignored = write(STDERR_FILENO, text, sizeof text - 1);
    (void)ignored;
    errno = saved;
}

static void on_save(int signal_number) {
    (void)signal_number;
    save_wanted = 1;
}

void run_signals(void) {
    struct sigaction stop, save;
    memset(&stop, 0, sizeof stop);
    stop.sa_flags = SA_RESTART;
    save = stop;
    stop.sa_handler = on_stop;
    save.sa_handler = on_save;
    stop_wanted = save_wanted = 0;
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGUSR1, &save, NULL);
}

int run_stop_requested(void) {
    return stop_wanted != 0;
}

void run_request_stop(void) {
    stop_wanted = 1;
}

int run_save_requested(void) {
    int wanted = save_wanted != 0;
    if (wanted) save_wanted = 0;
    return wanted;
}
