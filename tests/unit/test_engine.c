/* The engine against a plain reference in double precision, on a small random
 * model built in memory: d 48, 4 heads, 2 layers, d_ff 80 (not a multiple of 32),
 * 3 labels. The selector "frequency" gives every token the same known experts,
 * so that the reference can compute the sparse model too. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "engine/model/model.h"
#include "engine/model/pack.h"

enum { D = 48, HEADS = 4, LAYERS = 2, D_FF = 80, EXPERTS = 3, VOCAB = 50,
       POSITIONS = 40, LABELS = 3 };

/* ---- a random model, plain and packed --------------------------------- */

typedef struct {
    float qkv[3 * D * D], qkv_b[3 * D], out[D * D], out_b[D];
    float w1[D_FF * D], b1[D_FF], w2[D * D_FF], b2[D];
    float g1[D], h1[D], g2[D], h2[D];
    float frequency[EXPERTS];
} plain_layer;

static struct {
    float words[VOCAB * D], positions[POSITIONS * D], types[2 * D], g[D], h[D];
    plain_layer layer[LAYERS];
    float pooler[D * D], pooler_b[D], head[LABELS * D], head_b[LABELS];
} plain;

static moe_layer layers[LAYERS];
static moe_model model;
static unsigned state_of_random = 12345;

static float uniform(float scale)
{
    state_of_random = state_of_random * 1664525u + 1013904223u;
    return ((float)(state_of_random >> 8) / (1 << 23) - 1) * scale;
}

static void randomise(float *x, size_t n, float scale, float offset)
{
    for (size_t i = 0; i < n; i++)
        x[i] = uniform(scale) + offset;
}

static float *packed_alloc(size_t n)
{
    float *p = aligned_alloc(64, (n * sizeof *p + 63) / 64 * 64);
    assert_non_null(p);
    return p;
}

static moe_linear linear(const float *rows, const float *bias, int n, int k)
{
    float *packed = packed_alloc(pack_linear_floats(n, k));
    pack_linear(rows, n, k, packed);
    return (moe_linear){.n = n, .k = k, .w = packed, .b = bias};
}

static moe_ffn ffn(const plain_layer *p)
{
    float *w1 = packed_alloc((size_t)EXPERTS * D * 32);
    float *b1 = packed_alloc(EXPERTS * 32);
    float *w2 = packed_alloc(pack_w2_floats(EXPERTS, D));
    pack_w1(p->w1, D_FF, D, EXPERTS, NULL, w1);
    pack_b1(p->b1, D_FF, EXPERTS, NULL, b1);
    pack_w2(p->w2, D_FF, D, EXPERTS, NULL, w2);
    return (moe_ffn){.d = D, .n_experts = EXPERTS, .d_ff = D_FF, .act = MOE_ACT_RELU,
                     .w1 = w1, .b1 = b1, .w2 = w2, .b2 = p->b2};
}

static void make_layer(plain_layer *p, moe_layer *out, int index)
{
    randomise(p->qkv, 3 * D * D, 0.3f, 0);
    randomise(p->qkv_b, 3 * D, 0.1f, 0);
    randomise(p->out, D * D, 0.2f, 0);
    randomise(p->out_b, D, 0.1f, 0);
    randomise(p->w1, D_FF * D, 0.3f, 0);
    randomise(p->b1, D_FF, 0.2f, 0);
    randomise(p->w2, D * D_FF, 0.3f, 0);
    randomise(p->b2, D, 0.1f, 0);
    randomise(p->g1, D, 0.3f, 1);
    randomise(p->h1, D, 0.1f, 0);
    randomise(p->g2, D, 0.3f, 1);
    randomise(p->h2, D, 0.1f, 0);
    /* Experts in the order 2, 0, 1 in layer 0 and 1, 2, 0 in layer 1. */
    static const float order[LAYERS][EXPERTS] = {{0.3f, 0.2f, 0.5f}, {0.1f, 0.6f, 0.3f}};
    memcpy(p->frequency, order[index], sizeof p->frequency);
    *out = (moe_layer){
        .qkv = linear(p->qkv, p->qkv_b, 3 * D, D),
        .attention_out = linear(p->out, p->out_b, D, D),
        .attention_norm = {D, 1e-12f, p->g1, p->h1},
        .ffn = ffn(p),
        .router = {.frequency = p->frequency},
        .ffn_norm = {D, 1e-12f, p->g2, p->h2},
    };
}

