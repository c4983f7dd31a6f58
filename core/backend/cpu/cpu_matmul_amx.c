/* cpu_matmul_amx.c - matrix products in bf16 by AMX tiles, over the avx512_bf16 page; with
 * CPU_DOT_PLAIN the instructions are in plain C over the portable page, so that tests see the
 * packing and the edges on any machine.
 *
 * Both operands are packed in tiles of 16 x 32 bf16: A's rows m with k side by side; of B, a pair
 * of k for each of 16 columns side by side (VNNI). Panels have two tiles of columns, adjacent for
 * each step of 32 k. What lies beyond M, N or K is 0 and adds nothing. An element's order of
 * summation depends on k alone: every M goes through the same instructions. A weight gradient sums
 * tokens in steps of 32 from the stored value: in f32, but it depends on where batches are cut. */
#include "core/backend/cpu/product.h"

#include <string.h>

enum {
    K_STEP = 32,        /* k of a tile */
    TILE = 16 * K_STEP, /* elements of a tile */
    MR = 32,            /* rows and columns that are computed at once: 2 x 2 tiles */
    NR = 32,
    KC = 512, /* where B is packed on the way: 512 KiB with its columns */
    KC_PACKED = 2048,
    A_ROOM = 512 * KC,
    B_ROOM = 512 * KC,
    PATCH = 512 * 512
};

/* --- packing --- */

/* Words of 16 columns from column `at` of rows row0 and row0 + stride: the first in the lower half.
 * `rows` of them are there (0..2), n of the columns. */
static inline void pair_rows(uint32_t *to, Buf x, size_t at, size_t stride, int rows, int n) {
    for (int j = 0; j < 16; j += VW) {
        int low = rows > 0 ? n - j : 0, high = rows > 1 ? n - j : 0;
        vf pairs = vpairs(any_upto(x, at + j, low), any_upto(x, at + stride + j, high));
        vstore((float *)(void *)(to + j), pairs);
    }
}

/* The first n of 32 neighbours, rounded; 0 behind them. */
static inline void row_of_tile(uint16_t *to, Buf x, size_t at, int n) {
    for (int j = 0; j < K_STEP; j += VW) vstore_bf16(to + j, any_upto(x, at + j, n - j));
}

/* to[j][i] = from[i][j], 16 x 16 words */
static void transpose_words(uint32_t *to, const uint32_t *from) {
    vf r[VW];
    for (int i = 0; i < 16; i += VW) {
        for (int j = 0; j < 16; j += VW) {
            for (int u = 0; u < VW; u++) r[u] = vload((const float *)(from + (i + u) * 16 + j));
            vtranspose(r);
            for (int u = 0; u < VW; u++) vstore((float *)(to + (j + u) * 16 + i), r[u]);
        }
    }
}

static inline uint32_t *as_words(uint16_t *p) { /* all access is by vectors that may alias */
    return (uint32_t *)(void *)p;
}

/* Rows m.. and k.. of A as a tile; n_m and n_k of them are there. */
static void a_tile(uint16_t *to, const Product *p, int m, int n_m, int k, int n_k) {
    _Alignas(64) uint32_t pairs[16 * 16];
    size_t at = (size_t)m * p->a_row + (size_t)k * p->a_col;
    if (p->a_col == 1) {
        for (int i = 0; i < 16; i++)
            row_of_tile(to + i * K_STEP, p->A, at + (size_t)i * p->a_row, i < n_m ? n_k : 0);
        return;
    }
    for (int i = 0; i < 16; i++) /* A transposed: a_row is 1 */
        pair_rows(pairs + i * 16, p->A, at + 2 * i * p->a_col, p->a_col, n_k - 2 * i, n_m);
    transpose_words(as_words(to), pairs);
}

/* in the thread's scratch: a block of A, a block of B, the patch */
static inline uint16_t *a_block(void) {
    return cpu_scratch();
}
static inline uint16_t *b_block(void) {
    return a_block() + A_ROOM;
}
static inline float *patch(void) {
    return (float *)(void *)(b_block() + B_ROOM);
}
_Static_assert((A_ROOM + B_ROOM + 2 * PATCH) * sizeof(uint16_t) <= CPU_SCRATCH, "scratch");

/* groups of 32 rows, in each its steps of k, in each two tiles of rows */
static void pack_a(const Product *p, int m0, int m1, int k0, int kc) {
    uint16_t *to = a_block();
    for (int m = m0; m < m1; m += MR)
        for (int k = 0; k < kc; k += K_STEP)
            for (int half = 0; half < MR; half += 16, to += TILE)
                a_tile(to, p, m + half, m1 - m - half, k0 + k, kc - k);
}

