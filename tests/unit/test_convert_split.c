/* Splits give back the groups that a layer was made of, keep sizes exact, and do
 * not depend on the number of threads. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "convert/split.h"
#include "tests/unit/convert_planted.h"

static void check_sizes(const ffn_layer *l, const int32_t *expert)
{
    int count[N_GROUPS] = {0};
    for (int n = 0; n < l->d_ff; n++) {
        assert_in_range(expert[n], 0, l->n_experts - 1);
        count[expert[n]]++;
    }
    for (int e = 0; e < l->n_experts; e++)
        assert_int_equal(count[e], layer_capacity(l, e));
}

static void clustering_finds_planted_directions(void **state)
{
    (void)state;
    planted p;
    int32_t expert[N_NEURONS];
    split_report report;
    plant_directions(&p, 500, 2);
    assert_int_equal(split_clustering(&p.l, expert, &report, NULL), MOE_OK);
    check_sizes(&p.l, expert);
    assert_true(planted_recovered(&p, expert) == 1);
    assert_true(report.inertia > 0.05 && report.inertia < 0.5);
    assert_true(isnan(report.cut));
    planted_free(&p);
}

static void coactivation_finds_neurons_that_fire_together(void **state)
{
    (void)state;
    planted p;
    int32_t expert[N_NEURONS];
    split_report report;
    plant_cofiring(&p, 6000, 2);
    assert_int_equal(split_coactivation(&p.l, expert, &report, NULL), MOE_OK);
    check_sizes(&p.l, expert);
    assert_true(planted_recovered(&p, expert) == 1);
    assert_true(report.cut > 0 && report.cut < 0.5);
    split_random(&p.l, expert, &report, NULL);
    assert_true(planted_recovered(&p, expert) < 0.25);
    planted_free(&p);
}

/* One neuron in six never fires, 43 in all: they fill the last expert and eleven
 * places of the one before. */
static void silent_neurons_share_the_last_experts(void **state)
{
    (void)state;
    const split_fn splits[] = {split_coactivation, split_em};
    for (int i = 0; i < 2; i++) {
        planted p;
        int32_t expert[N_NEURONS];
        int silent[N_GROUPS] = {0};
        split_report report;
        plant_cofiring(&p, 6000, 1);
        for (int n = 0; n < N_NEURONS; n += 6)
            p.b1[n] = -9;
        assert_int_equal(splits[i](&p.l, expert, &report, NULL), MOE_OK);
        check_sizes(&p.l, expert);
        for (int n = 0; n < N_NEURONS; n += 6)
            silent[expert[n]]++;
        for (int e = 0; e < N_GROUPS; e++)
            assert_int_equal(silent[e], e == N_GROUPS - 1 ? 32 : e == N_GROUPS - 2 ? 11 : 0);
        planted_free(&p);
    }
}

/* Where W1's rows tell the groups, and where only their firing together does. */
static void em_finds_planted_groups_of_both_kinds(void **state)
{
    (void)state;
    for (int variant = 0; variant < 2; variant++) {
        planted p;
        int32_t expert[N_NEURONS];
        split_report report;
        (variant ? plant_cofiring : plant_directions)(&p, 6000, 2);
        assert_int_equal(split_em(&p.l, expert, &report, NULL), MOE_OK);
        check_sizes(&p.l, expert);
        print_message("variant %d: recovered %.3f, linear at 20%% %.3f\n", variant,
                      planted_recovered(&p, expert), report.linear);
        assert_true(planted_recovered(&p, expert) == 1);
        assert_true(report.linear > 0.7 && report.linear <= 1);
        assert_true(isnan(report.cut) && isnan(report.inertia));
        planted_free(&p);
    }
}

/* Every eighth neuron fires as it always did, but its column of W2 is zero: it adds
 * nothing, and belongs with those that never fire. */
static void em_weighs_neurons_by_their_columns_of_w2(void **state)
{
    (void)state;
    planted p;
    int32_t expert[N_NEURONS];
    split_report report;
    plant_cofiring(&p, 6000, 1);
    for (int n = 0; n < N_NEURONS; n += 8)
        for (int i = 0; i < p.l.d; i++)
            p.w2[i * N_NEURONS + n] = 0;
    assert_int_equal(split_em(&p.l, expert, &report, NULL), MOE_OK);
    for (int n = 0; n < N_NEURONS; n++)
        assert_int_equal(expert[n] == N_GROUPS - 1, n % 8 == 0);
    planted_free(&p);
}

static const char *const names[] = {"em", "coactivation", "clustering", "random"};
enum { N_KINDS = sizeof names / sizeof *names };

