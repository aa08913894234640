/* test_wordpiece_files.c: reading tokenizer.json, vocab.txt and tokenizer_config.json,
 * and the public functions on top. Each test writes a checkpoint's files anew. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/model/model.h"
#include "engine/model/tokenizer_files.h"

enum { N_VOCAB = 7 };
#define VOCAB "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nB\n##a\n"
#define NORMALIZER "{\"type\":\"BertNormalizer\",\"clean_text\":true," \
    "\"handle_chinese_chars\":true,\"strip_accents\":null,\"lowercase\":false}"
#define PRE_TOKENIZER "{\"type\":\"BertPreTokenizer\"}"
#define BERT "{\"type\":\"BertProcessing\",\"sep\":[\"[SEP]\",3],\"cls\":[\"[CLS]\",2]}"
#define PIECE(kind, id, type) "{\"" kind "\":{\"id\":\"" id "\",\"type_id\":" type "}}"
#define SINGLE "[" PIECE("SpecialToken", "[CLS]", "0") "," PIECE("Sequence", "A", "0") \
    "," PIECE("SpecialToken", "[SEP]", "0") "]"
#define PAIR(type) "[" PIECE("SpecialToken", "[CLS]", "0") "," PIECE("Sequence", "A", "0") \
    "," PIECE("SpecialToken", "[SEP]", "0") "," PIECE("Sequence", "B", type) \
    "," PIECE("SpecialToken", "[SEP]", type) "]"
#define IDS "{\"[CLS]\":{\"ids\":[2]},\"[SEP]\":{\"ids\":[3]}}"
#define TEMPLATE(single, pair, ids) "{\"type\":\"TemplateProcessing\",\"single\":" single \
    ",\"pair\":" pair ",\"special_tokens\":" ids "}"
#define MODEL_VOCAB "{\"[PAD]\":0,\"[UNK]\":1,\"[CLS]\":2,\"[SEP]\":3,\"a\":4,\"B\":5," \
    "\"##a\":6}"
#define MODEL(type, vocab) "{\"type\":\"" type "\",\"unk_token\":\"[UNK]\"," \
    "\"continuing_subword_prefix\":\"##\",\"max_input_chars_per_word\":100,\"vocab\":" \
    vocab "}"
#define ADDED "[{\"id\":3,\"content\":\"[SEP]\",\"special\":true}]"
#define TOKENIZER(model, normalizer, pre, post, added) "{\"truncation\":{\"max_length\":1}," \
    "\"model\":" model ",\"normalizer\":" normalizer ",\"pre_tokenizer\":" pre \
    ",\"post_processor\":" post ",\"added_tokens\":" added "}"
#define GOOD TOKENIZER(MODEL("WordPiece", MODEL_VOCAB), NORMALIZER, PRE_TOKENIZER, BERT, ADDED)

static const char *dir(void)
{
    return getenv("MOE_TMP");
}

static void write_file(const char *name, const char *content)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", dir(), name);
    if (!content) {
        unlink(path);
        return;
    }
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(content, 1, strlen(content), f), strlen(content));
    assert_int_equal(fclose(f), 0);
}

/* NULL: no such file. */
static void write_files(const char *json, const char *vocab, const char *config)
{
    write_file("tokenizer.json", json);
    write_file("vocab.txt", vocab);
    write_file("tokenizer_config.json", config);
}

static moe_tokenizer *load(void)
{
    moe_tokenizer *t;
    moe_error err = {0};
    if (tokenizer_load(dir(), N_VOCAB, &t, &err) != MOE_OK)
        fail_msg("%s", err.message);
    return t;
}

static void expect_refused(moe_status status, const char *file, const char *part)
{
    moe_tokenizer *t = (moe_tokenizer *)1;
    moe_error err = {0};
    moe_status found = tokenizer_load(dir(), N_VOCAB, &t, &err);
    if (found != status || !strstr(err.message, part) || !strstr(err.message, file) ||
        strchr(err.message, '\n'))
        fail_msg("%d '%s', expected %d with '%s' and '%s'", found, err.message, status, file,
                 part);
    assert_null(t);
}

