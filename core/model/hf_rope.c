/* hf_rope.c - rotary positions in config.json: rope_theta and rope_scaling of transformers 4,
 * rope_parameters of transformers 5, GPT-NeoX's rotary_pct and rotary_emb_base, gemma3's settings
 * by kind of layer. */
#include "core/model/hf_inside.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/model/rope.h"

/* --- reading --- */

typedef struct { /* what one object says beside its scaling */
    double theta, part;
} Basis;

static Status read_type(RopeType *to, const ModelConfig *m, const JsonDoc *doc, const Json *r) {
    const char *type = "default";
    Text known = {0};
    TRY(json_get_str(doc, r, "type", JSON_OPTIONAL, &type));
    TRY(json_get_str(doc, r, "rope_type", JSON_OPTIONAL, &type));
    if (m->family == FAMILY_PHI3 && (!strcmp(type, "su") || !strcmp(type, "yarn")))
        type = "longrope"; /* its old names */
    for (int i = 0; i < ROPE_TYPES; i++) {
        text_addf(&known, "%s%s", i ? ", " : "", rope_type_name((RopeType)i));
        if (strcmp(type, rope_type_name((RopeType)i))) continue;
        *to = (RopeType)i;
        text_release(&known);
        return OK;
    }
    Status s = json_fail(doc, r, "rope type \"%s\" is not supported; supported: %s", type, known.s);
    text_release(&known);
    return s;
}

static Status read_llama3(RopeScaling *to, const JsonDoc *doc, const Json *r) {
    double low = 1.0, high = 4.0;
    TRY(json_get_num(doc, r, "low_freq_factor", JSON_REQUIRED, &low));
    TRY(json_get_num(doc, r, "high_freq_factor", JSON_REQUIRED, &high));
    if (!(low > 0.0 && high > low && to->original > 0))
        return json_fail(doc, r,
                         "llama3 needs 0 < low_freq_factor < high_freq_factor and "
                         "original_max_position_embeddings above 0");
    to->low_freq_factor = (float)low;
    to->high_freq_factor = (float)high;
    return OK;
}

static double yarn_mscale(double factor, double mscale) {
    return factor <= 1.0 ? 1.0 : 0.1 * mscale * log(factor) + 1.0;
}

static Status read_yarn(RopeScaling *to, const JsonDoc *doc, const Json *r) {
    double fast = 32.0, slow = 1.0, mscale = 0.0, all = 0.0, attention = 0.0;
    int truncate = 1;
    TRY(hf_get_num(doc, r, "beta_fast", &fast));
    TRY(hf_get_num(doc, r, "beta_slow", &slow));
    TRY(hf_get_num(doc, r, "mscale", &mscale));
    TRY(hf_get_num(doc, r, "mscale_all_dim", &all));
    TRY(hf_get_num(doc, r, "attention_factor", &attention));
    TRY(json_get_bool(doc, r, "truncate", JSON_OPTIONAL, &truncate));
    if (!(slow > 0.0 && fast > slow && to->original > 0 && attention >= 0.0))
        return json_fail(doc, r,
                         "yarn needs 0 < beta_slow < beta_fast, attention_factor and "
                         "original_max_position_embeddings above 0");
    to->beta_fast = (float)fast;
    to->beta_slow = (float)slow;
    to->fractional = !truncate;
    to->attention_factor = attention > 0.0 ? (float)attention
                           : mscale != 0.0 && all != 0.0
                               ? (float)(yarn_mscale((double)to->factor, mscale) /
                                         yarn_mscale((double)to->factor, all))
                               : rope_attention_factor(ROPE_YARN, (double)to->factor, 0);
    return OK;
}

static Status read_factors(float *to, int n, const JsonDoc *doc, const Json *r, const char *key) {
    const Json *list;
    TRY(json_get_node(doc, r, key, JSON_REQUIRED, JSON_ARRAY, &list));
    if (json_size(list) != n)
        return json_fail(doc, list, "%s must hold a number for each of %d pairs", key, n);
    for (const Json *e = json_first(list); e; e = json_next(e)) {
        if (json_type(e) != JSON_NUMBER || !(json_num(e) > 0.0))
            return json_fail(doc, e, "%s holds numbers above 0", key);
        *to++ = (float)json_num(e);
    }
    return OK;
}

