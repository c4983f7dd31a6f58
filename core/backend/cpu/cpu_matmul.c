/* cpu_matmul.c - matrix products: register tiles over packed panels (Goto & van de Geijn 2008).
 *
 * C[M,N] (+)= A B. Each element is one chain of fused multiply-adds over k ascending, the same for
 * every M, tile and thread. Between blocks of k the chain rests in C or, where C is bf16, in a
 * patch of f32, which loses nothing. The forward product reads weights packed once, panel by panel
 * of NR columns; the two backward products pack their right side block by block as they go.
 *
 * In bf16 operands are widened: A and blocks of B when they are packed, packed weights in the
 * innermost loop. */
#include "core/backend/cpu/product.h"
#include "core/backend/cpu/step.h"

#include <string.h>

#if defined(__AVX512F__)
enum { MR = 14, NR = 2 * VW };
#else
enum { MR = 6, NR = 2 * VW };
#endif
enum {
    KC = 256,
    ROWS = 504,
    PANELS = 256 / NR, /* a packed block: KC x 256 floats, half of a small L2 */
    BLOCK = ROWS * KC, /* floats of a packed block of A */
    KC_LONG = 768,     /* with packed weights, which are not copied block by block */
    KC_PACKED = 2048,  /* packed bf16 weights: most products are one block of k */
    NEAR = 64 << 10,   /* floats of A that stay near while panels pass them */
    PATCH = 1024 * KC, /* floats of C that rest between blocks of k, in bf16 */
    FEW = 8 /* rows read side by side when packing: rows are multiples of pages apart often enough,
             * and more of them than a cache has ways push each other out */
};

/* NR columns of a panel at k. A packed panel in bf16 holds column j and column VW + j in the lower
 * and upper half of word j, so that widening is a shift and a mask. */
static inline __attribute__((always_inline)) void b_load(vf b[2], const void *panel, size_t k,
                                                         int narrow) {
    if (narrow) {
        vu word = (vu)vload((const float *)panel + k * VW);
        b[0] = (vf)(word << 16);
        b[1] = (vf)(word & 0xffff0000u);
    } else {
        b[0] = vload((const float *)panel + k * NR);
        b[1] = vload((const float *)panel + k * NR + VW);
    }
}

/* A tile may read rows of f32 where they lie, k along the row, when it has few enough of them for a
 * pointer each. */
enum { CAN_READ_DIRECT = !IN_BF16 && MR <= 6 };

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

typedef struct { /* what a tile asks memory for on its way: `step` bytes further at each k */
    const char *at;
    int step;
} Ahead;
static const Ahead NOTHING = {NULL, 0};

/* c[m][NR] (+)= a[kc][m]' b[kc][NR], or with `direct` a's rows as they lie, lda apart; m is a
 * constant in each call, so everything stays in registers */
static inline __attribute__((always_inline)) void tile(int m, int kc, const float *a, int direct,
                                                       size_t lda, const void *b, int narrow, Out c,
                                                       int add, Ahead ahead) {
    vf acc[MR][2];
    UNROLL for (int i = 0; i < m; i++) {
        acc[i][0] = add ? vload((float *)c.at + i * c.ld) : (vf){0};
        acc[i][1] = add ? vload((float *)c.at + i * c.ld + VW) : (vf){0};
    }
    for (int k = 0; k < kc; k++) {
        vf w[2];
        if (ahead.at) __builtin_prefetch(ahead.at + k * ahead.step, 0, 2);
        b_load(w, b, (size_t)k, narrow);
        UNROLL for (int i = 0; i < m; i++) {
            vf x = vset1(direct ? a[i * lda + (size_t)k] : a[(size_t)k * m + i]);
            acc[i][0] = vfma(x, w[0], acc[i][0]);
            acc[i][1] = vfma(x, w[1], acc[i][1]);
        }
    }
    UNROLL for (int i = 0; i < m; i++) {
        c_store(c, i * c.ld, acc[i][0]);
        c_store(c, i * c.ld + VW, acc[i][1]);
    }
}

#define TILE_CASE(m)                                                                               \
    case m: tile(m, kc, a, direct, lda, b, narrow, c, add, ahead); break
