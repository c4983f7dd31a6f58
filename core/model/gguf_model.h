/* gguf_model.h - a model in a GGUF file: its shape and its tensors under the names and in the order
 * of a Hugging Face directory. */
#ifndef GGUF_MODEL_H
#define GGUF_MODEL_H

#include "core/model/gguf.h"
#include "core/model/weights.h"

/* E_FORMAT names what the file lacks, or what it asks for that is not computed. */
Status gguf_model_config(ModelConfig *m, const char *path);
/* Reads one tensor into its slot. E_FORMAT when it is missing or of another shape. */
Status gguf_model_tensor(Weights *w, const Gguf *g, const TensorInfo *info, Buf slot);
/* E_FORMAT when the file has a tensor that the model has not. */
Status gguf_model_tensors_known(const ModelConfig *m, const Gguf *g);
/* The converter of this architecture puts the two rows of q and k that rotate together side by
 * side. */
int gguf_permutes(Gguf *g);

#endif
