/* outdir.c: write beside, sync, rename. Only files that moefy itself writes are
 * ever removed, by name. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "convert/json.h"
#include "convert/outdir.h"
#include "engine/model/tokenizer_files.h"

enum { MAX_CONFIG_BYTES = 16 << 20, COPY_BYTES = 1 << 16 };
static const char *const own_files[] = {"config.json", "model.safetensors", "README.md",
                                        NULL};

static moe_status fail_errno(moe_error *err, const char *path, const char *what)
{
    return moe_fail(err, errno == ENOMEM ? MOE_E_MEMORY : MOE_E_IO, "%s: %s: %s", path,
                    what, strerror(errno));
}

static moe_status fail_memory(moe_error *err, const char *path)
{
    return moe_fail(err, MOE_E_MEMORY, "%s: no memory to write it", path);
}

static char *join(const char *dir, const char *name)
{
    char *path;
    return asprintf(&path, "%s/%s", dir, name) < 0 ? NULL : path;
}

static bool listed(const char *name, const char *const *names)
{
    for (; *names; names++)
        if (!strcmp(name, *names))
            return true;
    return false;
}

static bool is_own_file(const char *name)
{
    return listed(name, own_files) || listed(name, tokenizer_file_names);
}

/* ---- what is at OUT ------------------------------------------------------ */

/* *stranger: a name in dir that moefy did not write, or NULL; free() it. *empty:
 * nothing is in it. */
static moe_status look_into(const char *dir, bool *empty, char **stranger,
                            moe_error *err)
{
    *empty = true;
    *stranger = NULL;
    DIR *d = opendir(dir);
    if (!d)
        return fail_errno(err, dir, "cannot be written as a directory");
    for (struct dirent *entry; (entry = readdir(d)) && !*stranger; ) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        *empty = false;
        if (!is_own_file(entry->d_name))
            *stranger = strdup(entry->d_name);
    }
    closedir(d);
    return MOE_OK;
}

static bool is_moefied(const char *dir)
{
    char *path = join(dir, "config.json"), *bytes = NULL;
    size_t n = 0;
    json *config = NULL;
    if (path && outdir_read_file(path, MAX_CONFIG_BYTES, &bytes, &n, NULL) == MOE_OK)
        config = json_parse_text(bytes, n);
    const bool found = config && json_get(config, "moefication");
    json_free(config);
    free(bytes);
    free(path);
    return found;
}

static moe_status check_existing(const outdir *o, moe_error *err)
{
    struct stat st;
    bool empty;
    char *stranger;
    if (lstat(o->path, &st) != 0)
        return errno == ENOENT ? MOE_OK : fail_errno(err, o->path, "cannot be looked at");
    if (!S_ISDIR(st.st_mode))
        return moe_fail(err, MOE_E_IO, "%s: exists and is not a directory", o->path);
    moe_status status = look_into(o->path, &empty, &stranger, err);
    if (status != MOE_OK || empty)
        return status;
    if (!o->replace || !is_moefied(o->path))
        status = moe_fail(err, MOE_E_IO, "%s: exists and is not empty%s", o->path,
                          o->replace ? " or a MoEfied model" : "");
    else if (stranger)
        status = moe_fail(err, MOE_E_IO,
                          "%s: will not be replaced: it holds '%s', which moefy did not "
                          "write", o->path, stranger);
    free(stranger);
    return status;
}

/* OUT with its directory resolved, so that a later chdir or link does no harm. */
static moe_status resolve(const char *out, char **path, moe_error *err)
{
    char *for_dir = strdup(out), *for_base = strdup(out), *dir = NULL;
    moe_status status = MOE_OK;
    *path = NULL;
    if (!for_dir || !for_base) {
        status = fail_memory(err, out);
        goto done;
    }
    if (!*out) {
        status = moe_fail(err, MOE_E_ARGUMENT, "the output directory has no name");
        goto done;
    }
    const char *base = basename(for_base);
    if (!strcmp(base, ".") || !strcmp(base, "..") || !strcmp(base, "/")) {
        *path = realpath(out, NULL);
        if (!*path)
            status = fail_errno(err, out, "cannot be written");
        goto done;
    }
    dir = realpath(dirname(for_dir), NULL);
    if (!dir)
        status = fail_errno(err, for_dir, "cannot be written into");
    else if (!(*path = join(strcmp(dir, "/") ? dir : "", base)))
        status = fail_memory(err, out);
done:
    free(for_dir);
    free(for_base);
    free(dir);
    return status;
}

