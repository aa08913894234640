/* relufy.h: from an open dense model with GELU to one with ReLU, layer by layer:
 * walk the calibration text up to the layer's FFN, train the FFN, walk on. */
#ifndef CONVERT_RELUFY_H
#define CONVERT_RELUFY_H

#include "convert/cli.h"
#include "convert/dataset.h"
#include "convert/relufy_layer.h"
#include "engine/model/model.h"

typedef struct {
    int epochs;
    double penalty;         /* weight of the density, see relufy_layer.h; 0: none */
    uint64_t seed;
    int max_tokens;
    int n_threads;          /* 0: as many as moe_pool_create takes */
    const char *spool_dir;  /* where the rows may lie */
} relufy_options;

typedef struct {
    relufy_figures swapped; /* the source's weights with ReLU in GELU's place */
    relufy_figures trained;
} relufy_report;

typedef struct {
    moe_model model;        /* the source's, with the new FFNs in place */
    relufy_report *layers;  /* [n_layers] */
    int n_tokens, n_seqs, n_rows, n_unknown;
    float **arrays;         /* of the new FFNs */
    int n_arrays;
} relufied;

/* m: dense, not ReLU. The result borrows m, which must outlive it: relufied_free.
 * Interrupted by a signal: MOE_E_IO. */
moe_status relufy_model(const moe_model *m, const dataset *data, const relufy_options *o,
                        progress *bar, relufied *out, moe_error *err);
void relufied_free(relufied *r);

#endif
