/* gguf_types.c - what ggml's number formats stand for. Blocks hold 32 values: a scale d (and for
 * Q4_1 a minimum m) in half precision, then the quants; 4-bit ones keep value i in the low and
 * value i + 16 in the high half of byte i. */
#include "core/model/gguf_types.h"
#include "core/base/status.h"
#include "core/model/half.h"

enum { F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q8_0 = 8, BF16 = 30, BLOCK = 32 };

static const char *const names[] = {
    "F32",     "F16",    "Q4_0",    "Q4_1",  "Q4_2",   "Q4_3",  "Q5_0",  "Q5_1",
    "Q8_0",    "Q8_1",   "Q2_K",    "Q3_K",  "Q4_K",   "Q5_K",  "Q6_K",  "Q8_K",
    "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS",
    "I8",      "I16",    "I32",     "I64",   "F64",    "IQ1_M", "BF16",
};

const char *gguf_type_name(uint32_t type) {
    return type < sizeof(names) / sizeof(*names) ? names[type] : "an unknown type";
}

static size_t block_bytes(int type) {
    return type == Q4_0 ? 18 : type == Q4_1 ? 20 : type == Q8_0 ? 34 : 0;
}

int gguf_row_bytes(int type, size_t cols, size_t *bytes) {
    if (type == F32 || type == F16 || type == BF16) {
        *bytes = cols * (type == F32 ? 4 : 2);
        return 1;
    }
    if (!block_bytes(type)) return 0;
    *bytes = cols % BLOCK ? 0 : cols / BLOCK * block_bytes(type);
    return 1;
}

static uint16_t u16_at(const uint8_t *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}

static void block_q8_0(const uint8_t *p, float *out) {
    float d = f16_to_f32(u16_at(p));
    for (int i = 0; i < BLOCK; i++) out[i] = d * (float)(int8_t)p[2 + i];
}

static void block_q4_0(const uint8_t *p, float *out) {
    float d = f16_to_f32(u16_at(p));
    for (int i = 0; i < BLOCK / 2; i++) {
        out[i] = d * (float)((p[2 + i] & 15) - 8);
        out[i + BLOCK / 2] = d * (float)((p[2 + i] >> 4) - 8);
    }
}

static void block_q4_1(const uint8_t *p, float *out) {
    float d = f16_to_f32(u16_at(p)), m = f16_to_f32(u16_at(p + 2));
    for (int i = 0; i < BLOCK / 2; i++) {
        out[i] = d * (float)(p[4 + i] & 15) + m;
        out[i + BLOCK / 2] = d * (float)(p[4 + i] >> 4) + m;
    }
}

void gguf_dequantize(int type, const uint8_t *data, size_t n, float *out) {
    if (n == 0) return;
    switch (type) {
    case F32: memcpy(out, data, n * 4); return;
    case F16:
        for (size_t i = 0; i < n; i++) out[i] = f16_to_f32(u16_at(data + 2 * i));
        return;
    case BF16:
        for (size_t i = 0; i < n; i++) out[i] = bf16_to_f32(u16_at(data + 2 * i));
        return;
    default: break;
    }
    void (*block)(const uint8_t *p, float *out) = type == Q8_0   ? block_q8_0
                                                  : type == Q4_0 ? block_q4_0
                                                                 : block_q4_1;
    size_t bytes = block_bytes(type);
    CHECK(bytes > 0 && n % BLOCK == 0);
    for (size_t b = 0; b < n / BLOCK; b++) block(data + b * bytes, out + b * BLOCK);
}
