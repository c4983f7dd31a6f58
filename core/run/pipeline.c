/* pipeline.c - see pipeline.h. */
#include "core/run/pipeline.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/memory.h"
#include "core/run/progress.h"
#include "core/run/run.h"

enum { FLAGS_MAX = 128 };

typedef struct {
    const char *path, *dir, *seed;
    const JsonDoc *doc;
    int argc, resume;
    char **argv;
    PipelineStage run;
    void *ctx;
    Text summary;
    Arena arena;
} Pipeline;

static const char *flag_value(int argc, char **argv, int i, const char *name) {
    size_t n = strlen(name);
    if (strncmp(argv[i], name, n)) return NULL;
    if (argv[i][n] == '=') return argv[i] + n + 1;
    return !argv[i][n] && i + 1 < argc ? argv[i + 1] : NULL;
}

/* --run.dir, --run.seed, --seed and --resume are read here; the rest stays for the stages. */
static void own_flags(Pipeline *p, int argc, char **argv) {
    static const char *const names[] = {"--run.dir", "--run.seed", "--seed"};
    p->argv = arena_alloc(&p->arena, (size_t)(argc + 1) * sizeof *p->argv);
    for (int i = 0; i < argc; i++) {
        const char *value = NULL;
        for (int k = 0; k < 3 && !value; k++) {
            value = flag_value(argc, argv, i, names[k]);
            if (value && k == 0) p->dir = value;
            if (value && k > 0) p->seed = value;
        }
        if (value) {
            i += value == (i + 1 < argc ? argv[i + 1] : NULL);
            continue;
        }
        if (!strcmp(argv[i], "--resume")) p->resume = 1;
        p->argv[p->argc++] = argv[i];
    }
}

