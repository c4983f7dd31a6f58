/* world.c - writes the embedded world's files: demonstrations of mixed quality, pairs labelled by
 * Bradley-Terry sampling from gold, prompts, and the rows that test each part of the gold reward.
 *
 * Every row draws from its own stream of random numbers, keyed by file and row: the size of one
 * file never changes a row of another. */
#include "datasets/world.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/base/file.h"
#include "core/base/json.h"
#include "core/base/rng.h"
#include "core/base/stream.h"
#include "datasets/world_text.h"

enum { HELD_OUT = N_CELLS / 10 };
enum { DEFAULT_SFT = 11000, DEFAULT_PAIRS = 20000, DEFAULT_PROMPTS = 4000, DEFAULT_EVAL = 500 };
enum { WORDS_MIN = 12, WORDS_MAX = 56 }; /* of a reply in the files */
enum { PARTS_EVAL_MIN = 40, ROWS_MAX = 100 * 1000 * 1000 };

static const double bt_scale = 1.3;    /* P(a preferred) = sigmoid(bt_scale (gold_a - gold_b)) */
static const double gap_min = 0.3;     /* pairs closer in gold are drawn again */
static const double share_edits = 0.5; /* of the pairs; the rest are independent drafts */
static const double wrong_fix = 0.17, wrong_product = 0.12, wrong_order = 0.2; /* of the faulty */
static const double qualities[] = {0.25, 0.5, 0.75};

/* Of the edits, per hundred. A reward model learns tone from a few examples, but to compare reply
 * with prompt only from many. */
static const int edit_share[WORLD_PARTS] = {
    [PART_FIX] = 26,   [PART_PRODUCT] = 40, [PART_THANKS] = 4,  [PART_APOLOGY] = 4,
    [PART_VAGUE] = 4,  [PART_RUDE] = 4,     [PART_PROMISE] = 4, [PART_ORDER] = 2,
    [PART_ENDING] = 4, [PART_LENGTH] = 4,   [PART_REPEAT] = 4,
};

/* Streams of random numbers, one per file; CELLS splits the product-trouble pairs. */
typedef enum {
    STREAM_CELLS,
    STREAM_SFT,
    STREAM_PAIRS,
    STREAM_PROMPTS,
    STREAM_SFT_EVAL,
    STREAM_PAIRS_EVAL,
    STREAM_PROMPTS_EVAL,
    STREAM_PARTS_EVAL,
} Stream;

typedef struct {
    WorldConfig cfg;
    int cells[N_CELLS]; /* product-trouble pairs in random order, the first HELD_OUT are held out */
} World;

static Rng rng_for(const World *w, Stream stream, int row) {
    return (Rng){w->cfg.seed, ((uint64_t)stream << 32) + (uint64_t)row, 0, RNG_WORLD};
}

static int chance(Rng *r, double p) {
    return rng_next(r) < p;
}

static int other_than(Rng *r, int n, int not_this) {
    return (not_this + 1 + rng_below(r, n - 1)) % n;
}

static Case draw_case(const World *w, int held_out, Rng *r) {
    int cell = held_out ? rng_below(r, HELD_OUT) : HELD_OUT + rng_below(r, N_CELLS - HELD_OUT);
    int product = w->cells[cell] / N_TROUBLES;
    Case c = {.product = {product / (N_BRANDS * N_CITIES), product / N_CITIES % N_BRANDS,
                          product % N_CITIES}};
    c.trouble = w->cells[cell] % N_TROUBLES;
    c.order = chance(r, 0.5) ? rng_below(r, N_ORDERS) : -1;
    c.tone = (Tone)rng_below(r, N_TONES);
    c.phrasing = rng_below(r, N_PHRASINGS);
    c.opener = rng_below(r, N_OPENERS);
    c.closer = rng_below(r, N_CLOSERS);
    c.order_wording = rng_below(r, N_ORDER_WORDINGS);
    c.order_last = chance(r, 0.5);
    return c;
}

/* --- replies --- */

static void say(Plan *p, Say kind, Rng *r) {
    p->say[kind] = rng_below(r, world_wordings(kind));
}

/* Chooses the sentence that names the product, one of its own where no other can. */
static void name_product(Plan *p, Rng *r) {
    Say can[3];
    int n = 0;
    if (p->say[SAY_THANKS] >= 0) can[n++] = SAY_THANKS;
    if (p->say[SAY_APOLOGY] >= 0) can[n++] = SAY_APOLOGY;
    if (n == 0 || p->say[SAY_PRODUCT] >= 0) can[n++] = SAY_PRODUCT;
    p->names_product = can[rng_below(r, n)];
    if (p->names_product == SAY_PRODUCT) say(p, SAY_PRODUCT, r);
}

