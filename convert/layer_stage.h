/* layer_stage.h: the split of one layer and its first router, from the rows that
 * enter its FFN in the dense model. */
#ifndef CONVERT_LAYER_STAGE_H
#define CONVERT_LAYER_STAGE_H

#include "convert/calibration.h"
#include "convert/converted.h"

/* What a stage works with; all borrowed. */
typedef struct {
    const split_kind *split;
    const router_kind *router;
    const calibration *text;   /* of the rows */
    const float *x;            /* [n_tokens, d] */
    const float *sensitivity;  /* [n_tokens], or NULL: see router_input */
    uint64_t seed;
    workers *workers;
    void (*on_stage)(void *ctx, int layer, int stage, const char *what); /* or NULL */
    void *ctx;
} layer_stage;

enum { LAYER_STAGES = 3 }; /* that on_stage hears of */

/* Splits the layer, trains its router, puts both into c and fills c->layers[layer].
 * router: out, the caller's, router_rows_free. */
moe_status layer_stage_run(const layer_stage *s, int layer, converted *c,
                           router_rows *router, moe_error *err);

#endif