static int make_model(void **state)
{
    (void)state;
    randomise(plain.words, VOCAB * D, 1, 0);
    randomise(plain.positions, POSITIONS * D, 0.3f, 0);
    randomise(plain.types, 2 * D, 0.3f, 0);
    randomise(plain.g, D, 0.2f, 1);
    randomise(plain.h, D, 0.1f, 0);
    for (int l = 0; l < LAYERS; l++)
        make_layer(&plain.layer[l], &layers[l], l);
    randomise(plain.pooler, D * D, 0.3f, 0);
    randomise(plain.pooler_b, D, 0.1f, 0);
    randomise(plain.head, LABELS * D, 0.5f, 0);
    randomise(plain.head_b, LABELS, 0.1f, 0);
    model = (moe_model){
        .info = {.n_layers = LAYERS, .d_model = D, .n_heads = HEADS, .d_ff = D_FF,
                 .n_vocab = VOCAB, .max_tokens = POSITIONS, .n_labels = LABELS,
                 .n_experts = EXPERTS, .expert_size = 32, .moefied = true},
        .weights = {.words = {VOCAB, D, MOE_F32, plain.words},
                    .positions = {POSITIONS, D, MOE_F32, plain.positions},
                    .types = {2, D, MOE_F32, plain.types},
                    .embed_norm = {D, 1e-12f, plain.g, plain.h},
                    .n_layers = LAYERS, .layers = layers,
                    .pooler = linear(plain.pooler, plain.pooler_b, D, D),
                    .classifier = linear(plain.head, plain.head_b, LABELS, D)},
        .attention_scale = 1 / sqrtf((float)D / HEADS),
    };
    return 0;
}

static int free_model(void **state)
{
    (void)state;
    for (int l = 0; l < LAYERS; l++) {
        free((void *)layers[l].qkv.w);
        free((void *)layers[l].attention_out.w);
        free((void *)layers[l].ffn.w1);
        free((void *)layers[l].ffn.b1);
        free((void *)layers[l].ffn.w2);
    }
    free((void *)model.weights.pooler.w);
    free((void *)model.weights.classifier.w);
    return 0;
}

/* ---- the reference ----------------------------------------------------- */

static void ref_linear(const float *w, const float *b, int n, int k, const double *x,
                       double *y)
{
    for (int j = 0; j < n; j++) {
        y[j] = b[j];
        for (int i = 0; i < k; i++)
            y[j] += w[j * k + i] * x[i];
    }
}

static void ref_norm(const float *g, const float *h, double *x)
{
    double mean = 0, var = 0;
    for (int i = 0; i < D; i++)
        mean += x[i] / D;
    for (int i = 0; i < D; i++)
        var += (x[i] - mean) * (x[i] - mean) / D;
    for (int i = 0; i < D; i++)
        x[i] = (x[i] - mean) / sqrt(var + 1e-12) * g[i] + h[i];
}

static void ref_attention(double (*qkv)[3 * D], int n, double (*y)[D])
{
    int width = D / HEADS;
    for (int h = 0; h < HEADS; h++)
        for (int i = 0; i < n; i++) {
            double p[POSITIONS], top = -1e300, sum = 0;
            for (int j = 0; j < n; j++) {
                p[j] = 0;
                for (int c = h * width; c < (h + 1) * width; c++)
                    p[j] += qkv[i][c] * qkv[j][D + c] / sqrt(width);
                top = fmax(top, p[j]);
            }
            for (int j = 0; j < n; j++)
                sum += p[j] = exp(p[j] - top);
            for (int c = h * width; c < (h + 1) * width; c++) {
                y[i][c] = 0;
                for (int j = 0; j < n; j++)
                    y[i][c] += p[j] / sum * qkv[j][2 * D + c];
            }
        }
}

