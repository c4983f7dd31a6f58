/* product.cpp - the matrix product of the emulated GPU, in plain loops: cuBLASLt is not ours to
 * test. */
#include "core/backend/cuda/cuda_product.h"
#include "core/backend/cuda/device.cuh"

struct Product {
    int unused;
};

Status product_create(struct Product **p, CudaBackend *) {
    *p = new Product{0};
    return OK;
}

void product_release(struct Product *p) {
    delete p;
}

static float at(const void *x, Dtype t, size_t i) {
    return t == DT_BF16 ? to_f32(((const bf16 *)x)[i]) : ((const float *)x)[i];
}

/* The sum of each part of k by itself, as cuBLASLt splits it or not by the number of rows: a row's
 * bits depend on what else is computed, which callers must bear. */
static void run(const ProductCall &c) {
    size_t part = (size_t)(c.M % 3 + 1) * 8;
    size_t lda = (size_t)(c.lda ? c.lda : c.a_transposed ? c.M : c.K);
    size_t ldb = (size_t)(c.ldb ? c.ldb : c.b_transposed ? c.K : c.N);
    size_t ldc = (size_t)(c.ldc ? c.ldc : c.N);
    for (size_t m = 0; m < (size_t)c.M; m++)
        for (size_t n = 0; n < (size_t)c.N; n++) {
            float sum = 0.0f, some = 0.0f;
            for (size_t k = 0; k < (size_t)c.K; k++) {
                if (k % part == 0) sum += some, some = 0.0f;
                some += at(c.A, c.in, c.a_transposed ? k * lda + m : m * lda + k) *
                        at(c.B, c.in, c.b_transposed ? n * ldb + k : k * ldb + n);
            }
            sum += some;
            if (c.bias) sum += at(c.bias, c.out, n);
            if (c.out == DT_BF16)
                ((bf16 *)c.C)[m * ldc + n] = bf16{emulator_bf16(sum)};
            else
                ((float *)c.C)[m * ldc + n] = sum + (c.add ? ((float *)c.C)[m * ldc + n] : 0.0f);
        }
}

/* Where K is odd, our own kernel, as a GPU would use it. */
void product_run(CudaBackend *b, const ProductCall *call) {
    ProductCall c = *call;
    if (b->invariant)
        product_fixed(b, call);
    else if (c.K % 2)
        product_plain(b, call);
    else
        emulator_run([=] { run(c); });
}
