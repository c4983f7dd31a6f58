/* cpu_matmul.c - matrix products: register tiles over packed panels (Goto & van de Geijn 2008).
 *
 * C[M,N] (+)= A B. Each element is one chain of fused multiply-adds over k ascending, the same for
 * every M, tile and thread: between blocks of k the chain rests in C, which loses nothing in f32.
 * The forward product reads weights packed once, panel by panel of NR columns; the two backward
 * products pack their right side block by block as they go. */
#include "core/backend/cpu/cpu.h"

#include <string.h>

#include "core/backend/cpu/vec.h"
#include "core/base/threads.h"

#if defined(__AVX512F__)
enum { MR = 14, NR = 2 * VW };
#else
enum { MR = 6, NR = 2 * VW };
#endif
enum {
    KC = 256,
    ROWS = 504,
    PANELS = 256 / NR
}; /* a packed block: KC x 256 floats, half of a small L2 */

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

typedef struct {
    float *C;
    const float *A, *B;  /* B row-major, or NULL when `packed` is given */
    const float *packed; /* panels [K][NR] */
    int M, N, K, ldc;
    size_t a_row, a_col; /* A(m,k) = A[m*a_row + k*a_col] */
    int ldb;
    int add; /* chains start from C instead of from 0 */
    int row_step, panel_step, row_items;
} Product;

/* c[m][NR] (+)= a[kc][m]' b[kc][NR]; m is a constant in each call, so everything stays in registers
 */
static inline __attribute__((always_inline)) void
tile(int m, int kc, const float *a, const float *b, float *c, size_t ldc, int add) {
    vf acc[MR][2];
    UNROLL for (int i = 0; i < m; i++) {
        acc[i][0] = add ? vload(c + i * ldc) : (vf){0};
        acc[i][1] = add ? vload(c + i * ldc + VW) : (vf){0};
    }
    for (int k = 0; k < kc; k++) {
        vf b0 = vload(b + (size_t)k * NR), b1 = vload(b + (size_t)k * NR + VW);
        UNROLL for (int i = 0; i < m; i++) {
            vf x = vset1(a[(size_t)k * m + i]);
            acc[i][0] = vfma(x, b0, acc[i][0]);
            acc[i][1] = vfma(x, b1, acc[i][1]);
        }
    }
    UNROLL for (int i = 0; i < m; i++) {
        vstore(c + i * ldc, acc[i][0]);
        vstore(c + i * ldc + VW, acc[i][1]);
    }
}

#define TILE_CASE(m)                                                                               \
    case m: tile(m, kc, a, b, c, ldc, add); break
