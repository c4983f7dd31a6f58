/* metrics.c - a row of named numbers. */
#include "core/run/metrics.h"

#include <math.h>
#include <string.h>

#include "core/base/status.h"

static int find(const Metrics *m, const char *name) {
    for (int i = 0; i < m->n; i++)
        if (!strcmp(m->row[i].name, name)) return i;
    return -1;
}

void metrics_clear(Metrics *m) {
    m->n = 0;
}

void metrics_set(Metrics *m, const char *name, double value) {
    int i = find(m, name);
    if (i < 0) {
        CHECK(m->n < METRICS_MAX);
        i = m->n++;
        m->row[i].name = name;
    }
    m->row[i].value = value;
}

double metrics_get(const Metrics *m, const char *name) {
    int i = find(m, name);
    return i < 0 ? (double)NAN : m->row[i].value;
}
