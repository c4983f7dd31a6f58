/* hf.h - models on disk: Hugging Face directories (config.json, model.safetensors, one file or
 * shards) in and out, GGUF files of the llama family in. docs/formats.md lists what is read; a key
 * that changes the mathematics and is not supported is refused by its name, never ignored. */
#ifndef HF_H
#define HF_H

#include "core/model/weights.h"

int model_is_gguf(const char *path); /* by its name's end */

/* Path of a directory or a .gguf file. E_IO, E_FORMAT with the file and the key. */
Status model_read_config(ModelConfig *m, const char *path);

/* Fills weights made for a config read from the same path (heads may differ: a missing score head
 * is initialised from the seed, a language-model head that is not wanted is not read). Packs.
 * E_FORMAT names a tensor that is missing or of another shape. */
Status model_read_weights(Weights *w, const char *path, uint64_t seed);

/* Writes config.json and model.safetensors (f32), each by temp file + rename. */
Status model_write(const Weights *w, const char *dir);

#endif
