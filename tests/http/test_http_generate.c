/* Text-to-text models over HTTP: POST /v1/generate, and POST /v1/classify with a task. */
#include <math.h>

#include "tests/http/harness.h"
#include "tests/support/golden_rows.h"
#include "tests/support/sanitized.h"

#define T5 "models/t5-mini-glue"
enum { ROWS = SANITIZED ? 6 : 40 };

static moefied server;

static int start(void **state)
{
    (void)state;
    curl_global_init(CURL_GLOBAL_ALL);
    moefied_start(&server, "generate", "--model", MINILM, "--model", "t5=" T5, NULL);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    moefied_stop(&server);
    return 0;
}

/* A row's text stands for itself: it holds the template already. */
static void texts_are_those_of_the_library(void **state)
{
    (void)state;
    cJSON *rows[ROWS];
    int n = golden_read("tests/data/golden/t5-mini-glue.jsonl", rows, ROWS);
    assert_int_equal(n, ROWS);
    cJSON *body = cJSON_CreateObject(), *inputs = cJSON_AddArrayToObject(body, "inputs");
    for (int i = 0; i < n; i++)
        cJSON_AddItemToArray(inputs, cJSON_Duplicate(cJSON_GetObjectItem(rows[i], "text"), 1));
    char *text = cJSON_PrintUnformatted(body);
    answer a = call(&server, NULL, "/v1/generate", text);
    expect_status(&a, 200, "golden rows");
    assert_string_equal(string_at(&a, "model"), "t5"); /* the first that is text to text */
    for (int i = 0; i < n; i++) {
        char path[64];
        snprintf(path, sizeof path, "results.%d.text", i);
        assert_string_equal(string_at(&a, path),
                            cJSON_GetObjectItem(rows[i], "generated")->valuestring);
        snprintf(path, sizeof path, "results.%d.finish_reason", i);
        assert_string_equal(string_at(&a, path), "stop");
        cJSON_Delete(rows[i]);
    }
    answer_free(&a);
    free(text);
    cJSON_Delete(body);
}

static void a_task_puts_its_template_around(void **state)
{
    (void)state;
    answer a = call(&server, NULL, "/v1/generate",
                    "{\"inputs\":\"unflinchingly bleak and desperate\",\"task\":\"sst2\"}");
    answer b = call(&server, NULL, "/v1/generate",
                    "{\"inputs\":\"sst2 sentence: unflinchingly bleak and desperate\"}");
    expect_status(&a, 200, "task");
    expect_status(&b, 200, "text");
    assert_string_equal(string_at(&a, "results.0.text"), string_at(&b, "results.0.text"));
    assert_int_equal(number_at(&a, "usage.tokens"), number_at(&b, "usage.tokens"));
    answer_free(&a);
    answer_free(&b);
}

static void label_words_are_scored(void **state)
{
    (void)state;
    answer a = call(&server, NULL, "/v1/classify",
                    "{\"inputs\":[\"unflinchingly bleak and desperate\",\"a charming journey\"],"
                    "\"task\":\"sst2\"}");
    expect_status(&a, 200, "labels");
    /* exp(-0.44234) against exp(-1.05588), of the golden row. */
    double good = exp(-0.44234), bad = exp(-1.05588);
    assert_string_equal(string_at(&a, "results.0.label"), "positive");
    assert_float_equal(number_at(&a, "results.0.score"), good / (good + bad), 1e-3);
    assert_float_equal(number_at(&a, "results.0.scores.1.score"), bad / (good + bad), 1e-3);
    assert_string_equal(string_at(&a, "results.1.label"), "positive");
    answer_free(&a);
}

static void the_limit_ends_a_text(void **state)
{
    (void)state;
    answer a = call(&server, NULL, "/v1/generate",
                    "{\"inputs\":\"sst2 sentence: fine\",\"max_new_tokens\":1}");
    expect_status(&a, 200, "limit");
    assert_string_equal(string_at(&a, "results.0.finish_reason"), "length");
    assert_int_equal(number_at(&a, "results.0.tokens"), 1);
    answer_free(&a);
}

/* In the template of its own task for it, or of SQuAD; where the context has the text. */
/* Both halves count, each with its own tokens. */
static void neurons_are_those_of_both_halves(void **state)
{
    (void)state;
    static const char name[] = "moefied_ffn_neurons_selected_total{model=\"t5\"}";
    answer m = call(&server, NULL, "/v1/models/t5", NULL);
    double half = number_at(&m, "layers") * number_at(&m, "ffn_neurons") / 2;
    double before = metric(&server, name);
    answer a = call(&server, NULL, "/v1/generate", "{\"inputs\":\"sst2 sentence: dull\"}");
    double tokens = number_at(&a, "usage.tokens") + number_at(&a, "results.0.tokens");
    assert_true(metric(&server, name) - before == half * tokens);
    answer_free(&a);
    answer_free(&m);
}

