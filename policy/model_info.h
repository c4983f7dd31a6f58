/* model_info.h - rlhf model info: what a person wants to know of a model before using it. */
#ifndef MODEL_INFO_H
#define MODEL_INFO_H

#include "core/base/status.h"

Status model_info_main(int argc, char **argv); /* argv: the model */

#endif
