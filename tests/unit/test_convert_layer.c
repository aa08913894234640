/* What a layer computes: activations, and each expert's share of the output, against
 * the sums written out. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "convert/expert_norms.h"
#include "tests/unit/convert_planted.h"

static double act(moe_activation kind, double z)
{
    if (kind == MOE_ACT_GELU_ERF)
        return 0.5 * z * (1 + erf(z / sqrt(2)));
    if (kind == MOE_ACT_GELU_TANH)
        return 0.5 * z * (1 + tanh(sqrt(2 / 3.14159265358979) * (z + 0.044715 * z * z * z)));
    return z > 0 ? z : 0;
}

static double activation_at(const ffn_layer *l, int t, int n)
{
    double z = l->b1[n];
    for (int i = 0; i < l->d; i++)
        z += (double)l->x[t * l->d + i] * l->w1[n * l->d + i];
    return act(l->act, z);
}

static const moe_activation kinds[] = {MOE_ACT_RELU, MOE_ACT_GELU_ERF, MOE_ACT_GELU_TANH};

static void activations_keep_their_negative_part_and_hidden_does_not(void **state)
{
    (void)state;
    enum { ROWS = 5 };
    static float whole[ROWS * N_NEURONS], positive[ROWS * N_NEURONS];
    planted p;
    plant_directions(&p, 20, 1);
    for (int k = 0; k < 3; k++) {
        int negative = 0;
        p.l.act = kinds[k];
        const ffn_inputs in = layer_inputs(&p.l);
        layer_activations(&p.l, &in, p.x, ROWS, whole);
        layer_hidden(&p.l, &in, p.x, ROWS, positive);
        for (int t = 0; t < ROWS; t++)
            for (int n = 0; n < N_NEURONS; n++) {
                const double expected = activation_at(&p.l, t, n);
                const int i = t * N_NEURONS + n;
                assert_true(fabs(whole[i] - expected) < 1e-5);
                assert_true(fabs(positive[i] - fmax(0, expected)) < 1e-5);
                assert_true(positive[i] >= 0);
                negative += whole[i] < 0;
            }
        assert_int_equal(negative > 0, kinds[k] != MOE_ACT_RELU);
    }
    planted_free(&p);
}

/* A gate multiplies, and what counts as active is then the size. */
static void a_gate_multiplies_the_activations(void **state)
{
    (void)state;
    enum { ROWS = 70 };
    static float whole[ROWS * N_NEURONS], size[ROWS * N_NEURONS];
    planted p;
    plant_directions(&p, ROWS, 1);
    float *up = malloc((size_t)N_NEURONS * (size_t)p.l.d * sizeof *up);
    for (int i = 0; i < N_NEURONS * p.l.d; i++)
        up[i] = (float)((i * 37) % 23 - 11) / 16;
    p.l.up = up;
    p.l.act = MOE_ACT_GELU_TANH;
    const ffn_inputs in = layer_inputs(&p.l);
    layer_activations(&p.l, &in, p.x, ROWS, whole);
    layer_hidden(&p.l, &in, p.x, ROWS, size);
    for (int t = 0; t < ROWS; t++)
        for (int n = 0; n < N_NEURONS; n++) {
            double u = 0;
            for (int i = 0; i < p.l.d; i++)
                u += (double)p.l.x[t * p.l.d + i] * up[n * p.l.d + i];
            const double expected = activation_at(&p.l, t, n) * u;
            const int i = t * N_NEURONS + n;
            assert_true(fabs(whole[i] - expected) < 1e-5 * (1 + fabs(expected)));
            assert_true(size[i] == fabsf(whole[i]));
        }
    free(up);
    planted_free(&p);
}

static void a_neurons_norm_is_its_column_of_w2(void **state)
{
    (void)state;
    const float w2[6] = {3, 0, 1,
                         4, 0, -1};
    const ffn_layer l = {.d = 2, .d_ff = 3, .w2 = w2};
    float norm[3];
    layer_neuron_norms(&l, norm);
    assert_true(norm[0] == 5 && norm[1] == 0 && fabsf(norm[2] - sqrtf(2)) < 1e-6f);
}

/* ||W2_e h_e|| by the product itself. */
static double norm_by_product(const ffn_layer *l, const int32_t *neurons, int t, int e)
{
    double squares = 0;
    for (int i = 0; i < l->d; i++) {
        double out = 0;
        for (int j = 0; j < layer_capacity(l, e); j++) {
            const int n = neurons[e * MOE_EXPERT_SIZE + j];
            out += (double)l->w2[i * l->d_ff + n] * activation_at(l, t, n);
        }
        squares += out * out;
    }
    return sqrt(squares);
}

static void expert_norms_are_those_of_their_outputs(void **state)
{
    (void)state;
    for (int k = 0; k < 3; k++) {
        planted p;
        enum { TOKENS = 300 }; /* more than a task's rows */
        static float norms[2][TOKENS * N_GROUPS];
        int32_t neurons[N_NEURONS];
        plant_directions(&p, TOKENS, 2);
        p.l.act = kinds[k];
        if (k > 0)
            p.l.d_ff = N_NEURONS - 27; /* the last expert has five neurons */
        /* Five is prime to both sizes: a split that is no run of neurons. */
        for (int n = 0; n < p.l.d_ff; n++)
            p.group_of[n] = n * 5 % p.l.d_ff / MOE_EXPERT_SIZE;
        layer_list_neurons(&p.l, p.group_of, neurons);
        for (int threads = 1; threads <= 3; threads += 2) {
            expert_norms *e;
            workers *w, *former = p.l.workers;
            assert_int_equal(workers_create(threads, &w, NULL), MOE_OK);
            p.l.workers = w;
            assert_int_equal(expert_norms_create(&p.l, neurons, &e, NULL), MOE_OK);
            assert_int_equal(expert_norms_of(e, p.x, TOKENS, norms[threads > 1], NULL),
                             MOE_OK);
            expert_norms_free(e);
            workers_destroy(w);
            p.l.workers = former;
        }
        assert_memory_equal(norms[0], norms[1], sizeof norms[0]);
        for (int t = 0; t < TOKENS; t += 23)
            for (int e = 0; e < N_GROUPS; e++) {
                const double expected = norm_by_product(&p.l, neurons, t, e);
                const double found = norms[0][t * N_GROUPS + e];
                /* The square's fp32 error, 1e-5 of the larger norms, counts more
                 * near zero. */
                if (fabs(found - expected) > 1e-4 * expected + 5e-3)
                    fail_msg("act %d, row %d, expert %d: %g, expected %g", k, t, e, found,
                             expected);
            }
        planted_free(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(activations_keep_their_negative_part_and_hidden_does_not),
        cmocka_unit_test(a_gate_multiplies_the_activations),
        cmocka_unit_test(a_neurons_norm_is_its_column_of_w2),
        cmocka_unit_test(expert_norms_are_those_of_their_outputs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