/* Another product altogether in three of four mistakes, one word of the name in the others. */
static void mistake_product(Product *p, Rng *r) {
    int which = rng_below(r, 12);
    if (which == 0 || which > 2) p->noun = other_than(r, N_NOUNS, p->noun);
    if (which == 1 || which > 2) p->brand = other_than(r, N_BRANDS, p->brand);
    if (which == 2 || which > 2) p->city = other_than(r, N_CITIES, p->city);
}

static void mistake_trouble(Topic *of, Rng *r) {
    int which = rng_below(r, 8), symptom = of->trouble / N_PLACES, place = of->trouble % N_PLACES;
    if (which != 0) symptom = other_than(r, N_SYMPTOMS, symptom);
    if (which != 1) place = other_than(r, N_PLACES, place);
    of->trouble = symptom * N_PLACES + place;
}

static void mistake_order(Topic *of, Rng *r) {
    of->order = other_than(r, N_ORDERS, of->order);
}

static void mistake_ending(Plan *p, Rng *r) {
    if (chance(r, 0.5))
        p->say[SAY_OUTLOOK] = p->say[SAY_CLOSING] = -1;
    else
        p->cut = 1;
}

static void mistake_length(Plan *p, Rng *r) {
    say(p, SAY_PADDING, r);
    p->padding = 1 + rng_below(r, 2);
}

static void mistake_repeat(Plan *p, Rng *r) {
    int can[N_SAY], n = 0;
    for (int i = 0; i < N_SAY; i++)
        if (p->say[i] >= 0 && i != SAY_PADDING && i != SAY_CLOSING) can[n++] = i;
    if (n > 0) p->again = can[rng_below(r, n)];
}

static void draft_product(Plan *p, const Case *c, double quality, Rng *r) {
    int right = chance(r, quality), wrong = !right && chance(r, wrong_product);
    if (chance(r, 0.15)) say(p, SAY_PRODUCT, r);
    if (!right && !wrong) return;
    p->of.product = c->product;
    if (wrong) mistake_product(&p->of.product, r);
    name_product(p, r);
}

/* Most faulty advice is vague, some is for another trouble, some is missing. */
static void draft_advice(Plan *p, double quality, Rng *r) {
    p->fix = rng_below(r, N_FIXES);
    if (chance(r, quality)) {
        say(p, SAY_FIX, r);
        if (chance(r, 0.15 * (1.0 - quality))) say(p, SAY_VAGUE, r);
    } else if (chance(r, wrong_fix)) {
        say(p, SAY_FIX, r);
        mistake_trouble(&p->of, r);
    } else if (chance(r, 0.8)) {
        say(p, SAY_VAGUE, r);
    }
}

static void draft_order(Plan *p, const Case *c, double quality, Rng *r) {
    if (c->order < 0) return;
    int right = chance(r, quality), wrong = !right && chance(r, wrong_order);
    if (!right && !wrong) return;
    say(p, SAY_ORDER, r);
    if (wrong) mistake_order(&p->of, r);
}

/* What a writer of the given quality (the chance of each part to be right) answers. */
static Plan draft(const Case *c, double quality, Rng *r) {
    double fault = 1.0 - quality;
    Plan p = {.of = {{-1, -1, -1}, c->trouble, c->order}, .again = -1};
    for (int i = 0; i < N_SAY; i++) p.say[i] = -1;
    p.arrangement = rng_below(r, N_ARRANGEMENTS);

    if (chance(r, 0.4)) say(&p, SAY_HELLO, r);
    if (chance(r, quality)) say(&p, SAY_THANKS, r);
    if (chance(r, c->tone == TONE_ANGRY ? quality : 0.25)) say(&p, SAY_APOLOGY, r);
    draft_product(&p, c, quality, r);
    draft_advice(&p, quality, r);
    if (chance(r, 0.12 * fault)) say(&p, SAY_RUDE, r);
    if (chance(r, 0.25 * fault)) say(&p, SAY_PROMISE, r);
    if (chance(r, 0.35)) say(&p, SAY_NEUTRAL, r);
    draft_order(&p, c, quality, r);
    if (chance(r, 0.5 * fault)) mistake_length(&p, r);
    say(&p, SAY_OUTLOOK, r);
    say(&p, SAY_CLOSING, r);
    if (!chance(r, quality)) mistake_ending(&p, r);
    if (chance(r, 0.12 * fault)) mistake_repeat(&p, r);
    return p;
}

static double draw_quality(Rng *r) {
    return qualities[rng_below(r, (int)(sizeof qualities / sizeof *qualities))];
}

