/* test_wordpiece.c: what the tokenizer does at its edges: limits, truncation, broken
 * UTF-8, long words, added tokens. Agreement with the crate is tests/golden's part. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"

enum { PAD, UNK, CLS, SEP, A, B, C, AB, AA, CONT_A, CONT_B, COMMA, E_ACUTE, MASK, N_VOCAB };

static const char *const VOCAB[N_VOCAB] = {
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "ab", "aa", "##a", "##b", ",",
    "\u00E9", "[MASK]",
};

static const wordpiece_spec PLAIN = {
    .n_vocab = N_VOCAB, .vocab = VOCAB, .unk_token = "[UNK]", .prefix = "##",
    .max_word_chars = 10, .clean_text = true, .split_cjk = true, .lower_case = true,
    .strip_accents = true, .cls = CLS, .sep = SEP,
};

static moe_tokenizer *make(const wordpiece_spec *spec)
{
    moe_tokenizer *t;
    moe_error err = {0};
    if (tokenizer_create_wordpiece(spec, &t, &err) != MOE_OK)
        fail_msg("%s", err.message);
    return t;
}

static moe_text text(const char *s)
{
    return (moe_text){.text = s, .text_bytes = strlen(s), .want_offsets = true};
}

static moe_text pair(const char *a, const char *b, moe_truncation how)
{
    moe_text in = text(a);
    in.pair = b;
    in.pair_bytes = strlen(b);
    in.truncation = how;
    return in;
}

/* The tokens' strings, joined by spaces. */
static char *encoded(const moe_tokenizer *t, const moe_text *in, int limit, int *cut)
{
    static char out[4096];
    moe_tokens tokens;
    moe_error err = {0};
    if (tokenizer_encode(t, in, limit, &tokens, &err) != MOE_OK)
        fail_msg("%s", err.message);
    size_t n = 0;
    for (int i = 0; i < tokens.n; i++)
        n += (size_t)snprintf(out + n, sizeof out - n, "%s%s", i ? " " : "",
                              tokenizer_token(t, tokens.ids[i]));
    if (cut)
        *cut = tokens.n_truncated;
    moe_tokens_free(&tokens);
    return out;
}

static void expect(const wordpiece_spec *spec, const char *s, const char *tokens)
{
    moe_tokenizer *t = make(spec);
    moe_text in = text(s);
    assert_string_equal(encoded(t, &in, 512, NULL), tokens);
    tokenizer_destroy(t);
}

static void expect_refused(const wordpiece_spec *spec, moe_status status, const char *part)
{
    moe_tokenizer *t = (moe_tokenizer *)1;
    moe_error err = {0};
    assert_int_equal(tokenizer_create_wordpiece(spec, &t, &err), status);
    assert_null(t);
    if (!strstr(err.message, part))
        fail_msg("'%s' lacks '%s'", err.message, part);
}

/* ---- words ------------------------------------------------------------- */

static void the_longest_piece_is_taken_and_no_way_back(void **state)
{
    (void)state;
    expect(&PLAIN, "aba", "[CLS] ab ##a [SEP]");
    expect(&PLAIN, "aaa", "[CLS] aa ##a [SEP]");
    expect(&PLAIN, "abc", "[CLS] [UNK] [SEP]"); /* nothing for ##c */
    expect(&PLAIN, "ca a", "[CLS] c ##a a [SEP]");
}

static void a_word_past_the_limit_is_unknown_as_a_whole(void **state)
{
    (void)state;
    expect(&PLAIN, "aaaaaaaaaa", "[CLS] aa ##a ##a ##a ##a ##a ##a ##a ##a [SEP]");
    expect(&PLAIN, "aaaaaaaaaaa b", "[CLS] [UNK] b [SEP]");
    wordpiece_spec keep = PLAIN;
    keep.strip_accents = false;
    expect(&keep, "\u00E9", "[CLS] \u00E9 [SEP]");
    expect(&keep, "\u00E9\u00E9\u00E9\u00E9\u00E9\u00E9\u00E9\u00E9\u00E9\u00E9\u00E9a,",
           "[CLS] [UNK] , [SEP]");
}

