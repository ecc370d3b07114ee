/* Stands in for the calls with which a writer changes the disk, where strace may not: counts those that concern a
 * folder, and at the n-th of one kind ends the process or fails.
 *
 * SHIM_FOLDER  the folder; calls count on it, on what is in it, and on the folder that it is in
 * SHIM_CALL    the kind of call, by its name in CALLS
 * SHIM_WHEN    which of them, from 1
 * SHIM_ERROR   the error, by its name; SIGKILL instead if it is not given
 * SHIM_COUNTS  a file for the number of calls of every kind, written when the process exits
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPENAT, WRITE, WRITEV, FSYNC, FDATASYNC, RENAME, MKDIR, UNLINK, RMDIR, FLOCK, KINDS };

static const char *const CALLS[KINDS] = {"openat", "write", "writev", "fsync", "fdatasync",
                                         "rename", "mkdir", "unlink", "rmdir", "flock"};

static const struct {
    const char *name;
    int number;
} ERRORS[] = {{"ENOSPC", ENOSPC}, {"EIO", EIO},       {"EDQUOT", EDQUOT},
              {"EACCES", EACCES}, {"EMFILE", EMFILE}, {"EINTR", EINTR}};

static atomic_long counts[KINDS];

static int concerns(const char *path) {
    const char *folder = getenv("SHIM_FOLDER");
    if (folder == NULL || path == NULL) {
        return 0;
    }
    size_t len = strlen(folder);
    if (strncmp(path, folder, len) == 0) {
        return path[len] == '\0' || path[len] == '/' || path[len] == ' ';
    }
    const char *name = strrchr(folder, '/');
    size_t above = name == NULL ? 0 : (size_t)(name - folder);
    return above > 0 && strlen(path) == above && strncmp(path, folder, above) == 0;
}

static int concerns_fd(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof path - 1);
    if (len < 0) {
        return 0;
    }
    path[len] = '\0';
    return concerns(path);
}

/* True if the call must fail; errno is set then. */
static int fails(int kind) {
    long count = atomic_fetch_add(&counts[kind], 1) + 1;
    const char *call = getenv("SHIM_CALL"), *when = getenv("SHIM_WHEN"), *error = getenv("SHIM_ERROR");
    if (call == NULL || when == NULL || strcmp(call, CALLS[kind]) != 0 || count != atol(when)) {
        return 0;
    }
    if (error == NULL) {
        kill(getpid(), SIGKILL);
        for (;;) {
            pause();
        }
    }
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++) {
        if (strcmp(error, ERRORS[i].name) == 0) {
            errno = ERRORS[i].number;
            return 1;
        }
    }
    abort();
}

__attribute__((destructor)) static void report(void) {
    const char *path = getenv("SHIM_COUNTS");
    FILE *file = path == NULL ? NULL : fopen(path, "w");
    if (file == NULL) {
        return;
    }
    for (int kind = 0; kind < KINDS; kind++) {
        fprintf(file, "%s %ld\n", CALLS[kind], atomic_load(&counts[kind]));
    }
    fclose(file);
}

/* The function that stands behind ours. */
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static mode_t mode_of(int flags, va_list rest) {
    return (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(rest, mode_t) : 0;
}

#define OPEN(name)                                     \
    int name(const char *path, int flags, ...) {       \
        va_list rest;                                  \
        va_start(rest, flags);                         \
        mode_t mode = mode_of(flags, rest);            \
        va_end(rest);                                  \
        if (concerns(path) && fails(OPENAT)) {         \
            return -1;                                 \
        }                                              \
        return REAL(name)(path, flags, mode);          \
    }

#define OPEN_AT(name)                                  \
    int name(int at, const char *path, int flags, ...) { \
        va_list rest;                                  \
        va_start(rest, flags);                         \
        mode_t mode = mode_of(flags, rest);            \
        va_end(rest);                                  \
        if (concerns(path) && fails(OPENAT)) {         \
            return -1;                                 \
        }                                              \
        return REAL(name)(at, path, flags, mode);      \
    }

OPEN(open)
OPEN(open64)
OPEN_AT(openat)
OPEN_AT(openat64)

ssize_t write(int fd, const void *bytes, size_t len) {
    return concerns_fd(fd) && fails(WRITE) ? -1 : REAL(write)(fd, bytes, len);
}

ssize_t writev(int fd, const struct iovec *parts, int num_parts) {
    return concerns_fd(fd) && fails(WRITEV) ? -1 : REAL(writev)(fd, parts, num_parts);
}

int fsync(int fd) {
    return concerns_fd(fd) && fails(FSYNC) ? -1 : REAL(fsync)(fd);
}

int fdatasync(int fd) {
    return concerns_fd(fd) && fails(FDATASYNC) ? -1 : REAL(fdatasync)(fd);
}

int rename(const char *from, const char *to) {
    return (concerns(from) || concerns(to)) && fails(RENAME) ? -1 : REAL(rename)(from, to);
}

int mkdir(const char *path, mode_t mode) {
    return concerns(path) && fails(MKDIR) ? -1 : REAL(mkdir)(path, mode);
}

int unlink(const char *path) {
    return concerns(path) && fails(UNLINK) ? -1 : REAL(unlink)(path);
}

int rmdir(const char *path) {
    return concerns(path) && fails(RMDIR) ? -1 : REAL(rmdir)(path);
}

int flock(int fd, int operation) {
    return concerns_fd(fd) && fails(FLOCK) ? -1 : REAL(flock)(fd, operation);
}
