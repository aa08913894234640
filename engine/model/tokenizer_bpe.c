/* tokenizer_bpe.c: RoBERTa's tokenizer files: a byte-level BPE in tokenizer.json or, where
 * that is missing, in vocab.json (ids by token) and merges.txt (a merge a line, by rank). */
#include <stdlib.h>
#include <string.h>

#include "engine/model/tokenizer_loader.h"

enum { MAX_VOCAB_BYTES = 64 << 20, MAX_MERGES = 1 << 22 };

typedef struct {
    tokenizer_loader *l;
    bpe_spec spec;
    bpe_merge *merges; /* spec.merges; ours */
    cJSON *vocab;      /* vocab.json */
} reader;

/* ---- merges ------------------------------------------------------------------ */

static moe_status take_merges(reader *r, int n, const char *path, moe_error *err)
{
    if (n > MAX_MERGES)
        return moe_fail(err, MOE_E_LIMIT, "%s: %d merges, expected at most %d", path, n,
                        MAX_MERGES);
    r->merges = calloc((size_t)n + 1, sizeof *r->merges);
    return r->merges ? MOE_OK : tokenizer_no_memory(r->l, err);
}

/* "left right" of n bytes; false: not two tokens. */
static bool split_merge(const char *s, size_t n, bpe_merge *to)
{
    const char *space = memchr(s, ' ', n);
    if (!space || space == s || space + 1 == s + n ||
        memchr(space + 1, ' ', n - (size_t)(space + 1 - s)))
        return false;
    *to = (bpe_merge){.left = s, .n_left = (size_t)(space - s), .right = space + 1,
                      .n_right = n - (size_t)(space + 1 - s)};
    return true;
}

/* "left right", or ["left", "right"]. */
static bool read_merge(const cJSON *m, bpe_merge *to)
{
    const cJSON *left = cJSON_IsArray(m) ? m->child : NULL, *right = left ? left->next : NULL;
    if (cJSON_IsString(m))
        return split_merge(m->valuestring, strlen(m->valuestring), to);
    if (!cJSON_IsString(left) || !cJSON_IsString(right) || right->next)
        return false;
    *to = (bpe_merge){.left = left->valuestring, .n_left = strlen(left->valuestring),
                      .right = right->valuestring, .n_right = strlen(right->valuestring)};
    return true;
}

static moe_status read_json_merges(reader *r, const cJSON *model, moe_error *err)
{
    const cJSON *list = tokenizer_key(model, "merges"), *m;
    if (!cJSON_IsArray(list))
        return moe_fail(err, MOE_E_FORMAT, "%s: model.merges is %s, expected an array",
                        r->l->path, list ? "something else" : "missing");
    moe_status status = take_merges(r, cJSON_GetArraySize(list), r->l->path, err);
    if (status != MOE_OK)
        return status;
    cJSON_ArrayForEach(m, list) {
        if (!read_merge(m, &r->merges[r->spec.n_merges]))
            return moe_fail(err, MOE_E_FORMAT,
                            "%s: model.merges[%d] is something else, expected two tokens",
                            r->l->path, r->spec.n_merges);
        r->spec.n_merges++;
    }
    return MOE_OK;
}

static moe_status read_merges_file(reader *r, const char *path, moe_error *err)
{
    size_t n = 0, lines = 1;
    moe_status status = tokenizer_read_text(r->l, path, &n, err);
    for (size_t i = 0; status == MOE_OK && i < n; i++)
        lines += r->l->text[i] == '\n';
    if (status == MOE_OK)
        status = take_merges(r, lines < MAX_MERGES ? (int)lines : MAX_MERGES + 1, path, err);
    const char *s = r->l->text, *stop = s + n;
    for (int line = 1; status == MOE_OK && s < stop; line++) {
        size_t length = strcspn(s, "\r\n");
        bool comment = line == 1 && strncmp(s, "#version", 8) == 0;
        if (length && !comment) {
            if (!split_merge(s, length, &r->merges[r->spec.n_merges]))
                return moe_fail(err, MOE_E_FORMAT, "%s: line %d: '%.*s', expected two tokens",
                                path, line, (int)(length < 100 ? length : 100), s);
            r->spec.n_merges++;
        }
        s += length + (s[length] == '\r') ;
        s += s < stop;
    }
    return status;
}

/* ---- tokenizer.json ------------------------------------------------------------ */

