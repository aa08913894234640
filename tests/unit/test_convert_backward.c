/* Gradients against finite differences of the engine, on tiny models of all three
 * activations: of one layer, token by token, by the rows that enter it and by what its
 * FFN adds; of the answers of classification, multi-label and regression, through the
 * head and all layers; the same bits for any number of workers; what is refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "convert/backward.h"
#include "convert/blas.h"
#include "convert/rng.h"
#include "convert/sensitivity.h"
#include "tests/support/tiny_model.h"
#include "tests/support/tiny_text.h"

/* Differences of a float forward pass. A step of 2e-3 leaves some 1e-3 of a gradient's
 * length to rounding (rows are exact to 1e-6) and up to 1e-2 to curvature. */
static const double step = 2e-3, tolerance = 2e-2;

enum { D = TINY_D, SEQS = 5, TOKENS = 27, LAST = TINY_LAYERS };
static const int32_t bounds[SEQS + 1] = {0, 9, 10, 17, 25, TOKENS}; /* one of one token */
static int32_t ids[TOKENS], types[TOKENS];
static const moe_batch batch = {.n_seqs = SEQS, .cu_seqlens = bounds, .token_ids = ids,
                                .token_types = types};

typedef struct {
    moe_model *m;
    moe_pool *pool;
    moe_engine *e;
    calibration text;
} stage;

static int set_up(void **state)
{
    stage *st = calloc(1, sizeof *st);
    moe_error err;
    blas_begin();
    tiny_model_write(in_tmp("model"), 11);
    if (moe_model_open(in_tmp("model"), &st->m, &err) ||
        moe_pool_create(1, &st->pool, &err) ||
        moe_engine_create(st->m, st->pool, NULL, &st->e, &err))
        fail_msg("%s", err.message);
    for (int t = 0; t < TOKENS; t++) {
        ids[t] = (t * 17 + 3) % TINY_VOCAB;
        types[t] = t % 5 == 0;
    }
    st->text = (calibration){.n_tokens = TOKENS, .n_seqs = SEQS, .ids = ids,
                             .types = types, .cu_seqlens = (int32_t *)bounds};
    *state = st;
    return 0;
}

static int tear_down(void **state)
{
    stage *st = *state;
    moe_engine_destroy(st->e);
    moe_pool_destroy(st->pool);
    moe_model_close(st->m);
    free(st);
    return 0;
}

/* Engines copy the weight table: what changes it needs a new one. */
static void renew_engine(stage *st)
{
    moe_error err;
    moe_engine_destroy(st->e);
    assert_int_equal(moe_engine_create(st->m, st->pool, NULL, &st->e, &err), MOE_OK);
}

static void set_activation(stage *st, moe_activation act)
{
    for (int l = 0; l < TINY_LAYERS; l++)
        st->m->weights.layers[l].ffn.act = act;
    renew_engine(st);
}

/* ---- forward in steps ---------------------------------------------------- */

typedef union { float v[TOKENS][D], all[TOKENS * D]; } rows;

static void enter(const stage *st, int layer, rows *x)
{
    moe_error err;
    assert_int_equal(moe_step_embed(st->e, &batch, x->all, &err), MOE_OK);
    for (int l = 0; l < layer; l++) {
        assert_int_equal(moe_step_attention(st->e, l, &batch, x->all, &err), MOE_OK);
        assert_int_equal(moe_step_ffn(st->e, l, &batch, x->all, &err), MOE_OK);
    }
}

static void run_layer(const stage *st, int layer, rows *x)
{
    moe_error err;
    assert_int_equal(moe_step_attention(st->e, layer, &batch, x->all, &err), MOE_OK);
    assert_int_equal(moe_step_ffn(st->e, layer, &batch, x->all, &err), MOE_OK);
}

/* Rows that leave the layer where x enters it and its FFN adds `push` [D] more to each
 * token. The FFN takes tokens one by one, so a row of it is that of a push to the token
 * alone. */
