/* bert.c: the BERT encoder with its classification head (Devlin et al. 2018)
 * as a list of backend calls over one ragged chunk. DistilBERT (Sanh et al. 2019), which
 * has no types, and RoBERTa (Liu et al. 2019), whose positions start later, are the same.
 *
 *   x = norm(words + positions + types)
 *   per layer:  x = norm(x + attention(x) Wo);  x = norm(x + ffn(x))
 *   logits = classifier(tanh(pooler(x[CLS])))          DistilBERT: relu for tanh
 *
 * The FFN computes the experts that routing/ selects for each token. e->x is
 * the residual stream, e->y and e->z are scratch. The head reads each sequence's first
 * token only: so the last layer computes keys and values of all tokens, and of the
 * first ones alone what follows. bert_forward does that; moe_step_* runs the steps one
 * by one over all rows, and the first tokens' bits are the same. */
#include "engine/engine.h"
#include "engine/model/pack.h"
#include "engine/routing/route.h"

void bert_embed(moe_engine *e, const chunk *c)
{
    moe_backend *b = e->backend;
    b->ops->embed(b, &e->weights, c->ids, c->types, c->cu_seqlens, c->n_seqs, e->x);
}

/* Queries and keys of the whole model's heads; graph/ adds the rows. */
static moe_attention attention_of(const moe_engine *e, const chunk *c)
{
    size_t d = (size_t)e->model->info.d_model;
    return (moe_attention){
        .n_seqs = c->n_seqs, .n_heads = e->model->info.n_heads,
        .head = (int)d / e->model->info.n_heads, .scale = e->model->attention_scale,
        .cu_q = c->cu_seqlens, .cu_k = c->cu_seqlens, .y = e->y, .ldy = d,
    };
}

void bert_attention(moe_engine *e, const chunk *c, int layer)
{
    moe_backend *b = e->backend;
    const moe_backend_ops *op = b->ops;
    const moe_layer *w = &e->weights.layers[layer];
    int n = c->n_tokens;
    size_t d = (size_t)e->model->info.d_model;
    moe_attention a = attention_of(e, c);

    op->linear(b, &w->qkv, MOE_ACT_NONE, e->x, n, e->qkv);
    a.q = e->qkv, a.k = e->qkv + d, a.v = e->qkv + 2 * d;
    a.ldq = a.ldkv = 3 * d;
    op->attention(b, &a);
    op->linear(b, &w->attention_out, MOE_ACT_NONE, e->y, n, e->z);
    op->add_norm(b, &w->attention_norm, e->z, e->x, n, e->x);
}

/* The same for the first tokens, whose rows e->x has in the end. The queries' columns
 * of qkv must be whole panels. */
static void attention_of_first(moe_engine *e, const chunk *c, int layer)
{
    moe_backend *b = e->backend;
    const moe_backend_ops *op = b->ops;
    const moe_layer *w = &e->weights.layers[layer];
    int d = e->model->info.d_model, n = c->n_tokens;
    moe_linear queries = pack_linear_columns(&w->qkv, 0, d);
    moe_linear keys_values = pack_linear_columns(&w->qkv, d, 2 * d);
    float *q = e->qkv + 2 * (size_t)n * (size_t)d; /* past keys and values */
    moe_attention a = attention_of(e, c);

    op->gather_rows(b, e->x, d, e->rows, c->n_seqs, e->z);
    op->linear(b, &queries, MOE_ACT_NONE, e->z, c->n_seqs, q);
    op->linear(b, &keys_values, MOE_ACT_NONE, e->x, n, e->qkv);
    a.cu_q = e->row_bounds;
    a.q = q, a.k = e->qkv, a.v = e->qkv + d;
    a.ldq = (size_t)d, a.ldkv = 2 * (size_t)d;
    op->attention(b, &a);
    op->linear(b, &w->attention_out, MOE_ACT_NONE, e->y, c->n_seqs, e->qkv);
    op->add_norm(b, &w->attention_norm, e->qkv, e->z, c->n_seqs, e->x);
}

