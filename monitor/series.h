/* series.h - the columns of a metrics log in bounded memory, whatever the run's length.
 *
 * Up to SERIES_ROWS rows stand as they were logged. Beyond, `group` logged rows become two: of each
 * column the least and the greatest value, in the order in which they came, so that peaks stay. The
 * newest rows, less than a group, are always there as logged. */
#ifndef SERIES_H
#define SERIES_H

#include "core/base/json.h"
#include "core/base/memory.h"

enum { SERIES_ROWS = 4096, SERIES_GROUP = 1024, SERIES_NAMES = 256 };

typedef struct {
    const char *name;
    double *v; /* [rows]; NAN: not logged, or not finite */
} Column;

typedef struct {
    Column column[SERIES_NAMES];
    int n_columns, dropped; /* names beyond SERIES_NAMES */
    int n, pending;         /* settled rows; rows behind them, not yet a whole group */
    int group, every; /* logged rows per pair (1: none was joined); every so manieth is taken */
    long long rows;   /* logged so far */
    Arena arena;
} Series; /* {0} is empty */

void series_add(Series *s, const Json *row); /* its numbers and nulls */
void series_clear(Series *s);
int series_rows(const Series *s);
const Column *series_column(const Series *s, const char *name); /* NULL when there is none */
double series_last(const Series *s, const char *name);          /* NAN when there is none */

/* Appends {"name":[...],...}; a column that is mostly empty is {"at":[row,...],"v":[...]}. Seven
 * digits, which tell floats apart; steps and counts whole. */
void series_put(Text *t, const Series *s);

#endif
