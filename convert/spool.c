/* spool.c: O_TMPFILE, posix_fallocate, pread and pwrite, each tried to the end. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "convert/spool.h"

static int open_unlinked(const char *dir)
{
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0)
        return fd;
    /* A file system without O_TMPFILE: a name that lives for a moment. */
    char path[4096];
    if (snprintf(path, sizeof path, "%s/spoolXXXXXX", dir) < (int)sizeof path)
        fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0)
        unlink(path);
    return fd;
}

moe_status spool_open(const char *dir, size_t bytes, const char *what, int *fd,
                      moe_error *err)
{
    *fd = open_unlinked(dir);
    if (*fd < 0)
        return moe_fail(err, MOE_E_IO, "%s: cannot hold a temporary file: %s", dir,
                        strerror(errno));
    int code = posix_fallocate(*fd, 0, (off_t)bytes);
    if (code == 0)
        return MOE_OK;
    close(*fd);
    *fd = -1;
    return moe_fail(err, MOE_E_IO, "%s: no room for %zu MB of %s: %s", dir,
                    (bytes >> 20) + 1, what, strerror(code));
}

moe_status spool_write(int fd, const void *bytes, size_t n, size_t at, moe_error *err)
{
    for (const char *from = bytes; n > 0; ) {
        ssize_t done = pwrite(fd, from, n, (off_t)at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return moe_fail(err, MOE_E_IO, "captured activations cannot be written: %s",
                            strerror(errno));
        from += done;
        at += (size_t)done;
        n -= (size_t)done;
    }
    return MOE_OK;
}

moe_status spool_read(int fd, void *bytes, size_t n, size_t at, moe_error *err)
{
    for (char *to = bytes; n > 0; ) {
        ssize_t done = pread(fd, to, n, (off_t)at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return moe_fail(err, MOE_E_IO, "captured activations cannot be read: %s",
                            done < 0 ? strerror(errno) : "their file ends early");
        to += done;
        at += (size_t)done;
        n -= (size_t)done;
    }
    return MOE_OK;
}
