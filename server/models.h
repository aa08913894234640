/* models.h: what is served: names, models, engines, queues, batchers, counts.
 *
 * The set is fixed once opened, so any thread reads it without a lock. */
#ifndef SERVER_MODELS_H
#define SERVER_MODELS_H

#include "server/batcher.h"
#include "server/config.h"

typedef struct {
    const char *name;
    moe_model *model;
    const moe_model_info *info; /* the model's */
    moe_engine *engine;         /* the batcher's; statistics are anybody's */
    probe *probe;               /* NULL: off, or nothing to compare */
    queue line;
    batcher *batcher;
    model_stats stats;
} served_model;

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
