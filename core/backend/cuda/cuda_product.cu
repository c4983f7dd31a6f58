/* cuda_product.cu - matrix products by cuBLASLt: a plan per shape is made once by its heuristic, in
 * order and never by timing, and kept.
 *
 * cuBLASLt thinks in columns: a row-major C[M,N] is its C'[N,M], so it is asked for C' = B' A'. The
 * library is opened when the first GPU is: a program that stays on the CPU does not load half a
 * gigabyte, and starts where there is none. */
#include "core/backend/cuda/cuda_product.h"

#include <cublasLt.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/backend/cuda/device.cuh"

enum { PLANS = 4096, WORKSPACE_BYTES = 32 << 20 };

/* What is called of the library. */
#define CUBLASLT(X)                                                                                \
    X(Create)                                                                                      \
    X(Destroy)                                                                                     \
    X(GetStatusString)                                                                             \
    X(Matmul)                                                                                      \
    X(MatmulAlgoGetHeuristic)                                                                      \
    X(MatmulDescCreate)                                                                            \
    X(MatmulDescDestroy)                                                                           \
    X(MatmulDescSetAttribute)                                                                      \
    X(MatmulPreferenceCreate)                                                                      \
    X(MatmulPreferenceDestroy)                                                                     \
    X(MatmulPreferenceSetAttribute)                                                                \
    X(MatrixLayoutCreate)                                                                          \
    X(MatrixLayoutDestroy)

typedef struct {
#define FIELD(name) decltype(&cublasLt##name) name;
    CUBLASLT(FIELD)
#undef FIELD
} CublasLt;
static CublasLt lt; /* filled once, by library_open */

typedef struct { /* what a plan depends on; compared byte by byte, so it has no holes */
    int M, N, K, lda, ldb, ldc;
    int in, out, a_transposed, b_transposed, add, bias;
    int align_a, align_b, align_c;
} PlanKey;

typedef struct {
    PlanKey key;
    int used;
    int plain; /* cuBLASLt has no algorithm: our own kernel */
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algo;
} Plan;

struct Product {
    cublasLtHandle_t handle;
    void *workspace;
    Plan *plans; /* [PLANS] open addressing */
    int n_plans;
};

static cudaDataType_t data_type(Dtype t) {
    return t == DT_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static int alignment(const void *p) { /* the largest power of two up to 256 that divides it */
    int a = 256;
    while ((uintptr_t)p % (uintptr_t)a) a /= 2;
    return a;
}

static PlanKey key_of(const ProductCall *c) {
    PlanKey k;
    memset(&k, 0, sizeof k);
    k.M = c->M;
    k.N = c->N;
    k.K = c->K;
    k.lda = c->lda ? c->lda : c->a_transposed ? c->M : c->K;
    k.ldb = c->ldb ? c->ldb : c->b_transposed ? c->K : c->N;
    k.ldc = c->ldc ? c->ldc : c->N;
    k.in = c->in;
    k.out = c->out;
    k.a_transposed = c->a_transposed;
    k.b_transposed = c->b_transposed;
    k.add = c->add;
    k.bias = c->bias != NULL;
    k.align_a = alignment(c->A);
    k.align_b = alignment(c->B);
    k.align_c = alignment(c->C);
    return k;
}

static void plan_release(Plan *p) {
    if (p->a) lt.MatrixLayoutDestroy(p->a);
    if (p->b) lt.MatrixLayoutDestroy(p->b);
    if (p->c) lt.MatrixLayoutDestroy(p->c);
    if (p->desc) lt.MatmulDescDestroy(p->desc);
    memset(p, 0, sizeof *p);
}

static cublasStatus_t describe(Plan *p) {
    const PlanKey *k = &p->key;
    cublasOperation_t of_b = k->b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t of_a = k->a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    cudaDataType_t in = data_type((Dtype)k->in), out = data_type((Dtype)k->out);
    cublasStatus_t e = lt.MatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    /* cuBLASLt's first operand is our B, its second our A */
    if (!e) e = lt.MatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &of_b, sizeof of_b);
    if (!e) e = lt.MatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSB, &of_a, sizeof of_a);
    if (!e && k->bias) { /* along our columns, which are cuBLASLt's rows */
        cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
        e = lt.MatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                      sizeof epilogue);
        if (!e)
            e = lt.MatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &out,
                                          sizeof out);
    }
    if (!e)
        e = lt.MatrixLayoutCreate(&p->b, in, (uint64_t)(k->b_transposed ? k->K : k->N),
                                  (uint64_t)(k->b_transposed ? k->N : k->K), k->ldb);
    if (!e)
        e = lt.MatrixLayoutCreate(&p->a, in, (uint64_t)(k->a_transposed ? k->M : k->K),
                                  (uint64_t)(k->a_transposed ? k->K : k->M), k->lda);
    if (!e) e = lt.MatrixLayoutCreate(&p->c, out, (uint64_t)k->N, (uint64_t)k->M, k->ldc);
    return e;
}

