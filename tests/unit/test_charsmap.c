/* test_charsmap.c: a compiled map of characters made by hand, and damaged ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/text/charsmap.h"

enum { UNITS = 512, STRINGS = 8 };

/* "a" becomes "xy", "ab" becomes "z", "c" nothing. Children of the root stand at
 * (256 ^ byte), a leaf at its parent's offset. */
static size_t make(unsigned char *to)
{
    uint32_t unit[UNITS] = {0};
    const uint32_t leaf_of_a = 0x80, leaf_of_c = 0x90, leaf_of_ab = 0xA0;
    unit[0] = 256u << 10;
    unit[256 ^ 'a'] = (leaf_of_a ^ 256u ^ 'a') << 10 | 1u << 8 | 'a';
    unit[256 ^ 'c'] = (leaf_of_c ^ 256u ^ 'c') << 10 | 1u << 8 | 'c';
    unit[leaf_of_a] = 1u << 31 | 0;
    unit[leaf_of_c] = 1u << 31 | 5;
    unit[leaf_of_a ^ 'b'] = (leaf_of_ab ^ leaf_of_a ^ 'b') << 10 | 1u << 8 | 'b';
    unit[leaf_of_ab] = 1u << 31 | 3;
    uint32_t bytes = sizeof unit;
    for (int i = 0; i < 4; i++)
        to[i] = (unsigned char)(bytes >> 8 * i);
    for (size_t u = 0; u < UNITS; u++)
        for (int i = 0; i < 4; i++)
            to[4 + 4 * u + (size_t)i] = (unsigned char)(unit[u] >> 8 * i);
    memcpy(to + 4 + bytes, "xy\0z\0\0q", STRINGS);
    return 4 + bytes + STRINGS;
}

static void expect(const charsmap *m, const char *text, const char *want, const int *places)
{
    size_t n = strlen(text), got = 0;
    int32_t at[64], *to_at;
    char *to;
    for (size_t i = 0; i < n; i++)
        at[i] = (int32_t)(10 + i);
    assert_true(charsmap_apply(m, text, n, at, &to, &to_at, &got));
    assert_int_equal(got, strlen(want));
    assert_memory_equal(to, want, got);
    for (size_t i = 0; i < got; i++)
        assert_int_equal(to_at[i], places[i]);
    free(to);
    free(to_at);
}

#define AT(...) (const int[]){__VA_ARGS__}

static charsmap open_made(void)
{
    unsigned char bytes[4 + 4 * UNITS + STRINGS];
    size_t n = make(bytes);
    charsmap m;
    moe_error err;
    assert_int_equal(charsmap_open(bytes, n, &m, &err), MOE_OK);
    return m;
}

static void characters_are_replaced_and_keep_their_places(void **state)
{
    (void)state;
    charsmap m = open_made();
    expect(&m, "dad", "dxyd", AT(10, 11, 11, 12));
    expect(&m, "ccd", "d", AT(12));
    expect(&m, "", "", AT(0));
    charsmap_close(&m);
}

/* "a" and a combining mark are one cluster, found by its shortest entry. */
static void a_cluster_is_looked_up_whole(void **state)
{
    (void)state;
    charsmap m = open_made();
    expect(&m, "a\xcc\x81" "d", "xyd", AT(10, 11, 13));
    expect(&m, "a\xcc\x81\xcc\x82\xcc\x83", "xy\xcc\x81\xcc\x82\xcc\x83",
           AT(10, 10, 11, 11, 13, 13, 15, 15)); /* too long to be: by characters */
    charsmap_close(&m);
}

static void no_map_changes_nothing(void **state)
{
    (void)state;
    charsmap m;
    moe_error err;
    assert_int_equal(charsmap_open(NULL, 0, &m, &err), MOE_OK);
    expect(&m, "abc", "abc", AT(10, 11, 12));
    charsmap_close(&m);
}

/* Every byte changed in turn: refused, or read without a fault. */
static void damaged_maps_do_no_harm(void **state)
{
    (void)state;
    unsigned char bytes[4 + 4 * UNITS + STRINGS];
    size_t n = make(bytes);
    charsmap m;
    moe_error err;
    const char text[] = "abcdab\xcc\x81";
    int32_t at[sizeof text] = {0}, *to_at;
    for (size_t i = 0; i < 8 * n; i++) {
        unsigned char before = bytes[i / 8];
        char *to;
        size_t got;
        bytes[i / 8] ^= (unsigned char)(1u << i % 8);
        if (charsmap_open(bytes, n, &m, &err) == MOE_OK) {
            assert_true(charsmap_apply(&m, text, sizeof text - 1, at, &to, &to_at, &got));
            free(to);
            free(to_at);
        }
        charsmap_close(&m);
        bytes[i / 8] = before;
    }
    for (size_t cut = 1; cut < 12; cut++) {
        assert_int_equal(charsmap_open(bytes, cut, &m, &err), MOE_E_FORMAT);
        assert_null(m.units);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(characters_are_replaced_and_keep_their_places),
        cmocka_unit_test(a_cluster_is_looked_up_whole),
        cmocka_unit_test(no_map_changes_nothing),
        cmocka_unit_test(damaged_maps_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
