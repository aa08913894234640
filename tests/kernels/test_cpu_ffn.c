/* The feed-forward network, dense and sparse, on every ISA: against sums in
 * double precision, and bit for bit against itself in other batches. */
#include "engine/cpu/cpu.h"
#include "tests/kernels/harness.h"

static moe_backend_shape shape_of(int d, int n_experts, int max_tokens)
{
    return (moe_backend_shape){.max_tokens = max_tokens, .max_seq = 8, .d_model = d,
                               .n_heads = 1, .n_experts = n_experts};
}

/* Each token gets k_low to k_high experts at random, ascending. */
static moe_route random_route(rng *r, int n_tokens, int n_experts, int k_low, int k_high)
{
    moe_route route = {.bound = guarded_bytes(((size_t)n_tokens + 1) * 4),
                       .expert = guarded_bytes((size_t)n_tokens * (size_t)n_experts * 4)};
    route.bound[0] = 0;
    for (int t = 0; t < n_tokens; t++) {
        int k = rng_int(r, k_low, k_high), filled = route.bound[t];
        for (int e = 0; e < n_experts && k > 0; e++)
            if (rng_int(r, 1, n_experts - e) <= k) { /* of those left, k are wanted */
                route.expert[filled++] = e;
                k--;
            }
        route.bound[t + 1] = filled;
    }
    return route;
}

/* y [d] of one token; its bound on the error. */
static double plain_ffn_row(const plain_ffn *p, int d, int d_ff, moe_activation act,
                            const float *x, const int32_t *expert, int n, double *y)
{
    double *magnitude = calloc((size_t)d, sizeof *magnitude), most = 0;
    for (int j = 0; j < d; j++)
        magnitude[j] = fabs(y[j] = (double)p->b2[j]);
    for (int i = 0; i < n; i++)
        for (int f = 32 * expert[i]; f < 32 * expert[i] + 32 && f < d_ff; f++) {
            double h = p->b1[f], h_magnitude = fabs(h);
            for (int c = 0; c < d; c++) {
                double term = (double)p->w1[(size_t)f * (size_t)d + (size_t)c] * x[c];
                h += term;
                h_magnitude += fabs(term);
            }
            h = plain_activate(h, act);
            for (int j = 0; j < d; j++) {
                double w2 = (double)p->w2[(size_t)j * (size_t)d_ff + (size_t)f];
                y[j] += h * w2;
                /* h errs by d + 8 roundings of its terms, the sum by one per term */
                magnitude[j] += fabs(w2) * ((d + 8) * h_magnitude + (32 * n + 1) * fabs(h));
            }
        }
    for (int j = 0; j < d; j++)
        most = fmax(most, magnitude[j]);
    free(magnitude);
    return most * (double)FLT_EPSILON;
}

typedef struct { int n_tokens, d, d_ff, k_low, k_high; moe_activation act; } ffn_case;

static void check_ffn(const machine *m, const ffn_case *c, rng *r)
{
    int n_experts = (c->d_ff + 31) / 32;
    plain_ffn p = random_ffn(r, c->d, c->d_ff);
    moe_ffn w = pack_plain_ffn(&p, c->d, c->d_ff, c->act);
    float *x = random_floats(r, (size_t)c->n_tokens * (size_t)c->d, 2);
    float *y = random_floats(r, (size_t)c->n_tokens * (size_t)c->d, NAN);
    moe_route route = random_route(r, c->n_tokens, n_experts, c->k_low, c->k_high);
    bool dense = c->k_low == n_experts;
    m->b->ops->ffn(m->b, &w, x, c->n_tokens, dense ? NULL : &route, y);
    double *expected = malloc((size_t)c->d * sizeof *expected);
    for (int t = 0; t < c->n_tokens; t++) {
        if (c->n_tokens > 20 && t % 29 && t < c->n_tokens - 3)
            continue;
        double tolerance = plain_ffn_row(&p, c->d, c->d_ff, c->act, x + (size_t)t * (size_t)c->d,
                                         route.expert + route.bound[t],
                                         route.bound[t + 1] - route.bound[t], expected);
        for (int j = 0; j < c->d; j++)
            assert_near(y[(size_t)t * (size_t)c->d + (size_t)j], expected[j], tolerance,
                        m->b->isa, t, j);
    }
    free(expected);
    guarded_release();
}

