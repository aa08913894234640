/* engine.c: makes engines and runs batches through them.
 *
 * moe_forward checks the batch, then cuts it into chunks of whole sequences so
 * that the activations stay small and in cache whatever the batch; a sequence's
 * result does not depend on the cut. steps.c runs the same code in parts. One thread
 * owns an engine. */
#include "engine/engine.h"
#include "engine/graph/t5.h"

#include <stdlib.h>
#include <string.h>

#include "engine/routing/ratio.h"
#include "engine/routing/route.h"
#include "engine/upload.h"

enum { DEFAULT_CHUNK_TOKENS = 2048, MAX_CHUNK_TOKENS = 1 << 20 };

/* ---- making ----------------------------------------------------------- */

/* Host and backend arrays; false: out of memory. */
static bool allocate(moe_engine *e)
{
    moe_backend *b = e->backend;
    const moe_model_info *info = &e->model->info;
    size_t n = (size_t)e->chunk_tokens, d = (size_t)info->d_model;
    size_t inner = (size_t)e->d_inner, wide = d > inner ? d : inner;
    size_t experts = (size_t)e->max_experts, layers = (size_t)info->n_layers;
    void *(*alloc)(moe_backend *, size_t) = b->ops->alloc;

    e->x = alloc(b, n * d * sizeof(float));
    e->y = alloc(b, n * wide * sizeof(float));
    e->z = alloc(b, n * wide * sizeof(float));
    e->qkv = alloc(b, 3 * n * inner * sizeof(float));
    e->scores = alloc(b, n * experts * sizeof(float));
    e->logits = alloc(b, n * (size_t)info->n_labels * sizeof(float));
    e->route.bound = alloc(b, (n + 1) * sizeof(int32_t));
    e->route.expert = alloc(b, n * experts * sizeof(int32_t));

    e->cu_seqlens = malloc((n + 1) * sizeof *e->cu_seqlens);
    e->rows = malloc(n * sizeof *e->rows);
    e->row_ids = malloc(n * sizeof *e->row_ids);
    e->row_bounds = malloc((n + 1) * sizeof *e->row_bounds);
    e->due_pairs = malloc(n * sizeof *e->due_pairs);
    e->choice = malloc(layers * n * sizeof *e->choice);
    e->shift = malloc(n * sizeof *e->shift);
    e->layer_experts = malloc(layers * sizeof *e->layer_experts);
    e->layer_thresholds = malloc(layers * sizeof *e->layer_thresholds);
    e->layer_means = malloc(layers * sizeof *e->layer_means);
    e->host_scores = malloc(n * experts * sizeof *e->host_scores);
    e->host_x = e->capture ? malloc(n * d * sizeof *e->host_x) : NULL;
    e->host_route.bound = malloc((n + 1) * sizeof(int32_t));
    e->host_route.expert = malloc(n * experts * sizeof(int32_t));
    e->expert_tokens = malloc(experts * sizeof *e->expert_tokens);
    e->kept_mass = malloc(n * sizeof *e->kept_mass);
    e->total_mass = malloc(n * sizeof *e->total_mass);
    e->kept_neurons = malloc(n * sizeof *e->kept_neurons);
    e->real_neurons = calloc(layers * experts, sizeof *e->real_neurons);

    return e->x && e->y && e->z && e->qkv && e->scores && e->logits &&
           e->route.bound && e->route.expert && e->cu_seqlens && e->rows && e->row_ids &&
           e->row_bounds && e->due_pairs && e->choice && e->shift &&
           e->layer_experts && e->layer_thresholds && e->layer_means &&
           e->host_scores && (e->host_x || !e->capture) &&
           e->host_route.bound && e->host_route.expert && e->expert_tokens &&
           e->kept_mass && e->total_mass && e->kept_neurons && e->real_neurons &&
           routing_stats_init(&e->stats, info->n_layers, e->max_experts);
}

/* Neurons of each expert that are not padding. */
static void count_real_neurons(moe_engine *e)
{
    for (int l = 0; l < e->model->weights.n_layers; l++) {
        const moe_ffn *f = &e->model->weights.layers[l].ffn;
        for (int i = 0; i < f->n_experts * MOE_EXPERT_SIZE; i++) {
            bool real = f->neurons ? f->neurons[i] >= 0 : i < f->d_ff;
            e->real_neurons[(size_t)l * e->max_experts + i / MOE_EXPERT_SIZE] += real;
        }
    }
}

