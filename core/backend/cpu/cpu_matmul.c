/* cpu_matmul.c - matrix products: register tiles over packed panels (Goto & van de Geijn 2008).
 *
 * C[M,N] (+)= A B. Each element is one chain of multiply-adds over k ascending, the same for every
 * M, tile and thread. Between blocks of k the chain rests in C or, where C is bf16, in a patch of
 * f32, which loses nothing. The forward product reads weights packed once, panel by panel of NR
 * columns; the two backward products pack their right side block by block as they go.
 *
 * A link of a chain takes a word of A and one of B. On f32 pages that is an f32 each. In bf16 it is
 * an f32, too: operands are widened, A and blocks of B when they are packed, packed weights in the
 * innermost loop. With CPU_DOT_PAGE it is a pair of bf16, neighbours in k, and the instruction is
 * the dot product of AVX512-BF16 or, over the portable page, the same in plain C, so that tests see
 * it on any machine. A weight gradient's pairs are of tokens, so it depends on where batches are
 * cut. */
#include "core/backend/cpu/product.h"
#include "core/backend/cpu/step.h"

#include <string.h>

#if defined(CPU_DOT_PAGE)
enum { PAIR = 2 }; /* of k in a word */
#else
enum { PAIR = 1 };
#endif
enum { WIDENED = IN_BF16 && PAIR == 1 };
enum { MR = VW == 16 ? 14 : 6, NR = 2 * VW };
enum {
    KC = 256, /* words */
    ROWS = 504,
    PANELS = 256 / NR,       /* a packed block: KC x 256 words, half of a small L2 */
    BLOCK = ROWS * KC + VW,  /* words of a packed block of A, and what its last store may spill */
    KC_LONG = 768,           /* with packed weights, which are not copied block by block */
    KC_PACKED = 2048 / PAIR, /* packed bf16 weights: most products are one block of k */
    NEAR = 64 << 10,         /* words of A that stay near while panels pass them */
    PATCH = 1024 * 256,      /* floats of C that rest between blocks of k, in bf16 */
    FEW = 8 /* rows read side by side when packing: rows are multiples of pages apart often enough,
             * and more of them than a cache has ways push each other out */
};
typedef float word; /* moved as bits, never computed with where it is a pair */

/* --- words --- */

/* acc + a b */
static inline vf link(vf acc, vf a, vf b) {
#if !defined(CPU_DOT_PAGE)
    return vfma(a, b, acc);
#elif defined(__AVX512BF16__)
    return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b);
#else
    const vu upper = (vu)(vi){0} + 0xffff0000u;
    acc = vfma((vf)((vu)a & upper), (vf)((vu)b & upper), acc);
    return vfma((vf)((vu)a << 16), (vf)((vu)b << 16), acc);
#endif
}

static inline vf broadcast(const void *word_) {
    int32_t bits;
    memcpy(&bits, word_, sizeof bits);
    return (vf)(bits - (vi){0});
}

/* VW words along k, of which the first n elements are there; 0 behind them. */
static inline vf along(Buf x, size_t at, int n, int weights) {
#if defined(CPU_DOT_PAGE)
    if (x.dtype == DT_BF16 && n >= 2 * VW) return vload_pairs(bf16(x) + at);
    uint16_t pairs[2 * VW];
    (void)weights; /* all is rounded */
    vstore_bf16(pairs, any_upto(x, at, n));
    vstore_bf16(pairs + VW, any_upto(x, at + VW, n - VW));
    return vload_pairs(pairs);
#else
    return weights ? weights_upto(x, at, n) : any_upto(x, at, n);
#endif
}

/* Words of n columns at one k or, in pairs, at it and the next, `stride` further, if there is one.
 */
static inline vf across(Buf x, size_t at, size_t stride, int n, int has_next, int weights) {
#if defined(CPU_DOT_PAGE)
    (void)weights;
    vf next = has_next ? any_upto(x, at + stride, n) : (vf){0};
    return vpairs(any_upto(x, at, n), next);
#else
    (void)stride, (void)has_next;
    return weights ? weights_upto(x, at, n) : any_upto(x, at, n);
#endif
}

/* Asks memory for n elements that will be read soon. */
static inline void ask_for(Buf x, size_t at, int n) {
    size_t size = x.dtype == DT_BF16 ? 2 : 4;
    for (size_t i = 0; i < (size_t)n * size; i += 64)
        __builtin_prefetch((const char *)x.ptr + at * size + i, 0, 2);
}

