/* T5ForSequenceClassification against transformers in fp32: random weights, ReLU, three
 * decoder layers on two of the encoder, three labels; and what such a model cannot do. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/model/config.h"
#include "engine/moe.h"
#include "tests/support/command.h"
#include "tests/support/golden_rows.h"

#define MODEL "tests/data/t5-classifier"
#define TOKENIZER "tests/data/t5-v1_1-gated-gelu"

enum { MAX_ROWS = 64, MAX_TOKENS = 100, LABELS = 3 };

static char dir[] = "/tmp/moe-test-t5-classifier-XXXXXX";
static moe_model *model;
static moe_pool *pool;
static moe_engine *engine;
static cJSON *rows[MAX_ROWS];
static int n_rows;
static int32_t ids[MAX_ROWS * MAX_TOKENS], cu_seqlens[MAX_ROWS + 1];

static const cJSON *of(const cJSON *row, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(row, key);
}

/* The model's files with the tokenizer's of another checkpoint, which it was made for. */
static void open_model(void)
{
    char command[512];
    moe_error err;
    assert_non_null(mkdtemp(dir));
    snprintf(command, sizeof command, "cp " MODEL "/* " TOKENIZER "/spiece.model "
             TOKENIZER "/tokenizer_config.json %s", dir);
    assert_int_equal(system(command), 0);
    if (moe_model_open(dir, &model, &err) != MOE_OK)
        fail_msg("%s", err.message);
}

static void read_row(int i)
{
    moe_tokens t;
    moe_error err;
    const cJSON *expected = of(rows[i], "ids"), *id;
    const char *text = of(rows[i], "text")->valuestring;
    const moe_text in = {.text = text, .text_bytes = strlen(text)};
    assert_int_equal(moe_tokenize(model, &in, &t, &err), MOE_OK);
    assert_int_equal(t.n, cJSON_GetArraySize(expected));
    assert_true(t.n <= MAX_TOKENS);
    int n = cu_seqlens[i];
    cJSON_ArrayForEach(id, expected) {
        assert_int_equal(t.ids[n - cu_seqlens[i]], id->valueint);
        ids[n++] = id->valueint;
    }
    cu_seqlens[i + 1] = n;
    moe_tokens_free(&t);
}

