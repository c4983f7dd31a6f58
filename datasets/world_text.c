/* world_text.c - tables and templates of the embedded world. */
#include "datasets/world_text.h"

#include <ctype.h>
#include <string.h>

#include "core/base/status.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof(a)[0]))

const char *const world_brands[N_BRANDS] = {
    "Orrin", "Velmo", "Takka", "Kordu", "Zanex", "Palmi", "Fenik", "Lurro",
};

const char *const world_nouns[N_NOUNS] = {
    "scale", "kettle", "lamp", "fan", "radio", "clock", "mixer", "blender", "toaster", "printer",
};

const Trouble world_troubles[N_TROUBLES] = {
    {"leak",
     {"has a leak at the bottom", "has had a leak since Monday", "left a leak on my table"},
     {"turn the drain cap", "dry the rubber ring"}},
    {"smell",
     {"has a smell like fish", "gives off a smell of old socks", "makes a smell in my kitchen"},
     {"wash the filter", "air the inner tray"}},
    {"noise",
     {"makes a noise all night", "has a noise like a drill", "started a noise last week"},
     {"oil the small wheel", "level the feet"}},
    {"smoke",
     {"let out smoke twice", "fills my room with smoke", "makes smoke at the start"},
     {"remove the coil", "scrape the hot plate"}},
    {"rust",
     {"has rust on one side", "shows rust near the base", "came out of the box with rust"},
     {"rub the metal with vinegar", "sand the bare edge"}},
    {"crack",
     {"has a crack in the glass", "got a crack on day one", "shows a crack along the side"},
     {"seal the gap with glue", "swap the front panel"}},
    {"stain",
     {"has a stain that stays", "shows a stain on the front", "left a stain on my table"},
     {"soak the cover in soda", "wipe the shell with salt"}},
    {"shock",
     {"gave me a shock", "has a shock for every guest", "sends a shock through my hand"},
     {"ground the case", "change the fuse"}},
    {"flash",
     {"shows a red flash", "gives a flash every minute", "has a flash that never stops"},
     {"reset the sensor", "hold the power key"}},
    {"heat",
     {"gives too much heat", "makes no heat at all", "loses heat after an hour"},
     {"clear the side vents", "set the dial to low"}},
    {"delay",
     {"starts with a long delay", "has a delay before it runs", "shows a delay of an hour"},
     {"update the timer", "skip the test cycle"}},
    {"error",
     {"shows an error all day", "stops with an error", "gives an error every time"},
     {"load the new software", "erase the old log"}},
    {"dust",
     {"blows dust at me", "is full of dust inside", "has dust in every part"},
     {"brush the intake", "shake out the bag"}},
    {"wobble",
     {"has a wobble on my desk", "started to wobble last week", "will wobble when it runs"},
     {"tighten the four screws", "widen the stand"}},
    {"spark",
     {"made a spark at the back", "throws a spark at night", "gave a spark and died"},
     {"clean the contacts", "trim the loose wire"}},
    {"battery",
     {"drains the battery in an hour", "says the battery is empty", "came with a dead battery"},
     {"flip the cells", "warm the power pack"}},
    {"plug",
     {"has a bent plug", "came with the wrong plug", "has a plug that falls out"},
     {"use the grey adapter", "straighten the pins"}},
    {"lid",
     {"has a lid that is stuck", "will not close the lid", "lost half of the lid"},
     {"grease the hinge", "push the catch down"}},
    {"button",
     {"has a button that sticks", "ignores every button", "lost the main button"},
     {"unlock the child guard", "blow under the keys"}},
    {"handle",
     {"has a loose handle", "has a handle that turns", "broke the handle"},
     {"twist the long bolt", "clip the brace on"}},
    {"screen",
     {"has a blank screen", "shows a dim screen", "has lines on the screen"},
     {"raise the contrast", "peel off the film"}},
    {"cable",
     {"has a torn cable", "came with a short cable", "has a cable that is too hot"},
     {"wrap the cord in tape", "choose the wall socket"}},
    {"signal",
     {"loses the signal all day", "finds no signal at home", "has a weak signal"},
     {"pull the antenna up", "move the router closer"}},
    {"speed",
     {"runs at double speed", "lost half of the speed", "has the wrong speed"},
     {"adjust the belt", "choose gear two"}},
};

