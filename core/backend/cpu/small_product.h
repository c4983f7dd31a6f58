/* small_product.h - products of matrices that lie in the nearest cache, tiled in registers as those
 * of cpu_matmul.c are: what attention is made of.
 *
 * y[rows][n] = start + sum over u of a(r, u) x[u][n]: one chain of fused multiply-adds per element,
 * u ascending, so that a row's bits are its own however many rows are computed together. */
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

typedef enum { FROM_ZERO, FROM_Y, FROM_SCALED } Start; /* scaled: y[r] times scale[r] */

/* one tile: `rows` by `vectors`, the last of them cut to `left` floats; constants in each call */
STEP small_tile(int rows, int vectors, int left, float *y, size_t y_stride, Start start,
                const float *scale, Factors a, RowsF32 x, int steps) {
    vf acc[TILE_ROWS][TILE_VECTORS];
    UNROLL for (int r = 0; r < rows; r++) {
        UNROLL for (int v = 0; v < vectors; v++) {
            vf old =
                start == FROM_ZERO ? (vf){0} : vload_upto(y + r * y_stride + v * VW, left, 0.0f);
            acc[r][v] = start == FROM_SCALED ? old * vset1(scale[r]) : old;
        }
    }
    for (int u = 0; u < steps; u++) {
        vf w[TILE_VECTORS];
        UNROLL for (int v = 0; v < vectors; v++) w[v] =
            vload_upto(x.at + u * x.stride + v * VW, left, 0.0f);
        UNROLL for (int r = 0; r < rows; r++) {
            vf f = vset1(a.at[r * a.row + u * a.step]);
            UNROLL for (int v = 0; v < vectors; v++) acc[r][v] = vfma(f, w[v], acc[r][v]);
        }
    }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vectors; v++)
        vstore_upto(y + r * y_stride + v * VW, acc[r][v], left);
}

STEP small_rows(int rows, float *y, size_t y_stride, Start start, const float *scale, Factors a,
                RowsF32 x, int steps, int n) {
    int d = 0;
    for (; d + TILE_VECTORS * VW <= n; d += TILE_VECTORS * VW, x.at += TILE_VECTORS * VW)
        small_tile(rows, TILE_VECTORS, VW, y + d, y_stride, start, scale, a, x, steps);
    for (; d + VW <= n; d += VW, x.at += VW)
        small_tile(rows, 1, VW, y + d, y_stride, start, scale, a, x, steps);
    if (d < n) small_tile(rows, 1, n - d, y + d, y_stride, start, scale, a, x, steps);
}

#define SMALL_CASE(rows)                                                                           \
    case rows: small_rows(rows, y, y_stride, start, scale, a, x, steps, n); break
STEP small_product(float *y, size_t y_stride, Start start, const float *scale, Factors a, RowsF32 x,
                   int rows, int steps, int n) {
    for (; rows > 0; rows -= TILE_ROWS) {
        switch (rows < TILE_ROWS ? rows : TILE_ROWS) {
            SMALL_CASE(1);
            SMALL_CASE(2);
            SMALL_CASE(3);
            SMALL_CASE(4);
#if defined(__AVX512F__)
            SMALL_CASE(5);
            SMALL_CASE(6);
            SMALL_CASE(7);
            SMALL_CASE(8);
#endif
        }
        y += TILE_ROWS * y_stride;
        a.at += TILE_ROWS * a.row;
        if (scale) scale += TILE_ROWS;
    }
}

#endif