static Status read_longrope(RopeScaling *to, int pairs, const JsonDoc *doc, const Json *r) {
    double attention = 0.0;
    TRY(read_factors(to->short_factor, pairs, doc, r, "short_factor"));
    TRY(read_factors(to->long_factor, pairs, doc, r, "long_factor"));
    TRY(hf_get_num(doc, r, "attention_factor", &attention));
    if (!(attention >= 0.0 && to->original > 1))
        return json_fail(doc, r,
                         "longrope needs an attention_factor above 0 and "
                         "original_max_position_embeddings above 1");
    to->attention_factor =
        attention > 0.0 ? (float)attention
                        : rope_attention_factor(ROPE_LONGROPE, (double)to->factor, to->original);
    return OK;
}

/* Where the scaling began: an object's own key, or the whole config's, which goes first. */
static Status read_original(int *original, const ModelConfig *m, const JsonDoc *doc,
                            const Json *root, const Json *r) {
    const char *key = "original_max_position_embeddings";
    *original = m->max_positions;
    TRY(json_get_int(doc, r, key, JSON_OPTIONAL, original));
    return json_get_int(doc, root, key, JSON_OPTIONAL, original);
}

static Status read_scaling(RopeScaling *to, const ModelConfig *m, int rotated, const JsonDoc *doc,
                           const Json *root, const Json *r) {
    RopeType type = ROPE_DEFAULT;
    double factor = 0.0;
    *to = (RopeScaling){.type = ROPE_DEFAULT};
    TRY(read_type(&type, m, doc, r));
    if (type == ROPE_DEFAULT) return OK;
    to->type = type;
    TRY(hf_get_num(doc, r, "factor", &factor));
    if (type == ROPE_LLAMA3 || type == ROPE_YARN || type == ROPE_LONGROPE)
        TRY(read_original(&to->original, m, doc, root, r));
    if (factor == 0.0 && to->original > 0 && type != ROPE_LLAMA3 &&
        !hf_is_set(json_get(r, "factor")))
        factor = (double)m->max_positions / to->original;
    if (!(factor > 0.0)) {
        TRY(json_get_num(doc, r, "factor", JSON_REQUIRED, &factor));
        return json_fail(doc, json_get(r, "factor"), "factor must be above 0");
    }
    to->factor = (float)factor;
    if (type == ROPE_LLAMA3) return read_llama3(to, doc, r);
    if (type == ROPE_YARN) return read_yarn(to, doc, r);
    return type == ROPE_LONGROPE ? read_longrope(to, rotated / 2, doc, r) : OK;
}

static Status read_basis(Basis *b, const JsonDoc *doc, const Json *r) {
    TRY(hf_get_num(doc, r, "rope_theta", &b->theta));
    return hf_get_num(doc, r, "partial_rotary_factor", &b->part);
}

/* gemma3: one object for each kind of layer; the windowed ones are not scaled. */
static Status read_by_kind(ModelConfig *m, Basis *b, const JsonDoc *doc, const Json *root,
                           const Json *all, RopeScaling *scaling) {
    const Json *full = json_get(all, "full_attention"), *local = json_get(all, "sliding_attention");
    Basis of_local = {(double)m->rope_local_theta, 1.0};
    RopeScaling none;
    for (const Json *e = json_first(all); e; e = json_next(e))
        if (m->family != FAMILY_GEMMA3 || (e != full && e != local))
            return json_fail(doc, e, "%s: rotary positions per kind of layer are not supported",
                             json_key(e));
    if (hf_is_set(full)) {
        TRY(read_basis(b, doc, full));
        TRY(read_scaling(scaling, m, m->HS, doc, root, full));
    }
    if (!hf_is_set(local)) return OK;
    TRY(read_basis(&of_local, doc, local));
    TRY(read_scaling(&none, m, m->HS, doc, root, local));
    if (none.type != ROPE_DEFAULT || of_local.part != 1.0 || !(of_local.theta > 0.0))
        return json_fail(doc, local, "sliding_attention: only a rope_theta is supported");
    m->rope_local_theta = (float)of_local.theta;
    return OK;
}

