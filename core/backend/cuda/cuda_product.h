/* cuda_product.h - the one matrix product that everything on the GPU calls: cuBLASLt in
 * cuda_product.cu, plain loops in tests/cuda_emulator.
 *
 * All matrices are row-major. C[M,N] (+)= op(A) op(B) (+ bias), accumulated in f32. */
#ifndef CUDA_PRODUCT_H
#define CUDA_PRODUCT_H

#include "core/backend/cuda/cuda.h"

typedef struct {
    const void *A, *B;
    void *C;
    const void *bias;  /* [N] of C's type, added to each row; NULL: none */
    Dtype in, out;     /* of A and B; of C */
    int M, N, K;       /* of the product */
    int lda, ldb, ldc; /* elements from row to row as stored; 0 = dense */
    int a_transposed;  /* A is stored [K,M] instead of [M,K] */
    int b_transposed;  /* B is stored [N,K] instead of [K,N] */
    int add;           /* C += instead of C = ; out is DT_F32 */
} ProductCall;

Status product_create(struct Product **p, CudaBackend *b);
void product_release(struct Product *p);
void product_run(CudaBackend *b, const ProductCall *call);
/* The same without any library, for any size and alignment; slow. */
void product_plain(CudaBackend *b, const ProductCall *call);
/* The same with one order of sums for every number of rows; see product_fixed.cu. */
void product_fixed(CudaBackend *b, const ProductCall *call);
/* The weights as products read them: the packed copy, or the stored ones of the page's type. */
const void *cuda_weights(const Mat *m, Dtype dtype);

#endif