static void unpack_quantized(const Product *p, int panel0, int panel1, int k0, int kc) {
    uint16_t *to = b_block();
    _Alignas(64) uint16_t columns[TILE];
    float v[K_STEP];
    for (int panel = panel0; panel < panel1; panel++)
        for (int k = 0; k < kc; k += K_STEP)
            for (int half = 0; half < NR; half += 16, to += TILE) {
                for (int j = 0; j < 16; j++) {
                    quantized_block(v, p, panel * NR + half + j, k0 + k);
                    row_of_tile(columns + j * K_STEP, (Buf){v, DT_F32}, 0, K_STEP);
                }
                transpose_words(as_words(to), as_words(columns));
            }
}

static void pack_panels(const Product *p, int panel0, int panel1, int k0, int kc) {
    uint32_t *to = as_words(b_block());
    if (dtype_quantized(p->B.dtype)) {
        unpack_quantized(p, panel0, panel1, k0, kc);
        return;
    }
    for (int panel = panel0; panel < panel1; panel++) {
        for (int k = 0; k < kc; k += K_STEP) {
            for (int half = 0; half < NR; half += 16) {
                size_t at = (size_t)(k0 + k) * p->ldb + (size_t)(panel * NR + half);
                int n = p->N - panel * NR - half;
                for (int i = 0; i < 16; i++, to += 16)
                    pair_rows(to, p->B, at + (size_t)(2 * i) * p->ldb, (size_t)p->ldb,
                              kc - k - 2 * i, n);
            }
        }
    }
}

static size_t packed_count(Backend *b, Dtype w, int O, int K) {
    (void)b;
    if (dtype_quantized(w)) return 0; /* unpacked block by block, on the way */
    return (size_t)ceil_div(O, NR) * NR * (size_t)ceil_div(K, K_STEP) * K_STEP;
}

static void pack_range(void *ctx, int first, int last) {
    const Mat *m = ctx;
    size_t steps = (size_t)ceil_div(m->K, K_STEP);
    _Alignas(64) uint16_t columns[TILE];
    for (int panel = first; panel < last; panel++) {
        uint16_t *to = bf16(m->packed) + (size_t)panel * steps * 2 * TILE;
        for (int k = 0; k < m->K; k += K_STEP) {
            for (int half = 0; half < NR; half += 16, to += TILE) {
                for (int j = 0; j < 16; j++) {
                    int o = panel * NR + half + j;
                    row_of_tile(columns + j * K_STEP, m->w, (size_t)o * m->K + (size_t)k,
                                o < m->O ? m->K - k : 0);
                }
                transpose_words(as_words(to), as_words(columns));
            }
        }
    }
}

/* --- the instructions: t[32][32] (+)= a b over `steps` steps, of which `rows` rows are wanted ---
 */

#if defined(CPU_DOT_PLAIN)
static _Thread_local float tmm[8][16][16];
static void tiles_configure(void) {}
#define TILE_ZERO(t)               memset(tmm[t], 0, sizeof tmm[t])
#define TILE_LOAD(t, from, stride) plain_load(tmm[t], from, stride)
#define TILE_STORE(t, to, stride)                                                                  \
    do {                                                                                           \
        for (int i_ = 0; i_ < 16; i_++) memcpy((char *)(to) + i_ * (stride), tmm[t][i_], 64);      \
    } while (0)
#define TILE_DOT(c, a, b) plain_dot(tmm[c], (const void *)tmm[a], (const void *)tmm[b])
static void plain_load(void *tile, const void *from, size_t stride) {
    for (int i = 0; i < 16; i++) memcpy((char *)tile + i * 64, (const char *)from + i * stride, 64);
}
static void plain_dot(float c[16][16], const uint16_t *a, const uint16_t *b) {
    for (int m = 0; m < 16; m++) {
        for (int n = 0; n < 16; n++) {
            float even = 0.0f, odd = 0.0f;
            for (int k = 0; k < K_STEP; k += 2) {
                even = sfma(aget(a[m * K_STEP + k]), aget(b[k * 16 + 2 * n]), even);
                odd = sfma(aget(a[m * K_STEP + k + 1]), aget(b[k * 16 + 2 * n + 1]), odd);
            }
            c[m][n] += even + odd;
        }
    }
}
#else
#include "core/backend/cpu/amx.h"
#endif
#if !defined(TILE_STREAM)
#define TILE_STREAM TILE_LOAD
#endif

/* With few rows the next weights would come too late (expected of AMX, measured of others). */
static inline void ask_for_step(const uint16_t *b) {
    for (int i = 0; i < 2 * TILE; i += 64 / (int)sizeof *b) __builtin_prefetch(b + i, 0, 2);
}

