/* hf_config.c - config.json, in and out: the families, and what is refused. */
#include "core/model/hf_config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"

/* What a family's config leaves out when it is the class's default in transformers. */
static const struct {
    const char *type, *prefix; /* of the architectures' names */
    int NKV;                   /* 0: as many as query heads */
    int HS;                    /* 0: hidden size by query heads */
    int sliding_window;
    int attention_bias, mlp_bias; /* has the key */
    int tied;
    float rope_theta;
} families[] = {
    [FAMILY_LLAMA] = {"llama", "Llama", 0, 0, 0, 1, 1, 0, 1e4f},
    [FAMILY_MISTRAL] = {"mistral", "Mistral", 8, 0, 4096, 0, 0, 0, 1e4f},
    [FAMILY_QWEN2] = {"qwen2", "Qwen2", 32, 0, 0, 0, 0, 0, 1e4f},
    [FAMILY_QWEN3] = {"qwen3", "Qwen3", 32, 128, 0, 1, 0, 0, 1e4f},
    [FAMILY_SMOLLM3] = {"smollm3", "SmolLM3", 4, 0, 0, 1, 1, 1, 2e6f},
};
enum { FAMILIES = sizeof families / sizeof *families };

static const char *const rope_types[] = {
    [ROPE_DEFAULT] = "default", [ROPE_LINEAR] = "linear", [ROPE_LLAMA3] = "llama3"};
enum { ROPE_TYPES = sizeof rope_types / sizeof *rope_types };

/* --- reading --- */

static Status read_family(ModelConfig *m, const JsonDoc *doc, const Json *root) {
    const char *type;
    Text known = {0};
    TRY(json_get_str(doc, root, "model_type", JSON_REQUIRED, &type));
    for (int f = 0; f < FAMILIES; f++) {
        text_addf(&known, "%s%s", f ? ", " : "", families[f].type);
        if (strcmp(type, families[f].type)) continue;
        m->family = (Family)f;
        text_release(&known);
        return OK;
    }
    Status s = json_fail(doc, json_get(root, "model_type"),
                         "model_type \"%s\" is not supported; supported: %s", type, known.s);
    text_release(&known);
    return s;
}

static int is_set(const Json *n) {
    return n && json_type(n) != JSON_NULL;
}

/* Only mistral's config means what it says without another switch; qwen's is off, or refused. */
static Status read_window(ModelConfig *m, const JsonDoc *doc, const Json *root) {
    const Json *window = json_get(root, "sliding_window");
    m->sliding_window = families[m->family].sliding_window;
    if (!window) return OK;
    m->sliding_window = 0;
    if (!is_set(window) || m->family >= FAMILY_QWEN2) return OK;
    if (m->family != FAMILY_MISTRAL)
        return json_fail(doc, window,
                         "sliding_window is set: sliding-window attention is not supported yet");
    TRY(json_get_int(doc, root, "sliding_window", JSON_REQUIRED, &m->sliding_window));
    if (m->sliding_window > 0) return OK;
    return json_fail(doc, window, "sliding_window must be above 0, or null");
}

/* Keys that change the mathematics and that we do not compute: refused unless they say "off". */
static Status refuse_unsupported(const ModelConfig *m, const JsonDoc *doc, const Json *root) {
    const char *const must_be_false[] = {
        "use_sliding_window", families[m->family].attention_bias ? NULL : "attention_bias",
        families[m->family].mlp_bias ? NULL : "mlp_bias"};
    for (size_t i = 0; i < sizeof must_be_false / sizeof *must_be_false; i++) {
        const Json *n = must_be_false[i] ? json_get(root, must_be_false[i]) : NULL;
        if (is_set(n) && (json_type(n) != JSON_BOOL || json_bool(n)))
            return json_fail(doc, n, "%s is true: not supported for %s", must_be_false[i],
                             families[m->family].type);
    }
    const Json *act = json_get(root, "hidden_act"), *types = json_get(root, "layer_types");
    const Json *quantized = json_get(root, "quantization_config");
    for (const Json *e = is_set(types) ? json_first(types) : NULL; e; e = json_next(e)) {
        if (json_type(e) != JSON_STRING || strcmp(json_str(e), "full_attention"))
            return json_fail(doc, e, "layer_types: only \"full_attention\" is supported");
    }
    if (is_set(quantized))
        return json_fail(doc, quantized,
                         "quantization_config is set: quantized weights are read from GGUF only");
    if (act && (json_type(act) != JSON_STRING || strcmp(json_str(act), "silu")))
        return json_fail(doc, act, "hidden_act must be \"silu\"");
    return OK;
}

