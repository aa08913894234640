/* Embedding, layer norm, gathering, routers, masses and selection on every ISA,
 * and the choice of the ISA itself. */
#include "engine/cpu/kernels.h"
#include "tests/kernels/harness.h"

static moe_backend_shape shape_of(int d, int n_experts)
{
    return (moe_backend_shape){.max_tokens = 1024, .max_seq = 64, .d_model = d, .n_heads = 1,
                               .n_experts = n_experts, .router_width = 128};
}

static moe_norm random_norm(rng *r, int d)
{
    return (moe_norm){.d = d, .eps = 1e-12f, .gamma = random_floats(r, (size_t)d, 1),
                      .beta = random_floats(r, (size_t)d, 1)};
}

static void check_norm_row(const machine *m, const moe_norm *w, const double *v, int row,
                           const float *y)
{
    double mean = 0, variance = 0, most = 0;
    for (int i = 0; i < w->d; i++) {
        mean += v[i] / w->d;
        most = fmax(most, fabs(v[i]));
    }
    for (int i = 0; i < w->d; i++)
        variance += (v[i] - mean) * (v[i] - mean) / w->d;
    double by = 1 / sqrt(variance + (double)w->eps);
    for (int i = 0; i < w->d; i++) {
        double expected = (v[i] - mean) * by * w->gamma[i] + w->beta[i];
        /* The inputs' few roundings, magnified by 1/sigma; the mean's, which is a
         * sum over d/8 terms a lane; and as many of the result's scale. */
        double tolerance = (double)FLT_EPSILON * (3 * most * by + fabs(expected) + 1) *
                           (3 + w->d / 64);
        assert_near(y[i], expected, tolerance, m->b->isa, row, i);
    }
}

static void norm_matches_double_precision_also_in_place(void **state)
{
    (void)state;
    static const int widths[] = {1, 7, 8, 15, 16, 17, 33, 384, 1000, 1024};
    static const int rows[] = {0, 1, 5, 50};
    for (int isa = 0; isa < N_ISAS; isa++)
        for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
            machine m;
            int d = widths[i], n = rows[i % 4];
            moe_backend_shape shape = shape_of(d, 1);
            if (!machine_open(&m, all_isas[isa], 2, &shape))
                continue;
            rng r = rng_seed(50 + i);
            moe_norm w = random_norm(&r, d);
            float *x = random_floats(&r, (size_t)(n * d), 3);
            float *residual = random_floats(&r, (size_t)(n * d), 3);
            float *y = guarded_floats((size_t)(n * d));
            double v[1024];
            for (int t = 0; t < n * d; t++)
                x[t] += 10; /* a mean that a one-pass variance would drown in */
            m.b->ops->add_norm(m.b, &w, x, residual, n, y);
            for (int t = 0; t < n; t++) {
                for (int c = 0; c < d; c++)
                    v[c] = (double)x[t * d + c] + residual[t * d + c];
                check_norm_row(&m, &w, v, t, y + t * d);
            }
            m.b->ops->add_norm(m.b, &w, x, residual, n, x);
            assert_same_bits(x, y, (size_t)(n * d), "in place");
            guarded_release();
            machine_close(&m);
        }
}

static void constant_rows_normalise_to_beta(void **state)
{
    (void)state;
    enum { D = 40 };
    moe_backend_shape shape = shape_of(D, 1);
    for (int isa = 0; isa < N_ISAS; isa++) {
        machine m;
        if (!machine_open(&m, all_isas[isa], 1, &shape))
            continue;
        rng r = rng_seed(9);
        moe_norm w = random_norm(&r, D);
        float *x = random_floats(&r, D, 0), *y = guarded_floats(D);
        m.b->ops->add_norm(m.b, &w, x, x, 1, y);
        assert_same_bits(y, w.beta, D, "beta");
        guarded_release();
        machine_close(&m);
    }
}

/* ---- embedding ---------------------------------------------------------- */

