/* refit.c: one walk over the text per layer. Of each token the region holds the row
 * that entered the FFN of the layer before: a walk takes it through that FFN, by its
 * new router and the sequence's ratio, and through this layer's attention, writes it
 * back and adds it to the regression. Memory holds a batch. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert/interrupt.h"
#include "convert/refit.h"
#include "engine/model/pack.h"

static const double ratios[] = {0.5, 0.25, 0.125};
enum { N_MIXED = sizeof ratios / sizeof *ratios };

typedef struct {
    const refit *r;
    converted *c;
    moe_engine *engine;       /* sees the layers before as they are now */
    int layer;
    size_t d;
    ffn_layer l;
    float *w1, *b1, *w2;      /* of the layer, source order */
    router_fit *fit;          /* NULL in a layer that stays dense */
    int32_t *bounds;          /* [n_seqs + 1] */
    moe_selection *selection; /* [n_seqs] */
    float *x;                 /* [batch tokens, d] */
    float *sampled;           /* [n_sample, d] */
    int n_sampled;
} walker;

/* Rows that enter the layer's FFN. b: the batch that starts with token `first`. */
static moe_status enter_ffn(walker *w, const moe_batch *b, int first, int n, moe_error *err)
{
    moe_status status;
    if (w->layer == 0) {
        status = moe_step_embed(w->engine, b, w->x, err);
    } else {
        status = states_read(w->r->s, w->r->region, first, n, w->x, err);
        if (status == MOE_OK)
            status = moe_step_ffn(w->engine, w->layer - 1, b, w->x, err);
    }
    if (status == MOE_OK)
        status = moe_step_attention(w->engine, w->layer, b, w->x, err);
    for (size_t i = 0; status == MOE_OK && i < (size_t)n * w->d; i++)
        if (!isfinite(w->x[i]))
            return moe_fail(err, MOE_E_FORMAT, "layer %d: a value of calibration token %zu is "
                            "not finite in the sparse model", w->layer, first + i / w->d);
    return status == MOE_OK ? states_write(w->r->s, w->r->region, first, n, w->x, err)
                            : status;
}

/* Keeps the rows of the sampled tokens among [first, first + n). */
static void take_sample(walker *w, int first, int n)
{
    const score_sample *s = w->r->scores;
    for (; w->n_sampled < s->n_tokens && w->r->sample[w->n_sampled] < first + n;
         w->n_sampled++)
        memcpy(w->sampled + (size_t)w->n_sampled * w->d,
               w->x + (size_t)(w->r->sample[w->n_sampled] - first) * w->d,
               w->d * sizeof *w->x);
}

static moe_status walk(walker *w, moe_error *err)
{
    const calibration *text = w->r->text;
    const float *g = w->r->sensitivity;
    moe_status status = MOE_OK;
    w->n_sampled = 0;
    for (int s = 0, end; status == MOE_OK && s < text->n_seqs; s = end) {
        moe_batch b = calibration_batch(text, s, w->bounds, &end);
        const int first = text->cu_seqlens[s], n = text->cu_seqlens[end] - first;
        b.selection = w->selection + s;
        status = enter_ffn(w, &b, first, n, err);
        if (status == MOE_OK && w->fit) {
            take_sample(w, first, n);
            status = router_fit_add(
                w->fit, w->x,
                g ? g + (size_t)w->layer * (size_t)text->n_tokens + first : NULL, n, err);
        }
        if (status == MOE_OK)
            status = interrupt_check(err);
    }
    return status;
}

/* The scores of the sampled rows by the new router. */
static moe_status score_sampled(walker *w, const router_rows *router, float *scores,
                                moe_error *err)
{
    const int n = w->r->scores->n_tokens;
    float *scratch = malloc((size_t)n * w->d * sizeof *scratch);
    if (!scratch)
        return moe_fail(err, MOE_E_MEMORY, "no memory for scores of layer %d", w->layer);
    router_scores_of(router, &w->l, w->sampled, n, scratch, scores);
    free(scratch);
    return MOE_OK;
}

