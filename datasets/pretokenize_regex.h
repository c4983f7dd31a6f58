/* pretokenize_regex.h - translation of splitting regexes; private to the pretokenizer. */
#ifndef PRETOKENIZE_REGEX_H
#define PRETOKENIZE_REGEX_H

#include "core/base/status.h"
#include "core/base/text.h"

/* Appends the PCRE2 spelling of an Oniguruma pattern (UTF, UCP, MULTILINE); E_FORMAT names what is
 * not supported. */
Status regex_translate(Text *out, const char *pattern);

#endif
