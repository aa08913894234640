/* tokenizer_wordpiece.c: BERT's tokenizer files.
 *
 * tokenizer.json, where there is one, is complete: model (WordPiece), normalizer
 * (BertNormalizer), pre_tokenizer (BertPreTokenizer) and post_processor are read, another
 * type refused. Without it, vocab.txt has one token a line, its line number less one
 * being the id. Where both are there, they must agree.
 *
 * tokenizer_config.json comes on top, as in transformers: do_lower_case, strip_accents
 * and tokenize_chinese_chars win over the normalizer (unless tokenizer_class is
 * PreTrainedTokenizerFast, which ignores them), and added_tokens_decoder wins over
 * added_tokens. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/tokenizer_loader.h"
#include "engine/text/trie.h"

typedef struct {
    tokenizer_loader *l;
    wordpiece_spec spec;
    int strip_accents; /* -1: as lower_case */
} reader;

/* ---- tokenizer.json -------------------------------------------------------- */

static moe_status read_normalizer(reader *r, moe_error *err)
{
    const tokenizer_loader *l = r->l;
    const cJSON *n = tokenizer_key(l->json, "normalizer");
    wordpiece_spec *spec = &r->spec;
    bool strip;
    moe_status status = tokenizer_expect(l, "normalizer", "BertNormalizer", err);
    if (status == MOE_OK)
        status = json_bool_or(n, l->path, "clean_text", true, &spec->clean_text, err);
    if (status == MOE_OK)
        status = json_bool_or(n, l->path, "handle_chinese_chars", true, &spec->split_cjk,
                              err);
    if (status == MOE_OK)
        status = json_bool_or(n, l->path, "lowercase", true, &spec->lower_case, err);
    if (status == MOE_OK)
        status = json_bool_or(n, l->path, "strip_accents", false, &strip, err);
    if (status == MOE_OK && cJSON_IsBool(tokenizer_key(n, "strip_accents")))
        r->strip_accents = strip;
    return status;
}

static moe_status read_model(reader *r, moe_error *err)
{
    tokenizer_loader *l = r->l;
    const cJSON *model = tokenizer_key(l->json, "model");
    int64_t max_chars;
    moe_status status = tokenizer_expect(l, "model", "WordPiece", err);
    if (status == MOE_OK)
        status = json_string_or(model, l->path, "unk_token", "[UNK]", &r->spec.unk_token,
                                err);
    if (status == MOE_OK)
        status = json_string_or(model, l->path, "continuing_subword_prefix", "##",
                                &r->spec.prefix, err);
    if (status == MOE_OK)
        status = json_int_or(model, l->path, "max_input_chars_per_word", 0, INT_MAX, 100,
                             &max_chars, err);
    if (status == MOE_OK) {
        r->spec.max_word_chars = (int)max_chars;
        status = tokenizer_read_vocab(l, tokenizer_key(model, "vocab"), l->path,
                                      "model.vocab", err);
    }
    return status;
}

static moe_status read_json(reader *r, moe_error *err)
{
    tokenizer_frame frame = {0};
    moe_status status = read_model(r, err);
    if (status == MOE_OK)
        status = tokenizer_expect(r->l, "pre_tokenizer", "BertPreTokenizer", err);
    if (status == MOE_OK)
        status = read_normalizer(r, err);
    if (status == MOE_OK)
        status = tokenizer_read_frame(r->l, &frame, err);
    if (status == MOE_OK && (frame.begin < 0 || frame.n_between || !frame.typed))
        status = moe_fail(err, MOE_E_UNSUPPORTED, "%s: post_processor is not [CLS] $A [SEP] $B:1 "
                          "[SEP]:1, as WordPiece models have it", r->l->path);
    r->spec.cls = frame.begin;
    r->spec.sep = frame.end;
    return status == MOE_OK ? tokenizer_read_added(r->l, err) : status;
}

/* ---- vocab.txt --------------------------------------------------------------- */

/* Cuts the text into lines: *n of them, lines[id] the token of id. lines has room
 * for n_vocab. */