/* Rows of small integers over 64: exact in every dtype. */
static moe_table exact_table(rng *r, int n, int d, moe_dtype dtype, float *plain)
{
    size_t count = (size_t)n * (size_t)d;
    void *rows = guarded_bytes(count * (dtype == MOE_F32 ? 4 : 2));
    for (size_t i = 0; i < count; i++) {
        plain[i] = (float)rng_int(r, -127, 127) / 64;
        uint32_t bits;
        memcpy(&bits, plain + i, 4);
        uint32_t exponent = (bits >> 23 & 255) - 127 + 15, half = bits >> 16 & 0x8000;
        if (plain[i] != 0)
            half |= exponent << 10 | (bits >> 13 & 0x3ff);
        if (dtype == MOE_F32)
            ((float *)rows)[i] = plain[i];
        else
            ((uint16_t *)rows)[i] = (uint16_t)(dtype == MOE_F16 ? half : bits >> 16);
    }
    return (moe_table){.n = n, .d = d, .dtype = dtype, .rows = rows};
}

/* first: the row of positions that a text begins with; over 0, token first - 1 is padding. */
static void check_embed(const machine *m, int d, moe_dtype dtype, bool with_types, int first,
                        rng *r)
{
    enum { WORDS = 30, LONGEST = 43, SEQS = 5 };
    static const int32_t cu_seqlens[] = {0, 3, 3, 43, 44, 61};
    static float words[WORDS * 1024], positions[LONGEST * 1024], types[2 * 1024];
    int32_t ids[61], type[61];
    moe_weights w = {.words = exact_table(r, WORDS, d, dtype, words),
                     .positions = exact_table(r, LONGEST, d, dtype, positions),
                     .types = exact_table(r, 2, d, dtype, types),
                     .embed_norm = random_norm(r, d), .first_position = first,
                     .pad_id = first - 1};
    for (int t = 0; t < 61; t++) {
        ids[t] = t == 60 ? WORDS - 1 : rng_int(r, 0, first && t > 20 ? 5 : WORDS - 1);
        type[t] = with_types ? rng_int(r, 0, 1) : 0;
    }
    float *y = random_floats(r, (size_t)(61 * d), NAN);
    m->b->ops->embed(m->b, &w, ids, with_types ? type : NULL, cu_seqlens, SEQS, y);
    for (int s = 0; s < SEQS; s++)
        for (int t = cu_seqlens[s], next = first; t < cu_seqlens[s + 1]; t++) {
            double v[1024];
            int row = first && ids[t] == first - 1 ? first - 1 : next++;
            for (int i = 0; i < d; i++)
                v[i] = (double)words[ids[t] * d + i] + positions[row * d + i] +
                       types[type[t] * d + i];
            check_norm_row(m, &w.embed_norm, v, t, y + t * d);
        }
    m->b->ops->embed(m->b, &w, ids, NULL, cu_seqlens, 0, y);
    guarded_release();
}

static void embedding_adds_word_position_and_type_in_every_dtype(void **state)
{
    (void)state;
    static const moe_dtype dtypes[] = {MOE_F32, MOE_F16, MOE_BF16};
    static const int widths[] = {384, 1, 21, 1024};
    for (int isa = 0; isa < N_ISAS; isa++)
        for (int i = 0; i < 12; i++) {
            machine m;
            int d = widths[i / 3];
            moe_backend_shape shape = shape_of(d, 1);
            if (!machine_open(&m, all_isas[isa], 1 + i % 3, &shape))
                continue;
            rng r = rng_seed(60 + (uint64_t)i);
            check_embed(&m, d, dtypes[i % 3], i % 2, i % 4 == 3 ? 3 : 0, &r);
            machine_close(&m);
        }
}

