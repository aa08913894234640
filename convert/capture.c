/* capture.c: run and spool.
 *
 * The dense model runs over the calibration text in batches; the engine's callback
 * writes each chunk to its layer's region of an unlinked file (spool.h). Later each
 * layer is mapped while it is worked on. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "convert/calibration.h"
#include "convert/capture.h"
#include "convert/interrupt.h"
#include "convert/spool.h"

enum { PAGE = 4096 };

static moe_status open_spool(const char *dir, int n_regions, capture *c, moe_error *err)
{
    const size_t bytes = (size_t)c->n_tokens * (size_t)c->d * sizeof(float);
    char what[96];
    c->region_bytes = (bytes + PAGE - 1) / PAGE * PAGE;
    snprintf(what, sizeof what, "captured activations (%d tokens, %d layers)", c->n_tokens,
             n_regions);
    return spool_open(dir, c->region_bytes * (size_t)n_regions, what, &c->fd, err);
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
    moe_status status = spool_write(s->c->fd, x, floats * sizeof(float), at, err);
    return status == MOE_OK ? interrupt_check(err) : status;
}

static moe_status run_batches(const moe_model *m, moe_engine *e, const calibration *t,
                              progress *bar, moe_error *err)
{
    const size_t n = (size_t)t->n_seqs, labels = (size_t)moe_model_describe(m)->n_labels;
    int32_t *bounds = malloc((n + 1) * sizeof *bounds);
    float *logits = malloc(n * labels * sizeof *logits);
    moe_status status = MOE_OK;
    if (!bounds || !logits)
        status = moe_fail(err, MOE_E_MEMORY, "no memory to run %d sequences", t->n_seqs);
    for (int first = 0, end; status == MOE_OK && first < t->n_seqs; first = end) {
        const moe_batch batch = calibration_batch(t, first, bounds, &end);
        moe_output out = {.logits = logits};
        status = moe_forward(e, &batch, &out, err);
        progress_update(bar, t->cu_seqlens[end], NULL);
    }
    free(bounds);
    free(logits);
    return status;
}

static moe_status run_model(const moe_model *m, moe_pool *pool, const calibration *t,
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
        status = run_batches(m, e, t, bar, err);
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
    calibration t;
    int n_regions = 0;
    *c = (capture){.d = info->d_model, .n_layers = info->n_layers, .fd = -1};
    moe_status status = calibration_read(m, data, max_tokens, &t, err);
    c->region = malloc((size_t)c->n_layers * sizeof *c->region);
    if (status == MOE_OK && !c->region)
        status = moe_fail(err, MOE_E_MEMORY, "no memory to capture %d layers", c->n_layers);
    if (status == MOE_OK) {
        c->n_tokens = t.n_tokens;
        c->n_seqs = t.n_seqs;
        c->n_rows = t.n_rows;
        c->n_unknown = t.n_unknown;
        for (int l = 0; l < c->n_layers; l++)
            c->region[l] = wanted[l] ? n_regions++ : -1;
        status = open_spool(dir, n_regions, c, err);
    }
    if (status == MOE_OK)
        status = run_model(m, pool, &t, c, bar, err);
    c->cu_seqlens = t.cu_seqlens; /* the bounds stay when the tokens go */
    t.cu_seqlens = NULL;
    calibration_free(&t);
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
