/* The ratio table: counts, means and thresholds against counting every score, budgets
 * against trying every division, and the split of the text that they are measured on. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "convert/budget.h"
#include "convert/calibration.h"
#include "convert/ratio_table.h"
#include "convert/rng.h"

/* ---- uniform counts ------------------------------------------------------ */

static void uniform_counts_are_rounded_and_at_least_one(void **state)
{
    (void)state;
    const int want6[N_RATIOS] = {1, 1, 1, 1, 2, 2, 2, 3, 4, 4, 5, 5, 5, 6};
    const int want48[N_RATIOS] = {2, 5, 6, 10, 12, 14, 19, 24, 29, 34, 36, 38, 43, 48};
    const bool converted[3] = {true, false, true};
    for (int i = 0; i < 4; i++) {
        const int n_experts = i / 2 ? 48 : 6, *want = i / 2 ? want48 : want6;
        const bool dynamic = i % 2;
        ratio_table t;
        assert_int_equal(ratio_table_create(3, n_experts, converted, dynamic, &t, NULL),
                         MOE_OK);
        assert_int_equal(dynamic, t.mean && t.thresholds);
        for (int r = 0; r < N_RATIOS; r++)
            for (int l = 0; l < 3; l++) {
                const int k = converted[l] ? want[r] : n_experts;
                assert_true(t.rows[r].ratio == ratio_grid[r]);
                assert_int_equal(t.rows[r].experts[l], k);
                if (dynamic)
                    assert_true(t.rows[r].mean_experts[l] == (float)k);
            }
        ratio_table_free(&t);
    }
}

/* ---- means and thresholds ------------------------------------------------ */

/* TOKENS makes every ratio of the grid a whole number of scores. */
enum { LAYERS = 3, EXPERTS = 8, TOKENS = 400, PER_LAYER = TOKENS * EXPERTS };
static const bool some[LAYERS] = {true, false, true};

/* The dense layer's are larger than all others: reading them would show. Whole numbers
 * in a third of the cases: ties. */
static void draw_scores(uint64_t seed, float *scores)
{
    rng r = rng_stream(seed, 0, 0);
    for (int i = 0; i < LAYERS * PER_LAYER; i++) {
        const int l = i / PER_LAYER;
        const double score = seed % 3 ? rng_normal(&r) : (double)rng_below(&r, 7) - 3;
        scores[i] = some[l] ? (float)(score + l / 2) : 1e30f;
    }
}

typedef struct { int above, reach; } score_counts;

static score_counts count_scores(const float *scores, int l, float threshold)
{
    score_counts c = {0, 0};
    for (int i = l * PER_LAYER; i < (l + 1) * PER_LAYER; i++) {
        c.above += scores[i] > threshold;
        c.reach += scores[i] >= threshold;
    }
    return c;
}

/* `wanted` of the largest scores end at the threshold. */
static void check_rank(score_counts c, double wanted)
{
    assert_true(c.reach > wanted - 1e-6);
    assert_true(c.above < wanted - 1e-6);
}

static void check_shared_row(const ratio_table *t, const float *scores, int r)
{
    const float *mean = t->mean + r * LAYERS, *threshold = t->thresholds + r * LAYERS;
    score_counts all = {0, 0};
    double sum = 0;
    for (int l = 0; l < LAYERS; l++) {
        if (!some[l]) {
            assert_true(mean[l] == EXPERTS && threshold[l] == 0);
            continue;
        }
        const score_counts c = count_scores(scores, l, threshold[l]);
        assert_true(threshold[l] == threshold[0]);
        assert_true(mean[l] >= (double)c.above / TOKENS - 1e-5);
        assert_true(mean[l] <= (double)c.reach / TOKENS + 1e-5);
        if (r > 0) {
            assert_true(threshold[l] <= threshold[l - LAYERS]);
            assert_true(mean[l] >= mean[l - LAYERS]);
        }
        all.above += c.above;
        all.reach += c.reach;
        sum += mean[l];
    }
    check_rank(all, ratio_grid[r] * 2 * PER_LAYER);
    assert_true(fabs(sum - ratio_grid[r] * EXPERTS * 2) < 1e-4);
}

