/* gguf_types.h - ggml's number formats; private to the GGUF reader. */
#ifndef GGUF_TYPES_H
#define GGUF_TYPES_H

#include <stddef.h>
#include <stdint.h>

/* "Q4_1", or "an unknown type". */
const char *gguf_type_name(uint32_t type);
/* Bytes of `cols` values, 0 when they are no whole number of blocks. Returns 0 for types that
 * cannot be dequantized here. */
int gguf_row_bytes(int type, size_t cols, size_t *bytes);
/* n values, whole blocks. */
void gguf_dequantize(int type, const uint8_t *data, size_t n, float *out);

#endif
