/* regression.h: an FFN with ReLU as a two-layer regression, and its gradient.
 *
 *     h = relu(W1 x + b1),   y = W2^T h + b2
 *     loss of a row = error_weight ||y - target||^2
 *                   + density_weight (sum_n |h_n|)^2 / (d_ff sum_n h_n^2)
 *
 * The second term is the squared Hoyer measure (Yang et al. 2020, arXiv:1908.09979):
 * 1 where all neurons fire alike, 1 / d_ff where one does, whatever their scale.
 *
 * The parameters are one array: W1 [d_ff, d], b1 [d_ff], W2 [d_ff, d] (a neuron's
 * weights in a row, the checkpoint's transposed), b2 [d]. A gradient has the same
 * layout. It is found in two steps, each of which a caller may cut into tasks: rows,
 * then neurons. */
#ifndef CONVERT_REGRESSION_H
#define CONVERT_REGRESSION_H

#include <stddef.h>

#include "engine/model/weights.h"

typedef struct { int d, d_ff; } regression_shape;
typedef struct { float *w1, *b1, *w2, *b2; } regression_view;
typedef struct { float error, density; } regression_weights;

size_t regression_floats(regression_shape s);
regression_view regression_parts(regression_shape s, float *params);

/* h [n_rows, d_ff] = act(x W1^T + b1), y [n_rows, d] = h W2 + b2, x [n_rows, d]. */
void regression_forward(regression_shape s, moe_activation act, const float *params,
                        const float *x, int n_rows, float *h, float *y);

/* Rows: h, and the gradients of the summed loss by y (dy [n_rows, d]) and by the
 * first layer's sums (dh [n_rows, d_ff]). */
void regression_rows(regression_shape s, const float *params, regression_weights w,
                     const float *x, const float *target, int n_rows, float *h,
                     float *dy, float *dh);

/* Neurons: the gradient of W1, b1 and W2 for neurons [first, first + n), from all
 * rows. */
void regression_neurons(regression_shape s, const float *x, const float *h,
                        const float *dy, const float *dh, int n_rows, int first, int n,
                        float *gradient);
/* The gradient of b2. */
void regression_output_bias(regression_shape s, const float *dy, int n_rows,
                            float *gradient);

/* The squared Hoyer measure of a row of h >= 0, over d_ff: (0, 1], 0 of a row
 * without any. */
double regression_density(const float *h, int d_ff);

#endif
