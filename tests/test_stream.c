/* test_stream.c - lines of plain and compressed files, and everything that can be wrong with them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include <zlib.h>
#include <zstd.h>

#include "core/base/file.h"
#include "core/base/memory.h"
#include "core/base/stream.h"
#include "core/base/text.h"
#include "tests/scratch.h"

static const char *const packings[] = {"lines.txt", "lines.zst", "lines.gz"};

/* All lines, each followed by '|'; the status of the failing call. */
static Status read_lines(const char *path, Text *out) {
    LineReader *r;
    const char *line;
    size_t len;
    int number = 0, expected = 0;
    TRY(lines_open(&r, path));
    Status s;
    while ((s = lines_next(r, &line, &len, &number)) == OK && line) {
        assert_int_equal(number, ++expected);
        assert_int_equal(line[len], '\0');
        text_add_bytes(out, line, len);
        text_add(out, "|");
    }
    if (s != OK) {
        Text first = {0};
        text_add(&first, status_message());
        assert_int_equal(lines_next(r, &line, &len, &number), s); /* the failure stays */
        assert_string_equal(status_message(), first.s);
        assert_null(line);
        text_release(&first);
    }
    lines_close(r);
    return s;
}

static void expect_lines(const char *path, const char *lines) {
    Text t = {0};
    text_add(&t, "");
    Status s = read_lines(path, &t);
    if (s != OK) print_error("%s\n", status_message());
    assert_int_equal(s, OK);
    assert_string_equal(t.s, lines);
    text_release(&t);
}

/* Fails with this reason at this line, after these lines were delivered. */
static void expect_refusal(const char *path, const char *lines, int line, const char *reason) {
    Text t = {0}, message = {0};
    text_add(&t, "");
    text_addf(&message, "%s:%d: %s", path, line, reason);
    assert_int_equal(read_lines(path, &t), E_FORMAT);
    assert_string_equal(t.s, lines);
    if (strncmp(status_message(), message.s, message.len) != 0)
        assert_string_equal(status_message(), message.s);
    text_release(&t);
    text_release(&message);
}

/* --- packing by hand, so that it can be damaged --- */

typedef struct {
    char data[4096];
    size_t n;
} Bytes;

static void append_zstd(Bytes *b, const char *text) {
    ZSTD_CCtx *c = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(c, ZSTD_c_checksumFlag, 1);
    size_t n = ZSTD_compress2(c, b->data + b->n, sizeof b->data - b->n, text, strlen(text));
    assert_false(ZSTD_isError(n));
    b->n += n;
    ZSTD_freeCCtx(c);
}

static void append_gzip(Bytes *b, const char *text) {
    z_stream z = {0};
    deflateInit2(&z, 6, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY);
    z.next_in = (Bytef *)(uintptr_t)text;
    z.avail_in = (uInt)strlen(text);
    z.next_out = (Bytef *)b->data + b->n;
    z.avail_out = (uInt)(sizeof b->data - b->n);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    b->n += z.total_out;
    deflateEnd(&z);
}

static void append_packed(Bytes *b, int gzip, const char *text) {
    if (gzip)
        append_gzip(b, text);
    else
        append_zstd(b, text);
}

static const char *reasons[2][3] = {
    {"the zstd data is truncated", "the zstd data is damaged", "bytes that are not zstd follow"},
    {"the gzip data is truncated", "the gzip data is damaged", "bytes that are not gzip follow"},
};

/* --- plain --- */

