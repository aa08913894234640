/* t5.c: the T5 encoder and decoder as a list of backend calls over ragged rows.
 *
 *   per encoder layer:  x += attention(norm(x));                            x += ffn(norm(x))
 *   per decoder layer:  x += attention(norm(x)); x += cross(norm(x), memory); x += ffn(norm(x))
 *   memory = norm(x) of the encoder;  logits = lm_head(norm(x)) of the decoder
 *
 * Norms are RMS, and stand before each part: so a part's sum is added by the norm of the
 * next one. A distance between query and key adds a number per head, of its bucket, to
 * their score, which is not scaled; so tokens need no positions. */
#include "engine/graph/t5.h"

#include <math.h>
#include <string.h>

#include "engine/routing/route.h"

/* ---- parts of a layer ------------------------------------------------------ */

void t5_norm(moe_engine *e, const moe_norm *w, int n_rows, bool pending)
{
    moe_backend *b = e->backend;
    b->ops->pre_norm(b, w, pending ? e->z : NULL, e->x, n_rows, e->x, e->y);
}

void t5_settle(moe_engine *e, int n_rows)
{
    t5_norm(e, &e->weights.encoder_norm, n_rows, true); /* for the sum alone */
}

void t5_embed(moe_engine *e, const chunk *c)
{
    moe_backend *b = e->backend;
    b->ops->embed(b, &e->weights, c->ids, NULL, c->cu_seqlens, c->n_seqs, e->x);
}

static moe_attention attention_of(const moe_engine *e)
{
    return (moe_attention){
        .n_heads = e->model->info.n_heads, .head = e->d_head, .scale = e->model->attention_scale,
        .span = e->t5->span, .y = e->y, .ldy = (size_t)e->d_inner,
    };
}

void t5_self_attention(moe_engine *e, const chunk *c, int layer, bool pending)
{
    moe_backend *b = e->backend;
    const moe_layer *w = &e->weights.layers[layer];
    size_t inner = (size_t)e->d_inner;
    moe_attention a = attention_of(e);
    t5_norm(e, &w->attention_norm, c->n_tokens, pending);
    b->ops->linear(b, &w->qkv, MOE_ACT_NONE, e->y, c->n_tokens, e->qkv);
    a.n_seqs = c->n_seqs;
    a.cu_q = a.cu_k = c->cu_seqlens;
    a.q = e->qkv, a.k = e->qkv + inner, a.v = e->qkv + 2 * inner;
    a.ldq = a.ldkv = 3 * inner;
    a.bias = e->t5->encoder_bias;
    b->ops->attention(b, &a);
    b->ops->linear(b, &w->attention_out, MOE_ACT_NONE, e->y, c->n_tokens, e->z);
}

static int decoder_index(const moe_engine *e, int layer)
{
    return layer - (e->weights.n_layers - e->weights.n_decoder_layers);
}

static float *cache_of(const moe_engine *e, float *cache, int layer, int parts)
{
    return cache + (size_t)decoder_index(e, layer) * (size_t)e->chunk_tokens * (size_t)parts *
                       (size_t)e->d_inner;
}

static void attend_self(moe_engine *e, const t5_pass *p, int layer)
{
    moe_backend *b = e->backend;
    const chunk *c = p->c;
    size_t inner = (size_t)e->d_inner;
    float *cache = cache_of(e, e->t5->self, layer, 3), *rows = cache + (size_t)p->base * 3 * inner;
    moe_attention a = attention_of(e);
    b->ops->linear(b, &e->weights.layers[layer].qkv, MOE_ACT_NONE, e->y, c->n_tokens, rows);
    a.n_seqs = c->n_seqs;
    a.cu_q = a.cu_k = c->cu_seqlens;
    a.q = a.k = a.v = rows;
    a.causal = true;
    if (p->self_row) {
        a.cu_k = p->cu_self;
        a.key_row = p->self_row;
        a.k = a.v = cache;
    }
    a.k += inner, a.v += 2 * inner;
    a.ldq = a.ldkv = 3 * inner;
    a.bias = e->t5->decoder_bias;
    b->ops->attention(b, &a);
}

static void attend_cross(moe_engine *e, const t5_pass *p, int layer)
{
    moe_backend *b = e->backend;
    size_t inner = (size_t)e->d_inner;
    const float *cache = cache_of(e, e->t5->cross, layer, 2);
    moe_attention a = attention_of(e);
    b->ops->linear(b, &e->weights.layers[layer].cross_q, MOE_ACT_NONE, e->y, p->c->n_tokens,
                   e->t5->q);
    a.n_seqs = p->n_texts;
    a.cu_q = p->cu_rows, a.cu_k = p->cu_cross;
    a.key_row = p->cross_row;
    a.q = e->t5->q, a.k = cache, a.v = cache + inner;
    a.ldq = inner, a.ldkv = 2 * inner;
    b->ops->attention(b, &a);
}

