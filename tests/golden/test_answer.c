/* Extractive question answering on real weights against Hugging Face's pipeline: the
 * windows' tokens, their logits, and its answers by defaults, the three best, and with
 * "no answer" allowed. Then what the pipeline does not say: bounds and bad arguments. */
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
#include "tests/support/sanitized.h"

static const char model_dir[] = "models/minilm-squad-relu";
static const char golden[] = "tests/data/golden/minilm-squad-relu.jsonl";
enum { MAX_WINDOWS = 8, MAX_LOGITS = 2 * 384 * MAX_WINDOWS, ROWS = 25,
       STEP = SANITIZED ? 7 : 1 /* every so manieth row */ };

static moe_model *model;
static moe_pool *pool;
static moe_engine *engine;

static int set_up(void **state)
{
    moe_error err = {.message = ""};
    (void)state;
    if (moe_model_open(model_dir, &model, &err) || moe_pool_create(2, &pool, &err) ||
        moe_engine_create(model, pool, NULL, &engine, &err))
        fail_msg("%s", err.message);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    moe_engine_destroy(engine);
    moe_pool_destroy(pool);
    moe_model_close(model);
    return 0;
}

static moe_question ask(const char *question, const char *context)
{
    return (moe_question){.question = question, .question_bytes = strlen(question),
                          .context = context, .context_bytes = strlen(context)};
}

static const char *string_of(const cJSON *row, const char *key)
{
    return cJSON_GetObjectItem(row, key)->valuestring;
}

/* ---- against the pipeline ------------------------------------------------------ */

/* All windows in one batch; row [n]: where each one's logits begin. */
static void forward(const moe_windows *w, float *logits, const float **row)
{
    static int32_t cu_seqlens[MAX_WINDOWS + 1], ids[MAX_LOGITS], types[MAX_LOGITS];
    moe_error err = {.message = ""};
    assert_true(w->n <= MAX_WINDOWS);
    for (int i = 0; i < w->n; i++) {
        const moe_tokens *t = &w->windows[i];
        int at = cu_seqlens[i];
        memcpy(ids + at, t->ids, (size_t)t->n * sizeof *ids);
        memcpy(types + at, t->types, (size_t)t->n * sizeof *types);
        cu_seqlens[i + 1] = at + t->n;
        row[i] = logits + 2 * at;
    }
    moe_batch b = {.n_seqs = w->n, .cu_seqlens = cu_seqlens, .token_ids = ids,
                   .token_types = types};
    if (moe_forward(engine, &b, &(moe_output){.logits = logits}, &err) != MOE_OK)
        fail_msg("%s", err.message);
}

static void expect_windows(const cJSON *row, const moe_windows *w, const float *const *logits)
{
    const cJSON *list = cJSON_GetObjectItem(row, "windows"), *window;
    static const char *const part[] = {"start", "end"};
    int i = 0;
    assert_int_equal(w->n, cJSON_GetArraySize(list));
    cJSON_ArrayForEach(window, list) {
        const cJSON *ids = cJSON_GetObjectItem(window, "ids"), *item;
        int t = 0;
        assert_int_equal(w->windows[i].n, cJSON_GetArraySize(ids));
        cJSON_ArrayForEach(item, ids)
            assert_int_equal(w->windows[i].ids[t++], item->valueint);
        for (int p = 0; p < 2; p++) {
            t = 0;
            cJSON_ArrayForEach(item, cJSON_GetObjectItem(window, part[p]))
                assert_float_equal(logits[i][2 * t++ + p], item->valuedouble, 1e-3);
        }
        i++;
    }
}

static void expect_answer(const char *context, const cJSON *want, const moe_answer *got)
{
    const char *text = string_of(want, "answer");
    size_t n = got->end_byte - got->first_byte;
    if (got->start != cJSON_GetObjectItem(want, "start")->valueint ||
        got->end != cJSON_GetObjectItem(want, "end")->valueint || strlen(text) != n ||
        memcmp(context + got->first_byte, text, n) != 0 ||
        fabs(got->score - cJSON_GetObjectItem(want, "score")->valuedouble) > 1e-3)
        fail_msg("expected '%s' at %d with %g, found '%.*s' at %d with %g", text,
                 cJSON_GetObjectItem(want, "start")->valueint,
                 cJSON_GetObjectItem(want, "score")->valuedouble, (int)n,
                 context + got->first_byte, got->start, got->score);
}

/* want: an answer or a list of them. */
static void expect_answers(const moe_question *q, const moe_windows *w,
                           const float *const *logits, moe_answer_options o,
                           const cJSON *want)
{
    moe_answer got[3];
    int n = moe_answers_find(model, q, w, logits, &o, got);
    if (!cJSON_IsArray(want)) {
        assert_int_equal(n, 1);
        expect_answer(q->context, want, got);
        return;
    }
    assert_int_equal(n, cJSON_GetArraySize(want));
    for (int i = 0; i < n; i++)
        expect_answer(q->context, cJSON_GetArrayItem(want, i), &got[i]);
}

static void check_row(const cJSON *row)
{
    static float logits[MAX_LOGITS];
    const float *of_window[MAX_WINDOWS];
    moe_question q = ask(string_of(row, "question"), string_of(row, "context"));
    moe_windows w;
    moe_error err = {.message = ""};
    if (moe_windows_make(model, &q, &w, &err) != MOE_OK)
        fail_msg("%s", err.message);
    forward(&w, logits, of_window);
    expect_windows(row, &w, of_window);
    expect_answers(&q, &w, of_window, (moe_answer_options){0}, cJSON_GetObjectItem(row, "answer"));
    expect_answers(&q, &w, of_window, (moe_answer_options){.top_k = 3},
                   cJSON_GetObjectItem(row, "top3"));
    expect_answers(&q, &w, of_window, (moe_answer_options){.allow_none = true},
                   cJSON_GetObjectItem(row, "impossible_ok"));
    moe_windows_free(&w);
}

