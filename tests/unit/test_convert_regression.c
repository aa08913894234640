/* The ReLU regression: its gradient against finite differences, its density by
 * hand, and the training of one layer: a planted network comes back, the penalty
 * makes it sparser, and the number of threads changes nothing. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "convert/blas.h"
#include "convert/regression.h"
#include "convert/relufy_layer.h"
#include "convert/rng.h"
#include "convert/spool.h"

static void draw(rng *r, float *x, size_t n, double scale)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(scale * rng_normal(r));
}

static void density_is_the_share_of_neurons_that_fire_alike(void **state)
{
    (void)state;
    static const float one[] = {0, 0, 3, 0}, half[] = {2, 0, 2, 0}, all[] = {5, 5, 5, 5};
    static const float none[4], mixed[] = {1, 2, 0, 0};
    assert_float_equal(regression_density(one, 4), 0.25, 1e-6);
    assert_float_equal(regression_density(half, 4), 0.5, 1e-6);
    assert_float_equal(regression_density(all, 4), 1, 1e-6);
    assert_float_equal(regression_density(none, 4), 0, 0);
    assert_float_equal(regression_density(mixed, 4), 9.0 / 5 / 4, 1e-6);
}

/* ---- the gradient --------------------------------------------------------- */

enum { D = 5, D_FF = 7, ROWS = 6, PARAMS = 2 * D_FF * D + D_FF + D };
static const regression_shape shape = {.d = D, .d_ff = D_FF};

/* The loss in double precision, written out. */
static double loss(const float *params, regression_weights w, const float *x,
                   const float *target)
{
    const float *w1 = params, *b1 = w1 + D_FF * D, *w2 = b1 + D_FF, *b2 = w2 + D_FF * D;
    double sum = 0;
    for (int t = 0; t < ROWS; t++) {
        double h[D_FF], s = 0, q = 0;
        for (int n = 0; n < D_FF; n++) {
            h[n] = b1[n];
            for (int i = 0; i < D; i++)
                h[n] += (double)w1[n * D + i] * x[t * D + i];
            h[n] = h[n] > 0 ? h[n] : 0;
            s += h[n];
            q += h[n] * h[n];
        }
        for (int i = 0; i < D; i++) {
            double y = b2[i];
            for (int n = 0; n < D_FF; n++)
                y += w2[n * D + i] * h[n];
            sum += w.error * (y - target[t * D + i]) * (y - target[t * D + i]);
        }
        sum += q > 0 ? w.density * s * s / q / D_FF : 0;
    }
    return sum;
}

/* The loss is taken in doubles at parameters that floats hold exactly, so what is
 * left is the floats of the gradient and the curve of the loss within a step. */
static void the_gradient_is_what_finite_differences_give(void **state)
{
    (void)state;
    static const regression_weights weights[] = {{0.7f, 0}, {0, 2}, {0.7f, 2}};
    float params[PARAMS], x[ROWS * D], target[ROWS * D], gradient[PARAMS];
    float h[ROWS * D_FF], dh[ROWS * D_FF], dy[ROWS * D];
    rng r = rng_stream(1, 2, 3);
    draw(&r, params, PARAMS, 1);
    draw(&r, x, ROWS * D, 1);
    draw(&r, target, ROWS * D, 1);
    for (int i = 0; i < D; i++)
        x[3 * D + i] *= 1e-6f; /* a row that b1 alone decides */
    for (int k = 0; k < 3; k++) {
        regression_rows(shape, params, weights[k], x, target, ROWS, h, dy, dh);
        for (int first = 0; first < D_FF; first += 3)
            regression_neurons(shape, x, h, dy, dh, ROWS, first,
                               first + 3 < D_FF ? 3 : D_FF - first, gradient);
        regression_output_bias(shape, dy, ROWS, gradient);
        for (int i = 0; i < PARAMS; i++) {
            const float kept = params[i], step = 0x1p-12f;
            params[i] = kept + step;
            const double up = params[i], above = loss(params, weights[k], x, target);
            params[i] = kept - step;
            const double down = params[i], below = loss(params, weights[k], x, target);
            params[i] = kept;
            const double want = (above - below) / (up - down);
            if (fabs(gradient[i] - want) > 1e-3 * (1 + fabs(want)))
                fail_msg("weights %d, parameter %d: %g, expected %g", k, i,
                         (double)gradient[i], want);
        }
    }
}

/* ---- training ------------------------------------------------------------- */

