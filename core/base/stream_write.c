/* stream_write.c - writing lines, compressed as the name's ending asks. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "core/base/file.h"
#include "core/base/stream.h"

enum { OUTPUT = 128 << 10, ZSTD_LEVEL = 6, GZIP_LEVEL = 6 };

struct LineWriter {
    FileWriter file;
    int to_stdout;
    ZSTD_CStream *zstd;
    z_stream gz;
    int gzip;
    uint8_t out[OUTPUT];
};

static Status emit(LineWriter *w, const void *data, size_t n) {
    if (!w->to_stdout) return file_writer_write(&w->file, data, n);
    if (n && fwrite(data, 1, n, stdout) != n)
        return status_fail(E_IO, "cannot write to standard output: %s", strerror(errno));
    return OK;
}

static Status pack_zstd(LineWriter *w, const void *data, size_t n, ZSTD_EndDirective end) {
    ZSTD_inBuffer in = {data, n, 0};
    size_t left;
    do {
        ZSTD_outBuffer out = {w->out, OUTPUT, 0};
        left = ZSTD_compressStream2(w->zstd, &out, &in, end);
        if (ZSTD_isError(left))
            return status_fail(E_MEMORY, "cannot compress %s: %s", w->file.path,
                               ZSTD_getErrorName(left));
        TRY(emit(w, w->out, out.pos));
    } while (end == ZSTD_e_end ? left > 0 : in.pos < in.size);
    return OK;
}

static Status pack_gzip_part(LineWriter *w, const void *data, size_t n, int flush) {
    w->gz.next_in = (Bytef *)(uintptr_t)data;
    w->gz.avail_in = (uInt)n;
    do {
        w->gz.next_out = w->out;
        w->gz.avail_out = OUTPUT;
        deflate(&w->gz, flush);
        TRY(emit(w, w->out, OUTPUT - w->gz.avail_out));
    } while (w->gz.avail_out == 0);
    return OK;
}

static Status pack_gzip(LineWriter *w, const char *data, size_t n) {
    for (size_t part; n > 0; data += part, n -= part) { /* zlib counts in 32 bits */
        part = n > 1u << 30 ? 1u << 30 : n;
        TRY(pack_gzip_part(w, data, part, Z_NO_FLUSH));
    }
    return OK;
}

static Status put(LineWriter *w, const char *data, size_t n) {
    if (w->zstd) return pack_zstd(w, data, n, ZSTD_e_continue);
    if (w->gzip) return pack_gzip(w, data, n);
    return emit(w, data, n);
}

static int ends_with(const char *s, const char *end) {
    size_t n = strlen(s), k = strlen(end);
    return n > k && !strcmp(s + n - k, end);
}

static Status start_encoder(LineWriter *w, const char *path) {
    if (ends_with(path, ".zst")) {
        w->zstd = ZSTD_createCStream();
        if (!w->zstd) return status_fail(E_MEMORY, "%s: no memory to compress", path);
        ZSTD_CCtx_setParameter(w->zstd, ZSTD_c_compressionLevel, ZSTD_LEVEL);
        ZSTD_CCtx_setParameter(w->zstd, ZSTD_c_checksumFlag, 1);
    } else if (ends_with(path, ".gz")) {
        if (deflateInit2(&w->gz, GZIP_LEVEL, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
            return status_fail(E_MEMORY, "%s: no memory to compress", path);
        w->gzip = 1;
    }
    return OK;
}

static void release(LineWriter *w) {
    ZSTD_freeCStream(w->zstd);
    if (w->gzip) deflateEnd(&w->gz);
    free(w);
}

Status line_writer_open(LineWriter **out, const char *path) {
    *out = NULL;
    LineWriter *w = calloc(1, sizeof *w);
    if (!w) return status_fail(E_MEMORY, "%s: no memory to write lines", path);
    w->to_stdout = !strcmp(path, "-");
    Status s = w->to_stdout ? OK : start_encoder(w, path);
    if (s == OK && !w->to_stdout) s = file_writer_open(&w->file, path);
    if (s == OK)
        *out = w;
    else
        release(w);
    return s;
}

Status line_writer_add(LineWriter *w, const char *line, size_t len) {
    TRY(put(w, line, len));
    return put(w, "\n", 1);
}

static Status finish(LineWriter *w) {
    if (w->zstd) TRY(pack_zstd(w, NULL, 0, ZSTD_e_end));
    if (w->gzip) TRY(pack_gzip_part(w, NULL, 0, Z_FINISH));
    if (!w->to_stdout) return file_writer_commit(&w->file);
    if (fflush(stdout) != 0)
        return status_fail(E_IO, "cannot write to standard output: %s", strerror(errno));
    return OK;
}

Status line_writer_commit(LineWriter *w) {
    Status s = finish(w);
    line_writer_abort(w); /* nothing is left to remove when it was committed */
    return s;
}

void line_writer_abort(LineWriter *w) {
    if (!w) return;
    if (!w->to_stdout) file_writer_abort(&w->file);
    release(w);
}
