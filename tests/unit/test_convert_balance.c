/* The transportation solver: against every assignment where they can be counted,
 * and by proof of optimality where they can't. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "convert/balance.h"
#include "convert/rng.h"

static double total(const float *affinity, int n, int bins, const int32_t *bin)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += affinity[i * bins + bin[i]];
    return sum;
}

/* The best total of items [i, n) into what room is left. */
static double brute_force(const float *affinity, int i, int n, int bins, int *room)
{
    if (i == n)
        return 0;
    double best = -1e30;
    for (int e = 0; e < bins; e++)
        if (room[e] > 0) {
            room[e]--;
            double got = affinity[i * bins + e] +
                         brute_force(affinity, i + 1, n, bins, room);
            room[e]++;
            best = got > best ? got : best;
        }
    return best;
}

static void check_capacity(const int32_t *bin, int n, int bins, const int *capacity)
{
    int *count = calloc((size_t)bins, sizeof *count);
    for (int i = 0; i < n; i++) {
        assert_in_range(bin[i], 0, bins - 1);
        count[bin[i]]++;
    }
    for (int e = 0; e < bins; e++)
        assert_true(count[e] <= capacity[e]);
    free(count);
}

static void matches_every_assignment_counted(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 400; seed++) {
        rng r = rng_stream(seed, 0, 0);
        const int n = 1 + (int)rng_below(&r, 7), bins = 1 + (int)rng_below(&r, 4);
        float affinity[7 * 4];
        int capacity[4], room = 0;
        int32_t bin[7];
        for (int e = 0; e < bins; e++)
            room += capacity[e] = (int)rng_below(&r, 4);
        for (; room < n; room++)
            capacity[rng_below(&r, (uint64_t)bins)]++;
        /* Whole numbers in a third of the cases: ties. */
        for (int i = 0; i < n * bins; i++)
            affinity[i] = seed % 3 ? (float)rng_normal(&r) : (float)rng_below(&r, 4);
        assert_int_equal(balance_assign(affinity, n, bins, capacity, bin, NULL), MOE_OK);
        check_capacity(bin, n, bins, capacity);
        double best = brute_force(affinity, 0, n, bins, capacity);
        if (best - total(affinity, n, bins, bin) > 1e-5)
            fail_msg("seed %llu: %f, best %f", (unsigned long long)seed,
                     total(affinity, n, bins, bin), best);
    }
}

/* No chain of moves around the bins gains anything: the least cost of moving one
 * item along each arc, closed by Floyd and Warshall, has no negative cycle. */
static double worst_cycle(const float *affinity, int n, int bins, const int32_t *bin)
{
    double *cost = malloc((size_t)(bins * bins) * sizeof *cost), worst = 0;
    for (int i = 0; i < bins * bins; i++)
        cost[i] = 1e30;
    for (int i = 0; i < n; i++)
        for (int f = 0; f < bins; f++) {
            double loss = (double)affinity[i * bins + bin[i]] - affinity[i * bins + f];
            double *c = &cost[bin[i] * bins + f];
            *c = loss < *c ? loss : *c;
        }
    for (int k = 0; k < bins; k++)
        for (int i = 0; i < bins; i++)
            for (int j = 0; j < bins; j++)
                if (cost[i * bins + k] + cost[k * bins + j] < cost[i * bins + j])
                    cost[i * bins + j] = cost[i * bins + k] + cost[k * bins + j];
    for (int i = 0; i < bins; i++)
        worst = cost[i * bins + i] < worst ? cost[i * bins + i] : worst;
    free(cost);
    return worst;
}

static void a_real_size_is_optimal(void **state)
{
    (void)state;
    enum { BINS = 24, ITEMS = BINS * 32 };
    float *affinity = malloc(sizeof(float) * BINS * ITEMS);
    int capacity[BINS];
    int32_t *bin = malloc(sizeof(int32_t) * ITEMS);
    for (uint64_t seed = 0; seed < 4; seed++) {
        rng r = rng_stream(seed, 1, 0);
        for (int e = 0; e < BINS; e++)
            capacity[e] = 32;
        /* Every item prefers the same few bins: the longest chains. */
        for (int i = 0; i < ITEMS * BINS; i++)
            affinity[i] = (float)(rng_normal(&r) + (double)seed * (i % BINS));
        assert_int_equal(balance_assign(affinity, ITEMS, BINS, capacity, bin, NULL),
                         MOE_OK);
        check_capacity(bin, ITEMS, BINS, capacity);
        if (worst_cycle(affinity, ITEMS, BINS, bin) < -1e-4)
            fail_msg("seed %llu: a cycle gains %g", (unsigned long long)seed,
                     -worst_cycle(affinity, ITEMS, BINS, bin));
    }
    free(affinity);
    free(bin);
}

static void equal_affinities_still_fill_every_bin(void **state)
{
    (void)state;
    enum { BINS = 5, ITEMS = 17 };
    const int capacity[BINS] = {4, 4, 4, 4, 1};
    float affinity[BINS * ITEMS] = {0};
    int32_t bin[ITEMS];
    assert_int_equal(balance_assign(affinity, ITEMS, BINS, capacity, bin, NULL), MOE_OK);
    check_capacity(bin, ITEMS, BINS, capacity);
}

static void too_little_room_is_refused(void **state)
{
    (void)state;
    const int capacity[2] = {1, 1};
    const float affinity[6] = {0};
    int32_t bin[3];
    moe_error err;
    assert_int_equal(balance_assign(affinity, 3, 2, capacity, bin, &err),
                     MOE_E_ARGUMENT);
    assert_string_equal(err.message, "3 items do not fit into 2 bins of 2 places in all");
    assert_int_equal(balance_assign(affinity, 0, 2, capacity, bin, &err), MOE_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(matches_every_assignment_counted),
        cmocka_unit_test(a_real_size_is_optimal),
        cmocka_unit_test(equal_affinities_still_fill_every_bin),
        cmocka_unit_test(too_little_room_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
