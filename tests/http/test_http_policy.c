/* test_http_policy.c: requests that choose how experts are selected, or leave it
 * to the model. */
#include "engine/model/moefied.h"
#include "engine/model/pack.h"
#include "tests/http/harness.h"
#include "tests/support/tiny_model.h"

#define TEXT "{\"inputs\":[\"a b c\",\"q w e r t y\",\"z\"],\"ratio\":0.5"

static moefied server;

/* One network five times: following thresholds, having them, without, sharing a
 * sequence's budget, a checkpoint. */
static int start(void **state)
{
    static const struct { const char *name, *moefication; } made[] = {
        {"dynamic", TINY_THRESHOLDS("threshold")},
        {"counted", TINY_THRESHOLDS("topk")},
        {"bare", TINY_MOEFICATION},
        {"shared", TINY_MEANS("sequence")},
    };
    static char args[5][4200];
    (void)state;
    curl_global_init(CURL_GLOBAL_ALL);
    for (int i = 0; i < 4; i++) {
        tiny_moefied_write_as(tmp_path(made[i].name), 5, made[i].moefication);
        snprintf(args[i], sizeof args[i], "%s=%s", made[i].name, tmp_path(made[i].name));
    }
    tiny_model_write(tmp_path("plain"), 5);
    snprintf(args[4], sizeof args[4], "plain=%s", tmp_path("plain"));
    moefied_start(&server, "policy", "--model", args[0], "--model", args[1], "--model", args[2],
                  "--model", args[3], "--model", args[4], NULL);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    moefied_stop(&server);
    return 0;
}

static answer ask(const char *model, const char *more)
{
    char body[256];
    snprintf(body, sizeof body, TEXT ",\"model\":\"%s\"%s}", model, more);
    answer a = classify(&server, body);
    expect_status(&a, 200, body);
    return a;
}

static void expect_same_results(const answer *a, const answer *b, bool same)
{
    if (!cJSON_Compare(at(a, "results"), at(b, "results"), 1) == same)
        fail_msg("%s and %s", a->body, b->body);
    assert_int_equal(number_at(a, "ratio.effective") == number_at(b, "ratio.effective"), same);
}

static void a_request_may_choose_the_policy(void **state)
{
    (void)state;
    answer topk = ask("counted", ",\"policy\":\"topk\"");
    answer threshold = ask("counted", ",\"policy\":\"threshold\"");
    answer own = ask("counted", ""), null = ask("counted", ",\"policy\":null");
    assert_string_equal(string_at(&topk, "ratio.policy"), "topk");
    assert_string_equal(string_at(&threshold, "ratio.policy"), "threshold");
    expect_same_results(&topk, &threshold, false);
    expect_same_results(&topk, &own, true);
    expect_same_results(&topk, &null, true);
    answer dynamic = ask("dynamic", ""), told = ask("dynamic", ",\"policy\":\"topk\"");
    expect_same_results(&dynamic, &threshold, true);
    expect_same_results(&told, &topk, true);
    assert_string_equal(string_at(&dynamic, "ratio.policy"), "threshold");
    answer *const all[] = {&topk, &threshold, &own, &null, &dynamic, &told};
    for (int i = 0; i < 6; i++)
        answer_free(all[i]);
}

static void tokens_of_a_sequence_may_share_a_budget(void **state)
{
    (void)state;
    answer own = ask("shared", ""), told = ask("shared", ",\"policy\":\"sequence\"");
    answer topk = ask("shared", ",\"policy\":\"topk\""), other = ask("counted", "");
    assert_string_equal(string_at(&own, "ratio.policy"), "sequence");
    expect_same_results(&own, &told, true);
    expect_same_results(&own, &topk, false);
    expect_same_results(&other, &topk, true);
    answer *const all[] = {&own, &told, &topk, &other};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        answer_free(all[i]);
}

/* Without a policy asked for, answers of a topk model look as they always did. */
static void the_answer_names_a_policy_only_where_it_is_of_interest(void **state)
{
    static const char *const models[] = {"counted", "bare", "plain"};
    (void)state;
    for (int i = 0; i < 3; i++) {
        answer a = ask(models[i], "");
        assert_int_equal(cJSON_GetArraySize(at(&a, "ratio")), 2);
        answer_free(&a);
        a = ask(models[i], ",\"policy\":\"topk\"");
        assert_string_equal(string_at(&a, "ratio.policy"), "topk");
        answer_free(&a);
    }
}

