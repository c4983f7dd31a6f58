/* test_fuzz.c - replays the corpus of every fuzz target: inputs that once broke something, and some
 * that are whole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/base/file.h"
#include "core/base/log.h"
#include "tests/fuzz/fuzz.h"

/* Exactly as many bytes as the file has: a sanitizer sees what is read behind them. */
static void replay_file(const FuzzTarget *target, const char *path) {
    Arena arena = {0};
    char *text;
    size_t len;
    assert_int_equal(file_read(&arena, &text, &len, path, 1 << 20), OK);
    uint8_t *bytes = malloc(len ? len : 1);
    memcpy(bytes, text, len);
    target->run(bytes, len);
    free(bytes);
    arena_release(&arena);
}

static void replay(void **state) {
    const FuzzTarget *target = *state;
    char dir[128], path[400];
    int files = 0;
    snprintf(dir, sizeof dir, "tests/fuzz/corpus/%s", target->name);
    DIR *d = opendir(dir);
    if (!d) fail_msg("%s is missing", dir);
    for (struct dirent *e; (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        replay_file(target, path);
        files++;
    }
    closedir(d);
    target->run((const uint8_t *)"", 0);
    assert_true(files > 0);
}

int main(void) {
    struct CMUnitTest tests[32];
    if (fuzz_n_targets > 32) return 1;
    log_level(LOG_QUIET);
    for (int i = 0; i < fuzz_n_targets; i++)
        tests[i] =
            (struct CMUnitTest){fuzz_targets[i].name, replay, NULL, NULL, (void *)&fuzz_targets[i]};
    return _cmocka_run_group_tests("fuzz", tests, (size_t)fuzz_n_targets, NULL, NULL);
}
