/* Linear layers on every ISA against sums in double precision. */
#include "tests/kernels/harness.h"

static const moe_backend_shape shape = {
    .max_tokens = 2048, .max_seq = 64, .d_model = 64, .n_heads = 4, .n_experts = 4,
};

typedef struct { int m, n, k; moe_activation act; bool bias; } linear_case;

/* y and, for its tolerance, the sum of the terms' magnitudes. */
static double plain_linear(const linear_case *c, const float *x, const float *w,
                           const float *b, int i, int j, double *magnitude)
{
    double sum = b ? b[j] : 0;
    *magnitude = fabs(sum);
    for (int kk = 0; kk < c->k; kk++) {
        double term = (double)x[(size_t)i * (size_t)c->k + (size_t)kk] *
                      w[(size_t)j * (size_t)c->k + (size_t)kk];
        sum += term;
        *magnitude += fabs(term);
    }
    return sum;
}

static void check_linear(const machine *m, const linear_case *c, rng *r)
{
    float *x = random_floats(r, (size_t)c->m * (size_t)c->k, 1);
    float *w = random_floats(r, (size_t)c->n * (size_t)c->k, 1);
    float *b = c->bias ? random_floats(r, (size_t)c->n, 1) : NULL;
    float *y = random_floats(r, (size_t)c->m * (size_t)c->n, NAN);
    moe_linear packed = pack_random_linear(w, b, c->n, c->k);
    m->b->ops->linear(m->b, &packed, c->act, x, c->m, y);
    for (int i = 0; i < c->m; i++) {
        if (c->m > 200 && i % 37 && i < c->m - 13)
            continue; /* of a huge input a sample, and the last tile */
        for (int j = 0; j < c->n; j++) {
            double magnitude, sum = plain_linear(c, x, w, b, i, j, &magnitude);
            /* A chain of k + 1 roundings errs by at most (k + 1) epsilon / 2 of the
             * magnitudes; activations have a slope of at most 1.13 and err by a
             * few units in the last place of their value and of 1. */
            double tolerance = (c->k + 1) * (double)FLT_EPSILON * magnitude;
            double expected = plain_activate(sum, c->act);
            tolerance += 4 * (double)FLT_EPSILON * (1 + fabs(expected));
            assert_near(y[(size_t)i * (size_t)c->n + (size_t)j], expected, tolerance,
                        m->b->isa, i, j);
        }
    }
    guarded_release();
}

static void every_shape_matches_double_precision(void **state)
{
    (void)state;
    static const linear_case cases[] = {
        {0, 32, 16, MOE_ACT_NONE, true}, {1, 1, 1, MOE_ACT_NONE, true},
        {1, 32, 1, MOE_ACT_NONE, false}, {1, 384, 384, MOE_ACT_TANH, true},
        {1, 129, 65, MOE_ACT_NONE, true}, {2, 96, 48, MOE_ACT_RELU, true},
        {3, 161, 33, MOE_ACT_GELU_ERF, true}, {4, 64, 31, MOE_ACT_GELU_TANH, true},
        {5, 65, 100, MOE_ACT_NONE, true}, {6, 40, 7, MOE_ACT_RELU, false},
        {7, 2, 384, MOE_ACT_NONE, true}, {8, 3, 64, MOE_ACT_TANH, true},
        {11, 33, 64, MOE_ACT_RELU, true}, {12, 32, 64, MOE_ACT_NONE, true},
        {13, 47, 129, MOE_ACT_GELU_ERF, true}, {24, 63, 5, MOE_ACT_NONE, true},
        {25, 95, 17, MOE_ACT_RELU, true}, {193, 70, 40, MOE_ACT_NONE, true},
        {2048, 33, 24, MOE_ACT_RELU, true}, {150, 31, 1100, MOE_ACT_NONE, true},
    };
    for (int isa = 0; isa < N_ISAS; isa++)
        for (int n_threads = 1; n_threads <= 3; n_threads += 2) {
            machine m;
            if (!machine_open(&m, all_isas[isa], n_threads, &shape))
                continue;
            rng r = rng_seed(7);
            for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
                check_linear(&m, &cases[i], &r);
            machine_close(&m);
        }
}

static void random_shapes_match_double_precision(void **state)
{
    (void)state;
    for (int isa = 0; isa < N_ISAS; isa++) {
        machine m;
        if (!machine_open(&m, all_isas[isa], 2, &shape))
            continue;
        rng r = rng_seed(11);
        for (int i = 0; i < 60; i++) {
            linear_case c = {rng_int(&r, 1, 40), rng_int(&r, 1, 140), rng_int(&r, 1, 90),
                             (moe_activation)rng_int(&r, 0, 4), rng_int(&r, 0, 1)};
            check_linear(&m, &c, &r);
        }
        machine_close(&m);
    }
}

