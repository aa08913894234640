/* Tasks of text-to-text models: templates filled in and refused, tasks known by name, and
 * those that moefication.tasks states. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/model/config.h"
#include "engine/model/model.h"
#include "engine/task/template.h"

static const moe_text both = {.text = "a {b}", .text_bytes = 5, .pair = "c", .pair_bytes = 1};

static void check_fill(const char *format, const moe_text *in, const char *expected)
{
    char *out;
    size_t n;
    moe_error err;
    const moe_text_task t = {"t", MOE_TASK_TEXT, format, NULL, 0};
    assert_int_equal(moe_text_task_apply(&t, in, &out, &n, &err), MOE_OK);
    assert_int_equal(n, strlen(expected));
    assert_string_equal(out, expected);
    free(out);
}

/* What a text holds is put in as it is, braces too. */
static void fields_are_filled_in(void **state)
{
    (void)state;
    check_fill("x: {text} y: {text_pair}", &both, "x: a {b} y: c");
    check_fill("{context}{question}{text}", &both, "ca {b}a {b}");
    check_fill("no field", &both, "no field");
    check_fill("", &both, "");
    check_fill("{text}.", &(moe_text){.text = "", .text_bytes = 0}, ".");
}

static void a_pair_that_is_not_there_is_missed(void **state)
{
    (void)state;
    char *out;
    size_t n;
    moe_error err;
    const moe_text_task t = {"mine", MOE_TASK_TEXT, "{text} {text_pair}", NULL, 0};
    assert_int_equal(moe_text_task_apply(&t, &(moe_text){.text = "a", .text_bytes = 1}, &out, &n,
                                         &err), MOE_E_ARGUMENT);
    assert_null(out);
    assert_string_equal(err.message, "task 'mine' needs a second text");
}

static void broken_templates_are_refused(void **state)
{
    (void)state;
    static const char *const broken[] = {"{label}", "{text", "text}", "{text}}", "{te{xt}", "{}",
                                         "{text_pairs}", "{"};
    moe_error err;
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++)
        assert_int_equal(template_check("t", broken[i], &err), MOE_E_FORMAT);
    assert_int_equal(template_check("t", "a {label}", &err), MOE_E_FORMAT);
    assert_non_null(strstr(err.message, "the field {label}, expected {text}"));
}

static void known_tasks_have_whole_templates(void **state)
{
    (void)state;
    int n;
    moe_error err;
    const moe_text_task *known = moe_text_tasks_known(&n);
    assert_true(n >= 9);
    for (int i = 0; i < n; i++) {
        assert_int_equal(template_check(known[i].name, known[i].format, &err), MOE_OK);
        bool labelled = known[i].kind == MOE_TASK_CLASSIFY || known[i].kind == MOE_TASK_REGRESS;
        assert_int_equal(labelled, known[i].n_labels > 1);
    }
}

static void a_models_own_task_comes_before_a_known_one(void **state)
{
    (void)state;
    const moe_text_task own[] = {{"sst2", MOE_TASK_TEXT, "mine: {text}", NULL, 0}};
    moe_model m = {.info = {.task = MOE_TASK_TEXT, .n_tasks = 1, .tasks = own}};
    assert_ptr_equal(moe_text_task_find(&m, "sst2"), own);
    assert_string_equal(moe_text_task_find(&m, "mrpc")->name, "mrpc");
    assert_null(moe_text_task_find(&m, "nothing"));
    m.info.task = MOE_TASK_CLASSIFY;
    assert_null(moe_text_task_find(&m, "mrpc"));
}

/* ---- moefication.tasks ------------------------------------------------------------ */

static moe_status parse(const char *tasks, model_config *c, moe_error *err)
{
    static char text[4096];
    snprintf(text, sizeof text,
             "{\"architectures\":[\"T5ForConditionalGeneration\"],\"model_type\":\"t5\","
             "\"d_model\":64,\"d_kv\":16,\"num_heads\":2,\"d_ff\":64,\"num_layers\":1,"
             "\"vocab_size\":100,\"moefication\":{\"format_version\":1,\"expert_size\":32,"
             "\"n_experts\":2,\"dtype\":\"f32\",\"split\":\"random\",\"router\":{\"kind\":\"norm\","
             "\"linears\":1},\"layers\":[0,1],\"ratio_table\":[{\"ratio\":1,\"experts\":[2,2]}],"
             "\"tasks\":%s}}", tasks);
    return config_parse("D/config.json", text, strlen(text), c, err);
}

static void stated_tasks_are_read(void **state)
{
    (void)state;
    model_config c;
    moe_error err;
    assert_int_equal(parse("[{\"name\":\"mood\",\"kind\":\"classification\",\"template\":"
                           "\"mood: {text}\",\"labels\":[\"bad\",\"good\"]},{\"name\":\"say\","
                           "\"kind\":\"text\",\"template\":\"{text}\"}]", &c, &err), MOE_OK);
    assert_int_equal(c.n_tasks, 2);
    assert_string_equal(c.tasks[0].name, "mood");
    assert_int_equal(c.tasks[0].kind, MOE_TASK_CLASSIFY);
    assert_int_equal(c.tasks[0].n_labels, 2);
    assert_string_equal(c.tasks[0].labels[1], "good");
    assert_int_equal(c.tasks[1].kind, MOE_TASK_TEXT);
    assert_int_equal(c.n_layers, 2);
    assert_int_equal(c.n_decoder_layers, 1);
    config_free(&c);
}

static void wrong_tasks_are_refused(void **state)
{
    (void)state;
    static const struct { const char *tasks, *part; } wrong[] = {
        {"{}", "is not a list"},
        {"[1]", "tasks[0] is not an object"},
        {"[{\"kind\":\"text\",\"template\":\"x\"}]", "tasks[0].name"},
        {"[{\"name\":\"a\",\"kind\":\"guess\",\"template\":\"x\"}]", "kind is \"guess\""},
        {"[{\"name\":\"a\",\"kind\":\"text\",\"template\":\"{no}\"}]", "field {no}"},
        {"[{\"name\":\"a\",\"kind\":\"classification\",\"template\":\"x\"}]", "has 0 words"},
        {"[{\"name\":\"a\",\"kind\":\"text\",\"template\":\"x\",\"labels\":[\"a\",\"b\"]}]",
         "has 2 words, expected none"},
        {"[{\"name\":\"a\",\"kind\":\"classification\",\"template\":\"x\",\"labels\":[\"a\",1]}]",
         "labels[1] is no word"},
        {"[{\"name\":\"a\",\"kind\":\"text\",\"template\":\"x\"},{\"name\":\"a\",\"kind\":\"text\","
         "\"template\":\"x\"}]", "'a' twice"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        model_config c;
        moe_error err;
        assert_int_equal(parse(wrong[i].tasks, &c, &err), MOE_E_FORMAT);
        if (!strstr(err.message, wrong[i].part))
            fail_msg("'%s' should hold '%s'", err.message, wrong[i].part);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_are_filled_in),
        cmocka_unit_test(a_pair_that_is_not_there_is_missed),
        cmocka_unit_test(broken_templates_are_refused),
        cmocka_unit_test(known_tasks_have_whole_templates),
        cmocka_unit_test(a_models_own_task_comes_before_a_known_one),
        cmocka_unit_test(stated_tasks_are_read),
        cmocka_unit_test(wrong_tasks_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
