/* Ridge regression: a case by hand, the normal equations solved by brute force,
 * singular and odd input, and the same bits however rows and threads are cut. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "convert/blas.h"
#include "convert/ridge.h"
#include "convert/rng.h"

static void solve_with(const float *x, const float *y, int n, int d, int m, int threads,
                       int piece, double relative, float *a, float *c, double *used)
{
    workers *w;
    ridge *r;
    moe_error err = {0};
    blas_begin();
    assert_int_equal(workers_create(threads, &w, NULL), MOE_OK);
    assert_int_equal(ridge_create(d, m, w, &r, NULL), MOE_OK);
    for (int at = 0; at < n; at += piece)
        ridge_add(r, x + (size_t)at * (size_t)d, d, y + (size_t)at * (size_t)m, m,
                  n - at < piece ? n - at : piece);
    assert_int_equal(ridge_rows(r), n);
    assert_int_equal(ridge_solve(r, relative, a, c, used, &err), MOE_OK);
    ridge_free(r);
    workers_destroy(w);
}

static void a_small_case_by_hand(void **state)
{
    (void)state;
    /* x: mean 2, spread 4 + 0 + 4 = 8; y: mean 3, cross (-2)(-2) + 0 + 2 * 3 = 10.
     * lambda 0: a = 10/8, c = 3 - 2 * 1.25; relative 0.25: a = 10 / (8 + 2). */
    const float x[3] = {0, 2, 4}, y[3] = {1, 2, 6};
    float a, c;
    double used;
    solve_with(x, y, 3, 1, 1, 1, 3, 0, &a, &c, &used);
    assert_true(fabsf(a - 1.25f) < 1e-6f && fabsf(c - 0.5f) < 1e-6f && used == 0);
    solve_with(x, y, 3, 1, 1, 1, 1, 0.25, &a, &c, &used);
    assert_true(fabsf(a - 1) < 1e-6f && fabsf(c - 1) < 1e-6f && used == 0.25);
}

/* Gaussian elimination with pivots on p [n, n], q [n, m]; the answer is left in q. */
static void eliminate(double *p, double *q, int n, int m)
{
    for (int k = 0; k < n; k++) {
        int best = k;
        for (int i = k + 1; i < n; i++)
            if (fabs(p[i * n + k]) > fabs(p[best * n + k]))
                best = i;
        for (int j = 0; j < n; j++) {
            double t = p[k * n + j];
            p[k * n + j] = p[best * n + j];
            p[best * n + j] = t;
        }
        for (int j = 0; j < m; j++) {
            double t = q[k * m + j];
            q[k * m + j] = q[best * m + j];
            q[best * m + j] = t;
        }
        for (int i = 0; i < n; i++) {
            if (i == k)
                continue;
            const double f = p[i * n + k] / p[k * n + k];
            for (int j = k; j < n; j++)
                p[i * n + j] -= f * p[k * n + j];
            for (int j = 0; j < m; j++)
                q[i * m + j] -= f * q[k * m + j];
        }
    }
    for (int k = 0; k < n; k++)
        for (int j = 0; j < m; j++)
            q[k * m + j] /= p[k * n + k];
}

/* (X^T X + lambda D) B = X^T Y with X = [x 1], D the identity but for the bias. */
static void brute_force(const float *x, const float *y, int n, int d, int m,
                        double relative, double *b)
{
    const int k = d + 1;
    double *p = calloc((size_t)(k * k), sizeof *p), lambda = 0;
    for (int i = 0; i < d; i++) {
        double sum = 0, squares = 0;
        for (int t = 0; t < n; t++)
            sum += x[t * d + i];
        for (int t = 0; t < n; t++)
            squares += pow(x[t * d + i] - sum / n, 2);
        lambda += relative * squares / d;
    }
    memset(b, 0, (size_t)(k * m) * sizeof *b);
    for (int t = 0; t < n; t++)
        for (int i = 0; i < k; i++) {
            const double xi = i < d ? x[t * d + i] : 1;
            for (int j = 0; j < k; j++)
                p[i * k + j] += xi * (j < d ? x[t * d + j] : 1);
            for (int j = 0; j < m; j++)
                b[i * m + j] += xi * y[t * m + j];
        }
    for (int i = 0; i < d; i++)
        p[i * k + i] += lambda;
    eliminate(p, b, k, m);
    free(p);
}

/* Columns of unlike means and deviations, as a layer norm leaves them. */
static void draw(float *x, float *y, int n, int d, int m)
{
    rng r = rng_stream(11, 0, 0);
    for (int t = 0; t < n; t++) {
        for (int i = 0; i < d; i++)
            x[t * d + i] = (float)(rng_normal(&r) * (1 + i % 3) + (i % 7 == 0 ? 40 : 0.5));
        for (int j = 0; j < m; j++)
            y[t * m + j] = (float)(x[t * d + j % d] - 0.5 * x[t * d + (3 * j + 1) % d] +
                                   rng_normal(&r) + 5);
    }
}

