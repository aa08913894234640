/* The policies threshold and sequence within the engine: what is computed against the
 * router's scores worked out again from the captured states, and mixed batches. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "engine/model/model.h"
#include "engine/routing/ratio.h"
#include "tests/support/tiny_model.h"

enum { SEQS = 7, TOKENS = 96 };
static const int32_t cu_seqlens[SEQS + 1] = {0, 1, 41, 48, 61, 81, 85, TOKENS};
static int32_t ids[TOKENS];
static moe_model *dynamic, *counted, *shared; /* defaults threshold, topk, sequence */
static moe_model *bare;                       /* follows topk only */

static const char *in_tmp(const char *name)
{
    static char path[TINY_PATH];
    snprintf(path, sizeof path, "%s/%s", getenv("MOE_TMP"), name);
    return path;
}

static moe_model *open_as(const char *name, const char *moefication)
{
    moe_model *m;
    moe_error err;
    tiny_moefied_write_as(in_tmp(name), 11, moefication);
    if (moe_model_open(in_tmp(name), &m, &err))
        fail_msg("%s", err.message);
    return m;
}

static int set_up(void **state)
{
    (void)state;
    dynamic = open_as("dynamic", TINY_THRESHOLDS("threshold"));
    counted = open_as("counted", TINY_THRESHOLDS("topk"));
    shared = open_as("shared", TINY_MEANS("sequence"));
    bare = open_as("bare", TINY_MOEFICATION);
    for (int t = 0; t < TOKENS; t++)
        ids[t] = (t * 17 + 3) % TINY_VOCAB;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    moe_model_close(dynamic);
    moe_model_close(counted);
    moe_model_close(shared);
    moe_model_close(bare);
    return 0;
}

/* ---- running ----------------------------------------------------------- */

typedef struct {
    moe_pool *pool;
    moe_engine *engine;
} machine;

static machine machine_open(const moe_model *m, int threads, const moe_engine_options *o)
{
    machine out;
    moe_error err;
    assert_int_equal(moe_pool_create(threads, &out.pool, &err), MOE_OK);
    assert_int_equal(moe_engine_create(m, out.pool, o, &out.engine, &err), MOE_OK);
    return out;
}

static void machine_close(machine *m)
{
    moe_engine_destroy(m->engine);
    moe_pool_destroy(m->pool);
}

typedef struct {
    float logits[SEQS * TINY_LABELS];
    double effective[SEQS];
} result;

/* Sequences [first, first + n) with their selections. */
static void run(machine *m, int first, int n, const moe_selection *selection, result *r)
{
    int32_t cu[SEQS + 1];
    for (int s = 0; s <= n; s++)
        cu[s] = cu_seqlens[first + s] - cu_seqlens[first];
    moe_batch batch = {n, cu, ids + cu_seqlens[first], NULL, selection};
    moe_output out = {r->logits, r->effective, NULL};
    moe_error err = {0};
    if (moe_forward(m->engine, &batch, &out, &err))
        fail_msg("%s", err.message);
}

/* All sequences with the same selection. */
static result run_all(const moe_model *model, moe_selection selection)
{
    moe_selection all[SEQS];
    result r;
    machine m = machine_open(model, 1, NULL);
    for (int s = 0; s < SEQS; s++)
        all[s] = selection;
    run(&m, 0, SEQS, all, &r);
    machine_close(&m);
    return r;
}

static bool same(const result *a, const result *b)
{
    /* Field by field: what lies between them is nobody's. */
    return memcmp(a->logits, b->logits, sizeof a->logits) == 0 &&
           memcmp(a->effective, b->effective, sizeof a->effective) == 0;
}

/* ---- the router again ---------------------------------------------------- */

static double weight(const moe_linear *w, int n, int k)
{
    return ((const float *)w->w)[((size_t)(n / MOE_LINEAR_PANEL) * (size_t)w->k + (size_t)k) *
                    MOE_LINEAR_PANEL + (size_t)(n % MOE_LINEAR_PANEL)];
}

static void ref_linear(const moe_linear *w, const double *x, double *y)
{
    for (int n = 0; n < w->n; n++) {
        y[n] = w->b ? (double)w->b[n] : 0;
        for (int k = 0; k < w->k; k++)
            y[n] += weight(w, n, k) * x[k];
    }
}

