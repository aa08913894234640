/* route.h: one layer's routing within a forward pass: scores, selection,
 * statistics. */
#ifndef MOE_ROUTING_ROUTE_H
#define MOE_ROUTING_ROUTE_H

#include "engine/engine.h"

/* Prepares a chunk: what each sequence computes in each of its layers; clears its sums. */
void route_begin(moe_engine *e, const chunk *c);

/* Chooses the experts of the chunk's tokens for a layer whose FFN input is x
 * [n_tokens, d_model], backend memory. NULL: every token computes all experts, the dense path. */
const moe_route *route_layer(moe_engine *e, const chunk *c, int layer, const float *x);

/* Fills the chunk's effective ratios and mass, and adds to the statistics. */
void route_end(moe_engine *e, const chunk *c);

/* What the layer's output y [c->n_tokens, d] lacks on average for the experts that the
 * route left out is added to it. route NULL: nothing. */
void route_add_shift(moe_engine *e, const chunk *c, int layer, const moe_route *route, float *y);

#endif
