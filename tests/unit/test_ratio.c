/* From a ratio to expert counts, thresholds and pairs, and from logits to scores. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "engine/model/model.h"
#include "engine/routing/ratio.h"

static const int quarter[] = {16, 8}, half[] = {30, 18}, all[] = {48, 48};
static const moe_ratio_row rows[] = {{0.25, quarter}, {0.5, half}, {1, all}};
static const moe_model_info with_table = {
    .n_layers = 2, .n_experts = 48, .n_ratio_rows = 3, .ratio_rows = rows};
static const float high[] = {0.5f, 3e38f}, middle[] = {0.3f, -1}, low[] = {-0.3f, -3e38f};
static const moe_ratio_row threshold_rows[] = {
    {0.25, quarter, high}, {0.5, half, middle}, {1, all, low}};
static const moe_model_info with_thresholds = {
    .n_layers = 2, .n_experts = 48, .n_ratio_rows = 3, .ratio_rows = threshold_rows,
    .has_thresholds = true};
static const float few[] = {16.5f, 0}, more[] = {30, 24.25f}, every[] = {48, 48};
static const moe_ratio_row mean_rows[] = {
    {0.25, quarter, .mean_experts = few}, {0.5, half, .mean_experts = more},
    {1, all, .mean_experts = every}};
static const moe_model_info with_means = {
    .n_layers = 2, .n_experts = 48, .n_ratio_rows = 3, .ratio_rows = mean_rows,
    .has_mean_experts = true};
static const moe_model_info without_table = {.n_layers = 2, .n_experts = 48};

static void expect(const moe_model_info *info, double ratio, int first, int second)
{
    int experts[2];
    ratio_to_experts(info, ratio, experts);
    assert_int_equal(experts[0], first);
    assert_int_equal(experts[1], second);
}

static void rows_of_the_table_are_honoured(void **state)
{
    (void)state;
    expect(&with_table, 0.25, 16, 8);
    expect(&with_table, 0.5, 30, 18);
    expect(&with_table, 1, 48, 48);
}

static void between_rows_counts_are_interpolated(void **state)
{
    (void)state;
    expect(&with_table, 0.375, 23, 13);
    expect(&with_table, 0.75, 39, 33);
}

static void below_the_table_counts_shrink_to_one(void **state)
{
    (void)state;
    expect(&with_table, 0.125, 8, 4);
    expect(&with_table, 1e-9, 1, 1);
}

static void without_a_table_counts_are_uniform(void **state)
{
    (void)state;
    expect(&without_table, 0.25, 12, 12);
    expect(&without_table, 0.001, 1, 1);
    expect(&without_table, 1, 48, 48);
}

static void thresholds_are_the_rows_own_or_between(void **state)
{
    (void)state;
    float t[2];
    for (int i = 0; i < 3; i++) { /* the very bits, however far apart */
        assert_true(ratio_to_thresholds(&with_thresholds, threshold_rows[i].ratio, t));
        assert_memory_equal(t, threshold_rows[i].thresholds, sizeof t);
    }
    assert_true(ratio_to_thresholds(&with_thresholds, 0.375, t));
    assert_float_equal(t[0], 0.4, 1e-7);
    assert_float_equal(t[1] / 1.5e38, 1, 1e-6);
    assert_true(ratio_to_thresholds(&with_thresholds, 0.75, t));
    assert_float_equal(t[0], 0, 1e-7);
    assert_true(ratio_to_thresholds(&with_thresholds, 0.6, t));
    assert_float_equal(t[0], 0.3 - 0.2 * 0.6, 1e-7);
}

static void without_thresholds_or_below_them_counts_have_to_do(void **state)
{
    (void)state;
    float t[2] = {7, 7};
    assert_false(ratio_to_thresholds(&with_thresholds, 0.2499, t));
    assert_false(ratio_to_thresholds(&with_table, 0.5, t));
    assert_false(ratio_to_thresholds(&without_table, 0.5, t));
    assert_true(t[0] == 7 && t[1] == 7);
}

static void expect_means(double ratio, double first, double second)
{
    double mean[2];
    assert_true(ratio_to_means(&with_means, ratio, mean));
    assert_float_equal(mean[0], first, 1e-12);
    assert_float_equal(mean[1], second, 1e-12);
}