static void a_vocabulary_without_continuations_works(void **state)
{
    (void)state;
    const char *const vocab[] = {"[UNK]", "a", "b"};
    wordpiece_spec spec = PLAIN;
    spec.n_vocab = 3;
    spec.vocab = vocab;
    spec.cls = spec.sep = 0;
    expect(&spec, "a ab b", "[UNK] a [UNK] b [UNK]");
    spec.prefix = ""; /* then any token continues a word */
    expect(&spec, "a ab b", "[UNK] a a b b [UNK]");
}

static void offsets_point_into_the_original(void **state)
{
    (void)state;
    moe_tokenizer *t = make(&PLAIN);
    /* A-grave, zero-width space, combining acute: "aa", code points 1 to 5. */
    moe_text in = text(" \u00C0\u200B\u0301A,\x01" "b");
    moe_tokens tokens;
    assert_int_equal(tokenizer_encode(t, &in, 512, &tokens, NULL), MOE_OK);
    const int32_t spans[5][3] = {{-1, 0, 0}, {0, 1, 5}, {0, 5, 6}, {0, 7, 8}, {-1, 0, 0}};
    assert_int_equal(tokens.n, 5);
    assert_memory_equal(tokens.spans, spans, sizeof spans);
    moe_tokens_free(&tokens);
    in.want_offsets = false;
    assert_int_equal(tokenizer_encode(t, &in, 512, &tokens, NULL), MOE_OK);
    assert_null(tokens.spans);
    moe_tokens_free(&tokens);
    tokenizer_destroy(t);
}

/* ---- truncation -------------------------------------------------------- */

static void longest_first_cuts_the_longer_then_halves(void **state)
{
    (void)state;
    const struct { const char *a, *b; int limit; const char *tokens; int cut; } cases[] = {
        {"a a a", "b b", 8, "[CLS] a a a [SEP] b b [SEP]", 0},
        {"a a a", "b b", 7, "[CLS] a a [SEP] b b [SEP]", 1},
        {"a a a a a a", "b", 7, "[CLS] a a a [SEP] b [SEP]", 3},
        {"a", "b b b b b b", 7, "[CLS] a [SEP] b b b [SEP]", 3},
        {"a a a a", "b b b b", 8, "[CLS] a a [SEP] b b b [SEP]", 3},
        {"a a a a a", "b b b b", 8, "[CLS] a a a [SEP] b b [SEP]", 4},
        {"a a", "", 4, "[CLS] a [SEP] [SEP]", 1},
        {"a", "b", 3, "[CLS] [SEP] [SEP]", 2},
        {"", "", 3, "[CLS] [SEP] [SEP]", 0},
    };
    moe_tokenizer *t = make(&PLAIN);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int cut;
        moe_text in = pair(cases[i].a, cases[i].b, MOE_TRUNCATE_LONGEST_FIRST);
        assert_string_equal(encoded(t, &in, cases[i].limit, &cut), cases[i].tokens);
        assert_int_equal(cut, cases[i].cut);
    }
    tokenizer_destroy(t);
}

static void only_second_leaves_the_first_alone(void **state)
{
    (void)state;
    int cut;
    moe_tokenizer *t = make(&PLAIN);
    moe_text in = pair("a a", "b b b", MOE_TRUNCATE_ONLY_SECOND);
    assert_string_equal(encoded(t, &in, 6, &cut), "[CLS] a a [SEP] b [SEP]");
    assert_int_equal(cut, 2);
    moe_tokens tokens;
    moe_error err = {0};
    assert_int_equal(tokenizer_encode(t, &in, 5, &tokens, &err), MOE_E_LIMIT);
    assert_non_null(strstr(err.message, "too short"));
    assert_null(tokens.ids);
    in.pair = NULL;
    assert_int_equal(tokenizer_encode(t, &in, 3, &tokens, &err), MOE_E_LIMIT);
    assert_non_null(strstr(err.message, "no second text"));
    tokenizer_destroy(t);
}

