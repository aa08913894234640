/* models.h: what is served: names, models, engines, queues, batchers, counts.
 *
 * The set is fixed once opened, so any thread reads it without a lock. */
#ifndef SERVER_MODELS_H
#define SERVER_MODELS_H

#include "server/batcher.h"
#include "server/config.h"

/* The label words of a task of a text-to-text model. */
typedef struct { const moe_text_task *task; moe_labels *labels; } text_labels;

typedef struct {
    const char *name;
    moe_model *model;
    const moe_model_info *info; /* the model's */
    moe_engine *engine;         /* the batcher's; statistics are anybody's */
    probe *probe;               /* NULL: off, or nothing to compare */
    queue line;
    batcher *batcher;
    model_stats stats;
    text_labels *text_labels;   /* [n_text_labels] of all tasks with label words */
    int n_text_labels;
} served_model;

/* text.c: makes and frees those of a text-to-text model; the task's by name, NULL: none. */
moe_status text_labels_create(served_model *m, moe_error *err);
void text_labels_free(served_model *m);
const text_labels *text_labels_find(const served_model *m, const char *task);

typedef struct {
    served_model *list; /* [n]; the first is the default */
    int n;
    moe_pool *pool;
} models;

/* Opens every model that the configuration names. c outlives the models.
 * On failure nothing is owed. */
moe_status models_open(models *m, const config *c, moe_error *err);
/* Makes the pool, engines and batchers: threads start here. */
moe_status models_start(models *m, const config *c, moe_error *err);
/* Refuses what is still queued, ends the batchers, frees everything. Jobs'
 * done() may still be called from within. */
void models_close(models *m);

/* By name, or the default where name is NULL; NULL: there is none. */
served_model *models_find(const models *m, const char *name);
/* No more jobs; what is queued is refused. models_close does the rest. */
void models_refuse(models *m);

/* The ratio that a sequence really asks for: 1 where the model is not MoEfied. */
double model_ratio(const served_model *m, double requested);

#endif