static int widest_router(const moe_weights *w)
{
    int width = 0;
    for (int l = 0; l < w->n_layers; l++) {
        const moe_router *r = &w->layers[l].router;
        if (r->present && r->n_linears == 2 && r->first.n > width)
            width = r->first.n;
    }
    return width;
}

/* On a layer that has experts to choose from; layers are alike. */
static void measure_plan(moe_engine *e)
{
    if (e->model->info.moefied && e->weights.n_layers > 0)
        e->backend->ops->measure_plan(e->backend, &e->weights.layers[0].ffn);
}

int moe_engine_plan(const moe_engine *e, const moe_plan_row **rows)
{
    const moe_ffn *w = &e->model->weights.layers[0].ffn;
    *rows = NULL;
    return w->dtype == MOE_F32 && !w->up ? e->backend->ops->plan(e->backend, rows) : 0;
}

moe_status moe_engine_create(const moe_model *m, moe_pool *pool,
                             const moe_engine_options *options, moe_engine **out,
                             moe_error *err)
{
    static const moe_engine_options defaults;
    const moe_engine_options *o = options ? options : &defaults;
    *out = NULL;
    if (o->chunk_tokens < 0 || o->chunk_tokens > MAX_CHUNK_TOKENS)
        return moe_fail(err, MOE_E_ARGUMENT, "chunk_tokens is %d, expected 0 to %d",
                        o->chunk_tokens, MAX_CHUNK_TOKENS);

    moe_engine *e = calloc(1, sizeof *e);
    if (!e)
        return moe_fail(err, MOE_E_MEMORY, "out of memory for an engine");
    e->model = m;
    e->capture = o->capture;
    e->capture_ctx = o->capture_ctx;
    e->chunk_tokens = o->chunk_tokens ? o->chunk_tokens : DEFAULT_CHUNK_TOKENS;
    if (e->chunk_tokens < m->info.max_tokens)
        e->chunk_tokens = m->info.max_tokens;
    e->max_experts = m->info.n_experts;
    e->d_head = m->d_head ? m->d_head : m->info.d_model / m->info.n_heads;
    e->d_inner = e->d_head * m->info.n_heads;

    moe_backend_shape shape = {
        .max_tokens = e->chunk_tokens,
        .max_seq = m->info.max_tokens,
        .d_model = m->info.d_model,
        .n_heads = m->info.n_heads,
        .d_head = e->d_head,
        .n_experts = e->max_experts,
        .router_width = widest_router(&m->weights),
    };
    moe_status status = backend_create(o->backend, pool, &shape, &e->backend, err);
    if (status == MOE_OK && !allocate(e))
        status = moe_fail(err, MOE_E_MEMORY, "out of memory for %d tokens of activations",
                          e->chunk_tokens);
    if (status == MOE_OK)
        status = weights_upload(e->backend, &m->weights, &e->weights, err);
    if (status == MOE_OK && m->family == MOE_FAMILY_T5)
        status = t5_arena_create(e, err);
    if (status != MOE_OK) {
        moe_engine_destroy(e);
        return status;
    }
    if (o->measure_plan)
        measure_plan(e);
    count_real_neurons(e);
    for (int i = 0; i <= e->chunk_tokens; i++)
        e->row_bounds[i] = i;
    *out = e;
    return MOE_OK;
}

void moe_engine_destroy(moe_engine *e)
{
    if (!e)
        return;
    t5_arena_free(e->t5);
    weights_release(&e->weights);
    routing_stats_free(&e->stats);
    free(e->cu_seqlens);
    free(e->rows);
    free(e->row_ids);
    free(e->row_bounds);
    free(e->due_pairs);
    free(e->choice);
    free(e->shift);
    free(e->layer_experts);
    free(e->layer_thresholds);
    free(e->layer_means);
    free(e->host_scores);
    free(e->host_x);
    free(e->host_route.bound);
    free(e->host_route.expert);
    free(e->expert_tokens);
    free(e->kept_mass);
    free(e->total_mass);
    free(e->kept_neurons);
    free(e->real_neurons);
    if (e->backend)
        e->backend->ops->destroy(e->backend);
    free(e);
}

