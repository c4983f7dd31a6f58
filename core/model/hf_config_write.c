/* hf_config_write.c - writing config.json with the keys of transformers 4 and 5. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "core/model/family.h"
#include "core/model/hf_config.h"
#include "core/model/hf_inside.h"

static void put_int(Text *t, const char *key, long v) {
    text_addf(t, ",\n  \"%s\": %ld", key, v);
}

void hf_put_float(Text *t, const char *before, const char *key, float v) {
    char shortest[40]; /* 1e-05, not 9.9999997473787516e-06 */
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(shortest, sizeof shortest, "%.*g", digits, (double)v);
        if (strtof(shortest, NULL) == v) break;
    }
    /* transformers tells whole numbers and others apart */
    text_addf(t, "%s\"%s\": %s%s", before, key, shortest, strpbrk(shortest, ".en") ? "" : ".0");
}

static void put_float(Text *t, const char *key, float v) {
    hf_put_float(t, ",\n  ", key, v);
}

/* null where there is none: a class's default id may lie beyond the vocabulary */
static void put_id(Text *t, const char *key, int id) {
    if (id >= 0)
        put_int(t, key, id);
    else
        text_addf(t, ",\n  \"%s\": null", key);
}

static void put_bool(Text *t, const char *key, int v) {
    text_addf(t, ",\n  \"%s\": %s", key, v ? "true" : "false");
}

/* gemma3's older key, where every so manieth layer sees all */
static void put_pattern(Text *t, const ModelConfig *m) {
    int every = 1;
    while (every <= m->L && config_window(m, every - 1)) every++;
    for (int l = 0; l < m->L; l++)
        if (!config_window(m, l) != ((l + 1) % every == 0)) return;
    put_int(t, "sliding_window_pattern", every);
}

/* which layers have the window: transformers 5 reads the list, 4 the older keys */
static void put_windows(Text *t, const ModelConfig *m) {
    WindowKind kind = family_row(m->family)->windows;
    int first = 0;
    if (kind == WINDOW_NONE) return;
    if (kind == WINDOW_SWITCHED) put_bool(t, "use_sliding_window", m->sliding_window > 0);
    if (m->sliding_window)
        put_int(t, "sliding_window", m->sliding_window);
    else
        text_add(t, ",\n  \"sliding_window\": null");
    if (kind == WINDOW_ALL) return;
    while (first < m->L && !config_window(m, first)) first++;
    if (kind == WINDOW_SWITCHED && m->family != FAMILY_SMOLLM3)
        put_int(t, "max_window_layers", first);
    if (m->family == FAMILY_GEMMA3) put_pattern(t, m);
    text_add(t, ",\n  \"layer_types\": [");
    for (int l = 0; l < m->L; l++)
        text_addf(t, "%s\"%s_attention\"", l ? ", " : "", config_window(m, l) ? "sliding" : "full");
    text_add(t, "]");
}

static void put_softcap(Text *t, const char *key, float cap) {
    if (cap > 0.0f)
        put_float(t, key, cap);
    else
        text_addf(t, ",\n  \"%s\": null", key);
}

/* Keys that only some families have; a class's default must be written where it is not ours. */
static void put_family(Text *t, const ModelConfig *m) {
    if (family_row(m->family)->attention_bias) put_bool(t, "attention_bias", m->o_bias);
    if (family_row(m->family)->mlp_bias) put_bool(t, "mlp_bias", m->mlp_bias);
    if (m->family == FAMILY_GPT2) put_bool(t, "scale_attn_weights", m->query_scalar == 0.0f);
    if (m->family == FAMILY_GPT_NEOX) put_bool(t, "use_parallel_residual", m->parallel);
    if (m->family == FAMILY_GEMMA2 || m->family == FAMILY_GEMMA3) {
        if (m->query_scalar == floorf(m->query_scalar))
            put_int(t, "query_pre_attn_scalar", (long)m->query_scalar);
        else
            put_float(t, "query_pre_attn_scalar", m->query_scalar);
        put_softcap(t, "attn_logit_softcapping", m->attn_softcap);
        put_softcap(t, "final_logit_softcapping", m->final_softcap);
    }
    if (m->family == FAMILY_SMOLLM3) {
        text_add(t, ",\n  \"no_rope_layers\": [");
        for (int l = 0; l < m->L; l++) text_addf(t, "%s%d", l ? ", " : "", config_rotates(m, l));
        text_add(t, "]");
    }
    put_windows(t, m);
}

static void put_shape(Text *t, const ModelConfig *m) {
    static const char *const acts[] = {
        [ACT_SILU] = "silu", [ACT_GELU] = "gelu", [ACT_GELU_TANH] = "gelu_pytorch_tanh"};
    HfKeys k = hf_keys(m->family);
    put_int(t, "vocab_size", m->V);
    put_int(t, k.C, m->C);
    put_int(t, k.L, m->L);
    put_int(t, k.NH, m->NH);
    if (family_row(m->family)->qkv == FILE_AS_HERE) {
        put_int(t, "num_key_value_heads", m->NKV);
        put_int(t, "head_dim", m->HS);
    }
    put_int(t, k.FF, m->FF);
    put_int(t, k.positions, m->max_positions);
    put_float(t, k.eps, m->norm_eps);
    text_addf(t, ",\n  \"%s\": \"%s\"", k.act, acts[m->act]);
}

static void put_labels(Text *t, const ModelConfig *m) {
    put_int(t, "num_labels", m->scores);
    text_add(t, ",\n  \"id2label\": {");
    for (int i = 0; i < m->scores; i++) text_addf(t, "%s\"%d\": \"LABEL_%d\"", i ? ", " : "", i, i);
    text_add(t, "},\n  \"label2id\": {");
    for (int i = 0; i < m->scores; i++) text_addf(t, "%s\"LABEL_%d\": %d", i ? ", " : "", i, i);
    text_add(t, "}");
}

Status config_write(const ModelConfig *m, const char *dir, const char *dtype) {
    const FamilyRow *row = family_row(m->family);
    Text t = {0};
    char path[1200];
    text_addf(&t, "{\n  \"architectures\": [\"%s\"],\n  \"model_type\": \"%s\"",
              m->lm_head ? row->causal : row->scorer, row->type);
    put_shape(&t, m);
    hf_write_rope(&t, m);
    put_float(&t, "initializer_range", m->init_std);
    put_bool(&t, "tie_word_embeddings", m->tied);
    put_family(&t, m);
    text_addf(&t, ",\n  \"torch_dtype\": \"%s\",\n  \"dtype\": \"%s\"", dtype, dtype);
    put_id(&t, "bos_token_id", m->bos);
    put_id(&t, "pad_token_id", m->pad);
    if (m->n_eos < 2) put_id(&t, "eos_token_id", m->n_eos ? m->eos[0] : -1);
    if (m->n_eos > 1) {
        text_add(&t, ",\n  \"eos_token_id\": ");
        json_put_ints(&t, m->eos, m->n_eos);
    }
    if (m->scores) put_labels(&t, m);
    if (m->score_std > 0.0)
        text_addf(&t, ",\n  \"rlhf\": {\"score_mean\": %.17g, \"score_std\": %.17g}", m->score_mean,
                  m->score_std);
    text_add(&t, "\n}\n");
    snprintf(path, sizeof path, "%s/config.json", dir);
    Status s = file_write_atomic(path, t.s, t.len);
    text_release(&t);
    return s;
}