void t5_decoder_attention(moe_engine *e, const t5_pass *p, int layer, bool pending)
{
    moe_backend *b = e->backend;
    const moe_layer *w = &e->weights.layers[layer];
    int n = p->c->n_tokens;
    t5_norm(e, &w->attention_norm, n, pending);
    attend_self(e, p, layer);
    b->ops->linear(b, &w->attention_out, MOE_ACT_NONE, e->y, n, e->z);
    t5_norm(e, &w->cross_norm, n, true);
    attend_cross(e, p, layer);
    b->ops->linear(b, &w->cross_out, MOE_ACT_NONE, e->y, n, e->z);
}

moe_status t5_ffn(moe_engine *e, const chunk *c, int layer, bool pending, moe_error *err)
{
    moe_backend *b = e->backend;
    const moe_layer *w = &e->weights.layers[layer];
    t5_norm(e, &w->ffn_norm, c->n_tokens, pending);
    moe_status status = engine_capture(e, c, layer, e->y, err);
    if (status != MOE_OK)
        return status;
    const moe_route *route = route_layer(e, c, layer, e->y);
    b->ops->ffn(b, &w->ffn, e->y, c->n_tokens, route, e->z);
    route_add_shift(e, c, layer, route, e->z);
    return MOE_OK;
}

/* ---- sums over passes ------------------------------------------------------- */

void t5_begin(moe_engine *e, int n)
{
    t5_arena *a = e->t5;
    memset(a->kept, 0, (size_t)n * sizeof *a->kept);
    memset(a->all, 0, (size_t)n * sizeof *a->all);
    for (int s = 0; s < n; s++)
        a->kept_mass[s] = a->total_mass[s] = 0;
}

void t5_account(moe_engine *e, const chunk *c, const int32_t *text)
{
    t5_arena *a = e->t5;
    uint64_t neurons = 0;
    for (int l = c->first_layer; l < c->end_layer; l++)
        neurons += (uint64_t)e->weights.layers[l].ffn.d_ff;
    for (int s = 0; s < c->n_seqs; s++) {
        int at = text ? text[s] : s;
        a->kept[at] += e->kept_neurons[s];
        a->all[at] += neurons * (uint64_t)(c->cu_seqlens[s + 1] - c->cu_seqlens[s]);
        a->kept_mass[at] += e->kept_mass[s];
        a->total_mass[at] += e->total_mass[s];
    }
}

double t5_share(const moe_engine *e, int text)
{
    return (double)e->t5->kept[text] / (double)e->t5->all[text];
}

/* ---- both halves -------------------------------------------------------------- */

void t5_cross_keys(moe_engine *e, int layer, int n_tokens)
{
    moe_backend *b = e->backend;
    b->ops->linear(b, &e->weights.layers[layer].cross_kv, MOE_ACT_NONE, e->t5->memory, n_tokens,
                   cache_of(e, e->t5->cross, layer, 2));
}

moe_status t5_encode(moe_engine *e, const chunk *c, moe_error *err)
{
    moe_backend *b = e->backend;
    moe_status status = MOE_OK;
    route_begin(e, c);
    t5_embed(e, c);
    for (int l = c->first_layer; status == MOE_OK && l < c->end_layer; l++) {
        t5_self_attention(e, c, l, l > c->first_layer);
        status = t5_ffn(e, c, l, true, err);
    }
    if (status != MOE_OK)
        return status;
    b->ops->pre_norm(b, &e->weights.encoder_norm, e->z, e->x, c->n_tokens, e->x, e->t5->memory);
    route_end(e, c);
    t5_account(e, c, NULL);
    return MOE_OK;
}

moe_status t5_run_decoder(moe_engine *e, const t5_pass *p, moe_error *err)
{
    const chunk *c = p->c;
    moe_status status = MOE_OK;
    route_begin(e, c);
    t5_embed(e, c);
    for (int l = c->first_layer; status == MOE_OK && l < c->end_layer; l++) {
        t5_decoder_attention(e, p, l, l > c->first_layer);
        status = t5_ffn(e, c, l, true, err);
    }
    if (status == MOE_OK) {
        t5_norm(e, &e->weights.decoder_norm, c->n_tokens, true);
        route_end(e, c);
    }
    return status;
}

void t5_head(moe_engine *e, int n_rows, t5_row row, void *ctx)
{
    moe_backend *b = e->backend;
    t5_arena *a = e->t5;
    size_t d = (size_t)e->model->info.d_model, words = (size_t)e->model->info.n_vocab;
    for (int first = 0; first < n_rows; first += T5_HEAD_ROWS) {
        int n = n_rows - first < T5_HEAD_ROWS ? n_rows - first : T5_HEAD_ROWS;
        b->ops->linear(b, &e->weights.lm_head, MOE_ACT_NONE, e->y + (size_t)first * d, n,
                       a->logits);
        b->ops->download(b, a->host_logits, a->logits, (size_t)n * words * sizeof(float));
        for (int i = 0; i < n; i++)
            row(ctx, first + i, a->host_logits + (size_t)i * words);
    }
}