static void dense_and_sparse_match_double_precision(void **state)
{
    (void)state;
    static const ffn_case cases[] = {
        {0, 64, 128, 1, 2, MOE_ACT_RELU}, {1, 64, 128, 1, 1, MOE_ACT_RELU},
        {1, 64, 128, 4, 4, MOE_ACT_RELU}, {1, 96, 250, 3, 3, MOE_ACT_GELU_ERF},
        {2, 40, 70, 0, 3, MOE_ACT_RELU}, {3, 100, 96, 3, 3, MOE_ACT_GELU_TANH},
        {13, 65, 200, 1, 6, MOE_ACT_RELU}, {50, 64, 320, 10, 10, MOE_ACT_RELU},
        {127, 32, 256, 0, 8, MOE_ACT_RELU}, {129, 63, 160, 5, 5, MOE_ACT_GELU_ERF},
        {700, 48, 96, 1, 3, MOE_ACT_RELU}, {700, 48, 96, 3, 3, MOE_ACT_RELU},
        {600, 5, 31, 1, 1, MOE_ACT_RELU}, {3, 384, 1536, 12, 12, MOE_ACT_RELU},
    };
    for (int isa = 0; isa < N_ISAS; isa++)
        for (int n_threads = 1; n_threads <= 3; n_threads += 2)
            for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
                machine m;
                moe_backend_shape shape = shape_of(cases[i].d, (cases[i].d_ff + 31) / 32, 700);
                if (!machine_open(&m, all_isas[isa], n_threads, &shape))
                    continue;
                rng r = rng_seed(200 + i);
                check_ffn(&m, &cases[i], &r);
                machine_close(&m);
            }
}

/* Ratio 1 is exactly dense, by whichever path it goes. */
static void all_experts_selected_gives_the_dense_bits(void **state)
{
    (void)state;
    static const int n_tokens[] = {1, 2, 5, 40, 333, 1200};
    enum { D = 80, D_FF = 300, E = 10 };
    for (int isa = 0; isa < N_ISAS; isa++)
        for (size_t i = 0; i < sizeof n_tokens / sizeof *n_tokens; i++) {
            machine m;
            int n = n_tokens[i];
            moe_backend_shape shape = shape_of(D, E, n);
            if (!machine_open(&m, all_isas[isa], 2, &shape))
                continue;
            rng r = rng_seed(31);
            plain_ffn p = random_ffn(&r, D, D_FF);
            moe_ffn w = pack_plain_ffn(&p, D, D_FF, MOE_ACT_RELU);
            float *x = random_floats(&r, (size_t)(n * D), 1);
            float *dense = guarded_floats((size_t)(n * D));
            float *sparse = guarded_floats((size_t)(n * D));
            moe_route route = random_route(&r, n, E, E, E);
            m.b->ops->ffn(m.b, &w, x, n, NULL, dense);
            m.b->ops->ffn(m.b, &w, x, n, &route, sparse);
            assert_same_bits(dense, sparse, (size_t)(n * D), m.b->isa);
            guarded_release();
            machine_close(&m);
        }
}

/* Whichever of the two paths the plan takes for a route: nobody can tell. */
static void a_route_has_the_same_bits_sparse_and_dense(void **state)
{
    (void)state;
    static const int n_tokens[] = {1, 2, 5, 40, 333}, low[] = {0, 1, 9, 10};
    enum { D = 80, D_FF = 300, E = 10 };
    for (int isa = 0; isa < N_ISAS; isa++)
        for (int i = 0; i < 4 * 5; i++) {
            machine m;
            int n = n_tokens[i / 4], k = low[i % 4];
            moe_backend_shape shape = shape_of(D, E, n);
            if (!machine_open(&m, all_isas[isa], 1 + i % 3, &shape))
                continue;
            rng r = rng_seed(47 + (uint64_t)i);
            plain_ffn p = random_ffn(&r, D, D_FF);
            moe_ffn w = pack_plain_ffn(&p, D, D_FF, i % 2 ? MOE_ACT_RELU : MOE_ACT_GELU_ERF);
            float *x = random_floats(&r, (size_t)(n * D), 1);
            float *dense = random_floats(&r, (size_t)(n * D), NAN);
            float *sparse = random_floats(&r, (size_t)(n * D), NAN);
            moe_route route = random_route(&r, n, E, k, k < 9 ? E : k);
            cpu_ffn_sparse((cpu_backend *)m.b, &w, x, n, route.bound, route.expert, sparse);
            cpu_ffn_dense((cpu_backend *)m.b, &w, x, n, route.bound, route.expert, dense);
            assert_same_bits(dense, sparse, (size_t)(n * D), m.b->isa);
            guarded_release();
            machine_close(&m);
        }
}

