/* world.h - the embedded world: customer-support conversations with a gold reward that can be
 * computed. docs/world.md says what it is; everything is a function of the seed. */
#ifndef WORLD_H
#define WORLD_H

#include <stdint.h>
#include "core/base/status.h"

/* Parts of the gold reward. A reply's gold score is their sum. */
typedef enum {
    PART_FIX,
    PART_PRODUCT,
    PART_THANKS,
    PART_APOLOGY,
    PART_VAGUE,
    PART_RUDE,
    PART_PROMISE,
    PART_ORDER,
    PART_ENDING,
    PART_LENGTH,
    PART_REPEAT,
    WORLD_PARTS
} WorldPart;
extern const char *const world_part_names[WORLD_PARTS]; /* "fix", "product", "thanks", ... */

typedef struct {
    double part[WORLD_PARTS];
    double total;
} Gold;

/* The gold score of `reply` to the customer's message `prompt`: computed from the two texts alone,
 * in time linear in their length, for any bytes up to the NUL (reply NULL reads as ""). finished =
 * 0 when the reply was cut (no EOS), which costs the proper ending. E_FORMAT when prompt is not of
 * this world: it must name one product after "this" and one trouble. */
Status world_gold(Gold *g, const char *prompt, const char *reply, int finished);

/* Writes into dir: sft.jsonl {prompt,completion,gold}, pairs.jsonl {prompt,chosen,rejected,subset,
 * gold_chosen,gold_rejected} with subset "draft" or "edit:PART", prompts.jsonl {prompt} (all from
 * training product-trouble pairs), and from held-out product-trouble pairs sft.eval.jsonl,
 * pairs.eval.jsonl, prompts.eval.jsonl, and parts.eval.jsonl {prompt,chosen,rejected,subset,...}
 * where rejected is the right reply with the part named by subset broken and no other. world.json
 * comes last and holds the configuration and the WorldInfo. Sizes 0 take defaults. */
typedef struct {
    int sft, pairs, prompts, eval; /* 0: 11000, 20000, 4000, 500; pairs.eval has 2 eval rows,
                                    * parts.eval max(40, eval / 5) for each part */
    uint64_t seed;
} WorldConfig;
typedef struct {
    double accuracy_ceiling; /* share of the labels of pairs.eval that gold agrees with */
    double longer_wins;      /* the same for "the longer reply (in words) is better" */
    int held_out;            /* product-trouble pairs that training never sees */
} WorldInfo;
Status world_make(const char *dir, const WorldConfig *cfg, WorldInfo *info);

#endif
