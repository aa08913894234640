/* Routers: the perceptron's gradient against finite differences, Adam's first
 * steps by hand, and what each router catches on a layer with planted groups. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "convert/mlp.h"
#include "convert/router.h"
#include "convert/split.h"
#include "tests/unit/convert_planted.h"

static void the_gradient_matches_finite_differences(void **state)
{
    (void)state;
    const mlp_shape s = {.d = 5, .hidden = 4, .out = 3};
    enum { ROWS = 7, PARAMS = 4 * 5 + 4 + 3 * 4 + 3 };
    float params[PARAMS], gradient[PARAMS], x[ROWS * 5], y[ROWS * 3], scratch[ROWS * 11];
    assert_int_equal(mlp_floats(s), PARAMS);
    rng r = rng_stream(3, 0, 0);
    for (int i = 0; i < PARAMS; i++)
        params[i] = (float)rng_normal(&r);
    for (int i = 0; i < ROWS * 5; i++)
        x[i] = (float)rng_normal(&r);
    for (int i = 0; i < ROWS * 3; i++)
        y[i] = (float)rng_uniform(&r);
    mlp_gradient(s, params, x, y, ROWS, 0.5f, scratch, gradient);
    for (int i = 0; i < PARAMS; i++) {
        const float kept = params[i], step = 1e-2f;
        params[i] = kept + step;
        double above = mlp_loss(s, params, x, y, ROWS, scratch);
        params[i] = kept - step;
        double below = mlp_loss(s, params, x, y, ROWS, scratch);
        params[i] = kept;
        /* Central differences are off by step^2 times a third derivative, and by
         * fp32 rounding over the step: 1e-3 holds both. */
        double expected = 0.5 * (above - below) / (2 * (double)step);
        if (fabs(expected - gradient[i]) > 1e-3)
            fail_msg("parameter %d: %g, by differences %g", i, gradient[i], expected);
    }
}

static void adam_takes_the_steps_of_its_paper(void **state)
{
    (void)state;
    float param = 1, mean = 0, square = 0, gradient = 0.5f;
    /* Step 1: both estimates unbiased are g and g^2, so the step is the rate. */
    adam_step(&param, &gradient, 1, 1, 0.01f, &mean, &square);
    assert_true(fabsf(param - 0.99f) < 1e-6f);
    /* Step 2 with g = -1: m = .9 * .05 - .1 = -.055, /(1 - .81) = -.289474;
     * v = .999 * .00025 + .001 = .00124975, /(1 - .998001) = .625188. */
    gradient = -1;
    adam_step(&param, &gradient, 1, 2, 0.01f, &mean, &square);
    assert_true(fabs(param - (0.99 + 0.01 * 0.289474 / sqrt(0.625188))) < 1e-6);
}

/* A planted layer with its true split, its masses and held-out tokens. */
typedef struct {
    planted p;
    int32_t neurons[N_NEURONS];
    float *mass;
    int32_t *train, *held_out;
    router_input in;
} scene;

static void scene_finish(scene *s)
{
    layer_list_neurons(&s->p.l, s->p.group_of, s->neurons);
    const size_t n = (size_t)s->p.l.n_tokens;
    s->mass = malloc(n * N_GROUPS * sizeof(float));
    s->train = malloc(n * sizeof(int32_t));
    s->held_out = malloc(n * sizeof(int32_t));
    s->in = (router_input){.l = &s->p.l, .neurons = s->neurons, .mass = s->mass,
                           .train = s->train, .held_out = s->held_out};
    router_hold_out(&s->p.l, s->train, &s->in.n_train, s->held_out, &s->in.n_held_out);
    assert_int_equal(layer_expert_mass(&s->p.l, s->neurons, s->mass, NULL, NULL), MOE_OK);
}

static void scene_make(scene *s, int n_tokens, int threads)
{
    plant_directions(&s->p, n_tokens, threads);
    scene_finish(s);
}

static void scene_free(scene *s)
{
    planted_free(&s->p);
    free(s->mass);
    free(s->train);
    free(s->held_out);
}

