/* world_text.c - tables and templates of the embedded world. */
#include "datasets/world_text.h"

#include <ctype.h>
#include <string.h>

#include "core/base/status.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof(a)[0]))

const char *const world_nouns[N_NOUNS] = {"scale", "kettle", "lamp", "radio", "mixer"};

const char *const world_brands[N_BRANDS] = {"Orrin", "Velmo", "Takka", "Kordu"};

const char *const world_cities[N_CITIES] = {"Oslo", "Rome", "Lima", "Cairo"};

const char *const world_symptoms[N_SYMPTOMS] = {"noise", "smell", "leak", "crack"};

const char *const world_places[N_PLACES] = {"lid", "motor", "cable", "button", "handle", "base"};

static const char *const phrasings[N_SYMPTOMS][N_PHRASINGS] = {
    {"makes a noise in the {C}", "has a noise in the {C} all night",
     "started a noise in the {C} today"},
    {"has a smell in the {C}", "gives off a smell in the {C}",
     "got a smell in the {C} after lunch"},
    {"has a leak in the {C}", "came with a leak in the {C}",
     "shows a leak in the {C} since Monday"},
    {"has a crack in the {C}", "shows a crack in the {C}", "got a crack in the {C} on day one"},
};

const char *const world_fixes[N_TROUBLES][N_FIXES] = {
    /* noise in the lid, motor, cable, button, handle, base */
    {"oil the hinge", "add a felt pad"},
    {"tighten the belt", "clean the gears"},
    {"wrap the cord in tape", "clip the wire to a wall"},
    {"grease the spring", "lift the key cap"},
    {"turn the long bolt", "fit a soft ring"},
    {"level the feet", "use a rubber mat"},
    /* smell */
    {"wash the cover in vinegar", "dry the inner rim"},
    {"change the carbon brush", "blow out the dust"},
    {"choose another socket", "cut the burnt sleeve"},
    {"wipe the panel with soda", "scrape off the glue"},
    {"rub the grip with lemon", "air the wooden part"},
    {"empty the drip tray", "scrub the bottom plate"},
    /* leak */
    {"swap the seal", "press the clamp shut"},
    {"close the drain valve", "renew the shaft gasket"},
    {"move the wire up", "plug the side hole"},
    {"cover the switch with film", "warm the keypad"},
    {"fill the screw hole with wax", "shorten the hose"},
    {"twist the lower nut", "patch the tank"},
    /* crack */
    {"glue the edge", "mount the spare top"},
    {"weld the housing", "set the dial to slow"},
    {"pull a tube over the tear", "join the two ends"},
    {"sand the rough spot", "snap in the spare key"},
    {"bind the stem with string", "bolt on the brace"},
    {"screw on two metal strips", "pour in some resin"},
};

/* the product follows an opener, so that the cue " this" is always the same token */
static const char *const openers[N_TONES][N_OPENERS] = {
    {"Hi, I think", "Hello, it seems", "I am writing because"},
    {"Good morning, I believe", "Hello, kindly note that", "Dear team, I am afraid"},
    {"Listen,", "Unbelievable,", "I told you twice that"},
};

static const char *const closers[N_TONES][N_CLOSERS] = {
    {"What should I do?", "How do I solve it?", "Any idea?"},
    {"Could you please help me?", "I would be grateful for advice.", "Kindly tell me what to do."},
    {"Fix it now!", "I am furious!", "What a waste of money!"},
};

static const char *const order_wordings[N_ORDER_WORDINGS] = {
    "It was {N}.",
    "It came with {N}.",
    "Please look up {N}.",
};

static const char *const hello[] = {"Hello.", "Good day.", "Dear customer."};

static const char *const thanks[] = {
    "Thank you for writing about {P}.",
    "Thanks for telling us about {P}.",
    "Thank you for the note on {P}.",
};

static const char *const apology[] = {
    "I am sorry about {P}.",
    "We are sorry for the trouble with {P}.",
    "We apologize for {P}.",
};

static const char *const product[] = {
    "Let us look at {P}.",
    "We can help with {P}.",
    "I know {P} well.",
};

static const char *const fix[] = {
    "For {T}, please {A}.",
    "To end {T}, {A}.",
    "About {T}: {A} today.",
};