static void never_refuses_what_is_too_long_with_both_counts(void **state)
{
    (void)state;
    moe_tokens tokens;
    moe_error err = {0};
    moe_tokenizer *t = make(&PLAIN);
    moe_text in = text("a b c");
    in.truncation = MOE_TRUNCATE_NEVER;
    assert_string_equal(encoded(t, &in, 5, NULL), "[CLS] a b c [SEP]");
    assert_int_equal(tokenizer_encode(t, &in, 4, &tokens, &err), MOE_E_LIMIT);
    assert_non_null(strstr(err.message, "3 tokens"));
    assert_non_null(strstr(err.message, "at most 2"));
    tokenizer_destroy(t);
}

static void a_limit_below_the_special_tokens_is_an_argument_error(void **state)
{
    (void)state;
    moe_tokens tokens;
    moe_tokenizer *t = make(&PLAIN);
    moe_text one = text("a"), two = pair("a", "b", MOE_TRUNCATE_LONGEST_FIRST);
    assert_string_equal(encoded(t, &one, 2, NULL), "[CLS] [SEP]");
    assert_int_equal(tokenizer_encode(t, &one, 1, &tokens, NULL), MOE_E_ARGUMENT);
    assert_int_equal(tokenizer_encode(t, &one, -5, &tokens, NULL), MOE_E_ARGUMENT);
    assert_int_equal(tokenizer_encode(t, &two, 2, &tokens, NULL), MOE_E_ARGUMENT);
    one.text = NULL;
    assert_int_equal(tokenizer_encode(t, &one, 9, &tokens, NULL), MOE_E_ARGUMENT);
    one.text_bytes = 0;
    assert_string_equal(encoded(t, &one, 9, NULL), "[CLS] [SEP]");
    tokenizer_destroy(t);
}

/* ---- bytes --------------------------------------------------------------- */

static void broken_utf8_is_replaced_by_maximal_subparts(void **state)
{
    (void)state;
    /* As bytes.decode("utf-8", errors="replace") does; "." is U+FFFD. */
    static const char *const cases[][2] = {
        {"\xFF", "."}, {"\x80\x80", ".."}, {"\xC0\xAF", ".."}, {"\xC3(", ".("},
        {"\xE2\x82", "."}, {"\xE2\x82z", ".z"}, {"\xED\xA0\x80z", "...z"},
        {"\xF0\x9F\x98", "."}, {"\xF0\x9F\x98\xF0\x9F", ".."}, {"\xF4\x90\x80\x80", "...."},
        {"\xE0\x80\x80", "..."}, {"\xF8\x88\x80\x80\x80", "....."}, {"z\xF1\x80z\x80", "z.z."},
        {"\xE2\x82\xAC\xE2\x82", "\xE2\x82\xAC."}, {"12345678\xC2", "12345678."},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *out, expected[64];
        size_t n, n_expected = 0;
        const char *s = cases[i][0];
        assert_int_equal(utf8_repair(s, strlen(s), &out, &n, NULL), MOE_OK);
        for (const char *c = cases[i][1]; *c; c++)
            if (*c == '.') {
                memcpy(expected + n_expected, "\xEF\xBF\xBD", 3);
                n_expected += 3;
            } else {
                expected[n_expected++] = *c;
            }
        assert_int_equal(n, n_expected);
        assert_memory_equal(out, expected, n);
        assert_int_equal(utf8_first_invalid(out, n), n);
        free(out);
    }
}

