/* test_http_answer.c: POST /v1/answer against the pipeline's answers, over HTTP. */
#include <math.h>

#include "tests/http/harness.h"
#include "tests/support/sanitized.h"

#define SQUAD "models/minilm-squad-relu"
static const char golden[] = "tests/data/golden/minilm-squad-relu.jsonl";
enum { ROWS = SANITIZED ? 4 : 25 };

static moefied server;

static int start(void **state)
{
    (void)state;
    curl_global_init(CURL_GLOBAL_ALL);
    moefied_start(&server, "answer", "--model", MINILM, "--model", "squad=" SQUAD, NULL);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    moefied_stop(&server);
    return 0;
}

static answer ask(const char *body)
{
    return call(&server, NULL, "/v1/answer", body);
}

/* Fails unless the answer's result at path is the golden one. */
static void expect_same(const answer *a, const char *path, const cJSON *want)
{
    const cJSON *got = at(a, path);
    static const char *const whole[] = {"start", "end"};
    for (int i = 0; i < 2; i++)
        assert_int_equal(cJSON_GetObjectItem(got, whole[i])->valueint,
                         cJSON_GetObjectItem(want, whole[i])->valueint);
    assert_string_equal(cJSON_GetObjectItem(got, "answer")->valuestring,
                        cJSON_GetObjectItem(want, "answer")->valuestring);
    assert_float_equal(cJSON_GetObjectItem(got, "score")->valuedouble,
                       cJSON_GetObjectItem(want, "score")->valuedouble, 1e-3);
}

/* The row's question and context with further keys; free it. */
static char *body_of(const cJSON *row, const char *more)
{
    cJSON *body = more ? cJSON_Parse(more) : cJSON_CreateObject();
    cJSON_AddStringToObject(body, "question", cJSON_GetObjectItem(row, "question")->valuestring);
    cJSON_AddStringToObject(body, "context", cJSON_GetObjectItem(row, "context")->valuestring);
    char *text = cJSON_PrintUnformatted(body);
    cJSON_Delete(body);
    return text;
}

static void check_row(const cJSON *row)
{
    char *body = body_of(row, NULL);
    answer a = ask(body);
    expect_status(&a, 200, body);
    assert_string_equal(string_at(&a, "model"), "squad"); /* the first that answers */
    expect_same(&a, "results.0", cJSON_GetObjectItem(row, "answer"));
    answer_free(&a);
    free(body);

    body = body_of(row, "{\"top_k\":3}");
    a = ask(body);
    const cJSON *top3 = cJSON_GetObjectItem(row, "top3");
    assert_int_equal(cJSON_GetArraySize(at(&a, "results.0")), cJSON_GetArraySize(top3));
    for (int i = 0; i < cJSON_GetArraySize(top3); i++) {
        char path[32];
        snprintf(path, sizeof path, "results.0.%d", i);
        expect_same(&a, path, cJSON_GetArrayItem(top3, i));
    }
    answer_free(&a);
    free(body);

    body = body_of(row, "{\"handle_impossible_answer\":true}");
    a = ask(body);
    expect_same(&a, "results.0", cJSON_GetObjectItem(row, "impossible_ok"));
    answer_free(&a);
    free(body);
}

static void answers_are_the_pipelines(void **state)
{
    FILE *f = fopen(golden, "r");
    char *line = NULL;
    size_t room = 0;
    (void)state;
    assert_non_null(f);
    for (int n = 0; n < ROWS && getline(&line, &room, f) > 0; n++) {
        cJSON *row = cJSON_Parse(line);
        check_row(row);
        cJSON_Delete(row);
    }
    free(line);
    fclose(f);
}

static void a_list_is_answered_in_order(void **state)
{
    (void)state;
    answer a = ask("{\"model\":\"squad\",\"ratio\":0.5,\"inputs\":["
                   "{\"question\":\"Who wrote it?\",\"context\":\"Ann wrote it in May.\"},"
                   "{\"question\":\"When?\",\"context\":\"Ann wrote it in May.\"}]}");
    answer one = ask("{\"question\":\"When?\",\"context\":\"Ann wrote it in May.\"}");
    expect_status(&a, 200, "a list");
    assert_int_equal(cJSON_GetArraySize(at(&a, "results")), 2);
    assert_string_equal(string_at(&a, "results.0.answer"), "Ann");
    if (!cJSON_Compare(at(&a, "results.1"), at(&one, "results.0"), 1))
        fail_msg("%s and %s", a.body, one.body);
    assert_float_equal(number_at(&a, "ratio.requested"), 0.5, 0);
    assert_float_equal(number_at(&a, "ratio.effective"), 1, 0); /* dense: not MoEfied */
    assert_true(number_at(&a, "usage.tokens") > 20);
    answer_free(&a);
    answer_free(&one);
}

