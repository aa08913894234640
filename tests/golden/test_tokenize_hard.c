/* test_tokenize_hard.c: random hard text against the Hugging Face tokenizers crate.
 *
 * tests/data/golden/wordpiece_hard.jsonl was made with tokenizers 0.22.2 on the
 * vocabulary of minilm-sst2-relu. Its first line has the settings (normalizer switches
 * and added tokens) by name, and `blocks`: for each 4,096 code points one FNV-1a over
 * their properties and what the normalizer makes of them, so that every code point is
 * covered. Each other line is a text, a pair or bytes (hex), with ids, types, the
 * sequence each token belongs to and offsets in code points. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

#include "engine/text/encode.h"
#include "engine/text/utf8.h"

enum { MAX_SETTINGS = 16, MAX_VOCAB = 31000, MAX_ADDED = 32, UNLIMITED = 1 << 28 };

static struct {
    char *text;                     /* vocab.txt */
    const char *vocab[MAX_VOCAB];   /* into text, NULL past its end */
    FILE *rows;
    cJSON *header;
    moe_tokenizer *tokenizers[MAX_SETTINGS];
} world;

/* ---- making tokenizers from the header ---------------------------------- */

static void read_vocab(void)
{
    size_t size = 0;
    FILE *f = fopen("models/minilm-sst2-relu/vocab.txt", "r");
    assert_non_null(f);
    assert_true(getdelim(&world.text, &size, '\0', f) > 0);
    fclose(f);
    int n = 0;
    char *save;
    for (char *t = strtok_r(world.text, "\n", &save); t; t = strtok_r(NULL, "\n", &save))
        world.vocab[n++] = t;
    assert_int_equal(n, 30522);
}

static bool flag(const cJSON *object, const char *key)
{
    return cJSON_IsTrue(cJSON_GetObjectItem(object, key));
}

static int number(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItem(object, key);
    return item ? item->valueint : 0;
}

static const char *string(const cJSON *object, const char *key)
{
    return cJSON_GetStringValue(cJSON_GetObjectItem(object, key));
}

static moe_tokenizer *make(const cJSON *s)
{
    tokenizer_added_token added[MAX_ADDED];
    wordpiece_spec spec = {
        .n_vocab = number(s, "n_vocab"), .vocab = world.vocab, .unk_token = "[UNK]",
        .prefix = "##", .max_word_chars = 100, .clean_text = flag(s, "clean_text"),
        .split_cjk = flag(s, "split_cjk"), .lower_case = flag(s, "lower_case"),
        .strip_accents = flag(s, "strip_accents"), .cls = 101, .sep = 102, .added = added,
    };
    const cJSON *a;
    cJSON_ArrayForEach(a, cJSON_GetObjectItem(s, "added")) {
        assert_true(spec.n_added < MAX_ADDED);
        added[spec.n_added++] = (tokenizer_added_token){
            string(a, "content"), number(a, "id"), flag(a, "special"),
            flag(a, "single_word"), flag(a, "lstrip"), flag(a, "rstrip"),
            flag(a, "normalized"),
        };
    }
    moe_tokenizer *t;
    moe_error err = {0};
    if (tokenizer_create_wordpiece(&spec, &t, &err) != MOE_OK)
        fail_msg("%s: %s", s->string, err.message);
    return t;
}

static const moe_tokenizer *tokenizer(const char *name)
{
    int i = 0;
    const cJSON *s;
    cJSON_ArrayForEach(s, cJSON_GetObjectItem(world.header, "settings")) {
        if (!strcmp(s->string, name)) {
            if (!world.tokenizers[i])
                world.tokenizers[i] = make(s);
            return world.tokenizers[i];
        }
        i++;
    }
    fail_msg("no settings '%s'", name);
    return NULL;
}

/* ---- rows ---------------------------------------------------------------- */

/* row[key], or the bytes of row[key_hex]; NULL if there is neither. Free it. */
static char *bytes(const cJSON *row, const char *key, size_t *n)
{
    char name[32];
    const char *text = string(row, key);
    *n = text ? strlen(text) : 0;
    if (text)
        return strdup(text);
    snprintf(name, sizeof name, "%s_hex", key);
    const char *hex = string(row, name);
    if (!hex)
        return NULL;
    *n = strlen(hex) / 2;
    char *out = malloc(*n + 1);
    for (size_t i = 0; i < *n; i++) {
        unsigned byte;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
        out[i] = (char)byte;
    }
    return out;
}

static void compare(const cJSON *row, const moe_tokens *t, int line)
{
    const cJSON *id = cJSON_GetObjectItem(row, "ids")->child;
    const cJSON *offset = cJSON_GetObjectItem(row, "offsets")->child;
    const char *types = string(row, "type_ids"), *which = string(row, "which");
    if (t->n != (int)strlen(types))
        fail_msg("line %d: %d tokens, expected %zu", line, t->n, strlen(types));
    for (int i = 0; i < t->n; i++, id = id->next, offset = offset->next->next) {
        int32_t expected = which[i] == '-' ? -1 : which[i] - '0';
        moe_span s = t->spans[i];
        if (t->ids[i] != id->valueint || t->types[i] != types[i] - '0' ||
            s.which != expected || s.start != offset->valueint ||
            s.end != offset->next->valueint)
            fail_msg("line %d, token %d: id %d type %d which %d [%d, %d), expected id %d "
                     "type %c which %d [%d, %d)", line, i, t->ids[i], t->types[i], s.which,
                     s.start, s.end, id->valueint, types[i], expected, offset->valueint,
                     offset->next->valueint);
    }
    if (t->n_truncated != number(row, "n_truncated"))
        fail_msg("line %d: %d truncated, expected %d", line, t->n_truncated,
                 number(row, "n_truncated"));
}

