/* The engine on real weights: dense logits of the checkpoint in models/ against
 * those of transformers in fp32, on every ISA of this machine; and the promise
 * that a sequence's logits are the same bits in any batch, at any thread count,
 * beside any ratio. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

#include "engine/model/moefied.h"
#include "engine/model/pack.h"
#include "engine/moe.h"
#include "tests/support/sanitized.h"
#include "tests/support/tiny_model.h"

enum {
    MAX_ROWS = 256, MAX_TOKENS = 8192, MAX_LABELS = 3,
    GOLDEN_ROWS = SANITIZED ? 20 : 184, GOLDEN_TOKENS = SANITIZED ? 16 : 512,
    SAME_BITS_ROWS = SANITIZED ? 4 : 24,
};
static const char model_dir[] = "models/minilm-sst2-relu";
static const char golden[] = "tests/data/golden/minilm-sst2-relu.jsonl";
/* Six layers of fp32 in another order of sums; logits are around 3. */
static const double tolerance = 1e-4;

/* Sequences end to end, with what is known or was computed of each. */
typedef struct {
    int n_seqs, cu_seqlens[MAX_ROWS + 1];
    int32_t ids[MAX_TOKENS], types[MAX_TOKENS];
    moe_selection selection[MAX_ROWS];
    float expected[MAX_ROWS][2];
} sequences;

static sequences real, tiny;
static moe_model *model, *tiny_dense, *tiny_moe;

/* ---- making them ------------------------------------------------------------ */

static void take_row(const cJSON *row, sequences *s)
{
    const cJSON *ids = cJSON_GetObjectItem(row, "ids"), *item;
    const cJSON *type = cJSON_GetObjectItem(row, "type_ids")->child;
    const cJSON *logits = cJSON_GetObjectItem(row, "logits");
    int at = s->cu_seqlens[s->n_seqs];
    assert_true(s->n_seqs < MAX_ROWS && at + cJSON_GetArraySize(ids) <= MAX_TOKENS);
    cJSON_ArrayForEach(item, ids) {
        s->ids[at] = item->valueint;
        s->types[at++] = type->valueint;
        type = type->next;
    }
    for (int l = 0; l < 2; l++)
        s->expected[s->n_seqs][l] = (float)cJSON_GetArrayItem(logits, l)->valuedouble;
    s->cu_seqlens[++s->n_seqs] = at;
}

static void read_golden(void)
{
    FILE *f = fopen(golden, "r");
    char *line = NULL;
    size_t room = 0;
    assert_non_null(f);
    while (getline(&line, &room, f) > 0) {
        cJSON *row = cJSON_Parse(line);
        assert_non_null(row);
        if (real.n_seqs < GOLDEN_ROWS &&
            cJSON_GetArraySize(cJSON_GetObjectItem(row, "ids")) <= GOLDEN_TOKENS)
            take_row(row, &real);
        cJSON_Delete(row);
    }
    free(line);
    fclose(f);
    assert_int_equal(real.n_seqs, GOLDEN_ROWS);
}

/* Sequences of 1 to 40 random tokens, with mixed ratios. */
static void make_tiny_sequences(void)
{
    unsigned seed = 7;
    static const double ratios[] = {1, 0.34, 0.5, 0.7, 0.1};
    for (int s = 0; s < 40; s++) {
        int at = tiny.cu_seqlens[s], n = s + 1;
        for (int i = 0; i < n; i++, at++) {
            tiny_draw(&seed, 1);
            tiny.ids[at] = (int32_t)((seed >> 10) % TINY_VOCAB);
            tiny.types[at] = (int32_t)(seed >> 24 & 1);
        }
        tiny.selection[s].ratio = ratios[s % 5];
        tiny.cu_seqlens[s + 1] = at;
    }
    tiny.n_seqs = 40;
}

