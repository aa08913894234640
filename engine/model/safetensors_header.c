/* safetensors_header.c: the header of a safetensors file, believed in nothing.
 *
 *   8 bytes   length of the JSON, little-endian
 *   JSON      {"NAME": {"dtype", "shape", "data_offsets": [begin, end]}, ...,
 *              "__metadata__": {string: string}}
 *   data      tensors end to end, no overlap, no hole, up to the file's end
 *
 * Each entry is checked alone (name, dtype, shape, its product, its size), then
 * all are sorted by offset and must tile the data exactly. */
#include "engine/model/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/dtype.h"
#include "engine/model/json.h"

enum {
    MAX_HEADER = 100 * 1000 * 1000, /* as the reference implementation */
    MAX_NAME = 256,
    MAX_TENSORS = 1 << 17,
};

/* What the checks of one file share. */
typedef struct {
    const char *path;
    size_t data_begin, data_bytes;
    st_header *out;
    size_t *begin;       /* [n] offsets within the data, in the header's order */
    moe_error *err;
} reading;

const char *st_shape_text(const int64_t *dims, int n_dims, char *text, size_t size)
{
    size_t at = 0;
    text[0] = '\0';
    for (int i = 0; i < n_dims && at < size; i++)
        at += (size_t)snprintf(text + at, size - at, "%s%lld", i ? ", " : "[",
                               (long long)dims[i]);
    if (at < size)
        snprintf(text + at, size - at, n_dims ? "]" : "[]");
    return text;
}

static moe_status bad(const reading *r, const char *name, const char *what,
                      const char *expected, double found)
{
    return moe_fail(r->err, MOE_E_FORMAT, "%s: tensor '%.*s': %s is %.17g, expected %s",
                    r->path, MAX_NAME, name, what, found, expected);
}

/* A number that is whole and in [0, 2^53]. */
static bool whole(const cJSON *v, int64_t *out)
{
    if (!cJSON_IsNumber(v) || !(v->valuedouble >= 0) ||
        v->valuedouble > 9007199254740992.0)
        return false;
    *out = (int64_t)v->valuedouble;
    return (double)*out == v->valuedouble;
}

static moe_status read_dtype(const reading *r, const cJSON *entry, st_tensor *t)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(entry, "dtype");
    if (!cJSON_IsString(v))
        return moe_fail(r->err, MOE_E_FORMAT,
                        "%s: tensor '%s': dtype is missing, expected a string", r->path,
                        t->name);
    if (!dtype_parse(v->valuestring, &t->dtype))
        return moe_fail(r->err, MOE_E_UNSUPPORTED,
                        "%s: tensor '%s': dtype is \"%.20s\", expected F32, F16, BF16, "
                        "I8, U8, I32 or I64", r->path, t->name, v->valuestring);
    return MOE_OK;
}

/* Fills dims and sets bytes to their product times the dtype's size. */
static moe_status read_shape(const reading *r, const cJSON *entry, st_tensor *t)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(entry, "shape"), *dim;
    if (!cJSON_IsArray(v))
        return moe_fail(r->err, MOE_E_FORMAT,
                        "%s: tensor '%s': shape is missing, expected an array", r->path,
                        t->name);
    t->bytes = moe_dtype_bytes(t->dtype);
    bool empty = false;
    cJSON_ArrayForEach(dim, v) {
        if (t->n_dims == ST_MAX_DIMS)
            return bad(r, t->name, "number of dimensions", "at most 8",
                       cJSON_GetArraySize(v));
        int64_t *d = &t->dims[t->n_dims++];
        if (!whole(dim, d))
            return bad(r, t->name, "a dimension", "a whole number in [0, 2^53]",
                       cJSON_IsNumber(dim) ? dim->valuedouble : -1);
        empty |= *d == 0;
        if (!empty && __builtin_mul_overflow(t->bytes, (size_t)*d, &t->bytes))
            return bad(r, t->name, "a dimension", "a tensor of less than 2^64 bytes",
                       (double)*d);
    }
    if (empty)
        t->bytes = 0;
    return MOE_OK;
}

static moe_status read_offsets(const reading *r, const cJSON *entry, st_tensor *t,
                               size_t *begin)
{
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(entry, "data_offsets");
    int64_t b = 0, e = 0;
    if (!cJSON_IsArray(v) || cJSON_GetArraySize(v) != 2 || !whole(v->child, &b) ||
        !whole(v->child->next, &e))
        return moe_fail(r->err, MOE_E_FORMAT,
                        "%s: tensor '%s': data_offsets is not a pair of whole numbers in "
                        "[0, 2^53]", r->path, t->name);
    if (e < b || (uint64_t)e > r->data_bytes)
        return moe_fail(r->err, MOE_E_FORMAT,
                        "%s: tensor '%s': data_offsets are [%lld, %lld], expected ascending "
                        "and at most the %zu bytes of data in the file", r->path, t->name,
                        (long long)b, (long long)e, r->data_bytes);
    char shape[200];
    if ((uint64_t)(e - b) != t->bytes)
        return moe_fail(r->err, MOE_E_FORMAT,
                        "%s: tensor '%s': data_offsets span %lld bytes, expected %zu for %s %s",
                        r->path, t->name, (long long)(e - b), t->bytes,
                        moe_dtype_name(t->dtype),
                        st_shape_text(t->dims, t->n_dims, shape, sizeof shape));
    *begin = (size_t)b;
    return MOE_OK;
}

