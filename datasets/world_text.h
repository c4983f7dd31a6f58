/* world_text.h - the language of the embedded world: its tables, and how a customer's case becomes
 * a message and an agent's plan becomes a reply. Internal to world*.c and their tests. */
#ifndef WORLD_TEXT_H
#define WORLD_TEXT_H

#include "core/base/status.h"
#include "core/base/text.h"

enum {
    N_NOUNS = 5,
    N_BRANDS = 4,
    N_CITIES = 4,
    N_SYMPTOMS = 4,
    N_PLACES = 6,
    N_PHRASINGS = 3,
    N_FIXES = 2
};
enum { N_ORDERS = 10 };
enum { N_PRODUCTS = N_NOUNS * N_BRANDS * N_CITIES, N_TROUBLES = N_SYMPTOMS * N_PLACES };
enum { N_CELLS = N_PRODUCTS * N_TROUBLES };

/* A product has three words and a trouble two, from short lists and behind cues of their own ("this
 * scale by Orrin from Oslo", "the leak in the lid"), and no other text of the world has these
 * words: so a small model can learn to copy them, and to compare reply with prompt; what matters
 * most for that is that the lists are short. Trouble number t is symptom t / N_PLACES in place t %
 * N_PLACES. A reply ends with the trouble and then the product, so that both stand at a fixed
 * distance from the end, where a reward model reads its score. */
extern const char *const world_nouns[N_NOUNS];
extern const char *const world_brands[N_BRANDS];
extern const char *const world_cities[N_CITIES];
extern const char *const world_symptoms[N_SYMPTOMS];
extern const char *const world_places[N_PLACES];
extern const char *const world_fixes[N_TROUBLES][N_FIXES];

typedef struct { /* noun -1: no product */
    int noun, brand, city;
} Product;

typedef enum { TONE_CALM, TONE_POLITE, TONE_ANGRY, N_TONES } Tone;

/* What a customer writes about; everything in it but the wording is read back by the gold rule. */
typedef struct {
    Product product;
    int trouble;
    int order; /* 0..9, written Q4: the digit has a cue of its own; -1 none */
    Tone tone;
    int phrasing, opener, closer, order_wording, order_last; /* wording */
} Case;

enum { N_OPENERS = 3, N_CLOSERS = 3, N_ORDER_WORDINGS = 3 };
void world_prompt_render(Text *t, const Case *c);

/* Reads the case back from any message, the wording left out; E_FORMAT when it is not of this
 * world. */
Status world_case_read(Case *c, const char *prompt);

/* The kinds of sentence a reply is made of. */
typedef enum {
    SAY_HELLO,
    SAY_THANKS,
    SAY_APOLOGY,
    SAY_PRODUCT,
    SAY_FIX,
    SAY_VAGUE,
    SAY_RUDE,
    SAY_PROMISE,
    SAY_NEUTRAL,
    SAY_ORDER,
    SAY_PADDING,
    SAY_OUTLOOK,
    SAY_CLOSING,
    N_SAY,
} Say;
enum { N_ARRANGEMENTS = 3, N_PADDINGS = 8 };
int world_wordings(Say kind); /* sentences to choose from */
const char *world_wording(Say kind, int i);

typedef struct { /* what a reply speaks of, -1: does not */
    Product product;
    int trouble, order;
} Topic;

typedef struct {
    int say[N_SAY];    /* wording of each kind, -1: not said */
    Topic of;          /* without a noun the product is "it" */
    Say names_product; /* the kind of sentence that names it, beside the closing; the others say
                          "it" */
    int fix;           /* which fix of the trouble SAY_FIX gives */
    int padding;       /* sentences of SAY_PADDING, the first is say[SAY_PADDING] */
    int again;         /* kind said twice, -1 none */
    int cut;           /* stops in the middle of the last sentence */
    int arrangement;   /* order of the sentences */
} Plan;
void world_reply_render(Text *t, const Plan *p);

/* What the gold rule looks for: lower-case words, NULL at the end of each list. */
extern const char *const world_thanks_marks[];
extern const char *const world_apology_marks[];
extern const char *const world_vague_marks[];
extern const char *const world_rude_marks[];
extern const char *const world_promise_marks[];
extern const char *const world_anger_marks[];

/* Appends the words of s in lower case with one space before and after each; an end of sentence
 * becomes " . ". Bytes that are no word are separators. Starts with a space, so that a search for "
 * words " respects word boundaries. */
void world_normalise(Text *t, const char *s);

#endif
