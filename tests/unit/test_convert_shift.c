/* What is added for the experts that are left out: at layer 0, where no shift before it
 * matters, it is all or half of the mean that a walk of our own finds; at ratio 1
 * nothing, to the bit; and the answers come no farther from the dense ones. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "convert/blas.h"
#include "convert/metrics.h"
#include "convert/shift.h"
#include "tests/support/tiny_model.h"
#include "tests/support/tiny_text.h"

enum { D = TINY_D, SEQS = 40, LENGTH = 9, TOKENS = SEQS * LENGTH };
static int32_t bounds[SEQS + 1], ids[TOKENS], types[TOKENS], row[SEQS];

typedef struct {
    moe_model *m;
    moe_pool *pool;
    converted c;
    calibration text;
} stage;

/* A GELU model, so that what is left out has a mean, with the routers of a MoEfied one. */
static int set_up(void **state)
{
    stage *st = calloc(1, sizeof *st);
    bool wanted[TINY_LAYERS];
    moe_error err;
    blas_begin();
    tiny_moefied_write(in_tmp("model"), 4);
    if (moe_model_open(in_tmp("model"), &st->m, &err) || moe_pool_create(1, &st->pool, &err))
        fail_msg("%s", err.message);
    for (int l = 0; l < TINY_LAYERS; l++) {
        st->m->weights.layers[l].ffn.act = MOE_ACT_GELU_ERF;
        wanted[l] = st->m->weights.layers[l].router.present;
    }
    for (int t = 0; t < TOKENS; t++)
        ids[t] = (t * 17 + t / 7) % TINY_VOCAB;
    for (int s = 0; s <= SEQS; s++)
        bounds[s] = s * LENGTH;
    st->text = (calibration){.n_tokens = TOKENS, .n_seqs = SEQS, .ids = ids, .types = types,
                             .row = row, .cu_seqlens = bounds};
    assert_int_equal(converted_create(st->m, wanted, &st->c, &err), MOE_OK);
    assert_int_equal(ratio_table_create(TINY_LAYERS, st->m->info.n_experts, wanted, false,
                                        &st->c.table, &err), MOE_OK);
    converted_use_table(&st->c, MOE_POLICY_TOPK);
    *state = st;
    return 0;
}

static int tear_down(void **state)
{
    stage *st = *state;
    converted_free(&st->c);
    moe_pool_destroy(st->pool);
    moe_model_close(st->m);
    free(st);
    return 0;
}

static void measure(stage *st)
{
    moe_error err;
    progress bar;
    if (shift_measure(&st->c, st->pool, &st->text, NULL, &bar, &err) != MOE_OK)
        fail_msg("%s", err.message);
}

/* The text at a ratio: logits [SEQS, TINY_LABELS]. */
static void run(const stage *st, double ratio, float *logits)
{
    moe_selection how[SEQS];
    moe_engine *e;
    moe_error err;
    for (int s = 0; s < SEQS; s++)
        how[s] = (moe_selection){.ratio = ratio};
    const moe_batch b = {.n_seqs = SEQS, .cu_seqlens = bounds, .token_ids = ids,
                         .token_types = types, .selection = how};
    moe_output out = {.logits = logits};
    assert_int_equal(moe_engine_create(&st->c.model, st->pool, NULL, &e, &err), MOE_OK);
    assert_int_equal(moe_forward(e, &b, &out, &err), MOE_OK);
    moe_engine_destroy(e);
}

static int first_routed(const stage *st)
{
    int l = 0;
    while (!st->c.wanted[l])
        l++;
    return l;
}

/* The mean of dense less sparse output of the first routed layer, with no shift yet. */
static void mean_of(const stage *st, double ratio, double *mean)
{
    static float x[TOKENS * D], dense[TOKENS * D], sparse[TOKENS * D];
    moe_selection how[SEQS];
    moe_engine *e;
    moe_error err;
    const int layer = first_routed(st);
    moe_batch b = {.n_seqs = SEQS, .cu_seqlens = bounds, .token_ids = ids, .token_types = types};
    for (int s = 0; s < SEQS; s++)
        how[s] = (moe_selection){.ratio = ratio};
    assert_int_equal(moe_engine_create(&st->c.model, st->pool, NULL, &e, &err), MOE_OK);
    assert_int_equal(moe_step_embed(e, &b, x, &err), MOE_OK);
    for (int l = 0; l <= layer; l++) {
        assert_int_equal(moe_step_attention(e, l, &b, x, &err), MOE_OK);
        if (l < layer)
            assert_int_equal(moe_step_ffn(e, l, &b, x, &err), MOE_OK);
    }
    assert_int_equal(moe_step_ffn_output(e, layer, &b, x, dense, &err), MOE_OK);
    b.selection = how;
    assert_int_equal(moe_step_ffn_output(e, layer, &b, x, sparse, &err), MOE_OK);
    moe_engine_destroy(e);
    const int stride = layer + 1 == TINY_LAYERS ? LENGTH : 1; /* the last: first tokens */
    for (int i = 0; i < D; i++) {
        mean[i] = 0;
        for (int t = 0; t < TOKENS; t += stride)
            mean[i] += ((double)dense[t * D + i] - sparse[t * D + i]) / (TOKENS / stride);
    }
}

static void shifts_are_the_mean_or_half_of_it_or_nothing(void **state)
{
    stage *st = *state;
    double mean[D];
    mean_of(st, 0.5, mean);
    measure(st);
    const moe_ffn *f = &st->c.model.weights.layers[first_routed(st)].ffn;
    assert_int_equal(f->n_shifts, N_RATIOS);
    int at = 0, fits = 0;
    while (ratio_grid[at] < 0.5)
        at++;
    for (int k = 1; k <= 2; k++) { /* on this model something is gained */
        int good = 0;
        for (int i = 0; i < D; i++)
            good += fabs(f->shift[at * D + i] - k * mean[i] / 2) < 1e-5;
        fits += good == D;
    }
    assert_int_equal(fits, 1);
    for (int i = 0; i < D; i++)
        assert_true(f->shift[(N_RATIOS - 1) * D + i] == 0);
}

static double divergence(const float *p, const float *q)
{
    double sum = 0;
    for (int s = 0; s < SEQS; s++)
        sum += answer_divergence(MOE_TASK_CLASSIFY, p + s * TINY_LABELS, q + s * TINY_LABELS,
                                 TINY_LABELS);
    return sum;
}

static void answers_come_no_farther_from_the_dense_ones(void **state)
{
    stage *st = *state;
    static const double at[] = {0.125, 0.25, 0.5, 0.75};
    float dense[SEQS * TINY_LABELS], after[SEQS * TINY_LABELS], before[4][SEQS * TINY_LABELS];
    run(st, 1, dense);
    for (int i = 0; i < 4; i++)
        run(st, at[i], before[i]);
    measure(st);
    for (int i = 0; i < 4; i++) {
        run(st, at[i], after);
        assert_true(divergence(dense, after) <= divergence(dense, before[i]) + 1e-9);
    }
    run(st, 1, after);
    assert_memory_equal(dense, after, sizeof dense);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(shifts_are_the_mean_or_half_of_it_or_nothing, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(answers_come_no_farther_from_the_dense_ones, set_up,
                                        tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
