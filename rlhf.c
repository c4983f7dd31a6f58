/* rlhf.c - the command line: a table of verbs. The only file that ends the process. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/backend/backend.h"
#include "core/base/log.h"
#include "core/base/threads.h"
#include "core/run/pipeline.h"
#include "core/run/progress.h"
#include "core/run/summary.h"
#include "datasets/data_tools.h"
#include "dpo/dpo.h"
#include "monitor/live.h"
#include "monitor/plot.h"
#include "monitor/report.h"
#include "monitor/runs.h"
#include "policy/model_tool.h"
#include "policy/tools.h"
#include "ppo/ppo.h"
#include "reward/reward.h"
#include "reward/reward_tools.h"
#include "sft/sft.h"

#define RLHF_VERSION "0.1"

/* ------------------------------------------------ trainers: a stage is settings, then one call */

typedef union {
    SftConfig sft;
    RewardConfig reward;
    PpoConfig ppo;
    DpoConfig dpo;
    EvalConfig eval;
} TrainerConfig;

typedef struct {
    const char *verb, *help;
    const Field *fields;
    const int *n_fields;
    Status (*run)(Stage *s, const TrainerConfig *c);
} Trainer;

static Status run_sft(Stage *s, const TrainerConfig *c) {
    return sft_run(s, &c->sft);
}
static Status run_reward(Stage *s, const TrainerConfig *c) {
    return reward_run(s, &c->reward);
}
static Status run_ppo(Stage *s, const TrainerConfig *c) {
    return ppo_run(s, &c->ppo);
}
static Status run_dpo(Stage *s, const TrainerConfig *c) {
    return dpo_run(s, &c->dpo);
}
static Status run_eval(Stage *s, const TrainerConfig *c) {
    TRY(eval_run(s, &c->eval));
    if (c->eval.sweep[0] && !s->cfg.dry_run) report_at_end(c->eval.sweep);
    return OK;
}

static const Trainer trainers[] = {
    {"sft", "supervised fine-tuning", sft_fields, &sft_n_fields, run_sft},
    {"reward", "train a Bradley-Terry reward model on preference pairs", reward_fields,
     &reward_n_fields, run_reward},
    {"ppo", "align a policy against a reward model (actor, critic, reference, reward)", ppo_fields,
     &ppo_n_fields, run_ppo},
    {"dpo", "align a policy on preference pairs directly", dpo_fields, &dpo_n_fields, run_dpo},
    {"eval", "evaluate a reward model on pairs, or a policy on prompts", eval_fields,
     &eval_n_fields, run_eval},
};
enum { N_TRAINERS = sizeof trainers / sizeof *trainers, N_SECTIONS = 6 };

static void sections_of(Section out[N_SECTIONS], const Trainer *t, Stage *s, TrainerConfig *c) {
    out[0] = (Section){"", stage_fields, stage_n_fields, &s->cfg};
    out[1] = (Section){"run", run_fields, run_n_fields, &s->run};
    out[2] = (Section){"data", data_fields, data_n_fields, &s->data};
    out[3] = (Section){"init", init_fields, init_n_fields, &s->init};
    out[4] = (Section){"alarms", alarm_fields, alarm_n_fields, &s->run.alarms};
    out[5] = (Section){t->verb, t->fields, *t->n_fields, c};
}

static Status trainer_run(const Trainer *t, const JsonDoc *recipe, int argc, char **argv,
                          Text *summary) {
    Stage stage = {.verb = t->verb, .began = clock_seconds()};
    TrainerConfig config;
    Section sections[N_SECTIONS];
    Arena arena = {0};
    Text resolved = {0};
    memset(&config, 0, sizeof config);
    sections_of(sections, t, &stage, &config);
    Status s = settings_load(sections, N_SECTIONS, &arena, recipe, argc, argv);
    if (s == OK && !stage.run.dir[0]) stage.run.dir = arena_printf(&arena, "runs/%s", t->verb);
    if (s == OK) {
        settings_write(&resolved, sections, N_SECTIONS);
        stage.recipe = resolved.s;
        s = t->run(&stage, &config);
        int began = s == OK || s == E_STOPPED || s == E_NUMERIC;
        if (began && !stage.cfg.dry_run) report_at_end(stage.run.dir);
    }
    if (s == OK && stage.summary.s) text_add(summary, stage.summary.s);
    text_release(&stage.summary);
    text_release(&resolved);
    arena_release(&arena);
    return s;
}