static void strict_refuses_broken_utf8_and_says_where(void **state)
{
    (void)state;
    moe_tokens tokens;
    moe_error err = {0};
    moe_tokenizer *t = make(&PLAIN);
    moe_text in = pair("a b c a b c", "a \u20AC \xC3(", MOE_TRUNCATE_LONGEST_FIRST);
    assert_string_equal(encoded(t, &in, 99, NULL),
                        "[CLS] a b c a b c [SEP] a [UNK] [UNK] [SEP]");
    in.strict_utf8 = true;
    assert_int_equal(tokenizer_encode(t, &in, 99, &tokens, &err), MOE_E_ARGUMENT);
    assert_string_equal(err.message, "pair: byte 6 (0xC3) is not valid UTF-8");
    tokenizer_destroy(t);
}

static void a_nul_is_a_character_like_others(void **state)
{
    (void)state;
    moe_tokenizer *t = make(&PLAIN);
    moe_text in = {.text = "a\0b c", .text_bytes = 5};
    assert_string_equal(encoded(t, &in, 99, NULL), "[CLS] ab c [SEP]"); /* cleaned */
    tokenizer_destroy(t);
    wordpiece_spec raw = PLAIN;
    raw.clean_text = false;
    t = make(&raw);
    assert_string_equal(encoded(t, &in, 99, NULL), "[CLS] [UNK] c [SEP]");
    tokenizer_destroy(t);
}

/* ---- added tokens ------------------------------------------------------- */

static void added_tokens_are_found_before_anything_is_split(void **state)
{
    (void)state;
    const tokenizer_added_token added[] = {
        {.content = "[SEP]", .id = SEP, .special = true},
        {.content = "[MASK]", .id = MASK, .special = true, .lstrip = true},
        {.content = "\u00E9", .id = E_ACUTE, .single_word = true},
    };
    wordpiece_spec spec = PLAIN;
    spec.added = added;
    spec.n_added = 3;
    expect(&spec, "a[SEP]b", "[CLS] a [SEP] b [SEP]");
    expect(&spec, "a [mask]", "[CLS] a [UNK] [UNK] [UNK] [SEP]"); /* special: as it is */
    expect(&spec, "[[SEP] [SEP", "[CLS] [UNK] [SEP] [UNK] [UNK] [SEP]");
    expect(&spec, "\u00E9 a\u00E9 \u00E9, \u00E9", "[CLS] \u00E9 [UNK] \u00E9 , \u00E9 [SEP]");
    moe_tokenizer *t = make(&spec);
    moe_text in = text("a  \t[MASK]b");
    moe_tokens tokens;
    assert_int_equal(tokenizer_encode(t, &in, 99, &tokens, NULL), MOE_OK);
    assert_int_equal(tokens.ids[2], MASK);
    assert_int_equal(tokens.spans[2].start, 1); /* the white space is its own */
    assert_int_equal(tokens.spans[2].end, 10);
    moe_tokens_free(&tokens);
    tokenizer_destroy(t);
}

static void a_normalized_token_is_found_in_normalized_text(void **state)
{
    (void)state;
    const tokenizer_added_token added[] = {
        {.content = "\u00C9", .id = E_ACUTE, .normalized = true}, /* looked for as "e" */
    };
    const char *vocab[N_VOCAB];
    memcpy(vocab, VOCAB, sizeof vocab);
    vocab[E_ACUTE] = NULL; /* a hole that it fills */
    wordpiece_spec spec = PLAIN;
    spec.vocab = vocab;
    spec.added = added;
    spec.n_added = 1;
    expect(&spec, "aEb e\u0301", "[CLS] a \u00C9 b \u00C9 [SEP]");
}

static void of_two_tokens_with_one_pattern_the_special_one_counts(void **state)
{
    (void)state;
    const tokenizer_added_token added[] = {
        {.content = "b", .id = B, .normalized = true},
        {.content = "B", .id = E_ACUTE, .normalized = true, .special = true},
    };
    const char *vocab[N_VOCAB];
    memcpy(vocab, VOCAB, sizeof vocab);
    vocab[E_ACUTE] = NULL;
    wordpiece_spec spec = PLAIN;
    spec.vocab = vocab;
    spec.added = added;
    spec.n_added = 2;
    expect(&spec, "a b", "[CLS] a B [SEP]");
}

