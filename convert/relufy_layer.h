/* relufy_layer.h: trains one FFN with ReLU on rows and targets in a spool file. */
#ifndef CONVERT_RELUFY_LAYER_H
#define CONVERT_RELUFY_LAYER_H

#include <stdint.h>

#include "convert/regression.h"
#include "convert/workers.h"

/* What an FFN comes to on the held-out tokens. */
typedef struct {
    double error;   /* squared error over the targets' variance */
    double active;  /* share of (token, neuron) pairs that fire */
    double density; /* mean squared Hoyer measure over d_ff, (0, 1] */
} relufy_figures;

typedef struct {
    int index;                  /* of the layer, for its random stream */
    regression_shape shape;
    int fd;                     /* record t, [2 d] floats at t: row, target */
    const int32_t *train, *held_out; /* tokens; at least one each */
    int n_train, n_held_out;
    int epochs;
    double penalty;             /* weight of the density beside the relative error */
    uint64_t seed;
    workers *workers;
    void (*on_epoch)(void *ctx, int epoch); /* called after each, from 1 on; or NULL */
    void *ctx;
} relufy_layer;

/* params [regression_floats]: in, where training starts; out, where it ends.
 * swapped, trained: the figures before and after. Adam on batches of 512 tokens, its
 * rate rising at first and then falling to nothing. MOE_E_FORMAT where the
 * parameters end as no numbers, MOE_E_IO where interrupted. */
moe_status relufy_layer_train(const relufy_layer *l, float *params,
                              relufy_figures *swapped, relufy_figures *trained,
                              moe_error *err);

#endif
