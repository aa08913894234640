/* models.c: opens, starts and closes the served models. All engines share one
 * pool of compute threads; their forward passes take turns. */
#include "server/models.h"

#include <stdlib.h>
#include <string.h>

moe_status models_open(models *m, const config *c, moe_error *err)
{
    moe_status status = MOE_OK;
    *m = (models){.list = calloc((size_t)c->n_models, sizeof *m->list)};
    if (!m->list)
        return moe_fail(err, MOE_E_MEMORY, "out of memory for %d models", c->n_models);
    for (int i = 0; status == MOE_OK && i < c->n_models; i++) {
        served_model *s = &m->list[i];
        s->name = c->models[i].name;
        status = moe_model_open(c->models[i].dir, &s->model, err);
        if (status == MOE_OK)
            s->info = moe_model_describe(s->model);
        if (status == MOE_OK && s->info->task == MOE_TASK_TEXT)
            status = text_labels_create(s, err);
        queue_init(&s->line, c->queue_inputs, c->queue_tokens);
        m->n++;
    }
    if (status != MOE_OK)
        models_close(m);
    return status;
}

/* Whether any model has something waiting: a probe must not delay it. */
enum { CHUNK_TOKENS = 2048 };

static bool any_waiting(void *ctx)
{
    const models *m = ctx;
    for (int i = 0; i < m->n; i++)
        if (m->list[i].line.n_sequences > 0)
            return true;
    return false;
}

static moe_status start_probe(models *m, served_model *s, const config *c, moe_error *err)
{
    probe_options o = {
        .model = s->model, .pool = m->pool, .stats = &s->stats, .backend = c->backend,
        .busy = any_waiting, .ctx = m,
    };
    return probe_create(&o, &s->probe, err);
}

static moe_status start_one(models *m, served_model *s, const config *c, moe_error *err)
{
    moe_engine_options engine = {
        .backend = c->backend,
        /* A larger batch goes through the layers in chunks: memory stays small, and
         * activations in cache. 0 is the engine's own size. */
        .chunk_tokens = c->batch_tokens < CHUNK_TOKENS ? c->batch_tokens : 0,
        .measure_plan = true,
    };
    moe_status status = moe_engine_create(s->model, m->pool, &engine, &s->engine, err);
    if (status == MOE_OK && c->probe && s->info->moefied && s->info->task != MOE_TASK_TEXT)
        status = start_probe(m, s, c, err);
    if (status != MOE_OK)
        return status;
    batcher_options o = {
        .model = s->model, .engine = s->engine, .probe = s->probe, .queue = &s->line,
        .stats = &s->stats, .batch_tokens = c->batch_tokens,
    };
    return batcher_create(&o, &s->batcher, err);
}

moe_status models_start(models *m, const config *c, moe_error *err)
{
    moe_status status = moe_pool_create(c->threads, &m->pool, err);
    for (int i = 0; status == MOE_OK && i < m->n; i++)
        status = start_one(m, &m->list[i], c, err);
    return status;
}

void models_refuse(models *m)
{
    for (int i = 0; i < m->n; i++)
        queue_close(&m->list[i].line);
}

void models_close(models *m)
{
    models_refuse(m);
    for (int i = 0; i < m->n; i++) {
        served_model *s = &m->list[i];
        batcher_destroy(s->batcher);
        probe_destroy(s->probe);
        moe_engine_destroy(s->engine);
        text_labels_free(s);
        moe_model_close(s->model);
        queue_destroy(&s->line);
    }
    moe_pool_destroy(m->pool);
    free(m->list);
    *m = (models){0};
}

served_model *models_find(const models *m, const char *name)
{
    for (int i = 0; i < m->n; i++)
        if (!name || strcmp(m->list[i].name, name) == 0)
            return &m->list[i];
    return NULL;
}

double model_ratio(const served_model *m, double requested)
{
    return m->info->moefied ? requested : 1;
}
