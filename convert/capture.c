/* capture.c: tokenise, choose, run, spool.
 *
 * 1. Every row with text is tokenised (truncated to the model's limit).
 * 2. If the tokens are more than max_tokens, m rows at even distances are kept,
 *    m as large as fits: calibration files are often sorted by source or length.
 * 3. The dense model runs over them in batches; the engine's callback writes each
 *    chunk to its layer's region of an unlinked file, reserved beforehand, so that
 *    a full disk shows at once and a killed moefy leaves nothing behind.
 * 4. Later each layer is mapped while it is worked on. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "convert/capture.h"
#include "convert/interrupt.h"

enum { BATCH_TOKENS = 4096, PAGE = 4096 };

/* ---- text to tokens ------------------------------------------------------ */

typedef struct {
    int32_t *ids, *types; /* of all chosen rows, end to end */
    moe_tokens *rows;     /* [n_rows] */
    int n_rows;
    int32_t *length;      /* [n_rows] */
    int32_t *chosen;      /* [n_rows] */
} token_lists;

static void token_lists_free(token_lists *t)
{
    for (int i = 0; t->rows && i < t->n_rows; i++)
        moe_tokens_free(&t->rows[i]);
    free(t->rows);
    free(t->ids);
    free(t->types);
    free(t->length);
    free(t->chosen);
}

static bool is_blank(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strchr(" \t\r\n\v\f", text[i]) || text[i] == 0)
            return false;
    return true;
}

static moe_status tokenise(const moe_model *m, const dataset *data, token_lists *t,
                           moe_error *err)
{
    const size_t n = (size_t)data->n_rows + 1;
    t->rows = calloc(n, sizeof *t->rows);
    t->length = calloc(n, sizeof *t->length);
    t->chosen = calloc(n, sizeof *t->chosen);
    if (!t->rows || !t->length || !t->chosen)
        return moe_fail(err, MOE_E_MEMORY, "%s: no memory for its tokens", data->path);
    for (int i = 0; i < data->n_rows; i++) {
        const dataset_row *row = &data->rows[i];
        if (is_blank(row->text, row->text_bytes) &&
            (!row->pair || is_blank(row->pair, row->pair_bytes)))
            continue;
        const moe_text text = {.text = row->text, .text_bytes = row->text_bytes,
                               .pair = row->pair, .pair_bytes = row->pair_bytes};
        moe_status status = moe_tokenize(m, &text, &t->rows[t->n_rows], err);
        if (status == MOE_OK)
            status = interrupt_check(err);
        if (status != MOE_OK)
            return status;
        t->length[t->n_rows] = t->rows[t->n_rows].n;
        t->n_rows++;
    }
    if (t->n_rows == 0)
        return moe_fail(err, MOE_E_FORMAT, "%s: %d rows, but none holds text", data->path,
                        data->n_rows);
    return MOE_OK;
}

/* Row j of m at the middle of the j-th of m equal parts of [0, n). */
static int32_t spread(int j, int m, int n)
{
    return (int32_t)(((int64_t)2 * j + 1) * n / (2 * (int64_t)m));
}

int capture_choose(const int32_t *length, int n, int64_t max_tokens, int32_t *chosen)
{
    int64_t all = 0;
    for (int i = 0; i < n; i++)
        all += length[i];
    double share = all > max_tokens ? (double)max_tokens / (double)all : 1;
    int m = share < 1 ? (int)ceil(share * n) : n;
    for (; m > 0; m--) {
        int64_t sum = 0;
        for (int j = 0; j < m; j++)
            sum += length[spread(j, m, n)];
        if (sum <= max_tokens)
            break;
        /* Far off: go down by what is too much, not one by one. */
        m -= (int)((double)m * (double)(sum - max_tokens) / (double)sum / 2);
    }
    for (int j = 0; j < m; j++)
        chosen[j] = spread(j, m, n);
    if (m > 0)
        return m;
    /* Hardly any room: the shortest row, if that fits. */
    chosen[0] = 0;
    for (int i = 1; i < n; i++)
        if (length[i] < length[chosen[0]])
            chosen[0] = i;
    return n > 0 && length[chosen[0]] <= max_tokens;
}

