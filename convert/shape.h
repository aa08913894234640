/* shape.h: models of a known shape with random weights, built in memory, to
 * measure speed on. */
#ifndef CONVERT_SHAPE_H
#define CONVERT_SHAPE_H

#include "engine/model/weights.h"

typedef struct {
    const char *name;
    int n_layers, d_model, d_ff, n_heads;
    const char *activation;
    const char *about; /* what it stands for */
} model_shape;

extern const model_shape model_shapes[]; /* ended by a NULL name */

/* A classifier of that shape: BERT-style post-norm layers over random weights, a
 * vocabulary of 1,000, up to 512 tokens, no router (MOE_SELECT_RANDOM routes it).
 * Equal shapes get equal weights. shape_model_free, not moe_model_close. */
moe_status shape_model_create(const model_shape *shape, moe_dtype dtype, moe_model **out,
                              moe_error *err);
void shape_model_free(moe_model *m);

#endif
