/* t5_arena.c: the memory of a text-to-text engine, and its tables of distances.
 *
 * The caches are sized for chunk_tokens rows of memory and as many of the decoder; pages
 * of them that no batch has needed are never touched. */
#include "engine/graph/t5.h"

#include <math.h>
#include <stdlib.h>

#include "engine/model/dtype.h"

/* ---- relative positions ------------------------------------------------------ */

/* The bucket of a distance: near ones have their own, farther ones share in steps of
 * equal ratio up to max_distance, and all beyond have the last. n: buckets of one way. */
static int bucket_of(int distance, int n, int max_distance)
{
    int exact = n / 2;
    if (distance < exact)
        return distance;
    float share = logf((float)distance / (float)exact) /
                  (float)log((double)max_distance / exact);
    int bucket = exact + (int)(share * (float)(n - exact));
    return bucket < n ? bucket : n - 1;
}

/* The encoder looks both ways: keys ahead have buckets of their own. The decoder sees
 * only what is behind. */
static int bucket_at(const t5_config *c, int key_less_query, bool both_ways)
{
    int n = both_ways ? c->n_buckets / 2 : c->n_buckets;
    int ahead = both_ways && key_less_query > 0 ? n : 0;
    int distance = both_ways ? abs(key_less_query) : key_less_query < 0 ? -key_less_query : 0;
    return ahead + bucket_of(distance, n, c->max_distance);
}

/* [n_heads, 2 span - 1] in backend memory; NULL: out of memory. */
static float *make_bias(moe_engine *e, const moe_table *table, bool both_ways)
{
    int span = e->t5->span, width = 2 * span - 1, n_heads = e->model->info.n_heads;
    size_t bytes = (size_t)n_heads * (size_t)width * sizeof(float);
    size_t cells = (size_t)table->n * (size_t)table->d;
    float *host = malloc(bytes), *values = malloc(cells * sizeof *values);
    float *bias = e->backend->ops->alloc(e->backend, bytes);
    if (host && values && bias) {
        dtype_to_f32(table->dtype, table->rows, cells, values);
        for (int i = 0; i < width; i++) {
            int bucket = bucket_at(&e->model->t5, i - (span - 1), both_ways);
            for (int h = 0; h < n_heads; h++)
                host[(size_t)h * (size_t)width + (size_t)i] =
                    values[(size_t)bucket * (size_t)n_heads + (size_t)h];
        }
        e->backend->ops->put(e->backend, bias, host, bytes);
    }
    bool made = host && values;
    free(host);
    free(values);
    return made ? bias : NULL;
}

/* ---- memory -------------------------------------------------------------------- */

static bool alloc_backend(moe_engine *e)
{
    t5_arena *a = e->t5;
    moe_backend *b = e->backend;
    const moe_weights *w = &e->model->weights;
    size_t n = (size_t)e->chunk_tokens, inner = (size_t)e->d_inner;
    size_t layers = (size_t)w->n_decoder_layers, d = (size_t)e->model->info.d_model;
    size_t words = (size_t)e->model->info.n_vocab;
    a->memory = b->ops->alloc(b, n * d * sizeof(float));
    a->self = b->ops->alloc(b, layers * n * 3 * inner * sizeof(float));
    a->cross = b->ops->alloc(b, layers * n * 2 * inner * sizeof(float));
    a->q = b->ops->alloc(b, n * inner * sizeof(float));
    a->logits = b->ops->alloc(b, T5_HEAD_ROWS * words * sizeof(float));
    a->encoder_bias = make_bias(e, &w->encoder_distances, true);
    a->decoder_bias = make_bias(e, &w->decoder_distances, false);
    return a->memory && a->self && a->cross && a->q && a->logits && a->encoder_bias &&
           a->decoder_bias;
}

static bool alloc_host(moe_engine *e)
{
    t5_arena *a = e->t5;
    size_t n = (size_t)e->chunk_tokens, words = (size_t)e->model->info.n_vocab;
    int32_t **const ints[] = {
        &a->cu_targets, &a->ids, &a->positions, &a->text, &a->cu_rows, &a->cu_one, &a->cu_self,
        &a->cu_cross, &a->cross_row, &a->history, &a->first_history,
    };
    bool made = true;
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        *ints[i] = malloc((n + 1) * sizeof **ints[i]);
        made = made && *ints[i];
    }
    a->self_row = malloc(T5_KEYS_PER_ROW * n * sizeof *a->self_row);
    a->host_logits = malloc(T5_HEAD_ROWS * words * sizeof *a->host_logits);
    a->selection = malloc(n * sizeof *a->selection);
    a->kept = malloc(n * sizeof *a->kept);
    a->all = malloc(n * sizeof *a->all);
    a->kept_mass = malloc(n * sizeof *a->kept_mass);
    a->total_mass = malloc(n * sizeof *a->total_mass);
    for (size_t i = 0; made && i <= n; i++)
        a->cu_one[i] = (int32_t)i;
    return made && a->self_row && a->host_logits && a->selection && a->kept && a->all &&
           a->kept_mass && a->total_mass;
}

moe_status t5_arena_create(moe_engine *e, moe_error *err)
{
    e->t5 = calloc(1, sizeof *e->t5);
    if (e->t5)
        e->t5->span = e->model->info.max_tokens;
    if (!e->t5 || !alloc_backend(e) || !alloc_host(e))
        return moe_fail(err, MOE_E_MEMORY, "out of memory for %d rows of a decoder",
                        e->chunk_tokens);
    return MOE_OK;
}

void t5_arena_free(t5_arena *a)
{
    if (!a)
        return;
    void *const host[] = {
        a->cu_targets, a->ids, a->positions, a->text, a->cu_rows, a->cu_one, a->cu_self,
        a->cu_cross, a->cross_row, a->history, a->first_history, a->self_row, a->host_logits,
        a->selection, a->kept, a->all, a->kept_mass, a->total_mass,
    };
    for (size_t i = 0; i < sizeof host / sizeof *host; i++)
        free(host[i]);
    free(a);
}