static void run_pushed(stage *st, int layer, const float *push, rows *x)
{
    moe_ffn *f = &st->m->weights.layers[layer].ffn;
    const float *b2 = f->b2;
    float pushed[D];
    for (int j = 0; j < D; j++)
        pushed[j] = b2[j] + push[j];
    f->b2 = pushed;
    renew_engine(st);
    run_layer(st, layer, x);
    f->b2 = b2;
}

static double dot(const float *a, const float *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

static void draw(rng *r, size_t n, double scale, float *x)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(scale * rng_normal(r));
}

/* ---- one layer ----------------------------------------------------------- */

static void expect_near(double got, double expected, double length, const char *what,
                        int layer, int token)
{
    if (!(fabs(got - expected) <= tolerance * length))
        fail_msg("layer %d, token %d, %s: %g, expected %g (within %g)", layer, token,
                 what, got, expected, tolerance * length);
}

/* What differences say of a slope. Central ones are the most exact, but where a ReLU
 * changes sides within the step the truth is that of the other side. */
static double closest_slope(double got, double below, double at, double above)
{
    const double slopes[] = {(above - below) / 2, above - at, at - below};
    double best = slopes[0] / step;
    for (int i = 1; i < 3; i++)
        best = fabs(slopes[i] / step - got) < fabs(best - got) ? slopes[i] / step : best;
    return best;
}

/* The answer is the sum of g_out times the rows that leave the layer. */
static void check_layer(stage *st, int layer, const rows *g_out)
{
    static rows x, plus, minus, g_ffn, g_in, direction;
    const backward_task task = {bounds, SEQS};
    backward_weights w;
    moe_error err;
    assert_int_equal(backward_weights_create(st->m, &w, &err), MOE_OK);
    backward_weights_load(&w, st->m, layer);
    float *scratch = malloc(backward_scratch_floats(&w, task) * sizeof *scratch);
    assert_non_null(scratch);
    enter(st, layer, &x);
    backward_layer(&w, task, x.all, g_out->all, scratch, g_ffn.all, g_in.all);
    free(scratch);
    backward_weights_free(&w);

    plus = x;
    run_layer(st, layer, &plus);
    const double at = dot(plus.all, g_out->all, TOKENS * D);
    rng r = rng_stream(1, (uint64_t)layer, 't');
    draw(&r, TOKENS * D, 1, direction.all);
    for (int t = 0; t < TOKENS; t++) { /* one token's row, as it enters */
        plus = minus = x;
        for (int j = 0; j < D; j++) {
            plus.v[t][j] += (float)step * direction.v[t][j];
            minus.v[t][j] -= (float)step * direction.v[t][j];
        }
        run_layer(st, layer, &plus);
        run_layer(st, layer, &minus);
        const double got = dot(g_in.v[t], direction.v[t], D);
        const double expected =
            closest_slope(got, dot(minus.all, g_out->all, TOKENS * D), at,
                          dot(plus.all, g_out->all, TOKENS * D));
        expect_near(got, expected, sqrt(dot(g_in.v[t], g_in.v[t], D)),
                    "by the row that enters", layer, t);
    }
    float push[D];
    for (int way = 0; way < 8; way++) { /* what the FFN adds, all tokens at once */
        draw(&r, D, step, push);
        plus = minus = x;
        run_pushed(st, layer, push, &plus);
        for (int j = 0; j < D; j++)
            push[j] = -push[j];
        run_pushed(st, layer, push, &minus);
        for (int t = 0; t < TOKENS; t++) {
            double expected = (dot(plus.v[t], g_out->v[t], D) -
                               dot(minus.v[t], g_out->v[t], D)) / (2 * step);
            expect_near(-dot(g_ffn.v[t], push, D) / step, expected,
                        sqrt(dot(g_ffn.v[t], g_ffn.v[t], D)), "by what the FFN adds",
                        layer, t);
        }
    }
    renew_engine(st);
}

static const moe_activation activations[] = {MOE_ACT_RELU, MOE_ACT_GELU_ERF,
                                             MOE_ACT_GELU_TANH};
enum { ACTIVATIONS = sizeof activations / sizeof *activations };

