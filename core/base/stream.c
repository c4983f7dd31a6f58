/* stream.c - reading lines: bytes from the file, through a decoder, into one growing line buffer.
 */
#include "core/base/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

enum {
    INPUT = 128 << 10,
    FIRST_BUFFER = 256 << 10,
    MAX_BUFFER = STREAM_LINE_CAP + (256 << 10),
    WINDOW_LOG = 27, /* the largest that zstd itself writes without being told to: 128 MiB */
};

typedef enum { PLAIN, ZSTD, GZIP } Packing;

struct LineReader {
    int fd, eof, number;
    Packing packing;
    Status failed; /* sticky, with its sentence */
    char *failure;
    char path[1024];

    uint8_t *in;
    size_t in_pos, in_len;
    ZSTD_DStream *zstd;
    z_stream gz;
    int in_frame; /* a compressed frame is unfinished */

    char *buf; /* decoded: [start, end) is not yet handed out, [start, scanned) has no newline */
    size_t start, scanned, end, cap;
};

static Status bad(LineReader *r, Status s, const char *reason) {
    return status_fail(s, "%s:%d: %s", r->path, r->number + 1, reason);
}

/* --- bytes of the file --- */

static Status refill(LineReader *r) {
    if (r->in_pos < r->in_len || r->eof) return OK;
    ssize_t n;
    do n = read(r->fd, r->in, INPUT);
    while (n < 0 && errno == EINTR);
    if (n < 0) return status_fail(E_IO, "cannot read %s: %s", r->path, strerror(errno));
    r->in_pos = 0;
    r->in_len = (size_t)n;
    r->eof = n == 0;
    return OK;
}