void bert_ffn(moe_engine *e, const chunk *c, int layer)
{
    moe_backend *b = e->backend;
    const moe_layer *w = &e->weights.layers[layer];
    int n = c->n_tokens;
    const moe_route *route = route_layer(e, c, layer, e->x);
    b->ops->ffn(b, &w->ffn, e->x, n, route, e->z);
    route_add_shift(e, c, layer, route, e->z);
    b->ops->add_norm(b, &w->ffn_norm, e->z, e->x, n, e->x);
}

/* Where the first tokens are, and which. */
static void find_first(moe_engine *e, const chunk *c)
{
    for (int s = 0; s < c->n_seqs; s++) {
        e->rows[s] = c->cu_seqlens[s];
        e->row_ids[s] = c->ids[e->rows[s]];
    }
}

/* rows [n_seqs, d]: the first tokens'. */
static void classify(moe_engine *e, const chunk *c, const float *rows)
{
    moe_backend *b = e->backend;
    int n_labels = e->model->info.n_labels;
    moe_activation act = e->weights.pooler_relu ? MOE_ACT_RELU : MOE_ACT_TANH;
    b->ops->linear(b, &e->weights.pooler, act, rows, c->n_seqs, e->z);
    b->ops->linear(b, &e->weights.classifier, MOE_ACT_NONE, e->z, c->n_seqs, e->logits);
    b->ops->download(b, c->logits, e->logits,
                     (size_t)c->n_seqs * n_labels * sizeof(float));
}

/* The classifier on every token. */
static void answer(moe_engine *e, const chunk *c)
{
    moe_backend *b = e->backend;
    b->ops->linear(b, &e->weights.classifier, MOE_ACT_NONE, e->x, c->n_tokens, e->logits);
    b->ops->download(b, c->logits, e->logits,
                     (size_t)c->n_tokens * (size_t)e->model->info.n_labels * sizeof(float));
}

void bert_head(moe_engine *e, const chunk *c)
{
    if (e->model->info.task == MOE_TASK_ANSWER) {
        answer(e, c);
        return;
    }
    find_first(e, c);
    e->backend->ops->gather_rows(e->backend, e->x, e->model->info.d_model, e->rows, c->n_seqs,
                                 e->y);
    classify(e, c, e->y);
}

/* All rows of a layer's attention, which a capture wants to see. */
static moe_status attention_of_all(moe_engine *e, const chunk *c, int layer, moe_error *err)
{
    bert_attention(e, c, layer);
    return engine_capture(e, c, layer, e->x, err);
}

/* The last layer: e->x has the first tokens' rows in the end. */
static moe_status last_layer(moe_engine *e, const chunk *c, int layer, moe_error *err)
{
    moe_backend *b = e->backend;
    int d = e->model->info.d_model;
    find_first(e, c);
    if (e->capture || d % MOE_LINEAR_PANEL) {
        moe_status status = attention_of_all(e, c, layer, err);
        if (status != MOE_OK)
            return status;
        b->ops->gather_rows(b, e->x, d, e->rows, c->n_seqs, e->z);
        b->ops->gather_rows(b, e->z, d, e->row_bounds, c->n_seqs, e->x);
    } else {
        attention_of_first(e, c, layer);
    }
    chunk first = *c;
    first.n_tokens = c->n_seqs;
    first.whole = c->cu_seqlens;
    first.cu_seqlens = e->row_bounds;
    first.ids = e->row_ids;
    first.types = NULL;
    bert_ffn(e, &first, layer);
    return MOE_OK;
}

moe_status bert_forward(moe_engine *e, const chunk *c, moe_error *err)
{
    int n_layers = e->weights.n_layers, last = reads_first_tokens(e) ? n_layers - 1 : n_layers;
    moe_status status = MOE_OK;
    route_begin(e, c);
    bert_embed(e, c);
    for (int l = 0; status == MOE_OK && l < last; l++) {
        status = attention_of_all(e, c, l, err);
        if (status == MOE_OK)
            bert_ffn(e, c, l);
    }
    if (status == MOE_OK && last < n_layers)
        status = last_layer(e, c, last, err);
    if (status != MOE_OK)
        return status;
    if (last < n_layers)
        classify(e, c, e->x);
    else
        bert_head(e, c);
    route_end(e, c);
    return MOE_OK;
}
