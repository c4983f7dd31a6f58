/* plan.h - the memory of a run: listed before the first allocation, and refused, with the smallest
 * change that fits, when the device has less. */
#ifndef PLAN_H
#define PLAN_H

#include "core/model/network.h"

enum { PLAN_ROWS = 32, PLAN_CHANGES = 64 };
typedef struct {
    struct {
        char name[40];
        size_t bytes;
    } row[PLAN_ROWS];
    int n;
    struct { /* what a smaller batch or recomputation would save, in order of their cost in time */
        int micro_tokens, recompute;
        size_t saves;
    } change[PLAN_CHANGES];
    int n_changes;
    size_t q8_saves; /* what frozen networks would save, and the settings that say so */
    char q8_settings[80];
} Plan;

/* CHECKs that there is room for the row. */
void plan_add(Plan *p, size_t bytes, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
typedef enum { PLAN_FROZEN, PLAN_TRAINED, PLAN_MOMENTS_ON_HOST } PlanKind;
void plan_network(Plan *p, Backend *b, const char *name, const ModelConfig *cfg, PlanKind kind);
/* A frozen one that may be quantized (network_create_frozen); `setting` chooses its `layers`. */
void plan_frozen(Plan *p, Backend *b, const char *name, const ModelConfig *cfg, Dtype layers,
                 const char *setting);
/* The workspace of n configs, and the changes to it: never fewer than `least` tokens. */
Status plan_activations(Plan *p, Backend *b, const WorkspacePlan *plan,
                        const ModelConfig *const *configs, int n, int least);
/* Prints the plan, and what the process takes beside it. E_MEMORY when it takes more than limit_mib
 * MiB (0: than the device has free); `verb` names the section of the settings that would change it.
 */
Status plan_check(const Plan *p, Backend *b, const char *verb, int limit_mib);

#endif
