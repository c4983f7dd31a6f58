/* gguf_config.c - a model's shape from the metadata of a GGUF file. What a file does not say (which
 * layers have gemma's window, gemma's scale, smollm3's layers without rotation) is fixed by its
 * architecture, as llama.cpp has it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/model/family.h"
#include "core/model/gguf_model.h"
#include "core/model/rope.h"

typedef struct {
    Gguf *g;
    const char *path, *arch;
    char key[128];
} Source;

/* "llama.block_count"; good until the next call */
static const char *key_of(Source *s, const char *rest) {
    snprintf(s->key, sizeof s->key, "%s.%s", s->arch, rest);
    return s->key;
}
static Status get_int(Source *s, const char *rest, GgufNeed need, int *out) {
    return gguf_int(s->g, key_of(s, rest), need, out);
}
static Status get_float(Source *s, const char *rest, float *out) {
    double v = (double)*out;
    TRY(gguf_float(s->g, key_of(s, rest), GGUF_OPTIONAL, &v));
    *out = (float)v;
    return OK;
}
static int has(const Source *s, const char *tensor) {
    return gguf_tensor(s->g, tensor) != NULL;
}

static Status read_family(ModelConfig *m, Source *s) {
    static const char *const known[] = {"llama",  "qwen2", "qwen3", "smollm3", "gemma2",
                                        "gemma3", "phi3",  "olmo2", "gpt2"};
    TRY(gguf_str(s->g, "general.architecture", GGUF_REQUIRED, &s->arch));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(s->arch, known[i])) continue;
        Family f = strcmp(s->arch, "gemma3") ? (Family)family_find(s->arch) : FAMILY_GEMMA3;
        *m = family_row(f)->built;
        m->family = f;
        return OK;
    }
    return status_fail(E_FORMAT,
                       "%s: architecture \"%s\" is not supported; supported: llama, qwen2, qwen3, "
                       "smollm3, gemma2, gemma3, phi3, olmo2, gpt2",
                       s->path, s->arch);
}

static Status read_head_sizes(ModelConfig *m, Source *s) {
    int values, rotated;
    m->NKV = m->NH;
    TRY(get_int(s, "attention.head_count_kv", GGUF_OPTIONAL, &m->NKV));
    m->HS = m->NH > 0 ? m->C / m->NH : 0;
    TRY(get_int(s, "attention.key_length", GGUF_OPTIONAL, &m->HS));
    values = rotated = m->HS;
    TRY(get_int(s, "attention.value_length", GGUF_OPTIONAL, &values));
    TRY(get_int(s, "rope.dimension_count", GGUF_OPTIONAL, &rotated));
    if (values != m->HS)
        return status_fail(E_FORMAT, "%s: values of %d beside keys of %d: not supported", s->path,
                           values, m->HS);
    if (rotated == m->HS) return OK;
    m->rotated = rotated;
    if (gguf_permutes(s->g))
        return status_fail(E_FORMAT,
                           "%s: only %d of %d dimensions of a head are rotated: not supported",
                           s->path, rotated, m->HS);
    return OK;
}

static Status read_sizes(ModelConfig *m, Source *s) {
    TRY(get_int(s, "embedding_length", GGUF_REQUIRED, &m->C));
    TRY(get_int(s, "block_count", GGUF_REQUIRED, &m->L));
    TRY(get_int(s, "attention.head_count", GGUF_REQUIRED, &m->NH));
    TRY(get_int(s, "feed_forward_length", GGUF_REQUIRED, &m->FF));
    TRY(get_int(s, "context_length", GGUF_REQUIRED, &m->max_positions));
    if (m->L < 1 || m->L > LAYERS_MAX)
        return status_fail(E_FORMAT, "%s: %s.block_count %d cannot be", s->path, s->arch, m->L);
    const GgufTensor *emb = gguf_tensor(s->g, "token_embd.weight");
    if (!emb) return status_fail(E_FORMAT, "%s: tensor token_embd.weight is missing", s->path);
    if (emb->rows > (1u << 24))
        return status_fail(E_FORMAT, "%s: %zu embedding rows", s->path, emb->rows);
    m->V = (int)emb->rows;
    m->tied = !has(s, "output.weight");
    m->lm_head = 1;
    m->init_std = 0.02f;
    m->norm_eps = 1e-5f;
    TRY(get_float(s,
                  m->norm == NORM_LAYER ? "attention.layer_norm_epsilon"
                                        : "attention.layer_norm_rms_epsilon",
                  &m->norm_eps));
    return read_head_sizes(m, s);
}

