/* What text-to-text models add to the backend: RMS norms before a part, attention over
 * listed rows, embeddings without positions and norm, and gated FFNs; on every ISA
 * against double precision, with canaries past every end. */
#include "engine/cpu/kernels.h"
#include "engine/model/pack.h"
#include "tests/kernels/harness.h"

/* ---- norms ------------------------------------------------------------------ */

static void check_rms_row(const moe_norm *w, const float *x, const float *y, const char *isa,
                          int row)
{
    double squares = 0;
    for (int i = 0; i < w->d; i++)
        squares += (double)x[i] * x[i] / w->d;
    double by = 1 / sqrt(squares + (double)w->eps);
    for (int i = 0; i < w->d; i++) {
        double expected = x[i] * by * w->gamma[i];
        assert_near(y[i], expected, (3 + w->d / 64) * (double)FLT_EPSILON * fabs(expected), isa,
                    row, i);
    }
}

static void norms_before_a_part_keep_the_sum(void **state)
{
    (void)state;
    static const int widths[] = {1, 7, 16, 17, 48, 384, 1000};
    for (int isa = 0; isa < N_ISAS; isa++)
        for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
            machine m;
            int d = widths[i], n = 1 + 18 * (int)(i % 2);
            size_t floats = (size_t)(n * d);
            moe_backend_shape shape = {.max_tokens = 64, .max_seq = 64, .d_model = d,
                                       .n_heads = 1, .n_experts = 1};
            if (!machine_open(&m, all_isas[isa], 2, &shape))
                continue;
            rng r = rng_seed(70 + i);
            moe_norm w = {.d = d, .eps = 1e-6f, .rms = true,
                          .gamma = random_floats(&r, (size_t)d, 1)};
            float *x = random_floats(&r, floats, 3), *residual = random_floats(&r, floats, 3);
            float *sum = guarded_floats(floats), *y = guarded_floats(floats);
            m.b->ops->pre_norm(m.b, &w, x, residual, n, sum, y);
            for (size_t t = 0; t < floats; t++)
                assert_true(sum[t] == x[t] + residual[t]);
            for (int t = 0; t < n; t++)
                check_rms_row(&w, sum + t * d, y + t * d, m.b->isa, t);
            /* In place, and of a sum that is there already: the same bits. */
            m.b->ops->pre_norm(m.b, &w, x, residual, n, residual, x);
            assert_same_bits(x, y, floats, "in place");
            assert_same_bits(residual, sum, floats, "the sum in place");
            m.b->ops->pre_norm(m.b, &w, NULL, sum, n, NULL, x);
            assert_same_bits(x, y, floats, "without a sum");
            guarded_release();
            machine_close(&m);
        }
}

/* ---- attention over listed rows ------------------------------------------------ */

enum { ROWS = 40, HEADS = 3, SPAN = 16 };

/* Keys and values of one head, gathered and in double precision. */
static void plain_row(const moe_attention *a, int s, int h, double *y)
{
    double weight[ROWS], max = -INFINITY, sum = 0;
    int first = a->cu_k[s], n = a->cu_k[s + 1] - first, column = h * a->head;
    const float *bias = a->bias ? a->bias + h * (2 * a->span - 1) + a->span - n : NULL;
    for (int j = 0; j < n; j++) {
        size_t row = (size_t)a->key_row[first + j] * a->ldkv + (size_t)column;
        weight[j] = 0;
        for (int c = 0; c < a->head; c++)
            weight[j] += (double)a->q[(size_t)s * a->ldq + (size_t)(column + c)] * a->k[row + (size_t)c];
        weight[j] = (double)a->scale * weight[j] + (bias ? bias[j] : 0);
        max = fmax(max, weight[j]);
    }
    for (int j = 0; j < n; j++)
        sum += weight[j] = exp(weight[j] - max);
    for (int c = 0; c < a->head; c++) {
        y[c] = 0;
        for (int j = 0; j < n; j++)
            y[c] += weight[j] / sum *
                    a->v[(size_t)a->key_row[first + j] * a->ldkv + (size_t)(column + c)];
    }
}

