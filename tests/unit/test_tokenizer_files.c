/* test_tokenizer_files.c: BPE and Unigram of tokenizer.json, vocab.json with merges.txt:
 * what is refused and how it is told, and that no damage does harm. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/model/tokenizer_files.h"

enum { N_VOCAB = 9 };
#define VOCAB "{\"<s>\":0,\"</s>\":1,\"a\":2,\"b\":3,\"c\":4,\"ab\":5,\"abc\":6,\"\xc4\xa0\":7," \
    "\"\xc4\xa0" "a\":8}"
#define ROBERTA "{\"type\":\"RobertaProcessing\",\"cls\":[\"<s>\",0],\"sep\":[\"</s>\",1]}"
#define BYTE_LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}"
#define BPE(more, merges) "{\"type\":\"BPE\"" more ",\"vocab\":" VOCAB ",\"merges\":" merges "}"
#define MERGES "[\"a b\",[\"ab\",\"c\"],\"\xc4\xa0 a\"]"
#define ADDED "[{\"id\":0,\"content\":\"<s>\",\"special\":true}," \
    "{\"id\":1,\"content\":\"</s>\",\"special\":true}]"
#define FILE_OF(model, normalizer, pre, post) "{\"model\":" model ",\"normalizer\":" normalizer \
    ",\"pre_tokenizer\":" pre ",\"post_processor\":" post ",\"added_tokens\":" ADDED "}"
#define GOOD_BPE FILE_OF(BPE("", MERGES), "null", BYTE_LEVEL, ROBERTA)

#define PIECES "[[\"<s>\",0],[\"</s>\",0],[\"<unk>\",0],[\"a\",-1],[\"b\",-2],[\"ab\",-2.5]," \
    "[\"\xe2\x96\x81\",-1.5],[\"\xe2\x96\x81" "a\",-1.25],[\"c\",-3]]"
#define UNIGRAM(more) "{\"type\":\"Unigram\",\"unk_id\":2" more ",\"vocab\":" PIECES "}"
#define METASPACE "{\"type\":\"Metaspace\",\"prepend_scheme\":\"always\"}"
#define REPLACE "{\"type\":\"Replace\",\"pattern\":{\"Regex\":\" {2,}\"},\"content\":\" \"}"
#define STRIP "{\"type\":\"Strip\",\"strip_left\":false,\"strip_right\":true}"
#define MAP(text) "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"" text "\"}"
#define SEQUENCE(list) "{\"type\":\"Sequence\",\"normalizers\":[" list "]}"
#define GOOD_UNIGRAM FILE_OF(UNIGRAM(""), SEQUENCE(STRIP "," REPLACE), METASPACE, ROBERTA)

static const char *in_tmp(const char *name)
{
    static char path[2][1024];
    static int turn;
    char *to = path[turn++ % 2];
    snprintf(to, sizeof path[0], "%s/%s", getenv("MOE_TMP"), name);
    return to;
}

static void write_file(const char *name, const char *content)
{
    if (!content) {
        unlink(in_tmp(name));
        return;
    }
    FILE *f = fopen(in_tmp(name), "w");
    assert_non_null(f);
    fputs(content, f);
    assert_int_equal(fclose(f), 0);
}

/* NULL: no such file. */
static void write_files(const char *json, const char *vocab, const char *merges)
{
    write_file("tokenizer.json", json);
    write_file("vocab.json", vocab);
    write_file("merges.txt", merges);
}

/* Ids of a text with what stands around it, as digits. */
static void expect_ids(const char *text, const char *pair, const char *digits)
{
    moe_tokenizer *t;
    moe_tokens tokens;
    char found[64] = "";
    moe_error err = {.message = ""};
    const moe_text in = {.text = text, .text_bytes = strlen(text), .pair = pair,
                         .pair_bytes = pair ? strlen(pair) : 0};
    if (tokenizer_load(getenv("MOE_TMP"), N_VOCAB, &t, &err) ||
        tokenizer_encode(t, &in, 50, &tokens, &err))
        fail_msg("%s", err.message);
    for (int i = 0; i < tokens.n; i++)
        found[i] = (char)('0' + tokens.ids[i]);
    assert_string_equal(found, digits);
    moe_tokens_free(&tokens);
    tokenizer_destroy(t);
}

static void expect_refused(moe_status status, const char *part)
{
    moe_tokenizer *t;
    moe_error err = {.message = ""};
    moe_status found = tokenizer_load(getenv("MOE_TMP"), N_VOCAB, &t, &err);
    if (found != status || !strstr(err.message, part) || strchr(err.message, '\n'))
        fail_msg("%d '%s', expected %d with '%s'", found, err.message, status, part);
    assert_null(t);
}

static void good_files_are_read(void **state)
{
    (void)state;
    write_files(GOOD_BPE, NULL, NULL);
    expect_ids("abc a", "b", "06811" "31");
    write_files(NULL, VOCAB, "#version: 0.2\na b\r\nab c\n\n\xc4\xa0 a\n");
    expect_ids("abc a", "b", "06811" "31");
    write_files(GOOD_UNIGRAM, NULL, NULL);
    expect_ids("ab  a", NULL, "0" "74" "7" "1");
    expect_ids("a", "z", "0" "7" "11" "62" "1");
}

