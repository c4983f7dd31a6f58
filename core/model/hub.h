/* hub.h - where a model is: at its path, or as "org/name" in the local Hugging Face cache. Nothing
 * is ever downloaded. */
#ifndef HUB_H
#define HUB_H

#include "core/base/status.h"

enum { MODEL_PATH_MAX = 1100 };

/* path = name where a file or folder of that name is there. Else "org/name" is the snapshot that
 * refs/main of HF_HUB_CACHE, HF_HOME/hub or ~/.cache/huggingface/hub points at; E_IO with the
 * command that downloads it where there is none. Every other name is left as it is. */
Status model_find(char path[MODEL_PATH_MAX], const char *name);

#endif