/* Variants of BPE that nothing here computes. */
static moe_status refuse_variants(const reader *r, const cJSON *model, moe_error *err)
{
    static const char *const flags[] = {"fuse_unk", "byte_fallback", "ignore_merges"};
    static const char *const strings[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const cJSON *normalizer = tokenizer_key(r->l->json, "normalizer");
    const cJSON *dropout = tokenizer_key(model, "dropout");
    for (int i = 0; i < 3; i++)
        if (cJSON_IsTrue(tokenizer_key(model, flags[i])))
            return moe_fail(err, MOE_E_UNSUPPORTED, "%s: model.%s is true, expected false",
                            r->l->path, flags[i]);
    for (int i = 0; i < 2; i++) {
        const cJSON *s = tokenizer_key(model, strings[i]);
        if (cJSON_IsString(s) && *s->valuestring)
            return moe_fail(err, MOE_E_UNSUPPORTED, "%s: model.%s is '%.40s', expected none",
                            r->l->path, strings[i], s->valuestring);
    }
    if (cJSON_IsNumber(dropout) && dropout->valuedouble != 0)
        return moe_fail(err, MOE_E_UNSUPPORTED, "%s: model.dropout is %g, expected none",
                        r->l->path, dropout->valuedouble);
    if (normalizer && !cJSON_IsNull(normalizer))
        return moe_fail(err, MOE_E_UNSUPPORTED, "%s: normalizer is there, expected none for BPE",
                        r->l->path);
    return MOE_OK;
}

static moe_status read_byte_level(reader *r, moe_error *err)
{
    const tokenizer_loader *l = r->l;
    const cJSON *pre = tokenizer_key(l->json, "pre_tokenizer");
    const cJSON *post = tokenizer_key(l->json, "post_processor");
    bool use_regex = true;
    moe_status status = tokenizer_expect(l, "pre_tokenizer", "ByteLevel", err);
    if (status == MOE_OK)
        status = json_bool_or(pre, l->path, "add_prefix_space", true, &r->spec.add_prefix_space,
                              err);
    if (status == MOE_OK)
        status = json_bool_or(pre, l->path, "use_regex", true, &use_regex, err);
    if (status == MOE_OK && !use_regex)
        status = moe_fail(err, MOE_E_UNSUPPORTED,
                          "%s: pre_tokenizer.use_regex is false, expected true", l->path);
    if (status == MOE_OK)
        status = json_bool_or(post, l->path, "trim_offsets", true, &r->spec.trim_offsets, err);
    if (status == MOE_OK)
        status = json_bool_or(post, l->path, "add_prefix_space", true,
                              &r->spec.trim_keeps_prefix, err);
    return status;
}

static moe_status read_json(reader *r, moe_error *err)
{
    tokenizer_loader *l = r->l;
    const cJSON *model = tokenizer_key(l->json, "model");
    l->path = l->json_path;
    moe_status status = refuse_variants(r, model, err);
    if (status == MOE_OK)
        status = tokenizer_read_vocab(l, tokenizer_key(model, "vocab"), l->path, "model.vocab",
                                      err);
    if (status == MOE_OK)
        status = read_json_merges(r, model, err);
    if (status == MOE_OK)
        status = read_byte_level(r, err);
    if (status == MOE_OK)
        status = tokenizer_read_frame(l, &r->spec.frame, err);
    return status == MOE_OK ? tokenizer_read_added(l, err) : status;
}

/* ---- vocab.json and merges.txt ------------------------------------------------- */

/* RoBERTa's special tokens by their names in tokenizer_config.json. */
static moe_status add_specials(reader *r, moe_error *err)
{
    tokenizer_loader *l = r->l;
    const struct { const char *key, *missing; int32_t *id; } specials[] = {
        {"cls_token", "<s>", &r->spec.frame.begin}, {"sep_token", "</s>", &r->spec.frame.end},
        {"pad_token", "<pad>", NULL}, {"unk_token", "<unk>", NULL},
        {"mask_token", "<mask>", NULL},
    };
    for (size_t i = 0; i < sizeof specials / sizeof *specials; i++) {
        tokenizer_added_token token = {.normalized = i != 4, .lstrip = i == 4};
        moe_status status =
            tokenizer_add_special(l, specials[i].key, specials[i].missing, &token, err);
        if (status != MOE_OK)
            return status;
        if (token.id < 0 && specials[i].id)
            return moe_fail(err, MOE_E_FORMAT, "%s: has no '%s', expected the %s", l->path,
                            token.content, specials[i].key);
        if (specials[i].id)
            *specials[i].id = token.id;
    }
    return MOE_OK;
}

static moe_status read_pair_of_files(reader *r, const char *merges, moe_error *err)
{
    tokenizer_loader *l = r->l;
    l->path = l->vocab_path;
    r->spec.frame.n_between = 1;
    r->spec.trim_offsets = true;
    moe_status status = json_read_file(l->vocab_path, MAX_VOCAB_BYTES, &r->vocab, err);
    if (status == MOE_OK)
        status = tokenizer_read_vocab(l, r->vocab, l->path, "the vocabulary", err);
    if (status == MOE_OK)
        status = read_merges_file(r, merges, err);
    if (status == MOE_OK)
        status = json_bool_or(l->config, l->config_path, "add_prefix_space", false,
                              &r->spec.add_prefix_space, err);
    r->spec.trim_keeps_prefix = r->spec.add_prefix_space;
    return status;
}

static moe_status read_files(reader *r, moe_error *err)
{
    tokenizer_loader *l = r->l;
    if (l->json)
        return read_json(r, err);
    char *merges = tokenizer_path(l->dir, "merges.txt");
    free(l->vocab_path);
    l->vocab_path = tokenizer_path(l->dir, "vocab.json");
    moe_status status = merges && l->vocab_path ? read_pair_of_files(r, merges, err)
                                                : tokenizer_no_memory(l, err);
    free(merges);
    return status;
}

static moe_status create(reader *r, moe_tokenizer **out, moe_error *err)
{
    tokenizer_loader *l = r->l;
    moe_error why = {0};
    r->spec.n_vocab = l->n_vocab;
    r->spec.vocab = l->vocab;
    r->spec.merges = r->merges;
    r->spec.added = l->added;
    r->spec.n_added = l->n_added;
    r->spec.model_max_length = l->model_max_length;
    moe_status status = tokenizer_create_bpe(&r->spec, out, &why);
    return status == MOE_OK ? MOE_OK : moe_fail(err, status, "%s: %s", l->path, why.message);
}

moe_status tokenizer_load_bpe(tokenizer_loader *l, moe_tokenizer **out, moe_error *err)
{
    reader r = {.l = l, .spec = {.frame = {.begin = -1}}};
    moe_status status = read_files(&r, err);
    if (status == MOE_OK)
        status = tokenizer_read_decoder(l, err);
    if (status == MOE_OK && !l->json)
        status = add_specials(&r, err);
    if (status == MOE_OK)
        status = tokenizer_check_complete(l, err);
    if (status == MOE_OK)
        status = create(&r, out, err);
    free(r.merges);
    cJSON_Delete(r.vocab);
    return status;
}