static void ref_scores(const moe_router *r, const float *x, double *scores)
{
    double in[TINY_D], hidden[TINY_WIDTH], norm = 0;
    for (int i = 0; i < TINY_D; i++)
        norm += (double)x[i] * (double)x[i];
    for (int i = 0; i < TINY_D; i++)
        in[i] = (double)x[i] / sqrt(norm);
    ref_linear(&r->first, in, hidden);
    for (int i = 0; i < TINY_WIDTH; i++)
        hidden[i] = tanh(hidden[i]);
    ref_linear(&r->second, hidden, scores);
}

typedef struct {
    const moe_model *model;
    double ratio;
    uint64_t neurons[SEQS]; /* of each sequence, by the scores */
    int alone, none, all;   /* tokens with one expert, with none, with all */
    int last;               /* experts of the last token counted */
} recount;

static uint64_t real_neurons(const moe_ffn *f, int e)
{
    uint64_t n = 0;
    for (int i = e * MOE_EXPERT_SIZE; i < (e + 1) * MOE_EXPERT_SIZE; i++)
        n += f->neurons ? f->neurons[i] >= 0 : i < f->d_ff;
    return n;
}

static uint64_t count_token(recount *r, const moe_layer *layer, float threshold, const float *x)
{
    double scores[TINY_EXPERTS];
    uint64_t neurons = 0;
    int reach = 0;
    ref_scores(&layer->router, x, scores);
    for (int e = 0; e < TINY_EXPERTS; e++) {
        /* Rounding decides nothing. */
        assert_true(fabs(scores[e] - (double)threshold) > 1e-5);
        neurons += scores[e] >= (double)threshold ? real_neurons(&layer->ffn, e) : 0;
        reach += scores[e] >= (double)threshold;
    }
    r->last = reach;
    r->alone += reach == 1;
    r->none += reach == 0;
    r->all += reach == TINY_EXPERTS;
    return neurons;
}

/* What the table's mean of the last layer leaves to all tokens but the first. */
static uint64_t others_due(const recount *r, int n_tokens)
{
    double mean[TINY_LAYERS];
    if (!ratio_to_means(&r->model->info, r->ratio, mean))
        return 0;
    int due = (int)(mean[TINY_LAYERS - 1] * n_tokens + 0.5) - r->last;
    int neurons = MOE_EXPERT_SIZE * (due < 0 ? 0 : due), most = (n_tokens - 1) * TINY_D_FF;
    return (uint64_t)(neurons < most ? neurons : most);
}

static moe_status recount_layer(void *ctx, int layer, const float *x, int n_tokens,
                                moe_error *err)
{
    recount *r = ctx;
    const moe_layer *w = &r->model->weights.layers[layer];
    float thresholds[TINY_LAYERS];
    (void)err;
    assert_int_equal(n_tokens, TOKENS);
    assert_true(ratio_to_thresholds(&r->model->info, r->ratio, thresholds));
    for (int s = 0; s < SEQS; s++)
        for (int t = cu_seqlens[s]; t < cu_seqlens[s + 1]; t++)
            if (!w->router.present)
                r->neurons[s] += (uint64_t)TINY_D_FF;
            else if (layer < TINY_LAYERS - 1 || t == cu_seqlens[s]) /* the head reads that */
                r->neurons[s] += count_token(r, w, thresholds[layer], x + (size_t)t * TINY_D);
            else if (t == cu_seqlens[s] + 1)
                r->neurons[s] += others_due(r, cu_seqlens[s + 1] - cu_seqlens[s]);
    return MOE_OK;
}

/* Runs everything at the ratio by threshold and compares with the recount. */
static recount expect_recount(const moe_model *model, double ratio)
{
    recount r = {.model = model, .ratio = ratio};
    moe_engine_options options = {.capture = recount_layer, .capture_ctx = &r};
    moe_selection selection[SEQS];
    result got;
    machine m = machine_open(model, 2, &options);
    for (int s = 0; s < SEQS; s++)
        selection[s] = (moe_selection){.ratio = ratio, .policy = MOE_POLICY_THRESHOLD};
    run(&m, 0, SEQS, selection, &got);
    uint64_t sum = 0;
    for (int s = 0; s < SEQS; s++) {
        int n = cu_seqlens[s + 1] - cu_seqlens[s];
        assert_float_equal(got.effective[s],
                           (double)r.neurons[s] / (n * TINY_LAYERS * TINY_D_FF), 1e-12);
        sum += r.neurons[s];
    }
    moe_stats_totals t = moe_stats_read(m.engine);
    assert_int_equal(t.neurons_selected, sum);
    assert_int_equal(t.tokens, TOKENS);
    assert_int_equal(t.dense_tokens, 0);
    machine_close(&m);
    return r;
}