/* A key that nobody reads is a mistake, such as a setting that belongs into a stage's recipe. */
static Status check_keys(const Pipeline *p, const Json *object, const char *what,
                         const char *const *keys, int n) {
    if (json_type(object) != JSON_OBJECT)
        return json_fail(p->doc, object, "%s must be an object", what);
    for (const Json *m = json_first(object); m; m = json_next(m)) {
        int known = 0;
        for (int i = 0; i < n; i++) known |= !strcmp(json_key(m), keys[i]);
        if (known) continue;
        const char *near = settings_nearest(json_key(m), keys, n);
        return json_fail(p->doc, m, "%s has no key \"%s\"%s%s%s", what, json_key(m),
                         near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
    }
    return OK;
}

/* Of all stages: a slip in the last one shows before the first one runs. */
static Status check_stages(const Pipeline *p, const Json *stages) {
    static const char *const keys[] = {"name", "verb", "recipe", "inputs"};
    for (const Json *s = json_first(stages); s; s = json_next(s))
        TRY(check_keys(p, s, "a stage", keys, 4));
    return OK;
}

static int stage_exists(const Json *stages, const Json *before, const char *name, size_t n) {
    for (const Json *s = json_first(stages); s && s != before; s = json_next(s)) {
        const Json *own = json_get(s, "name");
        if (own && json_type(own) == JSON_STRING && strlen(json_str(own)) == n &&
            !strncmp(json_str(own), name, n))
            return 1;
    }
    return 0;
}

/* "sft.model" -> DIR/sft/model; anything else stands for itself. */
static const char *resolve(Pipeline *p, const Json *stages, const Json *stage, const char *value) {
    const char *dot = strchr(value, '.');
    if (!dot || dot == value || !stage_exists(stages, stage, value, (size_t)(dot - value)))
        return value;
    return arena_printf(&p->arena, "%s/%.*s/%s", p->dir, (int)(dot - value), value, dot + 1);
}

typedef struct {
    char *v[FLAGS_MAX];
    int n;
} Flags;

static Status add_flag(Pipeline *p, Flags *f, const char *key, const char *value) {
    if (f->n + 2 > FLAGS_MAX)
        return status_fail(E_USAGE, "%s: too many inputs and flags for one stage", p->path);
    f->v[f->n++] = arena_printf(&p->arena, "--%s", key);
    f->v[f->n++] = arena_strdup(&p->arena, value);
    return OK;
}

/* "--ppo.clip" is for the stages of the verb ppo, "--dtype" for all. */
static int is_for_verb(const Json *stages, const char *flag, const char *verb) {
    size_t n = strcspn(flag + 2, ".=");
    if (flag[2 + n] != '.') return 1;
    for (const Json *s = json_first(stages); s; s = json_next(s)) {
        const Json *v = json_get(s, "verb");
        if (!v || json_type(v) != JSON_STRING) continue;
        if (strlen(json_str(v)) == n && !strncmp(json_str(v), flag + 2, n))
            return !strcmp(json_str(v), verb);
    }
    return 1; /* a section that all have, or a mistake, which the stage will name */
}

static Status collect_flags(Pipeline *p, const Json *stages, const Json *stage, const char *verb,
                            const char *dir, Flags *f) {
    const Json *inputs = NULL;
    TRY(json_get_node(p->doc, stage, "inputs", JSON_OPTIONAL, JSON_OBJECT, &inputs));
    TRY(add_flag(p, f, "run.dir", dir));
    TRY(add_flag(p, f, "run.seed", p->seed));
    for (const Json *i = inputs ? json_first(inputs) : NULL; i; i = json_next(i)) {
        if (json_type(i) != JSON_STRING)
            return json_fail(p->doc, i, "an input must be a string: a path, or STAGE.output");
        TRY(add_flag(p, f, json_key(i), resolve(p, stages, stage, json_str(i))));
    }
    for (int i = 0, ours = 1; i < p->argc; i++) { /* a value goes where its flag went */
        if (!strncmp(p->argv[i], "--", 2)) ours = is_for_verb(stages, p->argv[i], verb);
        if (!ours) continue;
        if (f->n == FLAGS_MAX) return status_fail(E_USAGE, "%s: too many flags", p->path);
        f->v[f->n++] = p->argv[i];
    }
    return OK;
}

static Status stage_recipe(Pipeline *p, const Json *stage, const char *name, JsonDoc **doc) {
    const Json *r = json_get(stage, "recipe");
    *doc = NULL;
    if (!r) return OK;
    if (json_type(r) == JSON_STRING) return json_parse_file(doc, json_str(r), JSON_COMMENTS);
    if (json_type(r) != JSON_OBJECT)
        return json_fail(p->doc, r, "\"recipe\" must be an object or a file's name");
    Text t = {0};
    json_put_node(&t, r);
    Status s = json_parse(doc, arena_printf(&p->arena, "%s, stage %s", p->path, name), 1, t.s,
                          t.len, JSON_STRICT);
    text_release(&t);
    return s;
}

/* A finished stage's summary stands in its run.json. */
static Status finished_summary(Pipeline *p, const char *dir, Text *summary) {
    JsonDoc *doc;
    TRY(json_parse_file(&doc, arena_printf(&p->arena, "%s/run.json", dir), JSON_STRICT));
    for (const Json *n = json_first(json_root(doc)); n; n = json_next(n)) {
        json_put_key(summary, json_key(n));
        json_put_node(summary, n);
    }
    json_release(doc);
    return OK;
}

static Status run_one(Pipeline *p, const Json *stages, const Json *stage) {
    const char *name, *verb;
    JsonDoc *recipe = NULL;
    Flags flags = {.n = 0};
    Text summary = {0};
    TRY(json_get_str(p->doc, stage, "name", JSON_REQUIRED, &name));
    TRY(json_get_str(p->doc, stage, "verb", JSON_REQUIRED, &verb));
    if (stage_exists(stages, stage, name, strlen(name)))
        return json_fail(p->doc, json_get(stage, "name"), "two stages are named \"%s\"", name);
    if (strchr(name, '/') || strchr(name, '.'))
        return json_fail(p->doc, json_get(stage, "name"),
                         "a stage's name is a folder: no / and no dot");
    const char *dir = arena_printf(&p->arena, "%s/%s", p->dir, name);
    Status s = OK;
    if (p->resume && run_is_finished(dir)) {
        log_info("%s: finished before, skipped", name);
        s = finished_summary(p, dir, &summary);
    } else {
        log_info("--- %s (%s) ---", name, verb);
        s = collect_flags(p, stages, stage, verb, dir, &flags);
        if (s == OK) s = stage_recipe(p, stage, name, &recipe);
        if (s == OK) s = p->run(p->ctx, verb, recipe, flags.n, flags.v, &summary);
        json_release(recipe);
        if (s != OK) status_context(s, "stage %s", name);
    }
    json_put_key(&p->summary, name);
    text_addf(&p->summary, "{%s}", summary.s ? summary.s : "");
    text_release(&summary);
    return s;
}

static Status pipeline_stages(Pipeline *p, PipelineResult *out) {
    static const char *const keys[] = {"run", "stages", "$schema"};
    static const char *const of_run[] = {"dir", "seed"};
    const Json *root = json_root(p->doc), *stages, *run = NULL;
    TRY(check_keys(p, root, "a pipeline", keys, 3));
    TRY(json_get_node(p->doc, root, "stages", JSON_REQUIRED, JSON_ARRAY, &stages));
    TRY(check_stages(p, stages));
    TRY(json_get_node(p->doc, root, "run", JSON_OPTIONAL, JSON_OBJECT, &run));
    const char *dir = "runs/pipeline";
    int seed = 1;
    if (run) TRY(check_keys(p, run, "\"run\" of a pipeline", of_run, 2));
    if (run) TRY(json_get_str(p->doc, run, "dir", JSON_OPTIONAL, &dir));
    if (run) TRY(json_get_int(p->doc, run, "seed", JSON_OPTIONAL, &seed));
    if (!p->dir) p->dir = dir;
    if (!p->seed) p->seed = arena_printf(&p->arena, "%d", seed);
    snprintf(out->dir, sizeof out->dir, "%s", p->dir);
    out->seed = strtoull(p->seed, NULL, 10);
    TRY(file_mkdirs(p->dir));
    double began = clock_seconds();
    for (const Json *s = json_first(stages); s; s = json_next(s)) TRY(run_one(p, stages, s));
    out->seconds = clock_seconds() - began;
    Text all = {0};
    text_addf(&all, "{\"seed\":%s,\"wall_seconds\":%.1f,%s}\n", p->seed, out->seconds,
              p->summary.s ? p->summary.s : "");
    Status s =
        file_write_atomic(arena_printf(&p->arena, "%s/summary.json", p->dir), all.s, all.len);
    text_release(&all);
    return s;
}

Status pipeline_run(PipelineResult *out, const char *recipe_path, int argc, char **argv,
                    PipelineStage stage, void *ctx) {
    JsonDoc *doc;
    TRY(json_parse_file(&doc, recipe_path, JSON_COMMENTS));
    Pipeline p = {.path = recipe_path, .doc = doc, .run = stage, .ctx = ctx};
    own_flags(&p, argc, argv);
    Status s = pipeline_stages(&p, out);
    json_release(doc);
    text_release(&p.summary);
    arena_release(&p.arena);
    return s;
}
