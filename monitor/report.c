/* report.c - see report.h. */
#include "monitor/report.h"

#include <stdio.h>
#include <string.h>

#include "core/base/file.h"
#include "core/base/log.h"
#include "monitor/page.h"

Status report_write(const char *out, const char *const *paths, int n) {
    RunViews runs;
    Text page = {0}, title = {0};
    TRY(views_open(&runs, paths, n, 0));
    views_title(&title, &runs);
    page_put(&page, title.s, &runs);
    Status s = file_write_atomic(out, page.s, page.len);
    text_release(&page);
    text_release(&title);
    views_close(&runs);
    return s;
}

Status report_main(int argc, char **argv) {
    const char *paths[VIEWS_MAX], *out = NULL;
    char standard[VIEW_PATH];
    int n = 0;
    for (int i = 0; i < argc; i++) {
        if (!strcmp(argv[i], "--out") && i + 1 < argc)
            out = argv[++i];
        else if (argv[i][0] == '-' || n == VIEWS_MAX)
            return status_fail(E_USAGE, "rlhf report RUN_DIR [RUN_DIR ...] [--out FILE.html]");
        else
            paths[n++] = argv[i];
    }
    if (!n) return status_fail(E_USAGE, "rlhf report RUN_DIR [RUN_DIR ...] [--out FILE.html]");
    if (!out) {
        if (snprintf(standard, sizeof standard, "%s/report.html", paths[0]) >= VIEW_PATH)
            return status_fail(E_USAGE, "the path is too long: %.100s...", paths[0]);
        out = standard;
    }
    TRY(report_write(out, paths, n));
    printf("%s\n", out);
    return OK;
}

void report_at_end(const char *dir) {
    char out[VIEW_PATH], sentence[1024];
    snprintf(sentence, sizeof sentence, "%s", status_message());
    Status s = snprintf(out, sizeof out, "%s/report.html", dir) < VIEW_PATH
                   ? report_write(out, &dir, 1)
                   : status_fail(E_USAGE, "the path is too long: %.100s...", dir);
    if (s == OK)
        log_info("the report is %s", out);
    else
        log_warn("no report was written: %s", status_message());
    if (sentence[0]) status_fail(s, "%s", sentence);
}