static void overlapping_strips_are_refused(void **state)
{
    (void)state;
    tokenizer_added_token added[] = {
        {.content = "[SEP]", .id = SEP, .rstrip = true},
        {.content = " x", .id = E_ACUTE},
    };
    const char *vocab[N_VOCAB];
    memcpy(vocab, VOCAB, sizeof vocab);
    vocab[E_ACUTE] = NULL;
    wordpiece_spec spec = PLAIN;
    spec.vocab = vocab;
    spec.added = added;
    spec.n_added = 2;
    expect_refused(&spec, MOE_E_UNSUPPORTED, "begins with white space");
    added[0].rstrip = false;
    expect(&spec, "a[SEP] x b", "[CLS] a [SEP]  x b [SEP]");
}

static void contradicting_added_tokens_are_refused(void **state)
{
    (void)state;
    tokenizer_added_token added = {.content = "[MASK]", .id = SEP};
    wordpiece_spec spec = PLAIN;
    spec.added = &added;
    spec.n_added = 1;
    expect_refused(&spec, MOE_E_FORMAT, "'[MASK]': id 3, the vocabulary has it as 13");
    added.content = "[NEW]";
    expect_refused(&spec, MOE_E_FORMAT, "its id 3 is the vocabulary's '[SEP]'");
    added.id = N_VOCAB;
    expect_refused(&spec, MOE_E_FORMAT, "id 14, expected 0 to 13");
    added.content = "";
    expect_refused(&spec, MOE_E_LIMIT, "0 bytes");
}

static void a_token_that_normalizes_to_nothing_is_refused(void **state)
{
    (void)state;
    const char *vocab[N_VOCAB + 1];
    memcpy(vocab, VOCAB, sizeof VOCAB);
    vocab[N_VOCAB] = "\u200B";
    const tokenizer_added_token added = {.content = "\u200B", .id = N_VOCAB,
                                         .normalized = true};
    wordpiece_spec spec = PLAIN;
    spec.n_vocab = N_VOCAB + 1;
    spec.vocab = vocab;
    spec.added = &added;
    spec.n_added = 1;
    expect_refused(&spec, MOE_E_UNSUPPORTED, "nothing is left");
}

/* ---- vocabularies -------------------------------------------------------- */

static void broken_vocabularies_are_refused(void **state)
{
    (void)state;
    const char *vocab[N_VOCAB];
    wordpiece_spec spec = PLAIN;
    memcpy(vocab, VOCAB, sizeof vocab);
    spec.vocab = vocab;
    spec.unk_token = "<unk>";
    expect_refused(&spec, MOE_E_FORMAT, "no unknown token '<unk>'");
    spec.unk_token = "[UNK]";
    vocab[C] = "a";
    expect_refused(&spec, MOE_E_FORMAT, "token 'a' has the ids 4 and 6");
    vocab[C] = "\xFF";
    expect_refused(&spec, MOE_E_FORMAT, "token 6 is not UTF-8");
    vocab[C] = NULL;
    spec.sep = N_VOCAB;
    expect_refused(&spec, MOE_E_FORMAT, "[SEP] is 14, expected ids below 14");
    spec.sep = SEP;
    spec.max_word_chars = 1 << 30;
    expect_refused(&spec, MOE_E_UNSUPPORTED, "max_input_chars_per_word");
    spec.max_word_chars = 10;
    spec.n_vocab = 0;
    expect_refused(&spec, MOE_E_FORMAT, "empty");
}