static void halves_widen_exactly(void **state)
{
    (void)state;
    static const struct { uint16_t bits; double value; } f16[] = {
        {0x0000, 0}, {0x0001, 0x1p-24}, {0x03ff, 0x1.ff8p-15}, {0x0400, 0x1p-14},
        {0x3c00, 1}, {0x7bff, 65504}, {0xc248, -3.140625}, {0x8001, -0x1p-24},
        {0x7c00, INFINITY}, {0xfc00, -INFINITY},
    };
    enum { N = 10, D = 37 }; /* whole vectors and a tail; two rows */
    uint16_t half[2 * D], brain[2 * D];
    for (int i = 0; i < 2 * D; i++) {
        half[i] = f16[i % N].bits;
        brain[i] = (uint16_t)(0x1234 + 997 * i);
    }
    for (int isa = 0; isa < N_ISAS; isa++) {
        const cpu_kernels *kernels = cpu_kernels_find(all_isas[isa]);
        if (!kernels)
            continue;
        float y[D];
        kernels->widen(&(moe_table){2, D, MOE_F16, half}, 1, y);
        for (int i = 0; i < D; i++)
            assert_true((double)y[i] == f16[(D + i) % N].value);
        kernels->widen(&(moe_table){2, D, MOE_BF16, brain}, 1, y);
        for (int i = 0; i < D; i++) {
            uint32_t bits;
            memcpy(&bits, y + i, sizeof bits);
            assert_int_equal(bits, (uint32_t)brain[D + i] << 16);
        }
    }
    assert_true(isnan(float_from_f16(0x7e00)));
}

/* Rows of a table, whole, between two, or none, to the tokens of each sequence. */
static void shifts_are_added_by_sequence(void **state)
{
    (void)state;
    enum { N_D = 37, ROWS = 3, N_SEQS = 5, N = 50 };
    static const int32_t cu[] = {0, 1, 1, 20, 33, N};
    static const moe_shift by[N_SEQS] = {{0, 0}, {1, 0.5f}, {1, 0.25f}, {-1, 0}, {2, 0.5f}};
    for (int isa = 0; isa < N_ISAS; isa++) {
        machine m;
        moe_backend_shape shape = shape_of(N_D, 1);
        if (!machine_open(&m, all_isas[isa], 2, &shape))
            continue;
        rng r = rng_seed(9);
        const float *table = random_floats(&r, ROWS * N_D, 1);
        float *y = random_floats(&r, N * N_D, 1), before[N * N_D];
        const moe_ffn w = {.d = N_D, .n_shifts = ROWS, .shift = table};
        memcpy(before, y, sizeof before);
        m.b->ops->add_shift(m.b, &w, by, cu, N_SEQS, y);
        for (int s = 0; s < N_SEQS; s++)
            for (int i = cu[s] * N_D; i < cu[s + 1] * N_D; i++) {
                const float *low = table + by[s].row * N_D + i % N_D;
                double want = before[i];
                if (by[s].row >= 0) /* past the last row there is that one again */
                    want += (1 - (double)by[s].part) * *low +
                            (double)by[s].part * low[by[s].row + 1 < ROWS ? N_D : 0];
                assert_true(fabs(y[i] - want) < 1e-6);
            }
        guarded_release();
        machine_close(&m);
    }
}

static void gathering_copies_rows(void **state)
{
    (void)state;
    moe_backend_shape shape = shape_of(5, 1);
    machine m;
    assert_true(machine_open(&m, "c", 2, &shape));
    rng r = rng_seed(2);
    float *x = random_floats(&r, 4 * 5, 1), *y = guarded_floats(3 * 5);
    static const int32_t row[] = {3, 0, 3};
    m.b->ops->gather_rows(m.b, x, 5, row, 3, y);
    for (int i = 0; i < 3; i++)
        assert_same_bits(y + 5 * i, x + 5 * row[i], 5, "row");
    m.b->ops->gather_rows(m.b, x, 5, NULL, 0, y);
    guarded_release();
    machine_close(&m);
}

/* ---- routers -------------------------------------------------------------- */