/* ---- the pairs again ----------------------------------------------------- */

typedef struct {
    const moe_model *model;
    double ratio, wanted[SEQS]; /* pairs of the layers so far */
    uint64_t pairs[SEQS], neurons[SEQS], computed;
    int empty, full;            /* tokens with no expert, with all */
} pair_recount;

/* The n best of the pairs of a sequence's first n_tokens, one after the other. */
static void take_best(pair_recount *r, const moe_layer *w, int seq, int n_tokens, const float *x,
                      int n)
{
    static double scores[TOKENS * TINY_EXPERTS];
    int taken[TOKENS] = {0};
    r->computed += (uint64_t)n;
    for (int t = 0; t < n_tokens; t++)
        ref_scores(&w->router, x + (size_t)(cu_seqlens[seq] + t) * TINY_D,
                   scores + t * TINY_EXPERTS);
    double last = INFINITY;
    for (int k = 0; k <= n && k < n_tokens * TINY_EXPERTS; k++) {
        int best = 0;
        for (int i = 1; i < n_tokens * TINY_EXPERTS; i++)
            best = scores[i] > scores[best] ? i : best;
        if (k == n) { /* the first left out: rounding decides nothing */
            assert_true(last - scores[best] > 1e-6);
            break;
        }
        last = scores[best];
        scores[best] = -INFINITY;
        taken[best / TINY_EXPERTS]++;
        r->neurons[seq] += real_neurons(&w->ffn, best % TINY_EXPERTS);
    }
    for (int t = 0; t < n_tokens; t++) {
        r->empty += taken[t] == 0;
        r->full += taken[t] == TINY_EXPERTS;
    }
}

static moe_status recount_pairs(void *ctx, int layer, const float *x, int n_rows,
                                moe_error *err)
{
    pair_recount *r = ctx;
    double mean[TINY_LAYERS];
    (void)err;
    assert_int_equal(n_rows, TOKENS);
    assert_true(ratio_to_means(&r->model->info, r->ratio, mean));
    for (int s = 0; s < SEQS; s++) {
        r->wanted[s] += mean[layer] * (cu_seqlens[s + 1] - cu_seqlens[s]);
        int n = (int)(floor(r->wanted[s] + 0.5) - (double)r->pairs[s]);
        n = n < 1 ? 1 : n;
        r->pairs[s] += (uint64_t)n;
        const moe_layer *w = &r->model->weights.layers[layer];
        int n_tokens = cu_seqlens[s + 1] - cu_seqlens[s];
        int most = layer < TINY_LAYERS - 1 ? n_tokens * TINY_EXPERTS : TINY_EXPERTS;
        int n_computed = n < most ? n : most;
        take_best(r, w, s, layer < TINY_LAYERS - 1 ? n_tokens : 1, x, n_computed);
        /* What is left over in the last layer counts, up to all that there is. */
        int spare = MOE_EXPERT_SIZE * (n - n_computed), others = (n_tokens - 1) * TINY_D_FF;
        r->neurons[s] += (uint64_t)(spare < others ? spare : others);
    }
    return MOE_OK;
}

/* Pairs of a layer computed by the engine since the last reset. */
static uint64_t counted_pairs(const machine *m, int layer)
{
    uint64_t selected[TINY_LAYERS * TINY_EXPERTS], sum = 0;
    moe_stats_experts(m->engine, selected);
    for (int i = 0; i < TINY_EXPERTS; i++)
        sum += selected[layer * TINY_EXPERTS + i];
    return sum;
}

