/* small_product.h - products of matrices that lie in the nearest cache, tiled in registers as those
 * of cpu_matmul.c are: what attention is made of.
 *
 * y[rows][n] += sum over u of a(r, u) x[u][n]: one chain of fused multiply-adds per element, u
 * ascending, so that a row's bits are its own however many rows are computed together. */
#ifndef SMALL_PRODUCT_H
#define SMALL_PRODUCT_H

#include "core/backend/cpu/step.h"
#include "core/backend/cpu/vec.h"

typedef struct { /* rows of f32 */
    const float *at;
    size_t stride;
} RowsF32;

typedef struct { /* a(r, u) = at[r * row + u * step] */
    const float *at;
    size_t row, step;
} Factors;

/* The eight chains of a tile hide the latency of a multiply-add. */
enum { TILE_VECTORS = VW == 16 ? 1 : 2, TILE_ROWS = 8 / TILE_VECTORS };

/* one tile of whole vectors; `rows` is a constant in each call */
STEP small_tile(int rows, float *y, size_t y_stride, Factors a, RowsF32 x, int steps) {
    vf acc[TILE_ROWS][TILE_VECTORS];
    UNROLL for (int r = 0; r < rows; r++) {
        UNROLL for (int v = 0; v < TILE_VECTORS; v++) acc[r][v] = vload(y + r * y_stride + v * VW);
    }
    for (int u = 0; u < steps; u++) {
        vf w[TILE_VECTORS];
        UNROLL for (int v = 0; v < TILE_VECTORS; v++) w[v] = vload(x.at + v * VW);
        UNROLL for (int r = 0; r < rows; r++) {
            vf f = vset1(a.at[r * a.row]);
            UNROLL for (int v = 0; v < TILE_VECTORS; v++) acc[r][v] = vfma(f, w[v], acc[r][v]);
        }
        a.at += a.step;
        x.at += x.stride;
    }
    UNROLL for (int r = 0; r < rows; r++) {
        UNROLL for (int v = 0; v < TILE_VECTORS; v++) vstore(y + r * y_stride + v * VW, acc[r][v]);
    }
}

/* n columns that fill no tile */
static inline void small_rest(int rows, float *y, size_t y_stride, Factors a, RowsF32 x, int steps,
                              int n) {
    for (int r = 0; r < rows; r++, y += y_stride, a.at += a.row) {
        for (int d = 0; d < n; d += VW) {
            vf acc = vload_upto(y + d, n - d, 0.0f);
            for (int u = 0; u < steps; u++)
                acc = vfma(vset1(a.at[u * a.step]),
                           vload_upto(x.at + u * x.stride + d, n - d, 0.0f), acc);
            vstore_upto(y + d, acc, n - d);
        }
    }
}

/* One copy for a whole file: it is long. */
static __attribute__((noinline)) void small_product(float *y, size_t y_stride, Factors a, RowsF32 x,
                                                    int rows, int steps, int n) {
    enum { COLUMNS = TILE_VECTORS * VW };
    int whole = n / COLUMNS * COLUMNS;
    if (whole < n)
        small_rest(rows, y + whole, y_stride, a, (RowsF32){x.at + whole, x.stride}, steps,
                   n - whole);
    for (int m; rows > 0; rows -= m, y += m * y_stride, a.at += m * a.row) {
        m = rows >= TILE_ROWS ? TILE_ROWS : rows >= 4 ? 4 : rows >= 2 ? 2 : 1;
        for (int d = 0; d < whole; d += COLUMNS) {
            RowsF32 columns = {x.at + d, x.stride};
            if (m == TILE_ROWS)
                small_tile(TILE_ROWS, y + d, y_stride, a, columns, steps);
            else if (m == 4)
                small_tile(4, y + d, y_stride, a, columns, steps);
            else if (m == 2)
                small_tile(2, y + d, y_stride, a, columns, steps);
            else
                small_tile(1, y + d, y_stride, a, columns, steps);
        }
    }
}

#endif
