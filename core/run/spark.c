/* spark.c - see spark.h. */
#include "core/run/spark.h"

#include <math.h>
#include <string.h>

/* Full: two neighbours become one. */
static void halve(Spark *s) {
    for (int i = 0; i < SPARK_MAX / 2; i++)
        s->mean[i] = 0.5 * (s->mean[2 * i] + s->mean[2 * i + 1]);
    s->n = SPARK_MAX / 2;
    s->per *= 2;
}

void spark_add(Spark *s, double v) {
    if (!isfinite(v)) return;
    if (!s->per) s->per = 1;
    if (s->n == 0 || s->filled == s->per) {
        if (s->n == SPARK_MAX) halve(s);
        s->n++;
        s->filled = 0;
        s->mean[s->n - 1] = 0.0;
    }
    double *last = &s->mean[s->n - 1];
    *last += (v - *last) / ++s->filled;
}

void spark_text(char out[SPARK_TEXT], const Spark *s, int utf8) {
    static const char *const blocks[8] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    static const char *const ascii[8] = {"_", ".", ",", "-", "~", "=", "^", "#"};
    double low = INFINITY, high = -INFINITY;
    for (int i = 0; i < s->n; i++) low = fmin(low, s->mean[i]), high = fmax(high, s->mean[i]);
    out[0] = '\0';
    for (int i = 0; i < s->n; i++) {
        double height = high > low ? (s->mean[i] - low) / (high - low) : 0.5;
        int k = (int)(height * 7.0 + 0.5);
        strcat(out, (utf8 ? blocks : ascii)[k]);
    }
}
