/* hf_config.c - reading config.json: the families, and what is refused. hf_rope.c reads the rotary
 * keys, hf_config_write.c writes. */
#include "core/model/hf_config.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/model/family.h"
#include "core/model/hf_inside.h"

HfKeys hf_keys(Family f) {
    HfKeys k = {"hidden_size",       "num_hidden_layers",       "num_attention_heads",
                "intermediate_size", "max_position_embeddings", "rms_norm_eps",
                "hidden_act"};
    if (f == FAMILY_GPT2)
        k = (HfKeys){"n_embd",
                     "n_layer",
                     "n_head",
                     "n_inner",
                     "n_positions",
                     "layer_norm_epsilon",
                     "activation_function"};
    if (f == FAMILY_GPT_NEOX) k.eps = "layer_norm_eps";
    if (f == FAMILY_GEMMA2 || f == FAMILY_GEMMA3) k.act = "hidden_activation";
    return k;
}

/* The structure and the class's defaults come from the family's row. */
static Status read_family(ModelConfig *m, const JsonDoc *doc, const Json *root) {
    const char *type;
    Text known = {0};
    TRY(json_get_str(doc, root, "model_type", JSON_REQUIRED, &type));
    int f = family_find(type);
    if (f >= 0) {
        *m = family_row((Family)f)->built;
        m->family = (Family)f;
        if (m->rope_theta == 0.0f) m->rope_theta = 1e4f;
        return OK;
    }
    for (f = 0; f < FAMILIES; f++)
        text_addf(&known, "%s%s", f ? ", " : "", family_row((Family)f)->type);
    Status s = json_fail(doc, json_get(root, "model_type"),
                         "model_type \"%s\" is not supported; supported: %s", type, known.s);
    text_release(&known);
    return s;
}

static Status must_be(const JsonDoc *doc, const Json *root, const char *key, int wanted,
                      const ModelConfig *m) {
    const Json *n = json_get(root, key);
    if (!hf_is_set(n) || (json_type(n) == JSON_BOOL && json_bool(n) == wanted)) return OK;
    return json_fail(doc, n, "%s is %s: not supported for %s", key, wanted ? "false" : "true",
                     family_row(m->family)->type);
}

/* layer_types, where there are any: which layers have the window. */
static Status read_layer_types(ModelConfig *m, const JsonDoc *doc, const Json *types) {
    int l = 0;
    LayerSet said = {0};
    if (json_type(types) != JSON_ARRAY || json_size(types) != m->L)
        return json_fail(doc, types, "layer_types must name a type for each of %d layers", m->L);
    for (const Json *e = json_first(types); e; e = json_next(e), l++) {
        const char *type = json_type(e) == JSON_STRING ? json_str(e) : "";
        int windowed = !strcmp(type, "sliding_attention");
        if (!windowed && strcmp(type, "full_attention"))
            return json_fail(doc, e,
                             "layer_types: only \"full_attention\" and \"sliding_attention\" are "
                             "supported");
        if (windowed && !m->sliding_window)
            return json_fail(doc, e, "layer_types: \"sliding_attention\" without a sliding_window");
        if (windowed) layer_set(said, l);
    }
    if (!family_windows_by_layer(m->family) && memcmp(said, m->windowed, sizeof said))
        return json_fail(doc, types, "layer_types contradicts sliding_window");
    memcpy(m->windowed, said, sizeof said);
    return OK;
}

/* The class's own choice of layers, where layer_types does not say. */
static Status choose_windowed(ModelConfig *m, const JsonDoc *doc, const Json *root) {
    WindowKind kind = family_row(m->family)->windows;
    int pattern = m->family == FAMILY_GEMMA2 ? 2 : 6, first = 28;
    if (m->family == FAMILY_GEMMA3)
        TRY(json_get_int(doc, root, "sliding_window_pattern", JSON_OPTIONAL, &pattern));
    if (pattern < 1)
        return json_fail(doc, json_get(root, "sliding_window_pattern"),
                         "sliding_window_pattern must be above 0");
    if (kind == WINDOW_SWITCHED)
        TRY(json_get_int(doc, root, "max_window_layers", JSON_OPTIONAL, &first));
    for (int l = 0; l < m->L; l++) {
        int windowed = 1;
        if (kind == WINDOW_PATTERN) windowed = (l + 1) % pattern != 0;
        if (kind == WINDOW_SWITCHED)
            windowed = m->family == FAMILY_SMOLLM3 ? !config_rotates(m, l) : l >= first;
        if (windowed) layer_set(m->windowed, l);
    }
    return OK;
}

