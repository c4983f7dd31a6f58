/* safetensors.h - reads and writes .safetensors files: u64 header length, JSON header, tensor data.
 *
 * The file is mapped and everything in the header is checked before it is used: tensors cover the
 * data exactly, without holes or overlaps. A tensor's data may lie at any address; read it with
 * safetensors_read_f32 or memcpy. */
#ifndef SAFETENSORS_H
#define SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>
#include "core/base/file.h"

typedef struct Safetensors Safetensors;
typedef enum {
    SAFETENSORS_F32,
    SAFETENSORS_F16,
    SAFETENSORS_BF16,
    SAFETENSORS_OTHER
} SafetensorsType;

typedef struct {
    const char *name;
    const char *dtype_name; /* "F32", "I64", ... */
    SafetensorsType dtype;
    int rank; /* 0: one value */
    const size_t *shape;
    size_t count; /* values: the product of the shape */
    const uint8_t *data;
    size_t bytes;
} SafetensorsTensor;

Status safetensors_open(Safetensors **s, const char *path);
void safetensors_close(Safetensors *s); /* NULL is fine */

int safetensors_size(const Safetensors *s);
const SafetensorsTensor *safetensors_at(const Safetensors *s, int i); /* in the order of the data */
const SafetensorsTensor *safetensors_find(const Safetensors *s,
                                          const char *name);             /* NULL when absent */
const char *safetensors_metadata(const Safetensors *s, const char *key); /* NULL when absent */

/* Values first .. first + count - 1 as floats; E_FORMAT names a dtype other than F32, F16 and BF16.
 */
Status safetensors_read_f32(const SafetensorsTensor *t, size_t first, size_t count, float *out);

/* Writing: the header first, then the data of every entry in order, in pieces of any size. The file
 * appears under its name at commit. */
typedef struct {
    const char *name;
    const char *dtype; /* a dtype of the format: "F32", "BF16", ... */
    int rank;
    size_t shape[4];
} SafetensorsEntry;

typedef struct {
    FileWriter file;
    uint64_t end; /* the length of the finished file */
} SafetensorsWriter;

Status safetensors_writer_open(SafetensorsWriter *w, const char *path,
                               const SafetensorsEntry *entries, int n);
Status safetensors_writer_write(SafetensorsWriter *w, const void *data, size_t bytes);
Status safetensors_writer_commit(
    SafetensorsWriter *w); /* E_USAGE when data is missing; aborts on failure */
void safetensors_writer_abort(SafetensorsWriter *w);

#endif