static void it_agrees_with_the_normal_equations(void **state)
{
    (void)state;
    /* More rows than a block, columns and targets that are no multiple of a tile. */
    static const struct { int n, d, m; double relative; } cases[] = {
        {40, 5, 3, 0}, {2500, 7, 1, 0.1}, {1024, 2, 70, 1e-3}, {700, 260, 5, 1e-3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const int n = cases[i].n, d = cases[i].d, m = cases[i].m;
        float *x = malloc(sizeof(float) * (size_t)(n * d));
        float *y = malloc(sizeof(float) * (size_t)(n * m));
        float *a = malloc(sizeof(float) * (size_t)(m * d));
        float *c = malloc(sizeof(float) * (size_t)m);
        double *b = malloc(sizeof(double) * (size_t)((d + 1) * m));
        draw(x, y, n, d, m);
        solve_with(x, y, n, d, m, 2, 300, cases[i].relative, a, c, NULL);
        brute_force(x, y, n, d, m, cases[i].relative, b);
        /* Products are fp32: 1e-7 of sums of squares, times the condition of the
         * Gram (some ten). The bias adds d such errors, 40 being the largest x. */
        for (int j = 0; j < m; j++) {
            for (int k = 0; k < d; k++)
                if (fabs(a[j * d + k] - b[k * m + j]) > 2e-5)
                    fail_msg("case %zu: a[%d, %d] %g, expected %g", i, j, k, a[j * d + k],
                             b[k * m + j]);
            if (fabs(c[j] - b[d * m + j]) > 2e-3)
                fail_msg("case %zu: c[%d] %g, expected %g", i, j, c[j], b[d * m + j]);
        }
        free(x);
        free(y);
        free(a);
        free(c);
        free(b);
    }
}

static void neither_threads_nor_pieces_change_a_bit(void **state)
{
    (void)state;
    enum { N = 3000, D = 300, M = 65 };
    static const struct { int threads, piece; } cuts[] = {
        {1, N}, {2, N}, {3, N}, {3, 1}, {2, 4096}, {1, 999},
    };
    float *x = malloc(sizeof(float) * N * D), *y = malloc(sizeof(float) * N * M);
    float *a[2], c[2][M];
    for (int i = 0; i < 2; i++)
        a[i] = malloc(sizeof(float) * M * D);
    draw(x, y, N, D, M);
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        solve_with(x, y, N, D, M, cuts[i].threads, cuts[i].piece, 1e-3, a[i > 0], c[i > 0],
                   NULL);
        if (i > 0) {
            assert_memory_equal(a[0], a[1], sizeof(float) * M * D);
            assert_memory_equal(c[0], c[1], sizeof c[0]);
        }
    }
    free(x);
    free(y);
    free(a[0]);
    free(a[1]);
}

/* Largest error of the prediction, over the rows. */
static double worst(const float *x, const float *y, int n, int d, int m, const float *a,
                    const float *c)
{
    double most = 0;
    for (int t = 0; t < n; t++)
        for (int j = 0; j < m; j++) {
            double z = c[j];
            for (int i = 0; i < d; i++)
                z += (double)a[j * d + i] * x[t * d + i];
            assert_true(isfinite(z));
            most = fmax(most, fabs(z - y[t * m + j]));
        }
    return most;
}

static void a_singular_gram_gives_a_sound_answer(void **state)
{
    (void)state;
    enum { D = 40, M = 3, N = 400 };
    static float x[N * D], y[N * M], a[M * D], c[M];
    double used;
    draw(x, y, N, D, M);
    /* Fewer rows than columns: it fits them, by no more than it takes. */
    solve_with(x, y, 10, D, M, 1, 10, 0, a, c, &used);
    assert_true(used > 0 && used <= 1e-4);
    assert_true(worst(x, y, 10, D, M, a, c) < 0.05);
    /* A column twice, a constant one, one of zeros, a target that is dead. */
    for (int t = 0; t < N; t++) {
        x[t * D + 4] = x[t * D + 3];
        x[t * D + 5] = 7.3f;
        x[t * D + 6] = 0;
        y[t * M] = 2 * x[t * D + 3] - x[t * D + 9];
        y[t * M + 1] = 0;
        y[t * M + 2] = -4;
    }
    solve_with(x, y, N, D, M, 1, N, 0, a, c, &used);
    assert_true(used > 0 && used <= 1e-4);
    assert_true(worst(x, y, N, D, M, a, c) < 0.01);
    assert_true(fabsf(a[3] - 1) < 0.01f && fabsf(a[4] - 1) < 0.01f);
    for (int i = 0; i < D; i++)
        assert_true(a[D + i] == 0 && a[2 * D + i] == 0);
    assert_true(c[1] == 0 && c[2] == -4);
    /* A lambda that suffices stays. */
    solve_with(x, y, N, D, M, 1, N, 1e-3, a, c, &used);
    assert_true(used == 1e-3);
}