static void check_listed(const machine *m, int head, bool with_bias, rng *r)
{
    static const int32_t cu_k[] = {0, 1, 4, 20, 29};
    int32_t key_row[29];
    size_t inner = (size_t)(HEADS * head);
    float *rows = random_floats(r, ROWS * 3 * inner, 1), *y = random_floats(r, 4 * inner, NAN);
    for (int i = 0; i < 29; i++)
        key_row[i] = rng_int(r, 0, ROWS - 1);
    key_row[28] = ROWS - 1; /* the very last row of memory */
    moe_attention a = {
        .n_seqs = 4, .n_heads = HEADS, .head = head, .cu_k = cu_k, .key_row = key_row,
        .q = rows, .k = rows + inner, .v = rows + 2 * inner, .ldq = 3 * inner, .ldkv = 3 * inner,
        .scale = with_bias ? 1 : 0.3f, .span = SPAN, .y = y, .ldy = inner,
        .bias = with_bias ? random_floats(r, HEADS * (2 * SPAN - 1), 2) : NULL,
    };
    m->b->ops->attention(m->b, &a);
    for (int s = 0; s < 4; s++)
        for (int h = 0; h < HEADS; h++) {
            double expected[64];
            plain_row(&a, s, h, expected);
            /* Scores of at most `head` terms below 1, and sums over 16 keys. */
            for (int c = 0; c < head; c++)
                assert_near(y[(size_t)s * inner + (size_t)(h * head + c)], expected[c],
                            (3 * head + 40) * (double)FLT_EPSILON, m->b->isa, s, c);
        }
    guarded_release();
}

static void listed_rows_are_attended_to(void **state)
{
    (void)state;
    static const int heads[] = {1, 5, 16, 24, 33, 64};
    for (int isa = 0; isa < N_ISAS; isa++)
        for (size_t i = 0; i < 2 * sizeof heads / sizeof *heads; i++) {
            machine m;
            int head = heads[i / 2];
            moe_backend_shape shape = {.max_tokens = 64, .max_seq = 32, .d_model = 7,
                                       .n_heads = HEADS, .d_head = head, .n_experts = 1};
            if (!machine_open(&m, all_isas[isa], 1 + (int)(i % 3), &shape))
                continue;
            rng r = rng_seed(90 + i);
            check_listed(&m, head, i % 2, &r);
            machine_close(&m);
        }
}

/* ---- embedding --------------------------------------------------------------------- */

static void words_alone_are_embedded_as_they_are(void **state)
{
    (void)state;
    enum { D = 19, WORDS = 5 };
    static const int32_t ids[] = {4, 0, 2, 2}, cu[] = {0, 1, 4};
    for (int isa = 0; isa < N_ISAS; isa++) {
        machine m;
        moe_backend_shape shape = {.max_tokens = 8, .max_seq = 8, .d_model = D, .n_heads = 1,
                                   .n_experts = 1};
        if (!machine_open(&m, all_isas[isa], 2, &shape))
            continue;
        rng r = rng_seed(3);
        float *words = random_floats(&r, WORDS * D, 1), *y = guarded_floats(4 * D);
        moe_weights w = {.words = {.n = WORDS, .d = D, .dtype = MOE_F32, .rows = words}};
        m.b->ops->embed(m.b, &w, ids, NULL, cu, 2, y);
        for (int t = 0; t < 4; t++)
            assert_same_bits(y + t * D, words + ids[t] * D, D, "row");
        guarded_release();
        machine_close(&m);
    }
}

/* ---- gated FFNs ----------------------------------------------------------------------- */

typedef struct { int d, d_ff, n_experts; float *gate, *up, *down; moe_ffn f; } gated;

