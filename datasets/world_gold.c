/* world_gold.c - the gold rule: reads the case back from the prompt and judges the reply part by
 * part. */
#include "datasets/world.h"

#include <string.h>
#include <strings.h>

#include "core/base/file.h"
#include "datasets/world_text.h"

const char *const world_part_names[WORLD_PARTS] = {
    [PART_FIX] = "fix",         [PART_PRODUCT] = "product", [PART_THANKS] = "thanks",
    [PART_APOLOGY] = "apology", [PART_VAGUE] = "vague",     [PART_RUDE] = "rude",
    [PART_PROMISE] = "promise", [PART_ORDER] = "order",     [PART_ENDING] = "ending",
    [PART_LENGTH] = "length",   [PART_REPEAT] = "repeat",
};

enum { WORDS_MIN = 15, WORDS_MAX = 45, REPEATS_MAX = 3, SENTENCES_MAX = 256 };
static const double length_floor =
    -4.0; /* a runaway reply costs no more, so that means stay readable */

typedef struct {
    const char *s; /* not NUL-terminated */
    size_t n;
} Word;

/* The next word or end mark of a normalised text; n = 0 at its end. */
static Word next_word(const char **at) {
    const char *s = *at + strspn(*at, " ");
    Word w = {s, strcspn(s, " ")};
    *at = s + w.n;
    return w;
}

static int word_is(Word w, const char *s) {
    return strlen(s) == w.n && !strncasecmp(w.s, s, w.n);
}

static int digit(char c) {
    return c >= '0' && c <= '9';
}

/* The order number that a word is, -1 for a word without digits, N_ORDERS for any other with some.
 */
static int word_order(Word w) {
    int digits = 0;
    for (size_t i = 0; i < w.n; i++) digits += digit(w.s[i]);
    if (w.n == 2 && w.s[0] == 'q' && digit(w.s[1])) return w.s[1] - '0';
    return digits > 0 ? N_ORDERS : -1;
}

static int word_index(Word w, const char *const *list, int n) {
    for (int i = 0; i < n; i++)
        if (word_is(w, list[i])) return i;
    return -1;
}

/* Whether the words of `phrase` (lower case, single spaces) stand in a normalised text. */
static int says(const char *text, const char *phrase) {
    char spaced[64];
    size_t n = strlen(phrase);
    CHECK(n + 3 <= sizeof spaced);
    spaced[0] = ' ';
    memcpy(spaced + 1, phrase, n);
    memcpy(spaced + 1 + n, " ", 2);
    return strstr(text, spaced) != NULL;
}

static int says_any(const char *text, const char *const *phrases) {
    for (; *phrases; phrases++)
        if (says(text, *phrases)) return 1;
    return 0;
}

/* Reads "NOUN by BRAND from CITY" and moves on behind it; 0 when the next words are not a product.
 */
static int read_product(const char **at, Product *p) {
    p->noun = word_index(next_word(at), world_nouns, N_NOUNS);
    int by = word_is(next_word(at), "by");
    p->brand = word_index(next_word(at), world_brands, N_BRANDS);
    int from = word_is(next_word(at), "from");
    p->city = word_index(next_word(at), world_cities, N_CITIES);
    return p->noun >= 0 && by && p->brand >= 0 && from && p->city >= 0;
}

static Status find_product(Case *c, const char *text) {
    for (const char *at = text;;) {
        Word w = next_word(&at);
        if (w.n == 0) break;
        const char *ahead = at;
        if (word_is(w, "this") && read_product(&ahead, &c->product)) return OK;
    }
    return status_fail(E_FORMAT,
                       "the prompt is not of the embedded world: it names no product of it");
}

/* The one word of the list that the text has. */
static Status find_word(int *found, const char *text, const char *const *list, int n,
                        const char *what) {
    *found = -1;
    for (int i = 0; i < n; i++) {
        if (!says(text, list[i])) continue;
        if (*found >= 0)
            return status_fail(
                E_FORMAT, "the prompt is not of the embedded world: it names two %ss, %s and %s",
                what, list[*found], list[i]);
        *found = i;
    }
    if (*found >= 0) return OK;
    return status_fail(E_FORMAT, "the prompt is not of the embedded world: it names no %s of it",
                       what);
}

static Status find_trouble(Case *c, const char *text) {
    int symptom, place;
    TRY(find_word(&symptom, text, world_symptoms, N_SYMPTOMS, "symptom"));
    TRY(find_word(&place, text, world_places, N_PLACES, "place"));
    c->trouble = symptom * N_PLACES + place;
    return OK;
}

static Status case_of(Case *c, const char *text) {
    *c = (Case){.order = -1};
    TRY(find_product(c, text));
    TRY(find_trouble(c, text));
    c->tone = says_any(text, world_anger_marks) ? TONE_ANGRY : TONE_CALM;
    for (const char *at = text; c->order < 0;) {
        Word w = next_word(&at);
        if (w.n == 0) break;
        int order = word_order(w);
        if (order < N_ORDERS) c->order = order;
    }
    return OK;
}

Status world_case_read(Case *c, const char *prompt) {
    Text text = {0};
    world_normalise(&text, prompt ? prompt : "");
    Status s = case_of(c, text.s);
    text_release(&text);
    return s;
}

static double judge_fix(const Case *c, const char *reply) {
    int right = 0, wrong = 0;
    for (int t = 0; t < N_TROUBLES; t++)
        for (int f = 0; f < N_FIXES; f++) {
            if (!says(reply, world_fixes[t][f])) continue;
            if (t == c->trouble)
                right = 1;
            else
                wrong = 1;
        }
    return 2.0 * right - 1.5 * wrong;
}

