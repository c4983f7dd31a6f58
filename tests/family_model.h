/* family_model.h - a small model of any family, with the sizes of another. */
#ifndef FAMILY_MODEL_H
#define FAMILY_MODEL_H

#include "core/model/family.h"

/* Windows, scales and softcaps are set so that each has an effect on a few dozen tokens. */
static inline ModelConfig model_of_family(Family f, const ModelConfig *sizes) {
    const FamilyRow *row = family_row(f);
    ModelConfig m = row->built;
    m.family = f;
    m.V = sizes->V, m.C = sizes->C, m.L = sizes->L, m.FF = sizes->FF;
    m.NH = sizes->NH, m.NKV = sizes->NKV, m.HS = sizes->HS;
    if (row->qkv != FILE_AS_HERE) m.NKV = m.NH;
    m.max_positions = sizes->max_positions;
    m.norm_eps = sizes->norm_eps, m.rope_theta = 1e4f, m.init_std = sizes->init_std;
    m.lm_head = sizes->lm_head, m.scores = sizes->scores, m.bos = m.pad = -1;
    if (m.query_scalar > 0.0f) m.query_scalar = 12.0f;
    if (m.attn_softcap > 0.0f) m.attn_softcap = 2.0f, m.final_softcap = 3.0f;
    if (f == FAMILY_GPT_NEOX) m.rotated = 4;
    for (int l = 0; m.learned_positions && l < m.L; l++) layer_set(m.unrotated, l);
    m.sliding_window = family_windows_by_layer(f) ? 7 : 0;
    if (family_windows_by_layer(f)) layer_set(m.windowed, 0);
    return m;
}

#endif
