/* terminal.c - see terminal.h. */
#include "core/base/terminal.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <unistd.h>

static const char *variable(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

int terminal_is(int fd) {
    return isatty(fd) && strcmp(variable("TERM"), "dumb") != 0;
}

int terminal_colors(int fd) {
    return terminal_is(fd) && !variable("NO_COLOR")[0];
}

/* The first of these that is set decides, as POSIX has it. */
int terminal_utf8(void) {
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *locale = variable(names[i]);
        if (locale[0]) return strcasestr(locale, "UTF-8") || strcasestr(locale, "UTF8");
    }
    return 0;
}

int terminal_columns(int fd) {
    struct winsize w;
    return ioctl(fd, TIOCGWINSZ, &w) == 0 && w.ws_col > 1 ? w.ws_col : 80;
}

static const char *skip_escape(const char *p) {
    if (p[0] != '\033' || p[1] != '[') return p;
    p += 2;
    while (*p && !(*p >= '@' && *p <= '~')) p++;
    return *p ? p + 1 : p;
}

size_t terminal_fit(const char *text, int columns) {
    const char *p = text;
    for (;;) {
        const char *behind = skip_escape(p);
        if (behind != p) {
            p = behind;
            continue;
        }
        if (!*p || columns-- <= 0) return (size_t)(p - text);
        p++;
        while (((unsigned char)*p & 0xc0) == 0x80) p++;
    }
}
