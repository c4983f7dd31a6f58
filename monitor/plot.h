/* plot.h - `rlhf plot`: curves in a terminal, for machines that one reaches by ssh alone. */
#ifndef PLOT_H
#define PLOT_H

#include "core/base/status.h"
#include "monitor/series.h"

typedef struct {
    int width, height; /* of the picture with its margins, in characters */
    int utf8;          /* braille, eight dots a character; else ASCII, one */
    int log;           /* logarithmic, values above 0 only */
    int color;
} PlotStyle;

/* Appends one curve over steps with a headline; a curve without values says so. */
void plot_curve(Text *t, const Series *s, const char *metric, const char *run,
                const PlotStyle *style);

/* rlhf plot RUN_DIR [RUN_DIR ...] [METRIC ...] [--width N --height N --log --ascii]. Metrics may
 * have wildcards ("eval/" and a star); without one, the main ones of the run are drawn. */
Status plot_main(int argc, char **argv);

#endif
