/* tokenizer_spm.c: T5's tokenizer files: spiece.model, and tokenizer_config.json for the
 * added tokens around it; tokenizer.json alone where there is no spiece.model. Where
 * tokenizer_config.json lists no added tokens, they are what transformers adds: </s>, <unk>,
 * <pad> and the extra ids, <extra_id_0> being the last of them. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/model/tokenizer_files.h"
#include "engine/model/tokenizer_loader.h"
#include "engine/text/sentencepiece.h"

enum { MAX_CONFIG_BYTES = 16 << 20, MAX_EXTRA = 10000, NAME_BYTES = 24 };

typedef struct {
    tokenizer_loader l; /* its added tokens and config alone */
    char *model_path;
    char (*names)[NAME_BYTES]; /* of the extra ids */
    spm_spec spec;
} spm_loader;

/* The ids of what transformers adds by itself. */
static moe_status add_defaults(spm_loader *s, const spm_model *m, int n_extra, moe_error *err)
{
    static const char *const specials[] = {"</s>", "<unk>", "<pad>"};
    moe_status status = MOE_OK;
    int last = spm_size(m) + n_extra - 1;
    for (int i = 0; i < 3 && !status; i++) {
        tokenizer_added_token a = {.content = specials[i], .id = spm_find(m, specials[i]),
                                   .special = true};
        if (a.id >= 0)
            status = tokenizer_put_added(&s->l, s->model_path, &a, err);
    }
    s->names = calloc((size_t)n_extra + 1, sizeof *s->names);
    if (!s->names)
        return tokenizer_no_memory(&s->l, err);
    for (int i = 0; i < n_extra && !status; i++) {
        snprintf(s->names[i], NAME_BYTES, "<extra_id_%d>", i);
        tokenizer_added_token a = {.content = s->names[i], .id = last - i, .special = true,
                                   .lstrip = true, .rstrip = true};
        if (a.id < s->l.n_vocab)
            status = tokenizer_put_added(&s->l, s->model_path, &a, err);
    }
    return status;
}

static moe_status read_added(spm_loader *s, moe_error *err)
{
    spm_model *m;
    int64_t n_extra = 0;
    if (tokenizer_key(s->l.config, "added_tokens_decoder"))
        return tokenizer_read_decoder(&s->l, err);
    moe_status status = json_int_or(s->l.config, s->l.config_path, "extra_ids", 0, MAX_EXTRA, 100,
                                    &n_extra, err);
    if (!status)
        status = spm_open(s->model_path, true, &m, err);
    if (status)
        return status;
    status = add_defaults(s, m, (int)n_extra, err);
    spm_close(m);
    return status;
}

static moe_status read_config(spm_loader *s, moe_error *err)
{
    double max_length = 0;
    moe_status status = MOE_OK;
    if (access(s->l.config_path, F_OK) == 0)
        status = json_read_file(s->l.config_path, MAX_CONFIG_BYTES, &s->l.config, err);
    if (!status)
        status = json_number_or(s->l.config, s->l.config_path, "model_max_length", 1, 1e308, 0,
                                &max_length, err);
    if (!status)
        status = json_bool_or(s->l.config, s->l.config_path, "legacy", true, &s->spec.legacy,
                              err);
    s->spec.model_max_length = max_length <= INT_MAX ? (int)max_length : 0;
    return status;
}

static moe_status load(spm_loader *s, const char *dir, moe_tokenizer **out, moe_error *err)
{
    tokenizer_loader *l = &s->l;
    if (asprintf(&s->model_path, "%s/spiece.model", dir) < 0)
        s->model_path = NULL;
    if (asprintf(&l->config_path, "%s/tokenizer_config.json", dir) < 0)
        l->config_path = NULL;
    l->added_at = malloc((size_t)l->n_vocab * sizeof *l->added_at);
    if (!s->model_path || !l->config_path || !l->added_at)
        return tokenizer_no_memory(l, err);
    memset(l->added_at, -1, (size_t)l->n_vocab * sizeof *l->added_at);
    moe_status status = read_config(s, err);
    if (!status)
        status = read_added(s, err);
    if (status)
        return status;
    s->spec.path = s->model_path;
    s->spec.added = l->added;
    s->spec.n_added = l->n_added;
    return tokenizer_create_spm(&s->spec, out, err);
}

moe_status tokenizer_load_t5(const char *dir, int n_vocab, int32_t end, moe_tokenizer **out,
                             moe_error *err)
{
    char *pieces = tokenizer_path(dir, "spiece.model");
    char *json = tokenizer_path(dir, "tokenizer.json");
    bool from_json = pieces && json && !tokenizer_has(pieces) && tokenizer_has(json);
    free(pieces);
    free(json);
    *out = NULL;
    if (from_json)
        return tokenizer_load(dir, n_vocab, out, err);
    spm_loader s = {.l = {.n_vocab = n_vocab, .path = dir},
                    .spec = {.n_vocab = n_vocab, .unk = -1, .begin = -1, .end = end}};
    moe_status status = load(&s, dir, out, err);
    cJSON_Delete(s.l.config);
    free(s.l.config_path);
    free(s.l.added);
    free(s.l.added_at);
    free(s.model_path);
    free(s.names);
    return status;
}
