/* test_http_protocols.c: what clients of other servers send, right and hostile: TEI, Hugging
 * Face, vLLM and the Open Inference Protocol with and without binary tensors. */
#include <math.h>

#include "tests/http/harness.h"

static moefied server;

static int start(void **state)
{
    (void)state;
    curl_global_init(CURL_GLOBAL_ALL);
    moefied_start(&server, "protocols", "--model", "sst2=" MINILM, "--model",
                  "squad=models/minilm-squad-relu", "--max-inputs", "8", NULL);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    moefied_stop(&server);
    return 0;
}

/* ---- shapes ------------------------------------------------------------- */

static void rerank_orders_texts_by_relevance(void **state)
{
    (void)state;
    answer a = call(&server, NULL, "/rerank", "{\"query\":\"a film\",\"texts\":[\"dull\",\"gripping\","
                    "\"dull and long\"],\"return_text\":true}");
    expect_status(&a, 200, "rerank");
    assert_int_equal(number_at(&a, "0.index"), 1);
    assert_string_equal(string_at(&a, "0.text"), "gripping");
    assert_true(number_at(&a, "0.score") > number_at(&a, "1.score"));
    assert_true(number_at(&a, "1.score") > number_at(&a, "2.score"));
    assert_true(atoi(header(&a, "x-compute-tokens")) > 10);
    assert_string_equal(header(&a, "x-compute-type"), "cpu");
    answer_free(&a);
}

/* {"inputs": "first the the ... last"}: n times "the", and further keys. */
static const char *long_text(const char *first, int n, const char *last, const char *more)
{
    static char body[4096];
    char *p = body + sprintf(body, "{\"inputs\":\"%s", first);
    for (int i = 0; i < n; i++)
        p += sprintf(p, "the ");
    sprintf(p, "%s\"%s}", last, more);
    return body;
}

static void left_truncation_keeps_the_end(void **state)
{
    enum { ROOM = 510 }; /* tokens of a text */
    (void)state;
    const char *left_key = ",\"truncation_direction\":\"left\"";
    answer left = call(&server, NULL, "/predict", long_text("wonderful ", 600, "awful", left_key));
    answer end = call(&server, NULL, "/predict", long_text("", ROOM - 1, "awful", ""));
    answer right = call(&server, NULL, "/predict", long_text("wonderful ", 600, "awful", ""));
    answer start_only = call(&server, NULL, "/predict", long_text("wonderful ", ROOM - 1, "", ""));
    expect_status(&left, 200, "left");
    assert_string_equal(left.body, end.body);
    assert_string_equal(right.body, start_only.body);
    assert_string_not_equal(left.body, right.body);
    answer_free(&left);
    answer_free(&end);
    answer_free(&right);
    answer_free(&start_only);
}

static void hugging_face_answers_are_nested(void **state)
{
    (void)state;
    answer a = call(&server, NULL, "/models/sst2", "{\"inputs\":\"gripping\"}");
    expect_status(&a, 200, "one text");
    assert_string_equal(string_at(&a, "0.0.label"), "positive");
    assert_float_equal(number_at(&a, "0.0.score") + number_at(&a, "0.1.score"), 1, 1e-6);
    answer_free(&a);
    a = call(&server, NULL, "/pipeline/sentiment-analysis/sst2", "{\"inputs\":[\"good\",\"bad\"],"
             "\"parameters\":{\"top_k\":1,\"function_to_apply\":\"none\",\"other\":[1]},\"options\":{}}");
    expect_status(&a, 200, "two texts");
    assert_int_equal(cJSON_GetArraySize(a.json), 2);
    assert_int_equal(cJSON_GetArraySize(at(&a, "1")), 1);
    assert_true(number_at(&a, "0.0.score") > 1);
    answer_free(&a);
    a = call(&server, NULL, "/pipeline/summarization/sst2", "{\"inputs\":\"a\"}");
    expect_status(&a, 404, "another task");
    assert_non_null(strstr(string_at(&a, "error"), "does text-classification"));
    answer_free(&a);
}

static void vllm_errors_are_openais(void **state)
{
    (void)state;
    answer a = call(&server, NULL, "/classify", "{\"input\":[\"good\"],\"model\":\"none\"}");
    expect_status(&a, 404, "no model");
    assert_string_equal(string_at(&a, "error.type"), "NotFoundError");
    assert_int_equal(number_at(&a, "error.code"), 404);
    answer_free(&a);
}

/* ---- Open Inference Protocol ---------------------------------------------- */

enum { MAX_BODY = 4096 };

