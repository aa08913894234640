/* test_bpe.c: byte-pair encoding by hand and against joining by brute force, words by
 * GPT-2's pattern, spans, and vocabularies that contradict themselves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/text/bpe.h"
#include "engine/text/tokenizer.h"

/* Ids 2 to 9 are single characters; U+0120 is a space's. */
static const char *const vocab[] = {
    "<s>", "</s>", "a", "b", "c", "\xc4\xa0", "'", "s", "\xc3\x83", "\xc2\xa9",
    "ab", "bc", "abc", ("\xc4\xa0" "a"), "aa", "aaaa", "<m>",
};
enum { N_VOCAB = sizeof vocab / sizeof *vocab };

#define MERGE(l, r) {l, r, sizeof l - 1, sizeof r - 1}
static const bpe_merge merges[] = {
    MERGE("b", "c"), MERGE("a", "b"), MERGE("a", "bc"), MERGE("\xc4\xa0", "a"), MERGE("a", "a"),
    MERGE("aa", "aa"),
};
static const tokenizer_added_token added[] = {
    {.content = "<s>", .id = 0, .special = true, .normalized = true},
    {.content = "<m>", .id = 16, .special = true, .lstrip = true},
};

static bpe_spec plain_spec(void)
{
    return (bpe_spec){.n_vocab = N_VOCAB, .vocab = vocab, .merges = merges,
                      .n_merges = sizeof merges / sizeof *merges, .trim_offsets = true,
                      .frame = {.begin = 0, .end = 1, .n_between = 1},
                      .added = added, .n_added = 2};
}

static moe_tokens encode_as(const bpe_spec *spec, const char *text)
{
    moe_tokenizer *t = NULL;
    moe_tokens out = {.n = 0};
    moe_error err = {.message = ""};
    moe_text in = {.text = text, .text_bytes = strlen(text), .want_offsets = true};
    if (tokenizer_create_bpe(spec, &t, &err) || tokenizer_encode(t, &in, 1 << 24, &out, &err))
        fail_msg("%s", err.message);
    tokenizer_destroy(t);
    return out;
}

/* ids without the first and the last, ended by -1; spans start, end alike. */
static void expect_as(const bpe_spec *spec, const char *text, const int *ids, const int *spans)
{
    moe_tokens t = encode_as(spec, text);
    int n = 0;
    while (ids[n] >= 0)
        n++;
    if (t.n != n + 2)
        fail_msg("'%s': %d tokens, expected %d", text, t.n - 2, n);
    for (int i = 0; i < n; i++) {
        if (t.ids[i + 1] != ids[i])
            fail_msg("'%s': token %d is %d, expected %d", text, i, (int)t.ids[i + 1], ids[i]);
        if (t.spans[i + 1].start != spans[2 * i] || t.spans[i + 1].end != spans[2 * i + 1])
            fail_msg("'%s': token %d is [%d, %d), expected [%d, %d)", text, i,
                     (int)t.spans[i + 1].start, (int)t.spans[i + 1].end, spans[2 * i],
                     spans[2 * i + 1]);
    }
    moe_tokens_free(&t);
}

#define IDS(...) (const int[]){__VA_ARGS__, -1}
#define AT(...) (const int[]){__VA_ARGS__}

static void expect(const char *text, const int *ids, const int *spans)
{
    bpe_spec spec = plain_spec();
    expect_as(&spec, text, ids, spans);
}

static void the_lowest_rank_joins_first_and_then_the_leftmost(void **state)
{
    (void)state;
    expect("abc", IDS(12), AT(0, 3));
    expect("aaa", IDS(14, 2), AT(0, 2, 2, 3));
    expect("aaaaa", IDS(15, 2), AT(0, 4, 4, 5));
    expect("acb", IDS(2, 4, 3), AT(0, 1, 1, 2, 2, 3));
}

static void words_follow_gpt2s_pattern(void **state)
{
    (void)state;
    expect("a a", IDS(2, 13), AT(0, 1, 2, 3));
    expect("a  a", IDS(2, 5, 13), AT(0, 1, 2, 2, 3, 4)); /* of two spaces one is left */
    expect("a's", IDS(2, 6, 7), AT(0, 1, 1, 2, 2, 3));
    expect("a ", IDS(2, 5), AT(0, 1, 2, 2));
    expect("  ", IDS(5, 5), AT(1, 1, 2, 2));
}

static void a_token_of_a_part_has_the_whole_characters_place(void **state)
{
    (void)state;
    expect("a\xc3\xa9" "b", IDS(2, 8, 9, 3), AT(0, 1, 1, 2, 1, 2, 2, 3));
    expect("axb", IDS(10), AT(0, 3)); /* x has no token and is left out */
}

static void added_tokens_take_their_white_space(void **state)
{
    (void)state;
    expect("a <m>b", IDS(2, 16, 3), AT(0, 1, 2, 5, 5, 6));
    expect("a<s>b", IDS(2, 0, 3), AT(0, 1, 1, 4, 4, 5));
}