static void token_text_is_null_out_of_range(void **state)
{
    (void)state;
    const char *vocab[N_VOCAB];
    memcpy(vocab, VOCAB, sizeof vocab);
    vocab[C] = NULL;
    wordpiece_spec spec = PLAIN;
    spec.vocab = vocab;
    moe_tokenizer *t = make(&spec);
    assert_string_equal(tokenizer_token(t, CONT_B), "##b");
    assert_null(tokenizer_token(t, C));
    assert_null(tokenizer_token(t, -1));
    assert_null(tokenizer_token(t, N_VOCAB));
    assert_null(tokenizer_token(t, INT32_MAX));
    tokenizer_destroy(t);
}

/* ---- time ---------------------------------------------------------------- */

static double seconds_for(const moe_tokenizer *t, const char *unit, size_t n)
{
    struct timespec from, to;
    size_t length = strlen(unit);
    char *s = malloc(n * length);
    for (size_t i = 0; i < n; i++)
        memcpy(s + i * length, unit, length);
    moe_text in = {.text = s, .text_bytes = n * length, .want_offsets = true};
    moe_tokens tokens;
    clock_gettime(CLOCK_MONOTONIC, &from);
    assert_int_equal(tokenizer_encode(t, &in, 512, &tokens, NULL), MOE_OK);
    clock_gettime(CLOCK_MONOTONIC, &to);
    assert_true(tokens.n <= 512);
    moe_tokens_free(&tokens);
    free(s);
    return (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec);
}

/* 1 MB each; anything quadratic would take minutes. */
static void long_inputs_take_linear_time(void **state)
{
    (void)state;
    const tokenizer_added_token added[] = {
        {.content = "[MASK]", .id = MASK, .special = true, .lstrip = true, .rstrip = true},
        {.content = "ab", .id = AB, .normalized = true, .single_word = true},
    };
    static const char *const units[] = {
        "a", "ab ", "\u0301", "\u0301\u0323\u302E", "\uAC00", "\u4E2D", " ", "[", "[MASK]",
        " [MASK", "[MASK] ", "ab", "\xE2\x82", "\xFF", "\u0344\u0323\u302E\u0F73",
    };
    wordpiece_spec spec = PLAIN;
    spec.added = added;
    for (spec.n_added = 0; spec.n_added <= 2; spec.n_added += 2) {
        moe_tokenizer *t = make(&spec);
        for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
            double s = seconds_for(t, units[i], ((size_t)1 << 20) / strlen(units[i]));
            if (s > 10)
                fail_msg("1 MB of '%s' took %.1f s", units[i], s);
        }
        tokenizer_destroy(t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_longest_piece_is_taken_and_no_way_back),
        cmocka_unit_test(a_word_past_the_limit_is_unknown_as_a_whole),
        cmocka_unit_test(a_vocabulary_without_continuations_works),
        cmocka_unit_test(offsets_point_into_the_original),
        cmocka_unit_test(longest_first_cuts_the_longer_then_halves),
        cmocka_unit_test(only_second_leaves_the_first_alone),
        cmocka_unit_test(never_refuses_what_is_too_long_with_both_counts),
        cmocka_unit_test(a_limit_below_the_special_tokens_is_an_argument_error),
        cmocka_unit_test(broken_utf8_is_replaced_by_maximal_subparts),
        cmocka_unit_test(strict_refuses_broken_utf8_and_says_where),
        cmocka_unit_test(a_nul_is_a_character_like_others),
        cmocka_unit_test(added_tokens_are_found_before_anything_is_split),
        cmocka_unit_test(a_normalized_token_is_found_in_normalized_text),
        cmocka_unit_test(of_two_tokens_with_one_pattern_the_special_one_counts),
        cmocka_unit_test(overlapping_strips_are_refused),
        cmocka_unit_test(contradicting_added_tokens_are_refused),
        cmocka_unit_test(a_token_that_normalizes_to_nothing_is_refused),
        cmocka_unit_test(broken_vocabularies_are_refused),
        cmocka_unit_test(token_text_is_null_out_of_range),
        cmocka_unit_test(long_inputs_take_linear_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
