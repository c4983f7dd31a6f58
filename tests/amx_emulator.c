/* amx_emulator.c - see amx_emulator.h. Encodings and operations after the Intel 64 and IA-32
 * Architectures Software Developer's Manual, volume 2: LDTILECFG, STTILECFG, TILERELEASE, TILEZERO,
 * TILELOADD[T1], TILESTORED, TDPBF16PS. */
#include "tests/amx_emulator.h"

#if defined(__x86_64__)
#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

typedef struct { /* as LDTILECFG reads it */
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes[16]; /* of a row */
    uint8_t rows[16];
} TileConfig;
_Static_assert(sizeof(TileConfig) == 64, "the layout is the processor's");

enum { TILES = 8, ROWS = 16, ROW_BYTES = 64 };

static _Thread_local TileConfig config;
static _Thread_local union {
    uint8_t bytes[ROW_BYTES];
    uint16_t bf16[ROW_BYTES / 2];
    float f32[ROW_BYTES / 4];
} tile[TILES][ROWS];

static void refuse(const char *why) {
    char text[160];
    int n = snprintf(text, sizeof text, "AMX emulator: %s\n", why);
    if (write(STDERR_FILENO, text, (size_t)n) < 0) _exit(99);
    abort();
}

/* --- an instruction: C4 [RXBmmmmm] [WvvvvLpp] opcode modrm [sib] [displacement] --- */

typedef struct {
    int prefix; /* pp: 0 none, 1 66, 2 F3, 3 F2 */
    int opcode, mod, reg, rm, vvvv;
    int base, index, scale; /* registers by number, -1: none */
    int64_t displacement;   /* with no base: from the next instruction */
    int rip_relative;
    size_t length;
} Instruction;

static int64_t read_signed(const uint8_t *p, size_t bytes) {
    int8_t one;
    int32_t four;
    memcpy(&one, p, 1);
    if (bytes == 1) return one;
    memcpy(&four, p, 4);
    return four;
}

static void decode_memory(Instruction *x, const uint8_t *p, int not_x, int not_b) {
    size_t n = 0, bytes = x->mod == 1 ? 1 : x->mod == 2 ? 4 : 0;
    x->base = x->rm | (not_b ? 0 : 8);
    if (x->rm == 4) {
        int sib = p[n++];
        x->scale = 1 << (sib >> 6);
        x->index = (sib >> 3 & 7) | (not_x ? 0 : 8);
        x->base = (sib & 7) | (not_b ? 0 : 8);
        if (x->index == 4) x->index = -1;
        if ((sib & 7) == 5 && x->mod == 0) x->base = -1, bytes = 4;
    } else if (x->rm == 5 && x->mod == 0) {
        x->base = -1, x->rip_relative = 1, bytes = 4;
    }
    if (bytes) x->displacement = read_signed(p + n, bytes);
    x->length += n + bytes;
}

/* 0: none of ours */
static int decode(Instruction *x, const uint8_t *p) {
    *x = (Instruction){.base = -1, .index = -1, .scale = 1, .length = 5};
    if (p[0] != 0xc4 || (p[1] & 0x1f) != 2 || p[2] & 0x84) return 0; /* 0F38, W0, 128 bits */
    x->prefix = p[2] & 3;
    x->vvvv = ~(p[2] >> 3) & 15;
    x->opcode = p[3];
    x->mod = p[4] >> 6;
    x->reg = p[4] >> 3 & 7;
    x->rm = p[4] & 7;
    if (x->mod != 3) decode_memory(x, p + 5, p[1] & 0x40, p[1] & 0x20);
    return x->opcode == 0x49 || x->opcode == 0x4b || x->opcode == 0x5c;
}

static uint64_t register_value(const ucontext_t *u, int number) {
    static const int places[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                 REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                 REG_R12, REG_R13, REG_R14, REG_R15};
    return number < 0 ? 0 : (uint64_t)u->uc_mcontext.gregs[places[number]];
}

/* --- what they do --- */

static void load_config(const void *from) {
    memcpy(&config, from, sizeof config);
    memset(tile, 0, sizeof tile);
    if (config.palette > 1) refuse("ldtilecfg: palette 1 is the only one");
    for (int t = 0; t < 16; t++) {
        if (config.palette && (config.rows[t] > ROWS || config.bytes[t] > ROW_BYTES))
            refuse("ldtilecfg: a tile of more than 16 rows of 64 bytes");
        if (config.palette && t >= TILES && (config.rows[t] || config.bytes[t]))
            refuse("ldtilecfg: a ninth tile");
    }
    for (int i = 0; i < 14; i++)
        if (config.reserved[i]) refuse("ldtilecfg: a reserved byte is not 0");
}

static void need(int t) {
    if (t >= TILES || config.palette != 1) refuse("a tile is used that this thread never set up");
    if (!config.rows[t] || !config.bytes[t]) refuse("a tile of no rows is used");
}