static void means_are_the_rows_own_between_or_scaled_down(void **state)
{
    (void)state;
    double mean[2] = {7, 7};
    expect_means(0.25, 16.5, 0);
    expect_means(0.5, 30, 24.25);
    expect_means(1, 48, 48);
    expect_means(0.3125, 16.5 + 13.5 / 4, 24.25 / 4);
    expect_means(0.75, 39, 36.125);
    expect_means(0.125, 8.25, 0);
    expect_means(1e-6, 16.5 * 4e-6, 0);
    assert_false(ratio_to_means(&with_thresholds, 0.5, mean));
    assert_false(ratio_to_means(&without_table, 0.5, mean));
    assert_true(mean[0] == 7 && mean[1] == 7);
}

static void roundings_of_pairs_do_not_pile_up(void **state)
{
    (void)state;
    static const double means[] = {0.3, 5.49, 1.499, 12, 3.45, 0.9, 7.4999, 2.2};
    for (int n = 1; n <= 40; n++) {
        pair_budget b = {0};
        double sum = 0;
        int64_t given = 0;
        for (int round = 0; round < 20; round++)
            for (int l = 0; l < 8; l++) {
                int pairs = ratio_next_pairs(&b, means[l], n, 12);
                sum += means[l] * n;
                given += pairs;
                assert_in_range(pairs, 1, 12 * n);
                /* Up to three tokens want less than the one pair of layer 0 or 5. */
                double forced = n < 4 ? 1 - 0.3 : 0;
                assert_true(fabs((double)given - sum) <= 0.5 + forced + 1e-9);
                assert_true(fabs(pairs - means[l] * n) <= 1 + 2 * forced + 1e-9);
            }
    }
}

static void a_layer_has_a_pair_at_least_and_all_at_most(void **state)
{
    (void)state;
    pair_budget b = {0};
    assert_int_equal(ratio_next_pairs(&b, 0, 5, 48), 1);
    assert_int_equal(ratio_next_pairs(&b, 0.1, 5, 48), 1); /* 0.5 wanted, 2 given */
    assert_int_equal(ratio_next_pairs(&b, 2, 5, 48), 9);  /* 10.5 are wanted: 11 */
    assert_int_equal(ratio_next_pairs(&b, 48, 5, 48), 240);
    b = (pair_budget){.wanted = 3}; /* owed three */
    assert_int_equal(ratio_next_pairs(&b, 47.9, 5, 48), 240);
    assert_int_equal(ratio_next_pairs(&b, 1, 5, 48), 8);
}

static void policies_have_names_and_a_default(void **state)
{
    (void)state;
    moe_policy p = MOE_POLICY_MODEL;
    const moe_model_info dynamic = {.policy = MOE_POLICY_THRESHOLD};
    assert_true(moe_policy_find("threshold", &p) && p == MOE_POLICY_THRESHOLD);
    assert_true(moe_policy_find("topk", &p) && p == MOE_POLICY_TOPK);
    assert_false(moe_policy_find("model", &p) || moe_policy_find("", &p) ||
                 moe_policy_find("TOPK", &p));
    assert_int_equal(p, MOE_POLICY_TOPK);
    assert_string_equal(moe_policy_name(MOE_POLICY_THRESHOLD), "threshold");
    assert_int_equal(moe_policy_resolve(&dynamic, MOE_POLICY_MODEL), MOE_POLICY_THRESHOLD);
    assert_int_equal(moe_policy_resolve(&dynamic, MOE_POLICY_TOPK), MOE_POLICY_TOPK);
    assert_int_equal(moe_policy_resolve(&dynamic, MOE_POLICY_SEQUENCE), MOE_POLICY_SEQUENCE);
    assert_string_equal(moe_policy_name(MOE_POLICY_SEQUENCE), "sequence");
    assert_true(moe_policy_find("sequence", &p) && p == MOE_POLICY_SEQUENCE);
    assert_null(moe_policy_lacks(&with_means, MOE_POLICY_SEQUENCE));
    assert_null(moe_policy_lacks(&with_table, MOE_POLICY_TOPK));
    assert_null(moe_policy_lacks(&with_table, MOE_POLICY_MODEL));
    assert_string_equal(moe_policy_lacks(&with_means, MOE_POLICY_THRESHOLD), "thresholds");
    assert_string_equal(moe_policy_lacks(&dynamic, MOE_POLICY_SEQUENCE), "mean_experts");
    assert_int_equal(moe_policy_resolve(&with_table, MOE_POLICY_MODEL), MOE_POLICY_TOPK);
}

