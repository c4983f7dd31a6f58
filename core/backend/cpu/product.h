/* product.h - what the files of matrix products share: the three products of the page as one shape,
 * and its split into items for the threads; packing, also behind AdamW. Included by one file per
 * page.
 *
 * C[M,N] (+)= A B. An item computes rows of C by whole panels of columns, block after block of k.
 * Between blocks chains rest in C where it is f32, else in a patch of f32 per thread, so that a
 * block's end rounds nothing. */
#ifndef PRODUCT_H
#define PRODUCT_H

#include "core/backend/cpu/act.h"
#include "core/backend/quant.h"
#include "core/base/threads.h"

enum { IN_BF16 = sizeof(act) == 2 };

typedef struct {
    Buf C, A, B;       /* f32 or bf16 each; B row-major, or quantized [N,K]; or `packed` is given */
    int weights;       /* B is of weights, which are rounded where activations are */
    const act *packed; /* panels of nr columns, as the file orders them */
    int M, N, K, ldc;
    size_t a_row, a_col; /* A(m,k) = A[m*a_row + k*a_col] */
    int ldb;
    int add;  /* chains start from C (f32) instead of from 0 */
    Buf bias; /* [N], added when a chain has ended; NULL: none */
    /* of the kernel: rows of its tile, columns of a panel, longest block of k, elements of a packed
     * block of A and of the patch, whether unpacked tiles are written as f32 only */
    int mr, nr, kc, a_room, patch_room, tiles_f32;
    int row_step, panel_step, row_items; /* of an item */
} Product;

/* The block of quantized B from k on of column n; 0 behind the last column. */
static inline void quantized_block(float v[QUANT_BLOCK], const Product *p, int n, int k) {
    if (n < p->N)
        dequantize(v, buf_at(p->B, (size_t)n * p->K + k).ptr, p->B.dtype, QUANT_BLOCK);
    else
        memset(v, 0, QUANT_BLOCK * sizeof *v);
}

static int ceil_div(int a, int b) {
    return (a + b - 1) / b;
}

/* The file that includes this gives these. */
static void product_sizes(Product *p);
static void product_item(void *ctx, int item, int thread);
static size_t packed_count(Backend *b, Dtype w, int O, int K);
static void pack_range(void *ctx, int first, int last); /* panels of a Mat */

/* Rows of A that an item packs at most. A product with packed weights may be one short block of k.
 */
static inline int most_rows(const Product *p) {
    int k = p->packed && p->K < p->kc ? ceil_div(p->K, 32) * 32 : p->kc;
    return p->a_room / k / p->mr * p->mr;
}

/* C is bf16 and its chains end in several blocks of k, or go on to a bias, or come from tiles that
 * only write f32 */
static inline int in_patch(const Product *p) {
    return IN_BF16 && p->C.dtype == DT_BF16 && (p->tiles_f32 || p->K > p->kc || p->bias.ptr);
}

/* Rows m0..m1 of n columns from n0 on: chains that rest in `sums`, the patch or C itself, end. */
static void finish(const Product *p, const float *sums, size_t ld, int m0, int m1, int n0, int n) {
    for (int m = m0; m < m1; m++, sums += ld) {
        Buf to = buf_at(p->C, (size_t)m * p->ldc + n0);
        for (int j = 0; j < n; j += VW) {
            int left = n - j;
            vf v = vload_upto(sums + j, left, 0.0f);
            if (p->bias.ptr) v += weights_upto(p->bias, (size_t)(n0 + j), left);
            if (p->C.dtype != DT_BF16)
                vstore_upto(f32(to) + j, v, left);
            else if (left >= VW)
                vstore_bf16(bf16(to) + j, v);
            else
                vstore_bf16_n(bf16(to) + j, v, left);
        }
    }
}

/* Of an item, when all of k is done. */
static void finish_item(const Product *p, const float *patch, int m0, int m1, int first, int last) {
    int n0 = first * p->nr, n = (last * p->nr < p->N ? last * p->nr : p->N) - n0;
    if (in_patch(p))
        finish(p, patch, (size_t)(last - first) * p->nr, m0, m1, n0, n);
    else if (p->bias.ptr)
        finish(p, f32(buf_at(p->C, (size_t)m0 * p->ldc + n0)), (size_t)p->ldc, m0, m1, n0, n);
}

