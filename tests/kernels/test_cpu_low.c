/* bf16 and int8 weights on every ISA: linear layers, the feed-forward network and the
 * activation mass, against double precision over the very values that lower.c chose. */
#include "engine/model/lower.h"
#include "tests/kernels/harness.h"

static const char *const low_isas[] = {"c", "avx2", "avx2vnni", "avx512", "avx512vnni",
                                       "avx512bf16", "avx512amx"};
static const moe_dtype dtypes[] = {MOE_BF16, MOE_I8};
enum { N_LOW_ISAS = 7, N_DTYPES = 2, MAX_K = 1100, MAX_EXPERTS = 64 };

/* The weight of output j and input i, found by the layout that weights.h states. */
static double low_weight(moe_dtype t, const void *w, const float *scale, int columns, int k,
                         int j, int i)
{
    size_t v = t == MOE_BF16 ? 2 : 4, units = ((size_t)k + v - 1) / v;
    size_t at = (((size_t)(j / columns) * units + (size_t)i / v) * (size_t)columns +
                 (size_t)(j % columns)) * v + (size_t)i % v;
    if (t == MOE_I8)
        return (double)scale[j] * ((const int8_t *)w)[at];
    uint32_t bits = (uint32_t)((const uint16_t *)w)[at] << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return (double)x;
}

/* x as the product sees it; low [k]. */
static void low_row(moe_dtype t, const float *x, int k, double *low)
{
    float most = 0;
    for (int i = 0; i < k; i++)
        most = fmaxf(most, fabsf(x[i]));
    float inverse = most > 0 ? 127 / most : 0;
    for (int i = 0; i < k; i++) {
        uint32_t bits = (uint32_t)lower_bf16(x[i]) << 16;
        float near;
        memcpy(&near, &bits, sizeof near);
        low[i] = t == MOE_BF16 ? (double)near
                               : (double)(most / 127) * (double)rintf(x[i] * inverse);
    }
}

/* ---- linear ------------------------------------------------------------------ */

typedef struct { int m, n, k; moe_activation act; bool bias; } linear_case;

static void check_linear(const machine *m, moe_dtype t, const linear_case *c, rng *r)
{
    moe_error err;
    float *x = random_floats(r, (size_t)c->m * (size_t)c->k, 1);
    float *w = random_floats(r, (size_t)c->n * (size_t)c->k, 1);
    float *b = c->bias ? random_floats(r, (size_t)c->n, 1) : NULL;
    float *y = random_floats(r, (size_t)c->m * (size_t)c->n, NAN);
    moe_linear f32 = pack_random_linear(w, b, c->n, c->k), low;
    static double row[MAX_K];
    assert_int_equal(lower_linear(&f32, t, NULL, &low, &err), MOE_OK);
    m->b->ops->linear(m->b, &low, c->act, x, c->m, y);
    for (int i = 0; i < c->m; i++) {
        low_row(t, x + (size_t)i * (size_t)c->k, c->k, row);
        for (int j = 0; j < c->n; j++) {
            double sum = b ? (double)b[j] : 0, magnitude = fabs(sum);
            for (int kk = 0; kk < c->k; kk++) {
                double term = row[kk] * low_weight(t, low.w, low.scale, 32, c->k, j, kk);
                sum += term;
                magnitude += fabs(term);
            }
            /* bf16: a chain of k + 1 roundings; int8: integers are exact, scales and
             * the last steps round some four times. Activations: test_cpu_linear.c. */
            double tolerance = ((t == MOE_BF16 ? c->k : 4) + 2) * (double)FLT_EPSILON * magnitude;
            double expected = plain_activate(sum, c->act);
            tolerance += 4 * (double)FLT_EPSILON * (1 + fabs(expected));
            assert_near(y[(size_t)i * (size_t)c->n + (size_t)j], expected, tolerance,
                        m->b->isa, i, j);
        }
    }
    lower_linear_release(&low);
    guarded_release();
}