static double captured_by(const scene *s, router_fn make)
{
    router_rows rows;
    router_report report;
    double share;
    assert_int_equal(make(&s->in, &rows, &report, NULL), MOE_OK);
    assert_int_equal(router_captured(&s->in, &rows, &share, NULL), MOE_OK);
    router_rows_free(&rows);
    return share;
}

static void routers_catch_what_they_should(void **state)
{
    (void)state;
    scene s;
    double oracle;
    scene_make(&s, 6000, 2);
    assert_int_equal(router_captured(&s.in, NULL, &oracle, NULL), MOE_OK);
    const double mlp = captured_by(&s, router_mlp), random = captured_by(&s, router_random);
    const double similarity = captured_by(&s, router_similarity);
    const double norm = captured_by(&s, router_norm), avgk = captured_by(&s, router_avgk);
    print_message("captured at 2 of 8 experts: oracle %.3f mlp %.3f similarity %.3f norm "
                  "%.3f avgk %.3f random %.3f\n", oracle, mlp, similarity, norm, avgk,
                  random);
    assert_true(norm > 0.95 * oracle && norm <= oracle + 1e-9);
    assert_true(avgk > 0.9 * oracle && avgk <= oracle + 1e-9);
    assert_true(oracle > 0.9);
    assert_true(mlp > 0.98 * oracle && mlp <= oracle + 1e-9);
    assert_true(similarity > 0.95 * oracle && similarity <= oracle + 1e-9);
    assert_true(random < 0.6);
    scene_free(&s);
}

/* The first layer's bias has to tell what the direction of x cannot: here one
 * group fires most for every token, by its b1 alone. */
static void biases_are_learnt(void **state)
{
    (void)state;
    scene s;
    router_rows rows;
    router_report report;
    plant_directions(&s.p, 6000, 2);
    for (int n = 0; n < N_NEURONS; n++)
        if (s.p.group_of[n] == 3) {
            memset(s.p.w1 + n * s.p.l.d, 0, (size_t)s.p.l.d * sizeof(float));
            s.p.b1[n] = 5;
        }
    scene_finish(&s);
    assert_int_equal(router_mlp(&s.in, &rows, &report, NULL), MOE_OK);
    assert_true(rows.normalize && rows.n_linears == 2 && rows.n_hidden == N_GROUPS);
    assert_int_equal(report.epochs, 10);
    assert_in_range(report.best_epoch, 1, 10);
    float scratch[N_NEURONS + N_GROUPS], scores[N_GROUPS];
    for (int t = 0; t < 50; t++) {
        router_scores_of(&rows, &s.p.l, s.p.x + t * s.p.l.d, 1, scratch, scores);
        int better = 0;
        for (int e = 0; e < N_GROUPS; e++)
            better += scores[e] > scores[3];
        assert_true(better < 2);
    }
    router_rows_free(&rows);
    scene_free(&s);
}

static void zero_rows_and_silent_layers_leave_finite_routers(void **state)
{
    (void)state;
    for (int variant = 0; variant < 2; variant++)
        for (int kind = 0; router_kinds[kind].name; kind++) {
            scene s;
            router_rows rows;
            router_report report;
            double share;
            plant_directions(&s.p, variant ? 20 : 600, 1);
            if (variant == 0) /* a third of the tokens are zero vectors */
                memset(s.p.x, 0, sizeof(float) * 200 * (size_t)s.p.l.d);
            else { /* nothing fires, all weights zero, one sequence */
                memset(s.p.w1, 0, sizeof(float) * N_NEURONS * (size_t)s.p.l.d);
                s.p.l.n_seqs = 1;
                s.p.l.n_tokens = SEQ_TOKENS;
            }
            scene_finish(&s);
            assert_int_equal(router_kinds[kind].make(&s.in, &rows, &report, NULL), MOE_OK);
            float scratch[N_NEURONS + N_GROUPS], scores[N_GROUPS];
            for (int t = 0; t < s.p.l.n_tokens; t++) {
                router_scores_of(&rows, &s.p.l, s.p.x + t * s.p.l.d, 1, scratch, scores);
                for (int e = 0; e < N_GROUPS; e++)
                    assert_true(isfinite(scores[e]));
            }
            assert_int_equal(router_captured(&s.in, &rows, &share, NULL), MOE_OK);
            assert_true(variant ? share == 1 : share > 0 && share < 1);
            router_rows_free(&rows);
            scene_free(&s);
        }
}