/* rlhf sft [RECIPE.json] [--key value ...] */
static Status trainer_main(const Trainer *t, int argc, char **argv) {
    JsonDoc *recipe = NULL;
    Text summary = {0};
    if (argc && strncmp(argv[0], "--", 2) != 0) {
        TRY(json_parse_file(&recipe, argv[0], JSON_COMMENTS));
        argc--, argv++;
        const char *verb = t->verb;
        Status s = json_get_str(recipe, json_root(recipe), "verb", JSON_OPTIONAL, &verb);
        if (s == OK && strcmp(verb, t->verb))
            s = json_fail(recipe, json_get(json_root(recipe), "verb"),
                          "this recipe is for \"rlhf %s\"", verb);
        if (s != OK) {
            json_release(recipe);
            return s;
        }
    }
    Status s = trainer_run(t, recipe, argc, argv, &summary);
    json_release(recipe);
    if (s == OK && summary.s) printf("{%s}\n", summary.s);
    text_release(&summary);
    return s;
}

static const Trainer *trainer_of(const char *verb) {
    for (int i = 0; i < N_TRAINERS; i++)
        if (!strcmp(trainers[i].verb, verb)) return &trainers[i];
    return NULL;
}

/* ------------------------------------------------ data */

static Status data_main(int argc, char **argv) {
    static const struct {
        const char *name;
        Status (*run)(int argc, char **argv);
    } tools[] = {{"check", data_check_main}, {"show", data_show_main}, {"split", data_split_main}};
    Text summary = {0};
    Status s;
    for (int i = 0; argc && i < 3; i++)
        if (!strcmp(argv[0], tools[i].name)) return tools[i].run(argc - 1, argv + 1);
    if (argc && !strcmp(argv[0], "make-demo"))
        s = data_make_demo(NULL, argc - 1, argv + 1, &summary);
    else if (argc && !strcmp(argv[0], "train-tokenizer"))
        s = data_train_tokenizer(NULL, argc - 1, argv + 1, &summary);
    else
        s = status_fail(
            E_USAGE,
            "rlhf data check|show FILE --model DIR, rlhf data split FILE --out DIR, rlhf data make-demo --out DIR, "
            "or rlhf data train-tokenizer --data F.jsonl --vocab-size N --out DIR");
    if (s == OK) printf("{%s}\n", summary.s);
    text_release(&summary);
    return s;
}

/* ------------------------------------------------ pipelines */

/* A pipeline gives the same flags to every stage. The data verbs have no run section and no data
 * section: they write to the stage's directory and are passed what they know. */
static Status data_stage(Status (*run)(const JsonDoc *, int, char **, Text *),
                         const JsonDoc *recipe, int argc, char **argv, Text *summary, int seeded) {
    char *kept[160];
    int n = 0;
    for (int i = 0; i < argc && n + 2 < 160; i++) {
        if (!strcmp(argv[i], "--run.dir") && i + 1 < argc)
            kept[n++] = "--out", kept[n++] = argv[++i];
        else if (!strcmp(argv[i], "--run.seed") && i + 1 < argc) {
            i++;
            if (seeded) kept[n++] = "--seed", kept[n++] = argv[i];
        } else if (!strcmp(argv[i], "--data") && i + 1 < argc)
            kept[n++] = argv[i], kept[n++] = argv[i + 1], i++;
    }
    return run(recipe, n, kept, summary);
}

static Status pipeline_stage(void *ctx, const char *verb, const JsonDoc *recipe, int argc,
                             char **argv, Text *summary) {
    (void)ctx;
    const Trainer *t = trainer_of(verb);
    if (t) return trainer_run(t, recipe, argc, argv, summary);
    if (!strcmp(verb, "make-demo"))
        return data_stage(data_make_demo, recipe, argc, argv, summary, 1);
    if (!strcmp(verb, "train-tokenizer"))
        return data_stage(data_train_tokenizer, recipe, argc, argv, summary, 0);
    return status_fail(
        E_USAGE,
        "\"%s\" is no verb of a stage: sft, reward, ppo, dpo, eval, make-demo, train-tokenizer",
        verb);
}