static int holds_objects(const Json *r) {
    for (const Json *e = json_first(r); e; e = json_next(e))
        if (json_type(e) == JSON_OBJECT) return 1;
    return 0;
}

static Status read_part(ModelConfig *m, double part, const JsonDoc *doc) {
    int rotated = (int)((double)m->HS * part);
    if (!(part > 0.0 && part <= 1.0) || rotated % 2 || rotated < 2)
        return json_fail(doc, NULL,
                         "partial_rotary_factor %g rotates %d of a head's %d channels: it must be "
                         "an even number of them",
                         part, rotated, m->HS);
    m->rotated = rotated == m->HS ? 0 : rotated;
    return OK;
}

static int same_scaling(const RopeScaling *a, const RopeScaling *b) {
    int same = a->type == b->type && a->factor == b->factor && a->original == b->original &&
               a->low_freq_factor == b->low_freq_factor &&
               a->high_freq_factor == b->high_freq_factor && a->beta_fast == b->beta_fast &&
               a->beta_slow == b->beta_slow && a->fractional == b->fractional &&
               a->attention_factor == b->attention_factor;
    return same && !memcmp(a->short_factor, b->short_factor, sizeof a->short_factor) &&
           !memcmp(a->long_factor, b->long_factor, sizeof a->long_factor);
}

static Status read_objects(ModelConfig *m, Basis *b, const JsonDoc *doc, const Json *root) {
    static const char *const places[] = {"rope_scaling", "rope_parameters"};
    const Json *object[2];
    RopeScaling seen[2];
    int n = 0;
    for (int i = 0; i < 2; i++) {
        object[i] = json_get(root, places[i]);
        if (!hf_is_set(object[i])) continue;
        if (json_type(object[i]) != JSON_OBJECT)
            return json_fail(doc, object[i], "%s must be an object", places[i]);
        if (!holds_objects(object[i])) TRY(read_basis(b, doc, object[i]));
    }
    for (int i = 0; i < 2; i++) {
        if (!hf_is_set(object[i])) continue;
        seen[n] = (RopeScaling){.type = ROPE_DEFAULT};
        if (holds_objects(object[i])) {
            TRY(read_by_kind(m, b, doc, root, object[i], &seen[n]));
        } else {
            TRY(read_part(m, b->part, doc));
            TRY(read_scaling(&seen[n], m, config_rotated(m), doc, root, object[i]));
        }
        m->rope = seen[n++];
    }
    if (n == 2 && !same_scaling(&seen[0], &seen[1]))
        return json_fail(doc, object[0], "rope_scaling and rope_parameters contradict each other");
    return OK;
}

Status hf_read_rope(ModelConfig *m, const JsonDoc *doc, const Json *root) {
    Basis b = {(double)m->rope_theta, m->family == FAMILY_GPT_NEOX ? 0.25 : 1.0};
    double local = (double)m->rope_local_theta;
    if (m->learned_positions) {
        for (int l = 0; l < m->L; l++) layer_set(m->unrotated, l);
        return OK;
    }
    TRY(read_basis(&b, doc, root));
    if (m->family == FAMILY_GPT_NEOX) {
        TRY(hf_get_num(doc, root, "rotary_emb_base", &b.theta));
        TRY(hf_get_num(doc, root, "rotary_pct", &b.part));
    }
    if (m->family == FAMILY_GEMMA3) TRY(hf_get_num(doc, root, "rope_local_base_freq", &local));
    m->rope_local_theta = (float)local;
    TRY(read_objects(m, &b, doc, root));
    if (!(b.theta > 0.0))
        return json_fail(doc, json_get(root, "rope_theta"), "rope_theta must be above 0");
    m->rope_theta = (float)b.theta;
    return read_part(m, b.part, doc);
}