/* A pipe may deliver the magic number in pieces. */
static Status fill_head(LineReader *r) {
    while (r->in_len < 4) {
        ssize_t n = read(r->fd, r->in + r->in_len, INPUT - r->in_len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return status_fail(E_IO, "cannot read %s: %s", r->path, strerror(errno));
        if (n == 0) break;
        r->in_len += (size_t)n;
    }
    return OK;
}

static int is_zstd(const uint8_t *p, size_t n) {
    if (n < 4) return 0;
    uint32_t magic = p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    return magic == ZSTD_MAGICNUMBER ||
           (magic & ZSTD_MAGIC_SKIPPABLE_MASK) == ZSTD_MAGIC_SKIPPABLE_START;
}

static int is_gzip(const uint8_t *p, size_t n) {
    return n >= 2 && p[0] == 0x1F && p[1] == 0x8B;
}

/* --- decoders: append to buf up to cap; *produced = 0 only at the end of the data --- */

static Status decode_plain(LineReader *r, size_t room, size_t *produced) {
    TRY(refill(r));
    size_t n = r->in_len - r->in_pos;
    if (n > room) n = room;
    memcpy(r->buf + r->end, r->in + r->in_pos, n);
    r->in_pos += n;
    *produced = n;
    return OK;
}

static Status zstd_failed(LineReader *r, size_t code) {
    char reason[200];
    snprintf(reason, sizeof reason, "the zstd data is damaged: %s", ZSTD_getErrorName(code));
    return bad(r, E_FORMAT, reason);
}

/* Where a frame may begin: zstd's own magic number or a skippable frame's, by the first byte. */
static int may_begin_frame(uint8_t byte) {
    return byte == 0x28 || (byte & 0xF0) == 0x50;
}

static Status decode_zstd(LineReader *r, size_t room, size_t *produced) {
    while (*produced == 0) {
        TRY(refill(r));
        if (r->eof && !r->in_frame) return OK;
        if (!r->in_frame && !may_begin_frame(r->in[r->in_pos]))
            return bad(r, E_FORMAT, "bytes that are not zstd follow after the compressed data");
        ZSTD_inBuffer in = {r->in, r->in_len, r->in_pos};
        ZSTD_outBuffer out = {r->buf + r->end, room, 0};
        size_t left = ZSTD_decompressStream(r->zstd, &out, &in);
        if (ZSTD_isError(left)) return zstd_failed(r, left);
        if (r->eof && out.pos == 0 && left != 0)
            return bad(r, E_FORMAT, "the zstd data is truncated");
        r->in_pos = in.pos;
        r->in_frame = left != 0;
        *produced = out.pos;
    }
    return OK;
}

static Status next_member(LineReader *r) {
    TRY(refill(r));
    if (r->eof) return OK;
    if (r->in[r->in_pos] != 0x1F)
        return bad(r, E_FORMAT, "bytes that are not gzip follow after the compressed data");
    inflateReset(&r->gz);
    r->in_frame = 1;
    return OK;
}

static Status decode_gzip(LineReader *r, size_t room, size_t *produced) {
    while (*produced == 0) {
        if (!r->in_frame) TRY(next_member(r));
        if (!r->in_frame) return OK;
        TRY(refill(r));
        r->gz.next_in = r->in + r->in_pos;
        r->gz.avail_in = (uInt)(r->in_len - r->in_pos);
        r->gz.next_out = (Bytef *)r->buf + r->end;
        r->gz.avail_out = (uInt)room;
        int code = inflate(&r->gz, Z_NO_FLUSH);
        r->in_pos = r->in_len - r->gz.avail_in;
        *produced = room - r->gz.avail_out;
        if (code == Z_STREAM_END)
            r->in_frame = 0;
        else if (r->eof && *produced == 0)
            return bad(r, E_FORMAT, "the gzip data is truncated");
        else if (code == Z_MEM_ERROR)
            return bad(r, E_MEMORY, "no memory to decompress gzip data");
        else if (code != Z_OK && code != Z_BUF_ERROR)
            return bad(r, E_FORMAT, "the gzip data is damaged");
    }
    return OK;
}

static Status decode(LineReader *r, size_t *produced) {
    size_t room = r->cap - r->end - 1; /* one byte stays for the NUL behind the last line */
    *produced = 0;
    Status s = r->packing == ZSTD   ? decode_zstd(r, room, produced)
               : r->packing == GZIP ? decode_gzip(r, room, produced)
                                    : decode_plain(r, room, produced);
    r->end += *produced;
    return s;
}

/* --- lines --- */

static Status make_room(LineReader *r) {
    if (r->start > 0) {
        memmove(r->buf, r->buf + r->start, r->end - r->start);
        r->scanned -= r->start;
        r->end -= r->start;
        r->start = 0;
    }
    if (r->cap - r->end > r->cap / 2) return OK;
    size_t cap = r->cap * 2 > MAX_BUFFER ? MAX_BUFFER : r->cap * 2;
    if (cap == r->cap) return OK;
    char *buf = realloc(r->buf, cap);
    if (!buf) return bad(r, E_MEMORY, "no memory for a line this long");
    r->buf = buf;
    r->cap = cap;
    return OK;
}

static Status line_too_long(LineReader *r) {
    return bad(r, E_FORMAT, "the line is longer than the 16 MiB that are accepted");
}

/* The line is [start, stop); `next` is where the following one begins. */
static Status hand_out(LineReader *r, size_t stop, size_t next, const char **line, size_t *len) {
    size_t from = r->start;
    if (r->number == 0 && stop - from >= 3 && !memcmp(r->buf + from, "\xEF\xBB\xBF", 3)) from += 3;
    if (stop > from && r->buf[stop - 1] == '\r') stop--;
    if (stop - from > STREAM_LINE_CAP) return line_too_long(r);
    r->buf[stop] = '\0';
    *line = r->buf + from;
    *len = stop - from;
    r->start = r->scanned = next;
    r->number++;
    return OK;
}

static Status next_line(LineReader *r, const char **line, size_t *len) {
    for (;;) {
        char *newline = memchr(r->buf + r->scanned, '\n', r->end - r->scanned);
        if (newline) {
            size_t stop = (size_t)(newline - r->buf);
            return hand_out(r, stop, stop + 1, line, len);
        }
        r->scanned = r->end;
        if (r->end - r->start > STREAM_LINE_CAP + 4) return line_too_long(r); /* 4: BOM and CR */
        TRY(make_room(r));
        size_t produced;
        TRY(decode(r, &produced));
        if (produced > 0) continue;
        if (r->start == r->end) return OK;
        return hand_out(r, r->end, r->end, line, len);
    }
}

Status lines_next(LineReader *r, const char **line, size_t *len, int *number) {
    *line = NULL;
    *len = 0;
    if (r->failed != OK) return status_fail(r->failed, "%s", r->failure ? r->failure : r->path);
    r->failed = next_line(r, line, len);
    if (r->failed != OK) {
        *line = NULL;
        r->failure = strdup(status_message());
    }
    *number = r->number;
    return r->failed;
}

/* --- opening --- */

static Status start_decoder(LineReader *r) {
    TRY(fill_head(r));
    if (r->in_len >= 4 && !memcmp(r->in, "PAR1", 4))
        return status_fail(
            E_FORMAT,
            "%s is Parquet, not JSON lines; to convert it: python3 -c \"from datasets "
            "import Dataset; Dataset.from_parquet('%s').to_json('%s.jsonl')\"",
            r->path, r->path, r->path);
    if (is_zstd(r->in, r->in_len)) {
        r->packing = ZSTD;
        r->zstd = ZSTD_createDStream();
        if (!r->zstd ||
            ZSTD_isError(ZSTD_DCtx_setParameter(r->zstd, ZSTD_d_windowLogMax, WINDOW_LOG)))
            return bad(r, E_MEMORY, "no memory to decompress zstd data");
    } else if (is_gzip(r->in, r->in_len)) {
        r->packing = GZIP;
        if (inflateInit2(&r->gz, 15 + 16) != Z_OK) { /* + 16: gzip framing only */
            r->packing = PLAIN;
            return bad(r, E_MEMORY, "no memory to decompress gzip data");
        }
        r->in_frame = 1;
    }
    return OK;
}

static Status open_file(LineReader *r, const char *path) {
    if ((size_t)snprintf(r->path, sizeof r->path, "%s", path) >= sizeof r->path)
        return status_fail(E_USAGE, "the path is too long: %.200s...", path);
    r->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (r->fd < 0) return status_fail(E_IO, "cannot open %s: %s", path, strerror(errno));
    struct stat st;
    if (fstat(r->fd, &st) == 0 && S_ISDIR(st.st_mode))
        return status_fail(E_IO, "cannot read %s: it is a folder, not a file", path);
    return start_decoder(r);
}

Status lines_open(LineReader **out, const char *path) {
    *out = NULL;
    LineReader *r = calloc(1, sizeof *r);
    if (r) {
        r->fd = -1;
        r->cap = FIRST_BUFFER;
        r->buf = malloc(r->cap);
        r->in = malloc(INPUT);
    }
    Status s = !r || !r->buf || !r->in ? status_fail(E_MEMORY, "%s: no memory to read lines", path)
                                       : open_file(r, path);
    if (s == OK)
        *out = r;
    else
        lines_close(r);
    return s;
}

void lines_close(LineReader *r) {
    if (!r) return;
    if (r->packing == GZIP) inflateEnd(&r->gz);
    ZSTD_freeDStream(r->zstd);
    if (r->fd >= 0) close(r->fd);
    free(r->failure);
    free(r->buf);
    free(r->in);
    free(r);
}
