/* mlp.c: forward, backward, Adam: three products forward and back each. */
#include <math.h>
#include <string.h>

#include "convert/blas.h"
#include "convert/mlp.h"

size_t mlp_floats(mlp_shape s)
{
    const size_t d = (size_t)s.d, hidden = (size_t)s.hidden, out = (size_t)s.out;
    return hidden * d + hidden + out * hidden + out;
}

mlp_view mlp_parts(mlp_shape s, const float *params)
{
    mlp_view v;
    v.w1 = params;
    v.b1 = v.w1 + (size_t)s.hidden * (size_t)s.d;
    v.w2 = v.b1 + s.hidden;
    v.b2 = v.w2 + (size_t)s.out * (size_t)s.hidden;
    return v;
}

/* y [n_rows, n] = x [n_rows, k] w^T + b */
static void linear(const float *x, const float *w, const float *b, int n_rows, int n,
                   int k, float *y)
{
    for (int t = 0; t < n_rows; t++)
        memcpy(y + (size_t)t * (size_t)n, b, (size_t)n * sizeof *y);
    blas_nt(n_rows, n, k, x, k, w, k, 1, y, n);
}

static void forward(mlp_shape s, const float *params, const float *x, int n_rows,
                    float *hidden, float *z)
{
    const mlp_view p = mlp_parts(s, params);
    const size_t n = (size_t)n_rows * (size_t)s.hidden;
    linear(x, p.w1, p.b1, n_rows, s.hidden, s.d, hidden);
    /* By expf: several times faster than tanhf, and exact to 1e-7 here. */
    for (size_t i = 0; i < n; i++)
        hidden[i] = 1 - 2 / (1 + expf(2 * hidden[i]));
    linear(hidden, p.w2, p.b2, n_rows, s.out, s.hidden, z);
}

/* b [n] = column sums of y [n_rows, n] */
static void column_sums(const float *y, int n_rows, int n, float *b)
{
    memset(b, 0, (size_t)n * sizeof *b);
    for (int t = 0; t < n_rows; t++)
        for (int j = 0; j < n; j++)
            b[j] += y[(size_t)t * (size_t)n + (size_t)j];
}

void mlp_gradient(mlp_shape s, const float *params, const float *x, const float *y,
                  int n_rows, float scale, float *scratch, float *gradient)
{
    const mlp_view p = mlp_parts(s, params);
    const size_t n_hidden = (size_t)n_rows * (size_t)s.hidden;
    const size_t n_out = (size_t)n_rows * (size_t)s.out;
    float *hidden = scratch, *d_hidden = hidden + n_hidden, *z = d_hidden + n_hidden;
    float *w1 = gradient, *b1 = w1 + (size_t)s.hidden * (size_t)s.d;
    float *w2 = b1 + s.hidden, *b2 = w2 + (size_t)s.out * (size_t)s.hidden;

    forward(s, params, x, n_rows, hidden, z);
    /* d loss / dz = sigmoid(z) - y */
    for (size_t i = 0; i < n_out; i++)
        z[i] = scale * (1 / (1 + expf(-z[i])) - y[i]);
    blas_tn(s.out, s.hidden, n_rows, z, s.out, hidden, s.hidden, 0, w2, s.hidden);
    column_sums(z, n_rows, s.out, b2);
    blas_nn(n_rows, s.hidden, s.out, z, s.out, p.w2, s.hidden, 0, d_hidden, s.hidden);
    for (size_t i = 0; i < n_hidden; i++)
        d_hidden[i] *= 1 - hidden[i] * hidden[i];
    blas_tn(s.hidden, s.d, n_rows, d_hidden, s.hidden, x, s.d, 0, w1, s.d);
    column_sums(d_hidden, n_rows, s.hidden, b1);
}

double mlp_loss(mlp_shape s, const float *params, const float *x, const float *y,
                int n_rows, float *scratch)
{
    float *z = scratch + (size_t)n_rows * (size_t)s.hidden;
    forward(s, params, x, n_rows, scratch, z);
    double sum = 0;
    for (size_t i = 0; i < (size_t)n_rows * (size_t)s.out; i++)
        sum += (z[i] > 0 ? z[i] : 0) - z[i] * y[i] + log1p(exp(-fabs(z[i])));
    return sum;
}

void adam_step(float *params, const float *gradient, size_t n, int step, float rate,
               float *mean, float *square)
{
    const float keep_mean = 0.9f, keep_square = 0.999f;
    const float step_rate = (float)(rate / (1 - pow(keep_mean, step)));
    const float unbias = (float)(1 / sqrt(1 - pow(keep_square, step)));
    for (size_t i = 0; i < n; i++) {
        const float g = gradient[i];
        mean[i] = keep_mean * mean[i] + (1 - keep_mean) * g;
        square[i] = keep_square * square[i] + (1 - keep_square) * g * g;
        params[i] -= step_rate * mean[i] / (sqrtf(square[i]) * unbias + 1e-8f);
    }
}