/* selected[e]: whether expert e counts. */
static void ref_ffn(const plain_layer *p, const bool *selected, const double *x, double *y)
{
    double h[D_FF];
    ref_linear(p->w1, p->b1, D_FF, D, x, h);
    for (int i = 0; i < D_FF; i++)
        h[i] = selected[i / 32] ? fmax(h[i], 0) : 0;
    ref_linear(p->w2, p->b2, D, D_FF, h, y);
}

static void ref_layer(const plain_layer *p, const bool *selected, int n, double (*x)[D])
{
    static double qkv[POSITIONS][3 * D], y[POSITIONS][D];
    double z[D];
    for (int t = 0; t < n; t++)
        ref_linear(p->qkv, p->qkv_b, 3 * D, D, x[t], qkv[t]);
    ref_attention(qkv, n, y);
    for (int t = 0; t < n; t++) {
        ref_linear(p->out, p->out_b, D, D, y[t], z);
        for (int i = 0; i < D; i++)
            x[t][i] += z[i];
        ref_norm(p->g1, p->h1, x[t]);
        ref_ffn(p, selected, x[t], z);
        for (int i = 0; i < D; i++)
            x[t][i] += z[i];
        ref_norm(p->g2, p->h2, x[t]);
    }
}

/* k: experts of every layer, by falling frequency. */
static void ref_forward(const int32_t *ids, const int32_t *types, int n, int k, double *logits)
{
    static const int rank[LAYERS][EXPERTS] = {{1, 2, 0}, {2, 0, 1}};
    static double x[POSITIONS][D];
    double pooled[D];
    for (int t = 0; t < n; t++) {
        for (int i = 0; i < D; i++)
            x[t][i] = (double)plain.words[ids[t] * D + i] + plain.positions[t * D + i] +
                      plain.types[(types ? types[t] : 0) * D + i];
        ref_norm(plain.g, plain.h, x[t]);
    }
    for (int l = 0; l < LAYERS; l++) {
        bool selected[EXPERTS];
        for (int e = 0; e < EXPERTS; e++)
            selected[e] = rank[l][e] < k;
        ref_layer(&plain.layer[l], selected, n, x);
    }
    ref_linear(plain.pooler, plain.pooler_b, D, D, x[0], pooled);
    for (int i = 0; i < D; i++)
        pooled[i] = tanh(pooled[i]);
    ref_linear(plain.head, plain.head_b, LABELS, D, pooled, logits);
}

/* ---- the tests --------------------------------------------------------- */

enum { SEQS = 5, TOKENS = 1 + 40 + 7 + 13 + 20 };
static const int32_t cu_seqlens[SEQS + 1] = {0, 1, 41, 48, 61, 81};
static int32_t ids[TOKENS], types[TOKENS];
static const double ratios[SEQS] = {1.0 / 3, 1, 2.0 / 3, 1.0 / 3, 1};
static const int ks[SEQS] = {1, 3, 2, 1, 3};

static moe_engine *open_engine(int threads, int chunk_tokens, moe_pool **pool)
{
    moe_error err = {0};
    moe_engine *e;
    moe_engine_options options = {.chunk_tokens = chunk_tokens};
    assert_int_equal(moe_pool_create(threads, pool, &err), MOE_OK);
    assert_int_equal(moe_engine_create(&model, *pool, &options, &e, &err), MOE_OK);
    return e;
}

static void close_engine(moe_engine *e, moe_pool *pool)
{
    moe_engine_destroy(e);
    moe_pool_destroy(pool);
}

static void fill_batch(moe_selection *selection)
{
    for (int t = 0; t < TOKENS; t++) {
        ids[t] = (t * 17 + 3) % VOCAB;
        types[t] = t % 5 == 0;
    }
    for (int s = 0; s < SEQS; s++)
        selection[s] = (moe_selection){ratios[s], MOE_SELECT_FREQUENCY};
}

