/* model_tool.h - rlhf model info|convert|init: what a model is, in another form, and one from
 * nothing. argv: the subverb, then flags. */
#ifndef MODEL_TOOL_H
#define MODEL_TOOL_H

#include "core/base/status.h"

/* info MODEL: family, shape, parameters, types, tokenizer, template, what is unusual, memory.
 * convert MODEL --out DIR [--dtype f32|bf16|f16] [--max-shard-size 2GB]: a Hugging Face directory.
 * init --family F --tokenizer DIR --out DIR [--hidden-size ...]: random weights. */
Status model_main(int argc, char **argv);

#endif
