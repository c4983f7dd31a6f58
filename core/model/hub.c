/* hub.c - see hub.h. */
#include "core/model/hub.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"

static const char *set(const char *variable) {
    const char *v = getenv(variable);
    return v && v[0] ? v : NULL;
}

static void cache_root(char root[MODEL_PATH_MAX]) {
    if (set("HF_HUB_CACHE"))
        snprintf(root, MODEL_PATH_MAX, "%s", set("HF_HUB_CACHE"));
    else if (set("HF_HOME"))
        snprintf(root, MODEL_PATH_MAX, "%s/hub", set("HF_HOME"));
    else if (set("XDG_CACHE_HOME"))
        snprintf(root, MODEL_PATH_MAX, "%s/huggingface/hub", set("XDG_CACHE_HOME"));
    else
        snprintf(root, MODEL_PATH_MAX, "%s/.cache/huggingface/hub", set("HOME") ? set("HOME") : "");
}

static int is_word(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", s[i]))
            return 0;
    return n > 0 && n <= 96 && s[0] != '.' && s[0] != '-';
}

/* "org/name", which could not be a file's path by its looks: no ending of one. */
static int is_hub_name(const char *name) {
    const char *slash = strchr(name, '/');
    size_t n = strlen(name);
    if (!slash || (n > 5 && !strcmp(name + n - 5, ".gguf"))) return 0;
    return is_word(name, (size_t)(slash - name)) && is_word(slash + 1, strlen(slash + 1));
}

/* A commit's name: nothing else is taken into a path. */
static int read_commit(const char *file, char commit[65]) {
    Arena arena = {0};
    char *text;
    size_t len, n;
    int good = 0;
    if (file_exists(file) && file_read(&arena, &text, &len, file, 4096) == OK) {
        n = strspn(text, "0123456789abcdef");
        good = n >= 7 && n <= 64 && strspn(text + n, " \r\n") == len - n;
        if (good) snprintf(commit, 65, "%.*s", (int)n, text);
    }
    arena_release(&arena);
    return good;
}

Status model_find(char path[MODEL_PATH_MAX], const char *name) {
    char root[MODEL_PATH_MAX], folder[2 * MODEL_PATH_MAX], file[2 * MODEL_PATH_MAX + 16],
        commit[65];
    if (strlen(name) >= MODEL_PATH_MAX)
        return status_fail(E_USAGE, "the path of the model is too long: %.200s...", name);
    snprintf(path, MODEL_PATH_MAX, "%s", name);
    if (file_exists(name) || !is_hub_name(name)) return OK;
    const char *slash = strchr(name, '/');
    cache_root(root);
    snprintf(folder, sizeof folder, "%s/models--%.*s--%s", root, (int)(slash - name), name,
             slash + 1);
    snprintf(file, sizeof file, "%s/refs/main", folder);
    if (read_commit(file, commit)) {
        int n = snprintf(path, MODEL_PATH_MAX, "%s/snapshots/%s", folder, commit);
        if (n < MODEL_PATH_MAX && file_is_dir(path)) return OK;
    }
    return status_fail(E_IO,
                       "the model %s is neither here nor in the Hugging Face cache %s; to download "
                       "it: hf download %s",
                       name, root, name);
}