/* POSTs JSON with bytes behind it; length: what the header says, -1: the truth. */
static answer infer(const char *model, const char *json, const void *bytes, size_t n, long length)
{
    static char body[MAX_BODY], says[96], path[128];
    size_t json_bytes = strlen(json);
    memcpy(body, json, json_bytes);
    memcpy(body + json_bytes, bytes, n);
    snprintf(says, sizeof says, "Inference-Header-Content-Length: %ld",
             length < 0 ? (long)json_bytes : length);
    snprintf(path, sizeof path, "/v2/models/%s/infer", model);
    const char *const headers[] = {says, NULL};
    return call_with(&server, NULL, path, body, json_bytes + n, headers);
}

#define ONE_TEXT "{\"inputs\":[{\"name\":\"text\",\"shape\":[1],\"datatype\":\"BYTES\"," \
                 "\"parameters\":{\"binary_data_size\":8}}],\"outputs\":[{\"name\":\"label\"}]}"

static void texts_may_stand_behind_the_json(void **state)
{
    (void)state;
    answer a = infer("sst2", ONE_TEXT, "\4\0\0\0good", 8, -1);
    expect_status(&a, 200, "binary");
    assert_string_equal(string_at(&a, "outputs.0.data.0"), "positive");
    answer_free(&a);
}

static void sizes_that_lie_are_refused(void **state)
{
    static const struct { const char *json; const char *bytes; size_t n; long length; } cases[] = {
        {ONE_TEXT, "\5\0\0\0good", 8, -1},             /* the element is longer */
        {ONE_TEXT, "\3\0\0\0good", 8, -1},             /* and shorter */
        {ONE_TEXT, "\377\377\377\377good", 8, -1},
        {ONE_TEXT, "\4\0\0\0goo", 7, -1},              /* bytes are missing */
        {ONE_TEXT, "\4\0\0\0goods", 9, -1},            /* or too many */
        {ONE_TEXT, "\4\0\0\0good", 8, 100000},         /* past the body */
        {ONE_TEXT, "\4\0\0\0good", 8, 5},
        {ONE_TEXT, "\4\0\0\0go\377d", 8, -1},          /* not UTF-8 */
        {"{\"inputs\":[{\"name\":\"text\",\"shape\":[1000000000,1000000000],\"datatype\":\"BYTES\","
         "\"parameters\":{\"binary_data_size\":8}}]}", "\4\0\0\0good", 8, -1},
        {"{\"inputs\":[{\"name\":\"text\",\"shape\":[-1],\"datatype\":\"BYTES\",\"data\":[\"a\"]}]}", "", 0, -1},
        {"{\"inputs\":[{\"name\":\"text\",\"shape\":[2],\"datatype\":\"BYTES\",\"data\":[\"a\"]}]}", "", 0, -1},
        {"{\"inputs\":[{\"name\":\"text\",\"shape\":[1],\"datatype\":\"BYTES\",\"data\":[\"a\",\"b\"]}]}", "", 0, -1},
        {"{\"inputs\":[{\"name\":\"text\",\"shape\":[9],\"datatype\":\"BYTES\",\"data\":[]}]}", "", 0, -1},
        {"{\"inputs\":[{\"name\":\"input_ids\",\"shape\":[1,2],\"datatype\":\"INT64\",\"data\":[101]}]}", "", 0, -1},
        {"{\"inputs\":[{\"name\":\"input_ids\",\"shape\":[1,1],\"datatype\":\"INT64\",\"data\":[99999999]}]}", "", 0, -1},
        {"{\"inputs\":[{\"name\":\"input_ids\",\"shape\":[1,1],\"datatype\":\"INT64\",\"data\":[-3]}]}", "", 0, -1},
        {"{\"inputs\":[{\"name\":\"input_ids\",\"shape\":[1,0],\"datatype\":\"INT64\",\"data\":[]}]}", "", 0, -1},
        {"{\"inputs\":[{\"name\":\"input_ids\",\"shape\":[1,1],\"datatype\":\"INT64\",\"data\":[101]},"
         "{\"name\":\"attention_mask\",\"shape\":[1,2],\"datatype\":\"INT64\",\"data\":[1,1]}]}", "", 0, -1},
        {"{\"inputs\":[{\"name\":\"input_ids\",\"shape\":[1,1],\"datatype\":\"INT64\",\"data\":[101]},"
         "{\"name\":\"text\",\"shape\":[1],\"datatype\":\"BYTES\",\"data\":[\"a\"]}]}", "", 0, -1},
        {"{\"inputs\":[]}", "", 0, -1}, {"{\"inputs\":[3]}", "", 0, -1}, {"[]", "", 0, -1},
        {"{\"inputs\":[{\"name\":\"text\",\"shape\":[1],\"datatype\":\"BYTES\",\"data\":[\"a\"]}],"
         "\"outputs\":[{\"name\":\"answer\"}]}", "", 0, -1},
        {"{\"inputs\":[{\"name\":\"text\",\"shape\":[1],\"datatype\":\"BYTES\",\"data\":[\"a\"]}],"
         "\"parameters\":{\"ratio\":2}}", "", 0, -1},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        answer a = infer("sst2", cases[i].json, cases[i].bytes, cases[i].n, cases[i].length);
        if (a.status != 422 && a.status != 400)
            fail_msg("case %zu: status %d: %s", i, a.status, a.body);
        assert_true(*string_at(&a, "error"));
        answer_free(&a);
    }
    answer alive = get(&server, "/v2/models/sst2/ready");
    expect_status(&alive, 200, "ready");
    answer_free(&alive);
}

