/* test_pack.c: the packed layouts hold every weight in its place, zeros
 * elsewhere, and come back as they were. Each value is checked at the index
 * that weights.h states, not only by a round trip. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/model/pack.h"

enum { CANARY = 8 };

static unsigned seed = 20240607;

static float draw(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8) / (float)(1 << 24) - 0.5f;
}

/* n floats and a canary behind them, filled with what packing must overwrite. */
static float *room(size_t n)
{
    float *p = malloc((n + CANARY) * sizeof *p);
    assert_non_null(p);
    for (size_t i = 0; i < n + CANARY; i++)
        p[i] = 777.0f;
    return p;
}

static float *random_floats(size_t n)
{
    float *p = room(n);
    for (size_t i = 0; i < n; i++)
        p[i] = draw();
    return p;
}

static void canary_lives(const float *p, size_t n)
{
    for (size_t i = n; i < n + CANARY; i++)
        assert_true(p[i] == 777.0f);
}

static void linear_lies_in_panels_of_32(void **state)
{
    (void)state;
    const int shape[][2] = {{1, 1}, {2, 384}, {31, 7}, {32, 16}, {33, 17}, {96, 48}, {100, 1}};
    for (size_t s = 0; s < sizeof shape / sizeof *shape; s++) {
        int n = shape[s][0], k = shape[s][1], padded = (n + 31) / 32 * 32;
        size_t size = pack_linear_floats(n, k);
        assert_int_equal(size, (size_t)padded * (size_t)k);
        float *rows = random_floats((size_t)(n * k)), *packed = room(size);
        float *back = room((size_t)(n * k));
        pack_linear(rows, n, k, packed);
        canary_lives(packed, size);
        for (int j = 0; j < padded; j++)
            for (int c = 0; c < k; c++)
                assert_true(packed[((j / 32) * k + c) * 32 + j % 32] ==
                            (j < n ? rows[j * k + c] : 0.0f));
        unpack_linear(&(moe_linear){.n = n, .k = k, .w = packed}, back);
        assert_memory_equal(back, rows, (size_t)(n * k) * sizeof *rows);
        canary_lives(back, (size_t)(n * k));
        free(rows);
        free(packed);
        free(back);
    }
}

/* A random permutation of [0, d_ff) over E * 32 places, the rest -1. */
static void permute(int32_t *neurons, int places, int d_ff)
{
    for (int i = 0; i < places; i++)
        neurons[i] = i < d_ff ? i : -1;
    for (int i = places - 1; i > 0; i--) {
        int j = (int)((draw() + 0.5f) * (float)(i + 1)) % (i + 1);
        int32_t t = neurons[i];
        neurons[i] = neurons[j];
        neurons[j] = t;
    }
}

static void check_ffn(int d_ff, int d, int n_experts, const int32_t *neurons)
{
    int panels = (d + 63) / 64;
    size_t n = (size_t)d_ff * (size_t)d, n1 = (size_t)n_experts * (size_t)d * 32;
    size_t nb = (size_t)n_experts * 32, n2 = pack_w2_floats(n_experts, d);
    assert_int_equal(n2, n_experts * panels * 32 * 64);
    float *w1 = random_floats(n), *w2 = random_floats(n), *b1 = random_floats((size_t)d_ff);
    float *p1 = room(n1), *p2 = room(n2), *pb = room(nb);
    pack_w1(w1, d_ff, d, n_experts, neurons, p1);
    pack_b1(b1, d_ff, n_experts, neurons, pb);
    pack_w2(w2, d_ff, d, n_experts, neurons, p2);
    canary_lives(p1, n1);
    canary_lives(pb, nb);
    canary_lives(p2, n2);
    for (int i = 0; i < n_experts * 32; i++) {
        int s = neurons ? neurons[i] : i < d_ff ? i : -1, e = i / 32, j = i % 32;
        assert_true(pb[i] == (s >= 0 ? b1[s] : 0.0f));
        for (int c = 0; c < d; c++)
            assert_true(p1[(e * d + c) * 32 + j] == (s >= 0 ? w1[s * d + c] : 0.0f));
        for (int c = 0; c < panels * 64; c++)
            assert_true(p2[((e * panels + c / 64) * 32 + j) * 64 + c % 64] ==
                        (s >= 0 && c < d ? w2[c * d_ff + s] : 0.0f));
    }
    moe_ffn f = {.d = d, .n_experts = n_experts, .d_ff = d_ff,
                 .w1 = p1, .b1 = pb, .w2 = p2, .neurons = neurons};
    float *u1 = room(n), *u2 = room(n), *ub = room((size_t)d_ff);
    unpack_w1(&f, u1);
    unpack_b1(&f, ub);
    unpack_w2(&f, u2);
    assert_memory_equal(u1, w1, (n + CANARY) * sizeof *u1);
    assert_memory_equal(u2, w2, (n + CANARY) * sizeof *u2);
    assert_memory_equal(ub, b1, ((size_t)d_ff + CANARY) * sizeof *ub);
    float *all[] = {w1, w2, b1, p1, p2, pb, u1, u2, ub};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

static void experts_hold_their_neurons_and_dead_ones_are_zero(void **state)
{
    (void)state;
    const int shape[][3] = {{1, 1, 1}, {80, 48, 3}, {32, 64, 1}, {64, 65, 2},
                            {95, 63, 3}, {33, 130, 4}};
    for (size_t s = 0; s < sizeof shape / sizeof *shape; s++) {
        int d_ff = shape[s][0], d = shape[s][1], n_experts = shape[s][2];
        int32_t neurons[4 * 32];
        print_message("seed %u d_ff %d d %d experts %d\n", seed, d_ff, d, n_experts);
        check_ffn(d_ff, d, n_experts, NULL);
        permute(neurons, n_experts * 32, d_ff);
        check_ffn(d_ff, d, n_experts, neurons);
    }
}

static void a_missing_first_bias_packs_as_zeros(void **state)
{
    (void)state;
    float *packed = room(64);
    pack_b1(NULL, 40, 2, NULL, packed);
    for (int i = 0; i < 64; i++)
        assert_true(packed[i] == 0.0f);
    canary_lives(packed, 64);
    free(packed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_lies_in_panels_of_32),
        cmocka_unit_test(experts_hold_their_neurons_and_dead_ones_are_zero),
        cmocka_unit_test(a_missing_first_bias_packs_as_zeros),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
