/* expert_norms.h: how much each expert of a split layer adds to a row's output,
 *
 *     ||W2_e h_e||_2,   h = act(x W1^T + b1), its negative part included.
 *
 * Squared it is h_e^T (W2_e^T W2_e) h_e: with the 32 x 32 Gram of each expert made
 * once, it costs little more than h itself. */
#ifndef CONVERT_EXPERT_NORMS_H
#define CONVERT_EXPERT_NORMS_H

#include "convert/layer.h"

typedef struct expert_norms expert_norms;

/* neurons [n_experts * 32]: the split; l is borrowed, neurons are not. */
moe_status expert_norms_create(const ffn_layer *l, const int32_t *neurons,
                               expert_norms **out, moe_error *err);
void expert_norms_free(expert_norms *n); /* NULL is fine */

/* norms [n_rows, n_experts] of x [n_rows, d], by l's workers; one caller at a time.
 * Interrupted by a signal: MOE_E_IO, and norms are of no use. */
moe_status expert_norms_of(expert_norms *n, const float *x, int n_rows, float *norms,
                           moe_error *err);

#endif
