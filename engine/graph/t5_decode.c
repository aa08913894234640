/* t5_decode.c: answers of a text-to-text model.
 *
 * A chunk is as many sequences as fit the arena with their memory and their decoder's
 * rows. After the encoder, the trees of all that want labels run through the decoder in
 * one pass: a node sees its ancestors, so a prefix that labels share is computed once.
 * Then all that want text go step by step, one row each; who ends, leaves. Rows of the
 * self cache are handed out in order and stay where they are: lists say who sees which. */
#include <stdlib.h>
#include <string.h>

#include "engine/graph/t5.h"
#include "engine/task/labels.h"

typedef struct {
    moe_engine *e;
    const chunk *c;
    moe_decoding *each; /* of the chunk's sequences */
    int n_rows;         /* of the self cache in use */
} decoder;

/* ---- checks -------------------------------------------------------------------- */

static moe_status check_one(const moe_engine *e, const moe_decoding *d, int seq,
                            moe_error *err)
{
    int most = e->model->info.max_tokens;
    if (d->labels && d->labels->model != e->model)
        return moe_fail(err, MOE_E_ARGUMENT, "sequence %d: its labels are of another model", seq);
    if (d->labels ? !d->logprob : !d->ids)
        return moe_fail(err, MOE_E_ARGUMENT, "sequence %d: no room for %s", seq,
                        d->labels ? "log-probabilities" : "ids");
    if (!d->labels && (d->max_new_tokens < 1 || d->max_new_tokens > most))
        return moe_fail(err, MOE_E_ARGUMENT, "sequence %d: max_new_tokens is %d, expected 1 to "
                        "%d", seq, d->max_new_tokens, most);
    return MOE_OK;
}

static moe_status check(const moe_engine *e, const moe_batch *b, const moe_decoding *each,
                        moe_error *err)
{
    if (e->model->info.task != MOE_TASK_TEXT)
        return moe_fail(err, MOE_E_ARGUMENT, "%s: has no decoder that says text",
                        e->model->info.dir);
    moe_status status = engine_check_batch(e, b, err);
    for (int s = 0; status == MOE_OK && s < b->n_seqs; s++)
        status = check_one(e, &each[s], s, err);
    return status;
}

/* ---- rows ------------------------------------------------------------------------- */

/* Appends row `at` of a pass: a token of a text at a position. */
static void set_row(decoder *d, int at, int text, int32_t token, int position)
{
    t5_arena *a = d->e->t5;
    a->ids[at] = token;
    a->positions[at] = position;
    a->text[at] = text;
    if (d->c->selection)
        a->selection[at] = d->c->selection[text];
}

/* n rows, each a sequence of its own to routing. */
static chunk rows_chunk(const decoder *d, int n)
{
    const moe_engine *e = d->e;
    const t5_arena *a = e->t5;
    return (chunk){
        .n_seqs = n, .n_tokens = n, .cu_seqlens = a->cu_one, .ids = a->ids,
        .positions = a->positions, .selection = d->c->selection ? a->selection : NULL,
        .first_layer = e->weights.n_layers - e->weights.n_decoder_layers,
        .end_layer = e->weights.n_layers,
    };
}

/* ---- labels -------------------------------------------------------------------------- */

/* The rows of one tree, the first being row n; returns how many there are then. */
static int list_tree(decoder *d, int text, int n)
{
    t5_arena *a = d->e->t5;
    const moe_labels *l = d->each[text].labels;
    for (int i = 0; i < l->n_nodes; i++) {
        const label_node *node = &l->node[i];
        int32_t *key = a->self_row + a->cu_self[n + i];
        set_row(d, n + i, text, node->token, node->depth);
        for (int at = i, k = node->depth; k >= 0; at = l->node[at].parent, k--)
            key[k] = n + at;
        a->cu_self[n + i + 1] = a->cu_self[n + i] + node->depth + 1;
    }
    return n + l->n_nodes;
}

/* Adds what follows from one node's logits to the labels behind it. */
static void score_node(void *ctx, int row, const float *logits)
{
    decoder *d = ctx;
    const t5_arena *a = d->e->t5;
    const moe_decoding *out = &d->each[a->text[row]];
    const moe_labels *l = out->labels;
    const label_node *node = &l->node[row - a->cu_rows[a->text[row]]];
    float scale = d->e->model->logit_scale;
    double sum = t5_log_sum(logits, d->e->model->info.n_vocab, scale);
    for (int i = node->first_edge; i < node[1].first_edge; i++) {
        const label_edge *edge = &l->edge[i];
        float logprob = (float)((double)scale * logits[edge->token] - sum);
        for (int k = edge->first; k < edge->end; k++)
            out->logprob[l->order[k]] += logprob;
    }
}

static moe_status score_labels(decoder *d, moe_error *err)
{
    t5_arena *a = d->e->t5;
    int n = 0;
    a->cu_self[0] = a->cu_rows[0] = 0;
    for (int s = 0; s < d->c->n_seqs; s++) {
        const moe_labels *l = d->each[s].labels;
        for (int i = 0; l && i < l->n; i++)
            d->each[s].logprob[i] = 0;
        n = l ? list_tree(d, s, n) : n;
        a->cu_rows[s + 1] = n;
    }
    if (n == 0)
        return MOE_OK;
    chunk rows = rows_chunk(d, n);
    t5_pass p = {.c = &rows, .cu_self = a->cu_self, .self_row = a->self_row,
                 .n_texts = d->c->n_seqs, .cu_rows = a->cu_rows, .cu_cross = d->c->cu_seqlens};
    moe_status status = t5_run_decoder(d->e, &p, err);
    if (status != MOE_OK)
        return status;
    t5_account(d->e, &rows, a->text);
    t5_head(d->e, n, score_node, d);
    d->n_rows = n;
    return MOE_OK;
}

