/* hf_inside.h - what the readers and writers of a config.json share. */
#ifndef HF_INSIDE_H
#define HF_INSIDE_H

#include "core/base/json.h"
#include "core/base/text.h"
#include "core/model/config.h"

static inline int hf_is_set(const Json *n) { /* there, and not null */
    return n && json_type(n) != JSON_NULL;
}
/* A number that may be missing or null: *out keeps its value. */
static inline Status hf_get_num(const JsonDoc *doc, const Json *object, const char *key,
                                double *out) {
    return hf_is_set(json_get(object, key)) ? json_get_num(doc, object, key, JSON_REQUIRED, out)
                                            : OK;
}
/* `before"key": v` with the fewest digits that read back the same: 1e-05. */
void hf_put_float(Text *t, const char *before, const char *key, float v);

/* The names of keys that differ between families. */
typedef struct {
    const char *C, *L, *NH, *FF, *positions, *eps, *act;
} HfKeys;
HfKeys hf_keys(Family f);

/* Rotary keys (hf_rope.c). Sizes and the family's structure are known. */
Status hf_read_rope(ModelConfig *m, const JsonDoc *doc, const Json *root);
void hf_write_rope(Text *t, const ModelConfig *m);

#endif