static const char *const vague[] = {
    "Please try again later and see what it does then.",
    "Just turn it off and on and hope for better days.",
    "Maybe wait a few days until it goes away on its own.",
    "Perhaps ask a friend who knows about these devices.",
};

static const char *const rude[] = {
    "It is your own fault.",
    "Stop complaining so much.",
    "That is not our problem.",
    "Only a fool would ask.",
};

static const char *const promise[] = {
    "We will send a full refund.",
    "You get a free gift.",
    "A replacement is on the way.",
};

static const char *const neutral[] = {
    "It takes only a minute.",
    "You will need no tools.",
    "Most people find it easy.",
    "We are glad to help.",
};

static const char *const order[] = {
    "I have found {N}.",
    "We see {N} here.",
    "I noted {N} too.",
};

static const char *const padding[N_PADDINGS] = {
    "Our company has made good devices for more than thirty years.",
    "We test every model with great love before it leaves the house.",
    "Many families all over the country use our devices each morning.",
    "Our workshop stands near a quiet river with old trees.",
    "We also sell many parts and covers in our large shop.",
    "Our founder began with one small shop and two brothers.",
    "We write a letter with news and ideas every month.",
    "Our people love what they do and they do it well.",
};

static const char *const outlook[] = {
    "That ends {T}.",
    "So much for {T}.",
    "Goodbye to {T}.",
    "No more of {T}.",
};

static const char *const closing[] = {
    "Good luck with {P}.",
    "Enjoy {P}.",
    "All the best for {P}.",
    "I wish you joy with {P}.",
};

#define LIST(list)                                                                                 \
    { list, COUNT(list) }
static const struct {
    const char *const *v;
    int n;
} wordings[N_SAY] = {
    [SAY_HELLO] = LIST(hello),     [SAY_THANKS] = LIST(thanks),   [SAY_APOLOGY] = LIST(apology),
    [SAY_PRODUCT] = LIST(product), [SAY_FIX] = LIST(fix),         [SAY_VAGUE] = LIST(vague),
    [SAY_RUDE] = LIST(rude),       [SAY_PROMISE] = LIST(promise), [SAY_NEUTRAL] = LIST(neutral),
    [SAY_ORDER] = LIST(order),     [SAY_PADDING] = LIST(padding), [SAY_OUTLOOK] = LIST(outlook),
    [SAY_CLOSING] = LIST(closing),
};

int world_wordings(Say kind) {
    return wordings[kind].n;
}

const char *world_wording(Say kind, int i) {
    return wordings[kind].v[i];
}

const char *const world_thanks_marks[] = {"thank you", "thanks", NULL};
const char *const world_apology_marks[] = {"sorry", "apologize", NULL};
const char *const world_vague_marks[] = {"try again later", "off and on", "wait a few days",
                                         "ask a friend", NULL};
const char *const world_rude_marks[] = {"own fault", "stop complaining", "not our problem",
                                        "a fool", NULL};
const char *const world_promise_marks[] = {"refund", "gift", "replacement", NULL};
const char *const world_anger_marks[] = {"fix it now", "furious", "waste of money", NULL};

/* What the places of a template stand for. */
typedef struct {
    Topic of;
    int fix;
} Fill;

static void put_product(Text *t, const Product *p) {
    if (p->noun < 0)
        text_add(t, "it");
    else
        text_addf(t, "this %s by %s from %s", world_nouns[p->noun], world_brands[p->brand],
                  world_cities[p->city]);
}

static void put_trouble(Text *t, const Topic *of) {
    text_addf(t, "the %s in the %s", world_symptoms[of->trouble / N_PLACES],
              world_places[of->trouble % N_PLACES]);
}

static void put_order(Text *t, const Topic *of) {
    text_addf(t, "order Q%d", of->order);
}

/* {P} the product, {T} the trouble, {N} the order number, {C} the place alone, {A} the fix. */
static void fill_place(Text *t, char place, const Fill *f) {
    switch (place) {
    case 'P': put_product(t, &f->of.product); break;
    case 'T': put_trouble(t, &f->of); break;
    case 'N': put_order(t, &f->of); break;
    case 'C': text_add(t, world_places[f->of.trouble % N_PLACES]); break;
    case 'A': text_add(t, world_fixes[f->of.trouble][f->fix]); break;
    default: CHECK(!"a template has an unknown place");
    }
}

