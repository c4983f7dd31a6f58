/* world.h - the embedded world: customer-support conversations with a gold reward that can be computed.
 * docs/world.md says what it is; everything is a function of the seed. */
#ifndef WORLD_H
#define WORLD_H

#include "core/base/json.h"

/* Parts of the gold reward. A reply's gold score is their sum. */
enum { WORLD_PARTS = 12 };
extern const char *const world_part_names[WORLD_PARTS]; /* "fix", "product", "thanks", "apology", "vague", "polite", "promise", "order", "ending", "length", "repeat", ... */

typedef struct { double part[WORLD_PARTS]; double total; } Gold;

/* The gold score of `reply` to the customer's message `prompt`: computed from the two texts alone
 * (the generator's templates are recognised in the prompt). finished = 0 when the reply was cut
 * (no EOS), which costs the proper ending. E_FORMAT when prompt is not of this world. */
Status world_gold(Gold *g, const char *prompt, const char *reply, int finished);

/* Writes into dir: sft.jsonl {prompt,completion}, pairs.jsonl {prompt,chosen,rejected}, prompts.jsonl
 * {prompt} (all training product-trouble pairs), and from held-out product-trouble pairs
 * sft.eval.jsonl, pairs.eval.jsonl, prompts.eval.jsonl, and parts.eval.jsonl {prompt,chosen,rejected,subset}
 * where rejected is the right reply with the part named by subset broken.
 * Sizes 0 take defaults (14000, 7000, 4000, 500 ...). */
typedef struct { int sft, pairs, prompts, eval; uint64_t seed; } WorldConfig;
typedef struct { double accuracy_ceiling; } WorldInfo; /* share of held-out labels that gold agrees with */
Status world_make(const char *dir, const WorldConfig *cfg, WorldInfo *info);

#endif