static moe_status fit_router(walker *w, moe_error *err)
{
    const moe_ffn *f = &w->c->model.weights.layers[w->layer].ffn;
    const score_sample *s = w->r->scores;
    const size_t n_scores = (size_t)s->n_tokens * (size_t)s->n_experts;
    float *scores = s->scores + (size_t)w->layer * n_scores;
    router_rows router = {.n_linears = 0};
    moe_status status = router_rows_alloc(1, f->d, 0, f->n_experts, &router, err);
    if (status == MOE_OK)
        status = router_fit_solve(w->fit, &router, err);
    if (status == MOE_OK)
        status = score_sampled(w, &router, scores, err);
    if (status == MOE_OK)
        status = converted_put_router(w->c, w->layer, &router, err);
    if (status == MOE_OK)
        status = resume_keep_layer(w->r->resume, 1, w->layer, w->c, scores, n_scores, err);
    router_rows_free(&router);
    return status;
}

/* A layer that was fitted before is only walked through. */
static bool find_layer(walker *w)
{
    const score_sample *s = w->r->scores;
    const size_t n_scores = (size_t)s->n_tokens * (size_t)s->n_experts;
    return resume_find_layer(w->r->resume, 1, w->layer, w->c,
                             s->scores + (size_t)w->layer * n_scores, n_scores);
}

static moe_status refit_layer(walker *w, moe_error *err)
{
    const moe_ffn *f = &w->c->model.weights.layers[w->layer].ffn;
    moe_status status = MOE_OK;
    if (w->c->wanted[w->layer] && !find_layer(w)) {
        unpack_w1(f, w->w1);
        unpack_b1(f, w->b1);
        unpack_w2(f, w->w2);
        w->l = (ffn_layer){.index = w->layer, .d = f->d, .d_ff = f->d_ff,
                           .n_experts = f->n_experts, .act = f->act, .w1 = w->w1,
                           .b1 = w->b1, .w2 = w->w2, .seed = w->r->seed,
                           .workers = w->r->workers};
        status = router_fit_create(&w->l, f->neurons, &w->fit, err);
    }
    if (status == MOE_OK)
        status = walk(w, err);
    if (status == MOE_OK && w->fit)
        status = fit_router(w, err);
    router_fit_free(w->fit);
    w->fit = NULL;
    return status;
}

static moe_status walker_init(walker *w, moe_error *err)
{
    const refit *r = w->r;
    const size_t n = (size_t)r->text->n_seqs, d = w->d;
    const size_t d_ff = (size_t)w->c->model.info.d_ff;
    const size_t batch = (size_t)calibration_batch_tokens(r->text);
    w->w1 = malloc(d_ff * d * sizeof(float));
    w->b1 = malloc(d_ff * sizeof(float));
    w->w2 = malloc(d_ff * d * sizeof(float));
    w->bounds = malloc((n + 1) * sizeof(int32_t));
    w->selection = malloc(n * sizeof(moe_selection));
    w->x = malloc(batch * d * sizeof(float));
    w->sampled = malloc((size_t)r->scores->n_tokens * d * sizeof(float));
    if (!w->w1 || !w->b1 || !w->w2 || !w->bounds || !w->selection || !w->x || !w->sampled)
        return moe_fail(err, MOE_E_MEMORY, "no memory to fit routers again");
    for (size_t s = 0; s < n; s++)
        w->selection[s] = (moe_selection){ratios[s % N_MIXED], MOE_SELECT_ROUTER,
                                          MOE_POLICY_SEQUENCE};
    return MOE_OK;
}

static void walker_free(walker *w)
{
    free(w->w1);
    free(w->b1);
    free(w->w2);
    free(w->bounds);
    free(w->selection);
    free(w->x);
    free(w->sampled);
}

moe_status refit_routers(const refit *r, converted *c, moe_error *err)
{
    walker w = {.r = r, .c = c, .d = (size_t)c->model.info.d_model};
    moe_status status = walker_init(&w, err);
    progress_begin(r->bar, "fitting routers to the sparse model", c->model.info.n_layers);
    for (; status == MOE_OK && w.layer < c->model.info.n_layers; w.layer++) {
        status = moe_engine_create(&c->model, r->pool, NULL, &w.engine, err);
        if (status == MOE_OK)
            status = refit_layer(&w, err);
        moe_engine_destroy(w.engine);
        w.engine = NULL;
        progress_update(r->bar, w.layer + 1, NULL);
    }
    progress_end(r->bar);
    walker_free(&w);
    return status;
}