/* Measured or built in, a plan says from which share on dense is faster. */
static void a_plan_is_measured(void **state)
{
    (void)state;
    enum { D = 64, D_FF = 640, E = 20 };
    machine m;
    moe_backend_shape shape = shape_of(D, E, 64);
    assert_true(machine_open(&m, "", 2, &shape));
    rng r = rng_seed(3);
    plain_ffn p = random_ffn(&r, D, D_FF);
    moe_ffn w = pack_plain_ffn(&p, D, D_FF, MOE_ACT_RELU);
    for (int measured = 0; measured < 2; measured++) {
        const moe_plan_row *rows;
        int n = m.b->ops->plan(m.b, &rows);
        assert_true(n > 0 && rows[0].n_tokens == 1);
        for (int i = 0; i < n; i++) {
            assert_true(rows[i].dense_above >= 0.25 && rows[i].dense_above <= 1);
            assert_true(i == 0 || rows[i].n_tokens > rows[i - 1].n_tokens);
        }
        m.b->ops->measure_plan(m.b, &w);
    }
    guarded_release();
    machine_close(&m);
}

/* The part of a route with the tokens [first, first + n). */
static moe_route route_part(const moe_route *whole, int first, int n)
{
    int32_t base = whole->bound[first];
    size_t pairs = (size_t)(whole->bound[first + n] - base);
    moe_route part = {.bound = guarded_bytes(((size_t)n + 1) * 4),
                      .expert = guarded_bytes(pairs * 4)};
    for (int t = 0; t <= n; t++)
        part.bound[t] = whole->bound[first + t] - base;
    memcpy(part.expert, whole->expert + base, pairs * 4);
    return part;
}

static void a_token_has_the_same_bits_in_any_batch_on_any_threads(void **state)
{
    (void)state;
    enum { N = 400, D = 72, D_FF = 640, E = 20 };
    static const int threads[] = {1, 2, 3, 7};
    moe_backend_shape shape = shape_of(D, E, N);
    for (int isa = 0; isa < N_ISAS; isa++)
        for (int i = 0; i < 4; i++) {
            rng r = rng_seed(37);
            plain_ffn p = random_ffn(&r, D, D_FF);
            moe_ffn w = pack_plain_ffn(&p, D, D_FF, MOE_ACT_GELU_ERF);
            float *x = random_floats(&r, N * D, 1);
            float *all = guarded_floats(N * D), *some = guarded_floats(N * D);
            moe_route route = random_route(&r, N, E, 1, E);
            machine one, m;
            if (!machine_open(&one, all_isas[isa], 1, &shape))
                break;
            one.b->ops->ffn(one.b, &w, x, N, &route, all);
            machine_close(&one);
            assert_true(machine_open(&m, all_isas[isa], threads[i], &shape));
            for (int first = 0, n; first < N; first += n) {
                n = rng_int(&r, 1, 1 << rng_int(&r, 0, 8));
                n = n > N - first ? N - first : n;
                moe_route part = route_part(&route, first, n);
                m.b->ops->ffn(m.b, &w, x + first * D, n, &part, some + first * D);
            }
            assert_same_bits(all, some, N * D, m.b->isa);
            guarded_release();
            machine_close(&m);
        }
}

