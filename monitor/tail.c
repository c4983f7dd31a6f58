/* tail.c - see tail.h. */
#include "monitor/tail.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/file.h"
#include "core/base/stream.h"

enum { MARKED = 256, CHUNK = 1 << 20 };

static Status read_at(int fd, const char *path, char *to, size_t n, uint64_t at, size_t *got) {
    *got = 0;
    while (*got < n) {
        ssize_t k = pread(fd, to + *got, n - *got, (off_t)(at + *got));
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return status_fail(E_IO, "cannot read %s: %s", path, strerror(errno));
        if (!k) break;
        *got += (size_t)k;
    }
    return OK;
}

static Status mark_at(uint64_t *mark, int fd, const char *path, uint64_t offset) {
    char bytes[MARKED];
    size_t n = offset < MARKED ? (size_t)offset : MARKED, got;
    *mark = 0;
    if (!n) return OK;
    TRY(read_at(fd, path, bytes, n, offset - n, &got));
    *mark = file_hash(bytes, got, got);
    return OK;
}

static Status is_cut(int *cut, const TailPos *pos, int fd, const char *path, uint64_t size) {
    uint64_t mark;
    *cut = pos->offset > size;
    if (*cut) return OK;
    TRY(mark_at(&mark, fd, path, pos->offset));
    *cut = mark != pos->mark;
    return OK;
}

static void give_line(TailResult *out, const char *path, const char *line, size_t len, TailRow row,
                      void *ctx) {
    JsonDoc *doc = NULL;
    if (len && line[len - 1] == '\r') len--;
    if (!len) return;
    Status s = json_parse(&doc, path, 1, line, len, JSON_STRICT);
    if (s == OK && json_type(json_root(doc)) != JSON_OBJECT)
        s = json_fail(doc, json_root(doc), "a row must be an object");
    if (s == OK)
        row(ctx, doc, line, len);
    else if (!out->bad++)
        snprintf(out->first_bad, sizeof out->first_bad, "%s", status_message());
    json_release(doc);
}

/* All whole lines of a chunk; returns the bytes that they took. */
static size_t give_lines(TailResult *out, const char *path, const char *chunk, size_t n,
                         TailRow row, void *ctx) {
    const char *p = chunk, *end = chunk + n, *newline;
    for (; p < end && (newline = memchr(p, '\n', (size_t)(end - p))); p = newline + 1)
        give_line(out, path, p, (size_t)(newline - p), row, ctx);
    return (size_t)(p - chunk);
}

static Status read_lines(TailResult *out, TailPos *pos, int fd, const char *path, uint64_t size,
                         size_t max_bytes, TailRow row, void *ctx) {
    uint64_t start = pos->offset;
    size_t room = max_bytes < CHUNK ? max_bytes : CHUNK;
    char *chunk = malloc(room);
    Status s = chunk ? OK : status_fail(E_MEMORY, "no memory to read %s", path);
    while (s == OK && pos->offset < size && pos->offset - start < max_bytes) {
        size_t left = (size_t)(size - pos->offset), got, used;
        s = read_at(fd, path, chunk, left < room ? left : room, pos->offset, &got);
        if (s != OK || !got) break;
        used = give_lines(out, path, chunk, got, row, ctx);
        pos->offset += used;
        if (used) continue;
        if (got == left) break; /* its newline is not written yet */
        if (room >= STREAM_LINE_CAP) {
            s = status_fail(E_FORMAT, "%s: a line has over %d MiB", path, STREAM_LINE_CAP >> 20);
            break;
        }
        char *more = realloc(chunk, 2 * room);
        if (!more) s = status_fail(E_MEMORY, "no memory to read %s", path);
        if (more) chunk = more, room *= 2;
    }
    free(chunk);
    return s == OK ? mark_at(&pos->mark, fd, path, pos->offset) : s;
}

Status tail_read(TailResult *out, TailPos *pos, const char *path, size_t max_bytes, TailRow row,
                 void *ctx) {
    struct stat st = {0};
    *out = (TailResult){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT) {
        out->cut = pos->offset > 0;
        return OK;
    }
    if (fd < 0) return status_fail(E_IO, "cannot open %s: %s", path, strerror(errno));
    Status s = OK;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        s = status_fail(E_IO, "%s is no regular file", path);
    if (s == OK) s = is_cut(&out->cut, pos, fd, path, (uint64_t)st.st_size);
    if (s == OK && !out->cut)
        s = read_lines(out, pos, fd, path, (uint64_t)st.st_size, max_bytes, row, ctx);
    close(fd);
    return s;
}

int tail_pos_parse(TailPos *pos, const char *text) {
    size_t digits = strspn(text, "0123456789");
    const char *mark = text + digits + 1;
    if (digits < 1 || digits > 18 || text[digits] != '-') return 0;
    size_t hex = strspn(mark, "0123456789abcdef");
    if (hex < 1 || hex > 16 || mark[hex]) return 0;
    *pos = (TailPos){strtoull(text, NULL, 10), strtoull(mark, NULL, 16)};
    return 1;
}

void tail_pos_put(Text *t, const TailPos *pos) {
    text_addf(t, "%llu-%016llx", (unsigned long long)pos->offset, (unsigned long long)pos->mark);
}
