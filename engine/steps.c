/* steps.c: the forward pass in parts, between rows that the caller keeps. Each step runs
 * over all chunks of the batch, by the same code as moe_forward. */
#include "engine/engine.h"
#include "engine/graph/t5.h"
#include "engine/routing/route.h"

/* Where a sequence begins in rows that lie as cu says. */
static size_t first_float(const moe_engine *e, const int32_t *cu, int seq)
{
    return (size_t)cu[seq] * (size_t)e->model->info.d_model;
}

static size_t bytes_of(const moe_engine *e, int n_rows)
{
    return (size_t)n_rows * (size_t)e->model->info.d_model * sizeof(float);
}

static void put(moe_engine *e, float *to, const float *rows, int n_rows)
{
    e->backend->ops->put(e->backend, to, rows, bytes_of(e, n_rows));
}

static void take(moe_engine *e, float *rows, const float *from, int n_rows)
{
    e->backend->ops->download(e->backend, rows, from, bytes_of(e, n_rows));
}

static bool in_decoder(const moe_engine *e, int layer)
{
    return layer >= e->weights.n_layers - e->weights.n_decoder_layers;
}

static moe_status check_layer(const moe_engine *e, int layer, moe_error *err)
{
    if (layer < 0 || layer >= e->weights.n_layers)
        return moe_fail(err, MOE_E_ARGUMENT, "layer is %d, expected 0 to %d", layer,
                        e->weights.n_layers - 1);
    return MOE_OK;
}

static moe_status check_text(const moe_engine *e, const moe_batch *b, bool targets,
                             moe_error *err)
{
    if (e->model->info.task != MOE_TASK_TEXT)
        return moe_fail(err, MOE_E_ARGUMENT, "%s: has no decoder that says text",
                        e->model->info.dir);
    if (targets && !b->cu_targets)
        return moe_fail(err, MOE_E_ARGUMENT, "the batch has no targets");
    return MOE_OK;
}

moe_status moe_step_embed(moe_engine *e, const moe_batch *b, float *x, moe_error *err)
{
    moe_status status = engine_check_all(e, b, err);
    for (int first = 0; status == MOE_OK && first < b->n_seqs;) {
        chunk c = engine_cut_all(e, b, first);
        (e->t5 ? t5_embed : bert_embed)(e, &c);
        take(e, x + first_float(e, b->cu_seqlens, first), e->x, c.n_tokens);
        first += c.n_seqs;
    }
    return status;
}

/* ---- halves of a layer ------------------------------------------------------- */

/* Works on e->x, which has the rows of the chunk, or of its targets. */
typedef moe_status (*half)(moe_engine *e, const chunk *c, int layer, moe_error *err);

static moe_status attention_half(moe_engine *e, const chunk *c, int layer, moe_error *err)
{
    (void)err;
    if (!e->t5) {
        bert_attention(e, c, layer);
        return MOE_OK;
    }
    if (in_decoder(e, layer)) {
        chunk t = t5_target_chunk(e, c);
        t5_pass p = {.c = &t, .n_texts = c->n_seqs, .cu_rows = c->cu_targets,
                     .cu_cross = c->cu_seqlens};
        t5_cross_keys(e, layer, c->n_tokens);
        t5_decoder_attention(e, &p, layer, false);
        t5_settle(e, t.n_tokens);
    } else {
        t5_self_attention(e, c, layer, false);
        t5_settle(e, c->n_tokens);
    }
    return MOE_OK;
}

static moe_status ffn_half(moe_engine *e, const chunk *c, int layer, moe_error *err)
{
    chunk t = in_decoder(e, layer) ? t5_target_chunk(e, c) : *c;
    moe_capture capture = e->capture;
    route_begin(e, &t);
    if (!e->t5) {
        bert_ffn(e, &t, layer);
        return MOE_OK;
    }
    e->capture = NULL; /* steps do not call it */
    moe_status status = t5_ffn(e, &t, layer, false, err);
    e->capture = capture;
    t5_settle(e, t.n_tokens);
    return status;
}

/* Half a layer over all chunks: out gets e->x, or, of an FFN alone, what it added, e->z. */
static moe_status step_layer(moe_engine *e, int layer, const moe_batch *b, const float *x,
                             float *out, half run, bool added, moe_error *err)
{
    moe_status status = check_layer(e, layer, err);
    bool decoder = status == MOE_OK && in_decoder(e, layer);
    if (status == MOE_OK && decoder)
        status = check_text(e, b, true, err);
    if (status == MOE_OK && decoder && run == attention_half && !b->memory)
        status = moe_fail(err, MOE_E_ARGUMENT, "the batch has no memory for layer %d", layer);
    if (status == MOE_OK)
        status = engine_check_all(e, b, err);
    for (int first = 0; status == MOE_OK && first < b->n_seqs;) {
        chunk c = engine_cut_all(e, b, first);
        int n_rows = decoder ? c.cu_targets[c.n_seqs] : c.n_tokens;
        size_t at = first_float(e, decoder ? b->cu_targets : b->cu_seqlens, first);
        c.uncounted = true;
        if (decoder && b->memory)
            put(e, e->t5->memory, b->memory + first_float(e, b->cu_seqlens, first), c.n_tokens);
        put(e, e->x, x + at, n_rows);
        status = run(e, &c, layer, err);
        take(e, out + at, added ? e->z : e->x, n_rows);
        first += c.n_seqs;
    }
    return status;
}

