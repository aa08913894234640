/* The forward pass in steps: embed, each layer's attention and FFN, head. In
 * chunks and with mixed ratios they must give moe_forward's bits, leave the
 * statistics alone, and refuse what it refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/tiny_model.h"

#define SHIPPED "models/minilm-sst2-relu"

enum { SEQS = 6, MAX_LABELS = 8 };
static const int lengths[SEQS] = {1, 40, 7, 13, 33, 20};
static const double ratios[SEQS] = {0.34, 1, 0.5, 0.25, 0.7, 1};

typedef struct {
    moe_model *m;
    moe_pool *pool;
    moe_engine *e;
    int32_t cu_seqlens[SEQS + 1];
    int32_t *ids, *types;
    moe_selection selection[SEQS];
    moe_batch batch;
    float *x;
} stage;

static char tiny_dir[TINY_PATH];

static stage open_stage(const char *dir, int threads, int chunk_tokens, moe_selector selector)
{
    stage s = {.m = NULL};
    moe_error err = {0};
    const moe_engine_options options = {.chunk_tokens = chunk_tokens};
    if (moe_model_open(dir, &s.m, &err) || moe_pool_create(threads, &s.pool, &err) ||
        moe_engine_create(s.m, s.pool, &options, &s.e, &err))
        fail_msg("%s", err.message);
    for (int i = 0; i < SEQS; i++) {
        s.cu_seqlens[i + 1] = s.cu_seqlens[i] + lengths[i];
        s.selection[i] = (moe_selection){.ratio = ratios[i], .selector = selector};
    }
    const int n = s.cu_seqlens[SEQS];
    const moe_model_info *info = moe_model_describe(s.m);
    s.ids = malloc((size_t)n * sizeof *s.ids);
    s.types = malloc((size_t)n * sizeof *s.types);
    s.x = malloc((size_t)n * (size_t)info->d_model * sizeof *s.x);
    assert_true(s.ids && s.types && s.x && info->n_labels <= MAX_LABELS);
    for (int t = 0; t < n; t++) {
        s.ids[t] = (t * 17 + 3) % info->n_vocab;
        s.types[t] = t % 5 == 0;
    }
    return s;
}

/* The arrays live in *s: only where it lies for good can they be pointed to. */
static const moe_batch *batch_of(stage *s)
{
    s->batch = (moe_batch){.n_seqs = SEQS, .cu_seqlens = s->cu_seqlens, .token_ids = s->ids,
                           .token_types = s->types, .selection = s->selection};
    return &s->batch;
}

static void close_stage(stage *s)
{
    moe_engine_destroy(s->e);
    moe_pool_destroy(s->pool);
    moe_model_close(s->m);
    free(s->ids);
    free(s->types);
    free(s->x);
}

static moe_status step_through(stage *s, const moe_batch *b, float *logits, moe_error *err)
{
    moe_status status = moe_step_embed(s->e, b, s->x, err);
    for (int l = 0; status == MOE_OK && l < moe_model_describe(s->m)->n_layers; l++) {
        status = moe_step_attention(s->e, l, b, s->x, err);
        if (status == MOE_OK)
            status = moe_step_ffn(s->e, l, b, s->x, err);
    }
    return status == MOE_OK ? moe_step_head(s->e, b, s->x, logits, err) : status;
}

/* Steps in small chunks on two threads against moe_forward in one, on one. */
static void compare(const char *dir, moe_selector selector, bool dense)
{
    float want[SEQS * MAX_LABELS] = {0}, got[SEQS * MAX_LABELS] = {0};
    moe_error err = {0};
    stage one = open_stage(dir, 1, 0, selector), two = open_stage(dir, 2, 1, selector);
    moe_batch b = *batch_of(&one);
    if (dense)
        b.selection = NULL;
    moe_output out = {.logits = want};
    assert_int_equal(moe_forward(one.e, &b, &out, &err), MOE_OK);
    if (step_through(&two, &b, got, &err) != MOE_OK)
        fail_msg("%s", err.message);
    assert_true(want[0] != 0);
    assert_memory_equal(got, want, sizeof want);
    close_stage(&one);
    close_stage(&two);
}

