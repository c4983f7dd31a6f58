/* scratch.h - a folder for a test's files, removed when the program ends. */
#ifndef SCRATCH_H
#define SCRATCH_H

#include <stddef.h>

/* Path of `name` in the scratch folder, valid until the end; "" is the folder itself. */
const char *scratch(const char *name);
const char *scratch_write(const char *name, const void *data, size_t len); /* its path */
/* Splits text at spaces into argv (large enough), in place; @name becomes a path in the scratch
 * folder. Returns the number of words. */
int scratch_words(char **argv, char *text);
int stderr_mute(void); /* what follows on stderr is expected; returns what unmute needs */
void stderr_unmute(int muted);

#endif
