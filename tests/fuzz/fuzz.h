/* fuzz.h - readers of bytes from outside, each as one function of bytes. The same targets run under
 * libFuzzer (libfuzzer.c, `make fuzz`) and over the corpus (tests/test_fuzz.c, `make fuzz-replay`).
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *name; /* its corpus is tests/fuzz/corpus/NAME */
    void (*run)(const uint8_t *data, size_t size);
} FuzzTarget;
extern const FuzzTarget fuzz_targets[];
extern const int fuzz_n_targets;

void fuzz_safetensors(const uint8_t *data, size_t size);
void fuzz_index(const uint8_t *data, size_t size);
void fuzz_gguf(const uint8_t *data, size_t size);
void fuzz_manifest(const uint8_t *data, size_t size);
void fuzz_jsonl(const uint8_t *data, size_t size);
void fuzz_stream(const uint8_t *data, size_t size);
void fuzz_recipe(const uint8_t *data, size_t size);
void fuzz_tokenizer(const uint8_t *data, size_t size);
void fuzz_bpe(const uint8_t *data, size_t size);
void fuzz_template(const uint8_t *data, size_t size);
void fuzz_run(const uint8_t *data, size_t size);
void fuzz_request(const uint8_t *data, size_t size);

/* Writes bytes into a folder of this process (made when it is first needed, removed at the end);
 * returns the path, valid until the end. */
const char *fuzz_file(const char *name, const void *data, size_t size);
/* Of the folder itself, or of what is in it. */
const char *fuzz_path(const char *name);

#endif