static Status read_biases(ModelConfig *m, const JsonDoc *doc, const Json *root) {
    m->qkv_bias = m->family == FAMILY_QWEN2;
    m->qk_norm = m->family == FAMILY_QWEN3;
    if (!families[m->family].attention_bias) return OK;
    if (is_set(json_get(root, "attention_bias")))
        TRY(json_get_bool(doc, root, "attention_bias", JSON_OPTIONAL, &m->qkv_bias));
    if (families[m->family].mlp_bias && is_set(json_get(root, "mlp_bias")))
        TRY(json_get_bool(doc, root, "mlp_bias", JSON_OPTIONAL, &m->mlp_bias));
    m->o_bias = m->qkv_bias;
    return OK;
}

static Status read_partial(const JsonDoc *doc, const Json *object) {
    double part = 1.0;
    TRY(json_get_num(doc, object, "partial_rotary_factor", JSON_OPTIONAL, &part));
    if (part == 1.0) return OK;
    return json_fail(doc, json_get(object, "partial_rotary_factor"),
                     "partial_rotary_factor must be 1: heads are rotated whole");
}

static Status read_scaling(RopeScaling *to, const ModelConfig *m, const JsonDoc *doc,
                           const Json *object, const char *type) {
    double factor = 1.0, low = 1.0, high = 4.0;
    int original = m->max_positions, which = 0;
    while (which < ROPE_TYPES && strcmp(type, rope_types[which])) which++;
    if (which == ROPE_TYPES)
        return json_fail(doc, object,
                         "rope type \"%s\" is not supported; supported: default, linear, llama3",
                         type);
    *to = (RopeScaling){ROPE_DEFAULT, 0, 0, 0, 0};
    if (which == ROPE_DEFAULT) return OK;
    TRY(json_get_num(doc, object, "factor", JSON_REQUIRED, &factor));
    if (!(factor > 0.0))
        return json_fail(doc, json_get(object, "factor"), "factor must be above 0");
    *to = (RopeScaling){(RopeType)which, (float)factor, 0, 0, 0};
    if (which == ROPE_LINEAR) return OK;
    TRY(json_get_num(doc, object, "low_freq_factor", JSON_REQUIRED, &low));
    TRY(json_get_num(doc, object, "high_freq_factor", JSON_REQUIRED, &high));
    TRY(json_get_int(doc, object, "original_max_position_embeddings", JSON_OPTIONAL, &original));
    if (!(low > 0.0 && high > low && original > 0))
        return json_fail(doc, object,
                         "llama3 needs 0 < low_freq_factor < high_freq_factor and "
                         "original_max_position_embeddings above 0");
    *to = (RopeScaling){ROPE_LLAMA3, (float)factor, (float)low, (float)high, original};
    return OK;
}

static Status read_rope_object(ModelConfig *m, double *theta, const JsonDoc *doc, const Json *r) {
    const char *type = "default";
    TRY(json_get_str(doc, r, "type", JSON_OPTIONAL, &type));
    TRY(json_get_str(doc, r, "rope_type", JSON_OPTIONAL, &type));
    for (const Json *e = json_first(r); e; e = json_next(e)) {
        if (json_type(e) == JSON_OBJECT)
            return json_fail(doc, e, "%s: rotary positions per kind of layer are not supported",
                             json_key(e));
    }
    TRY(json_get_num(doc, r, "rope_theta", JSON_OPTIONAL, theta)); /* transformers 5 */
    TRY(read_partial(doc, r));
    return read_scaling(&m->rope, m, doc, r, type);
}

static int same_scaling(const RopeScaling *a, const RopeScaling *b) {
    return a->type == b->type && a->factor == b->factor &&
           a->low_freq_factor == b->low_freq_factor && a->high_freq_factor == b->high_freq_factor &&
           a->original == b->original;
}