/* All of attention's products have a bias, or none. */
static Status read_biases(ModelConfig *m, Source *s) {
    if (!family_row(m->family)->attention_bias) return OK;
    m->qkv_bias = has(s, "blk.0.attn_q.bias");
    m->o_bias = has(s, "blk.0.attn_output.bias");
    if (family_row(m->family)->mlp_bias) m->mlp_bias = has(s, "blk.0.ffn_down.bias");
    if (m->qkv_bias == m->o_bias) return OK;
    return status_fail(E_FORMAT, "%s: tensor %s: biases of a part of attention are not supported",
                       s->path, m->qkv_bias ? "blk.0.attn_q.bias" : "blk.0.attn_output.bias");
}

static Status read_window(ModelConfig *m, Source *s) {
    int pattern = m->family == FAMILY_GEMMA2 ? 2 : 6, window = m->sliding_window;
    int gemma = m->family == FAMILY_GEMMA2 || m->family == FAMILY_GEMMA3;
    TRY(get_int(s, "attention.sliding_window", GGUF_OPTIONAL, &window));
    if (window > 0 && !gemma && m->family != FAMILY_PHI3)
        return status_fail(E_FORMAT, "%s: %s.attention.sliding_window is %d: not supported",
                           s->path, s->arch, window);
    TRY(get_int(s, "attention.sliding_window_pattern", GGUF_OPTIONAL, &pattern));
    if (pattern < 1 || window < 0)
        return status_fail(E_FORMAT, "%s: %s.attention.sliding_window cannot be", s->path, s->arch);
    m->sliding_window = window;
    for (int l = 0; window > 0 && l < m->L; l++)
        if (!gemma || (l + 1) % pattern) layer_set(m->windowed, l);
    return OK;
}

/* gemma's largest models scale by what a head would have of all channels */
static Status read_scales(ModelConfig *m, Source *s) {
    float scale = 0.0f;
    if (m->family != FAMILY_GEMMA2 && m->family != FAMILY_GEMMA3) return OK;
    int large = m->family == FAMILY_GEMMA2 ? 46 : 62;
    m->query_scalar = (float)(m->L == large ? m->C / m->NH : m->HS);
    TRY(get_float(s, "attention.scale", &scale));
    if (scale > 0.0f) m->query_scalar = 1.0f / (scale * scale);
    TRY(get_float(s, "attn_logit_softcapping", &m->attn_softcap));
    return get_float(s, "final_logit_softcapping", &m->final_softcap);
}

/* Factors by pair of a tensor; they divide the frequencies. */
static Status read_factors(float *to, const ModelConfig *m, const Source *s, const char *tensor) {
    const GgufTensor *t = gguf_tensor(s->g, tensor);
    size_t pairs = (size_t)config_rotated(m) / 2;
    if (!t || t->rows != 1 || t->cols != pairs)
        return status_fail(E_FORMAT, "%s: tensor %s must hold %zu factors", s->path, tensor, pairs);
    TRY(gguf_read(s->g, t, 0, 1, to));
    for (size_t i = 0; i < pairs; i++)
        if (!(to[i] > 0.0f))
            return status_fail(E_FORMAT, "%s: tensor %s holds %g", s->path, tensor, (double)to[i]);
    return OK;
}

static Status read_longrope(RopeScaling *r, const ModelConfig *m, Source *s) {
    r->type = ROPE_LONGROPE;
    r->original = m->max_positions;
    TRY(get_int(s, "rope.scaling.original_context_length", GGUF_OPTIONAL, &r->original));
    if (r->original < 2)
        return status_fail(E_FORMAT, "%s: %s.rope.scaling.original_context_length %d cannot be",
                           s->path, s->arch, r->original);
    r->factor = (float)m->max_positions / (float)r->original;
    r->attention_factor = rope_attention_factor(ROPE_LONGROPE, (double)r->factor, r->original);
    TRY(get_float(s, "rope.scaling.attn_factor", &r->attention_factor));
    TRY(read_factors(r->short_factor, m, s, "rope_factors_short.weight"));
    return read_factors(r->long_factor, m, s, "rope_factors_long.weight");
}

/* llama 3's factors come as numbers: longrope whose two lists are one. */
static Status read_rope_freqs(RopeScaling *r, const ModelConfig *m, const Source *s) {
    *r = (RopeScaling){.type = ROPE_LONGROPE,
                       .factor = 1.0f,
                       .original = m->max_positions,
                       .attention_factor = 1.0f};
    TRY(read_factors(r->short_factor, m, s, "rope_freqs.weight"));
    memcpy(r->long_factor, r->short_factor, sizeof r->long_factor);
    return OK;
}

