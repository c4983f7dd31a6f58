/* events.h - TensorBoard's event files (TFRecord with CRC-32C, protocol buffers of
 * tensorflow.Event): scalars, distributions and texts. */
#ifndef EVENTS_H
#define EVENTS_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/text.h"
#include "core/run/metrics.h"

/* CRC-32C (Castagnoli), RFC 3720 B.4. */
uint32_t events_crc32c(const void *data, size_t n);

/* Each appends one whole record to t. */
void events_put_version(Text *t, double wall_time); /* the first of a file */
/* What follows continues at `step`: an open TensorBoard drops what it has beyond. */
void events_put_start(Text *t, double wall_time, int64_t step);
/* All finite metrics of a row, tags as they are named. */
void events_put_scalars(Text *t, double wall_time, int64_t step, const Metrics *m);
/* How n numbers are distributed, those that are finite; nothing when there is none. Tags must not
 * be those of scalars: TensorBoard keeps one kind of value per tag. */
void events_put_histogram(Text *t, double wall_time, int64_t step, const char *tag,
                          const float *values, int n);
/* A text, which TensorBoard renders as Markdown. */
void events_put_text(Text *t, double wall_time, int64_t step, const char *tag, const char *text,
                     size_t n);

#endif
