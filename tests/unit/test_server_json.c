/* test_server_json.c: what the JSON scanner passes, and where it finds faults. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "server/json.h"
#include "server/json_out.h"

static const json_limits limits = {.max_depth = 4, .max_values = 12};

static json_verdict scan(const char *text, json_fault *fault)
{
    return json_scan(text, strlen(text), &limits, fault);
}

static void well_formed_texts_pass(void **state)
{
    static const char *const texts[] = {
        "0", "-0.5e-3", " [ ] ", "{\"a\" : [1, true, null, {\"b\":\"\\u00e9\\ud83d\\ude00\"}]}",
        "\"\xc3\xa9 \xf0\x9f\x98\x80 \xed\x9f\xbf \xee\x80\x80\"", "[[[[]]]]", "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
        "1e308", "[1,2,3,4,5,6,7,8,9,10,11]",
    };
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        json_fault fault;
        jnode *tree;
        if (jnode_parse(texts[i], strlen(texts[i]), &limits, &tree, &fault) != JSON_FINE)
            fail_msg("%s: byte %zu: %s", texts[i], fault.byte, fault.message);
        jnode_free(tree);
    }
}

static void faults_are_named_with_their_byte(void **state)
{
    static const struct { const char *text; json_verdict verdict; size_t byte; } cases[] = {
        {"", JSON_MALFORMED, 0},
        {"   ", JSON_MALFORMED, 3},
        {"{", JSON_MALFORMED, 1},
        {"{\"a\":1,}", JSON_MALFORMED, 7},
        {"[1,]", JSON_MALFORMED, 3},
        {"[1 2]", JSON_MALFORMED, 3},
        {"{\"a\" 1}", JSON_MALFORMED, 5},
        {"{a:1}", JSON_MALFORMED, 1},
        {"01", JSON_MALFORMED, 1},
        {"1.", JSON_MALFORMED, 2},
        {"-", JSON_MALFORMED, 1},
        {"1e+", JSON_MALFORMED, 3},
        {"+1", JSON_MALFORMED, 0},
        {"tru", JSON_MALFORMED, 0},
        {"\"abc", JSON_MALFORMED, 4},
        {"\"a\nb\"", JSON_MALFORMED, 2},
        {"\"\\x\"", JSON_MALFORMED, 2},
        {"\"\\u12g4\"", JSON_MALFORMED, 1},
        {"\"\\u12", JSON_MALFORMED, 1},
        {"\"\\ud800\"", JSON_MALFORMED, 1},
        {"\"\\ud800\\u0041\"", JSON_MALFORMED, 1},
        {"\"\\udc00\"", JSON_MALFORMED, 1},
        {"\"\xff\"", JSON_MALFORMED, 1},
        {"\"a\xc0\x80\"", JSON_MALFORMED, 2},          /* overlong */
        {"\"\xed\xa0\x80\"", JSON_MALFORMED, 1},        /* a surrogate */
        {"\"\xf4\x90\x80\x80\"", JSON_MALFORMED, 1},    /* over U+10FFFF */
        {"\"\xe2\x82\"", JSON_MALFORMED, 1},            /* cut short */
        {"{} x", JSON_MALFORMED, 3},
        {"[[[[[]]]]]", JSON_MALFORMED, 4},
        {"{\"ratio\": NaN}", JSON_REFUSED, 10},
        {"[-Infinity]", JSON_REFUSED, 1},
        {"[Infinity]", JSON_REFUSED, 1},
        {"\"a\\u0000\"", JSON_REFUSED, 2},
        {"[1,2,3,4,5,6,7,8,9,10,11,12]", JSON_TOO_MANY, 25},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_fault fault;
        json_verdict verdict = scan(cases[i].text, &fault);
        if (verdict != cases[i].verdict || fault.byte != cases[i].byte || !fault.message[0])
            fail_msg("'%s': verdict %d at %zu (%s), expected %d at %zu", cases[i].text, verdict,
                     fault.byte, fault.message, cases[i].verdict, cases[i].byte);
    }
}

static void a_nul_byte_is_a_fault_not_an_end(void **state)
{
    json_fault fault;
    (void)state;
    assert_int_equal(json_scan("{}\0", 3, &limits, &fault), JSON_MALFORMED);
    assert_int_equal(fault.byte, 2);
    assert_int_equal(json_scan("\"a\0b\"", 5, &limits, &fault), JSON_MALFORMED);
    assert_int_equal(fault.byte, 2);
    assert_int_equal(json_scan("\"\\\0\"", 4, &limits, &fault), JSON_MALFORMED);
}

