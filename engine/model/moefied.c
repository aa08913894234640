/* moefied.c: the tensors of a MoEfied model.safetensors, written and read.
 *
 * Both walk the list of moefied_tensors.c. The writer sorts it by alignment, the
 * largest power of two up to 4096 that divides a tensor's size, largest first,
 * and pads the header until the data starts on a multiple of 4096: every tensor
 * then starts on a multiple of its own alignment and no hole is needed. The
 * reader demands that alignment (up to the kernels' 64 bytes) and points the
 * weights into the map. */
#include "engine/model/moefied.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/model/memory.h"
#include "engine/model/moefied_tensors.h"

enum { MAX_ALIGN = 4096, KERNEL_ALIGN = 64 };

static size_t alignment(size_t bytes)
{
    size_t a = bytes & (~bytes + 1); /* the lowest bit that is set */
    return a == 0 || a > MAX_ALIGN ? MAX_ALIGN : a;
}

static size_t tensor_bytes(const moefied_tensor *t)
{
    size_t n = moe_dtype_bytes(moefied_tensor_dtype(t));
    for (int i = 0; i < t->n_dims; i++)
        n *= (size_t)t->dims[i];
    return n;
}

/* ---- writing -------------------------------------------------------------- */

/* By alignment, descending, then by name so that equal models are equal files. */
static int by_alignment(const void *a, const void *b)
{
    size_t x = alignment(tensor_bytes(a)), y = alignment(tensor_bytes(b));
    if (x != y)
        return x > y ? -1 : 1;
    return strcmp(((const moefied_tensor *)a)->name, ((const moefied_tensor *)b)->name);
}

static void print_entry(FILE *f, const moefied_tensor *t, size_t begin)
{
    fprintf(f, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", t->name,
            moe_dtype_name(moefied_tensor_dtype(t)));
    for (int i = 0; i < t->n_dims; i++)
        fprintf(f, "%s%" PRId64, i ? "," : "", t->dims[i]);
    fprintf(f, "],\"data_offsets\":[%zu,%zu]}", begin, begin + tensor_bytes(t));
}

/* The file's start: length and header, padded to a multiple of 4096 bytes. */
static char *make_header(const moefied_tensor *tensors, int n, size_t *size)
{
    char *text = NULL;
    FILE *f = open_memstream(&text, size);
    if (!f)
        return NULL;
    fprintf(f, "        {\"__metadata__\":{\"format\":\"moefied\"}");
    size_t begin = 0;
    for (int i = 0; i < n; i++) {
        print_entry(f, &tensors[i], begin);
        begin += tensor_bytes(&tensors[i]);
    }
    fputc('}', f);
    for (long at = ftell(f); at % MAX_ALIGN; at++)
        fputc(' ', f);
    bool failed = ferror(f);
    if (fclose(f) || failed) {
        free(text);
        return NULL;
    }
    for (int i = 0; i < 8; i++)
        text[i] = (char)((uint64_t)(*size - 8) >> (8 * i));
    return text;
}