/* Removes moefy's files in dir, then dir, unless others have come into it. */
static void remove_own(const char *dir)
{
    for (int list = 0; list < 2; list++)
        for (const char *const *name = list ? tokenizer_file_names : own_files; *name;
             name++) {
            char *path = join(dir, *name);
            if (path)
                unlink(path);
            free(path);
        }
    rmdir(dir);
}

/* A lock on dir, or -1 where it cannot be had: a process works in it. A process number
 * would not tell: in a container every moefy may have the same. */
static int lock_directory(const char *dir)
{
    const int fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) == 0)
        return fd;
    close(fd);
    return -1;
}

/* Whether name is BASE.tmp.NUMBER. */
static bool is_temp(const char *name, const char *base)
{
    static const char middle[] = ".tmp.";
    const size_t n = strlen(base);
    if (strncmp(name, base, n) != 0 || strncmp(name + n, middle, sizeof middle - 1) != 0)
        return false;
    const char *number = name + n + sizeof middle - 1;
    return *number && number[strspn(number, "0123456789")] == 0;
}

static void remove_if_left(const char *dir)
{
    const int lock = lock_directory(dir);
    if (lock < 0)
        return;
    remove_own(dir);
    close(lock);
}

/* Removes what was left beside `path` by processes that were killed. */
static void remove_left(const char *path)
{
    const char *base = strrchr(path, '/') + 1;
    char *parent = strndup(path, base - path > 1 ? (size_t)(base - path - 1) : 1);
    DIR *d = parent ? opendir(parent) : NULL;
    for (struct dirent *entry; d && (entry = readdir(d)); )
        if (is_temp(entry->d_name, base)) {
            char *left = join(parent, entry->d_name);
            if (left)
                remove_if_left(left);
            free(left);
        }
    if (d)
        closedir(d);
    free(parent);
}

/* One that is there was left by a process with our number that cannot lock. */
static bool make_temp(const char *path)
{
    if (mkdir(path, 0777) == 0)
        return true;
    if (errno != EEXIST)
        return false;
    remove_own(path);
    return mkdir(path, 0777) == 0;
}

/* temp, made and locked. Who tidies up may have taken it for a dead one's before the lock
 * was ours: then once more. A file system without locks does without. */
static bool make_locked(outdir *o)
{
    for (int tries = 0; tries < 3; tries++) {
        struct stat ours, there;
        if (!make_temp(o->temp))
            return false;
        o->lock = lock_directory(o->temp);
        if (o->lock < 0 ? access(o->temp, F_OK) == 0
                        : fstat(o->lock, &ours) == 0 && stat(o->temp, &there) == 0 &&
                              ours.st_dev == there.st_dev && ours.st_ino == there.st_ino)
            return true;
        if (o->lock >= 0)
            close(o->lock);
        o->lock = -1;
    }
    return false;
}

moe_status outdir_create(const char *out, outdir_policy policy, outdir *o,
                         moe_error *err)
{
    *o = (outdir){.replace = policy == OUTDIR_MAY_REPLACE, .lock = -1};
    moe_status status = resolve(out, &o->path, err);
    if (status == MOE_OK)
        status = check_existing(o, err);
    if (status == MOE_OK)
        remove_left(o->path);
    if (status == MOE_OK &&
        asprintf(&o->temp, "%s.tmp.%ld", o->path, (long)getpid()) < 0) {
        o->temp = NULL;
        status = fail_memory(err, out);
    }
    if (status == MOE_OK && !make_locked(o)) {
        status = fail_errno(err, o->temp, "cannot be made");
        free(o->temp);
        o->temp = NULL;
    }
    if (status != MOE_OK)
        outdir_close(o);
    return status;
}

/* ---- files --------------------------------------------------------------- */

char *outdir_file(const outdir *o, const char *name)
{
    return join(o->temp, name);
}

static bool write_all(int fd, const char *bytes, size_t n)
{
    while (n > 0) {
        ssize_t done = write(fd, bytes, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return false;
        bytes += done;
        n -= (size_t)done;
    }
    return true;
}

moe_status outdir_write(const outdir *o, const char *name, const char *bytes, size_t n,
                        moe_error *err)
{
    char *path = outdir_file(o, name);
    if (!path)
        return fail_memory(err, name);
    moe_status status = MOE_OK;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0 || !write_all(fd, bytes, n) || fsync(fd) != 0)
        status = fail_errno(err, path, "cannot be written");
    if (fd >= 0 && close(fd) != 0 && status == MOE_OK)
        status = fail_errno(err, path, "cannot be written");
    free(path);
    return status;
}

