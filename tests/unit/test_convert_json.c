/* Tests of convert/json: what is built comes out as JSON, what is read keeps its
 * bytes, NULs and broken UTF-8 included. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <math.h>
#include <string.h>

#include <cmocka.h>

#include "convert/json.h"

/* Prints j on one line, compares, frees both. */
static void assert_prints(json *j, const char *expected)
{
    char *text = json_print(j, false);
    assert_non_null(text);
    assert_string_equal(text, expected);
    free(text);
    json_free(j);
}

static json *parse(const char *text)
{
    return json_parse_text(text, strlen(text));
}

static void objects_keep_the_order_they_were_built_in(void **state)
{
    (void)state;
    json *j = json_object();
    json_add_int(j, "b", 2);
    json *list = json_add(j, "a", json_array());
    json_add_string(list, NULL, "x");
    json_add_bool(list, NULL, true);
    json_add_null(list, NULL);
    json_add(j, "empty", json_object());
    assert_prints(j, "{\"b\": 2, \"a\": [\"x\", true, null], \"empty\": {}}");
}

static void numbers_are_rounded_to_their_digits(void **state)
{
    (void)state;
    json *j = json_array();
    json_add_number(j, NULL, 1.0 / 3, 4);
    json_add_number(j, NULL, 0.1f, 9);
    json_add_number(j, NULL, 2, 3);
    json_add_number(j, NULL, -1e-7, 3);
    json_add_number(j, NULL, NAN, 6);
    json_add_number(j, NULL, INFINITY, 6);
    assert_prints(j, "[0.3333, 0.100000001, 2, -1e-07, null, null]");
}

static void whole_numbers_keep_every_digit(void **state)
{
    (void)state;
    json *j = json_array();
    json_add_int(j, NULL, INT64_MAX);
    json_add_int(j, NULL, INT64_MIN);
    json_add_int(j, NULL, (1LL << 53) - 1);
    assert_prints(j, "[9223372036854775807, -9223372036854775808, 9007199254740991]");
}

static void strings_are_escaped(void **state)
{
    (void)state;
    json *j = json_array();
    json_add_string(j, NULL, "\"\\/\b\f\n\r\t\x01\x7F \xC3\xA9 \xF0\x9F\x98\x80");
    assert_prints(j, "[\"\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u007f \xC3\xA9 \xF0\x9F\x98\x80\"]");
}

static void a_string_may_hold_a_nul(void **state)
{
    (void)state;
    json *j = json_array();
    json_add_string_n(j, NULL, "a\0b", 3);
    json_add_string_n(j, NULL, "", 0);
    assert_prints(j, "[\"a\\u0000b\", \"\"]");
}

static void bytes_that_are_not_utf8_are_printed_as_replacement(void **state)
{
    (void)state;
    json *j = json_array();
    json_add_string(j, NULL, "a\xFF" "b\xC3");
    json_add_string(j, NULL, "\xED\xA0\x80"); /* a surrogate */
    assert_prints(j, "[\"a\xEF\xBF\xBD" "b\xEF\xBF\xBD\", "
                     "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\"]");
}

static void a_nul_escape_is_read_as_a_nul(void **state)
{
    (void)state;
    size_t n = 0;
    json *j = parse("{\"text\": \"a\\u0000b\", \"other\": \"\\\\u0000\"}");
    assert_non_null(j);
    assert_memory_equal(json_get_string_n(j, "text", &n), "a\0b", 4);
    assert_int_equal(n, 3);
    assert_string_equal(json_get_string_n(j, "other", &n), "\\u0000");
    assert_int_equal(n, 6);
    assert_prints(j, "{\"text\": \"a\\u0000b\", \"other\": \"\\\\u0000\"}");
}

static void what_is_no_json_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "", " ", "{", "{\"a\":1", "{\"a\":1} x", "{\"a\":1}{", "[1,]", "'a'", "nul",
        "\"\\u12\"", "\"\\uD800\"", "\"a", "\"\xFF\"", "\"\xC0\x80\"", "{\"a\" 1}",
        "\"\\", "\"\\u000", "[", "-", "\"\\x\"",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json *j = parse(bad[i]);
        if (j)
            fail_msg("'%s' was taken for JSON", bad[i]);
    }
    assert_null(json_parse_text("[1]\0", 4));
}

static void deep_nesting_is_refused_not_fatal(void **state)
{
    (void)state;
    enum { DEPTH = 200000 };
    char *deep = malloc(DEPTH);
    assert_non_null(deep);
    memset(deep, '[', DEPTH);
    assert_null(json_parse_text(deep, DEPTH));
    free(deep);
}

static void values_of_another_type_are_not_there(void **state)
{
    (void)state;
    double number = 7;
    json *j = parse(" {\"n\": 1.5, \"s\": \"x\", \"z\": null}\r\n");
    assert_non_null(j);
    assert_null(json_get_string(j, "n"));
    assert_null(json_get_string(j, "missing"));
    assert_null(json_get(j, "N"));
    assert_false(json_get_number(j, "s", &number));
    assert_true(json_get_number(j, "n", &number));
    assert_true(number == 1.5);
    assert_true(json_is_null(json_get(j, "z")));
    assert_false(json_is_object(json_get(j, "z")));
    assert_false(json_is_object(NULL));
    json_free(j);
}

static void children_are_walked_in_order(void **state)
{
    (void)state;
    double sum = 0, value;
    json *j = parse("[1, 20, 300]");
    for (const json *c = json_first(j); c; c = json_next(c)) {
        assert_true(json_number(c, &value));
        sum = sum * 2 + value;
    }
    assert_true(sum == 344);
    json_free(j);
    assert_null(json_first(NULL));
}

static void pretty_text_is_indented_and_keeps_lists_of_numbers_on_a_line(void **state)
{
    (void)state;
    json *j = parse("{\"a\":[1,2],\"b\":{\"c\":[{\"d\":1}]}}");
    char *text = json_print(j, true);
    assert_string_equal(text, "{\n  \"a\": [1, 2],\n  \"b\": {\n    \"c\": [\n      {\n"
                              "        \"d\": 1\n      }\n    ]\n  }\n}");
    free(text);
    json_free(j);
}

static void a_tree_with_a_hole_is_not_printed(void **state)
{
    (void)state;
    json *j = json_object();
    json *inner = json_add(j, "inner", json_object());
    assert_null(json_add(inner, "lost", NULL)); /* as when memory ran out */
    json_add_int(NULL, "x", 1);
    assert_null(json_print(j, false));
    json_free(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(objects_keep_the_order_they_were_built_in),
        cmocka_unit_test(numbers_are_rounded_to_their_digits),
        cmocka_unit_test(whole_numbers_keep_every_digit),
        cmocka_unit_test(strings_are_escaped),
        cmocka_unit_test(a_string_may_hold_a_nul),
        cmocka_unit_test(bytes_that_are_not_utf8_are_printed_as_replacement),
        cmocka_unit_test(a_nul_escape_is_read_as_a_nul),
        cmocka_unit_test(what_is_no_json_is_refused),
        cmocka_unit_test(deep_nesting_is_refused_not_fatal),
        cmocka_unit_test(values_of_another_type_are_not_there),
        cmocka_unit_test(children_are_walked_in_order),
        cmocka_unit_test(pretty_text_is_indented_and_keeps_lists_of_numbers_on_a_line),
        cmocka_unit_test(a_tree_with_a_hole_is_not_printed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
