/* A disk that fails: loaded before libc, makes the n-th call that changes files below a folder fail, or kills
 * the process in it. Counts open for writing, mkdir, write, fsync, rename; see faults.py.
 *
 * glibc's stdio writes past any wrapper of write(), so fwrite and fflush, which numpy uses, are calls too.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char root[PATH_MAX];
static long count, target, calls[6];
static int failure, forever;
enum kind { OPEN, MKDIR, WRITE, FSYNC, RENAME, STDIO };

/* Begin to count below a folder (absolute, without links); the n-th call from now on fails with error (0: none; -1: the process is killed), and those
 * after it too if all is set. */
void disk_arm(const char *folder, long n, int error, int all) {
    snprintf(root, sizeof root, "%s", folder);
    count = 0;
    memset(calls, 0, sizeof calls);
    target = n;
    failure = error;
    forever = all;
}

long disk_count(void) { return count; }
long disk_calls(int kind) { return calls[kind]; }

static int inside(const char *path) {
    size_t n = strlen(root);
    return n && !strncmp(path, root, n) && (path[n] == '/' || !path[n]);
}

static int hit(enum kind kind) {
    count++;
    calls[kind]++;
    if (!failure || !target || count < target || (count > target && !forever)) return 0;
    if (failure < 0) kill(getpid(), SIGKILL);
    errno = failure;
    return 1;
}

static int named(int at, const char *path, enum kind kind) {
    char whole[2 * PATH_MAX], folder[PATH_MAX];
    if (!root[0]) return 0;
    if (path[0] == '/') return inside(path) && hit(kind);
    if (at == AT_FDCWD) {
        if (!getcwd(folder, sizeof folder)) return 0;
    } else {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t n = readlink(link, folder, sizeof folder - 1);
        if (n < 0) return 0;
        folder[n] = 0;
    }
    snprintf(whole, sizeof whole, "%s/%s", folder, path);
    return inside(whole) && hit(kind);
}

static int opened(int fd, enum kind kind) {
    char link[64], path[PATH_MAX];
    int before = errno;
    if (!root[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    errno = before;
    if (n < 0) return 0;
    path[n] = 0;
    return inside(path) && hit(kind);
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define MAKES(flags) ((flags) & (O_CREAT | O_WRONLY | O_RDWR))
#define OPENER(name) \
    int name(const char *path, int flags, ...) { \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = (flags & O_CREAT) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        REAL(name); \
        return MAKES(flags) && named(AT_FDCWD, path, OPEN) ? -1 : real(path, flags, mode); \
    }
#define OPENER_AT(name) \
    int name(int at, const char *path, int flags, ...) { \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = (flags & O_CREAT) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        REAL(name); \
        return MAKES(flags) && named(at, path, OPEN) ? -1 : real(at, path, flags, mode); \
    }
OPENER(open)
OPENER(open64)
OPENER_AT(openat)
OPENER_AT(openat64)

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    int before = errno, there = !access(path, F_OK);
    errno = before;
    return !there && named(AT_FDCWD, path, MKDIR) ? -1 : real(path, mode);
}
ssize_t write(int fd, const void *data, size_t n) {
    REAL(write);
    return opened(fd, WRITE) ? -1 : real(fd, data, n);
}
ssize_t writev(int fd, const struct iovec *parts, int n) {
    REAL(writev);
    return opened(fd, WRITE) ? -1 : real(fd, parts, n);
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    REAL(pwrite);
    return opened(fd, WRITE) ? -1 : real(fd, data, n, at);
}
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
    REAL(pwrite64);
    return opened(fd, WRITE) ? -1 : real(fd, data, n, at);
}
int fsync(int fd) {
    REAL(fsync);
    return opened(fd, FSYNC) ? -1 : real(fd);
}
int fdatasync(int fd) {
    REAL(fdatasync);
    return opened(fd, FSYNC) ? -1 : real(fd);
}
int rename(const char *from, const char *to) {
    REAL(rename);
    return named(AT_FDCWD, to, RENAME) ? -1 : real(from, to);
}
int renameat(int from_at, const char *from, int to_at, const char *to) {
    REAL(renameat);
    return named(to_at, to, RENAME) ? -1 : real(from_at, from, to_at, to);
}
size_t fwrite(const void *data, size_t size, size_t n, FILE *file) {
    REAL(fwrite);
    return opened(fileno(file), STDIO) ? 0 : real(data, size, n, file);
}
int fflush(FILE *file) {
    REAL(fflush);
    return file && opened(fileno(file), STDIO) ? EOF : real(file);
}
