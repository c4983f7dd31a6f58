/* safetensors_types.h - the dtypes of the format; private to its reader and writer. */
#ifndef SAFETENSORS_TYPES_H
#define SAFETENSORS_TYPES_H

#include "core/model/safetensors.h"

typedef struct {
    const char *name;
    size_t bytes;
    SafetensorsType type;
} DtypeInfo;

const DtypeInfo *safetensors_dtype(const char *name); /* NULL when unknown */

#endif