static void tile_rows(int m, int kc, const float *a, const float *b, float *c, size_t ldc,
                      int add) {
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

/* the last panel may be narrower than NR: through a small tile of its own */
static void tile_narrow(int m, int n, int kc, const float *a, const float *b, float *c, size_t ldc,
                        int add) {
    float t[MR * NR];
    for (int i = 0; i < m; i++)
        for (int j = 0; j < NR; j++) t[i * NR + j] = add && j < n ? c[i * ldc + j] : 0.0f;
    tile_rows(m, kc, a, b, t, NR, add);
    for (int i = 0; i < m; i++) memcpy(c + i * ldc, t + i * NR, (size_t)n * sizeof *c);
}

/* One row against four panels at once, for decoding a single sequence: eight chains hide the
 * latency. */
static void row_panels(int kc, const float *a, const float *b, size_t panel_stride, float *c,
                       int add) {
    vf acc[8];
    for (int i = 0; i < 8; i++) acc[i] = add ? vload(c + i * VW) : (vf){0};
    for (int k = 0; k < kc; k++) {
        vf x = vset1(a[k]);
        UNROLL for (int p = 0; p < 4; p++) {
            const float *bp = b + p * panel_stride + (size_t)k * NR;
            acc[2 * p] = vfma(x, vload(bp), acc[2 * p]);
            acc[2 * p + 1] = vfma(x, vload(bp + VW), acc[2 * p + 1]);
        }
    }
    for (int i = 0; i < 8; i++) vstore(c + i * VW, acc[i]);
}

static _Thread_local float a_block[ROWS * KC], b_block[KC * PANELS * NR];

/* rows of A side by side: to[k][rows]; `rows` is a constant where it matters */
static inline __attribute__((always_inline)) void
pack_tile(float *to, const float *from, size_t row, size_t col, int rows, int kc) {
    for (int k = 0; k < kc; k++, to += rows, from += col)
        for (int i = 0; i < rows; i++) to[i] = from[i * row];
}

static void pack_rows(const Product *p, int m0, int m1, int k0, int kc) {
    float *to = a_block;
    for (int m = m0; m < m1; m += MR) {
        int rows = m1 - m < MR ? m1 - m : MR;
        const float *from = p->A + (size_t)m * p->a_row + (size_t)k0 * p->a_col;
        if (rows < MR)
            pack_tile(to, from, p->a_row, p->a_col, rows, kc);
        else if (p->a_col == 1)
            pack_tile(to, from, p->a_row, 1, MR, kc);
        else
            pack_tile(to, from, 1, p->a_col, MR, kc); /* A transposed: a_row is 1 */
        to += rows * kc;
    }
}

static void pack_panels(const Product *p, int panel0, int panel1, int k0, int kc) {
    for (int panel = panel0; panel < panel1; panel++) {
        float *to = b_block + (size_t)(panel - panel0) * kc * NR;
        int n0 = panel * NR, n = p->N - n0 < NR ? p->N - n0 : NR;
        const float *from = p->B + (size_t)k0 * p->ldb + n0;
        for (int k = 0; k < kc; k++, to += NR, from += p->ldb) {
            memcpy(to, from, (size_t)n * sizeof *to);
            for (int j = n; j < NR; j++) to[j] = 0.0f;
        }
    }
}

static void block(const Product *p, int m0, int m1, int panel0, int panel1, int k0, int kc,
                  int add) {
    const float *b0 = b_block;
    size_t stride = (size_t)kc * NR;
    if (p->packed) {
        stride = (size_t)p->K * NR;
        b0 = p->packed + panel0 * stride + (size_t)k0 * NR;
    }
    const float *a = a_block;
    for (int m = m0; m < m1; m += MR) {
        int rows = m1 - m < MR ? m1 - m : MR;
        for (int panel = panel0; panel < panel1; panel++) {
            int n0 = panel * NR, n = p->N - n0;
            const float *b = b0 + (size_t)(panel - panel0) * stride;
            float *c = p->C + (size_t)m * p->ldc + n0;
            if (rows == 1 && panel + 4 <= panel1 && n >= 4 * NR) {
                row_panels(kc, a, b, stride, c, add);
                panel += 3;
            } else if (n >= NR) {
                tile_rows(rows, kc, a, b, c, (size_t)p->ldc, add);
            } else {
                tile_narrow(rows, n, kc, a, b, c, (size_t)p->ldc, add);
            }
        }
        a += rows * kc;
    }
}

static void product_item(void *ctx, int item, int thread) {
    (void)thread;
    const Product *p = ctx;
    int all = (p->N + NR - 1) / NR;
    int m0 = item % p->row_items * p->row_step,
        m1 = m0 + p->row_step < p->M ? m0 + p->row_step : p->M;
    int first = item / p->row_items * p->panel_step;
    int last = first + p->panel_step < all ? first + p->panel_step : all;
    for (int k0 = 0; k0 < p->K; k0 += KC) {
        int kc = p->K - k0 < KC ? p->K - k0 : KC;
        pack_rows(p, m0, m1, k0, kc);
        for (int panel = first; panel < last; panel += PANELS) {
            int end = panel + PANELS < last ? panel + PANELS : last;
            if (!p->packed) pack_panels(p, panel, end, k0, kc);
            block(p, m0, m1, panel, end, k0, kc, p->add || k0 > 0);
        }
    }
}

static int ceil_div(int a, int b) {
    return (a + b - 1) / b;
}

/* Splits C into about `want` items, rows by multiples of MR and columns by whole panels. Each item
 * packs its own rows of A, and its own columns of B where they are not packed already: of all
 * splits the one that packs least. */
static void split(Product *p, int want) {
    int panels = ceil_div(p->N, NR), tiles = ceil_div(p->M, MR),
        least = ceil_div(p->M, ROWS / MR * MR);
    double best = INFINITY;
    for (int rows = least; rows <= least + want; rows++) {
        int row_step = ceil_div(tiles, rows) * MR, row_items = ceil_div(p->M, row_step);
        int columns = ceil_div(want, row_items) < panels ? ceil_div(want, row_items) : panels;
        double packing = (double)p->M * columns + (p->packed ? 0.0 : (double)p->N * row_items);
        if (row_items * columns < want) packing *= 2; /* idle threads cost more than packing */
        if (packing >= best) continue;
        best = packing;
        p->row_step = row_step;
        p->row_items = row_items;
        p->panel_step = ceil_div(panels, columns);
    }
}

static void product(Product *p) {
    if (p->M == 0 || p->N == 0) return;
    int threads = threads_count();
    double flops = 2.0 * p->M * p->N * p->K;
    int want = threads == 1 || flops < 1e6 ? 1 : flops < 2e7 ? threads : 3 * threads;
    split(p, want);
    int items = p->row_items * ceil_div(ceil_div(p->N, NR), p->panel_step);
    if (want == 1) {
        for (int i = 0; i < items; i++) product_item(p, i, 0);
    } else {
        threads_run(items, product_item, p);
    }
}

static size_t packed_count(Backend *b, Dtype w, int O, int K) {
    (void)b;
    (void)w;
    return (size_t)((O + NR - 1) / NR) * NR * K;
}

static void pack_range(void *ctx, int first, int last) {
    const Mat *m = ctx;
    const float *w = f32(m->w);
    for (int panel = first; panel < last; panel++) {
        float *to = f32(m->packed) + (size_t)panel * NR * m->K;
        for (int j = 0; j < NR; j++) {
            int o = panel * NR + j;
            const float *from = w + (size_t)o * m->K;
            for (int k = 0; k < m->K; k++) to[(size_t)k * NR + j] = o < m->O ? from[k] : 0.0f;
        }
    }
}

static void pack(Backend *b, Mat m) {
    (void)b;
    CPU(parallel)((m.O + NR - 1) / NR, 4, pack_range, &m);
}

static void matmul_forward(Backend *b, Buf y, Buf x, Mat w, int N) {
    (void)b;
    Product p = {.C = f32(y),
                 .A = f32(x),
                 .packed = f32(w.packed),
                 .M = N,
                 .N = w.O,
                 .K = w.K,
                 .ldc = w.O,
                 .a_row = (size_t)w.K,
                 .a_col = 1};
    product(&p);
}

static void matmul_backward_input(Backend *b, Buf dx, Buf dy, Mat w, int N) {
    (void)b;
    Product p = {.C = f32(dx),
                 .A = f32(dy),
                 .B = f32(w.w),
                 .M = N,
                 .N = w.K,
                 .K = w.O,
                 .ldc = w.K,
                 .a_row = (size_t)w.O,
                 .a_col = 1,
                 .ldb = w.K};
    product(&p);
}

static void matmul_backward_weight(Backend *b, Buf dw, Buf dy, Buf x, int N, int O, int K) {
    (void)b;
    Product p = {.C = f32(dw),
                 .A = f32(dy),
                 .B = f32(x),
                 .M = O,
                 .N = K,
                 .K = N,
                 .ldc = K,
                 .a_row = 1,
                 .a_col = (size_t)O,
                 .ldb = K,
                 .add = 1};
    product(&p);
}

void CPU(matmul_page)(Backend *b) {
    b->packed_count = packed_count;
    b->pack = pack;
    b->matmul_forward = matmul_forward;
    b->matmul_backward_input = matmul_backward_input;
    b->matmul_backward_weight = matmul_backward_weight;
}
