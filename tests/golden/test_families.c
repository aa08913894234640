/* test_families.c: small random checkpoints of each family of encoders against
 * transformers: token ids, and the logits of every row, of texts that are hard on
 * tokenizers too. */
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

#include "engine/moe.h"
#include "tests/support/command.h"
#include "tests/support/golden_rows.h"
#include "tests/support/sanitized.h"

enum { MAX_ROWS = 256, MAX_TOKENS = 128, ROWS = SANITIZED ? 40 : MAX_ROWS };

/* Two layers of fp32 in another order of sums; the files have five digits. */
static const double tolerance = 1e-4;

typedef struct {
    moe_model *model;
    moe_pool *pool;
    moe_engine *engine;
} runner;

static void runner_open(runner *r, const char *dir)
{
    moe_error err = {.message = ""};
    if (moe_model_open(dir, &r->model, &err) || moe_pool_create(2, &r->pool, &err) ||
        moe_engine_create(r->model, r->pool, NULL, &r->engine, &err))
        fail_msg("%s", err.message);
}

static void runner_close(runner *r)
{
    moe_engine_destroy(r->engine);
    moe_pool_destroy(r->pool);
    moe_model_close(r->model);
}

static moe_text text_of(const cJSON *row)
{
    cJSON *text = cJSON_GetObjectItem(row, "text"), *pair = cJSON_GetObjectItem(row, "text_pair");
    moe_text t = {.text = text->valuestring, .text_bytes = golden_restore_nuls(text->valuestring),
                  .max_tokens = MAX_TOKENS};
    if (pair) {
        t.pair = pair->valuestring;
        t.pair_bytes = golden_restore_nuls(pair->valuestring);
    }
    return t;
}

static void assert_ids(const cJSON *row, const moe_tokens *t, const char *dir, int number)
{
    const cJSON *ids = cJSON_GetObjectItem(row, "ids"), *id;
    int i = 0;
    if (cJSON_GetArraySize(ids) != t->n)
        fail_msg("%s, row %d: %d tokens, expected %d", dir, number, t->n, cJSON_GetArraySize(ids));
    cJSON_ArrayForEach(id, ids) {
        if (t->ids[i] != id->valueint)
            fail_msg("%s, row %d: token %d is %d, expected %d", dir, number, i, (int)t->ids[i],
                     id->valueint);
        i++;
    }
}

/* Values every `step` of `got` are the list's. */
static void assert_values(const cJSON *row, const char *key, const float *got, int step,
                          const char *dir, int number)
{
    const cJSON *list = cJSON_GetObjectItem(row, key), *want;
    int i = 0;
    cJSON_ArrayForEach(want, list) {
        if (!(fabs((double)got[i] - want->valuedouble) <= tolerance))
            fail_msg("%s, row %d: %s %d is %.6f, expected %.6f", dir, number, key, i / step,
                     got[i], want->valuedouble);
        i += step;
    }
    assert_true(i > 0);
}

/* One row through a model. */
static void check_row(runner *r, const cJSON *row, const char *dir, int number)
{
    float logits[2 * MAX_TOKENS];
    moe_error err = {.message = ""};
    moe_tokens t;
    const moe_text text = text_of(row);
    if (moe_tokenize(r->model, &text, &t, &err))
        fail_msg("%s, row %d: %s", dir, number, err.message);
    assert_ids(row, &t, dir, number);
    const int cu_seqlens[] = {0, t.n};
    const moe_batch b = {.n_seqs = 1, .cu_seqlens = cu_seqlens, .token_ids = t.ids,
                         .token_types = t.types};
    if (moe_forward(r->engine, &b, &(moe_output){.logits = logits}, &err))
        fail_msg("%s, row %d: %s", dir, number, err.message);
    if (moe_model_describe(r->model)->task == MOE_TASK_ANSWER) {
        assert_values(row, "start", logits, 2, dir, number);
        assert_values(row, "end", logits + 1, 2, dir, number);
    } else {
        assert_values(row, "logits", logits, 1, dir, number);
    }
    moe_tokens_free(&t);
}

/* The rows of FAMILY/golden.jsonl through the model in dir. */
static void check(const char *family, const char *dir, int least)
{
    static cJSON *rows[MAX_ROWS];
    char path[512];
    runner r;
    snprintf(path, sizeof path, "tests/data/families/%s/golden.jsonl", family);
    int n = golden_read(path, rows, ROWS);
    assert_true(n >= (SANITIZED ? ROWS : least));
    runner_open(&r, dir);
    for (int i = 0; i < n; i++) {
        check_row(&r, rows[i], dir, i + 1);
        cJSON_Delete(rows[i]);
    }
    runner_close(&r);
}

static void check_family(void **state)
{
    char dir[512];
    snprintf(dir, sizeof dir, "tests/data/families/%s", (const char *)*state);
    check(*state, dir, 119);
}

/* ---- what becomes of them ------------------------------------------------------------- */

/* MoEfied, all experts selected are the same network; exported, the same checkpoint. */
static void check_conversion(void **state)
{
    const char *family = *state, *answers = strstr(family, "-qa");
    char dir[2][512];
    snprintf(dir[0], sizeof dir[0], "%s/%s-moe", getenv("MOE_TMP"), family);
    snprintf(dir[1], sizeof dir[1], "%s/%s-dense", getenv("MOE_TMP"), family);
    command_result r = command_run(
        "moefy", "rm -rf '%s' '%s' && \"$P\" convert tests/data/families/%s -o '%s' --calibrate %s "
        "--max-tokens 1500 --threads 2 2>&1 && \"$P\" export '%s' -o '%s' 2>&1", dir[0], dir[1], family,
        dir[0], answers ? "tests/data/squad_few.json" : "tests/data/sst2_calibration.tsv", dir[0],
        dir[1]);
    if (r.code)
        fail_msg("%s: %s%s", family, r.out, r.err);
    command_free(&r);
    check(family, dir[0], 119);
    check(family, dir[1], 119);
}

/* Without tokenizer.json, the files that older checkpoints have. */
static void check_older_files(void **state)
{
    const char *family = *state;
    char dir[512];
    snprintf(dir, sizeof dir, "%s/%s-older", getenv("MOE_TMP"), family);
    command_result r = command_run("moefy", "rm -rf '%s' && cp -r tests/data/families/%s '%s' && "
                                   "rm '%s/tokenizer.json'", dir, family, dir, dir);
    assert_int_equal(r.code, 0);
    command_free(&r);
    check(family, dir, 119);
}

#define FAMILY(test, family) {family ": " #test, test, NULL, NULL, (void *)(uintptr_t)(family)}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FAMILY(check_family, "bert-multilabel-gelu-tanh"),
        FAMILY(check_family, "distilbert-cased-3way"),
        FAMILY(check_family, "distilbert-qa"),
        FAMILY(check_family, "roberta-cls"),
        FAMILY(check_family, "roberta-qa"),
        FAMILY(check_family, "xlm-roberta-cls"),
        FAMILY(check_conversion, "bert-multilabel-gelu-tanh"),
        FAMILY(check_conversion, "distilbert-cased-3way"),
        FAMILY(check_conversion, "distilbert-qa"),
        FAMILY(check_conversion, "roberta-qa"),
        FAMILY(check_conversion, "xlm-roberta-cls"),
        FAMILY(check_older_files, "roberta-cls"),
        FAMILY(check_older_files, "distilbert-cased-3way"),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