static void a_question_is_answered_in_words(void **state)
{
    (void)state;
    answer a = call(&server, NULL, "/v1/answer",
                    "{\"inputs\":[{\"question\":\"Is it?\",\"context\":\"\u00e9 equivalent\"},"
                    "{\"question\":\"Is it?\",\"context\":\"no\"}]}");
    answer b = call(&server, NULL, "/v1/generate",
                    "{\"inputs\":[\"question: Is it? context: \u00e9 equivalent\","
                    "\"question: Is it? context: no\"]}");
    expect_status(&a, 200, "answer");
    assert_string_equal(string_at(&a, "model"), "t5");
    for (int i = 0; i < 2; i++) {
        char path[2][40];
        snprintf(path[0], sizeof path[0], "results.%d.answer", i);
        snprintf(path[1], sizeof path[1], "results.%d.text", i);
        assert_string_equal(string_at(&a, path[0]), string_at(&b, path[1]));
        snprintf(path[0], sizeof path[0], "results.%d.score", i);
        assert_true(number_at(&a, path[0]) > 0 && number_at(&a, path[0]) <= 1);
    }
    assert_string_equal(string_at(&a, "results.0.answer"), "equivalent");
    assert_int_equal(number_at(&a, "results.0.start"), 2);
    assert_int_equal(number_at(&a, "results.0.end"), 12);
    answer_free(&a);
    answer_free(&b);
    a = call(&server, NULL, "/v1/answer", "{\"question\":\"a\",\"context\":\"b\",\"top_k\":2}");
    expect_status(&a, 409, "top_k");
    answer_free(&a);
}

static void hugging_faces_route_writes_texts(void **state)
{
    (void)state;
    static const char *const paths[] = {"/models/t5", "/pipeline/text2text-generation/t5"};
    for (int i = 0; i < 2; i++) {
        answer a = call(&server, NULL, paths[i],
                        "{\"inputs\":[\"sst2 sentence: a charming journey\",\"sst2 sentence: dull\"],"
                        "\"parameters\":{\"max_new_tokens\":4,\"do_sample\":false}}");
        expect_status(&a, 200, paths[i]);
        assert_string_equal(string_at(&a, "0.generated_text"), "positive");
        assert_string_equal(string_at(&a, "1.generated_text"), "negative");
        answer_free(&a);
    }
    answer a = call(&server, NULL, "/pipeline/text-classification/t5", "{\"inputs\":\"a\"}");
    expect_status(&a, 404, "another task");
    answer_free(&a);
}

static void wrong_requests_say_what_is_wrong(void **state)
{
    (void)state;
    static const struct { const char *path, *body, *type, *part; } wrong[] = {
        {"/v1/generate", "{\"inputs\":\"a\",\"task\":\"nothing\"}", "invalid_value", "'nothing'"},
        {"/v1/generate", "{\"inputs\":\"a\",\"task\":\"mrpc\"}", "invalid_value",
         "needs a second text"},
        {"/v1/generate", "{\"inputs\":\"a\",\"max_new_tokens\":0}", "invalid_value",
         "max_new_tokens"},
        {"/v1/generate", "{\"inputs\":\"a\",\"max_new_tokens\":600}", "invalid_value",
         "expected 1 to 512"},
        {"/v1/generate", "{\"inputs\":\"a\",\"top_k\":1}", "unknown_key", "top_k"},
        {"/v1/classify", "{\"inputs\":\"a\",\"task\":\"squad\"}", "invalid_value",
         "no label words"},
        {"/v1/classify", "{\"inputs\":\"a\",\"model\":\"t5\"}", "wrong_task", "text to text"},
        {"/v1/generate", "{\"inputs\":\"a\",\"model\":\"minilm-sst2-relu\"}", "wrong_task",
         "not text to text"},
        {"/v1/answer", "{\"question\":\"a\",\"context\":\"b\",\"model\":\"minilm-sst2-relu\"}",
         "wrong_task", "does not answer questions"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        answer a = call(&server, NULL, wrong[i].path, wrong[i].body);
        expect_status(&a, strcmp(wrong[i].type, "wrong_task") ? 422 : 404, wrong[i].body);
        assert_string_equal(string_at(&a, "error.type"), wrong[i].type);
        if (!strstr(string_at(&a, "error.message"), wrong[i].part))
            fail_msg("'%s' should hold '%s'", string_at(&a, "error.message"), wrong[i].part);
        answer_free(&a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_are_those_of_the_library),
        cmocka_unit_test(a_task_puts_its_template_around),
        cmocka_unit_test(label_words_are_scored),
        cmocka_unit_test(the_limit_ends_a_text),
        cmocka_unit_test(neurons_are_those_of_both_halves),
        cmocka_unit_test(a_question_is_answered_in_words),
        cmocka_unit_test(hugging_faces_route_writes_texts),
        cmocka_unit_test(wrong_requests_say_what_is_wrong),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
