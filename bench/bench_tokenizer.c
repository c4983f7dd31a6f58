/* bench_tokenizer.c - how many bytes of text a second become ids, on one core.
 *
 * bench_tokenizer [--data FILE] [--tokenizer DIR] [--json FILE]: FILE is any text (without it the
 * project's own documents, repeated), DIR holds a tokenizer.json (without it the fixtures beside
 * the checkout, and a tokenizer trained on the text). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "bench/bench.h"
#include "core/base/file.h"
#include "core/base/memory.h"
#include "core/run/progress.h"
#include "datasets/tokenizer.h"

enum { REPEATED = 8 << 20, LIMIT = 1 << 28 };

/* Beside the median the best run: what the machine's other users left of it. */
static void row(FILE *json, const char *name, double bytes, int tokens, double middle,
                double best) {
    printf("tokenize %-22s %5.2f bytes/token %8.1f MB/s, best %.1f\n", name, bytes / tokens,
           bytes / 1e6 / middle, bytes / 1e6 / best);
    fflush(stdout);
    if (!json) return;
    fprintf(json,
            "{\"bench\":\"tokenize\",\"shape\":\"%s\",\"dtype\":null,\"device\":\"cpu\","
            "\"kernels\":null,\"batch\":1,\"value\":%.6g,\"unit\":\"MB/s\",\"limit\":null,"
            "\"peer\":null}\n",
            name, bytes / 1e6 / middle);
}

static void rate(FILE *json, const Tokenizer *t, const char *name, const Text *text) {
    double times[RUNS];
    Ids ids = {0};
    for (int r = 0; r < RUNS; r++) {
        ids.n = 0;
        double start = clock_seconds();
        MUST(tokenizer_encode(t, text->s, text->len, 0, &ids));
        times[r] = clock_seconds() - start;
    }
    double middle = median(times, RUNS); /* sorts */
    row(json, name, (double)text->len, ids.n, middle, times[0]);
    ids_release(&ids);
}

static void read_text(Text *text, const char *path) {
    Arena arena = {0};
    char *s;
    size_t n;
    MUST(file_read(&arena, &s, &n, path, LIMIT));
    text_add_bytes(text, s, n);
    arena_release(&arena);
}

static void own_documents(Text *text) {
    static const char *const names[] = {"README.md", "docs/design.md", "docs/formats.md"};
    Text once = {0};
    for (int i = 0; i < 3; i++)
        if (file_exists(names[i])) read_text(&once, names[i]);
    if (!once.len) text_add(&once, "There are no documents here, only this sentence. ");
    while (text->len < REPEATED) text_add_bytes(text, once.s, once.len);
    text_release(&once);
}

static void fixture(FILE *json, const char *name, const Text *text) {
    char path[256], *packed;
    size_t len;
    Arena arena = {0};
    Tokenizer *t;
    snprintf(path, sizeof(path), "../shared/fixtures/tokenizers/%s/tokenizer.json.zst", name);
    if (!file_exists(path)) return;
    MUST(file_read(&arena, &packed, &len, path, LIMIT));
    size_t size = (size_t)ZSTD_getFrameContentSize(packed, len);
    char *text_json = arena_alloc(&arena, size);
    if (ZSTD_decompress(text_json, size, packed, len) != size) abort();
    MUST(tokenizer_open_json(&t, name, text_json, size));
    rate(json, t, name, text);
    tokenizer_release(t);
    arena_release(&arena);
}

static void trained(FILE *json, const Text *text) {
    BpeTrainer *b;
    Tokenizer *t;
    MUST(bpe_trainer_create(&b));
    MUST(bpe_trainer_add(b, text->s, text->len));
    MUST(bpe_trainer_finish(b, 4096, &t));
    bpe_trainer_release(b);
    rate(json, t, "trained, 4096 tokens", text);
    tokenizer_release(t);
}

int main(int argc, char **argv) {
    static const char *const names[] = {"gpt2", "qwen3", "mistral"};
    const char *data = NULL, *dir = NULL;
    FILE *out = NULL;
    Text text = {0};
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--data")) data = argv[i + 1];
        if (!strcmp(argv[i], "--tokenizer")) dir = argv[i + 1];
        if (!strcmp(argv[i], "--json")) out = fopen(argv[i + 1], "a");
    }
    if (data)
        read_text(&text, data);
    else
        own_documents(&text);
    if (dir) {
        Tokenizer *t;
        MUST(tokenizer_open_dir(&t, dir));
        rate(out, t, dir, &text);
        tokenizer_release(t);
    } else {
        for (int i = 0; i < 3; i++) fixture(out, names[i], &text);
        trained(out, &text);
    }
    text_release(&text);
    if (out) fclose(out);
    return 0;
}