static void linear_layers_match_double_precision(void **state)
{
    static const linear_case cases[] = {
        {0, 32, 16, MOE_ACT_NONE, true}, {1, 1, 1, MOE_ACT_NONE, true},
        {1, 32, 3, MOE_ACT_NONE, false}, {1, 384, 384, MOE_ACT_TANH, true},
        {1, 129, 65, MOE_ACT_NONE, true}, {2, 96, 48, MOE_ACT_RELU, true},
        {3, 161, 33, MOE_ACT_GELU_ERF, true}, {5, 65, 102, MOE_ACT_NONE, true},
        {7, 2, 384, MOE_ACT_NONE, true}, {12, 32, 64, MOE_ACT_NONE, true},
        {13, 47, 129, MOE_ACT_GELU_ERF, true}, {25, 95, 17, MOE_ACT_RELU, true},
        {193, 70, 40, MOE_ACT_NONE, true}, {150, 31, 1100, MOE_ACT_NONE, true},
    };
    static const moe_backend_shape shape = {.max_tokens = 2048, .max_seq = 64,
                                            .d_model = MAX_K, .n_heads = 4, .n_experts = 4};
    (void)state;
    for (int isa = 0; isa < N_LOW_ISAS; isa++) {
        machine m;
        if (!machine_open(&m, low_isas[isa], 2, &shape))
            continue;
        rng r = rng_seed(7);
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
            for (int t = 0; t < N_DTYPES; t++)
                check_linear(&m, dtypes[t], &cases[i], &r);
        for (int i = 0; i < 60; i++) {
            linear_case c = {rng_int(&r, 1, 40), rng_int(&r, 1, 140), rng_int(&r, 1, 90),
                             (moe_activation)rng_int(&r, 0, 4), rng_int(&r, 0, 1)};
            check_linear(&m, dtypes[i % N_DTYPES], &c, &r);
        }
        machine_close(&m);
    }
}

/* ---- feed-forward network ------------------------------------------------------ */

static moe_route random_route(rng *r, int n_tokens, int n_experts, int k_low, int k_high)
{
    moe_route route = {.bound = guarded_bytes(((size_t)n_tokens + 1) * 4),
                       .expert = guarded_bytes((size_t)n_tokens * (size_t)n_experts * 4)};
    route.bound[0] = 0;
    for (int t = 0; t < n_tokens; t++) {
        int k = rng_int(r, k_low, k_high), filled = route.bound[t];
        for (int e = 0; e < n_experts && k > 0; e++)
            if (rng_int(r, 1, n_experts - e) <= k) {
                route.expert[filled++] = e;
                k--;
            }
        route.bound[t + 1] = filled;
    }
    return route;
}

/* The 32 hidden values of an expert; returns the largest |h|. */
static double plain_hidden(const moe_ffn *w, const double *x, int e, double *h)
{
    double most = 0;
    for (int i = 0; i < 32; i++) {
        int j = e * 32 + i;
        double sum = (double)w->b1[j], up = 0;
        for (int c = 0; c < w->d; c++) {
            sum += x[c] * low_weight(w->dtype, w->w1, w->scale1, 32, w->d, j, c);
            if (w->up)
                up += x[c] * low_weight(w->dtype, w->up, w->scale_up, 32, w->d, j, c);
        }
        h[i] = plain_activate(sum, w->act) * (w->up ? up : 1);
        most = fmax(most, fabs(h[i]));
    }
    return most;
}

static double w2_value(const moe_ffn *w, int e, int f, int c)
{
    size_t v = w->dtype == MOE_BF16 ? 2 : 4, units = 32 / v, panels = ((size_t)w->d + 63) / 64;
    const char *panel =
        (const char *)w->w2 + ((size_t)e * panels + (size_t)(c / 64)) * units * 64 * 4;
    return low_weight(w->dtype, panel, w->scale2 ? w->scale2 + c / 64 * 64 : NULL, 64, 32,
                      c % 64, f);
}