static Status run_main(int argc, char **argv) {
    PipelineResult r;
    if (!argc || argv[0][0] == '-')
        return status_fail(
            E_USAGE,
            "rlhf run RECIPE.json [--run.dir DIR] [--seed N] [--resume] [--key value ...]");
    TRY(pipeline_run(&r, argv[0], argc - 1, argv + 1, pipeline_stage, NULL));
    report_at_end(r.dir);
    printf("%s/summary.json written after %.0f s\n", r.dir, r.seconds);
    return OK;
}

/* rlhf summary DIR: what a pipeline achieved */
static Status summary_main(int argc, char **argv) {
    Text t = {0};
    if (argc != 1)
        return status_fail(E_USAGE, "rlhf summary DIR, the directory of a pipeline's run");
    Status s = summary_text(&t, argv[0], 3);
    if (s == OK) fputs(t.s, stdout);
    text_release(&t);
    return s;
}

/* ------------------------------------------------ about the program */

static Status schema_main(int argc, char **argv) {
    (void)argc, (void)argv;
    Text t = {0};
    text_add(
        &t,
        "{\"$schema\":\"https://json-schema.org/draft/2020-12/schema\",\"title\":\"rlhf.c recipe\",\"oneOf\":[");
    for (int i = 0; i < N_TRAINERS; i++) {
        Stage stage = {0};
        TrainerConfig c;
        Section sections[N_SECTIONS];
        Arena arena = {0};
        memset(&c, 0, sizeof c);
        sections_of(sections, &trainers[i], &stage, &c);
        Status s = settings_load(sections, N_SECTIONS, &arena, NULL, 0, NULL);
        if (s != OK) return s;
        text_addf(
            &t,
            "%s{\"type\":\"object\",\"additionalProperties\":false,\"required\":[\"verb\"],\"properties\":",
            i ? "," : "");
        size_t at = t.len;
        settings_schema(&t, sections, N_SECTIONS);
        /* the verb tells the recipes apart */
        Text head = {0};
        text_addf(&head, "{\"verb\":{\"const\":\"%s\"},\"$schema\":{\"type\":\"string\"},",
                  trainers[i].verb);
        char *properties = strdup(t.s + at + 1);
        if (!properties) return status_fail(E_MEMORY, "no memory for the schema");
        t.len = at;
        text_add_bytes(&t, head.s, head.len);
        text_add(&t, properties);
        text_add(&t, "}");
        free(properties);
        text_release(&head);
        arena_release(&arena);
    }
    text_add(&t, "]}\n");
    fputs(t.s, stdout);
    text_release(&t);
    return OK;
}

static Status env_main(int argc, char **argv) {
    (void)argc, (void)argv;
    Backend *b;
    TRY(threads_start(0));
    TRY(backend_create(&b, "auto", "auto", "f32"));
    printf("rlhf.c %s, %s, built %s\n", RLHF_VERSION, __VERSION__, __DATE__);
    printf("device %s, kernels %s, %d threads\n", b->device, b->kernels, threads_count());
    static const char *const kernels[] = {"amx", "avx512bf16", "avx512", "avx2", "portable"};
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) {
        Backend *k;
        int has = backend_create(&k, "cpu", kernels[i], "bf16") == OK; /* the longer list */
        printf("  %-10s %s%s\n", kernels[i], has ? "usable" : "not on this processor",
               has && i < 2 ? ", in bf16" : "");
        if (has) backend_release(k);
    }
    backend_release(b);
    return OK;
}

static Status help_main(int argc, char **argv);

typedef struct {
    const char *name, *help;
    Status (*run)(int argc, char **argv);
    int lists_settings; /* when it is given --help */
} Verb;