/* the product follows an opener, so that the cue " this" is always the same token */
static const char *const openers[N_TONES][N_OPENERS] = {
    {"Hi, I think", "Hello, it seems", "I am writing because"},
    {"Good morning, I believe", "Hello, sorry to trouble you, but", "Dear team, I am afraid"},
    {"Listen,", "Unbelievable,", "I told you twice that"},
};

static const char *const closers[N_TONES][N_CLOSERS] = {
    {"What should I do?", "How do I solve it?", "Any idea?"},
    {"Could you please help me?", "I would be grateful for advice.", "Kindly tell me what to do."},
    {"Fix it now!", "I am furious!", "What a waste of money!"},
};

static const char *const order_wordings[N_ORDER_WORDINGS] = {
    "My order {N} is two weeks old.",
    "It came with order {N}.",
    "Please look up order {N}.",
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
    "For the {K}, please {A}.",
    "To end the {K}, {A}.",
    "About the {K}: {A} today.",
};

static const char *const vague[] = {
    "Please try again later.",
    "Just turn it off and on.",
    "Maybe wait a few days.",
    "Perhaps ask a friend.",
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
    "I have found order {N}.",
    "We see order {N} here.",
    "I noted order {N} too.",
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

static const char *const closing[] = {
    "Have a nice day.",
    "Best wishes from us all.",
    "Take good care.",
    "We are always here for you.",
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
    [SAY_ORDER] = LIST(order),     [SAY_PADDING] = LIST(padding), [SAY_CLOSING] = LIST(closing),
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

/* What the places {P}, {K}, {A}, {N} of a template stand for. */
typedef struct {
    int brand, noun; /* -1: the product is "it" */
    const char *keyword, *action;
    int order;
} Fill;

static void fill_place(Text *t, char place, const Fill *f) {
    switch (place) {
    case 'P':
        if (f->brand < 0)
            text_add(t, "it");
        else
            text_addf(t, "this %s by %s", world_nouns[f->noun], world_brands[f->brand]);
        break;
    case 'K': text_add(t, f->keyword); break;
    case 'A': text_add(t, f->action); break;
    case 'N': text_addf(t, "Q%dX%d", f->order / 10, f->order % 10); break;
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
    const Fill f = {.brand = c->brand, .noun = c->noun, .order = c->order};
    const char *closer = closers[c->tone][c->closer];

    text_add(t, openers[c->tone][c->opener]);
    fill_template(t, " {P} ", &f);
    text_addf(t, "%s. ", world_troubles[c->trouble].phrasing[c->phrasing]);
    if (c->order < 0 || c->order_last) text_add(t, closer);
    if (c->order < 0) return;

    if (c->order_last) text_add(t, " ");
    fill_template(t, order_wordings[c->order_wording], &f);
    if (!c->order_last) text_addf(t, " %s", closer);
}

static const Say arrangements[N_ARRANGEMENTS][N_SAY] = {
    {SAY_HELLO, SAY_THANKS, SAY_APOLOGY, SAY_PRODUCT, SAY_FIX, SAY_VAGUE, SAY_NEUTRAL, SAY_RUDE,
     SAY_PROMISE, SAY_ORDER, SAY_PADDING, SAY_CLOSING},
    {SAY_HELLO, SAY_APOLOGY, SAY_THANKS, SAY_PRODUCT, SAY_ORDER, SAY_PADDING, SAY_FIX, SAY_VAGUE,
     SAY_NEUTRAL, SAY_RUDE, SAY_PROMISE, SAY_CLOSING},
    {SAY_HELLO, SAY_RUDE, SAY_THANKS, SAY_ORDER, SAY_APOLOGY, SAY_PRODUCT, SAY_PROMISE, SAY_NEUTRAL,
     SAY_FIX, SAY_VAGUE, SAY_PADDING, SAY_CLOSING},
};

static void say_sentence(Text *t, const Plan *p, Say kind, int wording) {
    const Trouble *trouble = &world_troubles[p->trouble];
    const Fill f = {.brand = kind == p->names_product ? p->brand : -1,
                    .noun = p->noun,
                    .keyword = trouble->keyword,
                    .action = trouble->fix[p->fix],
                    .order = p->order};
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