/* y [d], tolerance [d]. A hidden value that lies near a seam may be rounded to either
 * side: it is allowed a step, and so is the sum of its products. Of int8, kernels may have
 * one scale for all of a token's experts. */
static void plain_row(const moe_ffn *w, const float *x, const int32_t *expert, int n, double *y,
                      double *tolerance)
{
    static double low[MAX_K], h[MAX_EXPERTS][32];
    double most = 0, steps = w->act == MOE_ACT_RELU && !w->up ? 255 : 127;
    low_row(w->dtype, x, w->d, low);
    for (int c = 0; c < w->d; c++)
        tolerance[c] = 1e-5 * (1 + fabs(y[c] = (double)w->b2[c]));
    for (int i = 0; i < n; i++)
        most = fmax(most, plain_hidden(w, low, expert[i], h[i]));
    for (int i = 0; i < n; i++)
        for (int c = 0; c < w->d; c++)
            for (int f = 0; f < 32; f++) {
                double w2 = w2_value(w, expert[i], f, c);
                double off = w->dtype == MOE_BF16 ? fabs(h[i][f]) / 128 : most / steps;
                y[c] += h[i][f] * w2;
                tolerance[c] += fabs(w2) * (off + 1e-5 * fabs(h[i][f]));
            }
}

typedef struct { int n_tokens, d, d_ff, k_low, k_high; moe_activation act; bool gated; } ffn_case;

static moe_ffn low_ffn(rng *r, moe_dtype t, int d, int d_ff, moe_activation act, bool gated)
{
    moe_error err;
    plain_ffn p = random_ffn(r, d, d_ff);
    moe_ffn f32 = pack_plain_ffn(&p, d, d_ff, act), low;
    if (gated) {
        plain_ffn other = random_ffn(r, d, d_ff);
        f32.gated = true;
        f32.up = pack_plain_ffn(&other, d, d_ff, act).w1;
    }
    assert_int_equal(lower_ffn(&f32, t, NULL, NULL, &low, &err), MOE_OK);
    return low;
}

static void check_ffn(const machine *m, moe_dtype t, const ffn_case *c, rng *r)
{
    int n_experts = (c->d_ff + 31) / 32;
    moe_ffn w = low_ffn(r, t, c->d, c->d_ff, c->act, c->gated);
    float *x = random_floats(r, (size_t)c->n_tokens * (size_t)c->d, 2);
    float *y = random_floats(r, (size_t)c->n_tokens * (size_t)c->d, NAN);
    moe_route route = random_route(r, c->n_tokens, n_experts, c->k_low, c->k_high);
    bool dense = c->k_low == n_experts;
    static double expected[MAX_K], tolerance[MAX_K];
    m->b->ops->ffn(m->b, &w, x, c->n_tokens, dense ? NULL : &route, y);
    for (int i = 0; i < c->n_tokens; i++) {
        if (c->n_tokens > 20 && i % 29 && i < c->n_tokens - 3)
            continue;
        plain_row(&w, x + (size_t)i * (size_t)c->d, route.expert + route.bound[i],
                  route.bound[i + 1] - route.bound[i], expected, tolerance);
        for (int j = 0; j < c->d; j++)
            assert_near(y[(size_t)i * (size_t)c->d + (size_t)j], expected[j], tolerance[j],
                        m->b->isa, i, j);
    }
    lower_ffn_release(&w);
    guarded_release();
}

static moe_backend_shape shape_of(int d, int n_experts, int max_tokens)
{
    return (moe_backend_shape){.max_tokens = max_tokens, .max_seq = 8, .d_model = d,
                               .n_heads = 1, .n_experts = n_experts};
}

