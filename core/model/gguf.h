/* gguf.h - reads GGUF files (v2 and v3): metadata and tensors, dequantized row by row.
 *
 * The file is mapped; names and strings are checked to be UTF-8 without NUL, every length against
 * the file before it is used. A tensor's rows are its contiguous lines: dims[0] of the file is
 * `cols`. */
#ifndef GGUF_H
#define GGUF_H

#include <stddef.h>
#include <stdint.h>
#include "core/base/status.h"

typedef struct Gguf Gguf;
typedef enum { GGUF_OPTIONAL, GGUF_REQUIRED } GgufNeed;

typedef struct {
    const char *name;
    const char *dtype; /* "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K", or a
                          type that gguf_read refuses */
    size_t rows, cols; /* rows = product of the outer dimensions */
    size_t dims[4];    /* outermost first */
    int rank;
    int type; /* as numbered by ggml */
    const uint8_t *data;
    size_t bytes; /* 0 for types that gguf_read refuses */
} GgufTensor;

Status gguf_open(Gguf **g, const char *path);
void gguf_close(Gguf *g); /* NULL is fine */
const char *gguf_path(const Gguf *g);

/* Metadata by key. Absent: *out keeps its value when optional, else E_FORMAT with file and key. A
 * value of another type, or a number out of range, is E_FORMAT. What is returned lives as long as
 * g. */
Status gguf_str(Gguf *g, const char *key, GgufNeed need, const char **out);
Status gguf_int(const Gguf *g, const char *key, GgufNeed need, int *out);
Status gguf_float(const Gguf *g, const char *key, GgufNeed need, double *out);
Status gguf_bool(const Gguf *g, const char *key, GgufNeed need, int *out);
Status gguf_strings(Gguf *g, const char *key, GgufNeed need, const char *const **out, int *n);
Status gguf_ints(Gguf *g, const char *key, GgufNeed need, const int **out, int *n);

int gguf_n_tensors(const Gguf *g);
const GgufTensor *gguf_tensor_at(const Gguf *g, int i);         /* sorted by name */
const GgufTensor *gguf_tensor(const Gguf *g, const char *name); /* NULL when absent */

/* Rows first_row .. first_row + n_rows - 1 as floats, out[n_rows * cols]. */
Status gguf_read(const Gguf *g, const GgufTensor *t, size_t first_row, size_t n_rows, float *out);

#endif