static void an_escaped_nul_is_part_of_its_string(void **state)
{
    static const json_limits nul_fine = {.max_depth = 4, .max_values = 12, .allow_nul = true};
    static const char text[] = "[\"a\\u0000\\u0000b\", \"\\\\u0000\", \"c\", {\"k\\u0000\": \"\\u0000\"}]";
    static const struct { const char *bytes; size_t n; } strings[] = {
        {"a\0\0b", 4}, {"\\u0000", 6}, {"c", 1},
    };
    json_fault fault;
    jnode *tree;
    (void)state;
    assert_int_equal(jnode_parse(text, sizeof text - 1, &nul_fine, &tree, &fault), JSON_FINE);
    const jnode *node = jnode_first(tree);
    for (int i = 0; i < 3; i++, node = jnode_next(node)) {
        assert_int_equal(jnode_length(node), strings[i].n);
        assert_memory_equal(jnode_string(node), strings[i].bytes, strings[i].n + 1);
    }
    assert_int_equal(jnode_length(jnode_first(node)), 1);
    assert_string_not_equal(jnode_key(jnode_first(node)), "k");
    jnode_free(tree);
}

static void a_number_too_long_for_the_parser_is_refused(void **state)
{
    char text[128];
    json_fault fault;
    (void)state;
    memset(text, '1', 100);
    text[100] = '\0';
    assert_int_equal(scan(text, &fault), JSON_REFUSED);
}

/* Whatever a text is turned into, the scanner ends inside it, and what it
 * passes, the parser takes. */
static void broken_texts_never_fool_the_parser(void **state)
{
    static const char seed_text[] =
        "{\"inputs\":[\"a\\u00e9\",{\"text\":\"b\xc3\xa9\",\"text_pair\":null}],\"ratio\":0.25e0}";
    unsigned seed = 20240817;
    (void)state;
    for (int round = 0; round < 20000; round++) {
        /* Exactly as long as the text, so that a sanitizer sees a step too far. */
        size_t n = (size_t)rand_r(&seed) % sizeof seed_text;
        char *text = malloc(n + 1);
        memcpy(text, seed_text, n);
        for (int k = 0; k < 3 && n; k++)
            text[(size_t)rand_r(&seed) % n] = "\"\\{}[],:0eu\xff\xc3N-"[rand_r(&seed) % 16];
        char *exact = realloc(text, n ? n : 1);
        json_fault fault;
        jnode *tree;
        json_verdict verdict = jnode_parse(exact, n, &limits, &tree, &fault);
        if (verdict == JSON_NO_MEMORY || (verdict != JSON_FINE && fault.byte > n))
            fail_msg("round %d of seed 20240817: verdict %d at %zu of %zu", round, verdict, fault.byte, n);
        jnode_free(tree);
        free(exact);
    }
}

static void the_writer_places_commas_and_escapes(void **state)
{
    buffer b = {0};
    (void)state;
    jw_open(&b, '{');
    jw_pair_string(&b, "a\"b", "x\n\t\\\x7f\xc3\xa9");
    jw_key(&b, "l");
    jw_open(&b, '[');
    jw_int(&b, -1);
    jw_open(&b, '[');
    jw_close(&b, ']');
    jw_number(&b, 0.1234567891, 7);
    jw_number(&b, 1.0 / 0.0, 7);
    jw_fixed(&b, 2.0 / 3, 3);
    jw_bool(&b, false);
    jw_close(&b, ']');
    jw_pair_uint(&b, "u", 18446744073709551615u);
    jw_close(&b, '}');
    assert_string_equal(b.bytes, "{\"a\\\"b\":\"x\\n\\u0009\\\\\\u007f\xc3\xa9\",\"l\":[-1,[],0.1234568,"
                                 "null,0.667,false],\"u\":18446744073709551615}");
    buffer_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(well_formed_texts_pass),
        cmocka_unit_test(faults_are_named_with_their_byte),
        cmocka_unit_test(a_nul_byte_is_a_fault_not_an_end),
        cmocka_unit_test(an_escaped_nul_is_part_of_its_string),
        cmocka_unit_test(a_number_too_long_for_the_parser_is_refused),
        cmocka_unit_test(broken_texts_never_fool_the_parser),
        cmocka_unit_test(the_writer_places_commas_and_escapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