/* 0 where it is off: qwen's needs a switch beside it. */
static Status read_window_size(ModelConfig *m, const JsonDoc *doc, const Json *root) {
    const Json *window = json_get(root, "sliding_window");
    WindowKind kind = family_row(m->family)->windows;
    int on = kind != WINDOW_SWITCHED;
    if (kind != WINDOW_SWITCHED) TRY(must_be(doc, root, "use_sliding_window", 0, m));
    if (kind == WINDOW_SWITCHED)
        TRY(json_get_bool(doc, root, "use_sliding_window", JSON_OPTIONAL, &on));
    if (kind == WINDOW_SWITCHED && m->family != FAMILY_SMOLLM3) m->sliding_window = 4096;
    if (window || !on) m->sliding_window = 0;
    if (!hf_is_set(window) || !on) return OK;
    if (kind == WINDOW_NONE)
        return json_fail(doc, window, "sliding_window is set: not supported for %s",
                         family_row(m->family)->type);
    TRY(json_get_int(doc, root, "sliding_window", JSON_REQUIRED, &m->sliding_window));
    if (m->sliding_window > 0) return OK;
    return json_fail(doc, window, "sliding_window must be above 0, or null");
}

static Status read_window(ModelConfig *m, const JsonDoc *doc, const Json *root) {
    const Json *types = json_get(root, "layer_types");
    TRY(read_window_size(m, doc, root));
    if (m->sliding_window) TRY(choose_windowed(m, doc, root));
    if (!m->sliding_window && family_row(m->family)->windows == WINDOW_PATTERN)
        return json_fail(doc, json_get(root, "sliding_window"),
                         "sliding_window must be set: some layers have no other reach");
    return hf_is_set(types) ? read_layer_types(m, doc, types) : OK;
}

/* Keys that change the mathematics and that we do not compute: refused unless they say "off". */
static Status refuse_unsupported(const ModelConfig *m, const JsonDoc *doc, const Json *root) {
    const FamilyRow *row = family_row(m->family);
    const Json *quantized = json_get(root, "quantization_config");
    if (!row->attention_bias) TRY(must_be(doc, root, "attention_bias", 0, m));
    if (!row->mlp_bias) TRY(must_be(doc, root, "mlp_bias", 0, m));
    TRY(must_be(doc, root, "scale_attn_by_inverse_layer_idx", 0, m));
    TRY(must_be(doc, root, "add_cross_attention", 0, m));
    TRY(must_be(doc, root, "use_bidirectional_attention", 0, m));
    if (hf_is_set(quantized))
        return json_fail(doc, quantized,
                         "quantization_config is set: quantized weights are read from GGUF only");
    return OK;
}

static Status read_activation(ModelConfig *m, const JsonDoc *doc, const Json *root) {
    static const struct {
        const char *name;
        Activation act;
    } known[] = {{"silu", ACT_SILU},
                 {"swish", ACT_SILU},
                 {"gelu", ACT_GELU},
                 {"gelu_new", ACT_GELU_TANH},
                 {"gelu_pytorch_tanh", ACT_GELU_TANH}};
    const char *key = hf_keys(m->family).act, *name;
    if (!hf_is_set(json_get(root, key))) return OK;
    TRY(json_get_str(doc, root, key, JSON_REQUIRED, &name));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(name, known[i].name)) continue;
        m->act = known[i].act;
        return OK;
    }
    return json_fail(doc, json_get(root, key),
                     "%s \"%s\" is not supported; supported: silu, swish, gelu, gelu_new, "
                     "gelu_pytorch_tanh",
                     key, name);
}

static Status read_biases(ModelConfig *m, const JsonDoc *doc, const Json *root) {
    const FamilyRow *row = family_row(m->family);
    if (!row->attention_bias) return OK;
    if (hf_is_set(json_get(root, "attention_bias")))
        TRY(json_get_bool(doc, root, "attention_bias", JSON_OPTIONAL, &m->qkv_bias));
    if (row->mlp_bias && hf_is_set(json_get(root, "mlp_bias")))
        TRY(json_get_bool(doc, root, "mlp_bias", JSON_OPTIONAL, &m->mlp_bias));
    m->o_bias = m->qkv_bias;
    return OK;
}