static void make_gated(gated *g, int d, int d_ff, rng *r)
{
    int n = (d_ff + MOE_EXPERT_SIZE - 1) / MOE_EXPERT_SIZE;
    size_t cells = (size_t)d * (size_t)d_ff, places = (size_t)n * MOE_EXPERT_SIZE;
    float *w1 = guarded_floats(places * (size_t)d), *up = guarded_floats(places * (size_t)d);
    float *w2 = guarded_floats(pack_w2_floats(n, d)), *zeros = random_floats(r, places, 0);
    *g = (gated){.d = d, .d_ff = d_ff, .n_experts = n, .gate = random_floats(r, cells, 0.3f),
                 .up = random_floats(r, cells, 0.3f), .down = random_floats(r, cells, 0.3f)};
    pack_w1(g->gate, d_ff, d, n, NULL, w1);
    pack_w1(g->up, d_ff, d, n, NULL, up);
    pack_w2(g->down, d_ff, d, n, NULL, w2);
    g->f = (moe_ffn){.d = d, .n_experts = n, .d_ff = d_ff, .act = MOE_ACT_GELU_TANH, .w1 = w1,
                     .gated = true, .up = up, .w2 = w2, .b1 = zeros};
}

/* The value of a neuron. */
static double plain_hidden(const gated *g, const float *x, int neuron)
{
    double gate = 0, up = 0;
    for (int i = 0; i < g->d; i++) {
        gate += (double)x[i] * g->gate[neuron * g->d + i];
        up += (double)x[i] * g->up[neuron * g->d + i];
    }
    return up * 0.5 * gate * (1 + tanh(0.7978845608 * (gate + 0.044715 * gate * gate * gate)));
}

/* Tokens of every third expert, and all; and their masses. */
static void check_gated(const machine *m, const gated *g, int n, rng *r)
{
    float *x = random_floats(r, (size_t)(n * g->d), 1);
    float *dense = guarded_floats((size_t)(n * g->d)), *y = guarded_floats((size_t)(n * g->d));
    float *mass = guarded_floats((size_t)(n * g->n_experts));
    int32_t bound[64] = {0}, expert[1024];
    for (int t = 0; t < n; t++) {
        bound[t + 1] = bound[t];
        for (int e = t % 3; e < g->n_experts; e += 3)
            expert[bound[t + 1]++] = e;
    }
    m->b->ops->ffn(m->b, &g->f, x, n, NULL, dense);
    m->b->ops->ffn(m->b, &g->f, x, n, &(moe_route){bound, expert}, y);
    m->b->ops->expert_mass(m->b, &g->f, x, n, mass);
    for (int t = 0; t < n; t++) {
        double all[512] = {0}, some[512] = {0}, sizes[32] = {0};
        for (int j = 0; j < g->d_ff; j++) {
            double h = plain_hidden(g, x + t * g->d, j);
            sizes[j / MOE_EXPERT_SIZE] += fabs(h);
            for (int c = 0; c < g->d; c++) {
                all[c] += h * g->down[c * g->d_ff + j];
                some[c] += j / MOE_EXPERT_SIZE % 3 == t % 3 ? h * g->down[c * g->d_ff + j] : 0;
            }
        }
        for (int c = 0; c < g->d; c++) {
            assert_near(dense[t * g->d + c], all[c], 1e-4, m->b->isa, t, c);
            assert_near(y[t * g->d + c], some[c], 1e-4, m->b->isa, t, c);
        }
        for (int e = 0; e < g->n_experts; e++)
            assert_near(mass[t * g->n_experts + e], sizes[e], 1e-4, m->b->isa, t, e);
    }
}

static void gated_networks_multiply_by_their_second_product(void **state)
{
    (void)state;
    static const int shapes[][3] = {{48, 160, 1}, {33, 70, 9}, {128, 320, 50}};
    for (int isa = 0; isa < N_ISAS; isa++)
        for (int i = 0; i < 3; i++) {
            machine m;
            moe_backend_shape shape = {.max_tokens = 64, .max_seq = 64, .d_model = shapes[i][0],
                                       .n_heads = 1, .n_experts = 10};
            if (!machine_open(&m, all_isas[isa], 2, &shape))
                continue;
            rng r = rng_seed(40 + (unsigned)i);
            gated g;
            make_gated(&g, shapes[i][0], shapes[i][1], &r);
            check_gated(&m, &g, shapes[i][2], &r);
            guarded_release();
            machine_close(&m);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norms_before_a_part_keep_the_sum),
        cmocka_unit_test(listed_rows_are_attended_to),
        cmocka_unit_test(words_alone_are_embedded_as_they_are),
        cmocka_unit_test(gated_networks_multiply_by_their_second_product),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
