/* bert.c: the BERT encoder with its classification head (Devlin et al. 2018)
 * as a list of backend calls over one ragged chunk.
 *
 *   x = norm(words + positions + types)
 *   per layer:  x = norm(x + attention(x) Wo);  x = norm(x + ffn(x))
 *   logits = classifier(tanh(pooler(x[CLS])))
 *
 * The FFN computes the experts that routing/ selects for each token. e->x is
 * the residual stream, e->y and e->z are scratch. bert_forward is the steps in a
 * row; moe_step_* runs them one by one. */
#include "engine/engine.h"
#include "engine/routing/route.h"

static moe_status capture_layer(moe_engine *e, const chunk *c, int layer, moe_error *err)
{
    size_t floats = (size_t)c->n_tokens * (size_t)e->model->info.d_model;
    e->backend->ops->download(e->backend, e->host_x, e->x, floats * sizeof(float));
    return e->capture(e->capture_ctx, layer, e->host_x, c->n_tokens, err);
}

void bert_embed(moe_engine *e, const chunk *c)
{
    moe_backend *b = e->backend;
    b->ops->embed(b, &e->weights, c->ids, c->types, c->cu_seqlens, c->n_seqs, e->x);
}

void bert_attention(moe_engine *e, const chunk *c, int layer)
{
    moe_backend *b = e->backend;
    const moe_backend_ops *op = b->ops;
    const moe_layer *w = &e->weights.layers[layer];
    int d = e->model->info.d_model, n = c->n_tokens;

    op->linear(b, &w->qkv, MOE_ACT_NONE, e->x, n, e->qkv);
    op->attention(b, &(moe_attention){
        .n_seqs = c->n_seqs, .n_heads = e->model->info.n_heads,
        .head = d / e->model->info.n_heads, .scale = e->model->attention_scale,
        .cu_q = c->cu_seqlens, .cu_k = c->cu_seqlens,
        .q = e->qkv, .k = e->qkv + d, .v = e->qkv + 2 * d, .ldq = 3 * (size_t)d,
        .ldkv = 3 * (size_t)d, .y = e->y, .ldy = (size_t)d,
    });
    op->linear(b, &w->attention_out, MOE_ACT_NONE, e->y, n, e->z);
    op->add_norm(b, &w->attention_norm, e->z, e->x, n, e->x);
}

void bert_ffn(moe_engine *e, const chunk *c, int layer)
{
    moe_backend *b = e->backend;
    const moe_layer *w = &e->weights.layers[layer];
    int n = c->n_tokens;
    b->ops->ffn(b, &w->ffn, e->x, n, route_layer(e, c, layer), e->z);
    b->ops->add_norm(b, &w->ffn_norm, e->z, e->x, n, e->x);
}

/* The classifier on every token. */
static void answer_head(moe_engine *e, const chunk *c)
{
    moe_backend *b = e->backend;
    b->ops->linear(b, &e->weights.classifier, MOE_ACT_NONE, e->x, c->n_tokens, e->logits);
    b->ops->download(b, c->logits, e->logits,
                     (size_t)c->n_tokens * (size_t)e->model->info.n_labels * sizeof(float));
}

void bert_head(moe_engine *e, const chunk *c)
{
    if (e->model->info.task == MOE_TASK_ANSWER) {
        answer_head(e, c);
        return;
    }
    moe_backend *b = e->backend;
    int d = e->model->info.d_model, n_labels = e->model->info.n_labels;
    for (int s = 0; s < c->n_seqs; s++)
        e->rows[s] = c->cu_seqlens[s]; /* [CLS] comes first */
    b->ops->gather_rows(b, e->x, d, e->rows, c->n_seqs, e->y);
    b->ops->linear(b, &e->weights.pooler, MOE_ACT_TANH, e->y, c->n_seqs, e->z);
    b->ops->linear(b, &e->weights.classifier, MOE_ACT_NONE, e->z, c->n_seqs, e->logits);
    b->ops->download(b, c->logits, e->logits,
                     (size_t)c->n_seqs * n_labels * sizeof(float));
}

moe_status bert_forward(moe_engine *e, const chunk *c, moe_error *err)
{
    route_begin(e, c);
    bert_embed(e, c);
    for (int l = 0; l < e->weights.n_layers; l++) {
        bert_attention(e, c, l);
        moe_status status = e->capture ? capture_layer(e, c, l, err) : MOE_OK;
        if (status != MOE_OK)
            return status;
        bert_ffn(e, c, l);
    }
    bert_head(e, c);
    route_end(e, c);
    return MOE_OK;
}