/* NR columns of a panel at a word of k. A packed panel of a widened page holds column j and column
 * VW + j in the lower and upper half of word j, so that widening is a shift and a mask. */
static inline __attribute__((always_inline)) void b_load(vf b[2], const void *panel, size_t k,
                                                         int narrow) {
    if (narrow) {
        vu halves = (vu)vload((const float *)panel + k * VW);
        b[0] = (vf)(halves << 16);
        b[1] = (vf)(halves & 0xffff0000u);
    } else {
        b[0] = vload((const float *)panel + k * NR);
        b[1] = vload((const float *)panel + k * NR + VW);
    }
}

/* --- tiles --- */

typedef struct { /* where a tile goes */
    void *at;
    size_t ld;
    int half; /* bf16; then chains do not start from it */
} Out;

static inline __attribute__((always_inline)) void c_store(Out c, size_t at, vf v) {
    if (c.half)
        vstore_bf16((uint16_t *)c.at + at, v);
    else
        vstore((float *)c.at + at, v);
}

typedef struct { /* what a tile asks memory for on its way: `step` bytes further at each word */
    const char *at;
    int step;
} Ahead;

/* Rows of A: as they lie, `row` bytes apart, or packed for a tile, row 0. */
typedef struct {
    const char *at;
    size_t row;
} Rows;
static inline Rows rows_behind(Rows a, int rows, int steps) {
    a.at += (size_t)rows * (a.row ? a.row : (size_t)steps * sizeof(word));
    return a;
}

/* Where the word of row i < 14 is, those of rows 0 and 7 being at `at` and `at7`: with two
 * multiples of `row` in registers, every row is one address of an instruction. */
static inline __attribute__((always_inline)) const char *
row_at(const char *at, const char *at7, size_t row, size_t row3, size_t row5, int i) {
    const char *from = i < 7 ? at : at7;
    switch (i % 7) {
    case 0: return from;
    case 1: return from + row;
    case 2: return from + 2 * row;
    case 3: return from + row3;
    case 4: return from + 4 * row;
    case 5: return from + row5;
    default: return from + 2 * row3;
    }
}

/* c[m][NR] (+)= a[m][steps] b[steps][NR] in words; m, direct and narrow are constants in each call,
 * so that all sums stay in registers. */
STEP tile(int m, int steps, Rows a, int direct, const void *b, int narrow, Out c, int add,
          Ahead ahead) {
    size_t row3 = 3 * a.row, row5 = 5 * a.row;
    const char *at = a.at, *at7 = a.at + 7 * a.row;
    vf acc[MR][2];
    UNROLL for (int i = 0; i < m; i++) {
        acc[i][0] = add ? vload((float *)c.at + i * c.ld) : (vf){0};
        acc[i][1] = add ? vload((float *)c.at + i * c.ld + VW) : (vf){0};
    }
    for (int k = 0; k < steps; k++) {
        vf w[2];
        const char *soon = ahead.at + k * ahead.step;
        __builtin_prefetch(soon, 0, 2);
        if (NR * sizeof(word) > 64) __builtin_prefetch(soon + (ahead.step > 64 ? 64 : 0), 0, 2);
        b_load(w, b, (size_t)k, narrow);
        UNROLL for (int i = 0; i < m; i++) {
            vf x =
                broadcast(direct ? row_at(at, at7, a.row, row3, row5, i) : at + i * sizeof(word));
            acc[i][0] = link(acc[i][0], x, w[0]);
            acc[i][1] = link(acc[i][1], x, w[1]);
        }
        at += direct ? sizeof(word) : (size_t)m * sizeof(word);
        at7 += sizeof(word);
    }
    UNROLL for (int i = 0; i < m; i++) {
        c_store(c, i * c.ld, acc[i][0]);
        c_store(c, i * c.ld + VW, acc[i][1]);
    }
}

#define TILE_CASE(m)                                                                               \
    case m: tile(m, steps, a, direct, b, narrow, c, add, ahead); break
STEP tile_switch(int m, int steps, Rows a, int direct, const void *b, int narrow, Out c, int add,
                 Ahead ahead) {
    switch (m) {
        TILE_CASE(1);
        TILE_CASE(2);
        TILE_CASE(3);
        TILE_CASE(4);
        TILE_CASE(5);
        TILE_CASE(6);
#if defined(__AVX512F__)
        TILE_CASE(7);
        TILE_CASE(8);
        TILE_CASE(9);
        TILE_CASE(10);
        TILE_CASE(11);
        TILE_CASE(12);
        TILE_CASE(13);
        TILE_CASE(14);
#endif
    }
}