static Status read_rope(ModelConfig *m, const JsonDoc *doc, const Json *root) {
    double theta = (double)families[m->family].rope_theta;
    TRY(json_get_num(doc, root, "rope_theta", JSON_OPTIONAL, &theta)); /* transformers 4 */
    TRY(read_partial(doc, root));
    static const char *const places[] = {"rope_scaling", "rope_parameters"};
    RopeScaling seen[2];
    int n = 0;
    for (int i = 0; i < 2; i++) {
        const Json *r = json_get(root, places[i]);
        if (!is_set(r)) continue;
        if (json_type(r) != JSON_OBJECT)
            return json_fail(doc, r, "%s must be an object", places[i]);
        TRY(read_rope_object(m, &theta, doc, r));
        seen[n++] = m->rope;
    }
    if (n == 2 && !same_scaling(&seen[0], &seen[1]))
        return json_fail(doc, json_get(root, "rope_scaling"),
                         "rope_scaling and rope_parameters contradict each other");
    if (!(theta > 0.0))
        return json_fail(doc, json_get(root, "rope_theta"), "rope_theta must be above 0");
    m->rope_theta = (float)theta;
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
    const char *name = "ForCausalLM", *prefix = families[m->family].prefix;
    if (list && json_type(list) == JSON_ARRAY && json_first(list) &&
        json_type(json_first(list)) == JSON_STRING)
        name = json_str(json_first(list));
    int scores = strstr(name, "ForSequenceClassification") != NULL;
    if (!scores && !strstr(name, "ForCausalLM"))
        return json_fail(doc, list,
                         "architecture \"%s\" is not supported; supported: %sForCausalLM, "
                         "%sForSequenceClassification",
                         name, prefix, prefix);
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

static Status read_shape(ModelConfig *m, const JsonDoc *doc, const Json *root) {
    double eps = 1e-6, std = 0.02;
    TRY(json_get_int(doc, root, "vocab_size", JSON_REQUIRED, &m->V));
    TRY(json_get_int(doc, root, "hidden_size", JSON_REQUIRED, &m->C));
    TRY(json_get_int(doc, root, "num_hidden_layers", JSON_REQUIRED, &m->L));
    TRY(json_get_int(doc, root, "num_attention_heads", JSON_REQUIRED, &m->NH));
    TRY(json_get_int(doc, root, "intermediate_size", JSON_REQUIRED, &m->FF));
    const Json *kv = json_get(root, "num_key_value_heads"), *head_dim = json_get(root, "head_dim");
    m->NKV = kv || !families[m->family].NKV ? m->NH : families[m->family].NKV;
    if (is_set(kv)) TRY(json_get_int(doc, root, "num_key_value_heads", JSON_REQUIRED, &m->NKV));
    m->HS = !head_dim && families[m->family].HS ? families[m->family].HS
            : m->NH > 0                         ? m->C / m->NH
                                                : 0;
    if (is_set(head_dim))
        TRY(json_get_int(doc, root, "head_dim", JSON_REQUIRED, &m->HS));
    else if (m->NH > 0 && m->HS == m->C / m->NH && m->C % m->NH)
        return json_fail(doc, json_get(root, "hidden_size"),
                         "hidden_size %d is not a multiple of num_attention_heads %d", m->C, m->NH);
    m->max_positions = 2048;
    TRY(json_get_int(doc, root, "max_position_embeddings", JSON_OPTIONAL, &m->max_positions));
    TRY(json_get_num(doc, root, "rms_norm_eps", JSON_OPTIONAL, &eps));
    TRY(json_get_num(doc, root, "initializer_range", JSON_OPTIONAL, &std));
    m->tied = families[m->family].tied;
    TRY(json_get_bool(doc, root, "tie_word_embeddings", JSON_OPTIONAL, &m->tied));
    if (!(eps >= 0.0 && eps < 1.0))
        return json_fail(doc, json_get(root, "rms_norm_eps"), "rms_norm_eps must be from 0 to 1");
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
    if (is_set(list) && (json_type(list) != JSON_ARRAY || json_size(list) != m->L))
        return json_fail(doc, list, "no_rope_layers must have a number for each of %d layers",
                         m->L);
    for (const Json *e = is_set(list) ? json_first(list) : NULL; l < m->L; l++) {
        int rotates = (l + 1) % interval != 0;
        if (e) {
            if (json_type(e) != JSON_NUMBER || (json_num(e) != 0.0 && json_num(e) != 1.0))
                return json_fail(doc, e, "no_rope_layers holds 0 and 1");
            rotates = json_num(e) == 1.0;
            e = json_next(e);
        }
        if (!rotates) m->unrotated[l / 32] |= 1u << l % 32;
    }
    return OK;
}

Status config_read(ModelConfig *m, const JsonDoc *doc) {
    const Json *root = json_root(doc);
    if (json_type(root) != JSON_OBJECT)
        return json_fail(doc, root, "a model's config must be an object");
    TRY(read_family(m, doc, root));
    TRY(read_shape(m, doc, root));
    TRY(read_window(m, doc, root));
    TRY(refuse_unsupported(m, doc, root));
    TRY(read_biases(m, doc, root));
    TRY(read_rope(m, doc, root));
    TRY(read_eos(m, doc, root));
    TRY(read_heads(m, doc, root));
    TRY(config_check(m, json_name(doc)));
    return read_unrotated(m, doc, root);
}

/* --- writing --- */

static void put_int(Text *t, const char *key, long v) {
    text_addf(t, ",\n  \"%s\": %ld", key, v);
}

static void put_float(Text *t, const char *key, float v) {
    char shortest[40]; /* 1e-05, not 9.9999997473787516e-06 */
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(shortest, sizeof shortest, "%.*g", digits, (double)v);
        if (strtof(shortest, NULL) == v) break;
    }
    text_addf(t, ",\n  \"%s\": %s", key, shortest);
}

