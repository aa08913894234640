/* regression.c: products by BLAS, the rest as the formulas stand. */
#include <string.h>

#include "convert/activation.h"
#include "convert/blas.h"
#include "convert/regression.h"

size_t regression_floats(regression_shape s)
{
    const size_t d = (size_t)s.d, d_ff = (size_t)s.d_ff;
    return 2 * d_ff * d + d_ff + d;
}

regression_view regression_parts(regression_shape s, float *params)
{
    const size_t matrix = (size_t)s.d_ff * (size_t)s.d;
    regression_view v = {.w1 = params};
    v.b1 = v.w1 + matrix;
    v.w2 = v.b1 + s.d_ff;
    v.b2 = v.w2 + matrix;
    return v;
}

static void fill_rows(const float *row, int n, int n_rows, float *to)
{
    for (int t = 0; t < n_rows; t++)
        memcpy(to + (size_t)t * (size_t)n, row, (size_t)n * sizeof *to);
}

void regression_forward(regression_shape s, moe_activation act, const float *params,
                        const float *x, int n_rows, float *h, float *y)
{
    const regression_view p = regression_parts(s, (float *)params); /* only read */
    const size_t n = (size_t)n_rows * (size_t)s.d_ff;
    fill_rows(p.b1, s.d_ff, n_rows, h);
    blas_nt(n_rows, s.d_ff, s.d, x, s.d, p.w1, s.d, 1, h, s.d_ff);
    activation_apply(act, n, h);
    fill_rows(p.b2, s.d, n_rows, y);
    blas_nn(n_rows, s.d, s.d_ff, h, s.d_ff, p.w2, s.d, 1, y, s.d);
}

static void sums(const float *h, int n, float *sum, float *squares)
{
    *sum = *squares = 0;
    for (int i = 0; i < n; i++) {
        *sum += h[i];
        *squares += h[i] * h[i];
    }
}

double regression_density(const float *h, int d_ff)
{
    float sum, squares;
    sums(h, d_ff, &sum, &squares);
    return squares > 0 ? (double)sum * sum / squares / d_ff : 0;
}

/* d (S^2 / Q) / dh_n = 2 S / Q - 2 S^2 h_n / Q^2, with S the sum of h and Q that of
 * its squares. */
static void add_density_gradient(const float *h, int d_ff, float weight, float *dh)
{
    float sum, squares;
    sums(h, d_ff, &sum, &squares);
    if (!(squares > 0))
        return;
    const float a = 2 * weight * sum / squares / (float)d_ff, b = a * sum / squares;
    for (int n = 0; n < d_ff; n++)
        dh[n] += a - b * h[n];
}

void regression_rows(regression_shape s, const float *params, regression_weights w,
                     const float *x, const float *target, int n_rows, float *h,
                     float *dy, float *dh)
{
    const regression_view p = regression_parts(s, (float *)params); /* only read */
    const size_t d_ff = (size_t)s.d_ff, outputs = (size_t)n_rows * (size_t)s.d;
    regression_forward(s, MOE_ACT_RELU, params, x, n_rows, h, dy);
    for (size_t i = 0; i < outputs; i++)
        dy[i] = 2 * w.error * (dy[i] - target[i]);
    blas_nt(n_rows, s.d_ff, s.d, dy, s.d, p.w2, s.d, 0, dh, s.d_ff);
    for (size_t t = 0; t < (size_t)n_rows; t++) {
        float *row = dh + t * d_ff;
        const float *fired = h + t * d_ff;
        if (w.density > 0)
            add_density_gradient(fired, s.d_ff, w.density, row);
        for (size_t n = 0; n < d_ff; n++)
            row[n] = fired[n] > 0 ? row[n] : 0;
    }
}

/* to [n] = sums of n columns of y, ld floats from row to row */
static void column_sums(const float *y, int ld, int n_rows, int n, float *to)
{
    memset(to, 0, (size_t)n * sizeof *to);
    for (int t = 0; t < n_rows; t++)
        for (int j = 0; j < n; j++)
            to[j] += y[(size_t)t * (size_t)ld + (size_t)j];
}

void regression_neurons(regression_shape s, const float *x, const float *h,
                        const float *dy, const float *dh, int n_rows, int first, int n,
                        float *gradient)
{
    const regression_view g = regression_parts(s, gradient);
    const size_t at = (size_t)first * (size_t)s.d;
    blas_tn(n, s.d, n_rows, dh + first, s.d_ff, x, s.d, 0, g.w1 + at, s.d);
    blas_tn(n, s.d, n_rows, h + first, s.d_ff, dy, s.d, 0, g.w2 + at, s.d);
    column_sums(dh + first, s.d_ff, n_rows, n, g.b1 + first);
}

void regression_output_bias(regression_shape s, const float *dy, int n_rows,
                            float *gradient)
{
    column_sums(dy, s.d, n_rows, s.d, regression_parts(s, gradient).b2);
}