moe_status engine_capture(moe_engine *e, const chunk *c, int layer, const float *rows,
                          moe_error *err)
{
    if (!e->capture)
        return MOE_OK;
    size_t floats = (size_t)c->n_tokens * (size_t)e->model->info.d_model;
    e->backend->ops->download(e->backend, e->host_x, rows, floats * sizeof(float));
    return e->capture(e->capture_ctx, layer, e->host_x, c->n_tokens, err);
}

const char *moe_engine_isa(const moe_engine *e)
{
    return e->backend->isa;
}

/* ---- running ---------------------------------------------------------- */

static moe_status check_tokens(const moe_engine *e, const moe_batch *b, int seq,
                               moe_error *err)
{
    const moe_weights *w = &e->model->weights;
    for (int32_t t = b->cu_seqlens[seq]; t < b->cu_seqlens[seq + 1]; t++) {
        if (b->token_ids[t] < 0 || b->token_ids[t] >= w->words.n)
            return moe_fail(err, MOE_E_ARGUMENT,
                            "sequence %d: token id %d at %d, expected 0 to %d", seq,
                            b->token_ids[t], t - b->cu_seqlens[seq], w->words.n - 1);
        int n_types = w->types.n ? w->types.n : 1;
        if (b->token_types && (b->token_types[t] < 0 || b->token_types[t] >= n_types))
            return moe_fail(err, MOE_E_ARGUMENT,
                            "sequence %d: token type %d at %d, expected 0 to %d", seq,
                            b->token_types[t], t - b->cu_seqlens[seq], n_types - 1);
    }
    return MOE_OK;
}

static moe_status check_selection(const moe_engine *e, const moe_batch *b, int seq,
                                  moe_error *err)
{
    const moe_selection *s = &b->selection[seq];
    if (!ratio_valid(s->ratio))
        return moe_fail(err, MOE_E_ARGUMENT,
                        "sequence %d: ratio is %g, expected over 0 and at most 1", seq,
                        s->ratio);
    if (s->selector != b->selection[0].selector)
        return moe_fail(err, MOE_E_ARGUMENT,
                        "sequence %d: selector %d, the batch's first has %d", seq,
                        (int)s->selector, (int)b->selection[0].selector);
    if ((int)s->policy < MOE_POLICY_MODEL || s->policy > MOE_POLICY_SEQUENCE)
        return moe_fail(err, MOE_E_ARGUMENT, "sequence %d: policy %d, expected %d to %d", seq,
                        (int)s->policy, MOE_POLICY_MODEL, MOE_POLICY_SEQUENCE);
    const char *lacks = moe_policy_lacks(&e->model->info, s->policy);
    if (lacks)
        return moe_fail(err, MOE_E_ARGUMENT, "sequence %d: policy %s, but the model has no %s",
                        seq, moe_policy_name(s->policy), lacks);
    return MOE_OK;
}

static moe_status check_sequence(const moe_engine *e, const moe_batch *b, int seq,
                                 moe_error *err)
{
    int64_t n = (int64_t)b->cu_seqlens[seq + 1] - b->cu_seqlens[seq];
    if (n < 1 || n > e->model->info.max_tokens)
        return moe_fail(err, MOE_E_ARGUMENT, "sequence %d has %lld tokens, expected 1 to %d",
                        seq, (long long)n, e->model->info.max_tokens);
    moe_status status = b->selection ? check_selection(e, b, seq, err) : MOE_OK;
    return status == MOE_OK ? check_tokens(e, b, seq, err) : status;
}

moe_status engine_check_batch(const moe_engine *e, const moe_batch *b, moe_error *err)
{
    if (b->n_seqs < 0)
        return moe_fail(err, MOE_E_ARGUMENT, "batch has %d sequences", b->n_seqs);
    if (b->n_seqs > 0 && b->cu_seqlens[0] != 0)
        return moe_fail(err, MOE_E_ARGUMENT, "cu_seqlens starts at %d, expected 0",
                        b->cu_seqlens[0]);
    for (int s = 0; s < b->n_seqs; s++) {
        moe_status status = check_sequence(e, b, s, err);
        if (status != MOE_OK)
            return status;
    }
    return MOE_OK;
}