/* What only some families scale: scores and logits. */
static Status read_scales(ModelConfig *m, const JsonDoc *doc, const Json *root) {
    const char *const caps[] = {"attn_logit_softcapping", "final_logit_softcapping"};
    float *const to[] = {&m->attn_softcap, &m->final_softcap};
    double scalar = (double)m->query_scalar;
    int scaled = 1;
    if (m->family == FAMILY_GPT2) {
        TRY(json_get_bool(doc, root, "scale_attn_weights", JSON_OPTIONAL, &scaled));
        if (!scaled) m->query_scalar = 1.0f;
    }
    if (m->family == FAMILY_GPT_NEOX)
        TRY(json_get_bool(doc, root, "use_parallel_residual", JSON_OPTIONAL, &m->parallel));
    if (m->family != FAMILY_GEMMA2 && m->family != FAMILY_GEMMA3) return OK;
    TRY(hf_get_num(doc, root, "query_pre_attn_scalar", &scalar));
    if (!(scalar > 0.0))
        return json_fail(doc, json_get(root, "query_pre_attn_scalar"),
                         "query_pre_attn_scalar must be above 0");
    m->query_scalar = (float)scalar;
    for (int i = 0; i < 2; i++) {
        double cap = json_get(root, caps[i]) ? 0.0 : (double)*to[i];
        TRY(hf_get_num(doc, root, caps[i], &cap));
        if (!(cap >= 0.0))
            return json_fail(doc, json_get(root, caps[i]), "%s must be above 0, or null", caps[i]);
        if (m->family == FAMILY_GEMMA3 && cap > 0.0)
            return json_fail(doc, json_get(root, caps[i]),
                             "%s is set: not supported for gemma3_text", caps[i]);
        *to[i] = (float)cap;
    }
    return OK;
}

/* Old configs write -1 for a token that they do not have. */
static Status read_id(int *id, const ModelConfig *m, const JsonDoc *doc, const Json *n,
                      const char *key) {
    *id = -1;
    if (!n || json_type(n) == JSON_NULL) return OK;
    double v = json_type(n) == JSON_NUMBER ? json_num(n) : NAN;
    if (v < 0) return OK;
    if (!(v < m->V) || v != floor(v))
        return json_fail(doc, n, "%s must be a whole number below vocab_size %d", key, m->V);
    *id = (int)v;
    return OK;
}

static Status read_eos(ModelConfig *m, const JsonDoc *doc, const Json *root) {
    const Json *eos = json_get(root, "eos_token_id");
    int is_list = eos && json_type(eos) == JSON_ARRAY;
    if (is_list && json_size(eos) > EOS_MAX)
        return json_fail(doc, eos, "eos_token_id holds more than %d ids", EOS_MAX);
    for (const Json *e = is_list ? json_first(eos) : eos; e; e = is_list ? json_next(e) : NULL) {
        int id;
        TRY(read_id(&id, m, doc, e, "eos_token_id"));
        if (id >= 0) m->eos[m->n_eos++] = id;
    }
    return OK;
}

static Status read_heads(ModelConfig *m, const JsonDoc *doc, const Json *root) {
    const Json *list = json_get(root, "architectures");
    const FamilyRow *row = family_row(m->family);
    const char *name = row->causal;
    if (list && json_type(list) == JSON_ARRAY && json_first(list) &&
        json_type(json_first(list)) == JSON_STRING)
        name = json_str(json_first(list));
    int scores = strstr(name, "ForSequenceClassification") != NULL;
    if (!scores && !strstr(name, "ForCausalLM") && strcmp(name, row->causal))
        return json_fail(doc, list, "architecture \"%s\" is not supported; supported: %s, %s", name,
                         row->causal, row->scorer);
    m->lm_head = !scores;
    m->scores = 0;
    if (m->lm_head) return OK;
    const Json *labels = json_get(root, "id2label");
    m->scores = labels && json_type(labels) == JSON_OBJECT ? json_size(labels) : 1;
    TRY(json_get_int(doc, root, "num_labels", JSON_OPTIONAL, &m->scores));
    if (m->scores < 1 || m->scores > 1024)
        return json_fail(doc, NULL, "num_labels %d cannot be", m->scores);
    const Json *own = json_get(root, "rlhf");
    if (!own || json_type(own) != JSON_OBJECT) return OK;
    TRY(json_get_num(doc, own, "score_mean", JSON_OPTIONAL, &m->score_mean));
    return json_get_num(doc, own, "score_std", JSON_OPTIONAL, &m->score_std);
}

static Status read_sizes(ModelConfig *m, const JsonDoc *doc, const Json *root) {
    HfKeys k = hf_keys(m->family);
    TRY(json_get_int(doc, root, "vocab_size", JSON_REQUIRED, &m->V));
    TRY(json_get_int(doc, root, k.C, JSON_REQUIRED, &m->C));
    TRY(json_get_int(doc, root, k.L, JSON_REQUIRED, &m->L));
    TRY(json_get_int(doc, root, k.NH, JSON_REQUIRED, &m->NH));
    if (m->L < 1 || m->L > LAYERS_MAX)
        return json_fail(doc, json_get(root, k.L), "%s must be from 1 to %d", k.L, LAYERS_MAX);
    if (m->family != FAMILY_GPT2) return json_get_int(doc, root, k.FF, JSON_REQUIRED, &m->FF);
    if (m->C < 1 || m->C > 1 << 17)
        return json_fail(doc, json_get(root, k.C), "%s %d cannot be", k.C, m->C);
    m->FF = 4 * m->C;
    return hf_is_set(json_get(root, k.FF)) ? json_get_int(doc, root, k.FF, JSON_REQUIRED, &m->FF)
                                           : OK;
}

