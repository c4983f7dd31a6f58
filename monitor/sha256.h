/* sha256.h - SHA-256 (FIPS 180-4), for the hashes of a Content-Security-Policy. */
#ifndef SHA256_H
#define SHA256_H

#include <stddef.h>
#include <stdint.h>

void sha256(uint8_t out[32], const void *data, size_t n);
/* 44 characters of base64 and a NUL. */
void sha256_base64(char out[45], const void *data, size_t n);

#endif