static void answers_are_the_pipelines(void **state)
{
    FILE *f = fopen(golden, "r");
    char *line = NULL;
    size_t room = 0;
    int n = 0;
    (void)state;
    assert_non_null(f);
    for (; getline(&line, &room, f) > 0; n++) {
        cJSON *row = cJSON_Parse(line);
        assert_non_null(row);
        if (n % STEP == 0)
            check_row(row);
        cJSON_Delete(row);
    }
    free(line);
    fclose(f);
    assert_int_equal(n, ROWS);
}

/* ---- what is asked of windows ---------------------------------------------------- */

static void windows_overlap_and_cover_the_context(void **state)
{
    char context[4000] = "";
    moe_windows w, once;
    (void)state;
    for (int i = 0; i < 300; i++)
        strcat(context, i % 7 ? "word " : "other ");
    moe_question q = ask("what is it ?", context);
    q.max_seq_len = 40;
    q.doc_stride = 9;
    assert_int_equal(moe_windows_make(model, &q, &w, NULL), MOE_OK);
    q.max_seq_len = 400;
    assert_int_equal(moe_windows_make(model, &q, &once, NULL), MOE_OK);
    assert_int_equal(once.n, 1);
    int room = 40 - (once.windows[0].n - 300), first = once.windows[0].n - 301;
    for (int i = 0; i < w.n; i++) {
        const moe_tokens *t = &w.windows[i];
        int from = first + i * (room - 9), n = i < w.n - 1 ? room : t->n - (40 - room);
        assert_memory_equal(t->ids + first, once.windows[0].ids + from,
                            (size_t)n * sizeof *t->ids);
        assert_memory_equal(t->spans + first, once.windows[0].spans + from,
                            (size_t)n * sizeof *t->spans);
        assert_int_equal(t->ids[t->n - 1], 102);
        if (i == w.n - 1)
            assert_int_equal(from + n, first + 300);
    }
    moe_windows_free(&w);
    moe_windows_free(&once);
}

static void long_questions_are_cut(void **state)
{
    char question[1000] = "";
    moe_windows w;
    (void)state;
    for (int i = 0; i < 100; i++)
        strcat(question, "why ");
    moe_question q = ask(question, "because it is so");
    assert_int_equal(moe_windows_make(model, &q, &w, NULL), MOE_OK);
    assert_int_equal(w.windows[0].n, 1 + 64 + 1 + 4 + 1);
    assert_int_equal(w.windows[0].ids[64], w.windows[0].ids[1]);
    assert_int_equal(w.windows[0].ids[65], 102);
    assert_int_equal(w.windows[0].types[66], 1);
    moe_windows_free(&w);
    q.max_question_len = 3;
    assert_int_equal(moe_windows_make(model, &q, &w, NULL), MOE_OK);
    assert_int_equal(w.windows[0].n, 1 + 3 + 1 + 4 + 1);
    moe_windows_free(&w);
}

static void refuse(moe_question q, moe_status code, const char *says)
{
    moe_error err = {.message = ""};
    moe_windows w;
    moe_status status = moe_windows_make(model, &q, &w, &err);
    if (status != code || !strstr(err.message, says) || w.n || w.windows)
        fail_msg("status %d, '%s' should hold '%s'", status, err.message, says);
}

static void lengths_that_cannot_be_are_told(void **state)
{
    const moe_question plain = ask("what is it made of ?", "it is made of wood and of stone");
    moe_question q = plain;
    (void)state;
    q.max_seq_len = 513;
    refuse(q, MOE_E_ARGUMENT, "max_seq_len is 513, expected 1 to 512");
    q.max_seq_len = 9;
    refuse(q, MOE_E_ARGUMENT, "a window of 9 tokens (max_seq_len) has no room for the context "
                              "beside the question's 6");
    q.max_seq_len = 12;
    q.doc_stride = 3;
    refuse(q, MOE_E_ARGUMENT, "doc_stride is 3, expected less than the 3 tokens");
    q.doc_stride = 2;
    q.max_windows = 4;
    refuse(q, MOE_E_LIMIT, "the context has 8 tokens: 6 windows, at most 4 are read");
    q = plain;
    q.doc_stride = -1;
    refuse(q, MOE_E_ARGUMENT, "doc_stride is -1");
    q = plain;
    q.context = "\xff";
    q.context_bytes = 1;
    q.strict_utf8 = true;
    refuse(q, MOE_E_ARGUMENT, "UTF-8");
}

/* A context without a word has no answer, and says so. */
static void nothing_to_read_is_no_answer(void **state)
{
    static const char *const contexts[] = {"", "  \n"};
    static float logits[MAX_LOGITS];
    const float *of_window[MAX_WINDOWS];
    (void)state;
    for (int i = 0; i < 2; i++) {
        moe_question q = ask("who ?", contexts[i]);
        moe_windows w;
        moe_answer a;
        assert_int_equal(moe_windows_make(model, &q, &w, NULL), MOE_OK);
        assert_int_equal(w.n, 1);
        forward(&w, logits, of_window);
        assert_int_equal(moe_answers_find(model, &q, &w, of_window, &(moe_answer_options){0}, &a),
                         1);
        assert_int_equal(a.end_byte, 0);
        assert_float_equal(a.score, 0, 0);
        moe_windows_free(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_the_pipelines),
        cmocka_unit_test(windows_overlap_and_cover_the_context),
        cmocka_unit_test(long_questions_are_cut),
        cmocka_unit_test(lengths_that_cannot_be_are_told),
        cmocka_unit_test(nothing_to_read_is_no_answer),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