static void check_router(const machine *m, int n, int d, int width, int n_experts,
                         bool normalize, rng *r)
{
    bool two = width > 0;
    int first_n = two ? width : n_experts;
    float *w1 = random_floats(r, (size_t)(first_n * d), 1 / sqrtf((float)d));
    float *b1 = random_floats(r, (size_t)first_n, 1);
    float *w2 = random_floats(r, (size_t)(n_experts * first_n), 1 / sqrtf((float)first_n));
    float *x = random_floats(r, (size_t)(n * d), 5);
    float *scores = random_floats(r, (size_t)(n * n_experts), NAN);
    memset(x, 0, (size_t)d * sizeof *x); /* the first row: nothing to normalise */
    moe_router w = {.present = true, .normalize = normalize, .n_linears = two ? 2 : 1,
                    .first = pack_random_linear(w1, b1, first_n, d)};
    if (two)
        w.second = pack_random_linear(w2, NULL, n_experts, first_n);
    m->b->ops->router_scores(m->b, &w, x, n, scores);
    for (int t = 0; t < n; t++) {
        double length = 0, hidden[256];
        for (int i = 0; i < d; i++)
            length += (double)x[t * d + i] * x[t * d + i];
        length = normalize && length > 0 ? sqrt(length) : 1;
        for (int j = 0; j < first_n; j++) {
            hidden[j] = b1[j];
            for (int i = 0; i < d; i++)
                hidden[j] += (double)w1[j * d + i] * x[t * d + i] / length;
        }
        for (int e = 0; e < n_experts; e++) {
            double expected = two ? 0 : hidden[e];
            for (int j = 0; two && j < first_n; j++)
                expected += (double)w2[e * first_n + j] * tanh(hidden[j]);
            /* Terms of the first linear are below 5 / sqrt(d) each, of the second
             * below 1 / sqrt(width); every sum errs by a rounding per term. */
            double tolerance = (double)FLT_EPSILON * (5 * sqrt(d) * (d + 8) + 8 * first_n);
            assert_near(scores[t * n_experts + e], expected, tolerance, m->b->isa, t, e);
        }
    }
    guarded_release();
}

static void router_scores_match_double_precision(void **state)
{
    (void)state;
    static const struct { int n, d, width, n_experts; bool normalize; } cases[] = {
        {1, 64, 0, 48, false}, {1, 64, 48, 48, true}, {5, 33, 17, 31, true},
        {300, 40, 128, 64, true}, {257, 16, 0, 5, false}, {20, 384, 0, 48, true},
    };
    for (int isa = 0; isa < N_ISAS; isa++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            machine m;
            moe_backend_shape shape = shape_of(cases[i].d, cases[i].n_experts);
            if (!machine_open(&m, all_isas[isa], 2, &shape))
                continue;
            rng r = rng_seed(70 + i);
            check_router(&m, cases[i].n, cases[i].d, cases[i].width, cases[i].n_experts,
                         cases[i].normalize, &r);
            machine_close(&m);
        }
}

static void mass_is_the_positive_activation_of_each_expert(void **state)
{
    (void)state;
    enum { N = 50, D = 40, D_FF = 100, E = 4 };
    static const moe_activation act[] = {MOE_ACT_RELU, MOE_ACT_GELU_ERF};
    moe_backend_shape shape = shape_of(D, E);
    for (int i = 0; i < 2 * N_ISAS; i++) {
        machine m;
        if (!machine_open(&m, all_isas[i / 2], 3, &shape))
            continue;
        rng r = rng_seed(80);
        plain_ffn p = random_ffn(&r, D, D_FF);
        moe_ffn w = pack_plain_ffn(&p, D, D_FF, act[i % 2]);
        float *x = random_floats(&r, N * D, 2), *mass = random_floats(&r, N * E, NAN);
        m.b->ops->expert_mass(m.b, &w, x, N, mass);
        for (int t = 0; t < N; t++)
            for (int e = 0; e < E; e++) {
                double sum = 0;
                for (int f = 32 * e; f < 32 * e + 32 && f < D_FF; f++) {
                    double h = p.b1[f];
                    for (int c = 0; c < D; c++)
                        h += (double)p.w1[f * D + c] * x[t * D + c];
                    sum += fmax(0, plain_activate(h, act[i % 2]));
                }
                /* 32 activations, each a sum of D terms below 1/3 */
                assert_near(mass[t * E + e], sum, 32 * D * (double)FLT_EPSILON * 13, m.b->isa,
                            t, e);
            }
        guarded_release();
        machine_close(&m);
    }
}

