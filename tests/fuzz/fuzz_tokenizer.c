/* fuzz_tokenizer.c: any bytes through tokenizers of every kind of setting.
 *
 * The first three bytes choose switches, limit and truncation; what follows is the
 * text, and behind the first 0xFE byte (never in UTF-8) the pair. Checked beside the
 * sanitizers: ids are of the vocabulary, offsets lie in the text and do not go back,
 * the limit holds, n + n_truncated is the same for every limit, and encoding does not
 * depend on whether offsets are asked for. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"

#define CHECK(what) ((what) ? (void)0 : (fprintf(stderr, "%s\n", #what), abort()))

enum { UNK = 1, CLS, SEP, N_VOCAB = 30, N_TOKENIZERS = 32, UNLIMITED = 1 << 28 };

static const char *const VOCAB[N_VOCAB] = {
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "ab", "abc", "aaaa", "##a", "##b",
    "##bc", "e", "##e", "\u00E9", "##\u00E9", "\u4E2D", "\u1100", "##\u1161", ",", "#",
    "\u0301", "##\u0301", "##\u0323", "i", "##\u0307", "\U0001F600", "<m>", "\u00C9a",
};
static const tokenizer_added_token ADDED[] = {
    {.content = "[SEP]", .id = SEP, .special = true},
    {.content = "<m>", .id = 28, .lstrip = true, .rstrip = true},
    {.content = "abc", .id = 8, .single_word = true},
    {.content = "\u00C9a", .id = 29, .normalized = true, .lstrip = true},
    {.content = "\u4E2D", .id = 17, .normalized = true},
};

static moe_tokenizer *tokenizers[N_TOKENIZERS];

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    for (int i = 0; i < N_TOKENIZERS; i++) {
        const wordpiece_spec spec = {
            .n_vocab = N_VOCAB, .vocab = VOCAB, .unk_token = "[UNK]", .prefix = "##",
            .max_word_chars = 8, .clean_text = i & 1, .split_cjk = i & 2,
            .lower_case = i & 4, .strip_accents = i & 8, .cls = CLS, .sep = SEP,
            .added = ADDED, .n_added = i & 16 ? 5 : 1,
        };
        CHECK(tokenizer_create_wordpiece(&spec, &tokenizers[i], NULL) == MOE_OK);
    }
    return 0;
}

static size_t code_points(const char *s, size_t n)
{
    char *repaired;
    size_t n_repaired;
    CHECK(utf8_repair(s, n, &repaired, &n_repaired, NULL) == MOE_OK);
    CHECK(utf8_first_invalid(repaired, n_repaired) == n_repaired);
    CHECK(n_repaired <= 3 * n);
    size_t count = utf8_count(repaired, n_repaired);
    free(repaired);
    return count;
}

static void check_tokens(const moe_tokens *t, const moe_text *in, int limit)
{
    const int32_t length[2] = {
        (int32_t)code_points(in->text, in->text_bytes),
        in->pair ? (int32_t)code_points(in->pair, in->pair_bytes) : 0,
    };
    int32_t last[2] = {0, 0};
    CHECK(t->n <= limit && t->n >= 2 && t->n_truncated >= 0);
    CHECK(t->ids[0] == CLS && t->ids[t->n - 1] == SEP);
    for (int i = 0; i < t->n; i++) {
        moe_span s = t->spans[i];
        CHECK(t->ids[i] >= 0 && t->ids[i] < N_VOCAB);
        CHECK(t->types[i] == 0 || (t->types[i] == 1 && in->pair));
        if (s.which < 0) {
            CHECK(s.which == -1 && s.start == 0 && s.end == 0);
            continue;
        }
        CHECK(s.which == t->types[i] && s.start < s.end && s.end <= length[s.which]);
        CHECK(s.start >= last[s.which]);
        last[s.which] = s.start;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3)
        return 0;
    const moe_tokenizer *t = tokenizers[data[0] % N_TOKENIZERS];
    int limit = 2 + data[1] % 64;
    moe_text in = {.text = (const char *)data + 3, .text_bytes = size - 3,
                   .want_offsets = true, .truncation = data[2] % 3,
                   .strict_utf8 = data[2] & 0x80};
    const char *cut = memchr(in.text, 0xFE, in.text_bytes);
    if (cut) {
        in.pair = cut + 1;
        in.pair_bytes = in.text_bytes - (size_t)(in.pair - in.text);
        in.text_bytes = (size_t)(cut - in.text);
    }
    moe_tokens some, all;
    moe_error err = {0};
    moe_status status = tokenizer_encode(t, &in, limit, &some, &err);
    in.truncation = MOE_TRUNCATE_LONGEST_FIRST;
    if (status != MOE_OK) {
        CHECK(status == MOE_E_ARGUMENT || status == MOE_E_LIMIT);
        CHECK(some.ids == NULL && err.message[0]);
        in.strict_utf8 = false;
    }
    CHECK(tokenizer_encode(t, &in, UNLIMITED, &all, NULL) == MOE_OK);
    CHECK(all.n_truncated == 0);
    check_tokens(&all, &in, UNLIMITED);
    if (status == MOE_OK) {
        check_tokens(&some, &in, limit);
        CHECK(some.n + some.n_truncated == all.n);
    }
    moe_tokens_free(&some);
    in.want_offsets = false;
    CHECK(tokenizer_encode(t, &in, UNLIMITED, &some, NULL) == MOE_OK);
    CHECK(some.n == all.n && !some.spans);
    CHECK(!memcmp(some.ids, all.ids, (size_t)some.n * sizeof *some.ids));
    moe_tokens_free(&some);
    moe_tokens_free(&all);
    return 0;
}