static void similarity_ranks_by_cosine_to_the_mean_of_unit_rows(void **state)
{
    (void)state;
    scene s;
    router_rows rows;
    router_report report;
    scene_make(&s, 100, 1);
    assert_int_equal(router_similarity(&s.in, &rows, &report, NULL), MOE_OK);
    assert_true(rows.n_linears == 1 && !rows.normalize);
    const int d = s.p.l.d, e = 5;
    double centre[64] = {0}, length = 0;
    for (int n = 0; n < N_NEURONS; n++) {
        double norm = 0;
        for (int i = 0; i < d; i++)
            norm += (double)s.p.w1[n * d + i] * s.p.w1[n * d + i];
        for (int i = 0; s.p.group_of[n] == e && i < d; i++)
            centre[i] += s.p.w1[n * d + i] / sqrt(norm);
    }
    for (int i = 0; i < d; i++)
        length += centre[i] * centre[i];
    for (int i = 0; i < d; i++)
        assert_true(fabs(centre[i] / sqrt(length) - rows.first[e * d + i]) < 1e-5);
    assert_true(rows.first_bias[e] == 0);
    router_rows_free(&rows);
    scene_free(&s);
}

static void avgk_is_the_mean_input_of_an_experts_neurons(void **state)
{
    (void)state;
    /* 34 neurons of two inputs: expert 0 has 0 .. 31, expert 1 the last two. */
    float w1[34 * 2], b1[34];
    int32_t expert[34], neurons[64];
    for (int n = 0; n < 34; n++) {
        w1[2 * n] = (float)n;
        w1[2 * n + 1] = n % 2 ? -1 : 3;
        b1[n] = n == 33 ? -2.5f : 0.5f;
        expert[n] = n / 32;
    }
    const ffn_layer l = {.d = 2, .d_ff = 34, .n_experts = 2, .w1 = w1, .b1 = b1};
    const router_input in = {.l = &l, .neurons = neurons};
    router_rows rows;
    router_report report;
    layer_list_neurons(&l, expert, neurons);
    assert_int_equal(router_avgk(&in, &rows, &report, NULL), MOE_OK);
    assert_true(rows.n_linears == 1 && !rows.normalize);
    /* mean of 0 .. 31; of 32 and 33 */
    assert_true(rows.first[0] == 15.5f && rows.first[1] == 1 && rows.first_bias[0] == 0.5f);
    assert_true(rows.first[2] == 32.5f && rows.first[3] == 1 && rows.first_bias[1] == -1);
    router_rows_free(&rows);
}

/* Expert e's norm is linear by construction: its neurons fire alike, always, with
 * h = (1 + e) (2 + x_0), and add up through one direction of W2. */