static void a_layers_gradients_are_its_differences(void **state)
{
    static rows g_out;
    rng r = rng_stream(1, 0, 'o');
    for (int i = 0; i < ACTIVATIONS; i++) {
        set_activation(*state, activations[i]);
        for (int l = 0; l < TINY_LAYERS; l++) {
            draw(&r, TOKENS * D, 1, g_out.all);
            check_layer(*state, l, &g_out);
        }
    }
}

static void rows_without_a_gradient_pass_attention_only(void **state)
{
    static rows g_out;
    rng r = rng_stream(1, 1, 'o');
    for (int s = 0; s < SEQS; s++)
        draw(&r, D, 1, g_out.v[bounds[s]]);
    draw(&r, D, 1, g_out.v[5]);
    check_layer(*state, 1, &g_out);
}

static void the_gradient_may_be_replaced_in_place_or_not_wanted(void **state)
{
    stage *st = *state;
    static rows x, g, g_ffn, again, g_in;
    const backward_task task = {bounds, SEQS};
    backward_weights w;
    moe_error err;
    assert_int_equal(backward_weights_create(st->m, &w, &err), MOE_OK);
    backward_weights_load(&w, st->m, 1);
    float *scratch = malloc(backward_scratch_floats(&w, task) * sizeof *scratch);
    assert_non_null(scratch);
    enter(st, 1, &x);
    rng r = rng_stream(1, 2, 'o');
    draw(&r, 10 * D, 1, g.all);
    backward_layer(&w, task, x.all, g.all, scratch, g_ffn.all, g_in.all);
    backward_layer(&w, task, x.all, g.all, scratch, again.all, NULL);
    assert_memory_equal(&again, &g_ffn, sizeof again);
    backward_layer(&w, task, x.all, g.all, scratch, again.all, g.all);
    assert_memory_equal(&again, &g_ffn, sizeof again);
    assert_memory_equal(&g, &g_in, sizeof g);
    free(scratch);
    backward_weights_free(&w);
}

/* ---- the whole model ----------------------------------------------------- */

enum { SEED = 5 };

static size_t n_logits(const stage *st)
{
    return (size_t)st->m->info.n_labels *
           (size_t)(st->m->info.task == MOE_TASK_ANSWER ? TOKENS : SEQS);
}

/* +1 at the token of [first, end) with the largest logit of column c, -1 at the next. */
static void span_weights(const float *logits, float *weights, int first, int end, int c)
{
    int best = -1, second = -1;
    for (int t = first; t < end; t++)
        if (best < 0 || logits[2 * t + c] > logits[2 * best + c])
            best = t;
    for (int t = first; t < end; t++)
        if (t != best && (second < 0 || logits[2 * t + c] > logits[2 * second + c]))
            second = t;
    weights[2 * best + c] = 1;
    if (second >= 0)
        weights[2 * second + c] = -1;
}

/* The gradient of each sequence's answer by its logits, at those of the whole text. */
static void answer_weights(const stage *st, const float *logits, float *weights)
{
    const int n = st->m->info.n_labels;
    memset(weights, 0, n_logits(st) * sizeof *weights);
    if (st->m->info.task == MOE_TASK_ANSWER) {
        for (int s = 0; s < SEQS; s++)
            for (int c = 0; c < 2; c++)
                span_weights(logits, weights, bounds[s], bounds[s + 1], c);
        return;
    }
    for (int s = 0; s < SEQS; s++, logits += n, weights += n) {
        rng r = rng_stream(SEED, (uint64_t)s, 's');
        int best = 0, worst = 0;
        for (int i = 0; i < n; i++) {
            best = logits[i] > logits[best] ? i : best;
            worst = logits[i] < logits[worst] ? i : worst;
            if (st->m->info.task == MOE_TASK_MULTI_LABEL)
                weights[i] = rng_next(&r) >> 63 ? 1 : -1;
        }
        if (st->m->info.task == MOE_TASK_REGRESS)
            weights[0] = 1;
        if (st->m->info.task == MOE_TASK_CLASSIFY) { /* of three: the middle one */
            weights[best] = 1;
            weights[0 + 1 + 2 - best - worst] = -1;
        }
    }
}

