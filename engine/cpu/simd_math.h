/* simd_math.h: exp, tanh, erf and the activations on vectors, a template over
 * vec_*.h. Coefficients are minimax fits of our own (Remez); errors are a few
 * units in the last place, tests/kernels holds them against libm. */
#ifndef MOE_CPU_SIMD_MATH_H
#define MOE_CPU_SIMD_MATH_H

#include "engine/model/weights.h"

/* e^x, 0 below -87.3, NaN kept. x = n ln 2 + r; e^r = 1 + r + r^2 q(r). ln 2 is
 * split so that n times its high part is exact. */
static inline vec v_exp(vec x)
{
    const vec least = v_set(-87.3f);
    vec y = v_min(v_set(88.0f), v_max(least, x));
    vec n = v_round(v_mul(y, v_set(1.44269504f)));
    vec r = v_fma(n, v_set(-0.693359375f), y);
    r = v_fma(n, v_set(2.12194440e-4f), r);
    vec q = v_fma(v_set(1.381446706e-3f), r, v_set(8.368780411e-3f));
    q = v_fma(q, r, v_set(4.166839421e-2f));
    q = v_fma(q, r, v_set(1.666652011e-1f));
    q = v_fma(q, r, v_set(4.999999341e-1f));
    q = v_fma(q, v_mul(r, r), v_add(r, v_set(1)));
    return v_if_less(x, least, v_set(0), v_scale(q, n));
}

/* Small: x + x^3 q(x^2). Else 1 - 2 / (e^2|x| + 1), which is 1 from 9.1 on. */
static inline vec v_tanh(vec x)
{
    vec a = v_abs(x), z = v_mul(x, x);
    vec q = v_fma(v_set(2.398999611e-3f), z, v_set(-8.416794103e-3f));
    q = v_fma(q, z, v_set(2.178376817e-2f));
    q = v_fma(q, z, v_set(-5.395979244e-2f));
    q = v_fma(q, z, v_set(1.333329463e-1f));
    q = v_fma(q, z, v_set(-3.333333274e-1f));
    vec small = v_fma(v_mul(x, z), q, x);
    vec e = v_exp(v_add(a, a));
    vec large = v_sub(v_set(1), v_div(v_set(2), v_add(e, v_set(1))));
    return v_if_less(a, v_set(0.55f), small, v_sign_of(large, x));
}

/* Below 1: x p(x^2). Else 1 - e^p(|x|), p a fit of log erfc, 1 from 4 on. */
static inline vec v_erf(vec x)
{
    vec a = v_min(v_set(4), v_abs(x)), z = v_mul(x, x);
    vec p = v_fma(v_set(7.853861089e-05f), z, v_set(-8.010193534e-04f));
    p = v_fma(p, z, v_set(5.188327674e-03f));
    p = v_fma(p, z, v_set(-2.685381193e-02f));
    p = v_fma(p, z, v_set(1.128358515e-01f));
    p = v_fma(p, z, v_set(-3.761262582e-01f));
    p = v_fma(p, z, v_set(1.128379166e+00f));
    vec small = v_mul(x, p);
    vec q = v_fma(v_set(-2.168674880e-05f), a, v_set(4.413351192e-04f));
    q = v_fma(q, a, v_set(-4.204555303e-03f));
    q = v_fma(q, a, v_set(2.520823804e-02f));
    q = v_fma(q, a, v_set(-1.084185460e-01f));
    q = v_fma(q, a, v_set(-6.332199240e-01f));
    q = v_fma(q, a, v_set(-1.129578408e+00f));
    q = v_fma(q, a, v_set(1.880364639e-04f));
    vec large = v_sub(v_set(1), v_exp(q));
    return v_if_less(a, v_set(1), small, v_sign_of(large, x));
}

static inline vec v_gelu_erf(vec x)
{
    return v_mul(v_mul(v_set(0.5f), x), v_add(v_set(1), v_erf(v_mul(x, v_set(0.70710678f)))));
}

static inline vec v_gelu_tanh(vec x)
{
    vec cube = v_mul(v_mul(x, x), x);
    vec inner = v_mul(v_set(0.79788456f), v_fma(v_set(0.044715f), cube, x));
    return v_mul(v_mul(v_set(0.5f), x), v_add(v_set(1), v_tanh(inner)));
}

static inline vec v_activate(vec x, moe_activation act)
{
    switch (act) {
    case MOE_ACT_RELU:
        return v_max(v_set(0), x);
    case MOE_ACT_GELU_ERF:
        return v_gelu_erf(x);
    case MOE_ACT_GELU_TANH:
        return v_gelu_tanh(x);
    case MOE_ACT_TANH:
        return v_tanh(x);
    case MOE_ACT_NONE:
        break;
    }
    return x;
}

#endif