static void ffns_match_double_precision(void **state)
{
    static const ffn_case cases[] = {
        {0, 64, 128, 1, 2, MOE_ACT_RELU, false}, {1, 64, 128, 1, 1, MOE_ACT_RELU, false},
        {1, 64, 128, 4, 4, MOE_ACT_RELU, false}, {1, 96, 250, 3, 3, MOE_ACT_GELU_ERF, false},
        {2, 40, 70, 0, 3, MOE_ACT_RELU, false}, {3, 100, 96, 3, 3, MOE_ACT_GELU_TANH, false},
        {13, 65, 200, 1, 6, MOE_ACT_RELU, false}, {50, 64, 320, 10, 10, MOE_ACT_RELU, false},
        {129, 63, 160, 5, 5, MOE_ACT_GELU_ERF, false}, {700, 48, 96, 1, 3, MOE_ACT_RELU, false},
        {600, 5, 31, 1, 1, MOE_ACT_RELU, false}, {3, 384, 1536, 12, 12, MOE_ACT_RELU, false},
        {300, 128, 1100, 0, 20, MOE_ACT_RELU, false}, {77, 64, 640, 0, 9, MOE_ACT_GELU_ERF, false},
        {150, 64, 576, 18, 18, MOE_ACT_GELU_TANH, true}, {9, 128, 300, 0, 4, MOE_ACT_RELU, true},
        {1, 64, 300, 3, 3, MOE_ACT_GELU_TANH, true},
    };
    (void)state;
    for (int isa = 0; isa < N_LOW_ISAS; isa++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            machine m;
            moe_backend_shape shape = shape_of(cases[i].d, (cases[i].d_ff + 31) / 32, 700);
            if (!machine_open(&m, low_isas[isa], 1 + (int)i % 3, &shape))
                continue;
            rng r = rng_seed(200 + i);
            for (int t = 0; t < N_DTYPES; t++)
                check_ffn(&m, dtypes[t], &cases[i], &r);
            machine_close(&m);
        }
}

typedef struct { int d, d_ff; moe_dtype t; moe_activation act; bool gated; } bits_case;

/* n tokens at once, and seven by seven. */
static void check_bits(const machine *m, const bits_case *c, rng *r)
{
    enum { N = 333, AT_ONCE = 7 };
    int d = c->d, n_experts = (c->d_ff + 31) / 32;
    moe_ffn w = low_ffn(r, c->t, d, c->d_ff, c->act, c->gated);
    size_t n = (size_t)(N * d);
    float *x = random_floats(r, n, 1), *y[4];
    moe_route all = random_route(r, N, n_experts, n_experts, n_experts);
    moe_route some = random_route(r, N, n_experts, 0, n_experts - 1);
    for (int i = 0; i < 4; i++)
        y[i] = guarded_floats(n);
    m->b->ops->ffn(m->b, &w, x, N, NULL, y[0]);
    m->b->ops->ffn(m->b, &w, x, N, &all, y[1]);
    assert_same_bits(y[0], y[1], n, m->b->isa);
    m->b->ops->ffn(m->b, &w, x, N, &some, y[2]);
    for (int i = 0; i < N; i += AT_ONCE) {
        int rows = N - i < AT_ONCE ? N - i : AT_ONCE;
        moe_route part = {.bound = some.bound + i, .expert = some.expert};
        m->b->ops->ffn(m->b, &w, x + i * d, rows, NULL, y[1] + i * d);
        m->b->ops->ffn(m->b, &w, x + i * d, rows, &part, y[3] + i * d);
    }
    assert_same_bits(y[0], y[1], n, m->b->isa);
    assert_same_bits(y[2], y[3], n, m->b->isa);
    lower_ffn_release(&w);
    guarded_release();
}

/* Ratio 1 is exactly dense; a token's bits depend on nothing beside it. */
static void bits_are_the_same_dense_alone_and_on_any_threads(void **state)
{
    (void)state;
    for (int isa = 0; isa < N_LOW_ISAS; isa++)
        for (int i = 0; i < 12; i++) {
            machine m;
            bits_case c = {i % 2 ? 128 : 80, i % 3 ? 300 : 700, dtypes[i / 2 % 2],
                           i < 6 ? MOE_ACT_RELU : MOE_ACT_GELU_ERF, i % 5 == 4};
            moe_backend_shape shape = shape_of(c.d, (c.d_ff + 31) / 32, 333);
            if (!machine_open(&m, low_isas[isa], 1 + i % 3, &shape))
                continue;
            rng r = rng_seed(31 + (uint64_t)i);
            check_bits(&m, &c, &r);
            machine_close(&m);
        }
}

