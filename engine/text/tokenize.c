/* tokenize.c: the public face of a model's tokenizer. */
#include <stdlib.h>

#include "engine/model/model.h"

moe_status moe_tokenize(const moe_model *m, const moe_text *in, moe_tokens *out,
                        moe_error *err)
{
    *out = (moe_tokens){0};
    if (in->max_tokens < 0)
        return moe_fail(err, MOE_E_ARGUMENT, "max_tokens is %d, expected 0 or more",
                        in->max_tokens);
    int limit = m->info.max_tokens;
    if (in->max_tokens && in->max_tokens < limit)
        limit = in->max_tokens;
    return tokenizer_encode(m->tokenizer, in, limit, out, err);
}

void moe_tokens_free(moe_tokens *t)
{
    if (!t)
        return;
    free(t->ids); /* types and spans lie in the same block */
    *t = (moe_tokens){0};
}

moe_status moe_detokenize(const moe_model *m, const int32_t *ids, int n, char **out,
                          moe_error *err)
{
    *out = NULL;
    if (n < 0)
        return moe_fail(err, MOE_E_ARGUMENT, "%d ids, expected 0 or more", n);
    return tokenizer_decode(m->tokenizer, ids, n, out, err);
}

const char *moe_token_text(const moe_model *m, int32_t id)
{
    return tokenizer_token(m->tokenizer, id);
}
