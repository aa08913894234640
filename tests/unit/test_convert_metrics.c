/* Tests of convert/metrics against values worked out by hand or by another program. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "convert/metrics.h"

static void assert_near(double found, double expected, double tolerance)
{
    if (!(fabs(found - expected) <= tolerance))
        fail_msg("%.12g, expected %.12g", found, expected);
}

static void wilsons_interval_holds_at_the_ends(void **state)
{
    (void)state;
    interval w = wilson_interval(778, 872);
    assert_near(w.low, 0.869871, 1e-6);
    assert_near(w.high, 0.911092, 1e-6);
    w = wilson_interval(0, 10);
    assert_near(w.low, 0, 0);
    assert_near(w.high, 0.277533, 1e-6);
    w = wilson_interval(10, 10);
    assert_near(w.low, 0.722467, 1e-6);
    assert_near(w.high, 1, 0);
    w = wilson_interval(0, 0);
    assert_near(w.low, 0, 0);
    assert_near(w.high, 1, 0);
}

static void the_first_of_equal_labels_is_best(void **state)
{
    (void)state;
    assert_int_equal(best_label((float[]){1, 3, 3, 2}, 4), 1);
    assert_int_equal(best_label((float[]){-1}, 1), 0);
}

static void divergence_is_of_the_softmaxes(void **state)
{
    (void)state;
    const float p[] = {logf(0.8f), logf(0.2f)}, q[] = {5 + logf(0.5f), 5 + logf(0.5f)};
    assert_near(softmax_kl(p, q, 2), 0.8 * log(1.6) + 0.2 * log(0.4), 1e-6);
    assert_near(softmax_kl(q, p, 2), 0.5 * log(0.5 / 0.8) + 0.5 * log(0.5 / 0.2), 1e-6);
    assert_near(softmax_kl(p, p, 2), 0, 0);
    const float far[] = {1000, -1000}, near[] = {-1000, 1000};
    assert_near(softmax_kl(far, near, 2), 2000, 1e-9);
    assert_true(isnan(softmax_kl((float[]){NAN, 0}, p, 2)));
}

static void correlation_is_that_of_the_textbook(void **state)
{
    (void)state;
    const double a[] = {1, 2, 3, 4, 5}, b[] = {2, 1, 4, 3, 7}, down[] = {5, 4, 3, 2, 1};
    const double same[] = {2, 2, 2, 2, 2};
    assert_near(pearson(a, b, 5), 0.824163, 1e-6); /* 12 / sqrt(10 * 21.2) */
    assert_near(pearson(a, down, 5), -1, 1e-12);
    assert_true(isnan(pearson(a, same, 5)));
    assert_true(isnan(pearson(a, b, 1)));
}

static void ranks_are_shared_by_equal_values(void **state)
{
    (void)state;
    const double a[] = {10, 20, 20, 30}, b[] = {1, 2, 3, 1000};
    double r;
    assert_true(spearman(a, b, 4, &r));
    assert_near(r, 4.5 / sqrt(4.5 * 5), 1e-12); /* ranks 1 2.5 2.5 4 and 1 2 3 4 */
    const double c[] = {1, 10, 100, 1000}, d[] = {-3, -2, -1, 0};
    assert_true(spearman(c, d, 4, &r));
    assert_near(r, 1, 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wilsons_interval_holds_at_the_ends),
        cmocka_unit_test(the_first_of_equal_labels_is_best),
        cmocka_unit_test(divergence_is_of_the_softmaxes),
        cmocka_unit_test(correlation_is_that_of_the_textbook),
        cmocka_unit_test(ranks_are_shared_by_equal_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