static void fill_template(Text *t, const char *template, const Fill *f) {
    for (const char *open; (open = strchr(template, '{')); template = open + 3) {
        text_add_bytes(t, template, (size_t)(open - template));
        fill_place(t, open[1], f);
    }
    text_add(t, template);
}

void world_prompt_render(Text *t, const Case *c) {
    const Fill f = {.of = {c->product, c->trouble, c->order}};
    const char *closer = closers[c->tone][c->closer];

    text_add(t, openers[c->tone][c->opener]);
    fill_template(t, " {P} ", &f);
    fill_template(t, phrasings[c->trouble / N_PLACES][c->phrasing], &f);
    text_add(t, ". ");
    if (c->order < 0 || c->order_last) text_add(t, closer);
    if (c->order < 0) return;

    if (c->order_last) text_add(t, " ");
    fill_template(t, order_wordings[c->order_wording], &f);
    if (!c->order_last) text_addf(t, " %s", closer);
}

static const Say arrangements[N_ARRANGEMENTS][N_SAY] = {
    {SAY_HELLO, SAY_THANKS, SAY_APOLOGY, SAY_PRODUCT, SAY_FIX, SAY_VAGUE, SAY_NEUTRAL, SAY_RUDE,
     SAY_PROMISE, SAY_ORDER, SAY_PADDING, SAY_OUTLOOK, SAY_CLOSING},
    {SAY_HELLO, SAY_APOLOGY, SAY_THANKS, SAY_PRODUCT, SAY_ORDER, SAY_PADDING, SAY_FIX, SAY_VAGUE,
     SAY_NEUTRAL, SAY_RUDE, SAY_PROMISE, SAY_OUTLOOK, SAY_CLOSING},
    {SAY_HELLO, SAY_RUDE, SAY_THANKS, SAY_ORDER, SAY_APOLOGY, SAY_PRODUCT, SAY_PROMISE, SAY_NEUTRAL,
     SAY_FIX, SAY_VAGUE, SAY_PADDING, SAY_OUTLOOK, SAY_CLOSING},
};

static void say_sentence(Text *t, const Plan *p, Say kind, int wording) {
    Fill f = {.of = p->of, .fix = p->fix};
    if (kind != p->names_product && kind != SAY_CLOSING) f.of.product.noun = -1;
    if (t->len > 0) text_add(t, " ");
    fill_template(t, world_wording(kind, wording), &f);
}

/* Leaves the first half of the words from `start` on, without an end. */
static void cut_sentence(Text *t, size_t start) {
    int words = 1;
    for (size_t i = start; i < t->len; i++) words += t->s[i] == ' ';
    size_t end = start;
    for (int kept = 0; end < t->len; end++)
        if (t->s[end] == ' ' && ++kept * 2 >= words) break;
    while (end > start && !isalnum((unsigned char)t->s[end - 1])) end--;
    t->len = end;
    t->s[end] = '\0';
}

void world_reply_render(Text *t, const Plan *p) {
    size_t last = t->len;
    for (int i = 0; i < N_SAY; i++) {
        Say kind = arrangements[p->arrangement][i];
        if (p->say[kind] < 0) continue;
        int times = kind == SAY_PADDING ? p->padding : 1 + (kind == (Say)p->again);
        for (int j = 0; j < times; j++) {
            int other = kind == SAY_PADDING ? (p->say[kind] + j) % N_PADDINGS : p->say[kind];
            last = t->len + (t->len > 0);
            say_sentence(t, p, kind, other);
        }
    }
    if (p->cut && t->len > 0) cut_sentence(t, last);
}

static int is_word_byte(unsigned char c) {
    return isalnum(c) || c == '\'' || c >= 0x80;
}

void world_normalise(Text *t, const char *s) {
    text_add(t, " ");
    while (*s) {
        const char *word = s;
        while (is_word_byte((unsigned char)*s)) s++;
        for (const char *c = word; c < s; c++) {
            char lower = (char)tolower((unsigned char)*c);
            text_add_bytes(t, &lower, 1);
        }
        if (s > word) text_add(t, " ");
        if (*s == '.' || *s == '!' || *s == '?') text_add(t, ". ");
        if (*s) s++;
    }
}
