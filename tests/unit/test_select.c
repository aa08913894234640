/* Selection of the k best against sorting, by threshold against comparing, of a
 * sequence's pairs against one long row, and the rules for ties and NaN. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/routing/select.h"

/* Whether a comes before b: greater, NaN last, ties by id. */
static bool is_better(const float *scores, int a, int b)
{
    bool a_nan = isnan(scores[a]), b_nan = isnan(scores[b]);
    if (a_nan != b_nan)
        return b_nan;
    if (!a_nan && scores[a] != scores[b])
        return scores[a] > scores[b];
    return a < b;
}

/* The k best by counting, for each, how many are better. */
static void check(const float *scores, int n, int k)
{
    int32_t *out = malloc((size_t)(k + 1) * sizeof *out);
    int filled = 0;
    out[k] = -77;
    select_topk(scores, n, k, out);
    for (int i = 0; i < n; i++) {
        int better = 0;
        for (int j = 0; j < n; j++)
            better += j != i && is_better(scores, j, i);
        if (better >= k)
            continue;
        assert_true(filled < k);
        assert_int_equal(out[filled], i);
        filled++;
    }
    assert_int_equal(filled, k);
    assert_int_equal(out[k], -77);
    free(out);
}

/* Those from the threshold on one by one. */
static void check_threshold(const float *scores, int n, float threshold)
{
    int32_t *out = malloc((size_t)(n + 1) * sizeof *out);
    int count = select_threshold_count(scores, n, threshold), filled = 0;
    assert_in_range(count, 0, n);
    out[count] = -77;
    select_threshold(scores, n, threshold, count, out);
    for (int i = 0; i < n; i++) {
        if (isnan(scores[i]) || scores[i] < threshold)
            continue;
        assert_true(filled < count);
        assert_int_equal(out[filled], i);
        filled++;
    }
    assert_int_equal(filled, count);
    assert_int_equal(out[count], -77);
    free(out);
}

/* The pairs of a sequence are the k best of one long row, by token. */
static void check_pairs(const float *scores, int n_tokens, int n_experts, int n_pairs)
{
    int n = n_tokens * n_experts, filled = 0, sum = 0;
    int32_t *best = malloc((size_t)n * sizeof *best), *count = malloc((size_t)n * sizeof *count);
    int32_t *out = malloc((size_t)(n_experts + 1) * sizeof *out);
    check(scores, n, n_pairs); /* by brute force */
    select_topk(scores, n, n_pairs, best);
    float cut = select_pairs(scores, n_tokens, n_experts, n_pairs, count);
    for (int t = 0; t < n_tokens; t++) {
        assert_in_range(count[t], 0, n_experts);
        out[count[t]] = -77;
        select_above(scores + t * n_experts, n_experts, cut, count[t], out);
        assert_int_equal(out[count[t]], -77);
        for (int i = 0; i < count[t]; i++, filled++)
            assert_int_equal(t * n_experts + out[i], best[filled]);
        sum += count[t];
    }
    assert_int_equal(sum, n_pairs);
    free(best);
    free(count);
    free(out);
}

static void check_all_pairs(const float *scores, int n_tokens, int n_experts)
{
    for (int k = 1; k <= n_tokens * n_experts; k++)
        check_pairs(scores, n_tokens, n_experts, k);
}

static void check_every_k(const float *scores, int n)
{
    for (int k = 1; k <= n; k++)
        check(scores, n, k);
}

static void ties_go_to_the_lower_id(void **state)
{
    (void)state;
    check_every_k((const float[]){1, 1, 1, 1, 1}, 5);
    check_every_k((const float[]){0, 2, 1, 2, 1, 1, 2}, 7);
    check_every_k((const float[]){-0.0f, 0, -0.0f, 0, -1}, 5);
}

static void nan_counts_as_less_than_every_number(void **state)
{
    (void)state;
    check_every_k((const float[]){NAN, 1, -INFINITY, NAN, INFINITY, -NAN}, 6);
    check_every_k((const float[]){NAN, NAN, NAN}, 3);
}

static void extremes_are_ordered(void **state)
{
    (void)state;
    check_every_k((const float[]){-INFINITY, INFINITY, 3e38f, -3e38f, 1e-45f, -1e-45f, 0,
                                  INFINITY, -INFINITY}, 9);
    check_every_k((const float[]){5}, 1);
}

static void a_score_equal_to_the_threshold_reaches_it(void **state)
{
    (void)state;
    const float scores[] = {0.5f, 0.25f, 0.5f, 0.75f, -0.0f, 0.5f};
    int32_t out[6];
    assert_int_equal(select_threshold_count(scores, 6, 0.5f), 4);
    select_threshold(scores, 6, 0.5f, 4, out);
    assert_memory_equal(out, ((const int32_t[]){0, 2, 3, 5}), 4 * sizeof *out);
    check_threshold(scores, 6, 0);           /* -0 is not below 0 */
    check_threshold(scores, 6, nextafterf(0.5f, 1));
}