static void masses_are_sums_of_the_positive_hidden_values(void **state)
{
    enum { N = 50, D = 72, D_FF = 96, E = 3 };
    (void)state;
    for (int isa = 0; isa < N_LOW_ISAS; isa++)
        for (int t = 0; t < N_DTYPES; t++) {
            machine m;
            moe_backend_shape shape = shape_of(D, E, N);
            if (!machine_open(&m, low_isas[isa], 2, &shape))
                continue;
            rng r = rng_seed(43);
            moe_ffn w = low_ffn(&r, dtypes[t], D, D_FF, MOE_ACT_GELU_ERF, false);
            float *x = random_floats(&r, N * D, 1), *mass = guarded_floats(N * E);
            static double low[MAX_K];
            m.b->ops->expert_mass(m.b, &w, x, N, mass);
            for (int i = 0; i < N; i++)
                for (int e = 0; e < E; e++) {
                    double h[32], sum = 0;
                    low_row(dtypes[t], x + i * D, D, low);
                    plain_hidden(&w, low, e, h);
                    for (int f = 0; f < 32; f++)
                        sum += fmax(0, h[f]);
                    assert_near(mass[i * E + e], sum, 1e-4 * (1 + sum), m.b->isa, i, e);
                }
            lower_ffn_release(&w);
            guarded_release();
            machine_close(&m);
        }
}

/* Rows of zeros, of one huge value, of almost nothing: no division by zero, no overflow. */
static void odd_rows_stay_finite(void **state)
{
    enum { M = 4, N = 33, K = 30 };
    static const moe_backend_shape shape = {.max_tokens = M, .max_seq = 8, .d_model = 64,
                                            .n_heads = 1, .n_experts = 1};
    moe_error err;
    (void)state;
    for (int isa = 0; isa < N_LOW_ISAS; isa++) {
        machine m;
        if (!machine_open(&m, low_isas[isa], 1, &shape))
            continue;
        rng r = rng_seed(47);
        float *x = guarded_floats(M * K), *w = random_floats(&r, N * K, 1);
        float *y = guarded_floats(M * N);
        memset(x, 0, M * K * sizeof *x);
        x[K + 3] = 1e30f;
        x[2 * K + 5] = 1e-38f;
        x[3 * K + 7] = -1e-20f;
        for (int t = 0; t < N_DTYPES; t++) {
            moe_linear f32 = pack_random_linear(w, NULL, N, K), low;
            assert_int_equal(lower_linear(&f32, dtypes[t], NULL, &low, &err), MOE_OK);
            m.b->ops->linear(m.b, &low, MOE_ACT_NONE, x, M, y);
            for (int j = 0; j < N; j++) {
                double w3 = low_weight(dtypes[t], low.w, low.scale, 32, K, j, 3);
                assert_true(y[j] == 0);
                assert_near(y[N + j], 1e30 * w3, 1e30 * 0.005, m.b->isa, 1, j);
                assert_near(y[2 * N + j], 0, 1e-30, m.b->isa, 2, j);
                assert_near(y[3 * N + j], 0, 2e-20, m.b->isa, 3, j);
            }
            lower_linear_release(&low);
        }
        guarded_release();
        machine_close(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_layers_match_double_precision),
        cmocka_unit_test(ffns_match_double_precision),
        cmocka_unit_test(bits_are_the_same_dense_alone_and_on_any_threads),
        cmocka_unit_test(masses_are_sums_of_the_positive_hidden_values),
        cmocka_unit_test(odd_rows_stay_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