moe_status outdir_copy(const outdir *o, const char *from, const char *name,
                       moe_error *err)
{
    enum { MAX_BYTES = 256 << 20 };
    char *source = join(from, name), *bytes = NULL;
    size_t n;
    if (!source)
        return fail_memory(err, name);
    moe_status status = MOE_OK;
    if (access(source, F_OK) == 0) {
        status = outdir_read_file(source, MAX_BYTES, &bytes, &n, err);
        if (status == MOE_OK)
            status = outdir_write(o, name, bytes, n, err);
    }
    free(bytes);
    free(source);
    return status;
}

moe_status outdir_read_file(const char *path, size_t max_bytes, char **bytes, size_t *n,
                            moe_error *err)
{
    *bytes = NULL;
    FILE *f = fopen(path, "rbe");
    if (!f)
        return fail_errno(err, path, "cannot be read");
    moe_status status = MOE_OK;
    size_t room = 0;
    *n = 0;
    for (;;) {
        if (*n + COPY_BYTES + 1 > room) {
            room = 2 * room + COPY_BYTES + 1;
            char *grown = realloc(*bytes, room);
            if (!grown) {
                status = moe_fail(err, MOE_E_MEMORY, "%s: no memory to read it", path);
                break;
            }
            *bytes = grown;
        }
        size_t got = fread(*bytes + *n, 1, COPY_BYTES, f);
        *n += got;
        if (*n > max_bytes) {
            status = moe_fail(err, MOE_E_LIMIT, "%s: over %zu bytes", path, max_bytes);
            break;
        }
        if (got < COPY_BYTES)
            break;
    }
    if (status == MOE_OK && ferror(f))
        status = fail_errno(err, path, "cannot be read");
    fclose(f);
    if (status == MOE_OK) {
        (*bytes)[*n] = 0;
    } else {
        free(*bytes);
        *bytes = NULL;
    }
    return status;
}

/* ---- the end ------------------------------------------------------------- */

static bool sync_directory(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0)
        close(fd);
    return ok;
}

/* Where the file system cannot exchange two names: there is a moment without an
 * OUT, and OUT.tmp.PID.old is put back if the second step fails. */
static bool swap_by_renames(const outdir *o, char *old)
{
    if (rename(o->path, old) != 0)
        return false;
    if (rename(o->temp, o->path) == 0)
        return true;
    const int saved = errno;
    rename(old, o->path);
    errno = saved;
    return false;
}

/* Puts temp in the place of a MoEfied OUT and removes that. */
static moe_status replace_model(outdir *o, moe_error *err)
{
    if (renameat2(AT_FDCWD, o->temp, AT_FDCWD, o->path, RENAME_EXCHANGE) == 0) {
        remove_own(o->temp);
        return MOE_OK;
    }
    char *old = NULL;
    if (asprintf(&old, "%s.old", o->temp) < 0)
        return fail_memory(err, o->path);
    moe_status status = MOE_OK;
    if (swap_by_renames(o, old))
        remove_own(old);
    else
        status = fail_errno(err, o->path, "cannot be replaced");
    free(old);
    return status;
}

moe_status outdir_commit(outdir *o, moe_error *err)
{
    /* Someone may have put something there meanwhile. */
    moe_status status = check_existing(o, err);
    if (status != MOE_OK)
        return status;
    if (!sync_directory(o->temp))
        return fail_errno(err, o->temp, "cannot be synced");
    /* A name that is free, or an empty directory, is taken in one step. */
    if (rename(o->temp, o->path) != 0) {
        if (errno != ENOTEMPTY && errno != EEXIST)
            return fail_errno(err, o->path, "cannot be made");
        status = replace_model(o, err);
        if (status != MOE_OK)
            return status;
    }
    free(o->temp);
    o->temp = NULL;
    char *copy = strdup(o->path);
    if (copy)
        sync_directory(dirname(copy));
    free(copy);
    return MOE_OK;
}

void outdir_close(outdir *o)
{
    if (o->temp)
        remove_own(o->temp);
    if (o->lock >= 0)
        close(o->lock);
    free(o->temp);
    free(o->path);
    *o = (outdir){.path = NULL, .lock = -1};
}
