/* test_server_histogram.c: buckets, percentiles, ratio buckets, routing summary. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "server/server.h"

static void a_value_on_a_bound_belongs_below_it(void **state)
{
    histogram h = {0};
    const histogram_scale scale = {.n_bounds = 3, .bounds = {10, 20, 30}, .unit = 1};
    static const uint64_t values[] = {0, 10, 11, 20, 30, 31, 1000000};
    static const uint64_t expected[] = {2, 2, 1, 2};
    (void)state;
    for (size_t i = 0; i < 7; i++)
        histogram_observe(&h, &scale, values[i]);
    for (int i = 0; i < 4; i++)
        assert_int_equal(counter_get(&h.buckets[i]), expected[i]);
    assert_int_equal(counter_get(&h.sum), 1000102);
}

static int ascending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static void near(double found, double expected, const char *what)
{
    /* a bucket is 1/16 of an octave at its foot: 1/16 of the value at most */
    if (fabs(found - expected) > expected / 16 + 100)
        fail_msg("%s is %g, expected %g", what, found, expected);
}

static void percentiles_are_those_of_the_sorted_values(void **state)
{
    enum { N = 20000 };
    int64_t *v = malloc(N * sizeof *v);
    quantiles *q = calloc(1, sizeof *q);
    unsigned seed = 7;
    double sum = 0;
    (void)state;
    for (int i = 0; i < N; i++) {
        double u = (rand_r(&seed) + 1.0) / ((double)RAND_MAX + 2);
        v[i] = (int64_t)(1e6 * exp(3 * u * u)); /* 1 to 20 ms, skewed */
        sum += (double)v[i];
        quantiles_observe(q, v[i]);
    }
    qsort(v, N, sizeof *v, ascending);
    quantile_summary s = quantiles_summarise(q);
    assert_int_equal(s.count, N);
    assert_float_equal(s.mean_ns, sum / N, 1);
    near(s.p50_ns, (double)v[N / 2], "p50");
    near(s.p90_ns, (double)v[N * 9 / 10], "p90");
    near(s.p99_ns, (double)v[N * 99 / 100], "p99");
    free(v);
    free(q);
}

static void every_duration_has_a_bucket(void **state)
{
    quantiles *q = calloc(1, sizeof *q);
    (void)state;
    for (int64_t ns = 1; ns > 0 && ns < INT64_MAX / 3; ns = ns * 3 + 1) {
        quantiles one = {0};
        quantiles_observe(&one, ns);
        quantile_summary s = quantiles_summarise(&one);
        if (ns > 1000 && ns < 60000000000)
            near(s.p50_ns, (double)ns, "p50");
        quantiles_observe(q, ns);
    }
    quantiles_observe(q, -5);
    quantiles_observe(q, 0);
    quantiles_observe(q, INT64_MAX);
    assert_true(quantiles_summarise(q).p99_ns > 0);
    free(q);
}

static void an_empty_summary_is_zero(void **state)
{
    static quantiles q;
    (void)state;
    quantile_summary s = quantiles_summarise(&q);
    assert_int_equal(s.count, 0);
    assert_float_equal(s.p99_ns, 0, 0);
}

static void ratios_fall_into_six_buckets(void **state)
{
    static const struct { double ratio; const char *name; } cases[] = {
        {1e-300, "0-0.125"}, {0.125, "0-0.125"}, {0.126, "0.125-0.25"}, {0.25, "0.125-0.25"},
        {0.5, "0.25-0.5"}, {0.51, "0.5-0.75"}, {0.999, "0.75-1"}, {1, "1"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_string_equal(ratio_bucket_name(ratio_bucket(cases[i].ratio)), cases[i].name);
}

static void routing_summaries_match_cases_done_by_hand(void **state)
{
    const uint64_t even[4] = {5, 5, 5, 5}, one[4] = {0, 8, 0, 0}, none[4] = {0}, some[2] = {1, 3};
    (void)state;
    routing_summary s = routing_summarise(even, 4);
    assert_float_equal(s.entropy, 2, 1e-12);
    assert_float_equal(s.evenness, 1, 1e-12);
    assert_float_equal(s.gini, 0, 1e-12);
    assert_int_equal(s.dead, 0);
    s = routing_summarise(one, 4);
    assert_float_equal(s.entropy, 0, 1e-12);
    assert_float_equal(s.gini, 0.75, 1e-12); /* (n - 1) / n */
    assert_int_equal(s.dead, 3);
    s = routing_summarise(none, 4);
    assert_float_equal(s.entropy + s.gini + s.dead, 0, 0);
    s = routing_summarise(some, 2);
    assert_float_equal(s.gini, 0.25, 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_value_on_a_bound_belongs_below_it),
        cmocka_unit_test(percentiles_are_those_of_the_sorted_values),
        cmocka_unit_test(every_duration_has_a_bucket),
        cmocka_unit_test(an_empty_summary_is_zero),
        cmocka_unit_test(ratios_fall_into_six_buckets),
        cmocka_unit_test(routing_summaries_match_cases_done_by_hand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
