/* safetensors.c: maps a checkpoint's files and finds tensors by name.
 *
 * One file, or the shards of an index whose weight_map must agree with what the
 * shards hold, both ways. Files are mapped read-only and private, whole. The
 * tensors of all files lie in one array sorted by name: a look-up is a binary
 * search. */
#include "engine/model/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/model/json.h"

enum {
    MAX_SHARDS = 1024,
    MAX_INDEX_BYTES = 64 << 20,
    MAX_FILE_NAME = 255,
    MAX_INDEX_TENSORS = 1 << 17,
};

typedef struct {
    char *path;
    void *map;
    size_t bytes;
    st_header header;
} st_file;

struct safetensors {
    int n_files, n_tensors;
    st_file *files;
    st_tensor *tensors; /* [n_tensors] by name */
};

bool st_is_aligned(const st_tensor *t)
{
    return (uintptr_t)t->data % moe_dtype_bytes(t->dtype) == 0;
}

size_t safetensors_bytes(const safetensors *s)
{
    size_t sum = 0;
    for (int i = 0; i < s->n_files; i++)
        sum += s->files[i].bytes;
    return sum;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const st_tensor *)a)->name, ((const st_tensor *)b)->name);
}

const st_tensor *safetensors_find(const safetensors *s, const char *name)
{
    st_tensor key = {.name = name};
    return bsearch(&key, s->tensors, (size_t)s->n_tensors, sizeof key, by_name);
}

/* Maps f->path and points its tensors into the map. */
static moe_status map_file(st_file *f, moe_error *err)
{
    moe_status status = MOE_OK;
    struct stat st;
    int fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st)) {
        status = moe_fail(err, MOE_E_IO, "%s: cannot open: %s", f->path, strerror(errno));
        goto done;
    }
    if (!S_ISREG(st.st_mode)) {
        status = moe_fail(err, MOE_E_IO, "%s: not a regular file", f->path);
        goto done;
    }
    size_t bytes = (size_t)st.st_size;
    if (bytes > 0) {
        void *map = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map == MAP_FAILED) {
            status = moe_fail(err, MOE_E_IO, "%s: cannot map %zu bytes: %s", f->path,
                              bytes, strerror(errno));
            goto done;
        }
        f->map = map;
    }
    f->bytes = bytes;
    status = st_header_parse(f->path, f->map, bytes, bytes, &f->header, err);
    for (int i = 0; !status && i < f->header.n; i++)
        f->header.tensors[i].data = (const char *)f->map + f->header.offset[i];
done:
    if (fd >= 0)
        close(fd);
    return status;
}

static moe_status add_file(safetensors *s, const char *dir, const char *name,
                           moe_error *err)
{
    st_file *f = &s->files[s->n_files];
    if (asprintf(&f->path, "%s/%s", dir, name) < 0) {
        f->path = NULL;
        return moe_fail(err, MOE_E_MEMORY, "%s/%s: out of memory", dir, name);
    }
    s->n_files++;
    return map_file(f, err);
}

/* Collects the tensors of all files, sorted by name, each name once. */
static moe_status collect(safetensors *s, moe_error *err)
{
    size_t n = 0;
    for (int i = 0; i < s->n_files; i++)
        n += (size_t)s->files[i].header.n;
    s->tensors = calloc(n + 1, sizeof *s->tensors);
    if (!s->tensors || n > INT_MAX)
        return moe_fail(err, MOE_E_MEMORY, "%s: out of memory for %zu tensors",
                        s->files[0].path, n);
    for (int i = 0; i < s->n_files; i++)
        for (int j = 0; j < s->files[i].header.n; j++)
            s->tensors[s->n_tensors++] = s->files[i].header.tensors[j];
    qsort(s->tensors, n, sizeof *s->tensors, by_name);
    for (size_t i = 1; i < n; i++)
        if (strcmp(s->tensors[i - 1].name, s->tensors[i].name) == 0)
            return moe_fail(err, MOE_E_FORMAT,
                            "%s: tensor '%s' is there twice, the other in %s",
                            s->tensors[i].path, s->tensors[i].name,
                            s->tensors[i - 1].path);
    return MOE_OK;
}

/* ---- the index -------------------------------------------------------- */

/* A plain name: an index must not reach out of its directory. */
static bool is_plain_name(const char *name)
{
    size_t n = strlen(name);
    return n > 0 && n <= MAX_FILE_NAME && !strchr(name, '/') && strcmp(name, ".") != 0 &&
           strcmp(name, "..") != 0;
}

static const char *file_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static bool has_file(const safetensors *s, const char *name)
{
    for (int i = 0; i < s->n_files; i++)
        if (strcmp(file_name(s->files[i].path), name) == 0)
            return true;
    return false;
}