static int set_up(void **state)
{
    (void)state;
    char dir[2][TINY_PATH];
    moe_error err = {.message = ""};
    read_golden();
    make_tiny_sequences();
    snprintf(dir[0], TINY_PATH, "%s/tiny", getenv("MOE_TMP"));
    snprintf(dir[1], TINY_PATH, "%s/tiny-moe", getenv("MOE_TMP"));
    tiny_model_write(dir[0], 3);
    tiny_moefied_write(dir[1], 3);
    if (moe_model_open(model_dir, &model, &err) || moe_model_open(dir[0], &tiny_dense, &err) ||
        moe_model_open(dir[1], &tiny_moe, &err))
        fail_msg("%s", err.message);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    moe_model_close(model);
    moe_model_close(tiny_dense);
    moe_model_close(tiny_moe);
    return 0;
}

/* ---- running ---------------------------------------------------------------- */

typedef struct { moe_pool *pool; moe_engine *engine; } runner;

/* false: this machine lacks the ISA ("": its best one). */
static bool runner_open(runner *r, const moe_model *m, const char *isa, int n_threads,
                        int chunk_tokens)
{
    moe_error err = {.message = ""};
    moe_engine_options options = {.chunk_tokens = chunk_tokens};
    setenv("MOE_ISA", isa, 1);
    assert_int_equal(moe_pool_create(n_threads, &r->pool, &err), MOE_OK);
    moe_status status = moe_engine_create(m, r->pool, &options, &r->engine, &err);
    setenv("MOE_ISA", "", 1);
    if (status == MOE_OK)
        return true;
    moe_pool_destroy(r->pool);
    if (status != MOE_E_UNSUPPORTED)
        fail_msg("%s", err.message);
    return false;
}

static void runner_close(runner *r)
{
    moe_engine_destroy(r->engine);
    moe_pool_destroy(r->pool);
}

/* Runs sequences [first, first + n) as one batch; logits [n, n_labels]. */
static void forward(runner *r, const sequences *s, int first, int n, bool dense,
                    float *logits)
{
    int cu_seqlens[MAX_ROWS + 1];
    int start = s->cu_seqlens[first];
    moe_error err = {.message = ""};
    for (int i = 0; i <= n; i++)
        cu_seqlens[i] = s->cu_seqlens[first + i] - start;
    moe_batch batch = {.n_seqs = n, .cu_seqlens = cu_seqlens, .token_ids = s->ids + start,
                       .token_types = s->types + start,
                       .selection = dense ? NULL : s->selection + first};
    if (moe_forward(r->engine, &batch, &(moe_output){.logits = logits}, &err) != MOE_OK)
        fail_msg("%s", err.message);
}

/* ---- against transformers --------------------------------------------------- */

static void assert_golden_on(const char *isa)
{
    runner r;
    static float logits[MAX_ROWS][2];
    double worst = 0;
    if (!runner_open(&r, model, isa, 2, 0)) {
        print_message("this machine has no %s\n", isa);
        skip();
    }
    assert_string_equal(moe_engine_isa(r.engine), isa);
    forward(&r, &real, 0, real.n_seqs, true, &logits[0][0]);
    runner_close(&r);
    for (int s = 0; s < real.n_seqs; s++)
        for (int l = 0; l < 2; l++) {
            double difference = fabs((double)logits[s][l] - real.expected[s][l]);
            if (!(difference <= tolerance)) /* NaN too */
                fail_msg("row %d, logit %d: %.6f, transformers has %.6f", s + 1, l,
                         logits[s][l], real.expected[s][l]);
            worst = fmax(worst, difference);
        }
    print_message("%s: worst difference %.2g\n", isa, worst);
}

static void plain_c_gives_the_logits_of_transformers(void **state)
{
    (void)state;
    assert_golden_on("c");
}

static void avx2_gives_the_logits_of_transformers(void **state)
{
    (void)state;
    assert_golden_on("avx2");
}

static void avx512_gives_the_logits_of_transformers(void **state)
{
    (void)state;
    assert_golden_on("avx512");
}

/* ---- the same bits ---------------------------------------------------------- */

/* Whether all sequences in one batch and each alone give the reference's bits, on
 * an engine of n_threads. */