/* Ids of a text but for [CLS] and [SEP], as digits. */
static void expect_ids(const char *s, const char *digits)
{
    moe_tokenizer *t = load();
    moe_text in = {.text = s, .text_bytes = strlen(s)};
    moe_tokens tokens;
    char found[32] = "";
    assert_int_equal(tokenizer_encode(t, &in, 30, &tokens, NULL), MOE_OK);
    for (int i = 1; i < tokens.n - 1; i++)
        found[i - 1] = (char)('0' + tokens.ids[i]);
    assert_int_equal(tokens.ids[0], 2);
    assert_int_equal(tokens.ids[tokens.n - 1], 3);
    moe_tokens_free(&tokens);
    tokenizer_destroy(t);
    assert_string_equal(found, digits);
}

/* ---- what is read -------------------------------------------------------- */

static void vocab_txt_alone_means_berts_defaults(void **state)
{
    (void)state;
    write_files(NULL, VOCAB, NULL);
    expect_ids("A aa [SEP]", "4463");   /* lower case; [SEP] is seen in text */
    expect_ids("\u00C1 B", "41");       /* accents go */
    moe_tokenizer *t = load();
    assert_int_equal(tokenizer_model_max_length(t), 0);
    tokenizer_destroy(t);
}

static void crlf_and_a_missing_last_newline_are_fine(void **state)
{
    (void)state;
    write_files(NULL, "[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\na\r\nB\r\n##a", NULL);
    expect_ids("aa", "46");
}

static void the_config_sets_the_switches(void **state)
{
    (void)state;
    write_files(NULL, VOCAB, "{\"do_lower_case\":false,\"model_max_length\":64}");
    expect_ids("A B \u00E1", "151");
    moe_tokenizer *t = load();
    assert_int_equal(tokenizer_model_max_length(t), 64);
    tokenizer_destroy(t);
    write_files(NULL, VOCAB, "{\"do_lower_case\":false,\"strip_accents\":true,"
                             "\"model_max_length\":1000000000000000019884624838656}");
    expect_ids("A B \u00E1", "154");
    t = load();
    assert_int_equal(tokenizer_model_max_length(t), 0);
    tokenizer_destroy(t);
}

static void the_config_names_the_special_tokens(void **state)
{
    (void)state;
    write_files(NULL, "<p>\n<u>\n<s>\n</s>\na\nB\n##a\n",
                "{\"cls_token\":\"<s>\",\"sep_token\":{\"content\":\"</s>\"},"
                "\"unk_token\":\"<u>\"}");
    expect_ids("a z</s>", "413");
}

static void tokenizer_json_is_enough(void **state)
{
    (void)state;
    write_files(GOOD, NULL, NULL);
    expect_ids("A B aa", "1546");
    write_files(GOOD, VOCAB, NULL);
    expect_ids("A B aa", "1546");
    write_files(TOKENIZER(MODEL("WordPiece", MODEL_VOCAB), NORMALIZER, PRE_TOKENIZER,
                          TEMPLATE(SINGLE, PAIR("1"), IDS), ADDED), NULL, NULL);
    expect_ids("A B aa", "1546");
}

static void the_config_wins_over_tokenizer_json(void **state)
{
    (void)state;
    write_files(GOOD, NULL, "{\"do_lower_case\":true}");
    expect_ids("A B", "41");
    write_files(GOOD, NULL, "{\"do_lower_case\":true,"
                            "\"tokenizer_class\":\"PreTrainedTokenizerFast\"}");
    expect_ids("A B", "15");
    write_files(GOOD, NULL, "{\"added_tokens_decoder\":{\"3\":{\"content\":\"[SEP]\","
                            "\"special\":true,\"single_word\":true}}}");
    expect_ids("[SEP] a[SEP]", "34111");
}

/* ---- what is refused ----------------------------------------------------- */