static void degenerate_layers_are_split_too(void **state)
{
    (void)state;
    for (int kind = 0; kind < N_KINDS; kind++) {
        assert_string_equal(split_kinds[kind].name, names[kind]);
        for (int variant = 0; variant < 8; variant++) {
            planted p;
            int32_t expert[N_NEURONS];
            split_report report;
            plant_cofiring(&p, 500, 1);
            if (variant == 0) /* nothing fires; all rows of W1 zero */
                memset(p.w1, 0, sizeof(float) * N_NEURONS * N_NEURONS);
            if (variant == 1) /* two neurons fire, never together */
                for (int n = 0; n < N_NEURONS; n++)
                    p.b1[n] = n < 2 ? 0 : -9;
            if (variant == 2) { /* one token; the last expert has a single neuron */
                p.l.n_tokens = p.l.n_seqs = p.cu_seqlens[1] = 1;
                p.l.d_ff = 65;
                p.l.n_experts = 3;
            }
            if (variant == 3) { /* a single small expert */
                p.l.d_ff = 7;
                p.l.n_experts = 1;
            }
            if (variant == 4) /* all neurons alike */
                for (int i = 0; i < N_NEURONS * N_NEURONS; i++)
                    p.w1[i] = 1;
            if (variant == 5) { /* ten tokens */
                p.l.n_seqs = 1;
                p.l.n_tokens = SEQ_TOKENS;
            }
            if (variant == 6) /* the same token over and over */
                for (int t = 1; t < 500; t++)
                    memcpy(p.x + t * p.l.d, p.x, sizeof(float) * (size_t)p.l.d);
            if (variant == 7) { /* GELU, the last expert of five neurons */
                p.l.act = MOE_ACT_GELU_ERF;
                p.l.d_ff = N_NEURONS - 27;
            }
            assert_int_equal(split_kinds[kind].split(&p.l, expert, &report, NULL), MOE_OK);
            check_sizes(&p.l, expert);
            planted_free(&p);
        }
    }
    assert_null(split_kinds[N_KINDS].name);
}

static void any_number_of_threads_gives_the_same_split(void **state)
{
    (void)state;
    for (int kind = 0; kind < N_KINDS; kind++) {
        int32_t expert[3][N_NEURONS];
        for (int i = 0; i < 3; i++) {
            planted p;
            split_report report;
            plant_cofiring(&p, 5000, 1 + 2 * i);
            /* Little structure, so that a changed sum would show. */
            for (int n = 0; n < p.l.n_tokens * p.l.d; n++)
                p.x[n] += 0.5f;
            p.l.seed = 7;
            assert_int_equal(split_kinds[kind].split(&p.l, expert[i], &report, NULL),
                             MOE_OK);
            planted_free(&p);
        }
        assert_memory_equal(expert[0], expert[1], sizeof expert[0]);
        assert_memory_equal(expert[0], expert[2], sizeof expert[0]);
    }
}

static void a_weight_that_is_not_finite_is_named(void **state)
{
    (void)state;
    planted p;
    int32_t expert[N_NEURONS];
    split_report report;
    moe_error err;
    plant_cofiring(&p, 500, 1);
    p.w2[3 * N_NEURONS + 77] = NAN;
    assert_int_equal(split_em(&p.l, expert, &report, &err), MOE_E_FORMAT);
    assert_non_null(strstr(err.message, "neuron 77"));
    planted_free(&p);
}

static void the_seed_decides(void **state)
{
    (void)state;
    planted p;
    int32_t a[N_NEURONS], b[N_NEURONS];
    split_report report;
    plant_cofiring(&p, 100, 1);
    split_random(&p.l, a, &report, NULL);
    p.l.seed = 1;
    split_random(&p.l, b, &report, NULL);
    assert_memory_not_equal(a, b, sizeof a);
    planted_free(&p);
}

static void neurons_are_listed_ascending_with_padding_last(void **state)
{
    (void)state;
    const ffn_layer l = {.d_ff = 34, .n_experts = 2};
    int32_t expert[34], neurons[64];
    for (int n = 0; n < 34; n++)
        expert[n] = n == 5 || n == 9;
    layer_list_neurons(&l, expert, neurons);
    assert_int_equal(neurons[0], 0);
    assert_int_equal(neurons[31], 33);
    assert_int_equal(neurons[32], 5);
    assert_int_equal(neurons[33], 9);
    for (int i = 34; i < 64; i++)
        assert_int_equal(neurons[i], -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clustering_finds_planted_directions),
        cmocka_unit_test(coactivation_finds_neurons_that_fire_together),
        cmocka_unit_test(silent_neurons_share_the_last_experts),
        cmocka_unit_test(em_finds_planted_groups_of_both_kinds),
        cmocka_unit_test(em_weighs_neurons_by_their_columns_of_w2),
        cmocka_unit_test(degenerate_layers_are_split_too),
        cmocka_unit_test(any_number_of_threads_gives_the_same_split),
        cmocka_unit_test(a_weight_that_is_not_finite_is_named),
        cmocka_unit_test(the_seed_decides),
        cmocka_unit_test(neurons_are_listed_ascending_with_padding_last),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