static void shared_means_add_up_and_thresholds_match_a_count(void **state)
{
    (void)state;
    float *scores = malloc(sizeof(float) * LAYERS * PER_LAYER);
    const score_sample s = {TOKENS, LAYERS, EXPERTS, scores};
    for (uint64_t seed = 0; seed < 9; seed++) {
        ratio_table t;
        draw_scores(seed, scores);
        assert_int_equal(ratio_table_create(LAYERS, EXPERTS, some, true, &t, NULL), MOE_OK);
        ratio_table_share(&t, &s);
        for (int r = 0; r < N_RATIOS; r++)
            check_shared_row(&t, scores, r);
        ratio_table_free(&t);
    }
    free(scores);
}

static void equal_scores_are_shared_in_part(void **state)
{
    (void)state;
    float *scores = malloc(sizeof(float) * LAYERS * PER_LAYER);
    const score_sample s = {TOKENS, LAYERS, EXPERTS, scores};
    ratio_table t;
    for (int i = 0; i < LAYERS * PER_LAYER; i++)
        scores[i] = -0.25f;
    assert_int_equal(ratio_table_create(LAYERS, EXPERTS, some, true, &t, NULL), MOE_OK);
    ratio_table_share(&t, &s);
    for (int r = 0; r < N_RATIOS; r++) {
        check_shared_row(&t, scores, r);
        for (int l = 0; l < LAYERS; l += 2) {
            assert_true(t.thresholds[r * LAYERS + l] == -0.25f);
            assert_true(fabs(t.mean[r * LAYERS + l] - ratio_grid[r] * EXPERTS) < 1e-4);
        }
    }
    ratio_table_free(&t);
    free(scores);
}

static void thresholds_follow_each_layers_counts(void **state)
{
    (void)state;
    float *scores = malloc(sizeof(float) * LAYERS * PER_LAYER);
    const score_sample s = {TOKENS, LAYERS, EXPERTS, scores};
    for (uint64_t seed = 0; seed < 6; seed++) {
        rng random = rng_stream(seed, 1, 0);
        ratio_table t;
        draw_scores(seed, scores);
        assert_int_equal(ratio_table_create(LAYERS, EXPERTS, some, true, &t, NULL), MOE_OK);
        for (int i = 0; i < N_RATIOS * LAYERS; i++)
            if (some[i % LAYERS])
                t.experts[i] = 1 + (int)rng_below(&random, EXPERTS);
        ratio_table_follow(&t, &s);
        for (int i = 0; i < N_RATIOS * LAYERS; i++) {
            assert_true(t.mean[i] == (float)t.experts[i]);
            if (some[i % LAYERS])
                check_rank(count_scores(scores, i % LAYERS, t.thresholds[i]),
                           t.experts[i] * TOKENS);
            else
                assert_true(t.thresholds[i] == 0);
        }
        ratio_table_free(&t);
    }
    free(scores);
}

/* ---- budgets ------------------------------------------------------------- */

enum { N = 6, ROW = N + 1, MOST_LAYERS = 4 };

static void spend(const double *divergence, int n_layers, const bool *converted,
                  ratio_table *t)
{
    double copy[MOST_LAYERS * ROW];
    memcpy(copy, divergence, (size_t)n_layers * ROW * sizeof *copy);
    assert_int_equal(ratio_table_create(n_layers, N, converted, false, t, NULL), MOE_OK);
    budget_spend(copy, t);
}

static int wanted_count(int r, int n_converted)
{
    const int all = (int)lround(ratio_grid[r] * n_converted * N);
    return all > n_converted ? all : n_converted;
}

static void check_counts(const ratio_table *t)
{
    for (int r = 0; r < N_RATIOS; r++) {
        const int *row = t->experts + r * t->n_layers;
        int sum = 0, n_converted = 0;
        for (int l = 0; l < t->n_layers; l++) {
            assert_in_range(row[l], t->converted[l] ? 1 : N, N);
            assert_true(r == 0 || row[l] >= row[l - t->n_layers]);
            sum += t->converted[l] ? row[l] : 0;
            n_converted += t->converted[l];
        }
        assert_int_equal(sum, wanted_count(r, n_converted));
    }
}

static void budgets_add_up_and_never_fall(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 200; seed++) {
        rng r = rng_stream(seed, 2, 0);
        const int n_layers = 1 + (int)rng_below(&r, MOST_LAYERS);
        double divergence[MOST_LAYERS * ROW];
        bool converted[MOST_LAYERS];
        ratio_table t;
        /* Neither convex nor falling; whole numbers in a third of the cases. */
        for (int i = 0; i < n_layers * ROW; i++)
            divergence[i] = seed % 3 ? rng_uniform(&r) : (double)rng_below(&r, 4);
        for (int l = 0; l < n_layers; l++)
            converted[l] = l == 0 || rng_below(&r, 3) > 0;
        spend(divergence, n_layers, converted, &t);
        check_counts(&t);
        ratio_table_free(&t);
    }
}