/* one copy of the tiles for each way that occurs */
static void tile_packed(int m, int steps, Rows a, const void *b, Out c, int add, Ahead ahead) {
    tile_switch(m, steps, a, 0, b, 0, c, add, ahead);
}
static void tile_direct(int m, int steps, Rows a, const void *b, Out c, int add, Ahead ahead) {
    tile_switch(m, steps, a, 1, b, 0, c, add, ahead);
}
static void tile_narrow(int m, int steps, Rows a, const void *b, Out c, int add, Ahead ahead) {
    tile_switch(m, steps, a, 0, b, 1, c, add, ahead);
}
static void tile_rows(int m, int steps, Rows a, const void *b, int narrow, Out c, int add,
                      Ahead ahead) {
    if (WIDENED && narrow)
        tile_narrow(m, steps, a, b, c, add, ahead);
    else if (!WIDENED && a.row)
        tile_direct(m, steps, a, b, c, add, ahead);
    else
        tile_packed(m, steps, a, b, c, add, ahead);
}

static void store_upto(Out c, size_t at, const float *from, int n) {
    for (int j = 0; j < n; j += VW) {
        int left = n - j;
        if (c.half && left >= VW)
            vstore_bf16((uint16_t *)c.at + at + j, vload(from + j));
        else if (c.half)
            vstore_bf16_n((uint16_t *)c.at + at + j, vload_n(from + j, left, 0.0f), left);
        else
            memcpy((float *)c.at + at + j, from + j,
                   (size_t)(left < VW ? left : VW) * sizeof *from);
    }
}

/* the last panel may be narrower than NR: through a small tile of its own */
static void tile_edge(int m, int n, int steps, Rows a, const void *b, int narrow, Out c, int add,
                      Ahead ahead) {
    float t[MR * NR];
    const float *old = c.at;
    for (int i = 0; i < m; i++)
        for (int j = 0; j < NR; j++) t[i * NR + j] = add && j < n ? old[i * c.ld + j] : 0.0f;
    tile_rows(m, steps, a, b, narrow, (Out){t, NR, 0}, add, ahead);
    for (int i = 0; i < m; i++) store_upto(c, i * c.ld, t + i * NR, n);
}

/* One row against four panels at once, for decoding a single sequence: eight chains hide the
 * latency. */
STEP row_panels(int steps, const char *a, const char *b, size_t panel_bytes, int narrow, Out c,
                int add) {
    vf acc[8];
    for (int i = 0; i < 8; i++) acc[i] = add ? vload((float *)c.at + i * VW) : (vf){0};
    for (int k = 0; k < steps; k++) {
        vf x = broadcast(a + (size_t)k * sizeof(word));
        UNROLL for (int p = 0; p < 4; p++) {
            vf w[2];
            b_load(w, b + p * panel_bytes, (size_t)k, narrow);
            acc[2 * p] = link(acc[2 * p], x, w[0]);
            acc[2 * p + 1] = link(acc[2 * p + 1], x, w[1]);
        }
    }
    for (int i = 0; i < 8; i++) c_store(c, (size_t)i * VW, acc[i]);
}

static void row_of_panels(int steps, const char *a, const void *b, size_t panel_bytes, int narrow,
                          Out c, int add) {
    if (WIDENED && narrow)
        row_panels(steps, a, b, panel_bytes, 1, c, add);
    else
        row_panels(steps, a, b, panel_bytes, 0, c, add);
}

/* --- packing --- */

/* in the thread's scratch: a block of A, a block of B, the patch */
static inline word *a_block(void) {
    return cpu_scratch();
}
static inline word *b_block(void) {
    return a_block() + BLOCK;
}
static inline float *patch(void) {
    return b_block() + KC * PANELS * NR;
}
_Static_assert((BLOCK + KC * PANELS * NR + PATCH) * sizeof(float) <= CPU_SCRATCH, "scratch");

static inline int words_of(int k) {
    return ceil_div(k, PAIR);
}

/* of packed weights, in elements */
static inline size_t panel_size(int K) {
    return (size_t)NR * (size_t)words_of(K) * PAIR;
}

/* Rows of the next tile: of equal tiles, for a low one waits for its own sums and for its panel. */
static inline int tile_height(int left) {
    return ceil_div(left, ceil_div(left, MR));
}