static void norm_router_predicts_norms_that_are_linear(void **state)
{
    (void)state;
    for (int gelu = 0; gelu < 2; gelu++) {
        scene s;
        router_rows rows;
        router_report report;
        plant_directions(&s.p, 6000, 2);
        const int d = s.p.l.d;
        /* Only the second block of tokens tells them apart. */
        for (int t = 1; t < 4700; t++)
            memcpy(s.p.x + t * d, s.p.x, sizeof(float) * (size_t)d);
        memset(s.p.w1, 0, sizeof(float) * N_NEURONS * (size_t)d);
        memset(s.p.w2, 0, sizeof(float) * N_NEURONS * (size_t)d);
        /* Past 8, GELU is the identity in fp32. */
        const float level = gelu ? 20 : 2;
        s.p.l.act = gelu ? MOE_ACT_GELU_ERF : MOE_ACT_RELU;
        for (int n = 0; n < N_NEURONS; n++) {
            const int e = s.p.group_of[n];
            s.p.w1[n * d] = (float)(1 + e);
            s.p.b1[n] = (float)(1 + e) * level;
            s.p.w2[e * N_NEURONS + n] = 0.5f; /* direction e */
        }
        scene_finish(&s);
        assert_int_equal(router_norm(&s.in, &rows, &report, NULL), MOE_OK);
        assert_true(rows.n_linears == 1 && !rows.normalize && report.epochs == 0);
        float scores[N_GROUPS];
        for (int t = 4700; t < 6000; t += 37) {
            const float *x = s.p.x + t * d;
            router_scores_of(&rows, &s.p.l, x, 1, NULL, scores);
            for (int e = 0; e < N_GROUPS; e++) {
                const double expected = 32 * 0.5 * (1 + e) * (level + x[0]);
                /* lambda shrinks the slope by a few thousandths. */
                if (fabs(scores[e] - expected) > 0.01 * expected)
                    fail_msg("expert %d: %g, expected %g", e, scores[e], expected);
            }
        }
        router_rows_free(&rows);
        scene_free(&s);
    }
}

static void any_number_of_threads_gives_the_same_router(void **state)
{
    (void)state;
    const router_fn makers[] = {router_mlp, router_norm};
    for (int k = 0; k < 2; k++) {
        router_rows rows[2];
        router_report report;
        size_t floats = 0;
        for (int i = 0; i < 2; i++) {
            scene s;
            scene_make(&s, 6000, 1 + 2 * i);
            assert_int_equal(makers[k](&s.in, &rows[i], &report, NULL), MOE_OK);
            floats = (size_t)N_GROUPS * (size_t)s.p.l.d;
            scene_free(&s);
        }
        assert_memory_equal(rows[0].first, rows[1].first, floats * sizeof(float));
        assert_memory_equal(rows[0].first_bias, rows[1].first_bias,
                            N_GROUPS * sizeof(float));
        if (rows[0].n_linears == 2)
            assert_memory_equal(rows[0].second, rows[1].second,
                                N_GROUPS * N_GROUPS * sizeof(float));
        router_rows_free(&rows[0]);
        router_rows_free(&rows[1]);
    }
}

static void a_tenth_of_the_sequences_is_held_out_whole(void **state)
{
    (void)state;
    planted p;
    plant_directions(&p, 1000, 1);
    int32_t train[1000], held_out[1000];
    int n_train, n_held_out;
    router_hold_out(&p.l, train, &n_train, held_out, &n_held_out);
    assert_int_equal(n_held_out, 100);
    assert_int_equal(n_train, 900);
    for (int i = 0; i < n_held_out; i++) {
        assert_int_equal(held_out[i] % SEQ_TOKENS, i % SEQ_TOKENS);
        for (int j = 0; j < n_train; j++)
            assert_int_not_equal(held_out[i], train[j]);
    }
    p.l.n_seqs = 1;
    router_hold_out(&p.l, train, &n_train, held_out, &n_held_out);
    assert_int_equal(n_held_out, SEQ_TOKENS);
    assert_int_equal(n_train, SEQ_TOKENS);
    planted_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_gradient_matches_finite_differences),
        cmocka_unit_test(adam_takes_the_steps_of_its_paper),
        cmocka_unit_test(routers_catch_what_they_should),
        cmocka_unit_test(biases_are_learnt),
        cmocka_unit_test(zero_rows_and_silent_layers_leave_finite_routers),
        cmocka_unit_test(similarity_ranks_by_cosine_to_the_mean_of_unit_rows),
        cmocka_unit_test(avgk_is_the_mean_input_of_an_experts_neurons),
        cmocka_unit_test(norm_router_predicts_norms_that_are_linear),
        cmocka_unit_test(any_number_of_threads_gives_the_same_router),
        cmocka_unit_test(a_tenth_of_the_sequences_is_held_out_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