/* Gains that never grow, summed from the last: convex, and 0 with all experts. */
static void draw_convex(rng *r, bool whole, double *curve)
{
    double gain = 0;
    curve[0] = 1e30; /* not to be read */
    curve[N] = 0;
    for (int k = N - 1; k >= 1; k--) {
        gain += whole ? (double)rng_below(r, 3) : rng_uniform(r);
        curve[k] = curve[k + 1] + gain;
    }
}

static double least_divergence(const double *a, const double *b, int all)
{
    double least = 1e30;
    for (int k = 1; k <= N; k++)
        if (all - k >= 1 && all - k <= N)
            least = fmin(least, a[k] + b[all - k]);
    return least;
}

static void convex_budgets_are_the_best_of_all(void **state)
{
    (void)state;
    const bool converted[3] = {true, false, true};
    for (uint64_t seed = 0; seed < 300; seed++) {
        rng random = rng_stream(seed, 3, 0);
        double divergence[3 * ROW] = {0}, *a = divergence, *b = divergence + 2 * ROW;
        ratio_table t;
        draw_convex(&random, seed % 3 == 0, a);
        draw_convex(&random, seed % 3 == 0, b);
        spend(divergence, 3, converted, &t);
        check_counts(&t);
        for (int r = 0; r < N_RATIOS; r++) {
            const int *row = t.experts + r * 3;
            const double got = a[row[0]] + b[row[2]];
            const double best = least_divergence(a, b, wanted_count(r, 2));
            if (fabs(got - best) > 1e-9)
                fail_msg("seed %llu, ratio %g: %d + %d experts: %f, best %f",
                         (unsigned long long)seed, ratio_grid[r], row[0], row[2],
                         got, best);
        }
        ratio_table_free(&t);
    }
}

/* The first layer gains nothing before its fourth expert, which is worth three. */
static void a_late_gain_is_seen_from_afar(void **state)
{
    (void)state;
    const double divergence[2 * ROW] = {0, 9, 9, 9, 0, 0, 0, /**/ 0, 8, 6, 4, 2, 1, 0};
    const int want[N_RATIOS] = {1, 1, 1, 1, 2, 3, 4, 4, 4, 4, 4, 4, 5, 6};
    const bool converted[2] = {true, true};
    ratio_table t;
    spend(divergence, 2, converted, &t);
    check_counts(&t);
    for (int r = 0; r < N_RATIOS; r++)
        assert_int_equal(t.experts[r * 2], want[r]);
    ratio_table_free(&t);
}

static void a_layer_without_divergence_waits_for_the_others(void **state)
{
    (void)state;
    const double divergence[3 * ROW] = {0, 0,   0,   0,   0,   0,    0, /**/
                                        0, 5,   4,   3,   2,   1,    0, /**/
                                        0, 1.6, .8,  .4,  .2,  .1,   0};
    const int want[N_RATIOS] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 4, 6};
    const bool converted[3] = {true, true, true};
    ratio_table t;
    spend(divergence, 3, converted, &t);
    check_counts(&t);
    for (int r = 0; r < N_RATIOS; r++) {
        assert_int_equal(t.experts[r * 3], want[r]);
        if (want[r] > 1)
            assert_int_equal(t.experts[r * 3 + 1] + t.experts[r * 3 + 2], 2 * N);
    }
    ratio_table_free(&t);
}

/* ---- the held-out part --------------------------------------------------- */

/* Sequence s is row 3 s of the data; each token's id is its place in the text. */
static calibration make_text(int n, int shortest, int lengths)
{
    calibration c = {.n_seqs = n, .n_rows = 3 * n};
    const size_t most = (size_t)n * (size_t)(shortest + lengths);
    c.cu_seqlens = malloc(((size_t)n + 1) * sizeof *c.cu_seqlens);
    c.row = malloc((size_t)n * sizeof *c.row);
    c.ids = malloc(most * sizeof *c.ids);
    c.types = malloc(most * sizeof *c.types);
    c.cu_seqlens[0] = 0;
    for (int s = 0; s < n; s++) {
        c.row[s] = 3 * s;
        c.cu_seqlens[s + 1] = c.cu_seqlens[s] + shortest + s % lengths;
    }
    c.n_tokens = c.cu_seqlens[n];
    for (int i = 0; i < c.n_tokens; i++) {
        c.ids[i] = i;
        c.types[i] = i % 2;
    }
    return c;
}