/* Opens every shard that weight_map names, once. */
static moe_status open_shards(safetensors *s, const char *dir, const char *path,
                              const cJSON *map, moe_error *err)
{
    const cJSON *v;
    if (cJSON_GetArraySize(map) > MAX_INDEX_TENSORS)
        return moe_fail(err, MOE_E_FORMAT, "%s: weight_map has %d tensors, expected at most %d",
                        path, cJSON_GetArraySize(map), MAX_INDEX_TENSORS);
    cJSON_ArrayForEach(v, map) {
        if (!cJSON_IsString(v) || !is_plain_name(v->valuestring))
            return moe_fail(err, MOE_E_FORMAT,
                            "%s: tensor '%.200s' is in \"%.100s\", expected a file name "
                            "without a directory", path, v->string,
                            cJSON_IsString(v) ? v->valuestring : "");
        if (has_file(s, v->valuestring))
            continue;
        if (s->n_files == MAX_SHARDS)
            return moe_fail(err, MOE_E_FORMAT, "%s: names more than %d files", path,
                            MAX_SHARDS);
        moe_status status = add_file(s, dir, v->valuestring, err);
        if (status)
            return status;
    }
    if (s->n_files == 0)
        return moe_fail(err, MOE_E_FORMAT, "%s: weight_map names no file", path);
    return MOE_OK;
}

/* weight_map and shards must agree: every tensor of the map is in its shard, and
 * the counts are equal, so that no shard holds one that the map leaves out. */
static moe_status check_index(const safetensors *s, const char *path, const cJSON *map,
                              moe_error *err)
{
    const cJSON *v;
    int n = 0;
    cJSON_ArrayForEach(v, map) {
        const st_tensor *t = safetensors_find(s, v->string);
        if (!t || strcmp(file_name(t->path), v->valuestring) != 0)
            return moe_fail(err, MOE_E_FORMAT,
                            "%s: tensor '%.200s' is expected in %.100s, found in %s", path,
                            v->string, v->valuestring, t ? file_name(t->path) : "none");
        n++;
    }
    if (n != s->n_tensors)
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: weight_map has %d tensors, the files that it names %d", path,
                        n, s->n_tensors);
    return MOE_OK;
}

static moe_status open_index(safetensors *s, const char *dir, const char *path,
                             moe_error *err)
{
    cJSON *index = NULL;
    moe_status status = json_read_file(path, MAX_INDEX_BYTES, &index, err);
    if (status)
        return status;
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(index, "weight_map");
    s->files = calloc(MAX_SHARDS, sizeof *s->files);
    if (!s->files)
        status = moe_fail(err, MOE_E_MEMORY, "%s: out of memory", path);
    else if (!cJSON_IsObject(map))
        status = moe_fail(err, MOE_E_FORMAT, "%s: weight_map is missing, expected an object",
                          path);
    if (!status)
        status = open_shards(s, dir, path, map, err);
    if (!status)
        status = collect(s, err);
    if (!status)
        status = check_index(s, path, map, err);
    cJSON_Delete(index);
    return status;
}

/* ---- open and close ---------------------------------------------------- */

static moe_status open_single(safetensors *s, const char *dir, moe_error *err)
{
    s->files = calloc(1, sizeof *s->files);
    if (!s->files)
        return moe_fail(err, MOE_E_MEMORY, "%s: out of memory", dir);
    moe_status status = add_file(s, dir, "model.safetensors", err);
    return status ? status : collect(s, err);
}

static moe_status open_either(safetensors *s, const char *dir, moe_error *err)
{
    char single[PATH_MAX], index[PATH_MAX];
    if (snprintf(single, sizeof single, "%s/model.safetensors", dir) >= PATH_MAX ||
        snprintf(index, sizeof index, "%s/model.safetensors.index.json", dir) >= PATH_MAX)
        return moe_fail(err, MOE_E_ARGUMENT, "%.100s...: path of more than %d bytes", dir,
                        PATH_MAX);
    if (access(single, F_OK) == 0)
        return open_single(s, dir, err);
    if (access(index, F_OK) == 0)
        return open_index(s, dir, index, err);
    return moe_fail(err, MOE_E_IO,
                    "%s: expected model.safetensors or model.safetensors.index.json, found "
                    "neither", dir);
}

moe_status safetensors_open(const char *dir, safetensors **out, moe_error *err)
{
    *out = NULL;
    safetensors *s = calloc(1, sizeof *s);
    if (!s)
        return moe_fail(err, MOE_E_MEMORY, "%s: out of memory", dir);
    moe_status status = open_either(s, dir, err);
    if (status)
        safetensors_close(s);
    else
        *out = s;
    return status;
}

void safetensors_drop_pages(const safetensors *s)
{
    for (int i = 0; i < s->n_files; i++)
        if (s->files[i].map)
            madvise(s->files[i].map, s->files[i].bytes, MADV_DONTNEED);
}

void safetensors_close(safetensors *s)
{
    if (!s)
        return;
    for (int i = 0; i < s->n_files; i++) {
        if (s->files[i].map)
            munmap(s->files[i].map, s->files[i].bytes);
        st_header_free(&s->files[i].header);
        free(s->files[i].path);
    }
    free(s->files);
    free(s->tensors);
    free(s);
}