static void selection_writes_a_ragged_ascending_route(void **state)
{
    (void)state;
    enum { N = 60, E = 24 };
    moe_backend_shape shape = shape_of(8, E);
    for (int n_threads = 1; n_threads <= 3; n_threads++) {
        machine m;
        assert_true(machine_open(&m, "c", n_threads, &shape));
        rng r = rng_seed(90);
        float *scores = random_floats(&r, N * E, 1);
        int32_t k[N], cu_seqlens[N + 1];
        moe_choice choice[N];
        for (int t = 0; t <= N; t++)
            cu_seqlens[t] = t;
        for (int t = 0; t < N; t++)
            choice[t] = (moe_choice){.k = k[t] = rng_int(&r, 1, E)};
        moe_route route = {.bound = guarded_bytes((N + 1) * 4), .expert = guarded_bytes(N * E * 4)};
        m.b->ops->select(m.b, scores, choice, cu_seqlens, N, E, &route);
        for (int t = 0; t < N; t++) {
            const float *s = scores + t * E;
            float least = INFINITY, most_left = -INFINITY;
            bool chosen[E] = {false};
            assert_int_equal(route.bound[t + 1] - route.bound[t], k[t]);
            for (int i = route.bound[t]; i < route.bound[t + 1]; i++) {
                assert_true(i == route.bound[t] || route.expert[i] > route.expert[i - 1]);
                assert_in_range(route.expert[i], 0, E - 1);
                chosen[route.expert[i]] = true;
                least = fminf(least, s[route.expert[i]]);
            }
            for (int e = 0; e < E; e++)
                most_left = chosen[e] ? most_left : fmaxf(most_left, s[e]);
            assert_true(least >= most_left);
        }
        m.b->ops->select(m.b, scores, NULL, NULL, 0, E, &route);
        assert_int_equal(route.bound[0], 0);
        guarded_release();
        machine_close(&m);
    }
}

/* Whether expert e of token t is chosen, by counting in its sequence [first, end). */
static bool is_chosen(const moe_choice *c, const float *scores, int n_experts, int first,
                      int end, int t, int e)
{
    const float *own = scores + t * n_experts;
    int place = t * n_experts + e, better = 0;
    if (!c->n_pairs && !c->k)
        return own[e] >= c->threshold;
    for (int i = (c->n_pairs ? first : t) * n_experts;
         i < (c->n_pairs ? end : t + 1) * n_experts; i++)
        better += isnan(own[e]) ? !isnan(scores[i]) || i < place
                                : scores[i] > own[e] || (scores[i] == own[e] && i < place);
    return better < (c->n_pairs ? c->n_pairs : c->k);
}

static void check_choices(const moe_choice *choice, const int32_t *cu_seqlens, int n_seqs,
                          const float *scores, int n_experts, const moe_route *route)
{
    int filled = 0;
    for (int s = 0; s < n_seqs; s++) {
        for (int t = cu_seqlens[s]; t < cu_seqlens[s + 1]; t++) {
            assert_int_equal(route->bound[t], filled);
            for (int e = 0; e < n_experts; e++)
                if (is_chosen(&choice[s], scores, n_experts, cu_seqlens[s], cu_seqlens[s + 1],
                              t, e))
                    assert_int_equal(route->expert[filled++], e);
            assert_int_equal(route->bound[t + 1], filled);
        }
        if (choice[s].n_pairs)
            assert_int_equal(filled - route->bound[cu_seqlens[s]], choice[s].n_pairs);
    }
}

/* Sequences with a count, a threshold and pairs in one call: one of a token, one of
 * NaN, one that nothing reaches, one that all reach, one of many ties. */
static void sequences_that_choose_differently_share_a_route(void **state)
{
    (void)state;
    enum { N = 160, E = 24, SEQS = 12 };
    static const int32_t cu_seqlens[SEQS + 1] = {0, 1, 2, 3, 20, 21, 40, 52, 90, 107, 110, 125, N};
    moe_choice choice[SEQS] = {
        {.n_pairs = 5}, {.k = 3}, {.threshold = 0.5f}, {.n_pairs = 17 * 5}, {.n_pairs = E},
        {.threshold = 2}, {.threshold = -2}, {.n_pairs = 38 * 7}, {.k = E}, {.n_pairs = 1},
        {.n_pairs = 15 * E}, {.n_pairs = 35 * 3 + 1}};
    moe_backend_shape shape = shape_of(8, E);
    for (int n_threads = 1; n_threads <= 3; n_threads++) {
        machine m;
        assert_true(machine_open(&m, "c", n_threads, &shape));
        rng r = rng_seed(91);
        float *scores = random_floats(&r, N * E, 1);
        for (int i = cu_seqlens[7] * E; i < cu_seqlens[8] * E; i++)
            scores[i] = (float)rng_int(&r, 0, 4); /* ties */
        for (int i = 3 * E; i < 18 * E; i++)      /* fewer numbers than pairs */
            scores[i] = NAN;
        for (int i = cu_seqlens[11] * E; i < N * E; i += 3)
            scores[i] = NAN;
        moe_route route = {.bound = guarded_bytes((N + 1) * 4), .expert = guarded_bytes(N * E * 4)};
        m.b->ops->select(m.b, scores, choice, cu_seqlens, SEQS, E, &route);
        check_choices(choice, cu_seqlens, SEQS, scores, E, &route);
        assert_int_equal(route.bound[40] - route.bound[21], 0);
        assert_int_equal(route.bound[52] - route.bound[40], 12 * E);
        guarded_release();
        machine_close(&m);
    }
}

