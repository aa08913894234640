/* test_http_inference.c: /v1/classify and /predict answer what they should. */
#include "engine/model/moefied.h"
#include "engine/model/pack.h"
#include "tests/http/harness.h"
#include "tests/support/tiny_model.h"

#include <math.h>

static moefied tiny, minilm;

static int start(void **state)
{
    static char tiny_arg[4200], plain_arg[4200];
    (void)state;
    curl_global_init(CURL_GLOBAL_ALL);
    tiny_moefied_write(tmp_path("tiny-moe"), 5);
    tiny_model_write(tmp_path("tiny-plain"), 5);
    snprintf(tiny_arg, sizeof tiny_arg, "moe=%s", tmp_path("tiny-moe"));
    snprintf(plain_arg, sizeof plain_arg, "plain=%s", tmp_path("tiny-plain"));
    moefied_start(&tiny, "tiny", "--model", tiny_arg, "--model", plain_arg, "--ratio", "0.5", NULL);
    moefied_start(&minilm, "minilm", "--model", MINILM, NULL);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    moefied_stop(&tiny);
    moefied_stop(&minilm);
    return 0;
}

static void classify_answers_in_the_documented_shape(void **state)
{
    (void)state;
    answer a = classify(&tiny, "{\"inputs\":\"a b c\",\"ratio\":0.34}");
    expect_status(&a, 200, "classify");
    assert_string_equal(header(&a, "Content-Type"), "application/json");
    assert_string_equal(string_at(&a, "id"), header(&a, "X-Request-Id"));
    assert_string_equal(string_at(&a, "model"), "moe");
    assert_int_equal(cJSON_GetArraySize(at(&a, "results")), 1);
    assert_int_equal(cJSON_GetArraySize(at(&a, "results.0.scores")), 3);
    assert_string_equal(string_at(&a, "results.0.label"), string_at(&a, "results.0.scores.0.label"));
    double sum = 0, last = 2;
    for (int i = 0; i < 3; i++) {
        char path[64];
        snprintf(path, sizeof path, "results.0.scores.%d.score", i);
        double score = number_at(&a, path);
        assert_true(score <= last && score >= 0);
        last = score;
        sum += score;
    }
    assert_float_equal(sum, 1, 1e-5);
    assert_float_equal(number_at(&a, "ratio.requested"), 0.34, 0);
    double effective = number_at(&a, "ratio.effective");
    assert_true(effective > 0 && effective < 1);
    assert_float_equal(strtod(header(&a, "X-Moe-Ratio"), NULL), effective, 0);
    assert_int_equal(number_at(&a, "usage.tokens"), 5); /* [CLS] a b c [SEP] */
    static const char *const times[] = {"tokenize", "queue", "compute", "total"};
    for (int i = 0; i < 4; i++) {
        char path[64];
        snprintf(path, sizeof path, "timing_ms.%s", times[i]);
        assert_true(number_at(&a, path) >= 0);
    }
    assert_true(number_at(&a, "timing_ms.total") >= number_at(&a, "timing_ms.compute"));
    answer_free(&a);
}

static void a_list_is_answered_in_order(void **state)
{
    (void)state;
    static const char *const texts[] = {"z z z z", "a", "q w e r t y"};
    answer all = classify(&tiny, "{\"inputs\":[\"z z z z\",{\"text\":\"a\"},\"q w e r t y\"]}");
    expect_status(&all, 200, "a list");
    for (int i = 0; i < 3; i++) {
        char body[64], path[32];
        snprintf(body, sizeof body, "{\"inputs\":\"%s\"}", texts[i]);
        snprintf(path, sizeof path, "results.%d", i);
        answer one = classify(&tiny, body);
        if (!cJSON_Compare(at(&all, path), at(&one, "results.0"), 1))
            fail_msg("input %d differs: %s and %s", i, all.body, one.body);
        answer_free(&one);
    }
    assert_int_equal(number_at(&all, "usage.tokens"), 6 + 3 + 8);
    answer_free(&all);
}

static void a_pair_is_more_than_its_first_text(void **state)
{
    (void)state;
    answer pair = classify(&tiny, "{\"inputs\":{\"text\":\"a b\",\"text_pair\":\"c\"}}");
    answer one = classify(&tiny, "{\"inputs\":\"a b\"}");
    answer tei = call(&tiny, NULL, "/predict", "{\"inputs\":[\"a b\",\"c\"]}");
    expect_status(&pair, 200, "a pair");
    assert_int_equal(number_at(&pair, "usage.tokens"), 6);
    assert_true(number_at(&pair, "results.0.score") != number_at(&one, "results.0.score"));
    if (!cJSON_Compare(at(&pair, "results.0.scores"), tei.json, 1))
        fail_msg("/predict sees another pair: %s", tei.body);
    answer_free(&pair);
    answer_free(&one);
    answer_free(&tei);
}

