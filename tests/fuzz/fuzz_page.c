/* fuzz_page.c - what the page is made of: a run directory's files, and requests. */
#include "tests/fuzz/fuzz.h"

#include <string.h>

#include "core/base/file.h"
#include "monitor/http_guard.h"
#include "monitor/page.h"

/* Bytes 0xff, which no UTF-8 has, part the files. Whatever they hold, the page's data is JSON and
 * nothing in it can be markup. */
void fuzz_run(const uint8_t *data, size_t size) {
    static const char *const files[] = {"seen/metrics.jsonl", "seen/samples.jsonl",
                                        "seen/alarms.jsonl",  "seen/recipe.json",
                                        "seen/run.json",      "seen/evals/e.json"};
    const uint8_t *end = data + size;
    RunViews runs;
    JsonDoc *doc;
    Text json = {0}, inert = {0};
    CHECK(file_mkdirs(fuzz_path("seen/evals")) == OK);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        const uint8_t *stop = memchr(data, 0xff, (size_t)(end - data));
        if (!stop) stop = end;
        fuzz_file(files[i], data, (size_t)(stop - data));
        data = stop < end ? stop + 1 : end;
    }
    const char *paths[] = {fuzz_path("seen")};
    CHECK(views_open(&runs, paths, 1, 0) == OK);
    views_refresh(&runs);
    page_put_data(&json, "fuzz", &runs, 1);
    CHECK(json_parse(&doc, "the page's data", 1, json.s, json.len, JSON_STRICT) == OK);
    json_release(doc);
    page_put_inert(&inert, json.s, json.len);
    CHECK(!strchr(inert.s, '<'));
    views_close(&runs);
    text_release(&json);
    text_release(&inert);
}

/* Three lines: a Host header, a path, a position. */
void fuzz_request(const uint8_t *data, size_t size) {
    Arena a = {0};
    char *host = arena_strndup(&a, (const char *)data, size);
    char *path = host + strcspn(host, "\n"), *position = path;
    if (*path) *path++ = '\0';
    position = path + strcspn(path, "\n");
    if (*position) *position++ = '\0';
    TailPos pos, again;
    Text t = {0};
    int local = http_host_allowed(host, "127.0.0.1", "box");
    if (local) CHECK(http_host_allowed(host, "0.0.0.0", "box"));
    if (http_endpoint(path) != ENDPOINT_NONE) CHECK(strlen(path) <= strlen("/data.json"));
    http_index(path, 64);
    if (tail_pos_parse(&pos, position)) {
        tail_pos_put(&t, &pos);
        CHECK(tail_pos_parse(&again, t.s));
        CHECK(again.offset == pos.offset && again.mark == pos.mark);
    }
    text_release(&t);
    arena_release(&a);
}
