/* test_json.c: bounds and messages of the JSON reader. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/model/json.h"

static void expect_refused(const char *text, size_t n, const char *part)
{
    cJSON *out = (cJSON *)1;
    moe_error err = {0};
    assert_int_equal(json_parse("file.json", text, n, &out, &err), MOE_E_FORMAT);
    assert_null(out);
    if (!strstr(err.message, "file.json: ") || !strstr(err.message, part))
        fail_msg("'%s' lacks '%s'", err.message, part);
}

static void malformed_text_is_refused_with_its_byte(void **state)
{
    (void)state;
    expect_refused("", 0, "byte 0");
    expect_refused("{\"a\":}", 6, "byte 5: malformed");
    expect_refused("[1,2", 4, "byte 3: malformed");
    expect_refused("{} x", 4, "byte 3: something follows");
    expect_refused("{}\0", 3, "byte 2: something follows");
    expect_refused("\"open", 5, "malformed");
    expect_refused("\"open\\", 6, "malformed");
    expect_refused("nul", 3, "malformed");
}

static void depth_is_bounded_at_64(void **state)
{
    (void)state;
    char text[200];
    memset(text, '[', 64);
    memset(text + 64, ']', 64);
    cJSON *out;
    assert_int_equal(json_parse("x", text, 128, &out, NULL), MOE_OK);
    cJSON_Delete(out);
    memset(text, '[', 65);
    memset(text + 65, ']', 65);
    expect_refused(text, 130, "byte 64: JSON nested deeper than 64");
}

static void brackets_within_strings_do_not_nest(void **state)
{
    (void)state;
    char text[200];
    int n = snprintf(text, sizeof text, "\"\\\"%s\"",
                     "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[");
    cJSON *out;
    assert_int_equal(json_parse("x", text, (size_t)n, &out, NULL), MOE_OK);
    cJSON_Delete(out);
}

static void number_and_value_counts_are_bounded(void **state)
{
    (void)state;
    char digits[70];
    memset(digits, '1', sizeof digits);
    expect_refused(digits, sizeof digits, "byte 60: a number of more than 60");
    size_t n = 5 << 20;
    char *many = malloc(n);
    assert_non_null(many);
    memset(many, ',', n);
    expect_refused(many, n, "JSON values");
    free(many);
}

static void lookups_name_key_expected_and_found(void **state)
{
    (void)state;
    const char *text = "{\"i\":7,\"f\":1.5,\"s\":\"str\",\"b\":true,\"z\":null,"
                       "\"big\":1e300,\"inf\":1e999,\"o\":{}}";
    cJSON *o;
    assert_int_equal(json_parse("p", text, strlen(text), &o, NULL), MOE_OK);
    int64_t i = 0;
    double x = 0;
    bool b = false;
    const char *s = NULL;
    moe_error err = {0};

    assert_int_equal(json_int(o, "p", "i", 0, 10, &i, NULL), MOE_OK);
    assert_int_equal(i, 7);
    assert_int_equal(json_int(o, "p", "i", 8, 10, &i, &err), MOE_E_FORMAT);
    assert_string_equal(err.message, "p: i is 7, expected a whole number in [8, 10]");
    assert_int_equal(json_int(o, "p", "none", 0, 1, &i, &err), MOE_E_FORMAT);
    assert_string_equal(err.message, "p: none is nothing, expected a whole number in [0, 1]");
    assert_int_equal(json_int(o, "p", "f", 0, 10, &i, &err), MOE_E_FORMAT);
    assert_int_equal(json_int(o, "p", "s", 0, 10, &i, &err), MOE_E_FORMAT);
    assert_string_equal(err.message, "p: s is \"str\", expected a whole number in [0, 10]");
    assert_int_equal(json_int(o, "p", "big", 0, INT64_MAX, &i, &err), MOE_E_FORMAT);
    assert_int_equal(json_int_or(o, "p", "z", 0, 10, 5, &i, NULL), MOE_OK);
    assert_int_equal(i, 5);

    assert_int_equal(json_number_or(o, "p", "f", 0, 2, 0, &x, NULL), MOE_OK);
    assert_true(x == 1.5);
    assert_int_equal(json_number_or(o, "p", "inf", 0, 1e308, 0, &x, &err), MOE_E_FORMAT);
    assert_int_equal(json_number_or(o, "p", "b", 0, 1, 0, &x, &err), MOE_E_FORMAT);
    assert_string_equal(err.message, "p: b is true, expected a number in [0, 1]");

    assert_int_equal(json_bool_or(o, "p", "b", false, &b, NULL), MOE_OK);
    assert_true(b);
    assert_int_equal(json_bool_or(o, "p", "i", false, &b, &err), MOE_E_FORMAT);
    assert_int_equal(json_string_or(o, "p", "s", "d", &s, NULL), MOE_OK);
    assert_string_equal(s, "str");
    assert_int_equal(json_string_or(o, "p", "none", "d", &s, NULL), MOE_OK);
    assert_string_equal(s, "d");
    assert_int_equal(json_string_or(o, "p", "o", "d", &s, &err), MOE_E_FORMAT);
    assert_string_equal(err.message, "p: o is an object, expected a string");
    cJSON_Delete(o);
}

static void files_are_bounded_and_must_be_files(void **state)
{
    (void)state;
    char path[4096];
    snprintf(path, sizeof path, "%s/t.json", getenv("MOE_TMP"));
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("{\"a\": [1, 2]}\n", f);
    fclose(f);
    cJSON *out;
    moe_error err = {0};
    assert_int_equal(json_read_file(path, 14, &out, &err), MOE_OK);
    cJSON_Delete(out);
    assert_int_equal(json_read_file(path, 13, &out, &err), MOE_E_FORMAT);
    assert_non_null(strstr(err.message, "14 bytes of JSON, expected at most 13"));
    assert_null(out);
    assert_int_equal(json_read_file(getenv("MOE_TMP"), 100, &out, &err), MOE_E_IO);
    remove(path);
    assert_int_equal(json_read_file(path, 100, &out, &err), MOE_E_IO);
    assert_non_null(strstr(err.message, path));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(malformed_text_is_refused_with_its_byte),
        cmocka_unit_test(depth_is_bounded_at_64),
        cmocka_unit_test(brackets_within_strings_do_not_nest),
        cmocka_unit_test(number_and_value_counts_are_bounded),
        cmocka_unit_test(lookups_name_key_expected_and_found),
        cmocka_unit_test(files_are_bounded_and_must_be_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
