/* test_server_request.c: bodies of /v1/classify and /predict, right and wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "server/request.h"

static const request_limits limits = {.max_inputs = 3, .max_depth = 8};

static bool classify(const char *body, inference_request *r, problem *p)
{
    return request_parse_classify(body, strlen(body), &limits, r, p);
}

static bool predict(const char *body, inference_request *r, problem *p)
{
    return request_parse_predict(body, strlen(body), &limits, r, p);
}

static void classify_takes_a_text_an_object_or_a_list(void **state)
{
    inference_request r;
    problem p;
    (void)state;
    assert_true(classify("{\"inputs\":\"a\"}", &r, &p));
    assert_int_equal(r.n_inputs, 1);
    assert_false(r.list);
    assert_true(r.truncate);
    assert_false(r.has_ratio);
    request_free(&r);

    assert_true(classify("{\"inputs\":[\"a\",{\"text\":\"b\",\"text_pair\":\"c\"},{\"text\":\"d\","
                         "\"text_pair\":null}],\"ratio\":0.25,\"top_k\":2,\"truncate\":false,"
                         "\"model\":\"m\"}", &r, &p));
    assert_int_equal(r.n_inputs, 3);
    assert_true(r.list);
    assert_string_equal(r.inputs[1].text, "b");
    assert_string_equal(r.inputs[1].pair, "c");
    assert_null(r.inputs[2].pair);
    assert_float_equal(r.ratio, 0.25, 0);
    assert_int_equal(r.top_k, 2);
    assert_false(r.truncate);
    assert_string_equal(r.model, "m");
    request_free(&r);
}

static void a_nul_belongs_to_a_text_but_to_no_name(void **state)
{
    inference_request r;
    problem p;
    (void)state;
    assert_true(classify("{\"inputs\":{\"text\":\"a\\u0000b\",\"text_pair\":\"\\u0000\"}}", &r, &p));
    assert_int_equal(r.inputs[0].text_bytes, 3);
    assert_memory_equal(r.inputs[0].text, "a\0b", 4);
    assert_int_equal(r.inputs[0].pair_bytes, 1);
    request_free(&r);
    assert_false(classify("{\"inputs\":\"a\",\"model\":\"m\\u0000x\"}", &r, &p));
    assert_int_equal(p.status, 422);
    assert_false(predict("{\"inputs\":\"a\",\"truncation_direction\":\"left\\u0000\"}", &r, &p));
    assert_int_equal(p.status, 422);
}

static void null_counts_as_absent(void **state)
{
    inference_request r;
    problem p;
    (void)state;
    assert_true(classify("{\"inputs\":\"a\",\"ratio\":null,\"model\":null,\"top_k\":null,"
                         "\"truncate\":null,\"policy\":null}", &r, &p));
    assert_int_equal(r.policy, MOE_POLICY_MODEL);
    assert_false(r.has_ratio);
    assert_null(r.model);
    assert_true(r.truncate);
    request_free(&r);
    assert_false(classify("{\"inputs\":null}", &r, &p));
    assert_int_equal(p.status, 422);
}

static void a_policy_is_read_by_name(void **state)
{
    inference_request r;
    problem p;
    (void)state;
    assert_true(classify("{\"inputs\":\"a\",\"policy\":\"threshold\"}", &r, &p));
    assert_int_equal(r.policy, MOE_POLICY_THRESHOLD);
    request_free(&r);
    assert_true(predict("{\"inputs\":\"a\",\"policy\":\"topk\"}", &r, &p));
    assert_int_equal(r.policy, MOE_POLICY_TOPK);
    request_free(&r);
    assert_true(classify("{\"inputs\":\"a\",\"policy\":\"sequence\"}", &r, &p));
    assert_int_equal(r.policy, MOE_POLICY_SEQUENCE);
    request_free(&r);
    assert_false(predict("{\"inputs\":\"a\",\"policy\":\"best\"}", &r, &p));
    assert_int_equal(p.status, 422);
}

static void predict_tells_pairs_from_batches(void **state)
{
    inference_request r;
    problem p;
    (void)state;
    assert_true(predict("{\"inputs\":[\"a\",\"b\"]}", &r, &p));
    assert_int_equal(r.n_inputs, 1);
    assert_string_equal(r.inputs[0].pair, "b");
    assert_false(r.list);
    request_free(&r);

    assert_true(predict("{\"inputs\":[[\"a\"],[\"b\",\"c\"]],\"raw_scores\":true,"
                        "\"truncation_direction\":\"Left\",\"parameters\":{}}", &r, &p));
    assert_int_equal(r.n_inputs, 2);
    assert_null(r.inputs[0].pair);
    assert_string_equal(r.inputs[1].pair, "c");
    assert_true(r.list && r.raw_scores && r.truncate_left);
    request_free(&r);

    assert_false(predict("{\"inputs\":[\"a\",\"b\",\"c\"]}", &r, &p));
    assert_false(predict("{\"inputs\":[[\"a\"],\"b\"]}", &r, &p));
    assert_false(predict("{\"inputs\":[[]]}", &r, &p));
    assert_int_equal(p.status, 422);
}

static void each_wrong_value_is_named(void **state)
{
    static const struct { const char *body; int status; const char *type, *says; } cases[] = {
        {"{", 400, "malformed_json", "byte 1"},
        {"[]", 422, "invalid_value", "object"},
        {"{}", 422, "invalid_value", "inputs"},
        {"{\"inputs\":[]}", 422, "empty", "inputs"},
        {"{\"inputs\":[\"a\",\"b\",\"c\",\"d\"]}", 422, "too_many_inputs", "at most 3"},
        {"{\"inputs\":5}", 422, "invalid_value", "a number"},
        {"{\"inputs\":[5]}", 422, "invalid_value", "inputs"},
        {"{\"inputs\":{\"text\":5}}", 422, "invalid_value", "text"},
        {"{\"inputs\":{\"text_pair\":\"b\"}}", 422, "invalid_value", "text"},
        {"{\"inputs\":{\"text\":\"a\",\"txet\":\"b\"}}", 422, "unknown_key", "txet"},
        {"{\"inputs\":{\"text\":\"a\",\"text\":\"b\"}}", 422, "duplicate_key", "text"},
        {"{\"inputs\":\"a\",\"ratio\":0}", 422, "invalid_value", "ratio"},
        {"{\"inputs\":\"a\",\"ratio\":-0.5}", 422, "invalid_value", "ratio"},
        {"{\"inputs\":\"a\",\"ratio\":1.5}", 422, "invalid_value", "ratio"},
        {"{\"inputs\":\"a\",\"ratio\":1e999}", 422, "invalid_value", "ratio"},
        {"{\"inputs\":\"a\",\"ratio\":\"x\"}", 422, "invalid_value", "ratio"},
        {"{\"inputs\":\"a\",\"ratio\":NaN}", 422, "invalid_value", "NaN"},
        {"{\"inputs\":\"a\",\"ratio\":true}", 422, "invalid_value", "ratio"},
        {"{\"inputs\":\"a\",\"ratio\":0.5,\"ratio\":0.25}", 422, "duplicate_key", "ratio"},
        {"{\"inputs\":\"a\",\"ratoi\":0.5}", 422, "unknown_key", "ratoi"},
        {"{\"inputs\":\"a\",\"raw_scores\":true}", 422, "unknown_key", "raw_scores"},
        {"{\"inputs\":\"a\",\"policy\":\"best\"}", 422, "invalid_value",
         "policy: expected 'topk', 'threshold' or 'sequence', found 'best'"},
        {"{\"inputs\":\"a\",\"policy\":\"model\"}", 422, "invalid_value", "found 'model'"},
        {"{\"inputs\":\"a\",\"policy\":1}", 422, "invalid_value", "policy: expected 'topk', 'threshold' or 'sequence'"},
        {"{\"inputs\":\"a\",\"policy\":\"topk\\u0000\"}", 422, "invalid_value", "policy"},
        {"{\"inputs\":\"a\",\"policy\":\"topk\",\"policy\":\"topk\"}", 422, "duplicate_key", "policy"},
        {"{\"inputs\":\"a\",\"top_k\":0}", 422, "invalid_value", "top_k"},
        {"{\"inputs\":\"a\",\"top_k\":1.5}", 422, "invalid_value", "top_k"},
        {"{\"inputs\":\"a\",\"top_k\":1e99}", 422, "invalid_value", "top_k"},
        {"{\"inputs\":\"a\",\"truncate\":\"no\"}", 422, "invalid_value", "truncate"},
        {"{\"inputs\":\"a\",\"model\":1}", 422, "invalid_value", "model"},
        {"{\"inputs\":\"a\",\"x\":[[[[[[[[[1]]]]]]]]]}", 400, "malformed_json", "deeper than 8"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        inference_request r;
        problem p = {0};
        if (classify(cases[i].body, &r, &p) || p.status != cases[i].status ||
            strcmp(p.type, cases[i].type) != 0 || !strstr(p.message, cases[i].says))
            fail_msg("%s: %d %s: %s; expected %d %s naming '%s'", cases[i].body, p.status, p.type,
                     p.message, cases[i].status, cases[i].type, cases[i].says);
    }
}

static void a_list_far_over_the_limit_is_refused_before_it_is_built(void **state)
{
    char body[4096] = "{\"inputs\":[";
    inference_request r;
    problem p;
    (void)state;
    for (int i = 0; i < 1000; i++)
        strcat(body, i ? ",1" : "1");
    strcat(body, "]}");
    assert_false(classify(body, &r, &p));
    assert_int_equal(p.status, 422);
    assert_non_null(strstr(p.message, "values"));
}

static void header_ratios_are_plain_numbers_in_range(void **state)
{
    static const char *const bad[] = {"", "0", "-1", "1.5", "nan", "NaN", "inf", "0x1", "1 2",
                                      "0.5x", " 0.5", "+0.5", "x", "0x.8", "1e-400"};
    double ratio;
    (void)state;
    assert_true(request_parse_ratio("0.25", &ratio));
    assert_float_equal(ratio, 0.25, 0);
    assert_true(request_parse_ratio("1", &ratio));
    assert_true(request_parse_ratio("2.5e-1 ", &ratio));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (request_parse_ratio(bad[i], &ratio))
            fail_msg("'%s' was taken as %g", bad[i], ratio);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(classify_takes_a_text_an_object_or_a_list),
        cmocka_unit_test(a_nul_belongs_to_a_text_but_to_no_name),
        cmocka_unit_test(null_counts_as_absent),
        cmocka_unit_test(a_policy_is_read_by_name),
        cmocka_unit_test(predict_tells_pairs_from_batches),
        cmocka_unit_test(each_wrong_value_is_named),
        cmocka_unit_test(a_list_far_over_the_limit_is_refused_before_it_is_built),
        cmocka_unit_test(header_ratios_are_plain_numbers_in_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
