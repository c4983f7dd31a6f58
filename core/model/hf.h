/* hf.h - models on disk: Hugging Face directories (config.json, model.safetensors, one file or
 * shards) in and out, GGUF files in. docs/formats.md lists what is read; a key
 * that changes the mathematics and is not supported is refused by its name, never ignored. */
#ifndef HF_H
#define HF_H

#include "core/base/text.h"
#include "core/model/weights.h"

int model_is_gguf(const char *path); /* by its name's end */

/* A directory, a .gguf file, or a model of the Hugging Face cache (hub.h). E_IO, E_FORMAT with the
 * file and the key. */
Status model_read_config(ModelConfig *m, const char *path);

/* Fills weights made for a config read from the same path (heads may differ: a missing score head
 * is initialised from the seed, a language-model head that is not wanted is not read). Packs.
 * E_FORMAT names a tensor that is missing or of another shape. */
Status model_read_weights(Weights *w, const char *path, uint64_t seed);

/* Writes config.json and model.safetensors (f32), each by temp file + rename. */
Status model_write(const Weights *w, const char *dir);
/* The same with values as dtype "f32", "bf16" or "f16" (rounded to nearest even), in shards of at
 * most max_shard bytes with an index (0: one file; a larger tensor has a shard of its own).
 * E_NUMERIC where a value is beyond f16. */
enum { SHARDS_MAX = 256 };
Status model_write_as(const Weights *w, const char *dir, const char *dtype, size_t max_shard);

/* Appends how a model's files hold its tensors: "30 tensors of F32, 60 tensors of Q8_0". */
Status model_storage(Text *out, const char *name);

#endif