/* VW rows of words along k, of which n are stored, as to[k * ld + row]; k ascends. */
static inline void put_transposed(word *to, size_t ld, vf r[VW], int words, int n) {
    vtranspose(r);
    if (words >= VW && n >= VW) {
        for (int k = 0; k < VW; k++) vstore(to + (size_t)k * ld, r[k]);
        return;
    }
    for (int k = 0; k < VW; k++)
        if (k < words) vstore_upto(to + (size_t)k * ld, r[k], n);
}

/* A tile's rows along k. Whole vectors are stored where they hold all rows: what one spills over
 * the end of its word of k, the next one overwrites. */
static void pack_tile_along(word *to, const Product *p, int m, int rows, int k0, int kc) {
    if (rows == 1) {
        for (int k = 0; k < kc; k += VW * PAIR)
            vstore(to + k / PAIR, along(p->A, (size_t)m * p->a_row + (size_t)(k0 + k), kc - k, 0));
        return;
    }
    for (int first = 0; first < rows; first += VW) {
        int n = rows <= VW ? VW : rows - first;
        for (int k = 0; k < kc; k += VW * PAIR) {
            vf r[VW] = {{0}};
            for (int i = first; i < smaller(rows, first + VW); i++)
                r[i - first] =
                    along(p->A, (size_t)(m + i) * p->a_row + (size_t)(k0 + k), kc - k, 0);
            put_transposed(to + first + (size_t)(k / PAIR) * rows, (size_t)rows, r,
                           words_of(kc - k), n);
        }
    }
}

/* A transposed: its columns are the rows of a tile */
static inline __attribute__((always_inline)) void
pack_tile_across(word *to, const Product *p, int m, int rows, int k0, int kc) {
    size_t at = (size_t)k0 * p->a_col + (size_t)m;
    for (int k = 0; k < kc; k += PAIR, to += rows, at += PAIR * p->a_col) {
        for (int i = 0; i < PAIR; i++) ask_for(p->A, at + (FEW * PAIR + i) * p->a_col, 1);
        for (int i = 0; i < rows; i += VW)
            vstore_upto(to + i, across(p->A, at + i, p->a_col, rows - i, k + 1 < kc, 0), rows - i);
    }
}

static void pack_a(const Product *p, int m0, int m1, int k0, int kc) {
    word *to = a_block();
    size_t height = (size_t)words_of(kc);
    int rows;
    if (p->a_col == 1) {
        for (int m = m0; m < m1; m += rows, to += rows * height) {
            rows = tile_height(m1 - m);
            pack_tile_along(to, p, m, rows, k0, kc);
        }
        return;
    }
    for (int k = 0; k < kc; k += FEW * PAIR) {
        int n = smaller(kc - k, FEW * PAIR);
        for (int m = m0; m < m1; m += rows) {
            rows = tile_height(m1 - m);
            word *tile = to + (size_t)(m - m0) * height + (size_t)(k / PAIR) * rows;
            if (rows == MR)
                pack_tile_across(tile, p, m, MR, k0 + k, n);
            else
                pack_tile_across(tile, p, m, rows, k0 + k, n);
        }
    }
}

/* Rows of A that lie as the tiles can read them: in words, and not so far apart that all of a
 * tile's fall into the same set of the nearest cache. */
static int reads_direct(const Product *p) {
    size_t row = p->a_row * sizeof(act);
    int words = !WIDENED && p->A.dtype == (PAIR == 2 ? DT_BF16 : DT_F32) && p->K % PAIR == 0;
    return p->a_col == 1 && words && (MR <= 8 || row % 4096 != 0);
}

static void unpack_quantized(const Product *p, int panel0, int panel1, int k0, int kc) {
    word *to = b_block();
    float v[VW][QUANT_BLOCK];
    vf r[VW];
    for (int n = panel0 * NR; n < panel1 * NR; n += NR, to += (size_t)words_of(kc) * NR) {
        for (int half = 0; half < NR; half += VW) {
            for (int k = 0; k < kc; k += QUANT_BLOCK) {
                for (int j = 0; j < VW; j++) quantized_block(v[j], p, n + half + j, k0 + k);
                for (int u = 0; u < QUANT_BLOCK; u += VW * PAIR) {
                    for (int j = 0; j < VW; j++)
                        r[j] = along((Buf){v[j], DT_F32}, (size_t)u, QUANT_BLOCK - u, 0);
                    put_transposed(to + (size_t)((k + u) / PAIR) * NR + half, NR, r, VW, VW);
                }
            }
        }
    }
}