static moe_status cut_lines(tokenizer_loader *l, const char **lines, int *n,
                            moe_error *err)
{
    size_t bytes = 0;
    moe_status status = tokenizer_read_text(l, l->vocab_path, &bytes, err);
    *n = 0;
    if (status != MOE_OK)
        return status;
    char *line = l->text, *stop = line + bytes;
    for (; line < stop; ++*n) {
        char *end = memchr(line, '\n', (size_t)(stop - line));
        end = end ? end : stop;
        char *next = end + 1;
        if (end > line && end[-1] == '\r')
            end--;
        if (*n >= l->n_vocab)
            return moe_fail(err, MOE_E_FORMAT,
                            "%s: line %d: expected at most %d lines, the rows of the "
                            "word embedding", l->vocab_path, *n + 1, l->n_vocab);
        if (end == line || memchr(line, '\0', (size_t)(end - line)))
            return moe_fail(err, MOE_E_FORMAT, "%s: line %d: %s, expected a token",
                            l->vocab_path, *n + 1,
                            end == line ? "empty" : "has a NUL byte");
        *end = '\0';
        lines[*n] = line;
        line = next;
    }
    return MOE_OK;
}

static moe_status read_vocab(tokenizer_loader *l, moe_error *err)
{
    int n;
    return cut_lines(l, l->vocab, &n, err);
}

/* The token of an id, NULL where there is none. */
static const char *token_of(const tokenizer_loader *l, int id)
{
    return l->vocab[id]           ? l->vocab[id]
           : l->added_at[id] >= 0 ? l->added[l->added_at[id]].content
                                  : NULL;
}

/* A vocab.txt beside tokenizer.json is not needed, but where it says something
 * else one of the two is broken, and other readers would take that one. */
static moe_status compare_vocab(tokenizer_loader *l, moe_error *err)
{
    const char **lines = malloc((size_t)l->n_vocab * sizeof *lines);
    int n = 0;
    if (!lines)
        return tokenizer_no_memory(l, err);
    moe_status status = cut_lines(l, lines, &n, err);
    for (int id = 0; id < l->n_vocab && status == MOE_OK; id++) {
        const char *token = id < n ? token_of(l, id) : l->vocab[id];
        if (id >= n && token)
            status = moe_fail(err, MOE_E_FORMAT,
                              "%s: %d lines, expected one more, '%.100s', which has id %d "
                              "in tokenizer.json", l->vocab_path, n, token, id);
        else if (id < n && (!token || strcmp(token, lines[id]) != 0))
            status = moe_fail(err, MOE_E_FORMAT,
                              "%s: line %d: '%.100s', expected '%.100s', which has id %d in "
                              "tokenizer.json", l->vocab_path, id + 1, lines[id],
                              token ? token : "", id);
    }
    free(lines);
    return status;
}

/* Says it by line where a token is there twice, else as the tokenizer put it. */
static moe_status blame_line(const tokenizer_loader *l, const moe_error *why,
                             moe_error *err)
{
    trie seen;
    int32_t before = TRIE_NONE;
    int id = 0;
    moe_status status = trie_init(&seen, err);
    for (; id < l->n_vocab && l->vocab[id] && status == MOE_OK; id++) {
        status = trie_add(&seen, l->vocab[id], strlen(l->vocab[id]), id, &before, NULL);
        if (before != TRIE_NONE)
            break;
    }
    trie_free(&seen);
    if (before == TRIE_NONE)
        return moe_fail(err, why->code, "%s: %s", l->path, why->message);
    return moe_fail(err, MOE_E_FORMAT,
                    "%s: line %d: '%s' is on line %d already, expected each token once",
                    l->path, id + 1, l->vocab[id], (int)before + 1);
}

/* With vocab.txt, the tokenizer's special tokens are added tokens where the
 * vocabulary has them; cls and sep it must have. */