static moe_status read_entry(reading *r, const cJSON *entry, char **name_end)
{
    st_tensor *t = &r->out->tensors[r->out->n];
    size_t length = strlen(entry->string);
    if (length == 0 || length > MAX_NAME)
        return bad(r, entry->string, "length of the name", "1 to 256 bytes",
                   (double)length);
    memcpy(*name_end, entry->string, length + 1);
    *t = (st_tensor){.name = *name_end, .path = r->path};
    *name_end += length + 1;
    if (!cJSON_IsObject(entry))
        return moe_fail(r->err, MOE_E_FORMAT, "%s: tensor '%s': not a JSON object",
                        r->path, t->name);
    moe_status status = read_dtype(r, entry, t);
    if (!status)
        status = read_shape(r, entry, t);
    if (!status)
        status = read_offsets(r, entry, t, &r->begin[r->out->n]);
    if (!status)
        r->out->n++;
    return status;
}

typedef struct { size_t begin; st_tensor tensor; } placed;

static int by_offset(const void *a, const void *b)
{
    const placed *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return (x->tensor.bytes > y->tensor.bytes) - (x->tensor.bytes < y->tensor.bytes);
}

/* Sorted by offset, every tensor must begin where the one before it ended. */
static moe_status check_tiling(reading *r)
{
    st_header *h = r->out;
    placed *all = malloc(((size_t)h->n + 1) * sizeof *all);
    if (!all)
        return moe_fail(r->err, MOE_E_MEMORY, "%s: out of memory", r->path);
    for (int i = 0; i < h->n; i++)
        all[i] = (placed){r->begin[i], h->tensors[i]};
    qsort(all, (size_t)h->n, sizeof *all, by_offset);
    moe_status status = MOE_OK;
    size_t end = 0;
    for (int i = 0; i < h->n && !status; i++) {
        if (all[i].begin != end)
            status = moe_fail(r->err, MOE_E_FORMAT,
                              "%s: tensor '%s' begins at byte %zu of the data, expected %zu: %s",
                              r->path, all[i].tensor.name, all[i].begin, end,
                              all[i].begin < end ? "it overlaps" : "a hole lies before it");
        end = all[i].begin + all[i].tensor.bytes;
        h->tensors[i] = all[i].tensor;
        h->offset[i] = r->data_begin + all[i].begin;
    }
    if (!status && end != r->data_bytes)
        status = moe_fail(r->err, MOE_E_FORMAT,
                          "%s: tensors end at byte %zu of the data, but the file has %zu",
                          r->path, end, r->data_bytes);
    free(all);
    return status;
}

static moe_status read_entries(reading *r, const cJSON *root)
{
    size_t n = 0, names = 0;
    const cJSON *entry;
    cJSON_ArrayForEach(entry, root) {
        n++;
        names += strlen(entry->string) + 1;
    }
    if (n > MAX_TENSORS)
        return moe_fail(r->err, MOE_E_FORMAT, "%s: %zu tensors, expected at most %d",
                        r->path, n, MAX_TENSORS);
    r->out->tensors = calloc(n + 1, sizeof *r->out->tensors);
    r->out->offset = calloc(n + 1, sizeof *r->out->offset);
    r->out->names = malloc(names + 1);
    r->begin = calloc(n + 1, sizeof *r->begin);
    if (!r->out->tensors || !r->out->offset || !r->out->names || !r->begin)
        return moe_fail(r->err, MOE_E_MEMORY, "%s: out of memory for %zu tensors",
                        r->path, n);
    char *name_end = r->out->names;
    cJSON_ArrayForEach(entry, root) {
        if (strcmp(entry->string, "__metadata__") == 0)
            continue;
        moe_status status = read_entry(r, entry, &name_end);
        if (status)
            return status;
    }
    return check_tiling(r);
}

/* The length in the first 8 bytes, checked against the file. */
static moe_status read_length(const char *path, const unsigned char *head,
                              size_t head_bytes, size_t file_bytes, size_t *out,
                              moe_error *err)
{
    if (file_bytes < 10 || head_bytes < 8) /* 8, and "{}" */
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: %zu bytes, expected at least 10 of a safetensors file", path,
                        file_bytes);
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--)
        n = n << 8 | head[i];
    if (n > MAX_HEADER)
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: header is of %llu bytes, expected at most %d", path,
                        (unsigned long long)n, MAX_HEADER);
    if (n > file_bytes - 8 || n > head_bytes - 8)
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: header is of %llu bytes, but the file has %zu", path,
                        (unsigned long long)n, file_bytes);
    *out = (size_t)n;
    return MOE_OK;
}

moe_status st_header_parse(const char *path, const void *head, size_t head_bytes,
                           size_t file_bytes, st_header *out, moe_error *err)
{
    *out = (st_header){0};
    size_t n = 0;
    moe_status status = read_length(path, head, head_bytes, file_bytes, &n, err);
    if (status)
        return status;
    cJSON *root = NULL;
    char what[4096 + 32]; /* a path and where in it */
    snprintf(what, sizeof what, "%s: header", path);
    status = json_parse(what, (const char *)head + 8, n, &root, err);
    if (status)
        return status;
    reading r = {.path = path, .data_begin = 8 + n, .data_bytes = file_bytes - 8 - n,
                 .out = out, .err = err};
    status = cJSON_IsObject(root)
                 ? read_entries(&r, root)
                 : moe_fail(err, MOE_E_FORMAT, "%s: header is not a JSON object", path);
    free(r.begin);
    cJSON_Delete(root);
    if (status)
        st_header_free(out);
    return status;
}

void st_header_free(st_header *h)
{
    free(h->tensors);
    free(h->offset);
    free(h->names);
    *h = (st_header){0};
}
