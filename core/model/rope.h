/* rope.h - the angles of rotary positions (Su et al. 2021), slowed down as a model's config says.
 */
#ifndef ROPE_H
#define ROPE_H

#include "core/model/config.h"

const char *rope_type_name(RopeType t);
/* What cosines and sines are multiplied by where a config does not say: yarn (Peng et al. 2023)
 * and longrope (Ding et al. 2024) by the stretch of `factor`; 1 for the others. */
float rope_attention_factor(RopeType type, double factor, int original);
/* E_USAGE when sequences of `length` tokens would need angles that depend on how long each is. */
Status rope_fits(const ModelConfig *m, int length);
/* table [length][rotated]: cosines, then sines; windowed: of the windowed layers. */
void rope_fill(float *table, const ModelConfig *m, int length, int windowed);

#endif