static pair_recount expect_pairs(double ratio)
{
    pair_recount r = {.model = shared, .ratio = ratio};
    moe_engine_options options = {.capture = recount_pairs, .capture_ctx = &r};
    moe_selection selection[SEQS];
    result got;
    machine m = machine_open(shared, 2, &options);
    for (int s = 0; s < SEQS; s++)
        selection[s] = (moe_selection){.ratio = ratio, .policy = MOE_POLICY_SEQUENCE};
    run(&m, 0, SEQS, selection, &got);
    for (int s = 0; s < SEQS; s++) {
        int n = cu_seqlens[s + 1] - cu_seqlens[s];
        assert_float_equal(got.effective[s],
                           (double)r.neurons[s] / (n * TINY_LAYERS * TINY_D_FF), 1e-12);
    }
    assert_int_equal(counted_pairs(&m, 0) + counted_pairs(&m, 1), r.computed);
    machine_close(&m);
    return r;
}

/* ---- the tests --------------------------------------------------------- */

static void what_is_computed_is_what_the_scores_say(void **state)
{
    (void)state;
    recount r = expect_recount(dynamic, 0.36);
    assert_true(r.none > 0 && r.alone > 0); /* the model tests something */
    expect_recount(dynamic, 0.4);
    r = expect_recount(counted, 0.5);
    assert_true(r.alone > 0 && r.all > 0);
    expect_recount(counted, 0.9);
}

static void a_sequence_computes_its_best_pairs(void **state)
{
    (void)state;
    pair_recount r = expect_pairs(0.34);
    assert_true(r.empty > 0 && r.full > 0); /* the model tests something */
    expect_pairs(0.2);
    expect_pairs(0.45);
    expect_pairs(0.8);
}

/* The table's means of layers 0 and 1 in a straight line, as in TINY_MEANS. */
static double asked_pairs(double ratio, int n_tokens)
{
    double t = ratio < 0.5 ? (ratio - 0.34) / 0.16 : (ratio - 0.5) / 0.5;
    double sum = ratio < 0.34 ? ratio / 0.34 * (0.79 + 1.25)
                 : ratio < 0.5 ? (1 - t) * (0.79 + 1.25) + t * (1.3 + 1.7)
                               : (1 - t) * (1.3 + 1.7) + t * (3 + 3);
    return sum * n_tokens;
}

static void a_sequence_computes_what_was_asked_to_half_a_pair(void **state)
{
    (void)state;
    machine m = machine_open(shared, 1, NULL);
    for (int i = 0; i < 60; i++) {
        moe_selection asked = {.ratio = 0.29 + 0.0117 * i};
        for (int s = 0; s < SEQS; s++) {
            result got;
            moe_stats_reset(m.engine);
            run(&m, s, 1, &asked, &got);
            int n = cu_seqlens[s + 1] - cu_seqlens[s];
            double first = (double)counted_pairs(&m, 0), last = (double)counted_pairs(&m, 1);
            double off = first + last - asked_pairs(asked.ratio, n);
            /* The last layer has one token to compute. */
            if (off > 0.5 + 1e-5 || (last < TINY_EXPERTS && off < -0.5 - 1e-5))
                fail_msg("ratio %g, %d tokens: %g pairs off", asked.ratio, n, off);
        }
    }
    machine_close(&m);
}

/* Thresholds that nothing reaches: only biases are left, and no mass. */
static void a_model_may_compute_no_expert_at_all(void **state)
{
    (void)state;
    moe_model *m = open_as("empty", TINY_MOEFICATION_OF("", ",\"thresholds\":[9,9]",
                           ",\"thresholds\":[9,9]", ",\"thresholds\":[0,0]"));
    machine one = machine_open(m, 1, NULL), three = machine_open(m, 3, NULL);
    moe_selection selection[SEQS];
    result a = {0}, b = {0};
    double mass[SEQS];
    for (int s = 0; s < SEQS; s++) /* the third and the last are dense */
        selection[s] = (moe_selection){.ratio = s == 2 || s == SEQS - 1 ? 1 : 0.5,
                                       .policy = MOE_POLICY_THRESHOLD};
    moe_batch batch = {SEQS, cu_seqlens, ids, NULL, selection};
    moe_output out = {b.logits, b.effective, mass};
    run(&one, 0, SEQS, selection, &a);
    assert_int_equal(moe_forward(three.engine, &batch, &out, NULL), MOE_OK);
    assert_true(same(&a, &b));
    uint64_t selected[TINY_LAYERS * TINY_EXPERTS];
    moe_stats_experts(one.engine, selected);
    for (int s = 0; s < SEQS; s++) {
        assert_true(a.effective[s] == (selection[s].ratio < 1 ? 0 : 1));
        assert_true(mass[s] == a.effective[s]);
        run(&three, s, 1, selection + s, &b);
        assert_memory_equal(b.logits, a.logits + s * TINY_LABELS, TINY_LABELS * sizeof(float));
        assert_true(b.effective[0] == a.effective[s]);
    }
    for (int i = 0; i < TINY_LAYERS * TINY_EXPERTS; i++)
        assert_int_equal(selected[i], 0);
    machine_close(&one);
    machine_close(&three);
    moe_model_close(m);
}

