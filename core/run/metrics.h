/* metrics.h - one flat row of named numbers per step. */
#ifndef METRICS_H
#define METRICS_H

#include "core/base/text.h"

enum { METRICS_MAX = 96 };
typedef struct {
    struct {
        const char *name;
        double value;
    } row[METRICS_MAX]; /* names are literals */
    int n;
} Metrics;

void metrics_clear(Metrics *m);
void metrics_set(Metrics *m, const char *name,
                 double value);                         /* replaces; keeps order of first setting */
double metrics_get(const Metrics *m, const char *name); /* NAN when absent */

#endif