/* n of k of B from k on, a panel's columns from n0 on */
static inline void pack_few(const Product *p, word *to, int n0, int k, int n) {
    int columns = p->N - n0 < NR ? p->N - n0 : NR;
    size_t from = (size_t)k * p->ldb + n0;
    for (; n > 0; n -= PAIR, to += NR, from += PAIR * p->ldb) {
        for (int i = 0; i < PAIR; i++) ask_for(p->B, from + (FEW * PAIR + i) * p->ldb, NR);
        for (int j = 0; j < NR; j += VW)
            vstore(to + j, across(p->B, from + j, p->ldb, columns - j, n > 1, p->weights));
    }
}

static void pack_panels(const Product *p, int panel0, int panel1, int k0, int kc) {
    if (dtype_quantized(p->B.dtype)) {
        unpack_quantized(p, panel0, panel1, k0, kc);
        return;
    }
    size_t height = (size_t)words_of(kc);
    for (int k = 0; k < kc; k += FEW * PAIR)
        for (int panel = panel0; panel < panel1; panel++)
            pack_few(p, b_block() + ((size_t)(panel - panel0) * height + (size_t)(k / PAIR)) * NR,
                     panel * NR, k0 + k, smaller(kc - k, FEW * PAIR));
}

static size_t packed_count(Backend *b, Dtype w, int O, int K) {
    (void)b;
    if (dtype_quantized(w)) return 0; /* unpacked block by block, on the way */
    return (size_t)ceil_div(O, NR) * panel_size(K);
}

/* VW of a panel's columns at VW words of k, ready to be stored k by k */
static inline void columns_of(vf r[VW], const Mat *m, int o, int k) {
    for (int j = 0; j < VW; j++)
        r[j] =
            o + j < m->O ? along(m->w, (size_t)(o + j) * m->K + (size_t)k, m->K - k, 1) : (vf){0};
}

static void pack_range(void *ctx, int first, int last) {
    const Mat *m = ctx;
    vf low[VW], high[VW];
    for (int panel = first; panel < last; panel++) {
        word *to = (word *)(void *)(acts(m->packed) + (size_t)panel * panel_size(m->K));
        for (int k = 0; k < m->K; k += VW * PAIR) {
            int words = words_of(m->K - k);
            columns_of(low, m, panel * NR, k);
            columns_of(high, m, panel * NR + VW, k);
            if (WIDENED) {
                for (int j = 0; j < VW; j++) low[j] = vpairs(low[j], high[j]);
                put_transposed(to + (size_t)k * VW, VW, low, words, VW);
            } else {
                put_transposed(to + (size_t)(k / PAIR) * NR, NR, low, words, VW);
                put_transposed(to + (size_t)(k / PAIR) * NR + VW, NR, high, words, VW);
            }
        }
    }
}

/* --- the product --- */

typedef struct { /* rows m0..m1 by panels of columns, over kc of k from k0 on */
    int m0, m1, panel0, panel1, k0, kc;
    int add;
    const char *next; /* packed weights that this thread reads behind these, likely */
} Block;

/* What is read of the panel behind b, by tiles of which each reads b once: a share each. */
static inline Ahead share_ahead(const char *next, int steps, size_t row_bytes, int tile,
                                int tiles) {
    int step = ceil_div((int)row_bytes, tiles);
    return (Ahead){next + (size_t)tile * steps * step, step};
}

/* Rows m0..m1 meet the block's panels; a, b, c are of row m0 and the first panel. */
static void meet_panels(const Product *p, const Block *x, Rows a, const char *b, size_t panel_bytes,
                        Out c, int m0, int m1) {
    int narrow = IN_BF16 && p->packed, steps = words_of(x->kc), tiles = ceil_div(m1 - m0, MR);
    size_t row_bytes = NR * sizeof(act) * PAIR, element = c.half ? 2 : 4;
    for (int panel = x->panel0; panel < x->panel1; panel++, b += panel_bytes) {
        int n = p->N - panel * NR, tile = 0;
        Rows a_m = a;
        Out c_m = c;
        c.at = (char *)c.at + NR * element;
        if (m1 - m0 == 1 && panel + 4 <= x->panel1 && n >= 4 * NR) {
            row_of_panels(steps, a.at, b, panel_bytes, narrow, c_m, x->add);
            c.at = (char *)c.at + 3 * NR * element;
            b += 3 * panel_bytes;
            panel += 3;
            continue;
        }
        for (int m = m0, rows; m < m1; m += rows, tile++) {
            rows = tile_height(m1 - m);
            const char *next = panel + 1 < x->panel1 ? b + panel_bytes : x->next;
            Ahead ahead =
                p->packed ? share_ahead(next, steps, row_bytes, tile, tiles) : (Ahead){b, 0};
            if (n >= NR)
                tile_rows(rows, steps, a_m, b, narrow, c_m, x->add, ahead);
            else
                tile_edge(rows, n, steps, a_m, b, narrow, c_m, x->add, ahead);
            c_m.at = (char *)c_m.at + rows * c.ld * element;
            a_m = rows_behind(a_m, rows, steps);
        }
    }
}