static moe_status check_targets(const moe_engine *e, const moe_batch *b, int seq,
                                moe_error *err)
{
    const moe_model_info *info = &e->model->info;
    int64_t n = (int64_t)b->cu_targets[seq + 1] - b->cu_targets[seq];
    if (n < 1 || n > info->max_tokens)
        return moe_fail(err, MOE_E_ARGUMENT, "sequence %d has %lld targets, expected 1 to %d",
                        seq, (long long)n, info->max_tokens);
    for (int32_t t = b->cu_targets[seq]; t < b->cu_targets[seq + 1]; t++)
        if (b->target_ids[t] < 0 || b->target_ids[t] >= info->n_vocab)
            return moe_fail(err, MOE_E_ARGUMENT,
                            "sequence %d: target id %d at %d, expected 0 to %d", seq,
                            b->target_ids[t], t - b->cu_targets[seq], info->n_vocab - 1);
    return MOE_OK;
}

moe_status engine_check_all(const moe_engine *e, const moe_batch *b, moe_error *err)
{
    moe_status status = engine_check_batch(e, b, err);
    if (status != MOE_OK || !b->cu_targets)
        return status;
    if (e->model->family != MOE_FAMILY_T5)
        return moe_fail(err, MOE_E_ARGUMENT, "batch has targets, but the model has no decoder");
    if (b->n_seqs > 0 && b->cu_targets[0] != 0)
        return moe_fail(err, MOE_E_ARGUMENT, "cu_targets starts at %d, expected 0",
                        b->cu_targets[0]);
    for (int s = 0; status == MOE_OK && s < b->n_seqs; s++)
        status = check_targets(e, b, s, err);
    return status;
}

chunk engine_cut_chunk(moe_engine *e, const moe_batch *b, int first, int most_seqs)
{
    int32_t start = b->cu_seqlens[first];
    int n = 0;
    e->cu_seqlens[0] = 0;
    while (first + n < b->n_seqs && n < most_seqs &&
           b->cu_seqlens[first + n + 1] - start <= e->chunk_tokens) {
        e->cu_seqlens[n + 1] = b->cu_seqlens[first + n + 1] - start;
        n++;
    }
    return (chunk){
        .n_seqs = n,
        .n_tokens = e->cu_seqlens[n],
        .cu_seqlens = e->cu_seqlens,
        .ids = b->token_ids + start,
        .types = b->token_types ? b->token_types + start : NULL,
        .selection = b->selection ? b->selection + first : NULL,
        .end_layer = e->weights.n_layers - e->weights.n_decoder_layers,
    };
}

chunk engine_cut_all(moe_engine *e, const moe_batch *b, int first)
{
    int most = b->n_seqs - first;
    if (b->cu_targets)
        for (most = 1; first + most < b->n_seqs && b->cu_targets[first + most + 1] -
                                                   b->cu_targets[first] <= e->chunk_tokens;)
            most++;
    chunk c = engine_cut_chunk(e, b, first, most);
    if (b->cu_targets)
        t5_set_targets(e, b, first, &c);
    return c;
}

float *engine_logits_of(const moe_engine *e, const moe_batch *b, float *logits, int first)
{
    bool every_token = e->model->info.task == MOE_TASK_ANSWER;
    size_t row = (size_t)(every_token ? b->cu_seqlens[first] : first);
    if (e->model->info.task == MOE_TASK_TEXT)
        return NULL;
    return logits + row * (size_t)e->model->info.n_labels;
}

/* Where a sequence begins in the caller's rows. */
static size_t first_float(const moe_engine *e, const moe_batch *b, int seq)
{
    return (size_t)b->cu_seqlens[seq] * (size_t)e->model->info.d_model;
}

moe_status moe_forward(moe_engine *e, const moe_batch *batch, moe_output *out,
                       moe_error *err)
{
    moe_status status = engine_check_all(e, batch, err);
    for (int first = 0; status == MOE_OK && first < batch->n_seqs;) {
        chunk c = engine_cut_all(e, batch, first);
        c.logits = engine_logits_of(e, batch, out->logits, first);
        c.states = out->states ? out->states + first_float(e, batch, first) : NULL;
        c.target_logprob = batch->cu_targets && out->target_logprob
                               ? out->target_logprob + batch->cu_targets[first] : NULL;
        c.effective_ratio = out->effective_ratio ? out->effective_ratio + first : NULL;
        c.mass = out->mass ? out->mass + first : NULL;
        status = e->t5 ? t5_forward(e, &c, err) : bert_forward(e, &c, err);
        first += c.n_seqs;
    }
    return status;
}