static int set_up(void **state)
{
    (void)state;
    moe_error err;
    open_model();
    assert_int_equal(moe_pool_create(2, &pool, &err), MOE_OK);
    assert_int_equal(moe_engine_create(model, pool, NULL, &engine, &err), MOE_OK);
    n_rows = golden_read(MODEL "/golden.jsonl", rows, MAX_ROWS);
    assert_true(n_rows >= 30);
    for (int i = 0; i < n_rows; i++)
        read_row(i);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    char command[512];
    for (int i = 0; i < n_rows; i++)
        cJSON_Delete(rows[i]);
    moe_engine_destroy(engine);
    moe_pool_destroy(pool);
    moe_model_close(model);
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

static void forward(int first, int n, const moe_selection *selection, float *logits,
                    double *ratio)
{
    int32_t cu[MAX_ROWS + 1];
    moe_error err;
    for (int i = 0; i <= n; i++)
        cu[i] = cu_seqlens[first + i] - cu_seqlens[first];
    const moe_batch b = {.n_seqs = n, .cu_seqlens = cu, .token_ids = ids + cu_seqlens[first],
                         .selection = selection};
    moe_output out = {.logits = logits, .effective_ratio = ratio};
    if (moe_forward(engine, &b, &out, &err) != MOE_OK)
        fail_msg("%s", err.message);
}

static void logits_are_those_of_transformers(void **state)
{
    (void)state;
    float logits[MAX_ROWS][LABELS];
    forward(0, n_rows, NULL, logits[0], NULL);
    for (int i = 0; i < n_rows; i++)
        for (int k = 0; k < LABELS; k++) {
            double expected = cJSON_GetArrayItem(of(rows[i], "logits"), k)->valuedouble;
            if (!(fabs(logits[i][k] - expected) < 1e-3))
                fail_msg("row %d label %d: %g, expected %g", i, k, (double)logits[i][k], expected);
        }
}

static void logits_are_the_same_bits_alone(void **state)
{
    (void)state;
    float logits[MAX_ROWS][LABELS], alone[LABELS];
    forward(0, n_rows, NULL, logits[0], NULL);
    for (int i = 0; i < n_rows; i += 7) {
        forward(i, 1, NULL, alone, NULL);
        assert_memory_equal(alone, logits[i], sizeof alone);
    }
}

/* A share of the experts, of both halves' tokens alike: the head reads one row, but all
 * rows are computed. */
static void a_ratio_holds_in_both_halves(void **state)
{
    (void)state;
    const moe_selection third = {1.0 / 3, MOE_SELECT_RANDOM, MOE_POLICY_MODEL};
    float dense[LABELS], sparse[LABELS];
    double ratio;
    forward(0, 1, NULL, dense, NULL);
    forward(0, 1, &third, sparse, &ratio);
    assert_true(fabs(ratio - 1.0 / 3) < 1e-9);
    assert_memory_not_equal(dense, sparse, sizeof dense);
}

static void it_says_no_text(void **state)
{
    (void)state;
    int32_t out[4];
    moe_error err;
    moe_decoding each = {.max_new_tokens = 4, .ids = out};
    const moe_batch b = {.n_seqs = 1, .cu_seqlens = cu_seqlens, .token_ids = ids};
    assert_int_equal(moe_model_describe(model)->task, MOE_TASK_CLASSIFY);
    assert_int_equal(moe_decode(engine, &b, &each, NULL, &err), MOE_E_ARGUMENT);
    assert_non_null(strstr(err.message, "has no decoder that says text"));
}

static void it_runs_and_is_not_converted(void **state)
{
    (void)state;
    command_result r = command_run("moefy", "\"$P\" run %s a", dir);
    assert_int_equal(r.code, 0);
    assert_non_null(strstr(r.out, "maybe"));
    assert_null(strstr(r.out, "moefy convert"));
    command_free(&r);
    static const char *const commands[][2] = {
        {"export", ""}, {"convert", "--calibrate tests/data/sst2_calibration.tsv"},
    };
    for (int i = 0; i < 2; i++) {
        r = command_run("moefy", "\"$P\" %s %s -o %s/out %s", commands[i][0], dir, dir,
                        commands[i][1]);
        assert_int_equal(r.code, 1);
        assert_non_null(strstr(r.err, "is a T5ForSequenceClassification, which moefy"));
        command_free(&r);
    }
}

static void expect_refused(const char *architecture, const char *more, const char *why)
{
    char text[1024];
    model_config c;
    moe_error err;
    snprintf(text, sizeof text, "{\"model_type\": \"t5\", \"architectures\": [\"%s\"], "
             "\"d_model\": 8, \"d_kv\": 4, \"num_heads\": 2, \"d_ff\": 32, \"num_layers\": 1, "
             "\"vocab_size\": 10%s}", architecture, more);
    assert_int_equal(config_parse("c.json", text, strlen(text), &c, &err), MOE_E_UNSUPPORTED);
    if (!strstr(err.message, why))
        fail_msg("'%s', expected '%s' in it", err.message, why);
}

static void others_are_refused_with_what_they_give(void **state)
{
    (void)state;
    expect_refused("T5EncoderModel", "", "it gives states, not answers");
    expect_refused("T5ForTokenClassification", "", "its head labels tokens");
    expect_refused("T5ForSequenceClassification", ", \"moefication\": {}",
                   "it has a moefication object");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_those_of_transformers),
        cmocka_unit_test(logits_are_the_same_bits_alone),
        cmocka_unit_test(a_ratio_holds_in_both_halves),
        cmocka_unit_test(it_says_no_text),
        cmocka_unit_test(it_runs_and_is_not_converted),
        cmocka_unit_test(others_are_refused_with_what_they_give),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