static void put_rope(Text *t, const ModelConfig *m, const char *key, int with_theta) {
    const RopeScaling *r = &m->rope;
    text_addf(t, ",\n  \"%s\": {\"rope_type\": \"%s\"", key, rope_types[r->type]);
    if (with_theta) put_float(t, "rope_theta", m->rope_theta);
    if (r->type != ROPE_DEFAULT) put_float(t, "factor", r->factor);
    if (r->type == ROPE_LLAMA3) {
        put_float(t, "low_freq_factor", r->low_freq_factor);
        put_float(t, "high_freq_factor", r->high_freq_factor);
        put_int(t, "original_max_position_embeddings", r->original);
    }
    text_add(t, "}");
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

/* Keys that only some families have; a class's default must be written where it is not ours. */
static void put_family(Text *t, const ModelConfig *m) {
    if (families[m->family].attention_bias) put_bool(t, "attention_bias", m->o_bias);
    if (families[m->family].mlp_bias) put_bool(t, "mlp_bias", m->mlp_bias);
    if (m->family >= FAMILY_QWEN2) put_bool(t, "use_sliding_window", 0);
    if (m->family == FAMILY_SMOLLM3) {
        text_add(t, ",\n  \"no_rope_layers\": [");
        for (int l = 0; l < m->L; l++) text_addf(t, "%s%d", l ? ", " : "", config_rotates(m, l));
        text_add(t, "]");
    }
    if (m->family == FAMILY_MISTRAL) {
        if (m->sliding_window)
            put_int(t, "sliding_window", m->sliding_window);
        else
            text_add(t, ",\n  \"sliding_window\": null");
    }
}

static void put_labels(Text *t, const ModelConfig *m) {
    put_int(t, "num_labels", m->scores);
    text_add(t, ",\n  \"id2label\": {");
    for (int i = 0; i < m->scores; i++) text_addf(t, "%s\"%d\": \"LABEL_%d\"", i ? ", " : "", i, i);
    text_add(t, "},\n  \"label2id\": {");
    for (int i = 0; i < m->scores; i++) text_addf(t, "%s\"LABEL_%d\": %d", i ? ", " : "", i, i);
    text_add(t, "}");
}

Status config_write(const ModelConfig *m, const char *dir) {
    Text t = {0};
    char path[1200];
    text_addf(&t, "{\n  \"architectures\": [\"%s%s\"],\n  \"model_type\": \"%s\"",
              families[m->family].prefix, m->lm_head ? "ForCausalLM" : "ForSequenceClassification",
              families[m->family].type);
    put_int(&t, "vocab_size", m->V);
    put_int(&t, "hidden_size", m->C);
    put_int(&t, "num_hidden_layers", m->L);
    put_int(&t, "num_attention_heads", m->NH);
    put_int(&t, "num_key_value_heads", m->NKV);
    put_int(&t, "head_dim", m->HS);
    put_int(&t, "intermediate_size", m->FF);
    put_int(&t, "max_position_embeddings", m->max_positions);
    put_float(&t, "rms_norm_eps", m->norm_eps);
    put_float(&t, "rope_theta", m->rope_theta); /* transformers 4 */
    if (m->rope.type != ROPE_DEFAULT) put_rope(&t, m, "rope_scaling", 0);
    put_rope(&t, m, "rope_parameters", 1); /* transformers 5 */
    put_float(&t, "initializer_range", m->init_std);
    put_bool(&t, "tie_word_embeddings", m->tied);
    text_add(&t, ",\n  \"hidden_act\": \"silu\"");
    put_family(&t, m);
    text_add(&t, ",\n  \"torch_dtype\": \"float32\",\n  \"dtype\": \"float32\"");
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