static void predict_follows_a_policy_too(void **state)
{
    (void)state;
    answer topk = call(&server, NULL, "/predict",
                       "{\"inputs\":\"a b c\",\"ratio\":0.5,\"policy\":\"topk\"}");
    answer own = call(&server, NULL, "/predict", "{\"inputs\":\"a b c\",\"ratio\":0.5}");
    answer threshold = classify(&server, "{\"inputs\":\"a b c\",\"ratio\":0.5}");
    expect_status(&topk, 200, "topk");
    assert_false(cJSON_Compare(topk.json, own.json, 1));
    assert_true(cJSON_Compare(at(&threshold, "results.0.scores"), own.json, 1));
    answer_free(&topk);
    answer_free(&own);
    answer_free(&threshold);
}

static void a_policy_that_cannot_be_followed_is_refused(void **state)
{
    static const struct { const char *more, *says; } cases[] = {
        {"\"model\":\"bare\",\"policy\":\"threshold\"",
         "policy: model 'bare' has no thresholds, expected 'topk'"},
        {"\"model\":\"plain\",\"policy\":\"threshold\"", "policy: model 'plain' has no thresholds"},
        {"\"model\":\"bare\",\"policy\":\"threshold\",\"ratio\":1", "has no thresholds"},
        {"\"model\":\"bare\",\"policy\":\"sequence\"",
         "policy: model 'bare' has no mean_experts, expected 'topk'"},
        {"\"policy\":\"best\"", "policy: expected 'topk', 'threshold' or 'sequence', found 'best'"},
        {"\"policy\":0.5", "policy: expected 'topk', 'threshold' or 'sequence', found a number"},
        {"\"policy\":[\"topk\"]", "policy: expected 'topk', 'threshold' or 'sequence', found a list"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char body[256];
        snprintf(body, sizeof body, "{\"inputs\":\"a\",%s}", cases[i].more);
        bool lacks = strstr(cases[i].says, "has no"); /* the model, not the request */
        answer a = classify(&server, body);
        expect_status(&a, lacks ? 409 : 422, body);
        assert_string_equal(string_at(&a, "error.type"), lacks ? "conflict" : "invalid_value");
        if (!strstr(string_at(&a, "error.message"), cases[i].says))
            fail_msg("%s", a.body);
        answer_free(&a);
        a = call(&server, NULL, "/predict", body);
        expect_status(&a, lacks ? 409 : 422, body);
        assert_string_equal(string_at(&a, "error_type"), "Validation");
        answer_free(&a);
    }
    answer a = ask("bare", "");
    answer_free(&a);
}

static void models_show_their_policy_and_thresholds(void **state)
{
    (void)state;
    answer a = get(&server, "/v1/models");
    static const char *const policies[] = {"threshold", "topk", "topk", "sequence", ""};
    for (int i = 0; i < 5; i++) {
        char path[32];
        snprintf(path, sizeof path, "models.%d.policy", i);
        assert_string_equal(string_at(&a, path), policies[i]);
    }
    answer_free(&a);
    a = get(&server, "/v1/models/dynamic");
    assert_string_equal(string_at(&a, "policy"), "threshold");
    assert_float_equal(number_at(&a, "ratios.0.thresholds.1"), 0.25, 0);
    assert_float_equal(number_at(&a, "ratios.2.thresholds.0"), -0.2, 1e-8);
    answer_free(&a);
    a = get(&server, "/v1/models/shared");
    assert_float_equal(number_at(&a, "ratios.0.mean_experts.0"), 0.79, 1e-7);
    assert_float_equal(number_at(&a, "ratios.2.mean_experts.1"), 3, 0);
    answer_free(&a);
    a = get(&server, "/v1/models/bare");
    assert_int_equal(cJSON_GetArraySize(at(&a, "ratios.0")), 2);
    answer_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_may_choose_the_policy),
        cmocka_unit_test(tokens_of_a_sequence_may_share_a_budget),
        cmocka_unit_test(the_answer_names_a_policy_only_where_it_is_of_interest),
        cmocka_unit_test(predict_follows_a_policy_too),
        cmocka_unit_test(a_policy_that_cannot_be_followed_is_refused),
        cmocka_unit_test(models_show_their_policy_and_thresholds),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