/* Breaks one part of a plan, as far as it can be broken: a sentence that goes leaves its
 * neighbours, one that comes takes the place of a harmless one, so that length tells little. */
static void break_part(Plan *p, WorldPart part, Rng *r) {
    Say added[WORLD_PARTS] = {
        [PART_VAGUE] = SAY_VAGUE, [PART_RUDE] = SAY_RUDE, [PART_PROMISE] = SAY_PROMISE};
    switch (part) {
    case PART_FIX: mistake_trouble(&p->of, r); break;
    case PART_PRODUCT:
        if (p->of.product.noun >= 0) mistake_product(&p->of.product, r);
        break;
    case PART_THANKS: p->say[SAY_THANKS] = -1; break;
    case PART_APOLOGY: p->say[SAY_APOLOGY] = -1; break;
    case PART_VAGUE:
    case PART_RUDE:
    case PART_PROMISE:
        p->say[SAY_NEUTRAL] = -1;
        say(p, added[part], r);
        break;
    case PART_ORDER:
        if (p->of.order >= 0) mistake_order(&p->of, r);
        break;
    case PART_ENDING: mistake_ending(p, r); break;
    case PART_LENGTH: mistake_length(p, r); break;
    case PART_REPEAT: mistake_repeat(p, r); break;
    case WORLD_PARTS: CHECK(!"a part");
    }
}

typedef struct {
    Text text;
    Gold gold;
} Reply;

static int words_of(const Text *t) {
    int words = t->len > 0;
    for (size_t i = 0; i < t->len; i++) words += t->s[i] == ' ';
    return words;
}

static Status reply_write(Reply *reply, const Plan *plan, const char *prompt) {
    text_clear(&reply->text);
    text_add(&reply->text, ""); /* never NULL */
    world_reply_render(&reply->text, plan);
    return world_gold(&reply->gold, prompt, reply->text.s, 1);
}

/* A draft of mixed quality that has the length of a reply. */
static Status reply_draft(Reply *reply, const Case *c, const char *prompt, Rng *r) {
    int words;
    do {
        Plan plan = draft(c, draw_quality(r), r);
        TRY(reply_write(reply, &plan, prompt));
        words = words_of(&reply->text);
    } while (words < WORDS_MIN || words > WORDS_MAX);
    return OK;
}

/* --- rows --- */

typedef struct {
    Case request;
    Text prompt, json;
    Reply a, b;
} Row;

static void row_release(Row *row) {
    text_release(&row->prompt);
    text_release(&row->json);
    text_release(&row->a.text);
    text_release(&row->b.text);
}

static void row_start(Row *row, const World *w, int held_out, Rng *r) {
    row->request = draw_case(w, held_out, r);
    text_clear(&row->prompt);
    world_prompt_render(&row->prompt, &row->request);
}

static Status draw_drafts(Row *row, Rng *r) {
    do {
        TRY(reply_draft(&row->a, &row->request, row->prompt.s, r));
        TRY(reply_draft(&row->b, &row->request, row->prompt.s, r));
    } while (fabs(row->a.gold.total - row->b.gold.total) < gap_min);
    return OK;
}

/* Whether b is a with `part` lower by at least gap_min and every other part equal. */
static int broke_only(const Row *row, WorldPart part) {
    for (int i = 0; i < WORLD_PARTS; i++) {
        double fall = row->a.gold.part[i] - row->b.gold.part[i];
        if (i == (int)part ? fall < gap_min - 1e-9 : fabs(fall) > 1e-9) return 0;
    }
    return 1;
}

/* Tries one reply against its copy with `part` broken; quality 1 makes it a right reply. */
static Status try_edit(int *done, Row *row, WorldPart part, double quality, Rng *r) {
    Plan a = draft(&row->request, quality, r), b = a;
    break_part(&b, part, r);
    if (b.of.product.noun >= 0 && b.say[b.names_product] < 0) name_product(&b, r);
    TRY(reply_write(&row->a, &a, row->prompt.s));
    TRY(reply_write(&row->b, &b, row->prompt.s));
    *done = broke_only(row, part);
    return OK;
}

/* Not every case allows every edit (an apology is only owed to the angry): it is drawn again too.
 */
static Status draw_edit(Row *row, const World *w, int held_out, WorldPart part, int right, Rng *r) {
    for (int done = 0; !done;) {
        row_start(row, w, held_out, r);
        TRY(try_edit(&done, row, part, right ? 1.0 : draw_quality(r), r));
        if (words_of(&row->a.text) < WORDS_MIN || words_of(&row->b.text) > WORDS_MAX) done = 0;
        if (right && row->a.gold.part[PART_LENGTH] < 0.0) done = 0;
    }
    return OK;
}