/* The tokenizer drops the character and joins what is around it. */
static void a_nul_in_a_text_does_not_end_it(void **state)
{
    (void)state;
    answer with = classify(&minilm, "{\"inputs\":\"a good\\u0000ness\"}");
    answer without = classify(&minilm, "{\"inputs\":\"a goodness\"}");
    expect_status(&with, 200, "a NUL");
    if (!cJSON_Compare(at(&with, "results"), at(&without, "results"), 1))
        fail_msg("%s and %s", with.body, without.body);
    answer_free(&with);
    answer_free(&without);
}

static void body_beats_header_beats_default(void **state)
{
    static const struct { const char *header, *body; double requested; } cases[] = {
        {NULL, "{\"inputs\":\"a\"}", 0.5},
        {"X-Moe-Ratio: 0.34", "{\"inputs\":\"a\"}", 0.34},
        {"X-Moe-Ratio: 0.34", "{\"inputs\":\"a\",\"ratio\":1}", 1},
        {"X-Moe-Ratio: 0.34", "{\"inputs\":\"a\",\"ratio\":null}", 0.34},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *headers[] = {cases[i].header, NULL};
        answer a = call_with(&tiny, NULL, "/v1/classify", cases[i].body, strlen(cases[i].body), headers);
        expect_status(&a, 200, cases[i].body);
        assert_float_equal(number_at(&a, "ratio.requested"), cases[i].requested, 0);
        answer_free(&a);
    }
}

static void a_smaller_ratio_computes_fewer_neurons(void **state)
{
    (void)state;
    answer low = classify(&tiny, "{\"inputs\":\"a b c\",\"ratio\":0.34}");
    answer half = classify(&tiny, "{\"inputs\":\"a b c\",\"ratio\":0.5}");
    answer all = classify(&tiny, "{\"inputs\":\"a b c\",\"ratio\":1}");
    assert_true(number_at(&low, "ratio.effective") < number_at(&half, "ratio.effective"));
    assert_true(number_at(&half, "ratio.effective") < 1);
    assert_float_equal(number_at(&all, "ratio.effective"), 1, 0);
    answer_free(&low);
    answer_free(&half);
    answer_free(&all);
}

static void ratio_one_is_the_dense_model(void **state)
{
    (void)state;
    answer moe = call(&tiny, NULL, "/predict", "{\"inputs\":\"q w e\",\"raw_scores\":true,\"ratio\":1}");
    answer dense = call(&tiny, NULL, "/predict",
                        "{\"inputs\":\"q w e\",\"raw_scores\":true,\"model\":\"plain\",\"ratio\":0.34}");
    expect_status(&moe, 200, "moe");
    expect_status(&dense, 200, "plain");
    for (int i = 0; i < 3; i++) {
        char label[24], score[24];
        snprintf(label, sizeof label, "%d.label", i);
        snprintf(score, sizeof score, "%d.score", i);
        assert_string_equal(string_at(&moe, label), string_at(&dense, label));
        assert_float_equal(number_at(&moe, score), number_at(&dense, score), 1e-4);
    }
    /* A model that is not MoEfied runs dense and says so. */
    assert_string_equal(header(&dense, "X-Moe-Ratio"), "1");
    answer_free(&moe);
    answer_free(&dense);
}

static void predict_has_the_shapes_of_text_embeddings_inference(void **state)
{
    (void)state;
    answer single = call(&tiny, NULL, "/predict", "{\"inputs\":\"a\",\"truncate\":null,\"unknown\":1}");
    expect_status(&single, 200, "single");
    assert_true(cJSON_IsArray(single.json));
    assert_true(number_at(&single, "0.score") >= number_at(&single, "1.score"));
    answer batch = call(&tiny, NULL, "/predict", "{\"inputs\":[[\"a\"],[\"a\",\"b\"]]}");
    expect_status(&batch, 200, "batch");
    assert_int_equal(cJSON_GetArraySize(batch.json), 2);
    if (!cJSON_Compare(at(&batch, "0"), single.json, 1))
        fail_msg("the batch's first is not the single one: %s", batch.body);
    answer raw = call(&tiny, NULL, "/predict", "{\"inputs\":\"a\",\"raw_scores\":true}");
    double sum = number_at(&raw, "0.score") + number_at(&raw, "1.score") + number_at(&raw, "2.score");
    assert_true(fabs(sum - 1) > 1e-3);
    answer_free(&single);
    answer_free(&batch);
    answer_free(&raw);
}

static void top_k_cuts_the_scores(void **state)
{
    (void)state;
    answer a = classify(&tiny, "{\"inputs\":\"a\",\"top_k\":2}");
    assert_int_equal(cJSON_GetArraySize(at(&a, "results.0.scores")), 2);
    answer_free(&a);
    a = classify(&tiny, "{\"inputs\":\"a\",\"top_k\":99}");
    assert_int_equal(cJSON_GetArraySize(at(&a, "results.0.scores")), 3);
    answer_free(&a);
}

