/* run_compare.c - a resumed run must be the run that was begun. */
#include <string.h>

#include "core/run/run_inside.h"

/* Where checkpoints go and how often may change; what the numbers depend on may not. */
static int may_change(const char *key) {
    if (!strcmp(key, "seed")) return 0;
    for (int i = 0; i < run_n_fields; i++)
        if (!strcmp(key, run_fields[i].key)) return 1;
    return 0;
}

/* What the machine is asked for: bits do not depend on threads and memory, and the checkpoint
 * itself names the kernels and the storage type that it needs, unless others are allowed. */
static int of_the_machine(const char *key, int any_kernels) {
    static const char *const always[] = {"threads", "memory_limit", "device", "dry_run",
                                         "allow_kernel_change"};
    static const char *const kernels[] = {"kernels", "dtype", "batch_invariant"};
    for (size_t i = 0; i < sizeof always / sizeof *always; i++)
        if (!strcmp(key, always[i])) return 1;
    for (size_t i = 0; any_kernels && i < sizeof kernels / sizeof *kernels; i++)
        if (!strcmp(key, kernels[i])) return 1;
    return 0;
}

static int same_value(const Json *a, const Json *b) {
    if (!a || !b) return a == b;
    Text x = {0}, y = {0};
    json_put_node(&x, a);
    json_put_node(&y, b);
    int same = x.len == y.len && !memcmp(x.s, y.s, x.len);
    text_release(&x);
    text_release(&y);
    return same;
}

static void show(Text *t, const Json *n) {
    if (n)
        json_put_node(t, n);
    else
        text_add(t, "not there");
}

static Status differs(const char *dir, const char *section, const char *key, const Json *was,
                      const Json *is) {
    Text a = {0}, b = {0};
    show(&a, was);
    show(&b, is);
    Status s =
        status_fail(E_USAGE, "cannot resume %s: %s%s%s was %.200s when it began and is %.200s now",
                    dir, section, section[0] ? "." : "", key, a.s, b.s);
    text_release(&a);
    text_release(&b);
    return s;
}

static Status compare_object(const char *dir, const char *section, const Json *was, const Json *is,
                             int any_kernels);

static Status compare_member(const char *dir, const char *section, const char *key, const Json *was,
                             const Json *is, int any_kernels) {
    int of_run = !section[0] || !strcmp(section, "run");
    int objects = was && is && json_type(was) == JSON_OBJECT && json_type(is) == JSON_OBJECT;
    if (!section[0] && objects) return compare_object(dir, key, was, is, any_kernels);
    if (!section[0] && of_the_machine(key, any_kernels)) return OK;
    if (!strcmp(section, "alarms")) return OK; /* they watch and change nothing */
    if ((of_run && may_change(key)) || same_value(was, is)) return OK;
    return differs(dir, section, key, was, is);
}

static Status compare_object(const char *dir, const char *section, const Json *was, const Json *is,
                             int any_kernels) {
    for (const Json *m = json_first(was); m; m = json_next(m))
        TRY(compare_member(dir, section, json_key(m), m, json_get(is, json_key(m)), any_kernels));
    for (const Json *m = json_first(is); m; m = json_next(m))
        if (!json_get(was, json_key(m)))
            TRY(compare_member(dir, section, json_key(m), NULL, m, any_kernels));
    return OK;
}

Status run_compare_recipes(const char *dir, const JsonDoc *stored, const JsonDoc *now) {
    const Json *was = json_root(stored), *is = json_root(now);
    if (json_type(was) != JSON_OBJECT || json_type(is) != JSON_OBJECT)
        return json_fail(stored, was, "a recipe must be an object");
    int any_kernels = 0;
    TRY(json_get_bool(now, is, "allow_kernel_change", JSON_OPTIONAL, &any_kernels));
    return compare_object(dir, "", was, is, any_kernels);
}