/* The sum of the sequences' answers where x enters `layer`. */
static double answer(const stage *st, int layer, const float *weights, rows *x)
{
    float logits[TOKENS * TINY_LABELS];
    moe_error err;
    for (int l = layer; l < LAST; l++)
        run_layer(st, l, x);
    assert_int_equal(moe_step_head(st->e, &batch, x->all, logits, &err), MOE_OK);
    return dot(logits, weights, n_logits(st));
}

/* The norms by differences: each coordinate of what the layer's FFN adds is pushed, and
 * of the rows that leave it only the token's is let through. */
static void difference_norms(stage *st, int layer, const float *weights, float *norm)
{
    static rows x, base, plus[2], mixed;
    double squares[TOKENS] = {0};
    enter(st, layer, &x);
    enter(st, layer + 1, &base);
    for (int j = 0; j < D; j++) {
        for (int side = 0; side < 2; side++) {
            float push[D] = {0};
            push[j] = (float)(side ? -5 * step : 5 * step); /* the head rounds, too */
            plus[side] = x;
            run_pushed(st, layer, push, &plus[side]);
        }
        renew_engine(st);
        for (int t = 0; t < TOKENS; t++) {
            double at[2];
            for (int side = 0; side < 2; side++) {
                mixed = base;
                memcpy(mixed.v[t], plus[side].v[t], sizeof mixed.v[t]);
                at[side] = answer(st, layer + 1, weights, &mixed);
            }
            const double slope = (at[0] - at[1]) / (10 * step);
            squares[t] += slope * slope;
        }
    }
    for (int t = 0; t < TOKENS; t++)
        norm[t] = (float)sqrt(squares[t]);
}

static moe_status run_sensitivity(const stage *st, const calibration *text, int threads,
                                  float *logits, float *norm, moe_error *err)
{
    progress bar;
    workers *w;
    states s;
    assert_int_equal(workers_create(threads, &w, err), MOE_OK);
    moe_status status = states_run(st->m, st->pool, text, getenv("MOE_TMP"),
                                   SENSITIVITY_REGIONS, &bar, &s, logits, err);
    if (status == MOE_OK)
        status = sensitivity_run(st->m, text, &s, SEED, w, &bar, norm, err);
    states_close(&s);
    workers_destroy(w);
    return status;
}

static void check_norms(stage *st)
{
    float logits[TOKENS * TINY_LABELS], weights[TOKENS * TINY_LABELS];
    float norm[LAST][TOKENS], expected[TOKENS];
    moe_error err;
    if (run_sensitivity(st, &st->text, 1, logits, norm[0], &err) != MOE_OK)
        fail_msg("%s", err.message);
    answer_weights(st, logits, weights);
    for (int l = 0; l < LAST; l++) {
        difference_norms(st, l, weights, expected);
        for (int t = 0; t < TOKENS; t++)
            expect_near(norm[l][t], expected[t], expected[t], "norm", l, t);
    }
    for (int s = 0; s < SEQS && st->m->info.task != MOE_TASK_ANSWER; s++)
        for (int t = bounds[s]; t < bounds[s + 1]; t++)
            assert_true((norm[LAST - 1][t] > 0) == (t == bounds[s]));
}

static void norms_of_a_classifiers_margin(void **state)
{
    check_norms(*state);
    set_activation(*state, MOE_ACT_GELU_ERF);
    check_norms(*state);
}

/* DistilBERT's head has relu where BERT's has tanh. */
static void norms_of_a_rectified_head(void **state)
{
    stage *st = *state;
    st->m->weights.pooler_relu = true;
    renew_engine(st);
    check_norms(st);
    st->m->weights.pooler_relu = false;
    renew_engine(st);
}

static void norms_of_many_labels(void **state)
{
    stage *st = *state;
    st->m->info.task = MOE_TASK_MULTI_LABEL;
    check_norms(st);
}

/* The first of the classifier's three outputs alone. */
static void norms_of_a_regression(void **state)
{
    stage *st = *state;
    st->m->info.task = MOE_TASK_REGRESS;
    st->m->info.n_labels = 1;
    st->m->weights.classifier.n = 1;
    renew_engine(st);
    check_norms(st);
}