static const Verb verbs[] = {
    {"run", "run a pipeline of stages from a recipe", run_main, 0},
    {"summary", "figures and sample answers of a pipeline's run", summary_main, 0},
    {"report", "runs as one HTML file: curves, samples, recipes", report_main, 0},
    {"monitor", "the same page in a browser while runs go on", live_main, 0},
    {"plot", "curves of a run in the terminal", plot_main, 0},
    {"runs", "which runs there are, how far, and in what they differ", runs_main, 0},
    {"generate", "answer prompts with a model", generate_main, 1},
    {"chat", "talk with a model, line by line", chat_main, 1},
    {"logprobs", "log-probability and entropy of every token of rows", logprobs_main, 1},
    {"score", "score rows with a reward model", score_main, 1},
    {"tokenize", "token ids of rows", tokenize_main, 1},
    {"detokenize", "the text of rows' token ids", detokenize_main, 1},
    {"template", "conversations as a model's chat template writes them", template_main, 1},
    {"model", "tell about a model, write it in another form, make one from nothing", model_main, 0},
    {"data", "check, show or split a data file; make the embedded world, train a tokenizer",
     data_main, 0},
    {"env", "what this machine and build have, for bug reports", env_main, 0},
    {"schema", "JSON Schema of recipes, for editors", schema_main, 0},
    {"help", "this list, or the settings of a verb", help_main, 0},
};
enum { N_VERBS = sizeof verbs / sizeof *verbs };

static Status help_main(int argc, char **argv) {
    const Trainer *t = argc ? trainer_of(argv[0]) : NULL;
    if (t) {
        Text text = {0};
        Stage stage = {0};
        TrainerConfig c;
        Section sections[N_SECTIONS];
        sections_of(sections, t, &stage, &c);
        printf("rlhf %s [RECIPE.json] [--key value ...]: %s\n\n", t->verb, t->help);
        settings_help(&text, sections, N_SECTIONS);
        fputs(text.s, stdout);
        text_release(&text);
        return OK;
    }
    for (int i = 0; argc && i < N_VERBS; i++)
        if (verbs[i].lists_settings && !strcmp(verbs[i].name, argv[0]))
            return verbs[i].run(1, (char *[]){"--help"});
    printf("rlhf.c %s aligns language models: SFT, reward models, PPO, DPO.\n\n", RLHF_VERSION);
    for (int i = 0; i < N_TRAINERS; i++)
        printf("  rlhf %-9s %s\n", trainers[i].verb, trainers[i].help);
    for (int i = 0; i < N_VERBS; i++) printf("  rlhf %-9s %s\n", verbs[i].name, verbs[i].help);
    printf(
        "\n`rlhf help ppo` lists the settings of a verb; every one is a recipe key and a flag.\n");
    return OK;
}

static Status unknown_verb(const char *name) {
    const char *known[N_TRAINERS + N_VERBS];
    for (int i = 0; i < N_TRAINERS; i++) known[i] = trainers[i].verb;
    for (int i = 0; i < N_VERBS; i++) known[N_TRAINERS + i] = verbs[i].name;
    const char *near = settings_nearest(name, known, N_TRAINERS + N_VERBS);
    if (near)
        return status_fail(E_USAGE, "\"%s\" is no verb; did you mean \"%s\"? (rlhf help lists all)",
                           name, near);
    return status_fail(E_USAGE, "\"%s\" is no verb; rlhf help lists all", name);
}

int main(int argc, char **argv) {
    if (argc < 2) {
        help_main(0, NULL);
        return 2;
    }
    Status s = OK;
    const char *name = !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") ? "help" : argv[1];
    const Trainer *t = trainer_of(name);
    const Verb *verb = NULL;
    for (int i = 0; i < N_VERBS && !verb; i++)
        if (!strcmp(verbs[i].name, name)) verb = &verbs[i];
    for (int i = 2; t && i < argc; i++)
        if (!strcmp(argv[i], "--help"))
            return help_main(1, (char *[]){(char *)t->verb}) == OK ? 0 : 1;
    if (t)
        s = trainer_main(t, argc - 2, argv + 2);
    else if (verb)
        s = verb->run(argc - 2, argv + 2);
    else
        s = unknown_verb(name);
    threads_stop();
    if (s == OK) return 0;
    log_progress_end();
    fprintf(stderr, "rlhf: %s\n", status_message());
    return s == E_USAGE ? 2 : s == E_STOPPED ? 75 : 1;
}