static inline __attribute__((always_inline)) void tile_switch(int m, int kc, const float *a,
                                                              int direct, size_t lda, const void *b,
                                                              int narrow, Out c, int add,
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
static void tile_plain(int m, int kc, const float *a, const void *b, Out c, int add) {
    c.half = 0;
    tile_switch(m, kc, a, 0, 0, b, 0, c, add, NOTHING);
}
static void tile_direct(int m, int kc, const float *a, size_t lda, const void *b, Out c, int add) {
    c.half = 0;
    tile_switch(m, kc, a, 1, lda, b, 0, c, add, NOTHING);
}
static void tile_plain_ahead(int m, int kc, const float *a, const void *b, Out c, int add,
                             Ahead ahead) {
    c.half = 0;
    tile_switch(m, kc, a, 0, 0, b, 0, c, add, ahead);
}
static void tile_direct_ahead(int m, int kc, const float *a, size_t lda, const void *b, Out c,
                              int add, Ahead ahead) {
    c.half = 0;
    tile_switch(m, kc, a, 1, lda, b, 0, c, add, ahead);
}
static void tile_narrow_f32(int m, int kc, const float *a, const void *b, Out c, int add,
                            Ahead ahead) {
    c.half = 0;
    tile_switch(m, kc, a, 0, 0, b, 1, c, add, ahead);
}
static void tile_narrow_bf16(int m, int kc, const float *a, const void *b, Out c, Ahead ahead) {
    c.half = 1;
    tile_switch(m, kc, a, 0, 0, b, 1, c, 0, ahead);
}
static void tile_rows(int m, int kc, const float *a, size_t lda, const void *b, int narrow, Out c,
                      int add, Ahead ahead) {
    if (IN_BF16 && narrow && c.half)
        tile_narrow_bf16(m, kc, a, b, c, ahead);
    else if (IN_BF16 && narrow)
        tile_narrow_f32(m, kc, a, b, c, add, ahead);
    else if (CAN_READ_DIRECT && lda && ahead.at)
        tile_direct_ahead(m, kc, a, lda, b, c, add, ahead);
    else if (CAN_READ_DIRECT && lda)
        tile_direct(m, kc, a, lda, b, c, add);
    else if (!IN_BF16 && !CAN_READ_DIRECT && ahead.at)
        tile_plain_ahead(m, kc, a, b, c, add, ahead);
    else
        tile_plain(m, kc, a, b, c, add);
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
static void tile_edge(int m, int n, int kc, const float *a, size_t lda, const void *b, int narrow,
                      Out c, int add, Ahead ahead) {
    float t[MR * NR];
    const float *old = c.at;
    for (int i = 0; i < m; i++)
        for (int j = 0; j < NR; j++) t[i * NR + j] = add && j < n ? old[i * c.ld + j] : 0.0f;
    tile_rows(m, kc, a, lda, b, narrow, (Out){t, NR, 0}, add, ahead);
    for (int i = 0; i < m; i++) store_upto(c, i * c.ld, t + i * NR, n);
}

/* One row against four panels at once, for decoding a single sequence: eight chains hide the
 * latency. */
static inline __attribute__((always_inline)) void
row_panels(int kc, const float *a, const char *b, size_t panel_bytes, int narrow, Out c, int add) {
    vf acc[8];
    for (int i = 0; i < 8; i++) acc[i] = add ? vload((float *)c.at + i * VW) : (vf){0};
    for (int k = 0; k < kc; k++) {
        vf x = vset1(a[k]);
        UNROLL for (int p = 0; p < 4; p++) {
            vf w[2];
            b_load(w, b + p * panel_bytes, (size_t)k, narrow);
            acc[2 * p] = vfma(x, w[0], acc[2 * p]);
            acc[2 * p + 1] = vfma(x, w[1], acc[2 * p + 1]);
        }
    }
    for (int i = 0; i < 8; i++) c_store(c, (size_t)i * VW, acc[i]);
}

static void row_of_panels(int kc, const float *a, const void *b, size_t panel_bytes, int narrow,
                          Out c, int add) {
    if (IN_BF16 && narrow)
        row_panels(kc, a, b, panel_bytes, 1, c, add);
    else
        row_panels(kc, a, b, panel_bytes, 0, (Out){c.at, c.ld, 0}, add);
}

/* in the thread's scratch: a block of A, a block of B, the patch */
static inline float *a_block(void) {
    return cpu_scratch();
}
static inline float *b_block(void) {
    return a_block() + BLOCK;
}
static inline float *patch(void) {
    return b_block() + KC * PANELS * NR;
}
_Static_assert((BLOCK + KC * PANELS * NR + PATCH) * sizeof(float) <= CPU_SCRATCH, "scratch");

static inline float float_of(uint16_t x) {
    return ((union {
               uint32_t u;
               float f;
           }){(uint32_t)x << 16})
        .f;
}

/* Rows of the next tile. One of three rows or fewer waits for its own sums: the last two share. */
static inline int tile_height(int left) {
    return left <= MR ? left : left < MR + 4 ? (left + 1) / 2 : MR;
}

/* rows of A side by side: to[k][rows]; `rows` is a constant where it matters */
static inline __attribute__((always_inline)) void
pack_tile(float *to, const void *from_, int half, size_t row, size_t col, int rows, int kc) {
    const uint16_t *narrow = from_;
    const float *from = from_;
    for (int k = 0; k < kc; k++, to += rows, from += col, narrow += col)
        for (int i = 0; i < rows; i++) to[i] = half ? float_of(narrow[i * row]) : from[i * row];
}

static inline __attribute__((always_inline)) void pack_rows(const Product *p, int half, int m0,
                                                            int m1, int k0, int kc) {
    int step = p->a_col == 1 ? kc : FEW; /* of k, before the next tile */
    for (int k = 0; k < kc; k += step) {
        int n = kc - k < step ? kc - k : step;
        for (int m = m0, rows; m < m1; m += rows) {
            rows = tile_height(m1 - m);
            float *to = a_block() + (size_t)(m - m0) * kc + (size_t)k * rows;
            const void *from = buf_at(p->A, (size_t)m * p->a_row + (size_t)(k0 + k) * p->a_col).ptr;
            if (rows < MR)
                pack_tile(to, from, half, p->a_row, p->a_col, rows, n);
            else if (p->a_col == 1)
                pack_tile(to, from, half, p->a_row, 1, MR, n);
            else
                pack_tile(to, from, half, 1, p->a_col, MR, n); /* A transposed: a_row is 1 */
        }
    }
}

static void pack_a(const Product *p, int m0, int m1, int k0, int kc) {
    if (IN_BF16 && p->A.dtype == DT_BF16)
        pack_rows(p, 1, m0, m1, k0, kc);
    else
        pack_rows(p, 0, m0, m1, k0, kc);
}

/* Rows of A that lie as the tiles can read them. */
static int reads_direct(const Product *p) {
    return CAN_READ_DIRECT && p->a_col == 1;
}

static void unpack_quantized(const Product *p, int panel0, int panel1, int k0, int kc) {
    float v[QUANT_BLOCK], *to = b_block();
    for (int n = panel0 * NR; n < panel1 * NR; n += NR, to += (size_t)kc * NR)
        for (int j = 0; j < NR; j++)
            for (int k = 0; k < kc; k += QUANT_BLOCK) {
                quantized_block(v, p, n + j, k0 + k);
                for (int i = 0; i < QUANT_BLOCK; i++) to[(size_t)(k + i) * NR + j] = v[i];
            }
}

/* n rows of B from k on, a panel's columns from n0 on */
static inline void pack_few(const Product *p, float *to, int n0, int k, int n) {
    int columns = p->N - n0 < NR ? p->N - n0 : NR;
    size_t from = (size_t)k * p->ldb + n0;
    for (; n > 0; n--, to += NR, from += p->ldb) {
        for (int j = 0; j < NR; j += VW) {
            int left = columns - j < 0 ? 0 : columns - j;
            vstore(to + j, p->weights ? weights_upto(p->B, from + j, left)
                                      : any_upto(p->B, from + j, left));
        }
    }
}

static void pack_panels(const Product *p, int panel0, int panel1, int k0, int kc) {
    if (dtype_quantized(p->B.dtype)) {
        unpack_quantized(p, panel0, panel1, k0, kc);
        return;
    }
    for (int k = 0; k < kc; k += FEW)
        for (int panel = panel0; panel < panel1; panel++)
            pack_few(p, b_block() + ((size_t)(panel - panel0) * kc + k) * NR, panel * NR, k0 + k,
                     kc - k < FEW ? kc - k : FEW);
}

typedef struct { /* rows m0..m1 by panels of columns, over kc of k from k0 on */
    int m0, m1, panel0, panel1, k0, kc;
    int add;
} Block;

/* What is read of the panel behind b, by tiles of which each reads b once: a share each. */
static inline Ahead share_ahead(const char *next, int kc, size_t row_bytes, int tile, int tiles) {
    int step = ceil_div((int)row_bytes, tiles);
    return (Ahead){next + (size_t)tile * kc * step, step};
}

/* Rows m0..m1 meet the block's panels; a, b, c are of row m0 and the first panel. */
static void meet_panels(const Product *p, const Block *x, const float *a, size_t lda, const char *b,
                        size_t panel_bytes, Out c, int m0, int m1) {
    int narrow = IN_BF16 && p->packed, kc = x->kc, tiles = ceil_div(m1 - m0, MR);
    size_t row_bytes = NR * sizeof(act), element = c.half ? 2 : 4;
    for (int panel = x->panel0; panel < x->panel1; panel++, b += panel_bytes) {
        int n = p->N - panel * NR, tile = 0;
        const float *a_m = a;
        Out c_m = c;
        c.at = (char *)c.at + NR * element;
        if (m1 - m0 == 1 && panel + 4 <= x->panel1 && n >= 4 * NR) {
            row_of_panels(kc, a, b, panel_bytes, narrow, c_m, x->add);
            c.at = (char *)c.at + 3 * NR * element;
            b += 3 * panel_bytes;
            panel += 3;
            continue;
        }
        for (int m = m0, rows; m < m1; m += rows, tile++) {
            rows = tile_height(m1 - m);
            Ahead ahead = p->packed && panel + 1 < x->panel1
                              ? share_ahead(b + panel_bytes, kc, row_bytes, tile, tiles)
                              : NOTHING;
            if (n >= NR)
                tile_rows(rows, kc, a_m, lda, b, narrow, c_m, x->add, ahead);
            else
                tile_edge(rows, n, kc, a_m, lda, b, narrow, c_m, x->add, ahead);
            c_m.at = (char *)c_m.at + rows * c.ld * element;
            a_m += lda ? rows * lda : (size_t)rows * (size_t)kc;
        }
    }
}

/* Weights come from far: they meet an item's rows panel by panel, and the rows, few enough, stay
 * near (most_rows). Panels packed for the item are near, and a tile of rows passes them. */
static void block(const Product *p, const Block *x, Out c) {
    size_t panel_bytes = (size_t)x->kc * NR * sizeof(float);
    size_t lda = reads_direct(p) ? p->a_row : 0, a_row = lda ? lda : (size_t)x->kc;
    const float *a = lda ? f32(p->A) + (size_t)x->m0 * lda + x->k0 : a_block();
    if (p->packed) {
        const act *b = p->packed + ((size_t)x->panel0 * p->K + (size_t)x->k0) * NR;
        meet_panels(p, x, a, lda, (const char *)b, (size_t)p->K * NR * sizeof(act), c, x->m0,
                    x->m1);
        return;
    }
    for (int m = x->m0, rows; m < x->m1; m += rows) {
        rows = tile_height(x->m1 - m);
        meet_panels(p, x, a, lda, (const char *)b_block(), panel_bytes, c, m, m + rows);
        c.at = (char *)c.at + rows * c.ld * (c.half ? 2 : 4);
        a += rows * a_row;
    }
}

static void product_item(void *ctx, int item, int thread) {
    (void)thread;
    const Product *p = ctx;
    int first, last, patched = in_patch(p);
    Block x;
    product_part(p, item, &x.m0, &x.m1, &first, &last);
    int step = p->packed ? last - first : PANELS;
    for (x.k0 = 0; x.k0 < p->K; x.k0 += p->kc) {
        x.kc = p->K - x.k0 < p->kc ? p->K - x.k0 : p->kc;
        x.add = p->add || x.k0 > 0;
        if (!reads_direct(p)) pack_a(p, x.m0, x.m1, x.k0, x.kc);
        for (x.panel0 = first; x.panel0 < last; x.panel0 = x.panel1) {
            x.panel1 = x.panel0 + step < last ? x.panel0 + step : last;
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
    p->mr = MR;
    p->nr = NR;
    p->kc = !p->packed ? KC : IN_BF16 ? KC_PACKED : ceil_div(p->K, ceil_div(p->K, KC_LONG));
    p->a_room = p->packed ? NEAR : BLOCK;
    p->patch_room = PATCH;
    p->tiles_f32 = !p->packed;
}

static size_t packed_count(Backend *b, Dtype w, int O, int K) {
    (void)b;
    if (dtype_quantized(w)) return 0; /* unpacked block by block, on the way */
    return (size_t)((O + NR - 1) / NR) * NR * K;
}

static void pack_range(void *ctx, int first, int last) {
    const Mat *m = ctx;
    for (int panel = first; panel < last; panel++) {
        act *to = acts(m->packed) + (size_t)panel * NR * m->K;
        for (int j = 0; j < NR; j++) {
            /* in bf16 column j and column VW + j share a word, see b_load */
            int o = panel * NR + j, at = IN_BF16 ? j % VW * 2 + j / VW : j;
            size_t row = (size_t)o * m->K;
            for (int k = 0; k < m->K; k += VW) {
                int n = m->K - k < VW ? m->K - k : VW;
                act column[VW];
                astore(column, o < m->O ? weights_upto(m->w, row + k, n) : (vf){0});
                for (int i = 0; i < n; i++) to[(size_t)(k + i) * NR + at] = column[i];
            }
        }
    }
}

static void pack(Backend *b, Mat m) {
    (void)b;
    CPU(parallel)((m.O + NR - 1) / NR, 4, pack_range, &m);
}

void CPU(matmul_page)(Backend *b) {
    b->packed_count = packed_count;
    b->pack = pack;
    b->matmul_forward = matmul_forward;
    b->matmul_backward_input = matmul_backward_input;
    b->matmul_backward_weight = matmul_backward_weight;
}