/* ---- text --------------------------------------------------------------------------- */

/* The lists of keys of a step's rows: all their text's before, and the new one. */
static void list_keys(decoder *d, int n)
{
    t5_arena *a = d->e->t5;
    const int32_t *tokens = d->c->cu_seqlens;
    a->cu_self[0] = a->cu_cross[0] = 0;
    for (int i = 0; i < n; i++) {
        int text = a->text[i], n_self = a->positions[i] + 1;
        int32_t *history = a->history + a->first_history[text];
        history[n_self - 1] = d->n_rows + i;
        memcpy(a->self_row + a->cu_self[i], history, (size_t)n_self * sizeof *history);
        a->cu_self[i + 1] = a->cu_self[i] + n_self;
        a->cu_cross[i + 1] = a->cu_cross[i] + tokens[text + 1] - tokens[text];
        for (int t = tokens[text], at = a->cu_cross[i]; t < tokens[text + 1]; t++, at++)
            a->cross_row[at] = t;
    }
}

/* Greedy: the likeliest token, the first of equals. */
static void take_token(void *ctx, int row, const float *logits)
{
    decoder *d = ctx;
    moe_decoding *out = &d->each[d->e->t5->text[row]];
    int best = 0;
    int n = d->e->model->info.n_vocab;
    for (int i = 1; i < n; i++)
        best = logits[i] > logits[best] ? i : best;
    if (out->logprob) {
        float scale = d->e->model->logit_scale;
        *out->logprob += (float)((double)scale * logits[best] - t5_log_sum(logits, n, scale));
    }
    out->ids[out->n_ids++] = best;
    out->ended = best == d->e->model->t5.end_id;
}

/* Keeps the rows of texts that go on, with their new token; returns how many. */
static int go_on(decoder *d, int n)
{
    t5_arena *a = d->e->t5;
    int kept = 0;
    for (int i = 0; i < n; i++) {
        int text = a->text[i];
        const moe_decoding *out = &d->each[text];
        if (!out->ended && out->n_ids < out->max_new_tokens)
            set_row(d, kept++, text, out->ids[out->n_ids - 1], out->n_ids);
    }
    return kept;
}

/* The first row of each text that wants one; returns how many. */
static int start_texts(decoder *d)
{
    t5_arena *a = d->e->t5;
    int n = 0, room = 0;
    for (int s = 0; s < d->c->n_seqs; s++) {
        if (d->each[s].labels)
            continue;
        d->each[s].n_ids = 0;
        d->each[s].ended = false;
        if (d->each[s].logprob)
            *d->each[s].logprob = 0;
        a->first_history[s] = room;
        room += d->each[s].max_new_tokens;
        set_row(d, n++, s, d->e->model->t5.start_id, 0);
    }
    return n;
}

static moe_status generate(decoder *d, moe_error *err)
{
    t5_arena *a = d->e->t5;
    for (int n = start_texts(d); n > 0; n = go_on(d, n)) {
        list_keys(d, n);
        chunk rows = rows_chunk(d, n);
        t5_pass p = {.c = &rows, .base = d->n_rows, .cu_self = a->cu_self,
                     .self_row = a->self_row, .n_texts = n, .cu_rows = a->cu_one,
                     .cu_cross = a->cu_cross, .cross_row = a->cross_row};
        moe_status status = t5_run_decoder(d->e, &p, err);
        if (status != MOE_OK)
            return status;
        t5_account(d->e, &rows, a->text);
        t5_head(d->e, n, take_token, d);
        d->n_rows += n;
    }
    return MOE_OK;
}

/* ---- chunks --------------------------------------------------------------------------- */

/* How many sequences from `first` on fit the decoder's rows; at least one does. */
static int count_fitting(const moe_engine *e, const moe_decoding *each, int first, int n_seqs)
{
    int64_t rows = 0, links = 0, limit = e->chunk_tokens;
    int n = 0;
    for (; first + n < n_seqs; n++) {
        const moe_labels *l = each[first + n].labels;
        rows += l ? l->n_nodes : each[first + n].max_new_tokens;
        links += l ? l->n_links : 0;
        if (rows > limit || links > T5_KEYS_PER_ROW * limit)
            break;
    }
    return n;
}

static moe_status decode_chunk(moe_engine *e, const chunk *c, moe_decoding *each,
                               double *effective_ratio, moe_error *err)
{
    decoder d = {.e = e, .c = c, .each = each};
    t5_begin(e, c->n_seqs);
    moe_status status = t5_encode(e, c, err);
    if (status != MOE_OK)
        return status;
    for (int l = c->end_layer; l < e->weights.n_layers; l++)
        t5_cross_keys(e, l, c->n_tokens);
    status = score_labels(&d, err);
    if (status == MOE_OK)
        status = generate(&d, err);
    for (int s = 0; status == MOE_OK && effective_ratio && s < c->n_seqs; s++)
        effective_ratio[s] = t5_share(e, s);
    return status;
}

moe_status moe_decode(moe_engine *e, const moe_batch *batch, moe_decoding *each,
                      double *effective_ratio, moe_error *err)
{
    moe_status status = check(e, batch, each, err);
    for (int first = 0; status == MOE_OK && first < batch->n_seqs;) {
        int most = count_fitting(e, each, first, batch->n_seqs);
        chunk c = engine_cut_chunk(e, batch, first, most);
        status = decode_chunk(e, &c, each + first,
                              effective_ratio ? effective_ratio + first : NULL, err);
        first += c.n_seqs;
    }
    return status;
}