static int is_other(Word w, const char *const *list, int n, int right) {
    int i = word_index(w, list, n);
    return i >= 0 && i != right;
}

/* Right is the whole name in one piece; any other noun, brand or city is wrong, alone too. */
static double judge_product(const Case *c, const char *reply) {
    const Product *p = &c->product;
    int right = 0, wrong = 0;
    for (const char *at = reply;;) {
        Product named;
        const char *ahead = at;
        int whole = read_product(&ahead, &named);
        Word w = next_word(&at);
        if (w.n == 0) break;
        right |= whole && named.noun == p->noun && named.brand == p->brand && named.city == p->city;
        wrong |= is_other(w, world_nouns, N_NOUNS, p->noun);
        wrong |= is_other(w, world_brands, N_BRANDS, p->brand);
        wrong |= is_other(w, world_cities, N_CITIES, p->city);
    }
    return 1.0 * right - 1.5 * wrong;
}

/* Every word with a digit claims to be the order number: nothing else in this world has digits. */
static double judge_order(const Case *c, const char *reply) {
    int right = 0, wrong = 0;
    for (const char *at = reply;;) {
        Word w = next_word(&at);
        if (w.n == 0) break;
        int order = word_order(w);
        right |= order >= 0 && order == c->order;
        wrong |= order >= 0 && order != c->order;
    }
    return 0.3 * right - 0.6 * wrong;
}

/* The last sentence of a normalised text that ends with an end mark, from its first space; "" if it
 * does not. */
static const char *last_sentence(const char *text) {
    size_t n = strlen(text);
    if (n < 3 || text[n - 2] != '.') return "";
    size_t start = n - 2;
    while (start > 0 && text[start - 1] != '.') start--;
    return text + start;
}

/* Whether the words from `at` on are a product, anyone's, or "it", and nothing more. */
static int ends_with_product(const char *at) {
    Product named;
    Word w = next_word(&at);
    if (!word_is(w, "it") && !(word_is(w, "this") && read_product(&at, &named))) return 0;
    return word_is(next_word(&at), ".");
}

/* The last sentence is a closing phrase with its end mark: every one ends with the product. */
static double judge_ending(const char *reply, int finished) {
    const char *last = last_sentence(reply);
    int proper = 0;
    for (int i = 0; i < world_wordings(SAY_CLOSING); i++) {
        Text opening = {0};
        world_normalise(&opening, world_wording(SAY_CLOSING, i));
        opening.len -= strlen("p . ");
        if (!strncmp(last, opening.s, opening.len)) proper |= ends_with_product(last + opening.len);
        text_release(&opening);
    }
    return proper && finished ? 0.6 : 0.0;
}

static double judge_length(const char *reply) {
    size_t words = 0;
    for (const char *at = reply;;) {
        Word w = next_word(&at);
        if (w.n == 0) break;
        words += !word_is(w, ".");
    }
    if (words < WORDS_MIN) return -0.1 * (double)(WORDS_MIN - words);
    if (words <= WORDS_MAX) return 0.0;
    double cost = -0.08 * (double)(words - WORDS_MAX);
    return cost < length_floor ? length_floor : cost;
}

/* Sentences beyond SENTENCES_MAX are not compared: the search stays linear, and the length has long
 * taken all it can. */
static double judge_repeat(const char *reply) {
    uint64_t seen[SENTENCES_MAX];
    int n = 0, repeats = 0;
    for (const char *s = reply; *s && n < SENTENCES_MAX;) {
        s += strspn(s, " .");
        size_t len = strcspn(s, ".");
        if (len == 0) break;
        uint64_t hash = file_hash(s, len, 0);
        int known = 0;
        for (int i = 0; i < n && !known; i++) known = seen[i] == hash;
        if (known)
            repeats++;
        else
            seen[n++] = hash;
        s += len;
        if (repeats == REPEATS_MAX) break;
    }
    return -0.7 * repeats;
}

static void judge(Gold *g, const Case *c, const char *reply, int finished) {
    g->part[PART_FIX] = judge_fix(c, reply);
    g->part[PART_PRODUCT] = judge_product(c, reply);
    g->part[PART_THANKS] = says_any(reply, world_thanks_marks) ? 0.4 : 0.0;
    if (says_any(reply, world_apology_marks))
        g->part[PART_APOLOGY] = c->tone == TONE_ANGRY ? 0.8 : 0.1;
    g->part[PART_VAGUE] = says_any(reply, world_vague_marks) ? -0.5 : 0.0;
    g->part[PART_RUDE] = says_any(reply, world_rude_marks) ? -1.5 : 0.0;
    g->part[PART_PROMISE] = says_any(reply, world_promise_marks) ? -1.5 : 0.0;
    g->part[PART_ORDER] = judge_order(c, reply);
    g->part[PART_ENDING] = judge_ending(reply, finished);
    g->part[PART_LENGTH] = judge_length(reply);
    g->part[PART_REPEAT] = judge_repeat(reply);
    for (int i = 0; i < WORLD_PARTS; i++) g->total += g->part[i];
}

Status world_gold(Gold *g, const char *prompt, const char *reply, int finished) {
    Case c;
    *g = (Gold){0};
    TRY(world_case_read(&c, prompt));
    Text text = {0};
    world_normalise(&text, reply ? reply : "");
    judge(g, &c, text.s, finished);
    text_release(&text);
    return OK;
}