static Status read_head_sizes(ModelConfig *m, const JsonDoc *doc, const Json *root) {
    const FamilyRow *row = family_row(m->family);
    const Json *kv = json_get(root, "num_key_value_heads"), *head_dim = json_get(root, "head_dim");
    m->NKV = kv || !row->NKV ? m->NH : row->NKV;
    if (hf_is_set(kv)) TRY(json_get_int(doc, root, "num_key_value_heads", JSON_REQUIRED, &m->NKV));
    m->HS = !head_dim && row->HS ? row->HS : m->NH > 0 ? m->C / m->NH : 0;
    if (hf_is_set(head_dim)) return json_get_int(doc, root, "head_dim", JSON_REQUIRED, &m->HS);
    if (m->NH > 0 && m->HS == m->C / m->NH && m->C % m->NH)
        return json_fail(doc, json_get(root, hf_keys(m->family).C),
                         "hidden_size %d is not a multiple of num_attention_heads %d", m->C, m->NH);
    return OK;
}

static Status read_shape(ModelConfig *m, const JsonDoc *doc, const Json *root) {
    HfKeys k = hf_keys(m->family);
    double eps = m->norm == NORM_LAYER ? 1e-5 : 1e-6, std = 0.02;
    TRY(read_sizes(m, doc, root));
    TRY(read_head_sizes(m, doc, root));
    m->max_positions = 2048;
    TRY(json_get_int(doc, root, k.positions, JSON_OPTIONAL, &m->max_positions));
    TRY(json_get_num(doc, root, k.eps, JSON_OPTIONAL, &eps));
    TRY(json_get_num(doc, root, "initializer_range", JSON_OPTIONAL, &std));
    TRY(json_get_bool(doc, root, "tie_word_embeddings", JSON_OPTIONAL, &m->tied));
    if (!(eps >= 0.0 && eps < 1.0))
        return json_fail(doc, json_get(root, k.eps), "%s must be from 0 to 1", k.eps);
    m->norm_eps = (float)eps;
    m->init_std = (float)std;
    TRY(read_id(&m->bos, m, doc, json_get(root, "bos_token_id"), "bos_token_id"));
    return read_id(&m->pad, m, doc, json_get(root, "pad_token_id"), "pad_token_id");
}

/* no_rope_layers: 1 is a layer that IS rotated; by default every interval-th is not. */
static Status read_unrotated(ModelConfig *m, const JsonDoc *doc, const Json *root) {
    const Json *list = json_get(root, "no_rope_layers");
    int interval = 4, l = 0;
    if (m->family != FAMILY_SMOLLM3) return OK;
    TRY(json_get_int(doc, root, "no_rope_layer_interval", JSON_OPTIONAL, &interval));
    if (interval < 1)
        return json_fail(doc, json_get(root, "no_rope_layer_interval"),
                         "no_rope_layer_interval must be above 0");
    if (hf_is_set(list) && (json_type(list) != JSON_ARRAY || json_size(list) != m->L))
        return json_fail(doc, list, "no_rope_layers must have a number for each of %d layers",
                         m->L);
    for (const Json *e = hf_is_set(list) ? json_first(list) : NULL; l < m->L; l++) {
        int rotates = (l + 1) % interval != 0;
        if (e) {
            if (json_type(e) != JSON_NUMBER || (json_num(e) != 0.0 && json_num(e) != 1.0))
                return json_fail(doc, e, "no_rope_layers holds 0 and 1");
            rotates = json_num(e) == 1.0;
            e = json_next(e);
        }
        if (!rotates) layer_set(m->unrotated, l);
    }
    return OK;
}

Status config_read(ModelConfig *m, const JsonDoc *doc) {
    const Json *root = json_root(doc);
    if (json_type(root) != JSON_OBJECT)
        return json_fail(doc, root, "a model's config must be an object");
    TRY(read_family(m, doc, root));
    TRY(read_shape(m, doc, root));
    TRY(refuse_unsupported(m, doc, root));
    TRY(read_activation(m, doc, root));
    TRY(read_biases(m, doc, root));
    TRY(read_scales(m, doc, root));
    TRY(read_eos(m, doc, root));
    TRY(read_heads(m, doc, root));
    TRY(config_check(m, json_name(doc)));
    TRY(hf_read_rope(m, doc, root));
    TRY(read_unrotated(m, doc, root));
    TRY(read_window(m, doc, root));
    return config_check(m, json_name(doc));
}
