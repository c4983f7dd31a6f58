/* file.c - whole files, atomic replacement, folders. */
#include "core/base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

static Status io_fail(const char *verb, const char *path) {
    return status_fail(E_IO, "cannot %s %s: %s", verb, path, strerror(errno));
}

static Status too_long(const char *path) {
    return status_fail(E_USAGE, "the path is too long: %.200s...", path);
}

/* --- reading --- */

static Status open_regular(int *fd, size_t *size, const char *path) {
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0) return io_fail("open", path);
    struct stat st;
    Status s = OK;
    if (fstat(*fd, &st) != 0)
        s = io_fail("examine", path);
    else if (S_ISDIR(st.st_mode))
        s = status_fail(E_IO, "cannot read %s: it is a folder, not a file", path);
    else if (!S_ISREG(st.st_mode))
        s = status_fail(E_IO, "cannot read %s: it is not a regular file", path);
    if (s == OK) *size = (size_t)st.st_size;
    if (s != OK) close(*fd);
    return s;
}

static Status read_all(int fd, char *data, size_t size, const char *path) {
    for (size_t done = 0; done < size;) {
        ssize_t n = read(fd, data + done, size - done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return io_fail("read", path);
        if (n == 0) return status_fail(E_IO, "cannot read %s: it shrank while being read", path);
        done += (size_t)n;
    }
    return OK;
}

Status file_read(Arena *a, char **data, size_t *len, const char *path, size_t max_bytes) {
    int fd;
    size_t size = 0;
    TRY(open_regular(&fd, &size, path));
    Status s = OK;
    if (size > max_bytes) {
        s = status_fail(E_FORMAT, "%s has %zu bytes, more than the %zu that are accepted", path,
                        size, max_bytes);
    } else {
        *data = arena_alloc(a, size + 1);
        *len = size;
        s = read_all(fd, *data, size, path);
    }
    close(fd);
    return s;
}

Status file_map(FileMap *m, const char *path) {
    int fd;
    *m = (FileMap){(const uint8_t *)"", 0};
    size_t size = 0;
    TRY(open_regular(&fd, &size, path));
    Status s = OK;
    if (size > 0) {
        void *p = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            s = io_fail("map", path);
        else
            *m = (FileMap){p, size};
    }
    close(fd);
    return s;
}

void file_unmap(FileMap *m) {
    if (m->len) munmap((void *)(uintptr_t)m->data, m->len);
    *m = (FileMap){NULL, 0};
}

void file_forget(const void *p, size_t n) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)p, first = at / page * page;
    if (n) madvise((void *)first, at - first + n, MADV_DONTNEED);
}

/* --- writing --- */

static Status fsync_parent(const char *path) {
    char dir[1040];
    if ((size_t)snprintf(dir, sizeof dir, "%s", path) >= sizeof dir) return too_long(path);
    char *slash = strrchr(dir, '/');
    if (!slash) return file_fsync_dir(".");
    slash[slash == dir] = '\0';
    return file_fsync_dir(dir);
}

Status file_fsync_dir(const char *dir) {
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return io_fail("open the folder", dir);
    /* some file systems cannot sync a folder and say EINVAL: nothing more can be done there */
    Status s = fsync(fd) != 0 && errno != EINVAL ? io_fail("sync the folder", dir) : OK;
    close(fd);
    return s;
}

/* A device or a pipe is written to as it is: a rename would put a file in its place. */
static int is_special(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode);
}

static const char *written(const FileWriter *w) {
    return w->tmp[0] ? w->tmp : w->path;
}

Status file_writer_open(FileWriter *w, const char *path) {
    *w = (FileWriter){0};
    if ((size_t)snprintf(w->path, sizeof w->path, "%s", path) >= sizeof w->path)
        return too_long(path);
    if (!is_special(path)) snprintf(w->tmp, sizeof w->tmp, "%s.tmp", path);
    w->fp = fopen(written(w), "wbe");
    return w->fp ? OK : io_fail("create", written(w));
}

Status file_writer_write(FileWriter *w, const void *data, size_t len) {
    if (len && fwrite(data, 1, len, w->fp) != len) return io_fail("write", written(w));
    w->bytes += len;
    return OK;
}

Status file_writer_commit(FileWriter *w) {
    Status s = OK;
    if (fflush(w->fp) != 0)
        s = io_fail("write", written(w));
    else if (fsync(fileno(w->fp)) != 0 && errno != EINVAL)
        s = io_fail("sync", written(w));
    if (fclose(w->fp) != 0 && s == OK) s = io_fail("close", written(w));
    w->fp = NULL;
    if (!w->tmp[0]) return s;
    if (s == OK && rename(w->tmp, w->path) != 0) s = io_fail("rename to", w->path);
    if (s != OK) {
        unlink(w->tmp);
        return s;
    }
    return fsync_parent(w->path);
}

void file_writer_abort(FileWriter *w) {
    if (!w->fp) return;
    fclose(w->fp);
    w->fp = NULL;
    if (w->tmp[0]) unlink(w->tmp);
}

Status file_write_atomic(const char *path, const void *data, size_t len) {
    FileWriter w;
    TRY(file_writer_open(&w, path));
    Status s = file_writer_write(&w, data, len);
    if (s != OK) {
        file_writer_abort(&w);
        return s;
    }
    return file_writer_commit(&w);
}

Status file_copy(const char *to, const char *from) {
    FileMap m;
    TRY(file_map(&m, from));
    Status s = file_write_atomic(to, m.data, m.len);
    file_unmap(&m);
    return s;
}

/* --- folders --- */

static Status make_one(const char *dir) {
    if (mkdir(dir, 0777) == 0) return OK;
    if (errno == EEXIST && file_is_dir(dir)) return OK;
    return io_fail("make the folder", dir);
}

Status file_mkdirs(const char *dir) {
    char part[1040];
    if ((size_t)snprintf(part, sizeof part, "%s", dir) >= sizeof part) return too_long(dir);
    for (char *p = part + 1; part[0] && *p; p++) {
        if (*p != '/') continue;
        *p = '\0';
        if (!file_is_dir(part)) TRY(make_one(part));
        *p = '/';
    }
    return make_one(part);
}

static Status remove_entries(const char *dir, DIR *d) {
    for (struct dirent *e; (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        char path[4096];
        if ((size_t)snprintf(path, sizeof path, "%s/%s", dir, e->d_name) >= sizeof path)
            return too_long(dir);
        TRY(file_remove_tree(path));
    }
    return OK;
}

Status file_remove_tree(const char *path) {
    struct stat st;
    if (lstat(path, &st) != 0) return errno == ENOENT ? OK : io_fail("examine", path);
    if (!S_ISDIR(st.st_mode))
        return unlink(path) == 0 || errno == ENOENT ? OK : io_fail("remove", path);
    DIR *d = opendir(path);
    if (!d) return io_fail("open the folder", path);
    Status s = remove_entries(path, d);
    closedir(d);
    TRY(s);
    return rmdir(path) == 0 || errno == ENOENT ? OK : io_fail("remove the folder", path);
}

int file_exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

int file_is_dir(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

uint64_t file_hash(const void *data, size_t len, uint64_t seed) {
    return XXH3_64bits_withSeed(data, len, seed);
}
