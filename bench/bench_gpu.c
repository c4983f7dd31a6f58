/* bench_gpu.c - the operations and whole models on one GPU, each beside the ceiling measured in the
 * same run: the largest bf16 product, and a copy in device memory.
 *
 * bench_gpu [--only NAME] [--device cuda:0] [--dtype bf16|f32] [--kernels auto|invariant] [--small]
 * [--json FILE]: invariant is what --batch_invariant computes with; --small
 * shrinks every shape, to try the program itself anywhere (--device cpu). Times are of many calls
 * in a row between two waits; inputs are never zero; medians of RUNS. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench.h"
#include "core/backend/cuda/cuda_page.h"
#include "core/base/threads.h"
#include "core/run/progress.h"

typedef struct {
    const char *name;
    const ModelConfig *m;
    int S, T;    /* sequences of operations, and their length */
    int R;       /* rows of the head */
    size_t flat; /* elements of a flat range */
    int largest; /* edge of the largest product */
} Sizes;
static const Sizes real = {"1b", &bench_1b, 8, 2048, 4096, (size_t)1 << 28, 8192};
static const Sizes small = {"tiny", &bench_tiny, 4, 64, 64, (size_t)1 << 16, 128};

static void attention(Bench *bench, const Sizes *z, int HS) {
    int NH = z->m->C / HS;
    bench_attention(bench, z->S, z->T, NH, NH >= 4 ? NH / 4 : NH, HS);
}

static void whole_models(Bench *bench, int is_small) {
    const ModelConfig *m = is_small ? &bench_tiny : &bench_1b;
    const char *name = is_small ? "tiny" : "1b";
    static const int batches[] = {1, 64, 256};
    if (bench_wanted(bench, "train")) {
        bench_train(bench, "135m", is_small ? m : &bench_135m, is_small ? 2 : 16,
                    64 << 4 * !is_small);
        bench_train(bench, name, m, is_small ? 2 : 8, is_small ? 64 : 2048);
    }
    if (bench_wanted(bench, "dpo"))
        bench_dpo(bench, name, m, is_small ? 1 : 4, is_small ? 64 : 2048);
    if (bench_wanted(bench, "batching"))
        bench_batching(bench, name, m, is_small ? 4 : 64, is_small ? 16 : 512, is_small ? 16 : 128,
                       is_small ? 32 : 1024);
    if (bench_wanted(bench, "sharing"))
        bench_sharing(bench, name, m, is_small ? 16 : 64, 256, is_small ? 16 : 128);
    if (bench_wanted(bench, "decode"))
        for (int i = 0; i < (is_small ? 1 : 3); i++)
            bench_decode(bench, name, m, batches[i], is_small ? 16 : 512, is_small ? 8 : 128);
    if (bench_wanted(bench, "ppo")) {
        bench_ppo(bench, name, m, is_small ? 4 : 256, is_small ? 16 : 256, is_small ? 16 : 256,
                  16384);
    }
}

int main(int argc, char **argv) {
    const char *device = "cuda:0", *dtype = "bf16", *kernels = "auto", *json = NULL;
    Bench bench = {.only = "", .unit = 1e12, .rate_unit = "TFLOP/s"};
    int is_small = 0;
    for (int i = 1; i < argc; i++) {
        const char **text = !strcmp(argv[i], "--only")      ? &bench.only
                            : !strcmp(argv[i], "--device")  ? &device
                            : !strcmp(argv[i], "--dtype")   ? &dtype
                            : !strcmp(argv[i], "--kernels") ? &kernels
                            : !strcmp(argv[i], "--json")    ? &json
                                                            : NULL;
        if (text && i + 1 < argc)
            *text = argv[++i];
        else if (!strcmp(argv[i], "--small"))
            is_small = 1;
        else
            return bench_usage("bench_gpu", argv[i],
                               "[--only NAME] [--device cuda:0] [--dtype bf16|f32] "
                               "[--kernels auto|invariant] [--small] [--json FILE]");
    }
    if (!strncmp(device, "cuda", 4) && cuda_device_count() == 0) {
        printf("bench_gpu: no usable GPU, skipped\n");
        return 0;
    }
    const Sizes *z = is_small ? &small : &real;
    MUST(threads_start(0));
    MUST(backend_create(&bench.b, device, kernels, dtype));
    if (json && !(bench.json = fopen(json, "a"))) perror(json);
    bench.flops = bench_product_rate(&bench, 0, z->largest, z->largest, z->largest);
    bench.bandwidth = bench_copy_rate(&bench, z->flat);
    printf("%s, %s, %s; ceilings: product %.1f TFLOP/s, copy %.0f GB/s\n", bench.b->device,
           bench.b->kernels, dtype, bench.flops / 1e12, bench.bandwidth / 1e9);
    int tokens = z->S * z->T;
    if (bench_wanted(&bench, "matmul")) bench_products(&bench, z->name, z->m, &tokens, 1);
    if (bench_wanted(&bench, "attention")) {
        attention(&bench, z, is_small ? 16 : 64);
        attention(&bench, z, is_small ? 32 : 128);
    }
    if (bench_wanted(&bench, "head")) bench_head(&bench, z->name, z->m, z->R);
    if (bench_wanted(&bench, "stream")) bench_streams(&bench, z->name, z->m, tokens, z->flat);
    whole_models(&bench, is_small);
    backend_release(bench.b);
    if (bench.json) fclose(bench.json);
    threads_stop();
    return 0;
}
