/* fuzz.c - the table of targets, and the folder for those that read files. */
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/file.h"

const FuzzTarget fuzz_targets[] = {
    {"safetensors", fuzz_safetensors}, {"index", fuzz_index}, {"gguf", fuzz_gguf},
    {"manifest", fuzz_manifest},       {"jsonl", fuzz_jsonl}, {"stream", fuzz_stream},
    {"recipe", fuzz_recipe},           {"bpe", fuzz_bpe},     {"tokenizer", fuzz_tokenizer},
    {"template", fuzz_template},       {"run", fuzz_run},     {"request", fuzz_request},
};
const int fuzz_n_targets = sizeof fuzz_targets / sizeof *fuzz_targets;

enum { PATHS = 32 };
static char folder[64], paths[PATHS][160];

static void remove_folder(void) {
    file_remove_tree(folder);
}

static void make_folder(void) {
    const char *shm = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(folder, sizeof folder, "%s/rlhf-fuzz-XXXXXX", shm);
    CHECK(mkdtemp(folder));
    atexit(remove_folder);
}

const char *fuzz_path(const char *name) {
    if (!folder[0]) make_folder();
    char path[160];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    for (int i = 0; i < PATHS; i++) {
        if (!paths[i][0]) snprintf(paths[i], sizeof paths[i], "%s", path);
        if (!strcmp(paths[i], path)) return paths[i];
    }
    CHECK(!"more paths than there is room for");
    return NULL;
}

const char *fuzz_file(const char *name, const void *data, size_t size) {
    const char *path = fuzz_path(name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0);
    CHECK(write(fd, data, size) == (ssize_t)size);
    close(fd);
    return path;
}
