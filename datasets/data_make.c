/* data_make.c - the data verbs that make something: the embedded world, a tokenizer. */
#include <string.h>

#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/stream.h"
#include "core/run/settings.h"
#include "datasets/data_tools.h"
#include "datasets/tokenizer.h"
#include "datasets/world.h"

typedef struct {
    const char *out;
    WorldConfig world;
} DemoConfig;
static const Field demo_fields[] = {
    FIELD(DemoConfig, out, FIELD_STRING, "", "folder to write"),
    PART_FIELD(DemoConfig, world, seed, FIELD_U64, "1", "everything is a function of it"),
    PART_FIELD_IN(DemoConfig, world, sft, FIELD_INT, "0", 0, 1 << 24, "demonstrations; 0 = 11000"),
    PART_FIELD_IN(DemoConfig, world, pairs, FIELD_INT, "0", 0, 1 << 24,
                  "preference pairs; 0 = 20000"),
    PART_FIELD_IN(DemoConfig, world, prompts, FIELD_INT, "0", 0, 1 << 24, "prompts; 0 = 4000"),
    PART_FIELD_IN(DemoConfig, world, eval, FIELD_INT, "0", 0, 1 << 24,
                  "held-out rows of each kind; 0 = 500"),
};

Status data_make_demo(const JsonDoc *recipe, int argc, char **argv, Text *summary) {
    DemoConfig c;
    Arena arena = {0};
    Section sections[] = {SECTION("", demo_fields, &c)};
    WorldInfo info;
    Status s = settings_load(sections, 1, &arena, recipe, argc, argv);
    if (s == OK && !c.out[0]) s = status_fail(E_USAGE, "rlhf data make-demo needs --out DIR");
    if (s == OK) {
        log_info("writing the embedded world to %s", c.out);
        s = world_make(c.out, &c.world, &info);
    }
    if (s == OK)
        text_addf(summary, "\"accuracy_ceiling\":%.4f,\"longer_wins\":%.4f,\"held_out\":%d",
                  info.accuracy_ceiling, info.longer_wins, info.held_out);
    arena_release(&arena);
    return s;
}

typedef struct {
    const char *out;
    StringList data;
    int vocab_size;
} TokenizerConfig;
static const Field tokenizer_fields[] = {
    FIELD(TokenizerConfig, out, FIELD_STRING, "", "folder to write"),
    FIELD(TokenizerConfig, data, FIELD_LIST, "",
          "JSONL files; every string in them is learned from"),
    FIELD_IN(TokenizerConfig, vocab_size, FIELD_INT, "1024", 260, 1 << 20,
             "tokens, special ones included"),
};

static Status learn_strings(BpeTrainer *b, const Json *n) {
    if (json_type(n) == JSON_STRING) return bpe_trainer_add(b, json_str(n), strlen(json_str(n)));
    if (json_type(n) == JSON_ARRAY || json_type(n) == JSON_OBJECT)
        for (const Json *m = json_first(n); m; m = json_next(m)) TRY(learn_strings(b, m));
    return OK;
}

static Status learn_file(BpeTrainer *b, const char *path) {
    LineReader *r;
    const char *line;
    size_t len;
    int number;
    TRY(lines_open(&r, path));
    Status s = lines_next(r, &line, &len, &number);
    while (s == OK && line) {
        JsonDoc *doc;
        s = json_parse(&doc, path, number, line, len, JSON_STRICT);
        if (s != OK) break;
        s = learn_strings(b, json_root(doc));
        json_release(doc);
        if (s == OK) s = lines_next(r, &line, &len, &number);
    }
    lines_close(r);
    return s;
}

Status data_train_tokenizer(const JsonDoc *recipe, int argc, char **argv, Text *summary) {
    TokenizerConfig c;
    Arena arena = {0};
    Section sections[] = {SECTION("", tokenizer_fields, &c)};
    BpeTrainer *b = NULL;
    Tokenizer *t = NULL;
    Status s = settings_load(sections, 1, &arena, recipe, argc, argv);
    if (s == OK && (!c.out[0] || !c.data.n))
        s = status_fail(E_USAGE, "rlhf data train-tokenizer needs --data FILE and --out DIR");
    if (s == OK) s = bpe_trainer_create(&b);
    for (int i = 0; s == OK && i < c.data.n; i++) s = learn_file(b, c.data.items[i]);
    if (s == OK) s = bpe_trainer_finish(b, c.vocab_size, &t);
    if (s == OK) s = file_mkdirs(c.out);
    if (s == OK) s = tokenizer_save(t, c.out);
    if (s == OK) {
        log_info("a tokenizer of %d tokens is in %s", tokenizer_vocab_size(t), c.out);
        text_addf(summary, "\"vocab_size\":%d", tokenizer_vocab_size(t));
    }
    bpe_trainer_release(b);
    tokenizer_release(t);
    arena_release(&arena);
    return s;
}
