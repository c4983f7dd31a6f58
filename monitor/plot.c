/* plot.c - see plot.h. */
#include "monitor/plot.h"

#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/file.h"
#include "core/base/terminal.h"
#include "core/run/settings.h"
#include "monitor/view.h"

enum { MARGIN = 11, WIDTH_MAX = 400, HEIGHT_MAX = 100, PATHS_MAX = 64 };

/* --- a canvas of dots: 2 x 4 in a braille character, 1 x 1 in ASCII --- */

typedef struct {
    int columns, rows, wide, high; /* characters; dots in one */
    uint8_t cell[HEIGHT_MAX][WIDTH_MAX];
} Canvas;

static void set_dot(Canvas *c, int x, int y) {
    static const uint8_t dots[4][2] = {{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};
    if (x < 0 || y < 0 || x >= c->columns * c->wide || y >= c->rows * c->high) return;
    int row = c->rows - 1 - y / c->high;
    c->cell[row][x / c->wide] |= dots[c->high - 1 - y % c->high][x % c->wide];
}

static void put_cell(Text *t, const Canvas *c, uint8_t bits) {
    if (c->wide == 1) {
        text_add(t, bits ? "*" : " ");
    } else if (!bits) {
        text_add(t, " ");
    } else { /* U+2800 + bits */
        char braille[3] = {(char)0xe2, (char)(0xa0 + (bits >> 6)), (char)(0x80 + (bits & 63))};
        text_add_bytes(t, braille, 3);
    }
}

/* --- a curve on it --- */

typedef struct {
    double x0, x1, y0, y1;
} Range;

static double height_of(double v, const PlotStyle *style) {
    if (!isfinite(v) || (style->log && v <= 0)) return (double)NAN;
    return style->log ? log10(v) : v;
}

static int range_of(Range *r, const Series *s, const Column *c, const PlotStyle *style) {
    const Column *step = series_column(s, "step");
    int found = 0;
    *r = (Range){INFINITY, -INFINITY, INFINITY, -INFINITY};
    for (int i = 0; step && c && i < series_rows(s); i++) {
        double y = height_of(c->v[i], style);
        if (isnan(y) || isnan(step->v[i])) continue;
        r->x0 = fmin(r->x0, step->v[i]), r->x1 = fmax(r->x1, step->v[i]);
        r->y0 = fmin(r->y0, y), r->y1 = fmax(r->y1, y);
        found++;
    }
    if (r->y0 == r->y1) { /* flat: in the middle */
        double room = r->y0 != 0.0 ? fabs(r->y0) * 0.5 : 1.0;
        r->y0 -= room, r->y1 += room;
    }
    return found;
}

static int place(double v, double low, double high, int dots) {
    return high > low ? (int)lround((v - low) / (high - low) * (dots - 1)) : dots / 2;
}

static void draw(Canvas *canvas, const Series *s, const Column *c, const Range *r,
                 const PlotStyle *style) {
    const Column *step = series_column(s, "step");
    int px = -1, py = 0;
    for (int i = 0; i < series_rows(s); i++) {
        double v = height_of(c->v[i], style);
        if (isnan(v) || isnan(step->v[i])) continue;
        int x = place(step->v[i], r->x0, r->x1, canvas->columns * canvas->wide);
        int y = place(v, r->y0, r->y1, canvas->rows * canvas->high);
        int n = px < 0 ? 1 : abs(x - px) > abs(y - py) ? abs(x - px) : abs(y - py);
        for (int k = 1; k <= n; k++)
            set_dot(canvas, px < 0 ? x : px + (x - px) * k / n, px < 0 ? y : py + (y - py) * k / n);
        if (!n) set_dot(canvas, x, y);
        px = x, py = y;
    }
}

static void put_label(Text *t, double v, const PlotStyle *style) {
    text_addf(t, "%*.4g ", MARGIN - 2, style->log ? pow(10.0, v) : v);
}

static void put_canvas(Text *t, const Canvas *c, const Range *r, const PlotStyle *style) {
    const char *side = style->utf8 ? "│" : "|", *tick = style->utf8 ? "┤" : "+";
    for (int row = 0; row < c->rows; row++) {
        int labelled = row == 0 || row == c->rows - 1 || row == c->rows / 2;
        double v = r->y1 - (r->y1 - r->y0) * row / (c->rows - 1);
        if (labelled)
            put_label(t, v, style);
        else
            text_addf(t, "%*s", MARGIN - 1, "");
        text_add(t, labelled ? tick : side);
        if (style->color) text_add(t, "\033[36m");
        int last = c->columns;
        while (last > 0 && !c->cell[row][last - 1]) last--;
        for (int i = 0; i < last; i++) put_cell(t, c, c->cell[row][i]);
        text_add(t, style->color ? "\033[0m\n" : "\n");
    }
    text_addf(t, "%*s%s", MARGIN - 1, "", style->utf8 ? "└" : "+");
    for (int i = 0; i < c->columns; i++) text_add(t, style->utf8 ? "─" : "-");
    text_addf(t, "\n%*s%-*.0f%*.0f\n", MARGIN, "", c->columns / 2, r->x0,
              c->columns - c->columns / 2, r->x1);
}

static int bounded(int v, int low, int high) {
    return v < low ? low : v > high ? high : v;
}

void plot_curve(Text *t, const Series *s, const char *metric, const char *run,
                const PlotStyle *style) {
    const Column *c = series_column(s, metric);
    Range r;
    text_addf(t, "%s%s%s  %s", style->color ? "\033[1m" : "", metric, style->color ? "\033[0m" : "",
              run);
    if (!range_of(&r, s, c, style)) {
        text_addf(t, ": no values%s\n", style->log ? " above 0" : "");
        return;
    }
    text_addf(t, "  last %.5g%s\n", series_last(s, metric), style->log ? ", logarithmic" : "");
    Canvas *canvas = calloc(1, sizeof *canvas);
    CHECK(canvas);
    canvas->columns = bounded(style->width - MARGIN, 8, WIDTH_MAX);
    canvas->rows = bounded(style->height - 3, 2, HEIGHT_MAX);
    canvas->wide = style->utf8 ? 2 : 1;
    canvas->high = style->utf8 ? 4 : 1;
    draw(canvas, s, c, &r, style);
    put_canvas(t, canvas, &r, style);
    free(canvas);
}

/* --- the command --- */

typedef struct {
    const char *paths[PATHS_MAX], *metrics[PATHS_MAX];
    int n_paths, n_metrics;
    PlotStyle style;
} Request;

static Status usage(void) {
    return status_fail(E_USAGE, "rlhf plot RUN_DIR [RUN_DIR ...] [METRIC ...] [--width N] "
                                "[--height N] [--log] [--ascii]");
}

static Status take_size(int *out, const char *text, const char *name) {
    char *end;
    long v = strtol(text, &end, 10);
    if (*end || v < 4 || v > WIDTH_MAX)
        return status_fail(E_USAGE, "%s %s must be a number from 4 to %d", name, text, WIDTH_MAX);
    *out = (int)v;
    return OK;
}

static Status take_arguments(Request *q, int argc, char **argv) {
    for (int i = 0; i < argc; i++) {
        const char *a = argv[i];
        int size = !strcmp(a, "--width") || !strcmp(a, "--height");
        if (size && i + 1 < argc)
            TRY(take_size(a[2] == 'w' ? &q->style.width : &q->style.height, argv[++i], a));
        else if (!strcmp(a, "--log"))
            q->style.log = 1;
        else if (!strcmp(a, "--ascii"))
            q->style.utf8 = 0;
        else if (a[0] == '-' || q->n_paths == PATHS_MAX || q->n_metrics == PATHS_MAX)
            return usage();
        else if (file_is_dir(a))
            q->paths[q->n_paths++] = a;
        else
            q->metrics[q->n_metrics++] = a;
    }
    return q->n_paths ? OK : usage();
}

/* What is looked at first, whatever kind of run it is. */
static const char *const main_metrics[] = {
    "loss",
    "eval/loss",
    "accuracy",
    "objective/raw_scores",
    "objective/kl",
    "rewards/margins",
    "rewards/accuracies",
    "policy/entropy_avg",
    "response_length/mean",
};

static int matches(const Request *q, const char *name) {
    if (!q->n_metrics) {
        for (size_t i = 0; i < sizeof main_metrics / sizeof *main_metrics; i++)
            if (!strcmp(main_metrics[i], name)) return 1;
        return 0;
    }
    for (int i = 0; i < q->n_metrics; i++)
        if (fnmatch(q->metrics[i], name, 0) == 0) return 1;
    return 0;
}

static int drawable(const RunView *v, const char *name) {
    return strcmp(name, "step") && strcmp(name, "wall_time") &&
           !isnan(series_last(&v->series, name));
}

static Status unknown_metric(const RunViews *runs, const char *wanted) {
    const char *known[SERIES_NAMES];
    int n = 0;
    for (int i = 0; i < runs->n && n < SERIES_NAMES; i++)
        for (int k = 0; k < runs->run[i]->series.n_columns && n < SERIES_NAMES; k++)
            known[n++] = runs->run[i]->series.column[k].name;
    const char *near = settings_nearest(wanted, known, n);
    return near ? status_fail(E_USAGE, "no run has a metric \"%s\"; did you mean \"%s\"?", wanted,
                              near)
                : status_fail(E_USAGE, "no run has a metric \"%s\", and it is no folder", wanted);
}

static Status check_metrics(const Request *q, const RunViews *runs) {
    for (int m = 0; m < q->n_metrics; m++) {
        int found = 0;
        for (int i = 0; i < runs->n; i++)
            for (int k = 0; k < runs->run[i]->series.n_columns; k++)
                found |= fnmatch(q->metrics[m], runs->run[i]->series.column[k].name, 0) == 0;
        if (!found) return unknown_metric(runs, q->metrics[m]);
    }
    return OK;
}

Status plot_main(int argc, char **argv) {
    int columns = terminal_columns(STDOUT_FILENO);
    Request q = {.style = {.width = columns < 100 ? columns : 100,
                           .height = 14,
                           .utf8 = terminal_utf8(),
                           .color = terminal_colors(STDOUT_FILENO)}};
    RunViews runs;
    Text t = {0};
    TRY(take_arguments(&q, argc, argv));
    TRY(views_open(&runs, q.paths, q.n_paths, 0));
    Status s = check_metrics(&q, &runs);
    for (int i = 0; s == OK && i < runs.n; i++) {
        const RunView *v = runs.run[i];
        for (int k = 0; k < v->series.n_columns; k++) {
            const char *name = v->series.column[k].name;
            if (matches(&q, name) && drawable(v, name))
                plot_curve(&t, &v->series, name, v->name, &q.style);
        }
    }
    if (s == OK && t.s) fputs(t.s, stdout);
    text_release(&t);
    views_close(&runs);
    return s;
}
