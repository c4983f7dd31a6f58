/* regex.h - a tokenizer's regular expressions, written for Oniguruma, run by PCRE2 with JIT;
 * private to the tokenizer's own files. */
#ifndef DATASETS_REGEX_H
#define DATASETS_REGEX_H

#include "core/base/status.h"
#include "core/base/text.h"

typedef struct Regex Regex;
typedef struct RegexScratch RegexScratch; /* what matching writes to; of one thread */

/* E_FORMAT names what is not supported, or why the pattern cannot be compiled. */
Status regex_compile(Regex **r, const char *pattern);
Status regex_compile_literal(Regex **r, const char *text);
/* Takes PCRE2's own syntax as it is. */
Status regex_compile_native(Regex **r, const char *pattern);
void regex_release(Regex *r); /* NULL is fine */

Status regex_scratch_create(RegexScratch **x);
void regex_scratch_release(RegexScratch *x); /* NULL is fine */

/* All matches in turn, as Oniguruma's bindings walk them: an empty match right behind the match
 * before it does not count. Starts from {regex, scratch, s, n}. */
typedef struct {
    const Regex *regex;
    RegexScratch *scratch;
    const char *s;
    size_t n, from, to;
    size_t at;
    int matched;
} RegexWalk;
Status regex_walk(RegexWalk *w, int *found);

/* Appends the PCRE2 spelling of an Oniguruma pattern (UTF, UCP, MULTILINE). */
Status regex_translate(Text *out, const char *pattern);

#endif