static void variants_of_bpe_are_refused(void **state)
{
    (void)state;
    static const struct { moe_status status; const char *json, *part; } cases[] = {
        {MOE_E_UNSUPPORTED, FILE_OF(BPE(",\"ignore_merges\":true", MERGES), "null", BYTE_LEVEL,
                                    ROBERTA), "model.ignore_merges is true, expected false"},
        {MOE_E_UNSUPPORTED, FILE_OF(BPE(",\"end_of_word_suffix\":\"</w>\"", MERGES), "null",
                                    BYTE_LEVEL, ROBERTA), "model.end_of_word_suffix is '</w>'"},
        {MOE_E_UNSUPPORTED, FILE_OF(BPE(",\"dropout\":0.1", MERGES), "null", BYTE_LEVEL, ROBERTA),
         "model.dropout is 0.1"},
        {MOE_E_UNSUPPORTED, FILE_OF(BPE("", MERGES), "{\"type\":\"NFC\"}", BYTE_LEVEL, ROBERTA),
         "normalizer is there"},
        {MOE_E_UNSUPPORTED, FILE_OF(BPE("", MERGES), "null", "{\"type\":\"Whitespace\"}", ROBERTA),
         "pre_tokenizer.type is Whitespace, expected ByteLevel"},
        {MOE_E_UNSUPPORTED, FILE_OF(BPE("", MERGES), "null",
                                    "{\"type\":\"ByteLevel\",\"use_regex\":false}", ROBERTA),
         "use_regex is false"},
        {MOE_E_FORMAT, FILE_OF(BPE("", "[\"a b c\"]"), "null", BYTE_LEVEL, ROBERTA),
         "model.merges[0] is something else, expected two tokens"},
        {MOE_E_FORMAT, FILE_OF(BPE("", "[[\"a\",\"b\"],[\"b\",\"c\"]]"), "null", BYTE_LEVEL, ROBERTA),
         "merge 1 is 'b' and 'c'"},
        {MOE_E_FORMAT, FILE_OF(BPE("", "3"), "null", BYTE_LEVEL, ROBERTA),
         "model.merges is something else, expected an array"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_files(cases[i].json, NULL, NULL);
        expect_refused(cases[i].status, cases[i].part);
    }
}

static void broken_pairs_of_files_are_refused(void **state)
{
    (void)state;
    write_files(NULL, VOCAB, NULL);
    expect_refused(MOE_E_IO, "merges.txt: cannot open");
    write_files(NULL, VOCAB, "#version: 0.2\na b\nabc\n");
    expect_refused(MOE_E_FORMAT, "merges.txt: line 3: 'abc', expected two tokens");
    write_files(NULL, "{\"a\":0}", "");
    expect_refused(MOE_E_FORMAT, "vocab.json: has no '<s>', expected the cls_token");
    write_files(NULL, "[]", "");
    expect_refused(MOE_E_FORMAT, "vocab.json: the vocabulary is something else");
}

static void variants_of_unigram_are_refused(void **state)
{
    (void)state;
    static const struct { moe_status status; const char *json, *part; } cases[] = {
        {MOE_E_UNSUPPORTED, FILE_OF(UNIGRAM(",\"byte_fallback\":true"), "null", METASPACE, ROBERTA),
         "model.byte_fallback is true"},
        {MOE_E_UNSUPPORTED, FILE_OF(UNIGRAM(""), SEQUENCE(REPLACE "," STRIP), METASPACE, ROBERTA),
         "normalizer Strip, expected Precompiled, then Strip, then Replace"},
        {MOE_E_UNSUPPORTED, FILE_OF(UNIGRAM(""), "{\"type\":\"Lowercase\"}", METASPACE, ROBERTA),
         "normalizer Lowercase"},
        {MOE_E_FORMAT, FILE_OF(UNIGRAM(""), MAP("****"), METASPACE, ROBERTA), "is no base64"},
        {MOE_E_FORMAT, FILE_OF(UNIGRAM(""), MAP("BAAAAAAA"), METASPACE, ROBERTA),
         "no compiled map of characters"},
        {MOE_E_UNSUPPORTED, FILE_OF(UNIGRAM(""), "null",
                                    "{\"type\":\"Metaspace\",\"prepend_scheme\":\"never\"}", ROBERTA),
         "prepend_scheme is never"},
        {MOE_E_FORMAT, FILE_OF("{\"type\":\"Unigram\",\"unk_id\":2,\"vocab\":[[\"a\"]]}", "null",
                               METASPACE, ROBERTA), "model.vocab[0] is something else"},
        {MOE_E_FORMAT, FILE_OF("{\"type\":\"Unigram\",\"unk_id\":9,\"vocab\":" PIECES "}", "null",
                               METASPACE, ROBERTA), "unk_id"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_files(cases[i].json, NULL, NULL);
        expect_refused(cases[i].status, cases[i].part);
    }
}

/* Each byte replaced in one of six ways in turn; what still loads still encodes. */
static void damage(const char *good)
{
    static const char with[] = "0\"}]x";
    const moe_text in = {.text = "abc <s> \xc3\xa9", .text_bytes = 10};
    char *text = strdup(good);
    moe_tokenizer *t;
    moe_tokens tokens;
    for (size_t i = 0; good[i]; i++) {
        text[i] = with[i % sizeof with];
        write_file("tokenizer.json", text);
        moe_error err = {.message = ""};
        if (tokenizer_load(getenv("MOE_TMP"), N_VOCAB, &t, &err) != MOE_OK) {
            assert_true(strlen(err.message) > 0 && t == NULL);
        } else {
            if (tokenizer_encode(t, &in, 50, &tokens, NULL) == MOE_OK)
                moe_tokens_free(&tokens);
            tokenizer_destroy(t);
        }
        text[i] = good[i];
    }
    free(text);
}

static void damaged_files_never_crash(void **state)
{
    (void)state;
    write_files(NULL, NULL, NULL);
    damage(GOOD_BPE);
    damage(GOOD_UNIGRAM);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_files_are_read),
        cmocka_unit_test(variants_of_bpe_are_refused),
        cmocka_unit_test(broken_pairs_of_files_are_refused),
        cmocka_unit_test(variants_of_unigram_are_refused),
        cmocka_unit_test(damaged_files_never_crash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
