/* small_product.h - products of matrices that lie in the nearest cache, tiled in registers as those
 * of cpu_matmul.c are: what attention is made of.
 *
 * y[rows][n] += sum over u of a(r, u) x[u][n]: one chain of fused multiply-adds per element, u
 * ascending, so that a row's bits are its own however many rows are computed together. x may lie in
 * a page of keys or values, of the storage type: widening is exact, and of the page that is read
 * next, which lies anywhere, a line is asked for with each one that is read of this (many at once
 * would not be granted). */
#ifndef SMALL_PRODUCT_H
#define SMALL_PRODUCT_H

#include "core/backend/cpu/act.h"
#include "core/backend/cpu/step.h"

typedef struct {
    const void *at; /* f32, or of the storage type where paged */
    size_t stride;  /* of rows, in elements */
    int paged;
    const void *next; /* the page that is read next */
} SmallRows;

typedef struct { /* a(r, u) = at[r * row + u * step] */
    const float *at;
    size_t row, step;
} Factors;

/* A tile's chains hide the latency of a multiply-add, and few loads feed many of them. */
enum { TILE_ROWS = VW == 16 ? 8 : 4 };

static inline SmallRows small_from(SmallRows x, size_t column) {
    size_t bytes = column * (x.paged ? sizeof(act) : sizeof(float));
    x.at = (const char *)x.at + bytes;
    if (x.paged) x.next = (const char *)x.next + bytes;
    return x;
}

/* one tile of whole vectors; rows, vectors and paged are constants in each call */
STEP small_tile(int rows, int vectors, int paged, float *y, size_t y_stride, Factors a, SmallRows x,
                int steps) {
    vf acc[TILE_ROWS][4];
    const char *from = x.at;
    ptrdiff_t next = paged ? (const char *)x.next - from : 0;
    size_t element = paged ? sizeof(act) : sizeof(float);
    UNROLL for (int r = 0; r < rows; r++) {
        UNROLL for (int v = 0; v < vectors; v++) acc[r][v] = vload(y + r * y_stride + v * VW);
    }
    for (int u = 0; u < steps; u++) {
        vf w[4];
        UNROLL for (int v = 0; v < vectors; v++) w[v] =
            paged ? aload((const act *)(const void *)from + v * VW)
                  : vload((const float *)(const void *)from + v * VW);
        if (paged) {
            UNROLL for (size_t at = 0; at < vectors * VW * element; at += 64)
                __builtin_prefetch(from + next + at, 0, 2);
        }
        UNROLL for (int r = 0; r < rows; r++) {
            vf f = vset1(a.at[r * a.row]);
            UNROLL for (int v = 0; v < vectors; v++) acc[r][v] = vfma(f, w[v], acc[r][v]);
        }
        a.at += a.step;
        from += x.stride * element;
    }
    UNROLL for (int r = 0; r < rows; r++) {
        UNROLL for (int v = 0; v < vectors; v++) vstore(y + r * y_stride + v * VW, acc[r][v]);
    }
}

/* `rows` rows of n columns, in whole vectors */
STEP small_row_of_tiles(int rows, int vectors, int paged, float *y, size_t y_stride, Factors a,
                        SmallRows x, int steps, int n) {
    int d = 0;
    for (; d + vectors * VW <= n; d += vectors * VW)
        small_tile(rows, vectors, paged, y + d, y_stride, a, small_from(x, (size_t)d), steps);
    for (; vectors > 1 && d < n; d += VW)
        small_tile(rows, 1, paged, y + d, y_stride, a, small_from(x, (size_t)d), steps);
}

/* n columns that fill no vector */
static inline void small_rest(int rows, float *y, size_t y_stride, Factors a, SmallRows x,
                              int steps, int n) {
    for (int r = 0; r < rows; r++, y += y_stride, a.at += a.row) {
        vf acc = vload_n(y, n, 0.0f);
        for (int u = 0; u < steps; u++) {
            SmallRows row = small_from(x, u * x.stride);
            vf w = x.paged ? aload_upto(row.at, n) : vload_n(row.at, n, 0.0f);
            acc = vfma(vset1(a.at[u * a.step]), w, acc);
        }
        vstore_n(y, acc, n);
    }
}

STEP small_product_of(int paged, float *y, size_t y_stride, Factors a, SmallRows x, int rows,
                      int steps, int n) {
    /* vectors for two rows or one, whose chains are too few otherwise */
    enum { MANY = VW == 8 ? 4 : 2 };
    int whole = n / VW * VW;
    if (whole < n)
        small_rest(rows, y + whole, y_stride, a, small_from(x, (size_t)whole), steps, n - whole);
    for (int m; rows > 0; rows -= m, y += m * y_stride, a.at += m * a.row) {
        m = rows >= TILE_ROWS ? TILE_ROWS : rows >= 4 ? 4 : rows;
        switch (m) {
#if defined(__AVX512F__)
        case 8: small_row_of_tiles(8, 2, paged, y, y_stride, a, x, steps, whole); break;
#endif
        case 4: small_row_of_tiles(4, 2, paged, y, y_stride, a, x, steps, whole); break;
        case 3: small_row_of_tiles(3, 2, paged, y, y_stride, a, x, steps, whole); break;
        case 2: small_row_of_tiles(2, MANY, paged, y, y_stride, a, x, steps, whole); break;
        default: small_row_of_tiles(1, MANY, paged, y, y_stride, a, x, steps, whole);
        }
    }
}

/* One copy of each for a whole file: they are long. */
static __attribute__((noinline)) void small_product_near(float *y, size_t y_stride, Factors a,
                                                         SmallRows x, int rows, int steps, int n) {
    small_product_of(0, y, y_stride, a, x, rows, steps, n);
}
static __attribute__((noinline)) void small_product_paged(float *y, size_t y_stride, Factors a,
                                                          SmallRows x, int rows, int steps, int n) {
    small_product_of(1, y, y_stride, a, x, rows, steps, n);
}
static inline void small_product(float *y, size_t y_stride, Factors a, SmallRows x, int rows,
                                 int steps, int n) {
    if (x.paged)
        small_product_paged(y, y_stride, a, x, rows, steps, n);
    else
        small_product_near(y, y_stride, a, x, rows, steps, n);
}

#endif