/* Lays the chosen rows end to end and frees the others. */
static moe_status choose_rows(const dataset *data, int max_tokens, token_lists *t,
                              capture *c, moe_error *err)
{
    c->n_rows = t->n_rows;
    c->n_seqs = capture_choose(t->length, t->n_rows, max_tokens, t->chosen);
    if (c->n_seqs == 0)
        return moe_fail(err, MOE_E_ARGUMENT,
                        "%s: its shortest row has %d tokens, the limit is %d in all",
                        data->path, t->length[t->chosen[0]], max_tokens);
    for (int j = 0; j < c->n_seqs; j++)
        c->n_tokens += t->length[t->chosen[j]];
    t->ids = malloc((size_t)c->n_tokens * sizeof *t->ids);
    t->types = malloc((size_t)c->n_tokens * sizeof *t->types);
    c->cu_seqlens = malloc(((size_t)c->n_seqs + 1) * sizeof *c->cu_seqlens);
    if (!t->ids || !t->types || !c->cu_seqlens)
        return moe_fail(err, MOE_E_MEMORY, "%s: no memory for %d tokens", data->path,
                        c->n_tokens);
    int32_t at = c->cu_seqlens[0] = 0;
    for (int j = 0; j < c->n_seqs; j++) {
        const moe_tokens *row = &t->rows[t->chosen[j]];
        memcpy(t->ids + at, row->ids, (size_t)row->n * sizeof *t->ids);
        memcpy(t->types + at, row->types, (size_t)row->n * sizeof *t->types);
        c->cu_seqlens[j + 1] = at += row->n;
    }
    for (int i = 0; i < t->n_rows; i++)
        moe_tokens_free(&t->rows[i]);
    t->n_rows = 0;
    return MOE_OK;
}

/* Tokens that the tokenizer's [UNK] stands for. */
static int count_unknown(const moe_model *m, const int32_t *ids, int n)
{
    int unknown = 0;
    for (int i = 0; i < n; i++) {
        const char *text = moe_token_text(m, ids[i]);
        unknown += text && !strcmp(text, "[UNK]");
    }
    return unknown;
}

/* ---- the file ------------------------------------------------------------ */

static moe_status open_spool(const char *dir, int n_regions, capture *c, moe_error *err)
{
    const size_t bytes = (size_t)c->n_tokens * (size_t)c->d * sizeof(float);
    c->region_bytes = (bytes + PAGE - 1) / PAGE * PAGE;
    const size_t all = c->region_bytes * (size_t)n_regions;
    c->fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (c->fd < 0) {
        /* A file system without O_TMPFILE: a name that lives for a moment. */
        char path[4096];
        if (snprintf(path, sizeof path, "%s/captureXXXXXX", dir) < (int)sizeof path)
            c->fd = mkostemp(path, O_CLOEXEC);
        if (c->fd >= 0)
            unlink(path);
    }
    if (c->fd < 0)
        return moe_fail(err, MOE_E_IO, "%s: cannot hold a temporary file: %s", dir,
                        strerror(errno));
    int code = posix_fallocate(c->fd, 0, (off_t)all);
    if (code != 0)
        return moe_fail(err, MOE_E_IO,
                        "%s: no room for %zu MB of captured activations (%d tokens, %d "
                        "layers): %s", dir, (all >> 20) + 1, c->n_tokens, n_regions,
                        strerror(code));
    return MOE_OK;
}