static void dot_tiles(float *t, const uint16_t *a, const uint16_t *b, int steps, int rows,
                      int add) {
    size_t ld = NR * sizeof *t;
    tiles_configure();
    if (add) {
        TILE_LOAD(0, t, ld);
        TILE_LOAD(1, t + 16, ld);
        TILE_LOAD(2, t + 16 * NR, ld);
        TILE_LOAD(3, t + 16 * NR + 16, ld);
    } else {
        TILE_ZERO(0);
        TILE_ZERO(1);
        TILE_ZERO(2);
        TILE_ZERO(3);
    }
    for (int s = 0; s < steps; s++, a += 2 * TILE, b += 2 * TILE) {
        TILE_LOAD(4, a, 64);
        TILE_STREAM(6, b, 64);
        TILE_STREAM(7, b + TILE, 64);
        TILE_DOT(0, 4, 6);
        TILE_DOT(1, 4, 7);
        if (rows <= 16) {
            ask_for_step(b + 2 * TILE);
            continue;
        }
        TILE_LOAD(5, a + TILE, 64);
        TILE_DOT(2, 5, 6);
        TILE_DOT(3, 5, 7);
    }
    TILE_STORE(0, t, ld);
    TILE_STORE(1, t + 16, ld);
    TILE_STORE(2, t + 16 * NR, ld);
    TILE_STORE(3, t + 16 * NR + 16, ld);
}

/* --- the product --- */

typedef struct { /* where 32 x 32 elements go, of which rows x n are there */
    void *at;
    size_t ld;
    int half, rows, n;
} Out;

static void fetch(float *t, Out c) {
    for (int i = 0; i < c.rows; i++) {
        const float *row = (const float *)c.at + i * c.ld;
        for (int j = 0; j < NR; j += VW) vstore(t + i * NR + j, vload_upto(row + j, c.n - j, 0.0f));
    }
    memset(t + c.rows * NR, 0, (size_t)(MR - c.rows) * NR * sizeof *t);
}

static void put_row(void *to, int half, const float *from, int n) {
    for (int j = 0; j < n; j += VW) {
        vf v = vload_upto(from + j, n - j, 0.0f);
        if (!half)
            vstore_upto((float *)to + j, v, n - j);
        else
            astore_upto((uint16_t *)to + j, v, n - j);
    }
}

static void put(const float *t, Out c) {
    for (int i = 0; i < c.rows; i++)
        put_row((char *)c.at + i * c.ld * (c.half ? 2 : 4), c.half, t + i * NR, c.n);
}

/* Rows m0..m1 by panels first..last of C, one block of k of `steps` steps. */
static void block(const Product *p, Buf C, size_t ld, int m0, int m1, int first, int last,
                  const uint16_t *b, size_t b_panel, int steps, int add) {
    _Alignas(64) float t[MR * NR];
    const uint16_t *a = a_block();
    for (int m = m0; m < m1; m += MR, a += (size_t)steps * 2 * TILE) {
        for (int panel = first; panel < last; panel++) {
            Out c = {buf_at(C, (size_t)(m - m0) * ld + (size_t)(panel - first) * NR).ptr, ld,
                     C.dtype == DT_BF16, smaller(m1 - m, MR), smaller(p->N - panel * NR, NR)};
            if (add) fetch(t, c);
            dot_tiles(t, a, b + (size_t)(panel - first) * b_panel, steps, c.rows, add);
            put(t, c);
        }
    }
}

static void product_item(void *ctx, int item, int thread) {
    (void)thread;
    const Product *p = ctx;
    int m0, m1, first, last, patched = in_patch(p);
    product_part(p, item, &m0, &m1, &first, &last);
    size_t all_steps = (size_t)ceil_div(p->K, K_STEP), width = (size_t)(last - first) * NR;
    for (int k0 = 0; k0 < p->K; k0 += p->kc) {
        int kc = smaller(p->K - k0, p->kc), steps = ceil_div(kc, K_STEP), add = p->add || k0 > 0;
        int panels = p->packed ? B_ROOM / (steps * 2 * TILE) : B_ROOM / (KC * NR);
        pack_a(p, m0, m1, k0, kc);
        for (int panel = first; panel < last; panel += panels) {
            int end = smaller(panel + panels, last);
            size_t b_panel = (size_t)steps * 2 * TILE;
            const uint16_t *b = b_block();
            if (p->packed) {
                b_panel = all_steps * 2 * TILE;
                b = p->packed + (size_t)panel * b_panel + (size_t)k0 * NR;
            } else {
                pack_panels(p, panel, end, k0, kc);
            }
            Buf c = patched ? (Buf){patch() + (size_t)(panel - first) * NR, DT_F32}
                            : buf_at(p->C, (size_t)m0 * p->ldc + (size_t)panel * NR);
            block(p, c, patched ? width : (size_t)p->ldc, m0, m1, panel, end, b, b_panel, steps,
                  add);
        }
    }
    finish_item(p, patch(), m0, m1, first, last);
}

static void product_sizes(Product *p) {
    p->mr = MR;
    p->nr = NR;
    p->kc = p->packed ? KC_PACKED : KC;
    p->a_room = A_ROOM;
    p->patch_room = PATCH;
    p->tiles_f32 = 0;
}

void CPU_DOT_PAGE(Backend *b) {
    CPU(page)(b);
    put_products(b);
}
