/* settings.h - a setting is one row of a table: default, recipe key, flag, help line, schema entry
 * and the value written into the run directory all come from it. */
#ifndef SETTINGS_H
#define SETTINGS_H

#include <stddef.h>
#include "core/base/json.h"
#include "core/base/memory.h"

typedef enum {
    FIELD_INT,    /* int */
    FIELD_U64,    /* uint64_t */
    FIELD_FLOAT,  /* float */
    FIELD_BOOL,   /* int 0/1 */
    FIELD_STRING, /* const char *, "" when unset */
    FIELD_LIST,   /* StringList: a JSON string or array of strings; comma-separated on the command
                     line */
} FieldType;

typedef struct {
    const char **items;
    int n;
} StringList;

typedef struct {
    const char *key;
    FieldType type;
    size_t offset;
    const char *def;
    const char *help;
    const char *choices; /* "cosine|linear|constant", or NULL */
    double min, max;     /* allowed range of numbers, both 0: any */
} Field;

#define FIELD(S, member, type, def, help)                                                          \
    { #member, type, offsetof(S, member), def, help, NULL, 0, 0 }
#define FIELD_IN(S, member, type, def, lo, hi, help)                                               \
    { #member, type, offsetof(S, member), def, help, NULL, lo, hi }
#define FIELD_OF(S, member, def, choices, help)                                                    \
    { #member, FIELD_STRING, offsetof(S, member), def, help, choices, 0, 0 }
/* The same for a member of S.part, a struct of settings that several tables share: its keys stand
 * among the table's own, so that a recipe says nothing of the part. */
#define PART_FIELD(S, part, member, type, def, help)                                               \
    { #member, type, offsetof(S, part.member), def, help, NULL, 0, 0 }
#define PART_FIELD_IN(S, part, member, type, def, lo, hi, help)                                    \
    { #member, type, offsetof(S, part.member), def, help, NULL, lo, hi }
#define PART_FIELD_OF(S, part, member, def, choices, help)                                         \
    { #member, FIELD_STRING, offsetof(S, part.member), def, help, choices, 0, 0 }

typedef struct {
    const char *name; /* "ppo": keys under "ppo", flags --ppo.clip; "": the top level */
    const Field *fields;
    int n_fields;
    void *config; /* the struct that the offsets are into */
} Section;
#define SECTION(name, fields, config)                                                              \
    { name, fields, (int)(sizeof(fields) / sizeof(*(fields))), config }

/* Defaults, then the recipe (may be NULL), then flags `--key value`, `--key=value`, and for BOOL
 * also plain `--key` / `--no-key`. A key without section prefix is looked up at the top level, then
 * in every section when only one has it (`--seed 2`); dashes equal underscores in flags. Unknown
 * keys: E_USAGE / E_FORMAT with file:line:column and the nearest valid name. Strings live in `a`.
 * The recipe keys "verb", "stages", "name", "inputs", "$schema" are left to the caller. */
Status settings_load(const Section *sections, int n, Arena *a, const JsonDoc *recipe, int argc,
                     char **argv);

/* The resolved settings as JSON, in table order, indented. */
void settings_write(Text *out, const Section *sections, int n);
void settings_help(Text *out, const Section *sections, int n);
/* The "properties" of a JSON Schema object for these sections. */
void settings_schema(Text *out, const Section *sections, int n);

/* The candidate nearest to `word` by edit distance, or NULL when nothing is near. */
const char *settings_nearest(const char *word, const char *const *candidates, int n);

#endif
