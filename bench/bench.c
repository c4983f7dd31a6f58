/* bench.c - see bench.h. */
#include "bench/bench.h"

#include <string.h>

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, compare);
    return v[n / 2];
}

void bench_refresh(Bench *bench) {
    double now = bench->peak ? bench->peak() : 0.0;
    if (now > bench->flops) bench->flops = now;
    if (bench->reading) bench->bandwidth = bench->reading();
}

int bench_usage(const char *program, const char *word, const char *takes) {
    fprintf(stderr, "%s: what is \"%s\"? %s %s\n", program, word, program, takes);
    return 2;
}

int bench_wanted(const Bench *bench, const char *name) {
    return !bench->only[0] || !strncmp(bench->only, name, strlen(bench->only));
}

void bench_beside(const Bench *bench, const char *name, const char *shape, int batch, double value,
                  const char *unit, double limit, Peer peer) {
    const char *dtype = bench->b->dtype == DT_BF16 ? "bf16" : "f32";
    int is_time = !strcmp(unit, "s");
    printf("%-16s %-14s %-4s %8d %12.4g %-8s", name, shape, dtype, batch, value, unit);
    if (limit > 0.0)
        printf(" %3.0f%% of %.4g", 100.0 * (is_time ? limit / value : value / limit), limit);
    if (peer.value > 0.0)
        printf("%s %.2f times %s", limit > 0.0 ? "," : "",
               is_time ? peer.value / value : value / peer.value, peer.name);
    printf("\n");
    fflush(stdout);
    if (!bench->json) return;
    fprintf(
        bench->json,
        "{\"bench\":\"%s\",\"shape\":\"%s\",\"dtype\":\"%s\",\"device\":\"%s\",\"kernels\":\"%s\","
        "\"batch\":%d,\"value\":%.6g,\"unit\":\"%s\",\"limit\":",
        name, shape, dtype, bench->b->device, bench->b->kernels, batch, value, unit);
    if (limit > 0.0)
        fprintf(bench->json, "%.6g", limit);
    else
        fprintf(bench->json, "null");
    if (peer.value > 0.0)
        fprintf(bench->json, ",\"peer\":%.6g,\"peer_name\":\"%s\"}\n", peer.value, peer.name);
    else
        fprintf(bench->json, ",\"peer\":null}\n");
    fflush(bench->json);
}

void bench_row(const Bench *bench, const char *name, const char *shape, int batch, double value,
               const char *unit, double limit) {
    bench_beside(bench, name, shape, batch, value, unit, limit, (Peer){0});
}

void bench_fill(Backend *b, Buf buf, size_t n, int seed) {
    enum { PIECE = 1 << 16 };
    float *host = malloc(PIECE * sizeof *host);
    for (size_t at = 0; host && at < n; at += PIECE) {
        size_t count = n - at < PIECE ? n - at : PIECE;
        for (size_t i = 0; i < count; i++)
            host[i] = (float)((double)(((at + i) * 2654435761u + (unsigned)seed * 40503u) % 2001) /
                                  1000.0 -
                              0.9996);
        b->upload(b, buf_at(buf, at), host, count);
    }
    free(host);
}