static void another_kind_of_tokenizer_is_named(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {TOKENIZER(MODEL("WordLevel", MODEL_VOCAB), NORMALIZER, PRE_TOKENIZER, BERT, ADDED),
         "model.type is WordLevel, expected WordPiece, BPE or Unigram"},
        {TOKENIZER(MODEL("WordPiece", MODEL_VOCAB), "{\"type\":\"NFKC\"}", PRE_TOKENIZER,
                   BERT, ADDED), "normalizer.type is NFKC, expected BertNormalizer"},
        {TOKENIZER(MODEL("WordPiece", MODEL_VOCAB), "null", PRE_TOKENIZER, BERT, ADDED),
         "normalizer.type is missing"},
        {TOKENIZER(MODEL("WordPiece", MODEL_VOCAB), NORMALIZER, "{\"type\":\"Digits\"}",
                   BERT, ADDED), "pre_tokenizer.type is Digits, expected BertPreTokenizer"},
        {TOKENIZER(MODEL("WordPiece", MODEL_VOCAB), NORMALIZER, PRE_TOKENIZER,
                   "{\"type\":\"ByteLevel\"}", ADDED),
         "post_processor.type is ByteLevel, expected TemplateProcessing"},
        {TOKENIZER(MODEL("WordPiece", MODEL_VOCAB), NORMALIZER, PRE_TOKENIZER,
                   "{\"type\":\"RobertaProcessing\",\"cls\":[\"[CLS]\",2],"
                   "\"sep\":[\"[SEP]\",3]}", ADDED),
         "post_processor is not [CLS] $A [SEP] $B:1 [SEP]:1"},
        {TOKENIZER(MODEL("WordPiece", MODEL_VOCAB), NORMALIZER, PRE_TOKENIZER,
                   TEMPLATE(SINGLE, PAIR("0"), IDS), ADDED),
         "post_processor is not [CLS] $A [SEP] $B:1 [SEP]:1"},
        {TOKENIZER(MODEL("WordPiece", MODEL_VOCAB), NORMALIZER, PRE_TOKENIZER,
                   TEMPLATE("[]", PAIR("1"), IDS), ADDED), "post_processor.single is ''"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_files(cases[i][0], NULL, NULL);
        expect_refused(MOE_E_UNSUPPORTED, "tokenizer.json", cases[i][1]);
    }
}

static void a_vocab_txt_that_tokenizer_json_contradicts_is_refused(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"[PAD]\n[UNK]\n[CLS]\n[SEP]\nB\n##a\n",
         "line 5: 'B', expected 'a', which has id 4 in tokenizer.json"}, /* one is missing */
        {"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nB\n",
         "6 lines, expected one more, '##a', which has id 6 in tokenizer.json"},
        {"", "0 lines, expected one more, '[PAD]'"},
        {"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nb\n##a\n", "line 6: 'b', expected 'B'"},
        {VOCAB "x\n", "line 8: expected at most 7 lines"},
        {"[PAD]\n\n", "line 2: empty, expected a token"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_files(GOOD, cases[i][0], NULL);
        expect_refused(MOE_E_FORMAT, "vocab.txt", cases[i][1]);
    }
}