/* --- writing --- */

static void put_factors(Text *t, const char *key, const float *v, int n) {
    text_addf(t, ", \"%s\": ", key);
    json_put_floats(t, v, n);
}

static void put_scaling(Text *t, const ModelConfig *m) {
    const RopeScaling *r = &m->rope;
    int pairs = config_rotated(m) / 2;
    if (r->type == ROPE_LONGROPE) {
        put_factors(t, "short_factor", r->short_factor, pairs);
        put_factors(t, "long_factor", r->long_factor, pairs);
        /* a phi3 of transformers 4 takes no other key beside these two */
        float stretch = (float)m->max_positions / (float)r->original;
        if (m->family == FAMILY_PHI3 && r->factor == stretch &&
            r->attention_factor ==
                rope_attention_factor(ROPE_LONGROPE, (double)stretch, r->original))
            return;
    }
    if (r->type != ROPE_DEFAULT) hf_put_float(t, ", ", "factor", r->factor);
    if (r->original && r->type != ROPE_LINEAR)
        text_addf(t, ", \"original_max_position_embeddings\": %d", r->original);
    if (r->type == ROPE_LLAMA3) {
        hf_put_float(t, ", ", "low_freq_factor", r->low_freq_factor);
        hf_put_float(t, ", ", "high_freq_factor", r->high_freq_factor);
    }
    if (r->type == ROPE_YARN) {
        hf_put_float(t, ", ", "beta_fast", r->beta_fast);
        hf_put_float(t, ", ", "beta_slow", r->beta_slow);
        text_addf(t, ", \"truncate\": %s", r->fractional ? "false" : "true");
    }
    if (r->attention_factor > 0.0f) hf_put_float(t, ", ", "attention_factor", r->attention_factor);
}

static float part_of(const ModelConfig *m) {
    return (float)config_rotated(m) / (float)m->HS;
}

/* transformers 5: with theta and part */
static void put_parameters(Text *t, const ModelConfig *m) {
    text_addf(t, "{\"rope_type\": \"%s\"", rope_type_name(m->rope.type));
    hf_put_float(t, ", ", "rope_theta", m->rope_theta);
    if (m->rotated || m->family == FAMILY_GPT_NEOX)
        hf_put_float(t, ", ", "partial_rotary_factor", part_of(m));
    put_scaling(t, m);
    text_add(t, "}");
}

void hf_write_rope(Text *t, const ModelConfig *m) {
    if (m->learned_positions) return;
    int neox = m->family == FAMILY_GPT_NEOX, by_kind = m->rope_local_theta > 0.0f;
    hf_put_float(t, ",\n  ", neox ? "rotary_emb_base" : "rope_theta", m->rope_theta);
    if (m->rotated || neox) /* which by default rotates a quarter */
        hf_put_float(t, ",\n  ", neox ? "rotary_pct" : "partial_rotary_factor", part_of(m));
    if (by_kind) hf_put_float(t, ",\n  ", "rope_local_base_freq", m->rope_local_theta);
    if (m->family == FAMILY_PHI3 && m->rope.original)
        text_addf(t, ",\n  \"original_max_position_embeddings\": %d", m->rope.original);
    if (m->rope.type != ROPE_DEFAULT) { /* transformers 4 */
        text_addf(t, ",\n  \"rope_scaling\": {\"%s\": \"%s\"",
                  m->family == FAMILY_PHI3 ? "type" : "rope_type", rope_type_name(m->rope.type));
        put_scaling(t, m);
        text_add(t, "}");
    }
    text_add(t, ",\n  \"rope_parameters\": ");
    if (!by_kind) {
        put_parameters(t, m);
        return;
    }
    text_add(t, "{\"full_attention\": ");
    put_parameters(t, m);
    text_add(t, ", \"sliding_attention\": {\"rope_type\": \"default\"");
    hf_put_float(t, ", ", "rope_theta", m->rope_local_theta);
    text_add(t, "}}");
}