/* A ragged batch of dense and sparse sequences, alone or in several chunks. */
static void a_mixed_batch_matches_the_reference(void **state)
{
    (void)state;
    moe_selection selection[SEQS];
    float logits[SEQS * LABELS];
    double effective[SEQS], mass[SEQS], want[LABELS];
    moe_pool *pool;
    moe_engine *e = open_engine(2, POSITIONS, &pool);
    fill_batch(selection);
    moe_batch batch = {SEQS, cu_seqlens, ids, types, selection};
    moe_output out = {logits, effective, mass};
    moe_error err = {0};
    assert_int_equal(moe_forward(e, &batch, &out, &err), MOE_OK);
    for (int s = 0; s < SEQS; s++) {
        int at = cu_seqlens[s];
        ref_forward(ids + at, types + at, cu_seqlens[s + 1] - at, ks[s], want);
        for (int i = 0; i < LABELS; i++)
            assert_float_equal(logits[s * LABELS + i], want[i], 2e-5);
        if (ks[s] == EXPERTS) {
            assert_float_equal(effective[s], 1, 0);
            assert_float_equal(mass[s], 1, 0);
        } else {
            assert_true(mass[s] > 0 && mass[s] < 1);
        }
    }
    /* Layer 0 keeps expert 2, of 16 real neurons; layer 1 expert 1, of 32. */
    assert_float_equal(effective[0], (16.0 + 32) / (2 * D_FF), 1e-12);
    assert_float_equal(effective[2], (48.0 + 48) / (2 * D_FF), 1e-12);
    close_engine(e, pool);
}

static void a_sequence_has_the_same_bits_in_any_batch_and_thread_count(void **state)
{
    (void)state;
    moe_selection selection[SEQS];
    float together[SEQS * LABELS], alone[LABELS];
    moe_error err = {0};
    fill_batch(selection);
    for (int s = 0; s < SEQS; s++)
        selection[s].selector = MOE_SELECT_RANDOM;
    for (int threads = 1; threads <= 3; threads++) {
        moe_pool *pool;
        moe_engine *e = open_engine(threads, 4096, &pool);
        moe_batch batch = {SEQS, cu_seqlens, ids, types, selection};
        moe_output out = {.logits = together};
        assert_int_equal(moe_forward(e, &batch, &out, &err), MOE_OK);
        for (int s = 0; s < SEQS; s++) {
            int at = cu_seqlens[s];
            int32_t cu[2] = {0, cu_seqlens[s + 1] - at};
            moe_batch one = {1, cu, ids + at, types + at, selection + s};
            moe_output out_one = {.logits = alone};
            assert_int_equal(moe_forward(e, &one, &out_one, &err), MOE_OK);
            assert_memory_equal(alone, together + s * LABELS, sizeof alone);
        }
        close_engine(e, pool);
    }
}

static void statistics_count_tokens_experts_and_neurons(void **state)
{
    (void)state;
    moe_selection selection[SEQS];
    float logits[SEQS * LABELS];
    uint64_t experts[LAYERS * EXPERTS];
    moe_error err = {0};
    moe_pool *pool;
    moe_engine *e = open_engine(1, 0, &pool);
    fill_batch(selection);
    moe_batch batch = {SEQS, cu_seqlens, ids, types, selection};
    moe_output out = {.logits = logits};
    assert_int_equal(moe_forward(e, &batch, &out, &err), MOE_OK);
    moe_stats_experts(e, experts);
    /* Sparse tokens: 1 + 13 with one expert, 7 with two; the last layer computes the
     * first of each sequence. All of them count as selected or skipped. */
    static const uint64_t want[] = {7, 0, 21, 0, 3, 1};
    for (int i = 0; i < LAYERS * EXPERTS; i++)
        assert_int_equal(experts[i], want[i]);
    moe_stats_totals t = moe_stats_read(e);
    assert_int_equal(t.tokens, 21);
    assert_int_equal(t.last_tokens, 3);
    assert_int_equal(t.dense_tokens, 60);
    assert_int_equal(t.neurons_selected, 60 * 2 * D_FF + 14 * 48 + 7 * 96);
    assert_int_equal(t.neurons_selected + t.neurons_skipped, 81 * 2 * D_FF);
    moe_stats_reset(e);
    assert_int_equal(moe_stats_read(e).tokens, 0);
    moe_stats_experts(e, experts);
    assert_int_equal(experts[2], 0);
    close_engine(e, pool);
}

static void expect_refusal(moe_engine *e, moe_batch batch, const char *word)
{
    float logits[SEQS * LABELS];
    moe_output out = {.logits = logits};
    moe_error err = {0};
    assert_int_equal(moe_forward(e, &batch, &out, &err), MOE_E_ARGUMENT);
    if (!strstr(err.message, word))
        fail_msg("\"%s\" does not name \"%s\"", err.message, word);
}

