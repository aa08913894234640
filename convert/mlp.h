/* mlp.h: a two-layer perceptron, its gradient and Adam.
 *
 *     z = W2 tanh(W1 x + b1) + b2,   loss = BCE(sigmoid(z), y), y soft in [0, 1]
 *
 * The parameters are one array: W1 [hidden, d], b1 [hidden], W2 [out, hidden],
 * b2 [out], in this order. Gradients have the same layout. */
#ifndef CONVERT_MLP_H
#define CONVERT_MLP_H

#include <stddef.h>

typedef struct { int d, hidden, out; } mlp_shape;
typedef struct { const float *w1, *b1, *w2, *b2; } mlp_view;

size_t mlp_floats(mlp_shape s);
mlp_view mlp_parts(mlp_shape s, const float *params);

/* The gradient of scale * (sum of the loss over rows and outputs).
 * x [n_rows, d], y [n_rows, out]; scratch [n_rows, 2 hidden + out]; gradient:
 * overwritten. */
void mlp_gradient(mlp_shape s, const float *params, const float *x, const float *y,
                  int n_rows, float scale, float *scratch, float *gradient);

/* The sum of the loss over rows and outputs; scratch [n_rows, hidden + out]. */
double mlp_loss(mlp_shape s, const float *params, const float *x, const float *y,
                int n_rows, float *scratch);

/* One step of Adam (0.9, 0.999, 1e-8) on n parameters; step counts from 1; mean
 * and square [n] start as zeros and stay the caller's. */
void adam_step(float *params, const float *gradient, size_t n, int step, float rate,
               float *mean, float *square);

#endif