static void where_none_reaches_the_threshold_none_is_taken(void **state)
{
    (void)state;
    const float ties[] = {-1, 3, 2, 3}, nans[] = {NAN, NAN}, some[] = {NAN, -INFINITY, NAN};
    assert_int_equal(select_threshold_count(ties, 4, 3.5f), 0);
    assert_int_equal(select_threshold_count(nans, 2, -3e38f), 0);
    check_threshold(ties, 4, 3.5f);
    check_threshold(nans, 2, -3e38f);
    check_threshold(some, 3, -3e38f);
    check_threshold((const float[]){-5}, 1, 0);
}

static void where_all_reach_the_threshold_all_but_nan_are_taken(void **state)
{
    (void)state;
    check_threshold((const float[]){-1, 3, 2, INFINITY, -3e38f}, 5, -3.4e38f);
    check_threshold((const float[]){-1, NAN, 2, -NAN}, 4, -3.4e38f);
}

static void random_scores_match_comparing(void **state)
{
    (void)state;
    uint32_t seed = 54321;
    print_message("seed %u\n", seed);
    float scores[300];
    for (int round = 0; round < 300; round++) {
        for (int i = 0; i <= round; i++) {
            seed = seed * 1664525u + 1013904223u;
            uint32_t bits = seed ^ seed >> 15;
            if (round % 2 == 0)
                memcpy(scores + i, &bits, sizeof bits);
            else
                scores[i] = (float)(bits % 7);
        }
        for (int i = 0; i <= round; i += 1 + round / 9)
            if (isfinite(scores[i]))
                check_threshold(scores, round + 1, scores[i]);
        check_threshold(scores, round + 1, 3.4e38f);
        check_threshold(scores, round + 1, 2.5f);
        check_threshold(scores, round + 1, -3.4e38f);
    }
}

static void ties_of_pairs_go_to_the_lower_token_then_the_lower_expert(void **state)
{
    (void)state;
    const float equal[] = {1, 1, 1, 1, 1, 1}, some[] = {0, 2, 1, 2, 1, 1, 2, 0, 2};
    int32_t count[3];
    assert_true(select_pairs(equal, 3, 2, 3, count) == 1);
    assert_memory_equal(count, ((const int32_t[]){2, 1, 0}), sizeof count);
    check_all_pairs(equal, 3, 2);
    check_all_pairs(some, 3, 3);
    check_all_pairs(some, 1, 9);
    check_all_pairs(some, 9, 1);
}

static void nan_pairs_come_last(void **state)
{
    (void)state;
    const float some[] = {NAN, 1, NAN, -INFINITY, NAN, INFINITY, -NAN, -1};
    const float none[] = {NAN, NAN, -NAN, NAN};
    check_all_pairs(some, 4, 2);
    check_all_pairs(some, 2, 4);
    check_all_pairs(none, 2, 2);
}

static void random_pairs_match_one_long_row(void **state)
{
    (void)state;
    uint32_t seed = 777;
    print_message("seed %u\n", seed);
    float scores[20 * 17];
    for (int round = 0; round < 150; round++) {
        int n_tokens = 1 + round % 20, n_experts = 1 + round % 17, n = n_tokens * n_experts;
        for (int i = 0; i < n; i++) {
            seed = seed * 1664525u + 1013904223u;
            uint32_t bits = seed ^ seed >> 15;
            if (round % 3 == 0)
                memcpy(scores + i, &bits, sizeof bits);
            else
                scores[i] = round % 3 == 1 ? (float)(int32_t)bits : (float)(bits % 5);
        }
        for (int k = 1; k <= n; k += 1 + n / 7)
            check_pairs(scores, n_tokens, n_experts, k);
        check_pairs(scores, n_tokens, n_experts, n);
    }
}

static void random_scores_match_sorting(void **state)
{
    (void)state;
    uint32_t seed = 12345;
    print_message("seed %u\n", seed);
    float scores[300];
    for (int round = 0; round < 300; round++) {
        int n = 1 + round;
        for (int i = 0; i < n; i++) {
            seed = seed * 1664525u + 1013904223u;
            uint32_t bits = seed ^ seed >> 15;
            if (round % 3 == 0)
                memcpy(scores + i, &bits, sizeof bits); /* any bits: also NaN */
            else if (round % 3 == 1)
                scores[i] = (float)(int32_t)bits;
            else
                scores[i] = (float)(bits % 7); /* many ties */
        }
        check(scores, n, 1);
        check(scores, n, (n + 3) / 4);
        check(scores, n, (n + 1) / 2);
        check(scores, n, n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ties_go_to_the_lower_id),
        cmocka_unit_test(nan_counts_as_less_than_every_number),
        cmocka_unit_test(extremes_are_ordered),
        cmocka_unit_test(random_scores_match_sorting),
        cmocka_unit_test(a_score_equal_to_the_threshold_reaches_it),
        cmocka_unit_test(where_none_reaches_the_threshold_none_is_taken),
        cmocka_unit_test(where_all_reach_the_threshold_all_but_nan_are_taken),
        cmocka_unit_test(random_scores_match_comparing),
        cmocka_unit_test(ties_of_pairs_go_to_the_lower_token_then_the_lower_expert),
        cmocka_unit_test(nan_pairs_come_last),
        cmocka_unit_test(random_pairs_match_one_long_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