static void a_long_text_is_cut_unless_told_not_to(void **state)
{
    (void)state;
    char body[600] = "{\"inputs\":\"", *p = body + strlen(body);
    for (int i = 0; i < 60; i++)
        p += sprintf(p, "%c ", 'a' + i % 26);
    strcpy(p, "\"}");
    answer a = classify(&tiny, body);
    expect_status(&a, 200, "cut");
    assert_int_equal(number_at(&a, "usage.tokens"), TINY_POSITIONS);
    answer_free(&a);
    strcpy(p, "\",\"truncate\":false}");
    a = classify(&tiny, body);
    expect_status(&a, 422, "not cut");
    assert_string_equal(string_at(&a, "error.type"), "too_long");
    answer_free(&a);
    strcpy(p, "\",\"truncate\":false}");
    a = call(&tiny, NULL, "/predict", body);
    expect_status(&a, 422, "not cut");
    assert_string_equal(string_at(&a, "error_type"), "Validation");
    answer_free(&a);
    assert_float_equal(metric(&tiny, "moefied_inputs_truncated_total{model=\"moe\"}"), 1, 0);
}

static void request_ids_are_echoed_if_they_are_sane(void **state)
{
    static const char *const bad[] = {"X-Request-Id: a b", "X-Request-Id: caf\xc3\xa9", "X-Request-Id;"};
    char long_id[160] = "X-Request-Id: ";
    (void)state;
    const char *good[] = {"X-Request-Id: trace-42/x", NULL};
    answer a = call_with(&tiny, NULL, "/v1/classify", "{\"inputs\":\"a\"}", 14, good);
    assert_string_equal(header(&a, "X-Request-Id"), "trace-42/x");
    assert_string_equal(string_at(&a, "id"), "trace-42/x");
    answer_free(&a);
    memset(long_id + 14, 'x', 129);
    for (int i = 0; i < 4; i++) {
        const char *headers[] = {i < 3 ? bad[i] : long_id, NULL};
        a = call_with(&tiny, NULL, "/health", NULL, 0, headers);
        expect_status(&a, 200, headers[0]);
        assert_int_equal(strlen(header(&a, "X-Request-Id")), 16);
        answer_free(&a);
    }
    answer b = get(&tiny, "/health");
    a = get(&tiny, "/health");
    char first[64];
    snprintf(first, sizeof first, "%s", header(&a, "X-Request-Id"));
    assert_string_not_equal(first, header(&b, "X-Request-Id"));
    answer_free(&a);
    answer_free(&b);
}

static void empty_and_odd_texts_are_texts(void **state)
{
    static const char *const bodies[] = {
        "{\"inputs\":\"\"}", "{\"inputs\":\"\\u00e9\\ud83d\\ude00 \xe4\xb8\xad\"}",
        "{\"inputs\":{\"text\":\"\",\"text_pair\":\"\"}}", "{\"inputs\":\"\\u0001\\ufffd\"}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        answer a = classify(&tiny, bodies[i]);
        expect_status(&a, 200, bodies[i]);
        answer_free(&a);
    }
}

/* The first rows of the golden file, fetched as raw scores over HTTP. */
static void dense_logits_over_http_are_the_golden_ones(void **state)
{
    FILE *f = fopen("tests/data/golden/minilm-sst2-relu.jsonl", "r");
    char *line = NULL;
    size_t room = 0;
    (void)state;
    assert_non_null(f);
    for (int row = 0; row < 12 && getline(&line, &room, f) > 0; row++) {
        cJSON *golden = cJSON_Parse(line), *request = cJSON_CreateObject();
        const cJSON *logits = cJSON_GetObjectItem(golden, "logits");
        cJSON_AddStringToObject(request, "inputs", cJSON_GetObjectItem(golden, "text")->valuestring);
        cJSON_AddBoolToObject(request, "raw_scores", true);
        char *body = cJSON_PrintUnformatted(request);
        answer a = call(&minilm, NULL, "/predict", body);
        expect_status(&a, 200, body);
        double negative = cJSON_GetArrayItem(logits, 0)->valuedouble;
        double positive = cJSON_GetArrayItem(logits, 1)->valuedouble;
        bool up = strcmp(string_at(&a, "0.label"), "positive") == 0;
        assert_float_equal(number_at(&a, up ? "0.score" : "1.score"), positive, 1e-4);
        assert_float_equal(number_at(&a, up ? "1.score" : "0.score"), negative, 1e-4);
        answer_free(&a);
        free(body);
        cJSON_Delete(golden);
        cJSON_Delete(request);
    }
    free(line);
    fclose(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(classify_answers_in_the_documented_shape),
        cmocka_unit_test(a_list_is_answered_in_order),
        cmocka_unit_test(a_pair_is_more_than_its_first_text),
        cmocka_unit_test(a_nul_in_a_text_does_not_end_it),
        cmocka_unit_test(body_beats_header_beats_default),
        cmocka_unit_test(a_smaller_ratio_computes_fewer_neurons),
        cmocka_unit_test(ratio_one_is_the_dense_model),
        cmocka_unit_test(predict_has_the_shapes_of_text_embeddings_inference),
        cmocka_unit_test(top_k_cuts_the_scores),
        cmocka_unit_test(a_long_text_is_cut_unless_told_not_to),
        cmocka_unit_test(request_ids_are_echoed_if_they_are_sane),
        cmocka_unit_test(empty_and_odd_texts_are_texts),
        cmocka_unit_test(dense_logits_over_http_are_the_golden_ones),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