static moe_status add_special_tokens(reader *r, moe_error *err)
{
    tokenizer_loader *l = r->l;
    const struct { const char *key, *missing; int32_t *id; } specials[] = {
        {"unk_token", "[UNK]", NULL},         {"pad_token", "[PAD]", NULL},
        {"mask_token", "[MASK]", NULL},       {"cls_token", "[CLS]", &r->spec.cls},
        {"sep_token", "[SEP]", &r->spec.sep},
    };
    for (size_t i = 0; i < sizeof specials / sizeof *specials; i++) {
        tokenizer_added_token token = {.content = NULL};
        moe_status status =
            tokenizer_add_special(l, specials[i].key, specials[i].missing, &token, err);
        if (status != MOE_OK)
            return status;
        if (i == 0)
            r->spec.unk_token = token.content;
        if (token.id < 0 && specials[i].id)
            return moe_fail(err, MOE_E_FORMAT, "%s: no line is '%s', expected the %s", l->path,
                            token.content, specials[i].key);
        if (specials[i].id)
            *specials[i].id = token.id;
    }
    return MOE_OK;
}

/* ---- tokenizer_config.json --------------------------------------------- */

static moe_status read_config(reader *r, moe_error *err)
{
    const tokenizer_loader *l = r->l;
    const char *class;
    bool strip;
    wordpiece_spec *spec = &r->spec;
    moe_status status =
        json_string_or(l->config, l->config_path, "tokenizer_class", "", &class, err);
    if (status != MOE_OK || (l->json && !strcmp(class, "PreTrainedTokenizerFast")))
        return status;
    status = json_bool_or(l->config, l->config_path, "do_lower_case", spec->lower_case,
                          &spec->lower_case, err);
    if (status == MOE_OK)
        status = json_bool_or(l->config, l->config_path, "tokenize_chinese_chars",
                              spec->split_cjk, &spec->split_cjk, err);
    if (status == MOE_OK)
        status = json_bool_or(l->config, l->config_path, "strip_accents", false, &strip,
                              err);
    const cJSON *stated = tokenizer_key(l->config, "strip_accents");
    if (status == MOE_OK && stated)
        r->strip_accents = cJSON_IsNull(stated) ? -1 : strip;
    return status;
}

/* ---- all of it --------------------------------------------------------------- */

/* vocab and spec from the files, without the tokenizer's own checks. */
static moe_status read_files(reader *r, moe_error *err)
{
    tokenizer_loader *l = r->l;
    l->path = l->json ? l->json_path : l->vocab_path;
    moe_status status = l->json ? read_json(r, err) : read_vocab(l, err);
    if (status == MOE_OK && l->json && tokenizer_has(l->vocab_path))
        status = compare_vocab(l, err);
    if (status == MOE_OK)
        status = read_config(r, err);
    if (status == MOE_OK)
        status = tokenizer_read_decoder(l, err);
    if (status == MOE_OK && !l->json)
        status = add_special_tokens(r, err);
    return status == MOE_OK ? tokenizer_check_complete(l, err) : status;
}

moe_status tokenizer_load_wordpiece(tokenizer_loader *l, moe_tokenizer **out, moe_error *err)
{
    reader r = {
        .l = l,
        .strip_accents = -1,
        .spec = {.unk_token = "[UNK]", .prefix = "##", .max_word_chars = 100,
                 .clean_text = true, .split_cjk = true, .lower_case = true},
    };
    moe_error why = {0};
    moe_status status = read_files(&r, err);
    if (status != MOE_OK)
        return status;
    r.spec.n_vocab = l->n_vocab;
    r.spec.vocab = l->vocab;
    r.spec.added = l->added;
    r.spec.n_added = l->n_added;
    r.spec.model_max_length = l->model_max_length;
    r.spec.strip_accents = r.strip_accents < 0 ? r.spec.lower_case : r.strip_accents;
    status = tokenizer_create_wordpiece(&r.spec, out, &why);
    if (status == MOE_OK)
        return MOE_OK;
    return l->json ? moe_fail(err, status, "%s: %s", l->path, why.message)
                   : blame_line(l, &why, err);
}