static void a_batch_out_of_range_is_refused_by_name(void **state)
{
    (void)state;
    int32_t one[] = {0, 1}, empty[] = {0, 0}, late[] = {1, 2}, backward[] = {0, 2, 1};
    int32_t longer[] = {0, POSITIONS + 1}, many[POSITIONS + 1] = {0};
    int32_t id = VOCAB, below = -1, type = 2, fine = 0;
    moe_selection zero = {0, MOE_SELECT_ROUTER}, nan_ratio = {NAN, MOE_SELECT_ROUTER};
    moe_selection mixed[] = {{0.5, MOE_SELECT_ROUTER}, {0.5, MOE_SELECT_RANDOM}};
    int32_t two[] = {0, 1, 2}, two_ids[] = {0, 0};
    moe_pool *pool;
    moe_engine *e = open_engine(1, 0, &pool);
    expect_refusal(e, (moe_batch){1, one, &id, NULL, NULL}, "token id 50");
    expect_refusal(e, (moe_batch){1, one, &below, NULL, NULL}, "token id -1");
    expect_refusal(e, (moe_batch){1, one, &fine, &type, NULL}, "token type 2");
    expect_refusal(e, (moe_batch){1, empty, &fine, NULL, NULL}, "0 tokens");
    expect_refusal(e, (moe_batch){1, longer, many, NULL, NULL}, "41 tokens");
    expect_refusal(e, (moe_batch){1, late, many, NULL, NULL}, "starts at 1");
    expect_refusal(e, (moe_batch){2, backward, many, NULL, NULL}, "-1 tokens");
    expect_refusal(e, (moe_batch){1, one, &fine, NULL, &zero}, "ratio is 0");
    expect_refusal(e, (moe_batch){1, one, &fine, NULL, &nan_ratio}, "ratio is");
    expect_refusal(e, (moe_batch){2, two, two_ids, NULL, mixed}, "selector");
    expect_refusal(e, (moe_batch){-1, one, &fine, NULL, NULL}, "-1 sequences");
    close_engine(e, pool);
}

static void an_empty_batch_is_done_at_once(void **state)
{
    (void)state;
    moe_pool *pool;
    moe_engine *e = open_engine(1, 0, &pool);
    moe_output out = {0};
    moe_error err = {0};
    moe_batch none = {0};
    assert_int_equal(moe_forward(e, &none, &out, &err), MOE_OK);
    close_engine(e, pool);
}

static moe_status stop_at_layer_1(void *ctx, int layer, const float *x, int n_tokens,
                                  moe_error *err)
{
    *(int *)ctx += n_tokens;
    return layer == 1 ? moe_fail(err, MOE_E_IO, "disk full at %g", (double)x[0]) : MOE_OK;
}

static void a_capture_that_fails_ends_the_pass(void **state)
{
    (void)state;
    moe_pool *pool;
    moe_engine *e;
    moe_error err = {0};
    int seen = 0;
    float logits[LABELS];
    int32_t cu[] = {0, 3}, some[] = {1, 2, 3};
    moe_engine_options options = {.capture = stop_at_layer_1, .capture_ctx = &seen};
    assert_int_equal(moe_pool_create(1, &pool, &err), MOE_OK);
    assert_int_equal(moe_engine_create(&model, pool, &options, &e, &err), MOE_OK);
    moe_output out = {.logits = logits};
    assert_int_equal(moe_forward(e, &(moe_batch){1, cu, some, NULL, NULL}, &out, &err),
                     MOE_E_IO);
    assert_int_equal(seen, 6);
    close_engine(e, pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_mixed_batch_matches_the_reference),
        cmocka_unit_test(a_sequence_has_the_same_bits_in_any_batch_and_thread_count),
        cmocka_unit_test(statistics_count_tokens_experts_and_neurons),
        cmocka_unit_test(a_batch_out_of_range_is_refused_by_name),
        cmocka_unit_test(an_empty_batch_is_done_at_once),
        cmocka_unit_test(a_capture_that_fails_ends_the_pass),
    };
    return cmocka_run_group_tests(tests, make_model, free_model);
}