static Status read_yarn(RopeScaling *r, const ModelConfig *m, Source *s) {
    r->type = ROPE_YARN;
    r->original = m->max_positions;
    r->beta_fast = 32.0f;
    r->beta_slow = 1.0f;
    TRY(get_int(s, "rope.scaling.original_context_length", GGUF_OPTIONAL, &r->original));
    TRY(get_float(s, "rope.scaling.yarn_beta_fast", &r->beta_fast));
    TRY(get_float(s, "rope.scaling.yarn_beta_slow", &r->beta_slow));
    r->attention_factor = rope_attention_factor(ROPE_YARN, (double)r->factor, r->original);
    if (r->original < 1 || !(r->beta_slow > 0.0f && r->beta_fast > r->beta_slow))
        return status_fail(E_FORMAT, "%s: %s.rope.scaling cannot be", s->path, s->arch);
    static const char *const other[] = {"attn_factor", "yarn_attn_factor", "yarn_log_multiplier",
                                        "yarn_ext_factor"};
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        char rest[64];
        float v = 1.0f;
        snprintf(rest, sizeof rest, "rope.scaling.%s", other[i]);
        TRY(get_float(s, rest, &v));
        if (v != 1.0f)
            return status_fail(E_FORMAT, "%s: %s is %g: not supported", s->path, s->key, (double)v);
    }
    return OK;
}

static Status read_rope(ModelConfig *m, Source *s) {
    const char *scaling = "none";
    float old = 1.0f;
    if (m->learned_positions) {
        for (int l = 0; l < m->L; l++) layer_set(m->unrotated, l);
        return OK;
    }
    if (m->rope_theta == 0.0f) m->rope_theta = 1e4f;
    TRY(get_float(s, "rope.freq_base", &m->rope_theta));
    if (m->family == FAMILY_GEMMA3) TRY(get_float(s, "rope.freq_base_swa", &m->rope_local_theta));
    if (m->family == FAMILY_SMOLLM3)
        for (int l = 3; l < m->L; l += 4) layer_set(m->unrotated, l);
    TRY(get_float(s, "rope.scale_linear", &old));
    if (old != 1.0f)
        return status_fail(E_FORMAT, "%s: %s.rope.scale_linear is %g: not supported", s->path,
                           s->arch, (double)old);
    TRY(gguf_str(s->g, key_of(s, "rope.scaling.type"), GGUF_OPTIONAL, &scaling));
    int longrope = !strcmp(scaling, "longrope") || has(s, "rope_factors_short.weight");
    if (has(s, "rope_freqs.weight")) {
        if (strcmp(scaling, "none"))
            return status_fail(E_FORMAT, "%s: rope_freqs.weight beside %s.rope.scaling.type",
                               s->path, s->arch);
        return read_rope_freqs(&m->rope, m, s);
    }
    if (longrope) return read_longrope(&m->rope, m, s);
    if (!strcmp(scaling, "none")) return OK;
    if (strcmp(scaling, "linear") && strcmp(scaling, "yarn"))
        return status_fail(E_FORMAT, "%s: %s.rope.scaling.type \"%s\" is not supported", s->path,
                           s->arch, scaling);
    TRY(get_float(s, "rope.scaling.factor", &m->rope.factor));
    if (!(m->rope.factor > 0.0f))
        return status_fail(E_FORMAT, "%s: %s.rope.scaling.factor must be above 0", s->path,
                           s->arch);
    m->rope.type = ROPE_LINEAR;
    return strcmp(scaling, "yarn") ? OK : read_yarn(&m->rope, m, s);
}

static Status read_tokens(ModelConfig *m, Source *s) {
    m->bos = m->pad = m->eos[0] = -1;
    TRY(gguf_int(s->g, "tokenizer.ggml.bos_token_id", GGUF_OPTIONAL, &m->bos));
    TRY(gguf_int(s->g, "tokenizer.ggml.padding_token_id", GGUF_OPTIONAL, &m->pad));
    TRY(gguf_int(s->g, "tokenizer.ggml.eos_token_id", GGUF_OPTIONAL, &m->eos[0]));
    m->n_eos = m->eos[0] >= 0;
    return OK;
}

static Status read_config(ModelConfig *m, Source *s) {
    int experts = 0;
    TRY(read_family(m, s));
    TRY(get_int(s, "expert_count", GGUF_OPTIONAL, &experts));
    if (experts > 0)
        return status_fail(E_FORMAT,
                           "%s: %s.expert_count is %d: mixtures of experts are not supported",
                           s->path, s->arch, experts);
    TRY(read_sizes(m, s));
    TRY(read_biases(m, s));
    TRY(read_tokens(m, s));
    TRY(config_check(m, s->path));
    TRY(read_window(m, s));
    TRY(read_scales(m, s));
    TRY(read_rope(m, s));
    return gguf_model_tensors_known(m, s->g);
}

Status gguf_model_config(ModelConfig *m, const char *path) {
    Source s = {.path = path};
    TRY(gguf_open(&s.g, path));
    Status status = read_config(m, &s);
    gguf_close(s.g);
    return status;
}
