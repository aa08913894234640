/* test_tokenize.c: ids of the shipped checkpoint's tokenizer against those of
 * transformers, id for id, for every golden row (tests/data/golden/minilm-*). All of
 * these checkpoints share one vocabulary. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>
#include <cmocka.h>

#include "engine/model/model.h"
#include "engine/model/tokenizer_files.h"

#define CHECKPOINT "models/minilm-sst2-relu"
enum { N_VOCAB = 30522, MAX_TOKENS = 512 };

/* cJSON ends a string at a NUL; some rows have one within the text. It comes as a
 * private character that no row has, and is put back. */
static const char NUL_ESCAPE[] = "\\u0000", STANDS_FOR_NUL[] = "\\uE0FF";

static void hide_nuls(char *line)
{
    assert_null(strcasestr(line, STANDS_FOR_NUL));
    for (char *at = line; (at = strstr(at, NUL_ESCAPE));)
        memcpy(at, STANDS_FOR_NUL, sizeof STANDS_FOR_NUL - 1);
}

/* Puts NULs back in place; returns the length. NULL has none. */
static size_t restore_nuls(char *s)
{
    size_t n = 0;
    for (const char *from = s; from && *from; n++) {
        bool nul = !strncmp(from, "\uE0FF", 3);
        s[n] = nul ? '\0' : *from;
        from += nul ? 3 : 1;
    }
    return n;
}

typedef void (*check_row)(const moe_model *m, const cJSON *row, int line);

/* Calls check for each line of the file; there must be n_rows. */
static void for_each_row(const moe_model *m, const char *path, int n_rows,
                         check_row check)
{
    FILE *f = fopen(path, "r");
    char *line = NULL;
    size_t size = 0;
    int n = 0;
    assert_non_null(f);
    while (getline(&line, &size, f) > 0) {
        hide_nuls(line);
        cJSON *row = cJSON_Parse(line);
        assert_non_null(row);
        check(m, row, ++n);
        cJSON_Delete(row);
    }
    free(line);
    fclose(f);
    assert_int_equal(n, n_rows);
}

static char *string(const cJSON *row, const char *key)
{
    return cJSON_GetStringValue(cJSON_GetObjectItem(row, key));
}

static moe_tokens tokenize(const moe_model *m, char *text, char *pair)
{
    moe_text in = {.text = text, .text_bytes = restore_nuls(text), .pair = pair,
                   .pair_bytes = restore_nuls(pair), .want_offsets = true};
    moe_tokens tokens;
    moe_error err = {0};
    if (moe_tokenize(m, &in, &tokens, &err) != MOE_OK)
        fail_msg("%s", err.message);
    return tokens;
}

static void expect_ints(const cJSON *expected, const int32_t *found, int n,
                        const char *what, int line)
{
    if (cJSON_GetArraySize(expected) != n)
        fail_msg("line %d: %d %s, expected %d", line, n, what,
                 cJSON_GetArraySize(expected));
    int i = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, expected) {
        if (item->valueint != found[i])
            fail_msg("line %d: %s[%d] is %d, expected %d", line, what, i, found[i],
                     item->valueint);
        i++;
    }
}

static void check_text(const moe_model *m, const cJSON *row, int line)
{
    moe_tokens t = tokenize(m, string(row, "text"), string(row, "text_pair"));
    expect_ints(cJSON_GetObjectItem(row, "ids"), t.ids, t.n, "ids", line);
    expect_ints(cJSON_GetObjectItem(row, "type_ids"), t.types, t.n, "type_ids", line);
    moe_tokens_free(&t);
}

/* A window is [CLS] question [SEP] part of the context [SEP], 384 tokens at most,
 * each part beginning 128 tokens before the end of the one before. */
static void check_windows(const moe_model *m, const cJSON *row, int line)
{
    enum { WINDOW = 384, STRIDE = 128 };
    moe_model roomy = *m;
    roomy.info.max_tokens = 1 << 20;
    moe_tokens q = tokenize(&roomy, string(row, "question"), NULL);
    moe_tokens c = tokenize(&roomy, string(row, "context"), NULL);
    int room = WINDOW - q.n - 1, from = 0, n_context = c.n - 2;
    const cJSON *window;
    cJSON_ArrayForEach(window, cJSON_GetObjectItem(row, "windows")) {
        int32_t ids[WINDOW];
        int part = n_context - from < room ? n_context - from : room;
        assert_true(part > 0);
        memcpy(ids, q.ids, (size_t)q.n * sizeof *ids);
        memcpy(ids + q.n, c.ids + 1 + from, (size_t)part * sizeof *ids);
        ids[q.n + part] = q.ids[q.n - 1];
        expect_ints(cJSON_GetObjectItem(window, "ids"), ids, q.n + part + 1, "ids", line);
        from += room - STRIDE;
    }
    assert_true(from + STRIDE >= n_context); /* the last window ends the context */
    moe_tokens_free(&q);
    moe_tokens_free(&c);
}

static void every_classification_row_matches(void **state)
{
    for_each_row(*state, "tests/data/golden/minilm-sst2-relu.jsonl", 184, check_text);
    for_each_row(*state, "tests/data/golden/minilm-sst2-gelu.jsonl", 60, check_text);
}

static void every_pair_row_matches(void **state)
{
    for_each_row(*state, "tests/data/golden/minilm-stsb-relu.jsonl", 60, check_text);
    for_each_row(*state, "tests/data/golden/minilm-mrpc-relu.jsonl", 103, check_text);
}

static void every_squad_window_matches(void **state)
{
    for_each_row(*state, "tests/data/golden/minilm-squad-relu.jsonl", 25, check_windows);
}

static void vocab_txt_alone_gives_the_same_ids(void **state)
{
    (void)state;
    char dir[512], command[2048];
    moe_tokenizer *t;
    moe_error err = {0};
    snprintf(dir, sizeof dir, "%s/vocab_only", getenv("MOE_TMP"));
    snprintf(command, sizeof command,
             "mkdir -p '%s' && cp " CHECKPOINT "/vocab.txt " CHECKPOINT
             "/tokenizer_config.json '%s'", dir, dir);
    assert_int_equal(system(command), 0);
    if (tokenizer_load(dir, N_VOCAB, &t, &err) != MOE_OK)
        fail_msg("%s", err.message);
    moe_model m = {.info = {.max_tokens = MAX_TOKENS}, .tokenizer = t};
    for_each_row(&m, "tests/data/golden/minilm-sst2-relu.jsonl", 184, check_text);
    tokenizer_destroy(t);
}

static int open_model(void **state)
{
    static moe_model m = {.info = {.max_tokens = MAX_TOKENS}};
    moe_error err = {0};
    if (tokenizer_load(CHECKPOINT, N_VOCAB, &m.tokenizer, &err) != MOE_OK) {
        fprintf(stderr, "%s\n", err.message);
        return -1;
    }
    *state = &m;
    return 0;
}

static int close_model(void **state)
{
    moe_model *m = *state;
    tokenizer_destroy(m->tokenizer);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_classification_row_matches),
        cmocka_unit_test(every_pair_row_matches),
        cmocka_unit_test(every_squad_window_matches),
        cmocka_unit_test(vocab_txt_alone_gives_the_same_ids),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
