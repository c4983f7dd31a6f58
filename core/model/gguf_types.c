/* gguf_types.c - what ggml's number formats stand for. Small blocks hold 32 values: a scale d (and
 * for Q4_1 a minimum m) in half precision, then the quants; 4-bit ones keep value i in the low and
 * value i + 16 in the high half of byte i. Large blocks (K) hold 256 values in parts, each with a
 * small scale (and minimum) of its own that d (and dmin) multiply. */
#include "core/model/gguf_types.h"
#include "core/base/status.h"
#include "core/model/half.h"

enum {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q8_0 = 8,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    BF16 = 30,
    BLOCK = 32,
    LARGE = 256
};

typedef struct {
    int type;
    size_t bytes, values;
    void (*read)(const uint8_t *p, float *out);
} Block;
static const Block *block_of(int type);

static const char *const names[] = {
    "F32",     "F16",    "Q4_0",    "Q4_1",  "Q4_2",   "Q4_3",  "Q5_0",  "Q5_1",
    "Q8_0",    "Q8_1",   "Q2_K",    "Q3_K",  "Q4_K",   "Q5_K",  "Q6_K",  "Q8_K",
    "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS",
    "I8",      "I16",    "I32",     "I64",   "F64",    "IQ1_M", "BF16",
};

const char *gguf_type_name(uint32_t type) {
    return type < sizeof(names) / sizeof(*names) ? names[type] : "an unknown type";
}

int gguf_row_bytes(int type, size_t cols, size_t *bytes) {
    if (type == F32 || type == F16 || type == BF16) {
        *bytes = cols * (type == F32 ? 4 : 2);
        return 1;
    }
    const Block *b = block_of(type);
    if (!b) return 0;
    *bytes = cols % b->values ? 0 : cols / b->values * b->bytes;
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

/* Part i of 8 in Q4_K and Q5_K: 6 bits each of scale and minimum, of the last four in two pieces.
 */
static void scale_min(const uint8_t *q, int i, float *scale, float *min) {
    if (i < 4) {
        *scale = (float)(q[i] & 63);
        *min = (float)(q[i + 4] & 63);
    } else {
        *scale = (float)((q[i + 4] & 15) | (q[i - 4] >> 6) << 4);
        *min = (float)(q[i + 4] >> 4 | (q[i] >> 6) << 4);
    }
}

/* high: a fifth bit of each value, by part; NULL for Q4_K */
static void block_k(const uint8_t *p, const uint8_t *high, const uint8_t *quants, float *out) {
    float d = f16_to_f32(u16_at(p)), dmin = f16_to_f32(u16_at(p + 2)), scale, min;
    for (int part = 0; part < 8; part++) {
        scale_min(p + 4, part, &scale, &min);
        for (int i = 0; i < 32; i++) {
            int q = quants[part / 2 * 32 + i] >> part % 2 * 4 & 15;
            if (high) q |= (high[i] >> part & 1) << 4;
            out[part * 32 + i] = d * scale * (float)q - dmin * min;
        }
    }
}

static void block_q4_k(const uint8_t *p, float *out) {
    block_k(p, NULL, p + 16, out);
}
static void block_q5_k(const uint8_t *p, float *out) {
    block_k(p, p + 16, p + 48, out);
}

/* four low bits, then two high ones, then a signed scale for each 16 values, then d */
static void block_q6_k(const uint8_t *p, float *out) {
    float d = f16_to_f32(u16_at(p + 208));
    for (int i = 0; i < LARGE; i++) {
        int half = i / 128, quarter = i % 128 / 32, at = i % 32;
        int low = p[half * 64 + quarter % 2 * 32 + at] >> quarter / 2 * 4 & 15;
        int high = p[128 + half * 32 + at] >> quarter * 2 & 3;
        out[i] = d * (float)(int8_t)p[192 + i / 16] * (float)((low | high << 4) - 32);
    }
}

static const Block *block_of(int type) {
    static const Block blocks[] = {{Q4_0, 18, BLOCK, block_q4_0},  {Q4_1, 20, BLOCK, block_q4_1},
                                   {Q8_0, 34, BLOCK, block_q8_0},  {Q4_K, 144, LARGE, block_q4_k},
                                   {Q5_K, 176, LARGE, block_q5_k}, {Q6_K, 210, LARGE, block_q6_k}};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        if (blocks[i].type == type) return &blocks[i];
    return NULL;
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
    const Block *b = block_of(type);
    CHECK(b && n % b->values == 0);
    for (size_t i = 0; i < n / b->values; i++) b->read(data + i * b->bytes, out + i * b->values);
}
