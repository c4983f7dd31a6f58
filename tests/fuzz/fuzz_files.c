/* fuzz_files.c - files of models and checkpoints. What they offer is read to its end, so that a
 * length that was not checked touches memory that is not there. */
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "core/base/log.h"
#include "core/model/gguf.h"
#include "core/model/hf.h"
#include "core/model/safetensors.h"
#include "core/run/run.h"
#include "core/run/run_inside.h"
#include "datasets/tokenizer.h"

enum { VALUES = 1 << 16 };
static float values[VALUES];

void fuzz_safetensors(const uint8_t *data, size_t size) {
    Safetensors *s;
    if (safetensors_open(&s, fuzz_file("x.safetensors", data, size)) != OK) return;
    for (int i = 0; i < safetensors_size(s); i++) {
        const SafetensorsTensor *t = safetensors_at(s, i);
        CHECK(safetensors_find(s, t->name) == t);
        for (size_t k = 0; k < t->bytes; k += 64) values[0] += (float)t->data[k];
        for (size_t at = 0; at < t->count; at += VALUES) {
            size_t n = t->count - at < VALUES ? t->count - at : VALUES;
            if (safetensors_read_f32(t, at, n, values) != OK) break;
        }
    }
    safetensors_metadata(s, "format");
    safetensors_close(s);
}

/* Beside the index lie two shards, so that names in it can be right. */
void fuzz_index(const uint8_t *data, size_t size) {
    static const char header[] = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}";
    static const uint64_t len = sizeof header - 1;
    Text types = {0}, shard = {0};
    static int there;
    if (!there++) {
        text_add_bytes(&shard, (const char *)&len, 8);
        text_addf(&shard, "%sx", header);
        fuzz_file("a.safetensors", shard.s, shard.len);
        fuzz_file("b.safetensors", shard.s, shard.len);
        text_release(&shard);
    }
    fuzz_file("model.safetensors.index.json", data, size);
    model_storage(&types, fuzz_path(""));
    text_release(&types);
}

static void read_tensors(const Gguf *g) {
    for (int i = 0; i < gguf_n_tensors(g); i++) {
        const GgufTensor *t = gguf_tensor_at(g, i);
        CHECK(gguf_tensor(g, t->name) == t);
        if (!t->cols || t->cols > VALUES) continue;
        for (size_t row = 0; row < t->rows; row++)
            if (gguf_read(g, t, row, 1, values) != OK) break;
    }
}

void fuzz_gguf(const uint8_t *data, size_t size) {
    const char *path = fuzz_file("x.gguf", data, size);
    Gguf *g = NULL;
    Tokenizer *t = NULL;
    ModelConfig m;
    if (gguf_open(&g, path) == OK) read_tensors(g);
    gguf_close(g);
    if (model_read_config(&m, path) == OK) CHECK(m.V > 0);
    if (tokenizer_open_gguf(&t, path) == OK) CHECK(tokenizer_vocab_size(t) > 0);
    tokenizer_release(t);
}

static Run *open_run(void) {
    RunConfig cfg = {.dir = fuzz_path("run"), .best = "", .overwrite = 1};
    Run *run;
    CheckpointWriter *w;
    CHECK(run_open(&run, &cfg, "sft", "{\"verb\":\"sft\"}") == OK && run_begin(run) == OK);
    CHECK(checkpoint_begin(&w, run, 1) == OK);
    CHECK(checkpoint_add(w, "weights", "0123456789", 10) == OK);
    CHECK(checkpoint_commit(w) == OK);
    return run;
}

/* The first byte says whether the hash in front is made right, so that what is behind it counts. */
void fuzz_manifest(const uint8_t *data, size_t size) {
    static Run *run;
    static char manifest[RUN_PATH];
    Text text = {0};
    Checkpoint *c = NULL;
    const void *view;
    size_t bytes;
    if (!run) {
        log_level(LOG_QUIET);
        run = open_run();
        StepDir dirs[STEP_DIRS_MAX];
        int n = 0;
        CHECK(checkpoint_list(run, dirs, &n) == OK && n == 1);
        checkpoint_path(manifest, run, dirs[0], "");
        strcat(manifest, "/manifest.json");
    }
    if (!size) return;
    if (data[0] == '+') {
        char head[MANIFEST_HEAD + 1];
        manifest_head(head, (const char *)data + 1, size - 1);
        text_add_bytes(&text, head, MANIFEST_HEAD);
        data++, size--;
    }
    text_add_bytes(&text, (const char *)data, size);
    FILE *f = fopen(manifest, "w");
    CHECK(f && fwrite(text.s, 1, text.len, f) == text.len && fclose(f) == 0);
    if (checkpoint_open_latest(&c, run) == OK && c) checkpoint_view(c, "weights", 0, &view, &bytes);
    checkpoint_close(c);
    text_release(&text);
}
