/* hf_config.h - the config.json of a Hugging Face directory: keys of transformers 4 and 5 are read,
 * both are written. */
#ifndef HF_CONFIG_H
#define HF_CONFIG_H

#include "core/base/json.h"
#include "core/model/config.h"

/* E_FORMAT names the key that is missing, cannot be, or asks for what is not computed. */
Status config_read(ModelConfig *m, const JsonDoc *doc);
/* dtype: of the weights beside it, "float32", "bfloat16" or "float16". */
Status config_write(const ModelConfig *m, const char *dir, const char *dtype);

#endif