/* ---- the backend itself ---------------------------------------------------- */

static void the_isa_can_be_forced_and_an_absent_one_is_refused(void **state)
{
    (void)state;
    moe_backend_shape shape = shape_of(8, 1);
    machine m;
    for (int isa = 0; isa < N_ISAS; isa++)
        if (machine_open(&m, all_isas[isa], 1, &shape)) {
            assert_string_equal(m.b->isa, all_isas[isa]);
            machine_close(&m);
        }
    assert_true(machine_open(&m, "", 1, &shape)); /* as if unset: the best */
    machine_close(&m);
    moe_error err = {0};
    moe_pool *pool;
    moe_backend *b = (moe_backend *)&err;
    setenv("MOE_ISA", "sse9", 1);
    assert_int_equal(moe_pool_create(1, &pool, &err), MOE_OK);
    assert_int_equal(moe_cpu_backend(pool, &shape, &b, &err), MOE_E_UNSUPPORTED);
    assert_null(b);
    assert_non_null(strstr(err.message, "sse9"));
    setenv("MOE_ISA", "", 1);
    shape.n_heads = 3;
    assert_int_equal(moe_cpu_backend(pool, &shape, &b, &err), MOE_E_ARGUMENT);
    shape.n_heads = 0;
    assert_int_equal(moe_cpu_backend(pool, &shape, &b, NULL), MOE_E_ARGUMENT);
    moe_pool_destroy(pool);
}

static void memory_is_aligned_and_goes_with_the_backend(void **state)
{
    (void)state;
    moe_backend_shape shape = shape_of(8, 1);
    machine m;
    assert_true(machine_open(&m, "c", 1, &shape));
    static const size_t sizes[] = {0, 1, 64, 4096, 5 << 20};
    for (int i = 0; i < 5; i++) {
        unsigned char *p = m.b->ops->alloc(m.b, sizes[i]);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        memset(p, i, sizes[i]);
    }
    assert_null(m.b->ops->alloc(m.b, SIZE_MAX));
    unsigned char *to = m.b->ops->alloc(m.b, 3), back[3];
    m.b->ops->put(m.b, to, "ab", 3);
    m.b->ops->download(m.b, back, to, 3);
    assert_memory_equal(back, "ab", 3);
    assert_ptr_equal(m.b->ops->upload(m.b, "weights", 8), "weights");
    machine_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norm_matches_double_precision_also_in_place),
        cmocka_unit_test(constant_rows_normalise_to_beta),
        cmocka_unit_test(embedding_adds_word_position_and_type_in_every_dtype),
        cmocka_unit_test(halves_widen_exactly),
        cmocka_unit_test(shifts_are_added_by_sequence),
        cmocka_unit_test(gathering_copies_rows),
        cmocka_unit_test(router_scores_match_double_precision),
        cmocka_unit_test(mass_is_the_positive_activation_of_each_expert),
        cmocka_unit_test(selection_writes_a_ragged_ascending_route),
        cmocka_unit_test(sequences_that_choose_differently_share_a_route),
        cmocka_unit_test(the_isa_can_be_forced_and_an_absent_one_is_refused),
        cmocka_unit_test(memory_is_aligned_and_goes_with_the_backend),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