static void zero(int t) {
    need(t);
    memset(tile[t], 0, sizeof tile[t]);
}

static void load(int t, const uint8_t *from, uint64_t stride) {
    zero(t);
    for (int i = 0; i < config.rows[t]; i++)
        memcpy(tile[t][i].bytes, from + (uint64_t)i * stride, config.bytes[t]);
}

static void store(int t, uint8_t *to, uint64_t stride) {
    need(t);
    for (int i = 0; i < config.rows[t]; i++)
        memcpy(to + (uint64_t)i * stride, tile[t][i].bytes, config.bytes[t]);
}

static float flushed(float x) {
    return fpclassify(x) == FP_SUBNORMAL ? copysignf(0.0f, x) : x;
}

static float widened(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return flushed(x);
}

/* c += a b: chains over even and over odd k, then their sum onto c; denormals are 0 */
__attribute__((target("fma"))) static void dot(int c, int a, int b) {
    need(c), need(a), need(b);
    if (c == a || c == b || a == b) refuse("tdpbf16ps: a tile is two operands");
    if (config.bytes[a] % 4 || config.bytes[b] % 4) refuse("tdpbf16ps: a pair is cut in two");
    if (config.rows[c] != config.rows[a] || config.bytes[c] != config.bytes[b] ||
        config.bytes[a] / 4 != config.rows[b])
        refuse("tdpbf16ps: tiles that do not fit together");
    for (int m = 0; m < config.rows[c]; m++) {
        float chain[ROW_BYTES / 2] = {0};
        for (int k = 0; k < config.bytes[a] / 4; k++) {
            float even = widened(tile[a][m].bf16[2 * k]), odd = widened(tile[a][m].bf16[2 * k + 1]);
            for (int n = 0; n < config.bytes[c] / 4; n++) {
                float *e = chain + 2 * n, *o = e + 1;
                *e = flushed(__builtin_fmaf(even, widened(tile[b][k].bf16[2 * n]), *e));
                *o = flushed(__builtin_fmaf(odd, widened(tile[b][k].bf16[2 * n + 1]), *o));
            }
        }
        for (int n = 0; n < config.bytes[c] / 4; n++) {
            float sum = flushed(chain[2 * n] + chain[2 * n + 1]);
            tile[c][m].f32[n] = flushed(flushed(tile[c][m].f32[n]) + sum);
        }
    }
}

static void execute(const Instruction *x, uint8_t *at, uint64_t stride) {
    enum { NONE, P66, PF3, PF2 };
    int in_memory = x->mod != 3;
    int what = x->opcode << 8 | x->prefix << 4 | in_memory;
    if (x->opcode == 0x4b && x->rm != 4) refuse("a tile is loaded or stored without a stride");
    switch (what) {
    case 0x49 << 8 | NONE << 4 | 1: load_config(at); break;
    case 0x49 << 8 | P66 << 4 | 1: memcpy(at, &config, sizeof config); break;
    case 0x49 << 8 | NONE << 4 | 0: memset(&config, 0, sizeof config); break;
    case 0x49 << 8 | PF2 << 4 | 0: zero(x->reg); break;
    case 0x4b << 8 | PF2 << 4 | 1:
    case 0x4b << 8 | P66 << 4 | 1: load(x->reg, at, stride); break;
    case 0x4b << 8 | PF3 << 4 | 1: store(x->reg, at, stride); break;
    case 0x5c << 8 | PF3 << 4 | 0: dot(x->reg, x->rm, x->vvvv); break;
    default: refuse("an instruction that it does not know");
    }
}

static void on_trap(int signal, siginfo_t *info, void *context) {
    ucontext_t *u = context;
    Instruction x;
    (void)info;
    const uint8_t *at = (const uint8_t *)u->uc_mcontext.gregs[REG_RIP];
    if (!decode(&x, at)) {
        struct sigaction usual = {.sa_handler = SIG_DFL};
        sigaction(signal, &usual, NULL); /* traps again, for good */
        return;
    }
    uint64_t memory = register_value(u, x.base) + (uint64_t)x.displacement;
    uint64_t offset = register_value(u, x.index) * (uint64_t)x.scale;
    if (x.rip_relative) memory += (uint64_t)(uintptr_t)(at + x.length);
    /* of tiles the index is the stride, else a part of the address */
    if (x.opcode != 0x4b) memory += offset;
    execute(&x, (uint8_t *)memory, offset);
    u->uc_mcontext.gregs[REG_RIP] += (greg_t)x.length;
}

int amx_emulate(void) {
    struct sigaction how = {.sa_flags = SA_SIGINFO | SA_NODEFER};
    how.sa_sigaction = on_trap;
    sigemptyset(&how.sa_mask);
    return sigaction(SIGILL, &how, NULL) == 0;
}
#else
int amx_emulate(void) {
    return 0;
}
#endif