/* The first two outputs of the classifier on every token: start and end. */
static void norms_of_a_questions_margins(void **state)
{
    stage *st = *state;
    st->m->info.task = MOE_TASK_ANSWER;
    st->m->info.architecture = "BertForQuestionAnswering";
    st->m->info.n_labels = 2;
    st->m->weights.classifier.n = 2;
    st->m->weights.pooler = (moe_linear){.n = 0};
    renew_engine(st);
    check_norms(st);
}

/* ---- threads, and what is refused ---------------------------------------- */

static void the_same_bits_for_any_number_of_workers(void **state)
{
    enum { MANY = 400, LONG = MANY * 40 };
    const stage *st = *state;
    static int32_t at[MANY + 1], many_ids[LONG], many_types[LONG];
    static float norm[3][TINY_LAYERS * LONG];
    for (int i = 0; i < MANY; i++)
        at[i + 1] = at[i] + 1 + i * 7 % 40;
    for (int t = 0; t < at[MANY]; t++)
        many_ids[t] = (t * 17 + 3) % TINY_VOCAB;
    const calibration text = {.n_tokens = at[MANY], .n_seqs = MANY, .cu_seqlens = at,
                              .ids = many_ids, .types = many_types};
    moe_error err;
    for (int i = 0; i < 3; i++) {
        memset(norm[i], 0xff, sizeof norm[i]); /* NaN: what is not written shows */
        assert_int_equal(run_sensitivity(st, &text, 1 + i, NULL, norm[i], &err), MOE_OK);
    }
    assert_memory_equal(norm[0], norm[1], sizeof norm[0]);
    assert_memory_equal(norm[0], norm[2], sizeof norm[0]);
    for (int t = 0; t < TINY_LAYERS * at[MANY]; t++)
        assert_true(isfinite(norm[0][t]));
}

static void an_unknown_family_is_refused(void **state)
{
    stage *st = *state;
    static float norm[TINY_LAYERS * TOKENS];
    moe_error err;
    assert_true(sensitivity_supported(st->m));
    st->m->weights.layers[1].ffn.act = MOE_ACT_TANH;
    assert_false(sensitivity_supported(st->m));
    assert_int_equal(run_sensitivity(st, &st->text, 1, NULL, norm, &err), MOE_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, st->m->info.architecture));
    st->m->weights.layers[1].ffn.act = MOE_ACT_RELU;
    st->m->family = MOE_FAMILY_T5;
    assert_false(sensitivity_supported(st->m));
    st->m->family = MOE_FAMILY_DISTILBERT;
    assert_true(sensitivity_supported(st->m));
    st->m->family = MOE_FAMILY_BERT;
}

/* A NaN of the classifier is in no row between the layers. */
static void a_gradient_that_is_not_finite_is_named(void **state)
{
    stage *st = *state;
    static float norm[TINY_LAYERS * TOKENS];
    static _Alignas(64) float weights[D * MOE_LINEAR_PANEL];
    moe_error err;
    moe_linear *classifier = &st->m->weights.classifier;
    const float *whole = classifier->w;
    memcpy(weights, whole, sizeof weights);
    weights[0] = NAN;
    classifier->w = weights;
    const moe_status status = run_sensitivity(st, &st->text, 2, NULL, norm, &err);
    classifier->w = whole;
    assert_int_equal(status, MOE_E_FORMAT);
    assert_string_equal(err.message,
                        "layer 1: the gradient of calibration token 0 is not finite");
}

int main(void)
{
#define WITH_STAGE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        WITH_STAGE(a_layers_gradients_are_its_differences),
        WITH_STAGE(rows_without_a_gradient_pass_attention_only),
        WITH_STAGE(the_gradient_may_be_replaced_in_place_or_not_wanted),
        WITH_STAGE(norms_of_a_classifiers_margin),
        WITH_STAGE(norms_of_a_rectified_head),
        WITH_STAGE(norms_of_many_labels),
        WITH_STAGE(norms_of_a_regression),
        WITH_STAGE(norms_of_a_questions_margins),
        WITH_STAGE(the_same_bits_for_any_number_of_workers),
        WITH_STAGE(an_unknown_family_is_refused),
        WITH_STAGE(a_gradient_that_is_not_finite_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
