/* gguf_model.h - llama models in GGUF files: configuration and tensors under their Hugging Face names. */
#ifndef GGUF_MODEL_H
#define GGUF_MODEL_H

#include "core/model/weights.h"

Status gguf_model_config(ModelConfig *m, const char *path);
/* One file is open at a time, between begin and end. */
Status gguf_model_begin(const char *path);
void gguf_model_end(void);
/* Dequantizes one tensor into its slot; undoes the permutation of q and k rows. */
Status gguf_model_tensor(Weights *w, const char *path, const TensorInfo *info, Buf slot);

#endif