static WorldPart draw_part(Rng *r) {
    int ticket = rng_below(r, 100), part = 0;
    while (ticket >= edit_share[part]) ticket -= edit_share[part++];
    return (WorldPart)part;
}

/* Two replies and a label from gold. */
static Status draw_pair(Row *row, const World *w, int held_out, char subset[32], Rng *r) {
    if (chance(r, share_edits)) {
        WorldPart part = draw_part(r);
        snprintf(subset, 32, "edit:%s", world_part_names[part]);
        TRY(draw_edit(row, w, held_out, part, 0, r));
    } else {
        snprintf(subset, 32, "draft");
        row_start(row, w, held_out, r);
        TRY(draw_drafts(row, r));
    }

    double gap = row->a.gold.total - row->b.gold.total;
    if (chance(r, 1.0 / (1.0 + exp(-bt_scale * gap)))) return OK;
    Reply chosen = row->b;
    row->b = row->a;
    row->a = chosen;
    return OK;
}

/* --- files --- */

static void put_string(Text *t, const char *key, const char *value) {
    json_put_key(t, key);
    json_put_string(t, value);
}

/* Gold is a sum of decimals with two places: said so, and the same on every machine. */
static void put_gold(Text *t, const char *key, double gold) {
    json_put_key(t, key);
    text_addf(t, "%.2f", gold);
}

static Status add_pair(LineWriter *out, Row *row, const char *subset) {
    Text *t = &row->json;
    text_clear(t);
    text_add(t, "{");
    put_string(t, "prompt", row->prompt.s);
    put_string(t, "chosen", row->a.text.s);
    put_string(t, "rejected", row->b.text.s);
    put_string(t, "subset", subset);
    put_gold(t, "gold_chosen", row->a.gold.total);
    put_gold(t, "gold_rejected", row->b.gold.total);
    text_add(t, "}");
    return line_writer_add(out, t->s, t->len);
}

/* What a file's rows are made with. */
typedef struct {
    const World *world;
    Stream stream;
    int rows, held_out;
    WorldInfo *info; /* pairs: counts of agreeing labels, NULL none */
} FileJob;

static Status add_demonstrations(LineWriter *out, Row *row, const FileJob *job) {
    for (int i = 0; i < job->rows; i++) {
        Rng r = rng_for(job->world, job->stream, i);
        row_start(row, job->world, job->held_out, &r);
        TRY(reply_draft(&row->a, &row->request, row->prompt.s, &r));

        Text *t = &row->json;
        text_clear(t);
        text_add(t, "{");
        put_string(t, "prompt", row->prompt.s);
        put_string(t, "completion", row->a.text.s);
        put_gold(t, "gold", row->a.gold.total);
        text_add(t, "}");
        TRY(line_writer_add(out, t->s, t->len));
    }
    return OK;
}

static Status add_prompts(LineWriter *out, Row *row, const FileJob *job) {
    for (int i = 0; i < job->rows; i++) {
        Rng r = rng_for(job->world, job->stream, i);
        row_start(row, job->world, job->held_out, &r);
        Text *t = &row->json;
        text_clear(t);
        text_add(t, "{");
        put_string(t, "prompt", row->prompt.s);
        text_add(t, "}");
        TRY(line_writer_add(out, t->s, t->len));
    }
    return OK;
}

static void count_agreement(WorldInfo *info, const Row *row) {
    int longer = words_of(&row->a.text) - words_of(&row->b.text);
    info->accuracy_ceiling += row->a.gold.total > row->b.gold.total;
    info->longer_wins += longer > 0 ? 1.0 : longer == 0 ? 0.5 : 0.0;
}

static Status add_pairs(LineWriter *out, Row *row, const FileJob *job) {
    char subset[32];
    for (int i = 0; i < job->rows; i++) {
        Rng r = rng_for(job->world, job->stream, i);
        TRY(draw_pair(row, job->world, job->held_out, subset, &r));
        TRY(add_pair(out, row, subset));
        if (job->info) count_agreement(job->info, row);
    }
    return OK;
}

static Status add_parts(LineWriter *out, Row *row, const FileJob *job) {
    for (int i = 0; i < job->rows; i++) {
        Rng r = rng_for(job->world, job->stream, i);
        WorldPart part = (WorldPart)(i % WORLD_PARTS);
        TRY(draw_edit(row, job->world, job->held_out, part, 1, &r));
        TRY(add_pair(out, row, world_part_names[part]));
    }
    return OK;
}