static void line_ends(void **state) {
    (void)state;
    static const struct {
        const char *text, *lines;
    } cases[] = {
        {"", ""},
        {"a", "a|"},
        {"a\n", "a|"},
        {"a\nb", "a|b|"},
        {"\n", "|"},
        {"\n\na\n", "||a|"},
        {"a\r\nb\r\n", "a|b|"},
        {"a\r\nb\r", "a|b|"},
        {"a\rb\n", "a\rb|"},
        {"\xEF\xBB\xBF{}\n\xEF\xBB\xBFx\n", "{}|\xEF\xBB\xBFx|"}, /* a BOM only at the start */
        {"\xEF\xBB\xBF", "|"},
        {"\xEF\xBB\xBF\r\n", "|"},
        {"(\xB5/", "(\xB5/|"}, /* the beginning of a zstd magic number */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_lines(scratch_write("plain", cases[i].text, strlen(cases[i].text)), cases[i].lines);
}

static void missing_files(void **state) {
    (void)state;
    LineReader *r;
    assert_int_equal(lines_open(&r, scratch("absent")), E_IO);
    assert_null(r);
    assert_int_equal(lines_open(&r, scratch("")), E_IO);
    assert_non_null(strstr(status_message(), "folder"));
    lines_close(NULL);
}

static void lines_across_buffers(void **state) {
    (void)state;
    for (int p = 0; p < 3; p++) {
        LineWriter *w;
        LineReader *r;
        const char *path = scratch(packings[p]), *line;
        size_t len;
        int number = 0;
        char *text = malloc(700000);
        memset(text, 'x', 700000);
        assert_int_equal(line_writer_open(&w, path), OK);
        for (size_t n = 0; n < 700000; n += 1 + n / 2)
            assert_int_equal(line_writer_add(w, text, n), OK);
        assert_false(file_exists(path)); /* not before the commit */
        assert_int_equal(line_writer_commit(w), OK);
        assert_int_equal(lines_open(&r, path), OK);
        for (size_t n = 0; n < 700000; n += 1 + n / 2) {
            assert_int_equal(lines_next(r, &line, &len, &number), OK);
            assert_non_null(line);
            assert_int_equal(len, n);
            assert_memory_equal(line, text, n);
        }
        assert_int_equal(lines_next(r, &line, &len, &number), OK);
        assert_null(line);
        lines_close(r);
        free(text);
        unlink(path);
    }
}

static void written_files_are_compressed_by_name(void **state) {
    (void)state;
    static const char *const magic[] = {"a\n", "\x28\xB5\x2F\xFD", "\x1F\x8B"};
    for (int p = 0; p < 3; p++) {
        LineWriter *w;
        FileMap m;
        const char *path = scratch(packings[p]);
        assert_int_equal(line_writer_open(&w, path), OK);
        assert_int_equal(line_writer_add(w, "a", 1), OK);
        assert_int_equal(line_writer_add(w, "", 0), OK);
        assert_int_equal(line_writer_commit(w), OK);
        assert_int_equal(file_map(&m, path), OK);
        assert_memory_equal(m.data, magic[p], strlen(magic[p]));
        file_unmap(&m);
        expect_lines(path, "a||");

        assert_int_equal(line_writer_open(&w, path), OK);
        line_writer_abort(w);
        expect_lines(path, "a||"); /* the old file stays */
        assert_int_equal(unlink(path), 0);
        assert_int_equal(line_writer_open(&w, path), OK);
        assert_int_equal(line_writer_commit(w), OK);
        expect_lines(path, ""); /* no line at all */
        unlink(path);
    }
    line_writer_abort(NULL);
    LineWriter *w;
    assert_int_equal(line_writer_open(&w, scratch("no/such/folder.zst")), E_IO);
}

/* --- the cap --- */

static const char *write_long_line(size_t n, const char *end) {
    static char buffer[1 << 16];
    const char *path = scratch("long");
    FILE *fp = fopen(path, "wb");
    memset(buffer, 'y', sizeof buffer);
    fputs("first\n", fp);
    for (size_t left = n; left > 0;) {
        size_t k = left < sizeof buffer ? left : sizeof buffer;
        fwrite(buffer, 1, k, fp);
        left -= k;
    }
    fputs(end, fp);
    fclose(fp);
    return path;
}

static Status read_second_line(const char *path, size_t *len) {
    LineReader *r;
    const char *line;
    int number;
    assert_int_equal(lines_open(&r, path), OK);
    assert_int_equal(lines_next(r, &line, len, &number), OK);
    Status s = lines_next(r, &line, len, &number);
    lines_close(r);
    return s;
}

static void the_line_cap(void **state) {
    (void)state;
    size_t len;
    static const char *const ends[] = {"\n", "\r\n", ""};
    for (int e = 0; e < 3; e++) {
        assert_int_equal(read_second_line(write_long_line(STREAM_LINE_CAP, ends[e]), &len), OK);
        assert_int_equal(len, STREAM_LINE_CAP);
        const char *path = write_long_line(STREAM_LINE_CAP + 1, ends[e]);
        assert_int_equal(read_second_line(path, &len), E_FORMAT);
        assert_non_null(strstr(status_message(), "long:2: the line is longer than the 16 MiB"));
    }
    unlink(scratch("long"));
}

/* --- damage --- */

static void several_frames_are_one_file(void **state) {
    (void)state;
    for (int gzip = 0; gzip < 2; gzip++) {
        Bytes b = {.n = 0};
        append_packed(&b, gzip, "one\ntw");
        append_packed(&b, gzip, "");
        append_packed(&b, gzip, "o\nthree\n");
        expect_lines(scratch_write("frames", b.data, b.n), "one|two|three|");
    }
    Bytes skippable = {"\x50\x2A\x4D\x18\x03\0\0\0abc", 11};
    append_zstd(&skippable, "x\n");
    expect_lines(scratch_write("frames", skippable.data, skippable.n), "x|");
}

static void every_truncation(void **state) {
    (void)state;
    for (int gzip = 0; gzip < 2; gzip++) {
        Bytes b = {.n = 0};
        append_packed(&b, gzip, "alpha\nbeta\ngamma\n");
        for (size_t n = 4; n < b.n; n++) {
            Text t = {0};
            const char *path = scratch_write("cut", b.data, n);
            assert_int_equal(read_lines(path, &t), E_FORMAT);
            assert_non_null(strstr(status_message(), reasons[gzip][0]));
            text_release(&t);
        }
    }
}

static void every_flipped_bit(void **state) {
    (void)state;
    for (int gzip = 0; gzip < 2; gzip++) {
        Bytes b = {.n = 0};
        append_packed(&b, gzip, "alpha\nbeta\ngamma alpha beta\n");
        for (size_t bit = 4 * 8; bit < b.n * 8; bit++) {
            if (gzip && bit < 10 * 8) continue; /* time stamp, system and flags carry no data */
            Text t = {0};
            b.data[bit / 8] ^= (char)(1 << bit % 8);
            const char *path = scratch_write("flip", b.data, b.n);
            Status s = read_lines(path, &t);
            /* a flag that asks for less or more than is needed may leave the same text */
            if (s == OK) assert_string_equal(t.s, "alpha|beta|gamma alpha beta|");
            b.data[bit / 8] ^= (char)(1 << bit % 8);
            text_release(&t);
        }
    }
}

static void damaged_checksums(void **state) {
    (void)state;
    for (int gzip = 0; gzip < 2; gzip++) {
        Bytes b = {.n = 0};
        append_packed(&b, gzip, "alpha\nbeta\n");
        b.data[b.n - (gzip ? 8 : 1)] ^= 1;
        Text t = {0};
        assert_int_equal(read_lines(scratch_write("sum", b.data, b.n), &t), E_FORMAT);
        assert_non_null(strstr(status_message(), reasons[gzip][1]));
        text_release(&t);
    }
}

static void trailing_bytes(void **state) {
    (void)state;
    for (int gzip = 0; gzip < 2; gzip++) {
        static const char *const tails[] = {"x", "{\"a\":1}\n", "\n"};
        for (int i = 0; i < 3; i++) {
            Bytes b = {.n = 0};
            append_packed(&b, gzip, "alpha\nbeta\n");
            memcpy(b.data + b.n, tails[i], strlen(tails[i]));
            const char *path = scratch_write("tail", b.data, b.n + strlen(tails[i]));
            expect_refusal(path, "alpha|beta|", 3, reasons[gzip][2]);
        }
    }
}

static void a_window_beyond_the_limit_is_refused(void **state) {
    (void)state;
    ZSTD_CCtx *c = ZSTD_createCCtx();
    char out[1024];
    ZSTD_outBuffer o = {out, sizeof out, 0};
    ZSTD_inBuffer in = {"a\nb\n", 4, 0};
    ZSTD_CCtx_setParameter(c, ZSTD_c_windowLog, 30);
    ZSTD_compressStream2(c, &o, &in, ZSTD_e_flush);
    assert_int_equal(ZSTD_compressStream2(c, &o, &in, ZSTD_e_end), 0);
    ZSTD_freeCCtx(c);
    expect_refusal(scratch_write("window", out, o.pos), "", 1, "the zstd data is damaged");
}

/* --- bombs --- */

/* A sanitizer's own memory would be measured. */
#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) ||                               \
    __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
static const int measured = 0;
#else
static const int measured = 1;
#endif
enum { BOUND_KIB = 256 * 1024 };

static const char *write_bomb(const char *name, int mib, size_t line) {
    LineWriter *w;
    const char *path = scratch(name);
    char *text = calloc(1, line);
    assert_int_equal(line_writer_open(&w, path), OK);
    for (size_t done = 0; done < (size_t)mib << 20; done += line)
        assert_int_equal(line_writer_add(w, text, line), OK);
    assert_int_equal(line_writer_commit(w), OK);
    free(text);
    return path;
}

/* In a child: 0 when all was read, 1 when refused, 2 when memory was not bounded. */
static int survive(const char *path) {
    int status;
    pid_t child = fork();
    if (child == 0) {
        LineReader *r;
        const char *line = "";
        size_t len;
        int number, refused = lines_open(&r, path) != OK;
        while (!refused && line) refused = lines_next(r, &line, &len, &number) != OK;
        struct rusage used;
        getrusage(RUSAGE_SELF, &used);
        _exit(measured && used.ru_maxrss > BOUND_KIB ? 2 : refused);
    }
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void bombs_stream_in_bounded_memory(void **state) {
    (void)state;
    const char *path = write_bomb("bomb.zst", 1024, 1 << 16);
    assert_int_equal(survive(path), 0);
    unlink(path);
    path = write_bomb("bomb.gz", 128, 1 << 16);
    assert_int_equal(survive(path), 0);
    unlink(path);
}

static void a_bomb_of_one_line_is_refused(void **state) {
    (void)state;
    const char *path = write_bomb("line.zst", 256, 256 << 20);
    assert_int_equal(survive(path), 1);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(line_ends),
        cmocka_unit_test(missing_files),
        cmocka_unit_test(lines_across_buffers),
        cmocka_unit_test(written_files_are_compressed_by_name),
        cmocka_unit_test(the_line_cap),
        cmocka_unit_test(several_frames_are_one_file),
        cmocka_unit_test(every_truncation),
        cmocka_unit_test(every_flipped_bit),
        cmocka_unit_test(damaged_checksums),
        cmocka_unit_test(trailing_bytes),
        cmocka_unit_test(a_window_beyond_the_limit_is_refused),
        cmocka_unit_test(bombs_stream_in_bounded_memory),
        cmocka_unit_test(a_bomb_of_one_line_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
