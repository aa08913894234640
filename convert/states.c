/* states.c: the forward pass in steps, a batch at a time through all layers, each
 * boundary's rows written to their region of the spool file. */
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "convert/interrupt.h"
#include "convert/logits.h"
#include "convert/spool.h"
#include "convert/states.h"

enum { PAGE = 4096 };

/* Where a row lies in the file. */
static size_t row_at(const states *s, int region, int row)
{
    return (size_t)region * s->region_bytes + (size_t)row * (size_t)s->d * sizeof(float);
}

static bool holds(const states *s, int region, int first, int n_rows)
{
    return region >= 0 && region < s->n_regions && first >= 0 && n_rows >= 0 &&
           first <= s->n_tokens - n_rows;
}

moe_status states_read(const states *s, int region, int first, int n_rows, float *x,
                       moe_error *err)
{
    assert(holds(s, region, first, n_rows));
    return spool_read(s->fd, x, (size_t)n_rows * (size_t)s->d * sizeof *x,
                      row_at(s, region, first), err);
}

moe_status states_write(const states *s, int region, int first, int n_rows,
                        const float *x, moe_error *err)
{
    assert(holds(s, region, first, n_rows));
    return spool_write(s->fd, x, (size_t)n_rows * (size_t)s->d * sizeof *x,
                       row_at(s, region, first), err);
}

/* ---- the run ------------------------------------------------------------- */

typedef struct {
    moe_engine *engine;
    const calibration *text;
    states *s;
    float *x;         /* [batch tokens, d] */
    int32_t *bounds;  /* [n_seqs + 1] */
} walk;

/* Writes the rows of the batch that begins at token `first`. */
static moe_status keep_rows(const walk *w, int region, int first, int n_rows,
                            moe_error *err)
{
    const size_t d = (size_t)w->s->d;
    for (size_t i = 0; i < (size_t)n_rows * d; i++)
        if (!isfinite(w->x[i]) && region < w->s->n_layers)
            return moe_fail(err, MOE_E_FORMAT, "a value of calibration token %zu that "
                            "enters layer %d is not finite", (size_t)first + i / d, region);
        else if (!isfinite(w->x[i]))
            return moe_fail(err, MOE_E_FORMAT, "a value of calibration token %zu that "
                            "leaves layer %d is not finite", (size_t)first + i / d,
                            region - 1);
    return states_write(w->s, region, first, n_rows, w->x, err);
}

static moe_status run_batch(const walk *w, const moe_batch *b, int first, float *logits,
                            moe_error *err)
{
    const int n_rows = b->cu_seqlens[b->n_seqs];
    moe_status status = moe_step_embed(w->engine, b, w->x, err);
    for (int l = 0; status == MOE_OK && l < w->s->n_layers; l++) {
        status = keep_rows(w, l, first, n_rows, err);
        if (status == MOE_OK)
            status = moe_step_attention(w->engine, l, b, w->x, err);
        if (status == MOE_OK)
            status = moe_step_ffn(w->engine, l, b, w->x, err);
    }
    if (status == MOE_OK)
        status = keep_rows(w, w->s->n_layers, first, n_rows, err);
    if (status == MOE_OK && logits)
        status = moe_step_head(w->engine, b, w->x, logits, err);
    return status;
}

static moe_status run_batches(const walk *w, const moe_model_info *info, progress *bar,
                              float *logits, moe_error *err)
{
    const calibration *t = w->text;
    moe_status status = MOE_OK;
    progress_begin(bar, "reading calibration text", t->n_tokens);
    for (int first = 0, end; status == MOE_OK && first < t->n_seqs; first = end) {
        const moe_batch batch = calibration_batch(t, first, w->bounds, &end);
        float *to = logits ? logits + logits_at(info, t->cu_seqlens, first) : NULL;
        status = run_batch(w, &batch, t->cu_seqlens[first], to, err);
        if (status == MOE_OK)
            status = interrupt_check(err);
        progress_update(bar, t->cu_seqlens[end], NULL);
    }
    progress_end(bar);
    return status;
}

static moe_status open_file(states *s, const char *dir, moe_error *err)
{
    const size_t bytes = row_at(s, 0, s->n_tokens);
    char what[96];
    s->region_bytes = (bytes + PAGE - 1) / PAGE * PAGE;
    snprintf(what, sizeof what, "rows between layers (%d tokens, %d layers)", s->n_tokens,
             s->n_layers);
    return spool_open(dir, s->region_bytes * (size_t)s->n_regions, what, &s->fd, err);
}

moe_status states_run(const moe_model *m, moe_pool *pool, const calibration *text,
                      const char *dir, int n_extra, progress *bar, states *s,
                      float *logits, moe_error *err)
{
    const moe_model_info *info = moe_model_describe(m);
    const size_t tokens = (size_t)calibration_batch_tokens(text);
    *s = (states){.n_layers = info->n_layers, .n_tokens = text->n_tokens,
                  .d = info->d_model, .n_regions = info->n_layers + 1 + n_extra, .fd = -1};
    walk w = {.text = text, .s = s};
    w.x = malloc(tokens * (size_t)s->d * sizeof *w.x);
    w.bounds = malloc(((size_t)text->n_seqs + 1) * sizeof *w.bounds);
    moe_status status = w.x && w.bounds ? open_file(s, dir, err)
                                        : moe_fail(err, MOE_E_MEMORY,
                                                   "no memory for %zu tokens", tokens);
    if (status == MOE_OK)
        status = moe_engine_create(m, pool, NULL, &w.engine, err);
    if (status == MOE_OK)
        status = run_batches(&w, info, bar, logits, err);
    moe_engine_destroy(w.engine);
    free(w.bounds);
    free(w.x);
    return status;
}

/* ---- mapping ------------------------------------------------------------- */

static void unmap(states *s)
{
    if (s->mapped)
        munmap((void *)s->mapped, s->region_bytes);
    s->mapped = NULL;
}

moe_status states_map(states *s, int region, const float **x, moe_error *err)
{
    assert(holds(s, region, 0, s->n_tokens));
    unmap(s);
    void *at = mmap(NULL, s->region_bytes, PROT_READ, MAP_SHARED, s->fd,
                    (off_t)row_at(s, region, 0));
    if (at == MAP_FAILED)
        return moe_fail(err, MOE_E_MEMORY, "rows between layers cannot be mapped: %s",
                        strerror(errno));
    s->mapped = *x = at;
    return MOE_OK;
}

void states_close(states *s)
{
    unmap(s);
    if (s->fd >= 0)
        close(s->fd);
    *s = (states){.fd = -1};
}