static cublasStatus_t prefer(cublasLtMatmulPreference_t pref, const PlanKey *k) {
    uint64_t workspace = WORKSPACE_BYTES;
    /* partial sums meet in the workspace in a fixed order, never in place */
    uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const struct {
        cublasLtMatmulPreferenceAttributes_t name;
        uint32_t value;
    } rows[] = {
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, (uint32_t)k->align_b},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, (uint32_t)k->align_a},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, (uint32_t)k->align_c},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, (uint32_t)k->align_c},
    };
    cublasStatus_t e = lt.MatmulPreferenceSetAttribute(
        pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
    for (size_t i = 0; !e && i < sizeof rows / sizeof *rows; i++)
        e = lt.MatmulPreferenceSetAttribute(pref, rows[i].name, &rows[i].value,
                                            sizeof rows[i].value);
    return e;
}

static void plan_make(Product *product, Plan *p, const PlanKey *key) {
    cublasLtMatmulPreference_t pref = NULL;
    cublasLtMatmulHeuristicResult_t found;
    int n = 0;
    p->key = *key;
    p->used = 1;
    cublasStatus_t e = describe(p);
    if (!e) e = lt.MatmulPreferenceCreate(&pref);
    if (!e) e = prefer(pref, key);
    if (!e)
        e = lt.MatmulAlgoGetHeuristic(product->handle, p->desc, p->b, p->a, p->c, p->c, pref, 1,
                                      &found, &n);
    if (pref) lt.MatmulPreferenceDestroy(pref);
    if (!e && n > 0)
        p->algo = found.algo;
    else
        p->plain = 1;
}

static Plan *plan_for(Product *product, const PlanKey *key) {
    uint64_t h = 1469598103934665603ull;
    for (size_t i = 0; i < sizeof *key; i++)
        h = (h ^ ((const unsigned char *)key)[i]) * 1099511628211ull;
    if (product->n_plans > PLANS / 2) { /* sizes of batches vary without end */
        for (int i = 0; i < PLANS; i++) plan_release(&product->plans[i]);
        product->n_plans = 0;
    }
    for (size_t at = h % PLANS;; at = (at + 1) % PLANS) {
        Plan *p = &product->plans[at];
        if (p->used && !memcmp(&p->key, key, sizeof *key)) return p;
        if (p->used) continue;
        plan_make(product, p, key);
        product->n_plans++;
        return p;
    }
}

void product_run(CudaBackend *b, const ProductCall *c) {
    const float one = 1.0f, start = c->add ? 1.0f : 0.0f;
    if (c->M <= 0 || c->N <= 0 || c->K <= 0 || b->page.error != OK) return;
    if (b->invariant) {
        product_fixed(b, c);
        return;
    }
    PlanKey key = key_of(c);
    Plan *p = plan_for(b->product, &key);
    if (p->plain || (uintptr_t)c->bias % 16) {
        product_plain(b, c);
        return;
    }
    cublasStatus_t e = CUBLAS_STATUS_SUCCESS;
    if (c->bias)
        e = lt.MatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &c->bias,
                                      sizeof c->bias);
    if (!e)
        e = lt.Matmul(b->product->handle, p->desc, &one, c->B, p->b, c->A, p->a, &start, c->C, p->c,
                      c->C, p->c, &p->algo, b->product->workspace, WORKSPACE_BYTES, b->stream);
    if (e == CUBLAS_STATUS_SUCCESS || b->page.error != OK) return;
    b->page.error = status_fail(E_DEVICE, "%s: a product [%d,%d] x [%d,%d] failed in cuBLASLt: %s",
                                b->name, c->M, c->K, c->K, c->N, lt.GetStatusString(e));
}

static Status library_open(void) {
    char name[32];
    snprintf(name, sizeof name, "libcublasLt.so.%d", CUBLAS_VER_MAJOR);
    if (lt.Create) return OK;
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return status_fail(E_USAGE,
                           "the GPU needs %s, part of CUDA %d, which cannot be opened: %s "
                           "(LD_LIBRARY_PATH may name its folder)",
                           name, CUBLAS_VER_MAJOR, dlerror());
    CublasLt found;
#define FIND(name)                                                                                 \
    if (!(found.name = (decltype(found.name))dlsym(library, "cublasLt" #name)))                    \
        return status_fail(E_USAGE, "the library of CUDA's products has no cublasLt" #name);
    CUBLASLT(FIND)
#undef FIND
    lt = found;
    return OK;
}

Status product_create(struct Product **out, CudaBackend *b) {
    Product *p = (Product *)calloc(1, sizeof *p);
    *out = p;
    if (p) p->plans = (Plan *)calloc(PLANS, sizeof *p->plans);
    if (!p || !p->plans) return status_fail(E_MEMORY, "no memory for plans of products");
    TRY(library_open());
    cublasStatus_t e = lt.Create(&p->handle);
    if (e != CUBLAS_STATUS_SUCCESS)
        return status_fail(E_DEVICE, "%s: cuBLASLt cannot start: %s", b->name,
                           lt.GetStatusString(e));
    if (cudaMalloc(&p->workspace, WORKSPACE_BYTES) != cudaSuccess)
        return status_fail(E_MEMORY, "%s has no memory for the workspace of products", b->name);
    return OK;
}

void product_release(struct Product *p) {
    if (!p) return;
    for (int i = 0; p->plans && i < PLANS; i++) plan_release(&p->plans[i]);
    if (p->handle) lt.Destroy(p->handle);
    if (p->workspace) cudaFree(p->workspace);
    free(p->plans);
    free(p);
}