typedef Status (*RowsAdder)(LineWriter *out, Row *row, const FileJob *job);

static Status write_file(const char *dir, const char *name, RowsAdder add, FileJob job) {
    char path[1024];
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
        return status_fail(E_USAGE, "the path of %s in the folder %.80s... is too long", name, dir);
    LineWriter *out = NULL;
    TRY(line_writer_open(&out, path));
    Row row = {0};
    Status s = add(out, &row, &job);
    row_release(&row);
    if (s != OK) {
        line_writer_abort(out);
        return s;
    }
    return line_writer_commit(out);
}

/* Twice the size of the others: the ceiling is a share of these rows. */
static int pairs_eval_rows(const WorldConfig *c) {
    return 2 * c->eval;
}

static int parts_rows(const WorldConfig *c) {
    int each = c->eval / 5 > PARTS_EVAL_MIN ? c->eval / 5 : PARTS_EVAL_MIN;
    return each * WORLD_PARTS;
}

static Status write_files(const char *dir, const World *w, WorldInfo *info) {
    const WorldConfig *c = &w->cfg;
    const FileJob sft = {w, STREAM_SFT, c->sft, 0, NULL},
                  pairs = {w, STREAM_PAIRS, c->pairs, 0, NULL},
                  prompts = {w, STREAM_PROMPTS, c->prompts, 0, NULL},
                  sft_eval = {w, STREAM_SFT_EVAL, c->eval, 1, NULL},
                  pairs_eval = {w, STREAM_PAIRS_EVAL, pairs_eval_rows(c), 1, info},
                  prompts_eval = {w, STREAM_PROMPTS_EVAL, c->eval, 1, NULL},
                  parts_eval = {w, STREAM_PARTS_EVAL, parts_rows(c), 1, NULL};
    TRY(write_file(dir, "sft.jsonl", add_demonstrations, sft));
    TRY(write_file(dir, "pairs.jsonl", add_pairs, pairs));
    TRY(write_file(dir, "prompts.jsonl", add_prompts, prompts));
    TRY(write_file(dir, "sft.eval.jsonl", add_demonstrations, sft_eval));
    TRY(write_file(dir, "pairs.eval.jsonl", add_pairs, pairs_eval));
    TRY(write_file(dir, "prompts.eval.jsonl", add_prompts, prompts_eval));
    return write_file(dir, "parts.eval.jsonl", add_parts, parts_eval);
}

static Status write_summary(const char *dir, const WorldConfig *c, const WorldInfo *info) {
    Arena names = {0};
    Text t = {0};
    text_addf(&t, "{\"seed\":%" PRIu64 ",\"sft\":%d,\"pairs\":%d,\"prompts\":%d,\"eval\":%d,",
              c->seed, c->sft, c->pairs, c->prompts, c->eval);
    text_addf(&t, "\"parts_eval\":%d,\"held_out\":%d,", parts_rows(c), info->held_out);
    text_addf(&t, "\"accuracy_ceiling\":%.4f,\"longer_wins\":%.4f}\n", info->accuracy_ceiling,
              info->longer_wins);
    Status s = file_write_atomic(arena_printf(&names, "%s/world.json", dir), t.s, t.len);
    text_release(&t);
    arena_release(&names);
    return s;
}

static Status size_or_default(int *size, int fallback, const char *name) {
    if (*size == 0) *size = fallback;
    if (*size > 0 && *size <= ROWS_MAX) return OK;
    return status_fail(E_USAGE, "the world's size %s is %d, it must be between 1 and %d", name,
                       *size, ROWS_MAX);
}

Status world_make(const char *dir, const WorldConfig *cfg, WorldInfo *info) {
    World w = {.cfg = *cfg};
    TRY(size_or_default(&w.cfg.sft, DEFAULT_SFT, "sft"));
    TRY(size_or_default(&w.cfg.pairs, DEFAULT_PAIRS, "pairs"));
    TRY(size_or_default(&w.cfg.prompts, DEFAULT_PROMPTS, "prompts"));
    TRY(size_or_default(&w.cfg.eval, DEFAULT_EVAL, "eval"));
    TRY(file_mkdirs(dir));

    for (int i = 0; i < N_CELLS; i++) w.cells[i] = i;
    Rng r = rng_for(&w, STREAM_CELLS, 0);
    rng_shuffle(&r, w.cells, N_CELLS);

    *info = (WorldInfo){.held_out = HELD_OUT};
    TRY(write_files(dir, &w, info));
    info->accuracy_ceiling /= pairs_eval_rows(&w.cfg);
    info->longer_wins /= pairs_eval_rows(&w.cfg);
    return write_summary(dir, &w.cfg, info);
}
