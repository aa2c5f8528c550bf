"""Libraries that a test has a daemon preload, to stand between it and the C library."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Interposes the C library's syncs; they fail as long as the file named by FAIL_SYNC_WHEN exists; where there is a FAIL_SYNC_OF, only those
# of files whose names end in that.
FAILING_SYNC = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int broken(int fd) {
    const char *trigger = getenv("FAIL_SYNC_WHEN"), *end = getenv("FAIL_SYNC_OF");
    char link[64], path[4096];
    ssize_t size;
    if (!trigger || access(trigger, F_OK) != 0) return 0;
    if (!end) return 1;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    size = readlink(link, path, sizeof path);
    return size >= (ssize_t) strlen(end) && memcmp(path + size - strlen(end), end, strlen(end)) == 0;
}

int fdatasync(int fd) {
    if (broken(fd)) { errno = EIO; return -1; }
    return ((int (*)(int)) dlsym(RTLD_NEXT, "fdatasync"))(fd);
}

int fsync(int fd) {
    if (broken(fd)) { errno = EIO; return -1; }
    return ((int (*)(int)) dlsym(RTLD_NEXT, "fsync"))(fd);
}
"""

# Interposes writing: files take nothing more as long as the file named by FULL_DISK_WHEN exists, but for what is said on stderr. Whoever
# asks for free space finds none as long as that named by LITTLE_ROOM_WHEN does.
FULL_DISK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static int is_so(const char *name) {
    const char *trigger = getenv(name);
    return trigger && access(trigger, F_OK) == 0;
}

ssize_t write(int fd, const void *data, size_t size) {
    struct stat about;
    if (fd > 2 && is_so("FULL_DISK_WHEN") && fstat(fd, &about) == 0 && S_ISREG(about.st_mode)) { errno = ENOSPC; return -1; }
    return ((ssize_t (*)(int, const void *, size_t)) dlsym(RTLD_NEXT, "write"))(fd, data, size);
}

int statvfs(const char *path, struct statvfs *found) {
    int result = ((int (*)(const char *, struct statvfs *)) dlsym(RTLD_NEXT, "statvfs"))(path, found);
    if (result == 0 && is_so("LITTLE_ROOM_WHEN")) found->f_bavail = 0;
    return result;
}

int statvfs64(const char *path, struct statvfs64 *found) {
    int result = ((int (*)(const char *, struct statvfs64 *)) dlsym(RTLD_NEXT, "statvfs64"))(path, found);
    if (result == 0 && is_so("LITTLE_ROOM_WHEN")) found->f_bavail = 0;
    return result;
}
"""

# Interposes the wall clock: it is off by as many seconds as the file named by CLOCK_IS_OFF_BY says.
JUMPING_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t clock, struct timespec *found) {
    int result = ((int (*)(clockid_t, struct timespec *)) dlsym(RTLD_NEXT, "clock_gettime"))(clock, found);
    const char *path = getenv("CLOCK_IS_OFF_BY");
    FILE *file = clock == CLOCK_REALTIME && path ? fopen(path, "re") : NULL;
    long seconds = 0;
    if (file) {
        if (fscanf(file, "%ld", &seconds) == 1) found->tv_sec += seconds;
        fclose(file);
    }
    return result;
}
"""

# Interposes syncs and renames of files: the file named by SYNCED notes, a line each, how many bytes of which file are on disk since, and
# what has another name since.
SYNCED = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void note(const char *line, int size) {
    const char *path = getenv("SYNCED");
    int fd = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (fd < 0) return;
    syscall(SYS_write, fd, line, size);  /* not `write`, which another library may have fail */
    close(fd);
}

static int noting(int fd, const char *name) {
    struct stat about;
    char link[64], path[4096], line[4200];
    ssize_t size;
    int result, is_file = fstat(fd, &about) == 0 && S_ISREG(about.st_mode);  /* what is written meanwhile may not be on disk */
    result = ((int (*)(int)) dlsym(RTLD_NEXT, name))(fd);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (result != 0 || !is_file || (size = readlink(link, path, sizeof path)) < 0) return result;
    note(line, snprintf(line, sizeof line, "synced\t%lld\t%.*s\n", (long long) about.st_size, (int) size, path));
    return result;
}

int fdatasync(int fd) { return noting(fd, "fdatasync"); }

int fsync(int fd) { return noting(fd, "fsync"); }

int rename(const char *from, const char *to) {
    char line[8300];
    int result = ((int (*)(const char *, const char *)) dlsym(RTLD_NEXT, "rename"))(from, to);
    if (result == 0) note(line, snprintf(line, sizeof line, "renamed\t%.4096s\t%.4096s\n", from, to));
    return result;
}
"""


def lacking() -> str:
    """What is missing for libraries to be made and preloaded; nothing where they can be."""
    if sys.platform != "linux":
        return "needs Linux, where libraries can be preloaded to break the disk and the clock under a daemon"
    if shutil.which("cc") is None:
        return "needs a C compiler, to make what breaks the disk and the clock under a daemon: install one that is found as cc, such as gcc"
    return ""


def preloadable(directory: Path, name: str, source: str) -> Path:
    """The library made of C source; skips the test where none can be made."""
    if lacking():
        pytest.skip(lacking())
    written, made = directory / f"{name}.c", directory / f"{name}.so"
    written.write_text(source)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(made), str(written), "-ldl"], check=True)
    return made