static void a_layer_without_a_router_stays_dense(void **state)
{
    (void)state;
    static tiny_moefied t;
    moe_model *m;
    moe_error err;
    char path[2 * TINY_PATH];
    tiny_moefied_make(&t, 11);
    t.layers[1].router.present = false;
    tiny_write_vocab(in_tmp("half"));
    tiny_write_config(in_tmp("half"),
        "{\"format_version\":1,\"expert_size\":32,\"n_experts\":3,\"dtype\":\"f32\","
        "\"split\":\"s\",\"router\":{\"kind\":\"mlp\",\"normalize\":true,\"linears\":2,"
        "\"width\":10},\"layers\":[0],\"ratio_table\":["
        "{\"ratio\":0.5,\"experts\":[1,3],\"thresholds\":[0.2,9]},"
        "{\"ratio\":1,\"experts\":[3,3],\"thresholds\":[-1,9]}]}");
    snprintf(path, sizeof path, "%s/model.safetensors", in_tmp("half"));
    assert_int_equal(moefied_write_tensors(path, &t.w, &err), MOE_OK);
    assert_int_equal(moe_model_open(in_tmp("half"), &m, &err), MOE_OK);
    assert_true(expect_recount(m, 0.5).alone > 0);
    moe_model_close(m);
    tiny_moefied_free(&t);
}

/* Every mix of policies and ratios, in any number of threads and chunks. */
static void a_sequence_has_the_same_bits_in_a_mixed_batch_as_alone(void **state)
{
    (void)state;
    static const double ratios[] = {0.34, 0.5, 0.2, 1, 0.7, 0.4, 0.34};
    static const moe_policy policies[] = {MOE_POLICY_THRESHOLD, MOE_POLICY_TOPK,
                                          MOE_POLICY_SEQUENCE, MOE_POLICY_MODEL};
    moe_selection selection[SEQS];
    result first = {0};
    for (int s = 0; s < SEQS; s++)
        selection[s] = (moe_selection){.ratio = ratios[s], .policy = policies[s % 4]};
    for (int threads = 1; threads <= 3; threads++) {
        moe_engine_options small = {.chunk_tokens = TINY_POSITIONS};
        machine m = machine_open(shared, threads, threads == 2 ? &small : NULL);
        result together = {0}, alone;
        run(&m, 0, SEQS, selection, &together);
        for (int s = 0; s < SEQS; s++) {
            run(&m, s, 1, selection + s, &alone);
            assert_memory_equal(alone.logits, together.logits + s * TINY_LABELS,
                                TINY_LABELS * sizeof(float));
            assert_true(alone.effective[0] == together.effective[s]);
        }
        first = threads == 1 ? together : first;
        assert_true(same(&first, &together));
        machine_close(&m);
    }
}

static void the_models_policy_holds_unless_told(void **state)
{
    (void)state;
    moe_selection as_model = {.ratio = 0.5}, topk = {.ratio = 0.5, .policy = MOE_POLICY_TOPK},
                  threshold = {.ratio = 0.5, .policy = MOE_POLICY_THRESHOLD};
    result by_count = run_all(dynamic, topk), by_threshold = run_all(dynamic, threshold);
    assert_false(same(&by_count, &by_threshold));
    result r = run_all(dynamic, as_model);
    assert_true(same(&r, &by_threshold));
    r = run_all(counted, as_model);
    assert_true(same(&r, &by_count));
    r = run_all(counted, threshold);
    assert_true(same(&r, &by_threshold));
    r = run_all(bare, as_model);
    assert_true(same(&r, &by_count));
    moe_selection sequence = {.ratio = 0.5, .policy = MOE_POLICY_SEQUENCE};
    result by_pairs = run_all(shared, sequence);
    assert_false(same(&by_pairs, &by_count) || same(&by_pairs, &by_threshold));
    r = run_all(shared, as_model);
    assert_true(same(&r, &by_pairs));
    r = run_all(shared, threshold); /* effective ratios differ: this one's table has means */
    assert_memory_equal(r.logits, by_threshold.logits, sizeof r.logits);
}

