/* scratch.c - see scratch.h. */
#include "tests/scratch.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/file.h"

static char root[256];
static long owner;
static Arena paths;

static void remove_root(void) {
    if ((long)getpid() == owner) file_remove_tree(root); /* not in forked children */
    arena_release(&paths);
}

static void create_root(void) {
    const char *tmp = getenv("TMPDIR");
    snprintf(root, sizeof root, "%s/rlhf-test-XXXXXX", tmp && tmp[0] ? tmp : "/tmp");
    if (!mkdtemp(root)) {
        perror(root);
        abort();
    }
    owner = (long)getpid();
    atexit(remove_root);
}

const char *scratch(const char *name) {
    if (!root[0]) create_root();
    return arena_printf(&paths, "%s%s%s", root, name[0] ? "/" : "", name);
}

const char *scratch_write(const char *name, const void *data, size_t len) {
    const char *path = scratch(name);
    FILE *fp = fopen(path, "wb");
    if (!fp || fwrite(data, 1, len, fp) != len || fclose(fp) != 0) {
        perror(path);
        abort();
    }
    return path;
}

int scratch_words(char **argv, char *text) {
    int argc = 0;
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word[0] == '@' ? (char *)scratch(word + 1) : word;
    return argc;
}

int stderr_mute(void) {
    fflush(stderr);
    int saved = dup(STDERR_FILENO), null = open("/dev/null", O_WRONLY);
    dup2(null, STDERR_FILENO);
    close(null);
    return saved;
}

void stderr_unmute(int muted) {
    fflush(stderr);
    dup2(muted, STDERR_FILENO);
    close(muted);
}