/* Weights come from far: they meet an item's rows panel by panel, and the rows, few enough, stay
 * near (most_rows). Panels packed for the item are near, and a tile of rows passes them. */
static void block(const Product *p, const Block *x, Out c) {
    int steps = words_of(x->kc);
    size_t row = p->a_row * sizeof(act);
    Rows a = reads_direct(p) ? (Rows){(const char *)(acts(p->A) + (size_t)x->m0 * p->a_row) +
                                          (size_t)x->k0 * sizeof(act),
                                      row}
                             : (Rows){(const char *)a_block(), 0};
    if (p->packed) {
        size_t panel_acts = panel_size(p->K);
        const act *b = p->packed + (size_t)x->panel0 * panel_acts + (size_t)x->k0 * NR;
        meet_panels(p, x, a, (const char *)b, panel_acts * sizeof(act), c, x->m0, x->m1);
        return;
    }
    for (int m = x->m0, rows; m < x->m1; m += rows) {
        rows = tile_height(x->m1 - m);
        meet_panels(p, x, a, (const char *)b_block(), (size_t)steps * NR * sizeof(word), c, m,
                    m + rows);
        c.at = (char *)c.at + rows * c.ld * (c.half ? 2 : 4);
        a = rows_behind(a, rows, steps);
    }
}

/* Where reading goes on when the block's panels are done: at its next k, at the next item, or
 * behind the matrix, where the weights of the next product lie. */
static const char *read_next(const Product *p, const Block *x, int item) {
    int m0, m1, first, last, k = x->k0 + x->kc;
    if (k < p->K)
        return (const char *)(p->packed + (size_t)x->panel0 * panel_size(p->K) + (size_t)k * NR);
    product_part(p, item + 1, &m0, &m1, &first, &last);
    if (first > last) first = last;
    return (const char *)(p->packed + (size_t)first * panel_size(p->K));
}

static void product_item(void *ctx, int item, int thread) {
    (void)thread;
    const Product *p = ctx;
    int first, last, patched = in_patch(p);
    Block x = {0};
    product_part(p, item, &x.m0, &x.m1, &first, &last);
    int step = p->packed ? last - first : PANELS;
    for (x.k0 = 0; x.k0 < p->K; x.k0 += p->kc) {
        x.kc = smaller(p->K - x.k0, p->kc);
        x.add = p->add || x.k0 > 0;
        if (!reads_direct(p)) pack_a(p, x.m0, x.m1, x.k0, x.kc);
        for (x.panel0 = first; x.panel0 < last; x.panel0 = x.panel1) {
            x.panel1 = smaller(x.panel0 + step, last);
            if (p->packed) x.next = read_next(p, &x, item);
            Out c = {buf_at(p->C, (size_t)x.m0 * p->ldc + (size_t)x.panel0 * NR).ptr,
                     (size_t)p->ldc, IN_BF16 && p->C.dtype == DT_BF16};
            if (patched)
                c = (Out){patch() + (size_t)(x.panel0 - first) * NR, (size_t)(last - first) * NR,
                          0};
            if (!p->packed) pack_panels(p, x.panel0, x.panel1, x.k0, x.kc);
            block(p, &x, c);
        }
    }
    finish_item(p, patch(), x.m0, x.m1, first, last);
}

static void product_sizes(Product *p) {
    int longest = ceil_div(p->K, ceil_div(p->K, KC_LONG)); /* f32: blocks of equal length */
    p->mr = MR;
    p->nr = NR;
    p->kc = !p->packed ? KC * PAIR : IN_BF16 ? KC_PACKED * PAIR : longest;
    p->a_room = (p->packed ? NEAR : ROWS * KC) * PAIR;
    p->patch_room = PATCH;
    p->tiles_f32 = !p->packed;
}

#if defined(CPU_DOT_PAGE)
void CPU_DOT_PAGE(Backend *b) {
    CPU(page)(b);
#else
void CPU(matmul_page)(Backend *b) {
#endif
    put_products(b);
}