static void broken_values_in_tokenizer_json_are_refused(void **state)
{
    (void)state;
#define WITH_VOCAB(v) TOKENIZER(MODEL("WordPiece", v), NORMALIZER, PRE_TOKENIZER, BERT, ADDED)
#define WITH_ADDED(a) TOKENIZER(MODEL("WordPiece", MODEL_VOCAB), NORMALIZER, PRE_TOKENIZER, \
                                BERT, a)
    static const char *const cases[][2] = {
        {"{", "malformed"},
        {"[]", "model"},
        {WITH_VOCAB("[]"), "model.vocab is something else, expected an object"},
        {WITH_VOCAB("{\"a\":-1}"), "model.vocab['a'] is -1"},
        {WITH_VOCAB("{\"a\":1.5}"), "model.vocab['a'] is 1.5"},
        {WITH_VOCAB("{\"a\":1e300}"), "model.vocab['a'] is 1e+300"},
        {WITH_VOCAB("{\"a\":7}"), "in [0, 6], the rows of the word embedding"},
        {WITH_VOCAB("{\"a\":\"x\"}"), "model.vocab['a']"},
        {WITH_VOCAB("{\"a\":0,\"b\":0}"), "'a' and 'b' both have id 0"},
        {WITH_VOCAB("{\"[UNK]\":0,\"a\":2,\"[SEP]\":3,\"b\":6}"), "no token has id 1"},
        {WITH_VOCAB("{\"[UNK]\":0,\"a\":1,\"c\":2,\"[SEP]\":3}"), "4 tokens, expected 7"},
        {WITH_VOCAB("{\"[UNK]\":0,\"b\":1,\"a\":2,\"[SEP]\":3,\"a\":4,\"B\":5,\"##a\":6}"),
         "token 'a' has the ids 2 and 4"},
        {WITH_ADDED("[{\"id\":9,\"content\":\"x\"}]"), "id is 9"},
        {WITH_ADDED("[{\"id\":3}]"), "added token 3 has no content"},
        {WITH_ADDED("[{\"id\":3,\"content\":5}]"), "content is 5"},
        {WITH_ADDED("[{\"id\":4,\"content\":\"[SEP]\"}]"), "the vocabulary has it as 3"},
        {WITH_ADDED("[{\"id\":3,\"content\":\"[SEP]\",\"lstrip\":1}]"), "lstrip is 1"},
        {WITH_ADDED("[5]"), "id is nothing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_files(cases[i][0], NULL, NULL);
        expect_refused(i == 1 ? MOE_E_UNSUPPORTED : MOE_E_FORMAT, "tokenizer.json",
                       cases[i][1]);
    }
}

static void broken_lines_of_vocab_txt_are_refused_by_number(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"[PAD]\n[UNK]\n\n[SEP]\na\nB\n##a\n", "line 3: empty"},
        {"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nB\na\n", "line 7: 'a' is on line 5 already"},
        {VOCAB "extra\n", "line 8: expected at most 7 lines"},
        {"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nB\n", "6 tokens, expected 7"},
        {"[PAD]\n[UNK]\n[SEP]\na\nB\nc\n##a\n", "no line is '[CLS]'"},
        {"[PAD]\n[CLS]\n[SEP]\na\nB\nc\n##a\n", "no unknown token '[UNK]'"},
        {"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n\xFF\n##a\n", "token 5 is not UTF-8"},
        {"", "no line is"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_files(NULL, cases[i][0], NULL);
        expect_refused(MOE_E_FORMAT, "vocab.txt", cases[i][1]);
    }
}

static void a_shifted_vocab_txt_contradicts_the_config(void **state)
{
    (void)state;
    write_files(NULL, "[UNK]\n[CLS]\n[SEP]\na\nB\n##a\nx\n",
                "{\"added_tokens_decoder\":{\"2\":{\"content\":\"[CLS]\",\"special\":true}}}");
    expect_refused(MOE_E_FORMAT, "vocab.txt", "'[CLS]': id 2, the vocabulary has it as 1");
}

static void broken_values_in_the_config_are_refused(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"{\"do_lower_case\":1}", "do_lower_case is 1, expected true or false"},
        {"{\"model_max_length\":-1}", "model_max_length is -1"},
        {"{\"model_max_length\":\"x\"}", "model_max_length is \"x\""},
        {"{\"strip_accents\":\"no\"}", "strip_accents is \"no\""},
        {"{\"cls_token\":7}", "cls_token is 7"},
        {"{\"added_tokens_decoder\":{\"x\":{}}}", "added_tokens_decoder['x']"},
        {"{\"added_tokens_decoder\":{\"7\":{\"content\":\"y\"}}}", "from 0 to 6"},
        {"{\"added_tokens_decoder\":{\"99999999999999999999\":{}}}", "from 0 to 6"},
        {"nonsense", "malformed"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_files(NULL, VOCAB, cases[i][0]);
        expect_refused(MOE_E_FORMAT, "tokenizer_config.json", cases[i][1]);
    }
}