static inline void product_part(const Product *p, int item, int *m0, int *m1, int *first,
                                int *last) {
    int all = ceil_div(p->N, p->nr);
    *m0 = item % p->row_items * p->row_step;
    *m1 = *m0 + p->row_step < p->M ? *m0 + p->row_step : p->M;
    *first = item / p->row_items * p->panel_step;
    *last = *first + p->panel_step < all ? *first + p->panel_step : all;
}

/* Splits C into about `want` items, rows by multiples of mr and columns by whole panels. Each item
 * reads, and packs where they are not packed already, its own rows of A and columns of B: of all
 * splits the one that reads least. */
static void split(Product *p, int want) {
    int panels = ceil_div(p->N, p->nr), tiles = ceil_div(p->M, p->mr),
        least = ceil_div(p->M, most_rows(p));
    double best = INFINITY;
    for (int rows = least; rows <= least + want; rows++) {
        int row_step = ceil_div(tiles, rows) * p->mr, row_items = ceil_div(p->M, row_step);
        int columns = ceil_div(want, row_items) < panels ? ceil_div(want, row_items) : panels;
        double reading = (double)p->M * columns + (double)p->N * row_items;
        if (row_items * columns < want) reading *= 2; /* idle threads cost more */
        if (reading >= best) continue;
        best = reading;
        p->row_step = row_step;
        p->row_items = row_items;
        p->panel_step = ceil_div(panels, columns);
    }
    int room = p->patch_room / p->nr / p->row_step;
    if (in_patch(p) && p->panel_step > room) p->panel_step = room;
}

static void product(Product *p) {
    if (p->M == 0 || p->N == 0) return;
    product_sizes(p);
    int threads = threads_count();
    double flops = 2.0 * p->M * p->N * p->K, bytes = (double)sizeof(act) * p->N * p->K;
    int small = flops < 1e6 && !(p->packed && bytes > 4e5); /* weights that come from memory */
    int want = threads == 1 || small ? 1 : flops < 2e7 ? threads : 3 * threads;
    split(p, want);
    int items = p->row_items * ceil_div(ceil_div(p->N, p->nr), p->panel_step);
    if (want == 1) {
        for (int i = 0; i < items; i++) product_item(p, i, 0);
    } else {
        threads_run(items, product_item, p);
    }
}

static void matmul_forward(Backend *b, Buf y, Buf x, Mat w, int N) {
    (void)b;
    Product p = {.C = y,
                 .A = x,
                 .B = w.w, /* read where there is no packed copy */
                 .packed = acts(w.packed),
                 .M = N,
                 .N = w.O,
                 .K = w.K,
                 .ldc = w.O,
                 .a_row = (size_t)w.K,
                 .a_col = 1,
                 .bias = w.bias};
    product(&p);
}

static void matmul_backward_input(Backend *b, Buf dx, Buf dy, Mat w, int N) {
    (void)b;
    Product p = {.C = dx,
                 .A = dy,
                 .B = w.w,
                 .weights = 1,
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
    Product p = {.C = dw,
                 .A = dy,
                 .B = x,
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

static int panel_columns(void) {
    Product p = {.K = 1};
    product_sizes(&p);
    return p.nr;
}

static void pack(Backend *b, Mat w) {
    (void)b;
    CPU(parallel)(ceil_div(w.O, panel_columns()), 4, pack_range, &w);
}

typedef struct {
    Mat w;
    Adamw a;
    int columns; /* of a panel: rows of w */
} Update;

/* A panel's rows are packed while they are near. */
static void update_panels(void *ctx, int first, int last) {
    Update *u = ctx;
    for (int panel = first; panel < last; panel++) {
        int row = panel * u->columns, end = smaller(row + u->columns, u->w.O);
        CPU(adamw_range)(&u->a, (size_t)row * (size_t)u->w.K, (size_t)end * (size_t)u->w.K);
        pack_range(&u->w, panel, panel + 1);
    }
}

static void adamw_packed(Backend *b, Mat w, Buf m, Buf v, Buf g, AdamwParams p) {
    (void)b;
    Adamw a = {f32(w.w), f32(m), f32(v), f32(g), (size_t)w.O * (size_t)w.K, p};
    Update u = {w, a, panel_columns()};
    CPU(parallel)(ceil_div(w.O, u.columns), 1, update_panels, &u);
}

/* Puts the file's operations into the page. */
static void put_products(Backend *b) {
    b->packed_count = packed_count;
    b->pack = pack;
    b->adamw_packed = adamw_packed;
    b->matmul_forward = matmul_forward;
    b->matmul_backward_input = matmul_backward_input;
    b->matmul_backward_weight = matmul_backward_weight;
}

#endif
