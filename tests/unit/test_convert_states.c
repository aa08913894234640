/* The rows between layers of a tiny model: they are what the steps of the forward
 * pass give, at any place of the file; the logits are moe_forward's; extra regions
 * hold what was written; a value that is not finite is named, a folder that is not
 * there too. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "convert/states.h"
#include "engine/model/model.h"
#include "tests/support/tiny_model.h"
#include "tests/support/tiny_text.h"

/* Sequences of 1 to 40 tokens, in several batches. */
enum { SEQS = 480, ROWS = TINY_LAYERS + 1 };

typedef struct {
    moe_model *m;
    moe_pool *pool;
    calibration text;
    states s;
    float *logits; /* [SEQS, TINY_LABELS] */
} stage;

static void make_text(calibration *t)
{
    *t = (calibration){.n_seqs = SEQS};
    t->cu_seqlens = calloc(SEQS + 1, sizeof *t->cu_seqlens);
    assert_non_null(t->cu_seqlens);
    for (int i = 0; i < SEQS; i++)
        t->cu_seqlens[i + 1] = t->cu_seqlens[i] + 1 + i * 7 % 40;
    t->n_tokens = t->cu_seqlens[SEQS];
    t->ids = calloc((size_t)t->n_tokens, sizeof *t->ids);
    t->types = calloc((size_t)t->n_tokens, sizeof *t->types);
    assert_true(t->ids && t->types);
    for (int i = 0; i < t->n_tokens; i++) {
        t->ids[i] = (i * 17 + 3) % TINY_VOCAB;
        t->types[i] = i % 5 == 0;
    }
}

static int set_up(void **state)
{
    stage *st = calloc(1, sizeof *st);
    moe_error err;
    tiny_model_write(in_tmp("model"), 5);
    if (moe_model_open(in_tmp("model"), &st->m, &err) ||
        moe_pool_create(2, &st->pool, &err))
        fail_msg("%s", err.message);
    make_text(&st->text);
    st->logits = calloc(SEQS * TINY_LABELS, sizeof *st->logits);
    assert_non_null(st->logits);
    st->s.fd = -1;
    *state = st;
    return 0;
}

static int tear_down(void **state)
{
    stage *st = *state;
    states_close(&st->s);
    calibration_free(&st->text);
    moe_pool_destroy(st->pool);
    moe_model_close(st->m);
    free(st->logits);
    free(st);
    return 0;
}

static moe_status run(stage *st, const char *dir, int n_extra, moe_error *err)
{
    progress bar;
    states_close(&st->s);
    return states_run(st->m, st->pool, &st->text, dir, n_extra, &bar, &st->s, st->logits,
                      err);
}

static void run_well(stage *st, int n_extra)
{
    moe_error err;
    if (run(st, getenv("MOE_TMP"), n_extra, &err) != MOE_OK)
        fail_msg("%s", err.message);
    assert_int_equal(st->s.n_regions, ROWS + n_extra);
    assert_int_equal(st->s.n_tokens, st->text.n_tokens);
}

/* Sequence i by itself: its rows at every boundary [ROWS][40, TINY_D], its logits. */
static void step_alone(const stage *st, int i, float rows[ROWS][40 * TINY_D], float *logits)
{
    const int first = st->text.cu_seqlens[i];
    const int32_t bounds[2] = {0, st->text.cu_seqlens[i + 1] - first};
    const moe_batch b = {.n_seqs = 1, .cu_seqlens = bounds,
                         .token_ids = st->text.ids + first,
                         .token_types = st->text.types + first};
    const size_t bytes = (size_t)bounds[1] * TINY_D * sizeof(float);
    moe_engine *e;
    moe_error err;
    assert_int_equal(moe_engine_create(st->m, st->pool, NULL, &e, &err), MOE_OK);
    assert_int_equal(moe_step_embed(e, &b, rows[0], &err), MOE_OK);
    for (int l = 0; l < TINY_LAYERS; l++) {
        memcpy(rows[l + 1], rows[l], bytes);
        assert_int_equal(moe_step_attention(e, l, &b, rows[l + 1], &err), MOE_OK);
        assert_int_equal(moe_step_ffn(e, l, &b, rows[l + 1], &err), MOE_OK);
    }
    moe_output out = {.logits = logits};
    assert_int_equal(moe_forward(e, &b, &out, &err), MOE_OK);
    moe_engine_destroy(e);
}