static moe_status write_all(int fd, const char *path, const void *bytes, size_t n,
                            moe_error *err)
{
    const char *from = bytes;
    while (n > 0) {
        ssize_t done = write(fd, from, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return moe_fail(err, MOE_E_IO, "%s: cannot write: %s", path,
                            done < 0 ? strerror(errno) : "no progress");
        from += done;
        n -= (size_t)done;
    }
    return MOE_OK;
}

static moe_status write_file(int fd, const char *path, const moefied_tensor *tensors,
                             int n, moe_error *err)
{
    size_t size;
    char *header = make_header(tensors, n, &size);
    if (!header)
        return moe_fail(err, MOE_E_MEMORY, "%s: out of memory for the header", path);
    moe_status status = write_all(fd, path, header, size, err);
    free(header);
    for (int i = 0; !status && i < n; i++)
        status = write_all(fd, path, moefied_tensor_data(&tensors[i]),
                           tensor_bytes(&tensors[i]), err);
    if (!status && fsync(fd))
        status = moe_fail(err, MOE_E_IO, "%s: cannot sync: %s", path, strerror(errno));
    return status;
}

/* Makes a rename durable. A file system that cannot sync a directory is no error. */
static void sync_directory_of(const char *path)
{
    char copy[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", path);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
}

/* Writes beside path, then renames. */
static moe_status write_beside(const char *path, const moefied_tensor *tensors, int n,
                               moe_error *err)
{
    char beside[PATH_MAX];
    if (snprintf(beside, sizeof beside, "%s.tmp.%ld", path, (long)getpid()) >= PATH_MAX)
        return moe_fail(err, MOE_E_ARGUMENT, "%.100s...: path of more than %d bytes", path,
                        PATH_MAX);
    int fd = open(beside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return moe_fail(err, MOE_E_IO, "%s: cannot create: %s", beside, strerror(errno));
    moe_status status = write_file(fd, path, tensors, n, err);
    if (close(fd) && !status)
        status = moe_fail(err, MOE_E_IO, "%s: cannot close: %s", path, strerror(errno));
    if (!status && rename(beside, path))
        status = moe_fail(err, MOE_E_IO, "%s: cannot rename to it: %s", path,
                          strerror(errno));
    if (status)
        unlink(beside);
    else
        sync_directory_of(path);
    return status;
}

/* Keeps what is to be written: drops absent biases, refuses other gaps. */
static moe_status drop_absent(const char *path, moefied_tensor *tensors, int *n,
                              moe_error *err)
{
    int kept = 0;
    for (int i = 0; i < *n; i++) {
        if (moefied_tensor_data(&tensors[i]))
            tensors[kept++] = tensors[i];
        else if (!tensors[i].optional)
            return moe_fail(err, MOE_E_ARGUMENT, "%s: tensor '%s' has no values to write",
                            path, tensors[i].name);
    }
    *n = kept;
    return MOE_OK;
}

moe_status moefied_write_tensors(const char *path, const moe_weights *w, moe_error *err)
{
    moefied_tensor *tensors = calloc((size_t)moefied_tensors_max(w), sizeof *tensors);
    if (!tensors)
        return moe_fail(err, MOE_E_MEMORY, "%s: out of memory", path);
    int n = moefied_tensors_list(w, tensors);
    moe_status status = drop_absent(path, tensors, &n, err);
    if (!status)
        status = moefied_check(path, w, err);
    if (!status) {
        qsort(tensors, (size_t)n, sizeof *tensors, by_alignment);
        status = write_beside(path, tensors, n, err);
    }
    free(tensors);
    return status;
}

/* ---- reading -------------------------------------------------------------- */

static moe_linear shape_linear(const model_config *c, int n, int k)
{
    return (moe_linear){.n = n, .k = k, .dtype = c->moe.dtype};
}

/* Sizes of one layer, as config.json has them. */
static void shape_layer(const model_config *c, int i, moe_layer *layer)
{
    int d = c->d_model, inner = c->n_heads * c->d_head, n_experts = c->n_experts;
    moe_norm norm = {.d = d, .eps = c->norm_eps, .rms = c->family == MOE_FAMILY_T5};
    layer->qkv = shape_linear(c, 3 * inner, d);
    layer->attention_out = shape_linear(c, d, inner);
    layer->attention_norm = layer->ffn_norm = norm;
    if (i >= c->n_layers - c->n_decoder_layers) {
        layer->cross_q = shape_linear(c, inner, d);
        layer->cross_kv = shape_linear(c, 2 * inner, d);
        layer->cross_out = shape_linear(c, d, inner);
        layer->cross_norm = norm;
    }
    layer->ffn = (moe_ffn){.d = d, .n_experts = n_experts, .d_ff = c->d_ff, .act = c->act,
                           .dtype = c->moe.dtype, .gated = c->t5.gated};
    if (!c->moe.has_router[i])
        return;
    layer->ffn.n_shifts = c->moe.shift ? c->moe.n_rows : 0;
    bool two = c->moe.n_linears == 2;
    layer->router = (moe_router){
        .present = true, .normalize = c->moe.normalize, .n_linears = c->moe.n_linears,
        .first = {.n = two ? c->moe.width : n_experts, .k = d},
        .second = {.n = two ? n_experts : 0, .k = two ? c->moe.width : 0},
    };
}

static void shape_t5(const model_config *c, moe_weights *w)
{
    w->encoder_distances = w->decoder_distances =
        (moe_table){.n = c->t5.n_buckets, .d = c->n_heads};
    w->encoder_norm = w->decoder_norm =
        (moe_norm){.d = c->d_model, .eps = c->norm_eps, .rms = true};
    w->lm_head = shape_linear(c, c->n_vocab, c->d_model);
}

static void shape_weights(const model_config *c, moe_weights *w)
{
    int d = c->d_model;
    w->words = (moe_table){.n = c->n_vocab, .d = d};
    for (int i = 0; i < c->n_layers; i++)
        shape_layer(c, i, &w->layers[i]);
    if (c->family == MOE_FAMILY_T5) {
        shape_t5(c, w);
        return;
    }
    w->positions = (moe_table){.n = c->max_positions, .d = d};
    w->types = (moe_table){.n = c->n_types, .d = d};
    w->first_position = c->first_position;
    w->pad_id = c->pad_id;
    w->pooler_relu = c->family == MOE_FAMILY_DISTILBERT;
    w->embed_norm = (moe_norm){.d = d, .eps = c->norm_eps};
    if (c->task != MOE_TASK_ANSWER)
        w->pooler = (moe_linear){.n = d, .k = d};
    w->classifier = (moe_linear){.n = c->n_labels, .k = d};
}

static moe_status check_place(const moefied_tensor *want, const st_tensor *t,
                              moe_error *err)
{
    char found[200], expected[200];
    if (t->n_dims != want->n_dims ||
        memcmp(t->dims, want->dims, (size_t)t->n_dims * sizeof *t->dims) != 0)
        return moe_fail(err, MOE_E_FORMAT, "%s: tensor '%s' has shape %s, expected %s",
                        t->path, t->name,
                        st_shape_text(t->dims, t->n_dims, found, sizeof found),
                        st_shape_text(want->dims, want->n_dims, expected, sizeof expected));
    bool fits = want->table ? t->dtype == MOE_F32 || t->dtype == MOE_F16 ||
                                  t->dtype == MOE_BF16
                            : t->dtype == moefied_tensor_dtype(want);
    if (!fits)
        return moe_fail(err, MOE_E_FORMAT, "%s: tensor '%s' is of %s, expected %s", t->path,
                        t->name, moe_dtype_name(t->dtype),
                        want->table ? "F32, F16 or BF16"
                                    : moe_dtype_name(moefied_tensor_dtype(want)));
    size_t align = alignment(t->bytes) < KERNEL_ALIGN ? alignment(t->bytes) : KERNEL_ALIGN;
    if ((uintptr_t)t->data % align)
        return moe_fail(err, MOE_E_FORMAT,
                        "%s: tensor '%s' starts %zu bytes past a multiple of %zu, expected on "
                        "one", t->path, t->name, (size_t)((uintptr_t)t->data % align), align);
    return MOE_OK;
}

/* Points the place of one tensor into the map. */
static moe_status bind(const moe_model_memory *m, moefied_tensor *want, moe_error *err)
{
    char expected[200];
    const st_tensor *t = safetensors_find(m->files, want->name);
    if (!t && want->optional)
        return MOE_OK;
    if (!t)
        return moe_fail(err, MOE_E_FORMAT, "%s: tensor '%s' is missing, expected %s", m->dir,
                        want->name,
                        st_shape_text(want->dims, want->n_dims, expected, sizeof expected));
    moe_status status = check_place(want, t, err);
    if (status)
        return status;
    if (want->table) {
        want->table->dtype = t->dtype;
        want->table->rows = t->data;
    } else if (want->packed) {
        *want->packed = t->data;
    } else if (want->ints) {
        *want->ints = t->data;
    } else {
        *want->floats = t->data;
    }
    return MOE_OK;
}

moe_status moefied_load(moe_model_memory *m, moe_weights *w, moe_error *err)
{
    shape_weights(&m->config, w);
    moefied_tensor *tensors = calloc((size_t)moefied_tensors_max(w), sizeof *tensors);
    if (!tensors)
        return moe_fail(err, MOE_E_MEMORY, "%s: out of memory", m->dir);
    int n = moefied_tensors_list(w, tensors);
    moe_status status = MOE_OK;
    for (int i = 0; !status && i < n; i++)
        status = bind(m, &tensors[i], err);
    free(tensors);
    return status ? status : moefied_check(m->dir, w, err);
}
