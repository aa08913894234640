/* session.c: opens a model for use, and collects sequences into ragged batches.
 * The arrays of a batch double when they are full and are kept between runs. */
#include "convert/session.h"

#include <stdlib.h>
#include <string.h>

#include "convert/logits.h"

enum { MAX_BATCH_TOKENS = 1 << 30, FIRST_SEQS = 64, FIRST_TOKENS = 4096 };

/* ---- session -------------------------------------------------------------- */

moe_status session_open_on(session *s, const moe_model *m, moe_backend_kind backend,
                           int n_threads, moe_error *err)
{
    const moe_engine_options options = {.backend = backend};
    *s = (session){.in_use = m, .info = moe_model_describe(m)};
    moe_status status = moe_pool_create(n_threads, &s->pool, err);
    if (status == MOE_OK)
        status = moe_engine_create(m, s->pool, &options, &s->engine, err);
    if (status != MOE_OK)
        session_close(s);
    return status;
}

moe_status session_open(session *s, const char *dir, moe_backend_kind backend,
                        int n_threads, moe_error *err)
{
    moe_model *m;
    *s = (session){0};
    moe_status status = moe_model_open(dir, &m, err);
    if (status != MOE_OK)
        return status;
    status = session_open_on(s, m, backend, n_threads, err);
    if (status == MOE_OK)
        s->model = m;
    else
        moe_model_close(m);
    return status;
}

void session_close(session *s)
{
    moe_engine_destroy(s->engine);
    moe_pool_destroy(s->pool);
    moe_model_close(s->model);
    *s = (session){0};
}

moe_status session_check_policy(const session *s, moe_policy p, moe_error *err)
{
    const char *lacks = moe_policy_lacks(s->info, p);
    if (!lacks)
        return MOE_OK;
    return moe_fail(err, MOE_E_ARGUMENT, "%s: has no %s: expected --policy topk", s->info->dir,
                    lacks);
}

moe_status row_tokenize(const moe_model *m, const dataset_row *row, bool want_offsets,
                        moe_tokens *out, moe_error *err)
{
    moe_text in = {.text = row->text, .text_bytes = row->text_bytes,
                   .pair = row->pair, .pair_bytes = row->pair_bytes,
                   .truncation = moe_model_describe(m)->task == MOE_TASK_ANSWER
                                     ? MOE_TRUNCATE_ONLY_SECOND : MOE_TRUNCATE_LONGEST_FIRST,
                   .want_offsets = want_offsets};
    return moe_tokenize(m, &in, out, err);
}

const char *task_name(moe_task task)
{
    switch (task) {
    case MOE_TASK_CLASSIFY: return "text-classification";
    case MOE_TASK_MULTI_LABEL: return "multi-label-classification";
    case MOE_TASK_REGRESS: return "regression";
    case MOE_TASK_TEXT: return "text2text-generation";
    case MOE_TASK_ANSWER: return "question-answering";
    }
    return "";
}

/* ---- batch ---------------------------------------------------------------- */

/* Makes *array hold room things of size bytes; false: out of memory. */
static bool resize(void *array, int room, size_t size)
{
    void *old, *larger;
    memcpy(&old, array, sizeof old);
    larger = realloc(old, (size_t)room * size);
    if (larger)
        memcpy(array, &larger, sizeof larger);
    return larger != NULL;
}

static bool make_room(batch *b, int n_tokens)
{
    int seqs = b->seq_room ? b->seq_room : FIRST_SEQS;
    int tokens = b->token_room ? b->token_room : FIRST_TOKENS;
    while (seqs < b->n_seqs + 2) /* cu_seqlens has one more */
        seqs *= 2;
    while (tokens < b->n_tokens + n_tokens)
        tokens *= 2;
    if (seqs > b->seq_room && (!resize(&b->cu_seqlens, seqs, sizeof *b->cu_seqlens) ||
                               !resize(&b->selection, seqs, sizeof *b->selection) ||
                               !resize(&b->effective_ratio, seqs, sizeof(double)) ||
                               !resize(&b->mass, seqs, sizeof(double))))
        return false;
    b->seq_room = seqs;
    if (tokens > b->token_room && (!resize(&b->ids, tokens, sizeof *b->ids) ||
                                   !resize(&b->types, tokens, sizeof *b->types)))
        return false;
    b->token_room = tokens;
    return true;
}

moe_status batch_add(batch *b, const int32_t *ids, const int32_t *types, int n,
                     moe_selection selection, moe_error *err)
{
    if (n > MAX_BATCH_TOKENS - b->n_tokens)
        return moe_fail(err, MOE_E_LIMIT, "a batch of more than %d tokens", MAX_BATCH_TOKENS);
    if (!make_room(b, n))
        return moe_fail(err, MOE_E_MEMORY, "out of memory for a batch of %d tokens",
                        b->n_tokens + n);
    memcpy(b->ids + b->n_tokens, ids, (size_t)n * sizeof *ids);
    memcpy(b->types + b->n_tokens, types, (size_t)n * sizeof *types);
    b->selection[b->n_seqs] = selection;
    b->cu_seqlens[b->n_seqs] = b->n_tokens;
    b->n_tokens += n;
    b->cu_seqlens[++b->n_seqs] = b->n_tokens;
    return MOE_OK;
}

moe_status batch_run(batch *b, session *s, bool with_mass, moe_error *err)
{
    if (b->n_seqs == 0)
        return MOE_OK;
    b->n_labels = s->info->n_labels;
    size_t floats = logits_at(s->info, b->cu_seqlens, b->n_seqs);
    float *logits = realloc(b->logits, floats * sizeof *logits);
    if (!logits)
        return moe_fail(err, MOE_E_MEMORY, "out of memory for the logits of %d sequences",
                        b->n_seqs);
    b->logits = logits;
    moe_batch in = {.n_seqs = b->n_seqs, .cu_seqlens = b->cu_seqlens, .token_ids = b->ids,
                    .token_types = b->types, .selection = b->selection};
    moe_output out = {.logits = logits, .effective_ratio = b->effective_ratio,
                      .mass = with_mass ? b->mass : NULL};
    return moe_forward(s->engine, &in, &out, err);
}

void batch_clear(batch *b)
{
    b->n_seqs = b->n_tokens = 0;
}

void batch_free(batch *b)
{
    free(b->cu_seqlens);
    free(b->ids);
    free(b->types);
    free(b->selection);
    free(b->logits);
    free(b->effective_ratio);
    free(b->mass);
    *b = (batch){0};
}