/* Adds to times [c->n_seqs] how often each sequence of c is in part, whole. */
static void check_part(const calibration *c, const calibration *part, int *times)
{
    assert_int_equal(part->cu_seqlens[0], 0);
    assert_int_equal(part->cu_seqlens[part->n_seqs], part->n_tokens);
    for (int i = 0; i < part->n_seqs; i++) {
        const int s = part->row[i] / 3, from = part->cu_seqlens[i];
        const int length = part->cu_seqlens[i + 1] - from, start = c->cu_seqlens[s];
        assert_true(i == 0 || part->row[i] > part->row[i - 1]);
        assert_int_equal(length, c->cu_seqlens[s + 1] - start);
        assert_memory_equal(part->ids + from, c->ids + start,
                            (size_t)length * sizeof *c->ids);
        assert_memory_equal(part->types + from, c->types + start,
                            (size_t)length * sizeof *c->types);
        times[s]++;
    }
}

/* Every sequence is in so many of the two parts; returns how many are held out. */
static int check_split(const calibration *c, uint64_t seed, int expected)
{
    calibration train, held, again[2];
    int *times = calloc((size_t)c->n_seqs, sizeof *times);
    assert_int_equal(calibration_split(c, seed, &train, &held, NULL), MOE_OK);
    assert_int_equal(calibration_split(c, seed, &again[0], &again[1], NULL), MOE_OK);
    check_part(c, &train, times);
    check_part(c, &held, times);
    for (int s = 0; s < c->n_seqs; s++)
        assert_int_equal(times[s], expected);
    assert_int_equal(again[1].n_seqs, held.n_seqs);
    assert_memory_equal(again[1].row, held.row, (size_t)held.n_seqs * sizeof *held.row);
    assert_true(held.n_tokens <= CALIBRATION_MAX_HELD_OUT || held.n_seqs == 1);
    const int n_held = held.n_seqs;
    calibration_free(&train);
    calibration_free(&held);
    calibration_free(&again[0]);
    calibration_free(&again[1]);
    free(times);
    return n_held;
}

static void a_tenth_is_held_out_apart_from_the_rest(void **state)
{
    (void)state;
    const int sizes[] = {2, 9, 10, 11, 57, 200};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        calibration c = make_text(sizes[i], 1, 5);
        for (uint64_t seed = 0; seed < 20; seed++)
            assert_int_equal(check_split(&c, seed, 1), (sizes[i] + 9) / 10);
        calibration_free(&c);
    }
}

static void seeds_hold_out_different_sequences(void **state)
{
    (void)state;
    calibration c = make_text(57, 1, 5), train, held;
    int times[57] = {0};
    for (uint64_t seed = 0; seed < 200; seed++) {
        assert_int_equal(calibration_split(&c, seed, &train, &held, NULL), MOE_OK);
        check_part(&c, &held, times);
        calibration_free(&train);
        calibration_free(&held);
    }
    for (int s = 0; s < 57; s++) /* 21 expected, 4.3 their deviation */
        assert_in_range(times[s], 4, 42);
    calibration_free(&c);
}

static void what_is_held_out_is_limited(void **state)
{
    (void)state;
    calibration c = make_text(60, 5000, 1), longest = make_text(11, 20000, 1);
    assert_int_equal(check_split(&c, 1, 1), 3);
    assert_int_equal(check_split(&longest, 1, 1), 1);
    calibration_free(&c);
    calibration_free(&longest);
}

static void a_single_sequence_is_in_both(void **state)
{
    (void)state;
    calibration c = make_text(1, 7, 1);
    assert_int_equal(check_split(&c, 5, 2), 1);
    calibration_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(uniform_counts_are_rounded_and_at_least_one),
        cmocka_unit_test(shared_means_add_up_and_thresholds_match_a_count),
        cmocka_unit_test(equal_scores_are_shared_in_part),
        cmocka_unit_test(thresholds_follow_each_layers_counts),
        cmocka_unit_test(budgets_add_up_and_never_fall),
        cmocka_unit_test(convex_budgets_are_the_best_of_all),
        cmocka_unit_test(a_late_gain_is_seen_from_afar),
        cmocka_unit_test(a_layer_without_divergence_waits_for_the_others),
        cmocka_unit_test(a_tenth_is_held_out_apart_from_the_rest),
        cmocka_unit_test(seeds_hold_out_different_sequences),
        cmocka_unit_test(what_is_held_out_is_limited),
        cmocka_unit_test(a_single_sequence_is_in_both),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
