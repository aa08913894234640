/* bench_step.c: see bench_step.h. The engine runs as a server would run it, and tells of
 * each layer's FFN as it comes to it: from the first decoder layer of one step to that of the
 * next is one step. */
#include "convert/bench_step.h"

#include <stdlib.h>

#include "convert/cli.h"
#include "engine/model/model.h"

enum { TOKENS = 17 };

bench_steps bench_steps_of(const moe_model_info *info)
{
    return (bench_steps){.first_decoder_layer = info->n_layers - info->n_decoder_layers};
}

moe_status bench_step_mark(void *ctx, int layer, const float *x, int n_tokens, moe_error *err)
{
    bench_steps *s = ctx;
    (void)x, (void)n_tokens, (void)err;
    if (layer != s->first_decoder_layer)
        return MOE_OK;
    s->last = cli_seconds();
    s->first = s->n_begun++ ? s->first : s->last;
    return MOE_OK;
}

static moe_status decode(moe_engine *e, const batch *b, moe_decoding *each, double *ratios,
                         int32_t *ids, moe_error *err)
{
    const moe_batch texts = {.n_seqs = b->n_seqs, .cu_seqlens = b->cu_seqlens,
                             .token_ids = b->ids, .selection = b->selection};
    for (int s = 0; s < b->n_seqs; s++)
        each[s] = (moe_decoding){.max_new_tokens = TOKENS, .ids = ids + (size_t)s * TOKENS};
    return moe_decode(e, &texts, each, ratios, err);
}

moe_status bench_step_time(moe_engine *e, const batch *b, bench_steps *steps, double *ms,
                           double *effective_ratio, moe_error *err)
{
    size_t n = (size_t)b->n_seqs;
    moe_decoding *each = malloc(n * sizeof *each);
    double *ratios = malloc(n * sizeof *ratios);
    int32_t *ids = malloc(n * TOKENS * sizeof *ids);
    steps->n_begun = 0;
    moe_status status = each && ratios && ids ? decode(e, b, each, ratios, ids, err)
                                              : moe_fail(err, MOE_E_MEMORY, "out of memory");
    if (status == MOE_OK && steps->n_begun < 2)
        status = moe_fail(err, MOE_E_UNSUPPORTED,
                          "every text's answer ended with its first token, expected a second step");
    *ms = *effective_ratio = 0;
    if (status == MOE_OK) {
        *ms = 1000 * (steps->last - steps->first) / (steps->n_begun - 1);
        for (size_t s = 0; s < n; s++)
            *effective_ratio += ratios[s] / (double)n;
    }
    free(each);
    free(ratios);
    free(ids);
    return status;
}

static double cells(const moe_linear *w)
{
    return (double)w->n * w->k;
}

static double bytes(moe_dtype t, double n)
{
    return (double)moe_dtype_bytes(t) * n;
}

void bench_step_work(const moe_model *m, int rows, double share, double *gflop, double *gbytes)
{
    const moe_weights *w = &m->weights;
    double n = cells(&w->lm_head), read = bytes(w->lm_head.dtype, n);
    for (int l = w->n_layers - w->n_decoder_layers; l < w->n_layers; l++) {
        const moe_layer *layer = &w->layers[l];
        double linear = cells(&layer->qkv) + cells(&layer->attention_out) +
                        cells(&layer->cross_q) + cells(&layer->cross_out);
        double ffn = (layer->ffn.up ? 3.0 : 2.0) * layer->ffn.d * layer->ffn.d_ff * share;
        n += linear + ffn;
        read += bytes(layer->qkv.dtype, linear) + bytes(layer->ffn.dtype, ffn);
    }
    *gflop = 2e-9 * rows * n;
    *gbytes = 1e-9 * read;
}