/* d and d_ff that fill no piece or slice; more tokens than a batch. */
enum { WIDE = 20, NEURONS = 70, TOKENS = 1500, HELD = 100,
       N = 2 * NEURONS * WIDE + NEURONS + WIDE };
static const regression_shape planted_shape = {.d = WIDE, .d_ff = NEURONS};
static int32_t train[TOKENS - HELD], held_out[HELD];

/* Records of a random ReLU network, whose parameters go to planted. */
static int write_records(float *planted)
{
    static float x[TOKENS * WIDE], y[TOKENS * WIDE], h[TOKENS * NEURONS];
    static float records[TOKENS * 2 * WIDE];
    rng r = rng_stream(4, 5, 6);
    int fd;
    moe_error err;
    draw(&r, planted, N, 0.3);
    draw(&r, x, TOKENS * WIDE, 1);
    regression_forward(planted_shape, MOE_ACT_RELU, planted, x, TOKENS, h, y);
    for (int t = 0; t < TOKENS; t++) {
        memcpy(records + t * 2 * WIDE, x + t * WIDE, WIDE * sizeof(float));
        memcpy(records + t * 2 * WIDE + WIDE, y + t * WIDE, WIDE * sizeof(float));
    }
    for (int t = 0; t < HELD; t++)
        held_out[t] = t;
    for (int t = HELD; t < TOKENS; t++)
        train[t - HELD] = t;
    if (spool_open(getenv("MOE_TMP"), sizeof records, "records", &fd, &err) ||
        spool_write(fd, records, sizeof records, 0, &err))
        fail_msg("%s", err.message);
    return fd;
}

/* Trains from the planted parameters, every third neuron silenced. */
static relufy_figures train_damaged(int fd, const float *planted, int threads,
                                    double penalty, float *params, relufy_figures *before)
{
    workers *w;
    moe_error err;
    relufy_figures after;
    assert_int_equal(workers_create(threads, &w, &err), MOE_OK);
    const relufy_layer l = {.index = 1, .shape = planted_shape, .fd = fd, .train = train,
                            .held_out = held_out, .n_train = TOKENS - HELD,
                            .n_held_out = HELD, .epochs = 400, .penalty = penalty,
                            .seed = 1, .workers = w};
    memcpy(params, planted, N * sizeof *params);
    for (int n = 0; n < NEURONS; n += 3)
        memset(regression_parts(planted_shape, params).w2 + n * WIDE, 0,
               WIDE * sizeof *params);
    if (relufy_layer_train(&l, params, before, &after, &err) != MOE_OK)
        fail_msg("%s", err.message);
    workers_destroy(w);
    return after;
}

static void a_damaged_network_is_repaired(void **state)
{
    (void)state;
    static float planted[N], params[N], more[N];
    relufy_figures before;
    int fd = write_records(planted);
    relufy_figures after = train_damaged(fd, planted, 2, 0, params, &before);
    assert_true(before.error > 0.1 && before.error < 1);
    assert_true(after.error < before.error / 10);
    assert_true(after.active > 0.2 && after.active < 0.8);
    train_damaged(fd, planted, 3, 0, more, &before);
    assert_memory_equal(params, more, sizeof params);
    relufy_figures sparse = train_damaged(fd, planted, 1, 1, more, &before);
    assert_true(sparse.density < after.density * 0.9);
    assert_true(sparse.active < after.active * 0.9);
    close(fd);
}

/* A file that ends early must not be trained on. */
static void records_that_are_not_there_are_an_error(void **state)
{
    (void)state;
    static float planted[N];
    relufy_figures figures;
    moe_error err;
    workers *w;
    int fd = write_records(planted);
    static const int32_t past[] = {0, TOKENS};
    assert_int_equal(workers_create(1, &w, &err), MOE_OK);
    const relufy_layer l = {.shape = planted_shape, .fd = fd, .train = past,
                            .held_out = held_out, .n_train = 2, .n_held_out = 1,
                            .epochs = 1, .workers = w};
    assert_int_equal(relufy_layer_train(&l, planted, &figures, &figures, &err), MOE_E_IO);
    assert_non_null(strstr(err.message, "cannot be read"));
    workers_destroy(w);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(density_is_the_share_of_neurons_that_fire_alike),
        cmocka_unit_test(the_gradient_is_what_finite_differences_give),
        cmocka_unit_test(a_damaged_network_is_repaired),
        cmocka_unit_test(records_that_are_not_there_are_an_error),
    };
    blas_begin();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