double t5_log_sum(const float *logits, int n, float scale)
{
    float top = logits[0];
    double sum = 0;
    for (int i = 1; i < n; i++)
        top = logits[i] > top ? logits[i] : top;
    for (int i = 0; i < n; i++)
        sum += expf(scale * (logits[i] - top));
    return (double)scale * top + log(sum);
}

/* ---- teacher-forced ------------------------------------------------------------ */

void t5_set_targets(moe_engine *e, const moe_batch *b, int first, chunk *c)
{
    int32_t start = b->cu_targets[first];
    for (int s = 0; s <= c->n_seqs; s++)
        e->t5->cu_targets[s] = b->cu_targets[first + s] - start;
    c->cu_targets = e->t5->cu_targets;
    c->target_ids = b->target_ids + start;
}

chunk t5_target_chunk(moe_engine *e, const chunk *c)
{
    chunk t = *c;
    t.n_tokens = c->cu_targets[c->n_seqs];
    t.cu_seqlens = c->cu_targets;
    t.ids = e->t5->ids;
    t.first_layer = e->weights.n_layers - e->weights.n_decoder_layers;
    t.end_layer = e->weights.n_layers;
    for (int s = 0; s < c->n_seqs; s++)
        for (int i = c->cu_targets[s]; i < c->cu_targets[s + 1]; i++)
            e->t5->ids[i] = i == c->cu_targets[s] ? e->model->t5.start_id : c->target_ids[i - 1];
    return t;
}

typedef struct { const moe_engine *e; const chunk *c; } scoring;

static void score_target(void *ctx, int row, const float *logits)
{
    const scoring *s = ctx;
    float scale = s->e->model->logit_scale;
    double sum = t5_log_sum(logits, s->e->model->info.n_vocab, scale);
    s->c->target_logprob[row] = (float)((double)scale * logits[s->c->target_ids[row]] - sum);
}

static moe_status force_targets(moe_engine *e, const chunk *c, moe_error *err)
{
    chunk t = t5_target_chunk(e, c);
    t5_pass p = {.c = &t, .n_texts = c->n_seqs, .cu_rows = c->cu_targets,
                 .cu_cross = c->cu_seqlens};
    scoring s = {e, c};
    for (int l = t.first_layer; l < t.end_layer; l++)
        t5_cross_keys(e, l, c->n_tokens);
    moe_status status = t5_run_decoder(e, &p, err);
    if (status != MOE_OK)
        return status;
    t5_account(e, &t, NULL);
    if (c->target_logprob)
        t5_head(e, t.n_tokens, score_target, &s);
    return MOE_OK;
}

/* ---- classification --------------------------------------------------------------- */

/* The decoder's row that reads a sequence's last </s>; its last where it has none. */
static void find_ends(moe_engine *e, const chunk *c)
{
    for (int s = 0; s < c->n_seqs; s++) {
        int first = c->cu_seqlens[s], last = c->cu_seqlens[s + 1] - 1, at = last;
        while (at > first && c->ids[at] != e->model->t5.end_id)
            at--;
        e->rows[s] = c->ids[at] == e->model->t5.end_id ? at : last;
    }
}

/* T5ForSequenceClassification: the decoder reads the text again, one place later, and its
 * state at </s> goes through a tanh layer to the labels. */
static moe_status classify(moe_engine *e, const chunk *c, moe_error *err)
{
    moe_backend *b = e->backend;
    const moe_weights *w = &e->weights;
    chunk again = *c;
    again.cu_targets = c->cu_seqlens;
    again.target_ids = c->ids;
    again.target_logprob = NULL;
    moe_status status = force_targets(e, &again, err);
    if (status != MOE_OK)
        return status;
    find_ends(e, c);
    b->ops->gather_rows(b, e->y, e->model->info.d_model, e->rows, c->n_seqs, e->x);
    b->ops->linear(b, &w->pooler, MOE_ACT_TANH, e->x, c->n_seqs, e->z);
    b->ops->linear(b, &w->classifier, MOE_ACT_NONE, e->z, c->n_seqs, e->logits);
    b->ops->download(b, c->logits, e->logits,
                     (size_t)c->n_seqs * (size_t)e->model->info.n_labels * sizeof(float));
    return MOE_OK;
}

moe_status t5_forward(moe_engine *e, const chunk *c, moe_error *err)
{
    const t5_arena *a = e->t5;
    size_t floats = (size_t)c->n_tokens * (size_t)e->model->info.d_model;
    t5_begin(e, c->n_seqs);
    moe_status status = t5_encode(e, c, err);
    if (status == MOE_OK && c->states)
        e->backend->ops->download(e->backend, c->states, a->memory, floats * sizeof(float));
    if (status == MOE_OK && e->model->info.task != MOE_TASK_TEXT)
        status = classify(e, c, err);
    else if (status == MOE_OK && c->cu_targets)
        status = force_targets(e, c, err);
    for (int s = 0; status == MOE_OK && s < c->n_seqs; s++) {
        if (c->effective_ratio)
            c->effective_ratio[s] = t5_share(e, s);
        if (c->mass)
            c->mass[s] = a->total_mass[s] > 0 ? a->kept_mass[s] / a->total_mass[s] : 1;
    }
    return status;
}
