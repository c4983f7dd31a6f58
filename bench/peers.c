/* peers.c - other programs at the same work in the same run: scripts that print JSON lines, run
 * where their Python has what they import. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench.h"
#include "core/base/json.h"
#include "core/base/text.h"

static const char *setting(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value && value[0] ? value : otherwise;
}

static int can_import(const char *module) {
    Text command = {0};
    text_addf(&command, "%s -c 'import %s' 2> /dev/null", setting("RLHF_PYTHON", "python3"),
              module);
    int ok = system(command.s) == 0;
    text_release(&command);
    return ok;
}

/* The figure of a line {"tok_s" or "step_s", "batch"?}; 0 where it is of another batch. */
static double figure_of(const char *line, int batch) {
    JsonDoc *doc = NULL;
    double value = 0.0;
    int of = batch;
    if (json_parse(&doc, "a peer", 1, line, strcspn(line, "\n"), JSON_STRICT) == OK) {
        MUST(json_get_int(doc, json_root(doc), "batch", JSON_OPTIONAL, &of));
        MUST(json_get_num(doc, json_root(doc), "tok_s", JSON_OPTIONAL, &value));
        MUST(json_get_num(doc, json_root(doc), "step_s", JSON_OPTIONAL, &value));
    }
    json_release(doc);
    return of == batch ? value : 0.0;
}

/* What a command printed, kept: decoding prints all batches at once. */
static const char *output_of(const char *command) {
    enum { KEPT = 32 };
    static struct { char *command, *output; } kept[KEPT];
    int i = 0;
    while (i < KEPT && kept[i].command && strcmp(kept[i].command, command)) i++;
    CHECK(i < KEPT);
    if (kept[i].command) return kept[i].output;
    Text out = {0};
    char piece[4096];
    FILE *f = popen(command, "r");
    for (size_t n; f && (n = fread(piece, 1, sizeof piece, f)) > 0;) text_add_bytes(&out, piece, n);
    if (f) pclose(f);
    kept[i].command = strdup(command);
    kept[i].output = out.s ? out.s : strdup("");
    return kept[i].output;
}

static void try_peer(Peer *best, const char *name, const char *arguments, int batch, int is_time) {
    Text command = {0};
    text_addf(&command, "%s %s/%s 2> /dev/null", setting("RLHF_PYTHON", "python3"),
              setting("RLHF_PEERS", "../shared/peers"), arguments);
    for (const char *line = output_of(command.s); line && *line;) {
        double v = figure_of(line, batch);
        if (v > 0.0 && (best->value <= 0.0 || (is_time ? v < best->value : v > best->value)))
            *best = (Peer){v, name};
        line = strchr(line, '\n');
        if (line) line++;
    }
    text_release(&command);
}

static int torch_is_there(void) {
    static int known = -1;
    if (known >= 0) return known;
    Text script = {0};
    text_addf(&script, "%s/torch_bench.py", setting("RLHF_PEERS", "../shared/peers"));
    known = access(script.s, R_OK) == 0 && can_import("torch");
    if (!known) printf("peers: no torch, or no %s: skipped\n", script.s);
    text_release(&script);
    return known;
}

Peer bench_peer(const Bench *bench, const char *what, const char *shape, int batch) {
    Peer best = {0};
    const char *dtype = bench->b->dtype == DT_BF16 ? "bf16" : "f32";
    int is_time = !strcmp(what, "ppo"), is_135m = !strcmp(shape, "135m");
    char arguments[512];
    if (!bench->peers || (!is_135m && strcmp(shape, "tiny")) || !torch_is_there()) return best;
    snprintf(arguments, sizeof arguments, "torch_bench.py %s %s %s", what, shape, dtype);
    try_peer(&best, "torch", arguments, batch, is_time);
    if (!strcmp(what, "train")) {
        strncat(arguments, " --compile", sizeof arguments - strlen(arguments) - 1);
        try_peer(&best, "compiled torch", arguments, batch, is_time);
    }
    const char *gguf = setting("RLHF_PEER_GGUF", "models/smollm2-135m-instruct.gguf");
    if (is_135m && !strcmp(what, "decode") && access(gguf, R_OK) == 0) {
        snprintf(arguments, sizeof arguments, "llama_bench.py %s %s", gguf, dtype);
        try_peer(&best, "llama.cpp", arguments, batch, is_time);
    }
    return best;
}