static void regions_hold_the_rows_between_layers(void **state)
{
    stage *st = *state;
    static float rows[ROWS][40 * TINY_D], read[40 * TINY_D];
    static const int some[] = {0, 5, 240, SEQS - 1};
    moe_error err;
    run_well(st, 0);
    assert_true(st->text.n_tokens > 2 * 4096); /* three batches */
    for (size_t k = 0; k < sizeof some / sizeof *some; k++) {
        const int i = some[k], first = st->text.cu_seqlens[i];
        const int n = st->text.cu_seqlens[i + 1] - first;
        float logits[TINY_LABELS];
        step_alone(st, i, rows, logits);
        assert_memory_equal(logits, st->logits + i * TINY_LABELS, sizeof logits);
        for (int l = 0; l < ROWS; l++) {
            const float *mapped;
            const size_t bytes = (size_t)n * TINY_D * sizeof *read;
            assert_int_equal(states_read(&st->s, l, first, n, read, &err), MOE_OK);
            assert_memory_equal(read, rows[l], bytes);
            assert_int_equal(states_map(&st->s, l, &mapped, &err), MOE_OK);
            assert_memory_equal(mapped + (size_t)first * TINY_D, rows[l], bytes);
        }
    }
}

static void extra_regions_hold_what_was_written(void **state)
{
    stage *st = *state;
    const int last = st->text.n_tokens - 1;
    float before[TINY_D], row[TINY_D], read[TINY_D];
    const float *mapped;
    moe_error err;
    run_well(st, 2);
    assert_int_equal(states_read(&st->s, ROWS - 1, last, 1, before, &err), MOE_OK);
    for (int extra = 0; extra < 2; extra++) {
        for (int j = 0; j < TINY_D; j++)
            row[j] = (float)(j + 100 * extra);
        assert_int_equal(states_write(&st->s, ROWS + extra, 0, 1, row, &err), MOE_OK);
        assert_int_equal(states_write(&st->s, ROWS + extra, last, 1, row, &err), MOE_OK);
    }
    for (int extra = 0; extra < 2; extra++) {
        assert_int_equal(states_map(&st->s, ROWS + extra, &mapped, &err), MOE_OK);
        for (int j = 0; j < TINY_D; j++) {
            assert_true(mapped[j] == (float)(j + 100 * extra));
            assert_true(mapped[(size_t)last * TINY_D + (size_t)j] == mapped[j]);
        }
    }
    assert_int_equal(states_read(&st->s, ROWS - 1, last, 1, read, &err), MOE_OK);
    assert_memory_equal(read, before, sizeof read);
}

static void a_value_that_is_not_finite_is_named(void **state)
{
    stage *st = *state;
    moe_error err;
    float b2[TINY_D];
    const float *whole = st->m->weights.layers[0].ffn.b2;
    memcpy(b2, whole, sizeof b2);
    b2[7] = NAN;
    st->m->weights.layers[0].ffn.b2 = b2;
    assert_int_equal(run(st, getenv("MOE_TMP"), 0, &err), MOE_E_FORMAT);
    assert_string_equal(err.message,
                        "a value of calibration token 0 that enters layer 1 is not finite");
    st->m->weights.layers[0].ffn.b2 = whole;

    whole = st->m->weights.layers[1].ffn.b2;
    st->m->weights.layers[1].ffn.b2 = b2;
    assert_int_equal(run(st, getenv("MOE_TMP"), 0, &err), MOE_E_FORMAT);
    assert_string_equal(err.message,
                        "a value of calibration token 0 that leaves layer 1 is not finite");
    st->m->weights.layers[1].ffn.b2 = whole;
}

static void a_folder_that_is_not_there_is_named(void **state)
{
    stage *st = *state;
    moe_error err;
    assert_int_equal(run(st, in_tmp("nowhere"), 0, &err), MOE_E_IO);
    assert_non_null(strstr(err.message, "nowhere"));
    assert_int_equal(st->s.fd, -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(regions_hold_the_rows_between_layers, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(extra_regions_hold_what_was_written, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_value_that_is_not_finite_is_named, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_folder_that_is_not_there_is_named, set_up,
                                        tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
