/* series.c - see series.h. */
#include "monitor/series.h"

#include <math.h>
#include <string.h>

/* What a row is placed by: of a group the first and the last, not the least and the greatest. */
static int is_axis(const char *name) {
    return !strcmp(name, "step") || !strcmp(name, "wall_time") || !strcmp(name, "tokens") ||
           !strcmp(name, "samples");
}

int series_rows(const Series *s) {
    return s->n + s->pending;
}

const Column *series_column(const Series *s, const char *name) {
    for (int i = 0; i < s->n_columns; i++)
        if (!strcmp(s->column[i].name, name)) return &s->column[i];
    return NULL;
}

double series_last(const Series *s, const char *name) {
    const Column *c = series_column(s, name);
    for (int i = series_rows(s) - 1; c && i >= 0; i--)
        if (!isnan(c->v[i])) return c->v[i];
    return (double)NAN;
}

static Column *column_of(Series *s, const char *name, int hint) {
    /* rows of a log have their keys in the same order */
    if (hint < s->n_columns && !strcmp(s->column[hint].name, name)) return &s->column[hint];
    Column *c = (Column *)series_column(s, name);
    if (c) return c;
    if (s->n_columns == SERIES_NAMES) {
        s->dropped++;
        return NULL;
    }
    c = &s->column[s->n_columns++];
    c->name = arena_strdup(&s->arena, name);
    c->v = arena_alloc(&s->arena, (SERIES_ROWS + SERIES_GROUP) * sizeof *c->v);
    for (int i = 0; i < SERIES_ROWS + SERIES_GROUP; i++) c->v[i] = (double)NAN;
    return c;
}

/* v[from..from+count) become the two values to[0] and to[1]. */
static void join(double to[2], const double *v, int count, int axis) {
    int low = -1, high = -1;
    for (int i = 0; i < count; i++) {
        if (isnan(v[i])) continue;
        if (low < 0 || v[i] < v[low]) low = i;
        if (high < 0 || v[i] > v[high]) high = i;
    }
    double pair[2] = {(double)NAN, (double)NAN};
    if (axis) {
        pair[0] = v[0], pair[1] = v[count - 1];
    } else if (low == high && low >= 0) {
        pair[low >= count / 2] = v[low];
    } else if (low >= 0) {
        pair[0] = v[low < high ? low : high];
        pair[1] = v[low < high ? high : low];
    }
    to[0] = pair[0], to[1] = pair[1];
}

static void join_columns(Series *s, int to, int from, int count) {
    for (int i = 0; i < s->n_columns; i++)
        join(s->column[i].v + to, s->column[i].v + from, count, is_axis(s->column[i].name));
}

static void empty_rows(Series *s, int from, int to) {
    for (int i = 0; i < s->n_columns; i++)
        for (int k = from; k < to; k++) s->column[i].v[k] = (double)NAN;
}

/* The rows are full: two pairs become one. */
static void halve(Series *s) {
    for (int from = 0, to = 0; from < s->n; from += 4, to += 2) join_columns(s, to, from, 4);
    empty_rows(s, s->n / 2, s->n);
    s->n /= 2;
    if (s->group == 1)
        s->group = 4;
    else if (s->group < SERIES_GROUP)
        s->group *= 2;
    else
        s->every *= 2;
}

static void settle(Series *s) {
    if (s->group > 1) {
        join_columns(s, s->n, s->n, s->pending);
        empty_rows(s, s->n + 2, s->n + s->pending);
        s->n += 2;
    } else {
        s->n++;
    }
    s->pending = 0;
    if (s->n == SERIES_ROWS) halve(s);
}

void series_add(Series *s, const Json *row) {
    if (!s->group) s->group = s->every = 1;
    if (s->rows++ % s->every) return;
    int at = s->n + s->pending++, i = 0;
    for (const Json *m = json_first(row); m; m = json_next(m), i++) {
        Column *c = json_type(m) == JSON_NUMBER ? column_of(s, json_key(m), i) : NULL;
        if (c) c->v[at] = json_num(m);
    }
    if (s->pending == s->group) settle(s);
}

void series_clear(Series *s) {
    arena_release(&s->arena);
    *s = (Series){0};
}

static void put_number(Text *t, double v) {
    if (!isfinite(v))
        text_add(t, "null");
    else if (v == floor(v) && fabs(v) < 1e15)
        text_addf(t, "%.0f", v);
    else
        text_addf(t, "%.*g", fabs(v) >= 1e7 ? 13 : 7, v); /* wall_time to the millisecond */
}

static void put_column(Text *t, const double *v, int n) {
    text_add(t, "[");
    for (int i = 0; i < n; i++) {
        if (i) text_add(t, ",");
        put_number(t, v[i]);
    }
    text_add(t, "]");
}

static void put_sparse(Text *t, const double *v, int n) {
    const char *between = "";
    text_add(t, "{\"at\":[");
    for (int i = 0; i < n; i++)
        if (!isnan(v[i])) text_addf(t, "%s%d", between, i), between = ",";
    text_add(t, "],\"v\":[");
    between = "";
    for (int i = 0; i < n; i++) {
        if (isnan(v[i])) continue;
        text_add(t, between);
        put_number(t, v[i]);
        between = ",";
    }
    text_add(t, "]}");
}

void series_put(Text *t, const Series *s) {
    int n = series_rows(s);
    text_add(t, "{");
    for (int i = 0; i < s->n_columns; i++) {
        const double *v = s->column[i].v;
        int empty = 0;
        for (int k = 0; k < n; k++) empty += isnan(v[k]);
        json_put_key(t, s->column[i].name);
        if (empty > n / 2)
            put_sparse(t, v, n);
        else
            put_column(t, v, n);
    }
    text_add(t, "}");
}
