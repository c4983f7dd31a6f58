/* pipeline.h - a recipe of several stages, run in order, each in its own run directory.
 *
 * {"run":{"dir":"runs/x","seed":1},"stages":[{"name":"sft","verb":"sft","recipe":{...} or
 * "file.json", "inputs":{"model":"init"}},
 * {"name":"rm","verb":"reward","inputs":{"model":"sft.model"}}]}: an input NAME.rest means rest
 * inside the run directory of the earlier stage NAME. */
#ifndef PIPELINE_H
#define PIPELINE_H

#include "core/base/json.h"

/* Runs one stage: its recipe (may be NULL) and flags; appends the members of its summary object. */
typedef Status (*PipelineStage)(void *ctx, const char *verb, const JsonDoc *recipe, int argc,
                                char **argv, Text *summary);

typedef struct {
    char dir[1024]; /* the pipeline's directory */
    uint64_t seed;
    double seconds;
} PipelineResult;

/* Flags go to every stage, those with a verb in front (--ppo.clip) to that verb's; "--run.dir" and
 * "--run.seed" ("--seed") are the pipeline's own. --resume skips finished stages. Writes
 * DIR/summary.json: {"seed","wall_seconds","<stage>":{...}, ...}. */
Status pipeline_run(PipelineResult *out, const char *recipe_path, int argc, char **argv,
                    PipelineStage stage, void *ctx);

#endif