static void assert_same_bits(const moe_model *m, const sequences *s, const char *isa,
                             int n_threads, int chunk_tokens, const float *reference)
{
    runner r;
    static float together[MAX_ROWS * MAX_LABELS];
    float alone[MAX_LABELS];
    size_t n_labels = (size_t)moe_model_describe(m)->n_labels;
    assert_true(runner_open(&r, m, isa, n_threads, chunk_tokens));
    forward(&r, s, 0, s->n_seqs, false, together);
    assert_memory_equal(together, reference, (size_t)s->n_seqs * n_labels * sizeof(float));
    for (int i = 0; i < s->n_seqs; i++) {
        forward(&r, s, i, 1, false, alone);
        if (memcmp(alone, reference + (size_t)i * n_labels, n_labels * sizeof(float)))
            fail_msg("%s, %d threads: sequence %d of %d tokens differs when alone", isa,
                     n_threads, i, s->cu_seqlens[i + 1] - s->cu_seqlens[i]);
    }
    runner_close(&r);
}

static void assert_deterministic(const moe_model *m, const sequences *s, const char *isa,
                                 int chunk_tokens)
{
    runner r;
    static float reference[MAX_ROWS * MAX_LABELS];
    if (!runner_open(&r, m, isa, 1, 0))
        return;
    forward(&r, s, 0, s->n_seqs, false, reference);
    runner_close(&r);
    for (int n_threads = 1; n_threads <= 3; n_threads++)
        assert_same_bits(m, s, isa, n_threads, chunk_tokens, reference);
}

static void a_routed_model_gives_the_same_bits_in_any_batch_on_any_threads(void **state)
{
    (void)state;
    static const char *const isas[] = {"c", "avx2", "avx512"};
    for (int i = 0; i < 3; i++)
        assert_deterministic(tiny_moe, &tiny, isas[i], 64);
}

/* The first rows with every fourth dense, experts by their true mass. */
static void real_weights_give_the_same_bits_in_any_batch_on_any_threads(void **state)
{
    (void)state;
    static const double ratios[] = {1, 0.25, 0.5, 0.125};
    sequences *some = malloc(sizeof *some);
    assert_non_null(some);
    *some = real;
    some->n_seqs = SAME_BITS_ROWS;
    for (int s = 0; s < some->n_seqs; s++)
        some->selection[s] = (moe_selection){ratios[s % 4], MOE_SELECT_ORACLE};
    assert_deterministic(model, some, "", 0);
    free(some);
}

/* ---- MoEfied and dense ------------------------------------------------------ */

static void a_moefied_model_at_ratio_1_is_the_dense_one(void **state)
{
    (void)state;
    runner moe, dense;
    static float a[MAX_ROWS * MAX_LABELS], b[MAX_ROWS * MAX_LABELS];
    double sparse_difference = 0;
    assert_true(runner_open(&moe, tiny_moe, "", 2, 0));
    assert_true(runner_open(&dense, tiny_dense, "", 2, 0));
    forward(&dense, &tiny, 0, tiny.n_seqs, true, a);
    forward(&moe, &tiny, 0, tiny.n_seqs, true, b);
    for (int i = 0; i < tiny.n_seqs * TINY_LABELS; i++)
        assert_true(fabs((double)a[i] - b[i]) <= tolerance);
    forward(&moe, &tiny, 0, tiny.n_seqs, false, b);
    for (int i = 0; i < tiny.n_seqs * TINY_LABELS; i++)
        sparse_difference = fmax(sparse_difference, fabs((double)a[i] - b[i]));
    assert_true(sparse_difference > 0.01); /* else the ratios did nothing */
    runner_close(&moe);
    runner_close(&dense);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_c_gives_the_logits_of_transformers),
        cmocka_unit_test(avx2_gives_the_logits_of_transformers),
        cmocka_unit_test(avx512_gives_the_logits_of_transformers),
        cmocka_unit_test(a_routed_model_gives_the_same_bits_in_any_batch_on_any_threads),
        cmocka_unit_test(real_weights_give_the_same_bits_in_any_batch_on_any_threads),
        cmocka_unit_test(a_moefied_model_at_ratio_1_is_the_dense_one),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