static void steps_give_the_forward_pass_of_a_tiny_model(void **state)
{
    (void)state;
    compare(tiny_dir, MOE_SELECT_ROUTER, true);
    compare(tiny_dir, MOE_SELECT_ROUTER, false);
    compare(tiny_dir, MOE_SELECT_ORACLE, false);
    compare(tiny_dir, MOE_SELECT_RANDOM, false);
    compare(tiny_dir, MOE_SELECT_FREQUENCY, false);
}

static void steps_give_the_forward_pass_of_the_shipped_model(void **state)
{
    (void)state;
    compare(SHIPPED, MOE_SELECT_ROUTER, true);
    compare(SHIPPED, MOE_SELECT_ORACLE, false);
}

/* Otherwise the comparison above would compare dense with dense. */
static void a_ratio_changes_what_the_ffn_step_gives(void **state)
{
    (void)state;
    moe_error err = {0};
    stage s = open_stage(tiny_dir, 1, 0, MOE_SELECT_ROUTER);
    const size_t floats = (size_t)s.cu_seqlens[SEQS] * TINY_D;
    float *dense = malloc(floats * sizeof *dense);
    assert_non_null(dense);
    moe_batch b = *batch_of(&s);
    assert_int_equal(moe_step_embed(s.e, &b, s.x, &err), MOE_OK);
    memcpy(dense, s.x, floats * sizeof *dense);
    assert_int_equal(moe_step_ffn(s.e, 0, &b, s.x, &err), MOE_OK);
    b.selection = NULL;
    assert_int_equal(moe_step_ffn(s.e, 0, &b, dense, &err), MOE_OK);
    for (int i = 0; i < SEQS; i++) {
        const size_t from = (size_t)s.cu_seqlens[i] * TINY_D;
        const size_t bytes = (size_t)lengths[i] * TINY_D * sizeof *dense;
        assert_int_equal(memcmp(dense + from, s.x + from, bytes) == 0, ratios[i] == 1);
    }
    free(dense);
    close_stage(&s);
}

static void steps_leave_the_statistics_alone(void **state)
{
    (void)state;
    float logits[SEQS * MAX_LABELS];
    uint64_t selected[TINY_LAYERS * TINY_EXPERTS];
    moe_error err = {0};
    stage s = open_stage(tiny_dir, 1, 0, MOE_SELECT_ROUTER);
    assert_int_equal(step_through(&s, batch_of(&s), logits, &err), MOE_OK);
    assert_int_equal(moe_stats_read(s.e).tokens, 0);
    moe_stats_experts(s.e, selected);
    for (int i = 0; i < TINY_LAYERS * TINY_EXPERTS; i++)
        assert_int_equal(selected[i], 0);
    close_stage(&s);
}

static void steps_refuse_a_layer_or_a_batch_out_of_range(void **state)
{
    (void)state;
    float logits[SEQS * MAX_LABELS];
    moe_error err = {0};
    stage s = open_stage(tiny_dir, 1, 0, MOE_SELECT_ROUTER);
    const moe_batch *b = batch_of(&s);
    assert_int_equal(moe_step_attention(s.e, -1, b, s.x, &err), MOE_E_ARGUMENT);
    assert_non_null(strstr(err.message, "layer is -1"));
    assert_int_equal(moe_step_ffn(s.e, TINY_LAYERS, b, s.x, &err), MOE_E_ARGUMENT);
    assert_non_null(strstr(err.message, "layer is 2"));
    s.ids[3] = TINY_VOCAB;
    assert_int_equal(moe_step_embed(s.e, b, s.x, &err), MOE_E_ARGUMENT);
    assert_int_equal(moe_step_attention(s.e, 0, b, s.x, &err), MOE_E_ARGUMENT);
    assert_int_equal(moe_step_ffn(s.e, 0, b, s.x, &err), MOE_E_ARGUMENT);
    assert_int_equal(moe_step_head(s.e, b, s.x, logits, &err), MOE_E_ARGUMENT);
    assert_non_null(strstr(err.message, "token id 60"));
    close_stage(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_give_the_forward_pass_of_a_tiny_model),
        cmocka_unit_test(steps_give_the_forward_pass_of_the_shipped_model),
        cmocka_unit_test(a_ratio_changes_what_the_ffn_step_gives),
        cmocka_unit_test(steps_leave_the_statistics_alone),
        cmocka_unit_test(steps_refuse_a_layer_or_a_batch_out_of_range),
    };
    snprintf(tiny_dir, sizeof tiny_dir, "%s/tiny", getenv("MOE_TMP"));
    tiny_moefied_write(tiny_dir, 7);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