static void offsets_count_code_points(void **state)
{
    (void)state;
    answer a = ask("{\"question\":\"Où est le café?\",\"context\":\"Le petit café “Ünïcode” 😀 se "
                   "trouve à 東京, près de l’hôtel Ωmega.\"}");
    expect_status(&a, 200, "unicode");
    assert_int_equal(number_at(&a, "results.0.start"), 42);
    assert_string_equal(string_at(&a, "results.0.answer"), "près de l’hôtel Ωmega");
    answer_free(&a);
}

static void a_context_of_many_windows_is_read_whole(void **state)
{
    enum { WORDS = SANITIZED ? 600 : 6000, AT = WORDS - WORDS / 6 };
    char *body = malloc(WORDS * 6 + 200), *p = body;
    (void)state;
    p += sprintf(p, "{\"question\":\"Who wrote the letter?\",\"context\":\"");
    for (int i = 0; i < WORDS; i++)
        p += sprintf(p, "%s", i == AT ? "Peter wrote the letter. " : "word ");
    sprintf(p, "\",\"max_seq_len\":128,\"doc_stride\":32}");
    answer a = ask(body);
    expect_status(&a, 200, "a long context");
    assert_string_equal(string_at(&a, "results.0.answer"), "Peter");
    assert_int_equal(number_at(&a, "results.0.start"), 5 * AT);
    answer_free(&a);
    free(body);
}

static void what_is_wrong_is_told(void **state)
{
    static const struct { const char *body; int status; const char *says; } cases[] = {
        {"{\"question\":\"q\"}", 422, "context: missing"},
        {"{\"context\":\"c\"}", 422, "question: missing"},
        {"{}", 422, "question: missing"},
        {"{\"question\":3,\"context\":\"c\"}", 422, "question: expected a string"},
        {"{\"question\":\"q\",\"context\":\"c\",\"inputs\":[]}", 422, "found both"},
        {"{\"inputs\":[]}", 422, "an empty list"},
        {"{\"inputs\":[{\"question\":\"q\"}]}", 422, "an object without context"},
        {"{\"inputs\":\"q\"}", 422, "inputs: expected an object of question and context"},
        {"{\"question\":\"q\",\"context\":\"c\",\"doc_strid\":1}", 422, "unknown key 'doc_strid'"},
        {"{\"question\":\"q\",\"context\":\"c\",\"top_k\":0}", 422, "top_k: expected a whole number "
         "from 1 to 1000"},
        {"{\"question\":\"q\",\"context\":\"c\",\"max_seq_len\":513}", 409,
         "inputs: max_seq_len is 513, expected 1 to 512"},
        {"{\"question\":\"q\",\"context\":\"c\",\"max_seq_len\":4}", 409, "no room for the context"},
        {"{\"question\":\"q\",\"context\":\"c\",\"align_to_words\":1}", 422,
         "align_to_words: expected true or false"},
        {"{\"question\":\"q\",\"context\":\"c\",\"model\":\"none\"}", 404, "no model 'none'"},
        {"{\"question\":\"q\",\"context\":\"c\",\"model\":\"minilm-sst2-relu\"}", 404,
         "does not answer questions: POST /v1/classify"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        answer a = ask(cases[i].body);
        expect_status(&a, cases[i].status, cases[i].body);
        if (!strstr(string_at(&a, "error.message"), cases[i].says))
            fail_msg("%s: %s", cases[i].body, a.body);
        answer_free(&a);
    }
    answer a = classify(&server, "{\"inputs\":\"a\",\"model\":\"squad\"}");
    expect_status(&a, 404, "classify");
    assert_string_equal(string_at(&a, "error.type"), "wrong_task");
    answer_free(&a);
}

/* No name: each route takes the first model that can. */
static void classify_still_finds_its_own_model(void **state)
{
    (void)state;
    answer a = classify(&server, "{\"inputs\":\"a good film\"}");
    expect_status(&a, 200, "classify");
    assert_string_equal(string_at(&a, "model"), "minilm-sst2-relu");
    answer_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_the_pipelines),
        cmocka_unit_test(a_list_is_answered_in_order),
        cmocka_unit_test(offsets_count_code_points),
        cmocka_unit_test(a_context_of_many_windows_is_read_whole),
        cmocka_unit_test(what_is_wrong_is_told),
        cmocka_unit_test(classify_still_finds_its_own_model),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
