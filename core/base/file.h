/* file.h - whole files: read with a bound, written so that a crash leaves the old one or the new
 * one. */
#ifndef FILE_H
#define FILE_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include "core/base/status.h"
#include "core/base/memory.h"

/* Reads the whole file into the arena, NUL behind it; E_FORMAT beyond max_bytes. */
Status file_read(Arena *a, char **data, size_t *len, const char *path, size_t max_bytes);

/* path.tmp, write, fsync, rename over path, fsync of the folder. */
Status file_write_atomic(const char *path, const void *data, size_t len);

/* A file written in pieces under the same protocol: appears under its name at commit. A device or a
 * pipe is written to directly. */
typedef struct {
    FILE *fp;
    char path[1024], tmp[1040];
    uint64_t bytes;
} FileWriter;
Status file_writer_open(FileWriter *w, const char *path);
Status file_writer_write(FileWriter *w, const void *data, size_t len);
Status file_writer_commit(FileWriter *w); /* flush, fsync, rename, fsync folder */
void file_writer_abort(FileWriter *w);    /* removes the temporary; safe after any failure */

Status file_fsync_dir(const char *dir);
Status file_mkdirs(const char *dir);      /* mkdir -p */
Status file_remove_tree(const char *dir); /* rm -r, no error when absent */
Status file_copy(const char *to, const char *from);
int file_exists(const char *path);
int file_is_dir(const char *path);

/* Maps a file read-only. */
typedef struct {
    const uint8_t *data;
    size_t len;
} FileMap;
Status file_map(FileMap *m, const char *path);
void file_unmap(FileMap *m);
/* n bytes of a mapped file have been used and need not stay in memory; they can be read again. A
 * reader of models calls it as it goes, lest the file lie in memory beside the copy of it. */
void file_forget(const void *p, size_t n);

uint64_t file_hash(const void *data, size_t len, uint64_t seed); /* XXH3-64 */

#endif