/* Not all experts pass the last row's thresholds, but ratio 1 does not use them. */
static void where_a_policy_does_not_hold_counts_do(void **state)
{
    (void)state;
    const moe_selection pairs[][2] = {
        {{0.2, MOE_SELECT_ROUTER, MOE_POLICY_THRESHOLD}, {0.2, MOE_SELECT_ROUTER, MOE_POLICY_TOPK}},
        {{1, MOE_SELECT_ROUTER, MOE_POLICY_THRESHOLD}, {1, MOE_SELECT_ROUTER, MOE_POLICY_TOPK}},
        {{1, MOE_SELECT_ROUTER, MOE_POLICY_SEQUENCE}, {1, MOE_SELECT_ROUTER, MOE_POLICY_TOPK}},
        {{0.5, MOE_SELECT_ORACLE, MOE_POLICY_THRESHOLD}, {0.5, MOE_SELECT_ORACLE, MOE_POLICY_TOPK}},
        {{0.5, MOE_SELECT_ORACLE, MOE_POLICY_SEQUENCE}, {0.5, MOE_SELECT_ORACLE, MOE_POLICY_TOPK}},
        {{0.5, MOE_SELECT_RANDOM, MOE_POLICY_MODEL}, {0.5, MOE_SELECT_RANDOM, MOE_POLICY_TOPK}},
        {{0.5, MOE_SELECT_FREQUENCY, MOE_POLICY_MODEL}, {0.5, MOE_SELECT_FREQUENCY, MOE_POLICY_TOPK}},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        result a = run_all(shared, pairs[i][0]), b = run_all(shared, pairs[i][1]);
        if (!same(&a, &b))
            fail_msg("pair %zu differs", i);
    }
    result dense = run_all(shared, pairs[1][0]);
    for (int s = 0; s < SEQS; s++)
        assert_true(dense.effective[s] == 1);
}

static void expect_refusal(const moe_model *model, moe_policy policy, const char *message)
{
    moe_selection two[] = {{.ratio = 0.5}, {.ratio = 0.5, .policy = policy}};
    float logits[2 * TINY_LABELS];
    int32_t cu[] = {0, 1, 2};
    moe_batch batch = {2, cu, ids, NULL, two};
    moe_output out = {.logits = logits};
    moe_error err = {0};
    machine m = machine_open(model, 1, NULL);
    assert_int_equal(moe_forward(m.engine, &batch, &out, &err), MOE_E_ARGUMENT);
    assert_string_equal(err.message, message);
    machine_close(&m);
}

static void a_policy_that_a_model_lacks_is_refused(void **state)
{
    (void)state;
    expect_refusal(bare, MOE_POLICY_THRESHOLD,
                   "sequence 1: policy threshold, but the model has no thresholds");
    expect_refusal(dynamic, MOE_POLICY_SEQUENCE,
                   "sequence 1: policy sequence, but the model has no mean_experts");
    expect_refusal(dynamic, (moe_policy)4, "sequence 1: policy 4, expected 0 to 3");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_computed_is_what_the_scores_say),
        cmocka_unit_test(a_sequence_computes_its_best_pairs),
        cmocka_unit_test(a_sequence_computes_what_was_asked_to_half_a_pair),
        cmocka_unit_test(a_model_may_compute_no_expert_at_all),
        cmocka_unit_test(a_layer_without_a_router_stays_dense),
        cmocka_unit_test(a_sequence_has_the_same_bits_in_a_mixed_batch_as_alone),
        cmocka_unit_test(the_models_policy_holds_unless_told),
        cmocka_unit_test(where_a_policy_does_not_hold_counts_do),
        cmocka_unit_test(a_policy_that_a_model_lacks_is_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