/* What batching and threading must not change. */
static void a_row_has_the_same_bits_in_any_batch_on_any_threads(void **state)
{
    (void)state;
    enum { M = 77, N = 150, K = 300 };
    static const int threads[] = {1, 2, 3, 7};
    for (int isa = 0; isa < N_ISAS; isa++) {
        rng r = rng_seed(13);
        float *x = random_floats(&r, M * K, 1), *b = random_floats(&r, N, 1);
        float *w = random_floats(&r, N * K, 1);
        float *all = guarded_floats(M * N), *some = guarded_floats(M * N);
        moe_linear packed = pack_random_linear(w, b, N, K);
        for (int i = 0; i < 4; i++) {
            machine m;
            if (!machine_open(&m, all_isas[isa], threads[i], &shape))
                break;
            if (i == 0)
                m.b->ops->linear(m.b, &packed, MOE_ACT_GELU_ERF, x, M, all);
            for (int first = 0, n; first < M; first += n) {
                n = rng_int(&r, 1, 30);
                n = n > M - first ? M - first : n;
                m.b->ops->linear(m.b, &packed, MOE_ACT_GELU_ERF, x + first * K, n,
                                 some + first * N);
            }
            assert_same_bits(all, some, M * N, m.b->isa);
            machine_close(&m);
        }
        guarded_release();
    }
}

/* The vector functions at their seams, ends and beyond. */
static void activations_follow_libm_over_their_whole_range(void **state)
{
    (void)state;
    static const float special[] = {0, -0.0f, 1e-30f, 0.5499999f, 0.55f, 1, 1.4142135f,
                                    3.9999f, 5.6f, 9.1f, 44, 90, 1e10f, 3e38f};
    enum { N_SPECIAL = sizeof special / sizeof *special, N = 4000 + 2 * N_SPECIAL };
    static float x[N];
    for (int i = 0; i < 4000; i++)
        x[i] = (float)(i - 2000) / 200;
    for (int i = 0; i < N_SPECIAL; i++) {
        x[4000 + 2 * i] = special[i];
        x[4000 + 2 * i + 1] = -special[i];
    }
    const float one[32] = {1};
    moe_linear identity = {.n = 1, .k = 1, .w = one, .b = NULL};
    moe_backend_shape large = shape;
    large.max_tokens = N;
    static const moe_activation act[] = {MOE_ACT_RELU, MOE_ACT_TANH, MOE_ACT_GELU_ERF,
                                         MOE_ACT_GELU_TANH};
    for (int isa = 0; isa < N_ISAS; isa++) {
        machine m;
        if (!machine_open(&m, all_isas[isa], 1, &large))
            continue;
        for (int a = 0; a < 4; a++) {
            static float y[N];
            m.b->ops->linear(m.b, &identity, act[a], x, N, y);
            for (int i = 0; i < N; i++) {
                double expected = plain_activate(x[i], act[a]);
                /* GELU's 1 + erf(x) cancels for negative x: the error is relative
                 * to |x|, not to the small result. */
                double scale = act[a] >= MOE_ACT_GELU_ERF && act[a] <= MOE_ACT_GELU_TANH
                                   ? fabs((double)x[i]) : fabs(expected);
                assert_near(y[i], expected, 3 * (double)FLT_EPSILON * scale, m.b->isa, act[a],
                            i);
            }
        }
        machine_close(&m);
    }
}

static void a_nan_stays_in_its_row(void **state)
{
    (void)state;
    enum { M = 14, N = 40, K = 20 };
    for (int isa = 0; isa < N_ISAS; isa++) {
        machine m;
        if (!machine_open(&m, all_isas[isa], 2, &shape))
            continue;
        rng r = rng_seed(17);
        float *x = random_floats(&r, M * K, 1), *w = random_floats(&r, N * K, 1);
        float *y = guarded_floats(M * N);
        moe_linear packed = pack_random_linear(w, NULL, N, K);
        x[5 * K + 3] = NAN;
        for (int act = MOE_ACT_NONE; act <= MOE_ACT_TANH; act++) {
            m.b->ops->linear(m.b, &packed, (moe_activation)act, x, M, y);
            for (int i = 0; i < M * N; i++)
                assert_int_equal(isnan(y[i]) != 0, i / N == 5);
        }
        guarded_release();
        machine_close(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape_matches_double_precision),
        cmocka_unit_test(random_shapes_match_double_precision),
        cmocka_unit_test(a_row_has_the_same_bits_in_any_batch_on_any_threads),
        cmocka_unit_test(activations_follow_libm_over_their_whole_range),
        cmocka_unit_test(a_nan_stays_in_its_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