/* Experts that no token chose must not be read, let alone added. */
static void unselected_experts_do_not_matter(void **state)
{
    (void)state;
    enum { N = 30, D = 64, D_FF = 128, E = 4 };
    moe_backend_shape shape = shape_of(D, E, N);
    for (int isa = 0; isa < N_ISAS; isa++) {
        machine m;
        if (!machine_open(&m, all_isas[isa], 2, &shape))
            continue;
        rng r = rng_seed(41);
        plain_ffn p = random_ffn(&r, D, D_FF);
        for (int f = 32; f < 96; f++) /* experts 1 and 2 */
            p.b1[f] = NAN;
        moe_ffn w = pack_plain_ffn(&p, D, D_FF, MOE_ACT_RELU);
        float *x = random_floats(&r, N * D, 1), *y = guarded_floats(N * D);
        moe_route route = random_route(&r, N, E, 1, 1);
        for (int t = 0; t < N; t++)
            route.expert[t] = t % 2 ? 3 : 0;
        m.b->ops->ffn(m.b, &w, x, N, &route, y);
        for (int i = 0; i < N * D; i++)
            assert_true(isfinite(y[i]));
        guarded_release();
        machine_close(&m);
    }
}

static bool first_third(int t, int n) { return t < n / 3; }
static bool middle_third(int t, int n) { return t >= n / 3 && t < n - n / 3; }
static bool last_third(int t, int n) { return t >= n - n / 3; }
static bool every_other(int t, int n) { return t % 2 || n == 1; }
static bool every(int t, int n) { return t < n; }

/* Takes the experts of some of a route's tokens away. */
static void empty_tokens(moe_route *route, int n, bool (*is_empty)(int t, int n))
{
    int filled = 0, begin = 0;
    for (int t = 0; t < n; t++) {
        int end = route->bound[t + 1];
        for (int i = begin; i < end && !is_empty(t, n); i++)
            route->expert[filled++] = route->expert[i];
        begin = end;
        route->bound[t + 1] = filled;
    }
}

/* A token without experts has b2's very bits, and the others what they have alone. */
static void check_empty_tokens(const machine *m, int n, bool (*is_empty)(int t, int n))
{
    enum { D = 72, D_FF = 300, E = 10 };
    rng r = rng_seed(43);
    plain_ffn p = random_ffn(&r, D, D_FF);
    moe_ffn w = pack_plain_ffn(&p, D, D_FF, MOE_ACT_RELU);
    float *x = random_floats(&r, (size_t)n * D, 1);
    float *y = random_floats(&r, (size_t)n * D, NAN), *alone = guarded_floats(D);
    moe_route route = random_route(&r, n, E, 1, E);
    empty_tokens(&route, n, is_empty);
    m->b->ops->ffn(m->b, &w, x, n, &route, y);
    for (int t = 0; t < n; t++) {
        int32_t bound[] = {0, route.bound[t + 1] - route.bound[t]};
        moe_route part = {bound, route.expert + route.bound[t]};
        assert_true((bound[1] == 0) == is_empty(t, n));
        m->b->ops->ffn(m->b, &w, x + (size_t)t * D, 1, &part, alone);
        assert_same_bits(y + (size_t)t * D, alone, D, m->b->isa);
        if (is_empty(t, n))
            assert_same_bits(alone, p.b2, D, m->b->isa);
    }
    guarded_release();
}

static void tokens_without_experts_have_the_bias_alone(void **state)
{
    (void)state;
    static bool (*const is_empty[])(int, int) = {first_third, middle_third, last_third,
                                                 every_other, every};
    static const int n_tokens[] = {1, 3, 50, 700};
    moe_backend_shape shape = shape_of(72, 10, 700);
    for (int isa = 0; isa < N_ISAS; isa++)
        for (int i = 0; i < 20; i++) {
            machine m;
            if (!machine_open(&m, all_isas[isa], 1 + i % 3, &shape))
                continue;
            check_empty_tokens(&m, n_tokens[i % 4], is_empty[i / 4]);
            machine_close(&m);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dense_and_sparse_match_double_precision),
        cmocka_unit_test(all_experts_selected_gives_the_dense_bits),
        cmocka_unit_test(a_route_has_the_same_bits_sparse_and_dense),
        cmocka_unit_test(a_plan_is_measured),
        cmocka_unit_test(a_token_has_the_same_bits_in_any_batch_on_any_threads),
        cmocka_unit_test(unselected_experts_do_not_matter),
        cmocka_unit_test(tokens_without_experts_have_the_bias_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
