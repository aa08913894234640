/* Activations and slopes by the vector-friendly loops against libm in double. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "convert/activation.h"

static double value(moe_activation act, double z)
{
    switch (act) {
    case MOE_ACT_RELU: return z > 0 ? z : 0;
    case MOE_ACT_GELU_ERF: return 0.5 * z * (1 + erf(z / sqrt(2)));
    case MOE_ACT_GELU_TANH: return 0.5 * z * (1 + tanh(sqrt(2 / M_PI) * (z + 0.044715 * z * z * z)));
    case MOE_ACT_TANH: return tanh(z);
    default: return z;
    }
}

/* By differences: exact to 1e-9 in double. */
static double slope_of(moe_activation act, double z)
{
    const double h = 1e-5;
    return (value(act, z + h) - value(act, z - h)) / (2 * h);
}

enum { STEPS = 40001 }; /* odd: the last values are no full vector */
static const moe_activation all[] = {MOE_ACT_NONE, MOE_ACT_RELU, MOE_ACT_GELU_ERF,
                                     MOE_ACT_GELU_TANH, MOE_ACT_TANH};

/* -20 .. 20: past 13.2 the tail of the normal distribution is below every float. */
static float at(int i)
{
    return (float)(i - STEPS / 2) * 1e-3f;
}

static void values_are_those_of_the_formulas(void **state)
{
    (void)state;
    static float z[STEPS];
    for (size_t a = 0; a < sizeof all / sizeof *all; a++) {
        for (int i = 0; i < STEPS; i++)
            z[i] = at(i);
        activation_apply(all[a], STEPS, z);
        for (int i = 0; i < STEPS; i++)
            if (fabs(z[i] - value(all[a], at(i))) > 4e-7 * (1 + fabs(at(i))))
                fail_msg("activation %d of %g is %g, expected %g", (int)all[a], at(i), z[i],
                         value(all[a], at(i)));
    }
}

static void slopes_are_those_of_the_formulas(void **state)
{
    (void)state;
    static float z[STEPS], slope[STEPS], alone[STEPS];
    for (size_t a = 1; a <= 3; a++) {
        for (int i = 0; i < STEPS; i++)
            z[i] = alone[i] = at(i);
        activation_slopes(all[a], STEPS, z, slope);
        activation_apply(all[a], STEPS, alone);
        for (int i = 0; i < STEPS; i++) {
            assert_true(z[i] == alone[i]);
            const double expected = all[a] == MOE_ACT_RELU ? at(i) > 0 : slope_of(all[a], at(i));
            if (fabs(slope[i] - expected) > 4e-7 * (1 + fabs(at(i))))
                fail_msg("slope %d at %g is %g, expected %g", (int)all[a], at(i), slope[i],
                         expected);
        }
    }
}

/* What relies on a sign: experts' mass counts the positive part. */
static void a_gelu_has_the_sign_of_its_argument(void **state)
{
    (void)state;
    static float z[STEPS];
    for (size_t a = 2; a <= 3; a++) {
        for (int i = 0; i < STEPS; i++)
            z[i] = at(i);
        activation_apply(all[a], STEPS, z);
        for (int i = 0; i < STEPS; i++)
            assert_true(at(i) > 0 ? z[i] > 0 : at(i) < 0 ? z[i] <= 0 : z[i] == 0);
    }
}

static void what_is_not_finite_stays_so_and_does_not_spread(void **state)
{
    (void)state;
    for (size_t a = 2; a <= 3; a++) {
        float z[5] = {1, NAN, INFINITY, 3.4e38f, 1}, slope[5];
        activation_slopes(all[a], 5, z, slope);
        assert_true(isnan(z[1]) && z[2] == INFINITY && z[3] == 3.4e38f);
        assert_true(z[0] == z[4] && isfinite(z[0]) && isfinite(slope[0]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_those_of_the_formulas),
        cmocka_unit_test(slopes_are_those_of_the_formulas),
        cmocka_unit_test(a_gelu_has_the_sign_of_its_argument),
        cmocka_unit_test(what_is_not_finite_stays_so_and_does_not_spread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