static void a_prefix_space_has_no_place(void **state)
{
    (void)state;
    bpe_spec spec = plain_spec();
    spec.add_prefix_space = spec.trim_keeps_prefix = true;
    expect_as(&spec, "a", IDS(13), AT(0, 1));
    expect_as(&spec, " a", IDS(13), AT(0, 2)); /* as if it had been added */
    expect_as(&spec, "a<m>a", IDS(13, 16, 13), AT(0, 1, 1, 4, 5, 5)); /* as the crate has it */
}

/* Joining by looking at every pair each time. */
static int brute_force(const bpe *b, const uint8_t *word, int n, int32_t *ids)
{
    for (int i = 0; i < n; i++)
        ids[i] = b->byte_id[word[i]];
    for (;;) {
        int best = -1, best_rank = 0, best_id = 0;
        for (int i = 0; i + 1 < n; i++)
            for (int m = 0; m < (int)(sizeof merges / sizeof *merges); m++) {
                int32_t l = trie_find(&b->vocab, merges[m].left, merges[m].n_left);
                int32_t r = trie_find(&b->vocab, merges[m].right, merges[m].n_right);
                if (l != ids[i] || r != ids[i + 1] || (best >= 0 && m >= best_rank))
                    continue;
                char both[16];
                snprintf(both, sizeof both, "%s%s", merges[m].left, merges[m].right);
                best = i, best_rank = m, best_id = trie_find(&b->vocab, both, strlen(both));
            }
        if (best < 0)
            return n;
        ids[best] = best_id;
        memmove(ids + best + 1, ids + best + 2, (size_t)(n - best - 2) * sizeof *ids);
        n--;
    }
}

static void random_words_join_as_by_brute_force(void **state)
{
    (void)state;
    bpe b = {0};
    bpe_work work = {0};
    moe_error err;
    bpe_spec spec = plain_spec();
    unsigned seed = 1;
    assert_int_equal(bpe_init(&b, &spec, &err), MOE_OK);
    for (int round = 0; round < 3000; round++) {
        uint8_t word[40];
        int32_t want[40], at;
        int n = 1 + round % 40;
        for (int i = 0; i < n; i++) {
            seed = seed * 1664525 + 1013904223;
            word[i] = (uint8_t)"aaabc"[(seed >> 20) % 5];
        }
        int n_want = brute_force(&b, word, n, want), i = 0;
        assert_true(bpe_word(&b, word, (size_t)n, &work, &at));
        for (; at >= 0; at = work.symbols[at].next)
            assert_int_equal(work.symbols[at].id, want[i++]);
        assert_int_equal(i, n_want);
    }
    bpe_work_free(&work);
    bpe_free(&b);
}

/* A word of a million letters takes n log n steps, and so does placing its tokens. */
static void a_huge_word_is_no_trouble(void **state)
{
    (void)state;
    enum { N = 1000000 };
    char *text = malloc(2 * N + 1);
    bpe_spec spec = plain_spec();
    for (int i = 0; i < N; i++)
        memcpy(text + 2 * i, "\xc3\xa9", 2);
    text[2 * N] = 0;
    moe_tokens t = encode_as(&spec, text);
    assert_int_equal(t.n, 2 * N + 2);
    assert_int_equal(t.spans[2 * N].end, N);
    moe_tokens_free(&t);
    memset(text, 'a', N);
    text[N] = 0;
    t = encode_as(&spec, text);
    assert_int_equal(t.n, N / 4 + 2);
    moe_tokens_free(&t);
    free(text);
}

static void contradictions_are_refused(void **state)
{
    (void)state;
    static const bpe_merge unknown[] = {MERGE("a", "x")}, joined[] = {MERGE("c", "c")};
    const char *twice[N_VOCAB];
    moe_tokenizer *t;
    moe_error err;
    bpe_spec spec = plain_spec();
    spec.merges = unknown, spec.n_merges = 1;
    assert_int_equal(tokenizer_create_bpe(&spec, &t, &err), MOE_E_FORMAT);
    assert_non_null(strstr(err.message, "merge 0 is 'a' and 'x'"));
    spec.merges = joined;
    assert_int_equal(tokenizer_create_bpe(&spec, &t, &err), MOE_E_FORMAT);
    spec = plain_spec();
    memcpy(twice, vocab, sizeof twice);
    twice[4] = "a";
    spec.vocab = twice;
    assert_int_equal(tokenizer_create_bpe(&spec, &t, &err), MOE_E_FORMAT);
    assert_non_null(strstr(err.message, "'a' has the ids 2 and 4"));
    spec = plain_spec();
    spec.frame.end = N_VOCAB;
    assert_int_equal(tokenizer_create_bpe(&spec, &t, &err), MOE_E_FORMAT);
    assert_null(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_lowest_rank_joins_first_and_then_the_leftmost),
        cmocka_unit_test(words_follow_gpt2s_pattern),
        cmocka_unit_test(a_token_of_a_part_has_the_whole_characters_place),
        cmocka_unit_test(added_tokens_take_their_white_space),
        cmocka_unit_test(a_prefix_space_has_no_place),
        cmocka_unit_test(random_words_join_as_by_brute_force),
        cmocka_unit_test(a_huge_word_is_no_trouble),
        cmocka_unit_test(contradictions_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