/* A column that is the sum of two others up to fp32 rounding leaves a pivot of noise,
 * as often above zero as below: weights must not be made of it. */
static void noise_is_not_taken_for_information(void **state)
{
    (void)state;
    enum { D = 6, N = 300 };
    static float x[N * D], y[N], a[D], c;
    double used;
    for (uint64_t seed = 0; seed < 20; seed++) {
        rng r = rng_stream(seed, 1, 0);
        for (int t = 0; t < N; t++) {
            for (int i = 0; i < D; i++)
                x[t * D + i] = (float)rng_normal(&r);
            x[t * D + 4] = x[t * D + 1] + x[t * D + 2];
            y[t] = (float)rng_normal(&r);
        }
        solve_with(x, y, N, D, 1, 1, N, 0, a, &c, &used);
        assert_true(used > 0 && used <= 1e-4);
        for (int i = 0; i < D; i++)
            if (fabsf(a[i]) > 1)
                fail_msg("seed %d: a[%d] %g", (int)seed, i, a[i]);
    }
}

static void rows_that_are_all_alike_give_their_mean(void **state)
{
    (void)state;
    const float x[6] = {3, -1, 3, -1, 3, -1}, y[3] = {1, 2, 6};
    float a[2] = {9, 9}, c = 9;
    solve_with(x, y, 3, 2, 1, 1, 3, 1e-3, a, &c, NULL);
    assert_true(a[0] == 0 && a[1] == 0 && c == 3);
    solve_with(x, y, 1, 2, 1, 1, 1, 0, a, &c, NULL);
    assert_true(a[0] == 0 && a[1] == 0 && c == 1);
    solve_with(x, y, 0, 2, 1, 1, 1, 0, a, &c, NULL);
    assert_true(a[0] == 0 && a[1] == 0 && c == 0);
}

static void values_that_are_not_finite_are_an_error(void **state)
{
    (void)state;
    for (int variant = 0; variant < 2; variant++) {
        float x[6] = {3, -1, 2, -1, 5, 7}, y[3] = {1, 2, 6}, a[2], c;
        workers *w;
        ridge *r;
        moe_error err = {0};
        (variant ? y : x)[1] = variant ? INFINITY : NAN;
        blas_begin();
        assert_int_equal(workers_create(1, &w, NULL), MOE_OK);
        assert_int_equal(ridge_create(2, 1, w, &r, NULL), MOE_OK);
        ridge_add(r, x, 2, y, 1, 3);
        assert_int_equal(ridge_solve(r, 1e-3, a, &c, NULL, &err), MOE_E_ARGUMENT);
        assert_non_null(strstr(err.message, "not finite"));
        ridge_free(r);
        workers_destroy(w);
    }
}

/* Rows come with gaps, and a solve in between loses nothing. */
static void strides_and_repeated_solves(void **state)
{
    (void)state;
    const float x[9] = {0, -9, -9, 2, -9, -9, 4, -9, -9}, y[6] = {1, -9, 2, -9, 6, -9};
    float a, c;
    workers *w;
    ridge *r;
    blas_begin();
    assert_int_equal(workers_create(1, &w, NULL), MOE_OK);
    assert_int_equal(ridge_create(1, 1, w, &r, NULL), MOE_OK);
    ridge_add(r, x, 3, y, 2, 2);
    assert_int_equal(ridge_solve(r, 0, &a, &c, NULL, NULL), MOE_OK);
    assert_true(fabsf(a - 0.5f) < 1e-6f && fabsf(c - 1) < 1e-6f);
    ridge_add(r, x + 6, 3, y + 4, 2, 1);
    assert_int_equal(ridge_solve(r, 0.25, &a, &c, NULL, NULL), MOE_OK);
    assert_true(fabsf(a - 1) < 1e-6f && fabsf(c - 1) < 1e-6f);
    assert_int_equal(ridge_solve(r, 0, &a, &c, NULL, NULL), MOE_OK);
    assert_true(fabsf(a - 1.25f) < 1e-6f && fabsf(c - 0.5f) < 1e-6f);
    ridge_free(r);
    workers_destroy(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_small_case_by_hand),
        cmocka_unit_test(it_agrees_with_the_normal_equations),
        cmocka_unit_test(neither_threads_nor_pieces_change_a_bit),
        cmocka_unit_test(a_singular_gram_gives_a_sound_answer),
        cmocka_unit_test(noise_is_not_taken_for_information),
        cmocka_unit_test(rows_that_are_all_alike_give_their_mean),
        cmocka_unit_test(values_that_are_not_finite_are_an_error),
        cmocka_unit_test(strides_and_repeated_solves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