static void check(const cJSON *row, int line)
{
    const moe_tokenizer *tok = tokenizer(string(row, "settings"));
    const char *how = string(row, "truncation");
    int limit = number(row, "max");
    moe_text in = {.want_offsets = true};
    char *text = bytes(row, "text", &in.text_bytes);
    char *pair = bytes(row, "text_pair", &in.pair_bytes);
    in.text = text;
    in.pair = pair;
    in.truncation = how && !strcmp(how, "only_second") ? MOE_TRUNCATE_ONLY_SECOND
                                                       : MOE_TRUNCATE_LONGEST_FIRST;
    moe_tokens t;
    moe_error err = {0};
    moe_status status = tokenizer_encode(tok, &in, limit ? limit : UNLIMITED, &t, &err);
    if (flag(row, "error")) {
        assert_int_equal(status, MOE_E_LIMIT);
        assert_null(t.ids);
    } else {
        if (status != MOE_OK)
            fail_msg("line %d: %s", line, err.message);
        compare(row, &t, line);
    }
    moe_tokens_free(&t);
    free(text);
    free(pair);
}

static void every_hard_row_matches_with_offsets(void **state)
{
    (void)state;
    char *line = NULL;
    size_t size = 0;
    int n = 1;
    while (getline(&line, &size, world.rows) > 0) {
        cJSON *row = cJSON_Parse(line);
        assert_non_null(row);
        check(row, ++n);
        cJSON_Delete(row);
    }
    free(line);
    assert_int_equal(n, 431);
}

/* ---- every code point ---------------------------------------------------- */

static uint64_t fnv(uint64_t h, const void *data, size_t n)
{
    const uint8_t *p = data;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * UINT64_C(0x100000001B3);
    return h;
}

static uint64_t fnv_normalized(uint64_t h, const char *settings, const char *s, size_t n)
{
    char *out;
    size_t n_out;
    assert_true(encode_normalize(&((wordpiece_tokenizer *)tokenizer(settings))->rules, s, n, 0, &out, &n_out, NULL));
    h = fnv(h, out, n_out);
    free(out);
    return h;
}

/* Each code point between "a" and two combining marks of classes 1 and 224. */
static uint64_t hash_block(uint32_t first)
{
    enum { BLOCK = 4096, EACH = 16 };
    static uint8_t flags[BLOCK], text[BLOCK * EACH];
    static const char marks[] = "\u0334\u302EB";
    size_t n = 0, n_flags = 0;
    unicode_flags(first, BLOCK, flags);
    for (uint32_t cp = first; cp < first + BLOCK; cp++) {
        if (cp >= 0xD800 && cp <= 0xDFFF)
            continue;
        flags[n_flags++] = flags[cp - first] & (CHAR_DROP | CHAR_SPACE | CHAR_PUNCT |
                                                CHAR_MARK | CHAR_CJK);
        if (cp == '\t' || cp == '\n' || cp == '\r')
            flags[n_flags - 1] &= (uint8_t)~CHAR_DROP;
        text[n++] = 'a';
        n += utf8_put(text + n, cp);
        memcpy(text + n, marks, sizeof marks - 1);
        n += sizeof marks - 1;
    }
    if (n == 0)
        return 0;
    uint64_t h = fnv(UINT64_C(0xCBF29CE484222325), flags, n_flags);
    h = fnv_normalized(h, "default", (const char *)text, n);
    return fnv_normalized(h, "lower_keep", (const char *)text, n);
}

static void every_code_point_is_normalized_as_in_the_crate(void **state)
{
    (void)state;
    uint32_t first = 0;
    const cJSON *block;
    cJSON_ArrayForEach(block, cJSON_GetObjectItem(world.header, "blocks")) {
        uint64_t expected = strtoull(cJSON_GetStringValue(block), NULL, 16);
        if (hash_block(first) != expected)
            fail_msg("code points from U+%04" PRIX32 " differ", first);
        first += 4096;
    }
    assert_int_equal(first, 0x110000);
}

/* -------------------------------------------------------------------------- */

static int setup(void **state)
{
    (void)state;
    char *line = NULL;
    size_t size = 0;
    read_vocab();
    world.rows = fopen("tests/data/golden/wordpiece_hard.jsonl", "r");
    assert_non_null(world.rows);
    assert_true(getline(&line, &size, world.rows) > 0);
    world.header = cJSON_Parse(line);
    assert_non_null(world.header);
    free(line);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    for (int i = 0; i < MAX_SETTINGS; i++)
        tokenizer_destroy(world.tokenizers[i]);
    cJSON_Delete(world.header);
    fclose(world.rows);
    free(world.text);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_hard_row_matches_with_offsets),
        cmocka_unit_test(every_code_point_is_normalized_as_in_the_crate),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