moe_status moe_step_attention(moe_engine *e, int layer, const moe_batch *b, float *x,
                              moe_error *err)
{
    return step_layer(e, layer, b, x, x, attention_half, false, err);
}

moe_status moe_step_ffn(moe_engine *e, int layer, const moe_batch *b, float *x, moe_error *err)
{
    return step_layer(e, layer, b, x, x, ffn_half, false, err);
}

moe_status moe_step_ffn_output(moe_engine *e, int layer, const moe_batch *b, const float *x,
                               float *out, moe_error *err)
{
    return step_layer(e, layer, b, x, out, ffn_half, true, err);
}

moe_status moe_step_ffn_input(moe_engine *e, int layer, const float *x, int n_rows, float *out,
                              moe_error *err)
{
    moe_status status = check_layer(e, layer, err);
    if (status == MOE_OK && n_rows < 0)
        status = moe_fail(err, MOE_E_ARGUMENT, "%d rows, expected 0 or more", n_rows);
    for (int i = 0, n; status == MOE_OK && i < n_rows; i += n) {
        size_t at = (size_t)i * (size_t)e->model->info.d_model;
        n = n_rows - i < e->chunk_tokens ? n_rows - i : e->chunk_tokens;
        put(e, e->x, x + at, n);
        if (e->t5)
            t5_norm(e, &e->weights.layers[layer].ffn_norm, n, false);
        take(e, out + at, e->t5 ? e->y : e->x, n);
    }
    return status;
}

/* ---- the ends ------------------------------------------------------------------- */

moe_status moe_step_encoded(moe_engine *e, const moe_batch *b, float *x, moe_error *err)
{
    moe_status status = check_text(e, b, false, err);
    if (status == MOE_OK)
        status = engine_check_all(e, b, err);
    for (int first = 0; status == MOE_OK && first < b->n_seqs;) {
        chunk c = engine_cut_all(e, b, first);
        float *rows = x + first_float(e, b->cu_seqlens, first);
        put(e, e->x, rows, c.n_tokens);
        t5_norm(e, &e->weights.encoder_norm, c.n_tokens, false);
        take(e, rows, e->y, c.n_tokens);
        first += c.n_seqs;
    }
    return status;
}

moe_status moe_step_embed_targets(moe_engine *e, const moe_batch *b, float *x, moe_error *err)
{
    moe_status status = check_text(e, b, true, err);
    if (status == MOE_OK)
        status = engine_check_all(e, b, err);
    for (int first = 0; status == MOE_OK && first < b->n_seqs;) {
        chunk c = engine_cut_all(e, b, first), t = t5_target_chunk(e, &c);
        t5_embed(e, &t);
        take(e, x + first_float(e, b->cu_targets, first), e->x, t.n_tokens);
        first += c.n_seqs;
    }
    return status;
}

typedef struct { float *logits; int n; float scale; } scaled;

static void scale_row(void *ctx, int row, const float *logits)
{
    const scaled *s = ctx;
    for (int i = 0; i < s->n; i++)
        s->logits[(size_t)row * (size_t)s->n + (size_t)i] = s->scale * logits[i];
}

/* The targets' rows of a chunk; e->x has them. */
static void text_head(moe_engine *e, const chunk *c, float *logits)
{
    int n = c->cu_targets[c->n_seqs];
    scaled s = {logits, e->model->info.n_vocab, e->model->logit_scale};
    t5_norm(e, &e->weights.decoder_norm, n, false);
    t5_head(e, n, scale_row, &s);
}

moe_status moe_step_head(moe_engine *e, const moe_batch *b, const float *x, float *logits,
                         moe_error *err)
{
    size_t words = (size_t)e->model->info.n_vocab;
    moe_status status = e->t5 ? check_text(e, b, true, err) : MOE_OK;
    if (status == MOE_OK)
        status = engine_check_all(e, b, err);
    const int32_t *cu = e->t5 ? b->cu_targets : b->cu_seqlens;
    for (int first = 0; status == MOE_OK && first < b->n_seqs;) {
        chunk c = engine_cut_all(e, b, first);
        int n_rows = e->t5 ? c.cu_targets[c.n_seqs] : c.n_tokens;
        put(e, e->x, x + first_float(e, cu, first), n_rows);
        c.logits = engine_logits_of(e, b, logits, first);
        if (e->t5)
            text_head(e, &c, logits + (size_t)cu[first] * words);
        else
            bert_head(e, &c);
        first += c.n_seqs;
    }
    return status;
}
