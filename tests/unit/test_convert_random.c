/* moefy random: the checkpoints it writes open and run, are the seed's alone, and a wrong
 * argument leaves nothing behind. */
#include "tests/support/moefy_cli.h"

/* What the tests write, which a run before this one may have left. */
static void clear(void)
{
    command_result r = SHELL("cd '%s' && rm -rf a b c t5 out*", scratch);
    assert_done(&r);
    command_free(&r);
}

static int set_up(void **state)
{
    (void)state;
    moefy_set_up();
    clear();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    clear();
    return 0;
}

static void a_random_t5_opens_and_generates_up_to_the_limit(void **state)
{
    (void)state;
    cJSON *j = one_object(MOEFY("random --shape t5-mini -o '%s/t5' --json", scratch));
    assert_string_equal(text(j, "shape"), "t5-mini");
    /* words, then 4 + 4 layers: attention (the decoder's twice), FFN, norms, distances */
    const double d = 256, floats = 8192 * d + 12 * 4 * d * d + 8 * 2 * d * 1024 + 22 * d +
                                   2 * 32 * 4;
    assert_true(number(j, "weight_bytes") == floats * 4);
    cJSON_Delete(j);
    j = one_object(MOEFY("run '%s/t5' --max-new-tokens 5 --json 'a charming journey'", scratch));
    const cJSON *ids = cJSON_GetObjectItem(j, "generated_ids");
    assert_in_range(cJSON_GetArraySize(ids), 2, 6); /* the start token before them */
    cJSON_Delete(j);
}

/* The score of one text by the model of that name. */
static double score(const char *name)
{
    cJSON *j = one_object(MOEFY("run '%s/%s' --json 'a charming journey'", scratch, name));
    double v = number(cJSON_GetArrayItem(cJSON_GetObjectItem(j, "scores"), 0), "logit");
    assert_true(isfinite(v));
    cJSON_Delete(j);
    return v;
}

static void equal_seeds_give_equal_bytes_and_others_do_not(void **state)
{
    (void)state;
    static const struct { const char *name; int seed; } each[] = {{"a", 7}, {"b", 7}, {"c", 8}};
    for (int i = 0; i < 3; i++) {
        command_result r = MOEFY("random --shape minilm --seed %d -o '%s/%s'", each[i].seed,
                                 scratch, each[i].name);
        assert_done(&r);
        command_free(&r);
    }
    command_result r = SHELL("cd '%s' && cmp a/model.safetensors b/model.safetensors && "
                             "! cmp -s a/model.safetensors c/model.safetensors", scratch);
    assert_done(&r);
    command_free(&r);
    assert_true(score("a") != score("c"));
}

static void wrong_arguments_say_what_is_allowed_and_leave_nothing(void **state)
{
    (void)state;
    assert_fails(MOEFY("random -o '%s/out'", scratch), 2, "needs --shape NAME and -o DIR");
    assert_fails(MOEFY("random --shape t5-larg -o '%s/out'", scratch), 2,
                 "--shape is 't5-larg', expected one of: t5-mini, t5-small");
    assert_fails(MOEFY("random --shape t5-mini -o '%s/out' --tokenizer %s", scratch, MODEL), 1,
                 "model_type is 'bert', expected 't5'");
    assert_fails(MOEFY("random --shape t5-mini -o '%s/out' --tokenizer nowhere", scratch), 1,
                 "nowhere/config.json");
    assert_fails(MOEFY("random --shape t5-mini -o '%s/tiny'", scratch), 1, "tiny");
    command_result r = SHELL("test -z \"$(find '%s' -name 'out*')\"", scratch);
    assert_done(&r);
    command_free(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_random_t5_opens_and_generates_up_to_the_limit),
        cmocka_unit_test(equal_seeds_give_equal_bytes_and_others_do_not),
        cmocka_unit_test(wrong_arguments_say_what_is_allowed_and_leave_nothing),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