static void token_ids_give_what_their_text_does(void **state)
{
    (void)state;
    answer text = infer("sst2", "{\"inputs\":[{\"name\":\"text\",\"shape\":[1,1],\"datatype\":\"BYTES\","
                        "\"data\":[[\"good\"]]}],\"outputs\":[{\"name\":\"logits\"}]}", "", 0, -1);
    answer ids = infer("sst2", "{\"inputs\":[{\"name\":\"input_ids\",\"shape\":[1,4],\"datatype\":\"INT32\","
                       "\"data\":[[101,2204,102,0]]},{\"name\":\"attention_mask\",\"shape\":[1,4],"
                       "\"datatype\":\"INT32\",\"data\":[1,1,1,0]}],\"outputs\":[{\"name\":\"logits\"}]}",
                       "", 0, -1);
    expect_status(&text, 200, "text");
    expect_status(&ids, 200, "ids");
    if (!cJSON_Compare(at(&text, "outputs"), at(&ids, "outputs"), 1))
        fail_msg("%s and %s", text.body, ids.body);
    answer_free(&text);
    answer_free(&ids);
}

static void a_model_has_one_version(void **state)
{
    (void)state;
    answer a = get(&server, "/v2/models/sst2/versions/1");
    expect_status(&a, 200, "version 1");
    assert_string_equal(string_at(&a, "versions.0"), "1");
    answer_free(&a);
    a = get(&server, "/v2/models/sst2/versions/2/ready");
    expect_status(&a, 404, "version 2");
    answer_free(&a);
    a = get(&server, "/v2/models/stats");
    expect_status(&a, 200, "all statistics");
    assert_int_equal(cJSON_GetArraySize(at(&a, "model_stats")), 2);
    answer_free(&a);
}

static void the_api_describes_itself(void **state)
{
    (void)state;
    answer a = get(&server, "/openapi.json"), index = get(&server, "/");
    expect_status(&a, 200, "openapi");
    assert_string_equal(string_at(&a, "openapi"), "3.1.0");
    const cJSON *paths = at(&a, "paths"), *route;
    cJSON_ArrayForEach(route, at(&index, "routes")) { /* "GET /path": is it described? */
        char path[128];
        snprintf(path, sizeof path, "%s", strchr(route->valuestring, ' ') + 1);
        bool variant = strstr(path, "/versions/") || strcmp(path, "/v2/models/stats") == 0 ||
                       strstr(path, "{task}");
        if (!variant && !cJSON_GetObjectItemCaseSensitive(paths, path))
            fail_msg("%s is not described", path);
    }
    answer_free(&a);
    answer_free(&index);
    a = get(&server, "/docs");
    expect_status(&a, 200, "docs");
    assert_non_null(strstr(a.body, "openapi.json"));
    assert_null(strstr(a.body, "http://"));
    assert_null(strstr(a.body, "https://"));
    answer_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rerank_orders_texts_by_relevance),
        cmocka_unit_test(left_truncation_keeps_the_end),
        cmocka_unit_test(hugging_face_answers_are_nested),
        cmocka_unit_test(vllm_errors_are_openais),
        cmocka_unit_test(texts_may_stand_behind_the_json),
        cmocka_unit_test(sizes_that_lie_are_refused),
        cmocka_unit_test(token_ids_give_what_their_text_does),
        cmocka_unit_test(a_model_has_one_version),
        cmocka_unit_test(the_api_describes_itself),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
