/* fuzz_text.c - JSON lines, compressed lines, recipes. */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "core/base/log.h"
#include "core/base/stream.h"
#include "datasets/dataset.h"
#include "sft/sft.h"

static const Tokenizer *byte_tokenizer(void) {
    static Tokenizer *t;
    BpeTrainer *b;
    if (t) return t;
    log_level(LOG_QUIET);
    CHECK(bpe_trainer_create(&b) == OK);
    CHECK(bpe_trainer_add(b, "the user asks the assistant", 27) == OK);
    CHECK(bpe_trainer_finish(b, 270, &t) == OK);
    bpe_trainer_release(b);
    return t;
}

/* The first byte is the kind of rows and the layout; what is kept is whole. */
void fuzz_jsonl(const uint8_t *data, size_t size) {
    static const char *const layouts[] = {"auto", "plain", "chatml"};
    if (!size) return;
    DataConfig cfg = {.eval = "",
                      .layout = layouts[data[0] / 4 % 3],
                      .system = data[0] & 32 ? "brief" : "",
                      .max_length = 256,
                      .max_prompt_length = data[0] & 64 ? 8 : 0,
                      .truncate_prompt = data[0] & 128 ? "left" : "refuse",
                      .bad_rows = "skip:1000000",
                      .cache = ""};
    RowKind kind = (RowKind)(data[0] % 4 % 3);
    Dataset d;
    const char *path = fuzz_file("rows.jsonl", data + 1, size - 1);
    if (dataset_open(&d, &cfg, path, kind, byte_tokenizer()) != OK) return;
    for (int i = 0; i < d.n; i++) {
        const Sequence *q = &d.rows[i].a;
        CHECK(q->n >= q->n_prompt && q->n_prompt >= 1 && q->n <= cfg.max_length);
        CHECK(!q->trained[0] && d.rows[i].line > 0);
    }
    dataset_release(&d);
}

void fuzz_stream(const uint8_t *data, size_t size) {
    LineReader *r;
    const char *line;
    size_t len, total = 0;
    int number;
    if (lines_open(&r, fuzz_file("lines", data, size)) != OK) return;
    while (lines_next(r, &line, &len, &number) == OK && line && total < ((size_t)64 << 20)) {
        CHECK(line[len] == '\0' && !memchr(line, '\n', len));
        total += len + 1;
    }
    lines_close(r);
}

void fuzz_recipe(const uint8_t *data, size_t size) {
    Stage s = {0};
    SftConfig c;
    Arena arena = {0};
    JsonDoc *doc = NULL;
    Text text = {0};
    memset(&c, 0, sizeof c);
    Section sections[] = {{"", stage_fields, stage_n_fields, &s.cfg},
                          {"run", run_fields, run_n_fields, &s.run},
                          {"data", data_fields, data_n_fields, &s.data},
                          {"init", init_fields, init_n_fields, &s.init},
                          {"sft", sft_fields, sft_n_fields, &c}};
    if (json_parse(&doc, "recipe", 1, (const char *)data, size, JSON_COMMENTS) == OK &&
        settings_load(sections, 5, &arena, doc, 0, NULL) == OK)
        settings_write(&text, sections, 5);
    text_release(&text);
    json_release(doc);
    arena_release(&arena);
}
