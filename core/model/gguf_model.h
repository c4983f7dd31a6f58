/* gguf_model.h - llama models in GGUF files: configuration and tensors under their Hugging Face
 * names. */
#ifndef GGUF_MODEL_H
#define GGUF_MODEL_H

#include "core/model/gguf.h"
#include "core/model/weights.h"

Status gguf_model_config(ModelConfig *m, const char *path);
/* Dequantizes one tensor into its slot; undoes the permutation of q and k rows. E_FORMAT names a
 * tensor that is missing or of another shape. */
Status gguf_model_tensor(Weights *w, const Gguf *g, const TensorInfo *info, Buf slot);

#endif