static void only_ratios_over_0_up_to_1_are_valid(void **state)
{
    (void)state;
    assert_true(ratio_valid(1));
    assert_true(ratio_valid(1e-6));
    assert_false(ratio_valid(0));
    assert_false(ratio_valid(-0.5));
    assert_false(ratio_valid(1.0001));
    assert_false(ratio_valid(NAN));
    assert_false(ratio_valid(INFINITY));
}

static moe_model model_of(moe_task task, int n_labels)
{
    return (moe_model){.info = {.task = task, .n_labels = n_labels}};
}

static void softmax_survives_huge_logits_in_place(void **state)
{
    (void)state;
    moe_model m = model_of(MOE_TASK_CLASSIFY, 3);
    float v[] = {3e38f, 3e38f, -3e38f};
    moe_scores(&m, v, v);
    assert_float_equal(v[0], 0.5, 1e-6);
    assert_float_equal(v[1], 0.5, 1e-6);
    assert_float_equal(v[2], 0, 1e-6);
}

static void softmax_matches_a_case_by_hand(void **state)
{
    (void)state;
    moe_model m = model_of(MOE_TASK_CLASSIFY, 2);
    float logits[] = {0, logf(3)}, scores[2];
    moe_scores(&m, logits, scores);
    assert_float_equal(scores[0], 0.25, 1e-6);
    assert_float_equal(scores[1], 0.75, 1e-6);
}

static void labels_of_multi_label_are_independent(void **state)
{
    (void)state;
    moe_model m = model_of(MOE_TASK_MULTI_LABEL, 2);
    float logits[] = {0, -200}, scores[2];
    moe_scores(&m, logits, scores);
    assert_float_equal(scores[0], 0.5, 1e-6);
    assert_float_equal(scores[1], 0, 1e-6);
}

static void regression_is_the_raw_value(void **state)
{
    (void)state;
    moe_model m = model_of(MOE_TASK_REGRESS, 1);
    float logits[] = {4.25f}, scores[1];
    moe_scores(&m, logits, scores);
    assert_float_equal(scores[0], 4.25, 0);
}

static void expect_shift(const moe_model_info *info, double ratio, int row, double part)
{
    const moe_shift s = ratio_to_shift(info, ratio);
    assert_int_equal(s.row, row);
    if (row >= 0)
        assert_true(fabs((double)s.part - part) < 1e-6);
}

static void shifts_lie_between_rows_and_end_at_ratio_1(void **state)
{
    (void)state;
    expect_shift(&with_table, 0.25, 0, 0);
    expect_shift(&with_table, 0.1, 0, 0);
    expect_shift(&with_table, 0.3, 0, 0.2);
    expect_shift(&with_table, 0.5, 0, 1);
    expect_shift(&with_table, 0.75, 1, 0.5);
    expect_shift(&with_table, 1, -1, 0);
    expect_shift(&without_table, 0.5, -1, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_the_table_are_honoured),
        cmocka_unit_test(between_rows_counts_are_interpolated),
        cmocka_unit_test(below_the_table_counts_shrink_to_one),
        cmocka_unit_test(without_a_table_counts_are_uniform),
        cmocka_unit_test(thresholds_are_the_rows_own_or_between),
        cmocka_unit_test(without_thresholds_or_below_them_counts_have_to_do),
        cmocka_unit_test(means_are_the_rows_own_between_or_scaled_down),
        cmocka_unit_test(shifts_lie_between_rows_and_end_at_ratio_1),
        cmocka_unit_test(roundings_of_pairs_do_not_pile_up),
        cmocka_unit_test(a_layer_has_a_pair_at_least_and_all_at_most),
        cmocka_unit_test(policies_have_names_and_a_default),
        cmocka_unit_test(only_ratios_over_0_up_to_1_are_valid),
        cmocka_unit_test(softmax_survives_huge_logits_in_place),
        cmocka_unit_test(softmax_matches_a_case_by_hand),
        cmocka_unit_test(labels_of_multi_label_are_independent),
        cmocka_unit_test(regression_is_the_raw_value),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