static void a_missing_or_odd_file_is_an_io_error(void **state)
{
    (void)state;
    char path[1024];
    write_files(NULL, NULL, NULL);
    expect_refused(MOE_E_IO, "vocab.txt", "expected one of them");
    snprintf(path, sizeof path, "%s/vocab.txt", dir());
    assert_int_equal(mkdir(path, 0700), 0);
    expect_refused(MOE_E_IO, "vocab.txt", "not a regular file");
    rmdir(path);
}

/* Each byte of a good tokenizer.json replaced in two of six ways in turn. */
static void a_damaged_tokenizer_json_never_crashes(void **state)
{
    (void)state;
    char text[] = TOKENIZER(MODEL("WordPiece", MODEL_VOCAB), NORMALIZER, PRE_TOKENIZER,
                            TEMPLATE(SINGLE, PAIR("1"), IDS), ADDED);
    static const char with[] = "0\"}]x";
    size_t n = strlen(text);
    moe_tokenizer *t;
    write_files(NULL, NULL, NULL);
    for (size_t i = 0; i < n; i++) {
        char kept = text[i];
        for (size_t j = i; j < i + 2; j++) { /* a NUL, too: cuts it short */
            text[i] = with[j % sizeof with];
            write_file("tokenizer.json", text);
            moe_error err = {0};
            if (tokenizer_load(dir(), N_VOCAB, &t, &err) != MOE_OK)
                assert_true(strlen(err.message) > 0 && t == NULL);
            tokenizer_destroy(t);
        }
        text[i] = kept;
    }
}

/* ---- the public functions -------------------------------------------------- */

static void a_caller_may_lower_the_models_limit_only(void **state)
{
    (void)state;
    write_files(NULL, VOCAB, NULL);
    moe_model m = {.info = {.max_tokens = 4}, .tokenizer = load()};
    moe_text in = {.text = "a b a b", .text_bytes = 7};
    moe_tokens t;
    const int limits[][2] = {{0, 4}, {3, 3}, {4, 4}, {100, 4}, {2, 2}};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        in.max_tokens = limits[i][0];
        assert_int_equal(moe_tokenize(&m, &in, &t, NULL), MOE_OK);
        assert_int_equal(t.n, limits[i][1]);
        assert_int_equal(t.n_truncated, 6 - t.n);
        moe_tokens_free(&t);
        assert_null(t.ids);
    }
    in.max_tokens = -1;
    assert_int_equal(moe_tokenize(&m, &in, &t, NULL), MOE_E_ARGUMENT);
    in.max_tokens = 1;
    assert_int_equal(moe_tokenize(&m, &in, &t, NULL), MOE_E_ARGUMENT);
    assert_string_equal(moe_token_text(&m, 6), "##a");
    assert_null(moe_token_text(&m, 7));
    tokenizer_destroy(m.tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vocab_txt_alone_means_berts_defaults),
        cmocka_unit_test(crlf_and_a_missing_last_newline_are_fine),
        cmocka_unit_test(the_config_sets_the_switches),
        cmocka_unit_test(the_config_names_the_special_tokens),
        cmocka_unit_test(tokenizer_json_is_enough),
        cmocka_unit_test(a_vocab_txt_that_tokenizer_json_contradicts_is_refused),
        cmocka_unit_test(the_config_wins_over_tokenizer_json),
        cmocka_unit_test(another_kind_of_tokenizer_is_named),
        cmocka_unit_test(broken_values_in_tokenizer_json_are_refused),
        cmocka_unit_test(broken_lines_of_vocab_txt_are_refused_by_number),
        cmocka_unit_test(a_shifted_vocab_txt_contradicts_the_config),
        cmocka_unit_test(broken_values_in_the_config_are_refused),
        cmocka_unit_test(a_missing_or_odd_file_is_an_io_error),
        cmocka_unit_test(a_damaged_tokenizer_json_never_crashes),
        cmocka_unit_test(a_caller_may_lower_the_models_limit_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