static moe_status write_at(int fd, const void *bytes, size_t n, off_t at, moe_error *err)
{
    for (const char *from = bytes; n > 0; ) {
        ssize_t done = pwrite(fd, from, n, at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return moe_fail(err, MOE_E_IO, "captured activations cannot be written: %s",
                            strerror(errno));
        from += done;
        at += done;
        n -= (size_t)done;
    }
    return MOE_OK;
}

/* ---- the run ------------------------------------------------------------- */

typedef struct {
    capture *c;
    int *done; /* [n_layers] tokens written */
} spooler;

static moe_status keep_rows(void *ctx, int layer, const float *x, int n_tokens,
                            moe_error *err)
{
    spooler *s = ctx;
    const size_t floats = (size_t)n_tokens * (size_t)s->c->d;
    const int region = s->c->region[layer];
    if (region < 0)
        return interrupt_check(err);
    for (size_t i = 0; i < floats; i++)
        if (!isfinite(x[i]))
            return moe_fail(err, MOE_E_FORMAT,
                            "layer %d: a value of token %zu is not finite",
                            layer, (size_t)s->done[layer] + i / (size_t)s->c->d);
    const size_t at = (size_t)region * s->c->region_bytes +
                      (size_t)s->done[layer] * (size_t)s->c->d * sizeof(float);
    s->done[layer] += n_tokens;
    moe_status status = write_at(s->c->fd, x, floats * sizeof(float), (off_t)at, err);
    return status == MOE_OK ? interrupt_check(err) : status;
}

/* The sequences from first on that make a batch. */
static int batch_end(const capture *c, int first)
{
    int end = first + 1;
    while (end < c->n_seqs &&
           c->cu_seqlens[end + 1] - c->cu_seqlens[first] <= BATCH_TOKENS)
        end++;
    return end;
}

static moe_status run_batches(const moe_model *m, moe_engine *e, const capture *c,
                              const token_lists *t, progress *bar, moe_error *err)
{
    const size_t n = (size_t)c->n_seqs, labels = (size_t)moe_model_describe(m)->n_labels;
    int32_t *bounds = malloc((n + 1) * sizeof *bounds);
    float *logits = malloc(n * labels * sizeof *logits);
    moe_status status = MOE_OK;
    if (!bounds || !logits)
        status = moe_fail(err, MOE_E_MEMORY, "no memory to run %d sequences", c->n_seqs);
    for (int first = 0, end; status == MOE_OK && first < c->n_seqs; first = end) {
        end = batch_end(c, first);
        const int32_t start = c->cu_seqlens[first];
        for (int s = first; s <= end; s++)
            bounds[s - first] = c->cu_seqlens[s] - start;
        const moe_batch batch = {.n_seqs = end - first, .cu_seqlens = bounds,
                                 .token_ids = t->ids + start,
                                 .token_types = t->types + start};
        moe_output out = {.logits = logits};
        status = moe_forward(e, &batch, &out, err);
        progress_update(bar, c->cu_seqlens[end], NULL);
    }
    free(bounds);
    free(logits);
    return status;
}

static moe_status run_model(const moe_model *m, moe_pool *pool, const token_lists *t,
                            capture *c, progress *bar, moe_error *err)
{
    spooler s = {.c = c, .done = calloc((size_t)c->n_layers, sizeof(int))};
    if (!s.done)
        return moe_fail(err, MOE_E_MEMORY, "no memory to capture %d layers", c->n_layers);
    const moe_engine_options options = {.capture = keep_rows, .capture_ctx = &s};
    moe_engine *e;
    moe_status status = moe_engine_create(m, pool, &options, &e, err);
    progress_begin(bar, "reading text", c->n_tokens);
    if (status == MOE_OK)
        status = run_batches(m, e, c, t, bar, err);
    progress_end(bar);
    moe_engine_destroy(e);
    free(s.done);
    return status;
}

moe_status capture_run(const moe_model *m, moe_pool *pool, const dataset *data,
                       int max_tokens, const bool *wanted, const char *dir,
                       progress *bar, capture *c, moe_error *err)
{
    const moe_model_info *info = moe_model_describe(m);
    token_lists t = {.n_rows = 0};
    int n_regions = 0;
    *c = (capture){.d = info->d_model, .n_layers = info->n_layers, .fd = -1};
    moe_status status = tokenise(m, data, &t, err);
    if (status == MOE_OK)
        status = choose_rows(data, max_tokens, &t, c, err);
    c->region = malloc((size_t)c->n_layers * sizeof *c->region);
    if (status == MOE_OK && !c->region)
        status = moe_fail(err, MOE_E_MEMORY, "no memory to capture %d layers", c->n_layers);
    if (status == MOE_OK) {
        c->n_unknown = count_unknown(m, t.ids, c->n_tokens);
        for (int l = 0; l < c->n_layers; l++)
            c->region[l] = wanted[l] ? n_regions++ : -1;
        status = open_spool(dir, n_regions, c, err);
    }
    if (status == MOE_OK)
        status = run_model(m, pool, &t, c, bar, err);
    token_lists_free(&t);
    if (status != MOE_OK)
        capture_close(c);
    return status;
}

static void unmap(capture *c)
{
    if (c->mapped)
        munmap((void *)c->mapped, c->region_bytes);
    c->mapped = NULL;
}

moe_status capture_map(capture *c, int layer, const float **x, moe_error *err)
{
    unmap(c);
    void *at = mmap(NULL, c->region_bytes, PROT_READ, MAP_SHARED, c->fd,
                    (off_t)((size_t)c->region[layer] * c->region_bytes));
    if (at == MAP_FAILED)
        return moe_fail(err, MOE_E_MEMORY, "layer %d: its activations cannot be mapped: %s",
                        layer, strerror(errno));
    c->mapped = *x = at;
    return MOE_OK;
}

void capture_close(capture *c)
{
    unmap(c);
    if (c->fd >= 0)
        close(c->fd);
    free(c->cu_seqlens);
    free(c->region);
    *c = (capture){.fd = -1};
}
