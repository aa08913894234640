/* convert.c: the pipeline over the layers.
 *
 * One layer is in memory at a time: its rows of x (mapped), its weights in source
 * order, its masses [n_tokens, E]. What stays are the packed results. Everything
 * drawn at random comes from streams of (seed, layer, purpose), and all sums have
 * one order, so a seed gives the same bytes for any number of threads. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/blas.h"
#include "convert/convert.h"
#include "convert/interrupt.h"
#include "engine/model/pack.h"

const double ratio_grid[N_RATIOS] = {0.05, 0.1, 0.125, 0.2, 0.25, 0.3, 0.4,
                                     0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 1};

int ratio_experts(double ratio, int n_experts, bool converted_layer)
{
    const int k = (int)lround(ratio * n_experts);
    return !converted_layer ? n_experts : k > 1 ? k : 1;
}

/* ---- memory of the result ------------------------------------------------ */

struct converted_memory {
    moe_layer *layers;
    int n_arrays, room;
    void **arrays;
};

/* An array of the result, 64-byte aligned. */
static void *result_array(struct converted_memory *m, size_t bytes)
{
    if (m->n_arrays == m->room)
        return NULL;
    void *array = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (array)
        m->arrays[m->n_arrays++] = array;
    return array;
}

void converted_free(converted *c)
{
    if (c->memory) {
        for (int i = 0; i < c->memory->n_arrays; i++)
            free(c->memory->arrays[i]);
        free(c->memory->arrays);
        free(c->memory->layers);
    }
    free(c->memory);
    free(c->layers);
    *c = (converted){.n_tokens = 0};
}

static moe_status converted_init(const moe_model *m, converted *out, moe_error *err)
{
    enum { ARRAYS_PER_LAYER = 10 };
    const moe_weights *w = &m->weights;
    const size_t n = (size_t)w->n_layers;
    *out = (converted){.weights = *w};
    out->layers = calloc(n, sizeof *out->layers);
    out->memory = calloc(1, sizeof *out->memory);
    if (out->memory) {
        out->memory->room = (int)n * ARRAYS_PER_LAYER;
        out->memory->arrays = calloc(n * ARRAYS_PER_LAYER, sizeof(void *));
        out->memory->layers = calloc(n, sizeof(moe_layer));
    }
    if (!out->layers || !out->memory || !out->memory->arrays || !out->memory->layers) {
        converted_free(out);
        return moe_fail(err, MOE_E_MEMORY, "no memory for %d layers", w->n_layers);
    }
    memcpy(out->memory->layers, w->layers, n * sizeof(moe_layer));
    out->weights.layers = out->memory->layers;
    return MOE_OK;
}

/* ---- one layer ----------------------------------------------------------- */

/* Arrays of the layer at work. */
typedef struct {
    ffn_layer l;
    float *w1, *b1, *w2;  /* source order */
    float *mass;
    int64_t *fired;
    int32_t *expert, *neurons, *train, *held_out;
    router_input in;
} bench;

static void bench_free(bench *b)
{
    free(b->w1);
    free(b->b1);
    free(b->w2);
    free(b->mass);
    free(b->fired);
    free(b->expert);
    free(b->neurons);
    free(b->train);
    free(b->held_out);
}

static moe_status bench_init(bench *b, const moe_ffn *f, const capture *c,
                             const convert_options *o, workers *w, int index,
                             moe_error *err)
{
    const size_t d = (size_t)f->d, d_ff = (size_t)f->d_ff, n = (size_t)c->n_tokens;
    const size_t experts = (size_t)f->n_experts;
    *b = (bench){.w1 = malloc(d_ff * d * sizeof(float)),
                 .b1 = malloc(d_ff * sizeof(float)),
                 .w2 = malloc(d_ff * d * sizeof(float)),
                 .mass = malloc(n * experts * sizeof(float)),
                 .fired = calloc(d_ff, sizeof(int64_t)),
                 .expert = malloc(d_ff * sizeof(int32_t)),
                 .neurons = malloc(experts * MOE_EXPERT_SIZE * sizeof(int32_t)),
                 .train = malloc(n * sizeof(int32_t)),
                 .held_out = malloc(n * sizeof(int32_t))};
    if (!b->w1 || !b->b1 || !b->w2 || !b->mass || !b->fired || !b->expert ||
        !b->neurons || !b->train || !b->held_out)
        return moe_fail(err, MOE_E_MEMORY, "no memory for layer %d", index);
    unpack_w1(f, b->w1);
    unpack_b1(f, b->b1);
    unpack_w2(f, b->w2);
    b->l = (ffn_layer){.index = index, .d = f->d, .d_ff = f->d_ff, .n_experts = f->n_experts,
                   .act = f->act, .w1 = b->w1, .b1 = b->b1, .w2 = b->w2,
                   .n_tokens = c->n_tokens, .cu_seqlens = c->cu_seqlens,
                   .n_seqs = c->n_seqs, .seed = o->seed, .workers = w};
    b->in = (router_input){.l = &b->l, .neurons = b->neurons, .mass = b->mass,
                           .train = b->train, .held_out = b->held_out};
    router_hold_out(&b->l, b->train, &b->in.n_train, b->held_out, &b->in.n_held_out);
    return MOE_OK;
}

/* Share of the activation mass per expert; equal shares where nothing fires. */
static void find_frequency(const bench *b, float *frequency)
{
    const size_t experts = (size_t)b->l.n_experts;
    double all = 0;
    for (size_t e = 0; e < experts; e++) {
        double sum = 0;
        for (size_t t = 0; t < (size_t)b->l.n_tokens; t++)
            sum += b->mass[t * experts + e];
        frequency[e] = (float)sum;
        all += sum;
    }
    for (size_t e = 0; e < experts; e++)
        frequency[e] = all > 0 ? (float)(frequency[e] / all) : 1 / (float)experts;
}

static bool pack_ffn(const bench *b, struct converted_memory *m, moe_ffn *f)
{
    const int d = b->l.d, d_ff = b->l.d_ff, n = b->l.n_experts;
    const size_t places = (size_t)n * MOE_EXPERT_SIZE;
    float *w1 = result_array(m, places * (size_t)d * sizeof(float));
    float *b1 = result_array(m, places * sizeof(float));
    float *w2 = result_array(m, pack_w2_floats(n, d) * sizeof(float));
    int32_t *neurons = result_array(m, places * sizeof(int32_t));
    if (!w1 || !b1 || !w2 || !neurons)
        return false;
    memcpy(neurons, b->neurons, places * sizeof *neurons);
    pack_w1(b->w1, d_ff, d, n, neurons, w1);
    pack_b1(b->b1, d_ff, n, neurons, b1);
    pack_w2(b->w2, d_ff, d, n, neurons, w2);
    f->w1 = w1;
    f->b1 = b1;
    f->w2 = w2;
    f->neurons = neurons;
    return true;
}

static bool pack_router_linear(const float *rows, const float *bias, int n, int k,
                               struct converted_memory *m, moe_linear *out)
{
    float *w = result_array(m, pack_linear_floats(n, k) * sizeof(float));
    float *b = result_array(m, (size_t)n * sizeof(float));
    if (!w || !b)
        return false;
    pack_linear(rows, n, k, w);
    memcpy(b, bias, (size_t)n * sizeof *b);
    *out = (moe_linear){.n = n, .k = k, .w = w, .b = b};
    return true;
}

static bool pack_router(const bench *b, const router_rows *r, struct converted_memory *m,
                        moe_router *out)
{
    const int n = b->l.n_experts, width = r->n_linears == 2 ? r->n_hidden : n;
    float *frequency = result_array(m, (size_t)n * sizeof(float));
    *out = (moe_router){.present = true, .normalize = r->normalize,
                        .n_linears = r->n_linears, .frequency = frequency};
    if (!frequency ||
        !pack_router_linear(r->first, r->first_bias, width, b->l.d, m, &out->first))
        return false;
    find_frequency(b, frequency);
    return r->n_linears == 1 ||
           pack_router_linear(r->second, r->second_bias, n, width, m, &out->second);
}

static void count_firing(const bench *b, layer_report *report)
{
    int64_t firing = 0;
    report->dead = 0;
    for (int n = 0; n < b->l.d_ff; n++) {
        firing += b->fired[n];
        report->dead += b->fired[n] == 0;
    }
    report->active = (double)firing / b->l.d_ff / b->l.n_tokens;
}

/* Progress counts the stages of a layer. */
enum { STAGES = 3 };

static void show_stage(progress *bar, const bench *b, int done, const char *what)
{
    char note[64];
    snprintf(note, sizeof note, "layer %d: %s", b->l.index, what);
    progress_update(bar, done, note);
}

/* done: stages of the layers before. */
static moe_status convert_layer(bench *b, const convert_options *o, progress *bar,
                                int done, struct converted_memory *m, moe_layer *out,
                                layer_report *report, moe_error *err)
{
    router_rows rows = {.n_linears = 0};
    report->converted = true;
    show_stage(bar, b, done, "split");
    moe_status status = o->split->split(&b->l, b->expert, &report->split, err);
    if (status != MOE_OK)
        return status;
    layer_list_neurons(&b->l, b->expert, b->neurons);
    show_stage(bar, b, done + 1, "activations");
    status = layer_expert_mass(&b->l, b->neurons, b->mass, b->fired, err);
    count_firing(b, report);
    show_stage(bar, b, done + 2, "router");
    if (status == MOE_OK)
        status = o->router->make(&b->in, &rows, &report->router, err);
    if (status == MOE_OK)
        status = router_captured(&b->in, &rows, &report->captured, err);
    if (status == MOE_OK)
        status = router_captured(&b->in, NULL, &report->oracle, err);
    if (status == MOE_OK &&
        !(pack_ffn(b, m, &out->ffn) && pack_router(b, &rows, m, &out->router)))
        status = moe_fail(err, MOE_E_MEMORY, "no memory for layer %d", b->l.index);
    router_rows_free(&rows);
    return status;
}

/* ---- all layers ---------------------------------------------------------- */

static moe_status convert_layers(const moe_model *m, const convert_options *o,
                                 capture *c, workers *w, progress *bar, converted *out,
                                 moe_error *err)
{
    moe_status status = MOE_OK;
    int done = 0, n_wanted = 0;
    for (int l = 0; l < m->weights.n_layers; l++)
        n_wanted += o->wanted[l];
    progress_begin(bar, "converting layers", n_wanted * STAGES);
    for (int l = 0; status == MOE_OK && l < m->weights.n_layers; l++) {
        if (!o->wanted[l])
            continue;
        bench b;
        status = bench_init(&b, &m->weights.layers[l].ffn, c, o, w, l, err);
        if (status == MOE_OK)
            status = capture_map(c, l, &b.l.x, err);
        if (status == MOE_OK)
            status = convert_layer(&b, o, bar, done, out->memory,
                                   &out->memory->layers[l], &out->layers[l], err);
        done += STAGES;
        bench_free(&b);
    }
    progress_end(bar);
    return status;
}

/* The pool goes when the text is read: its threads and the workers would share
 * the same processors. */
static moe_status run_capture(const moe_model *m, const dataset *data,
                              const convert_options *o, progress *bar, capture *c,
                              int *n_threads, moe_error *err)
{
    moe_pool *pool;
    moe_status status = moe_pool_create(o->n_threads, &pool, err);
    if (status != MOE_OK)
        return status;
    *n_threads = moe_pool_threads(pool);
    status = capture_run(m, pool, data, o->max_tokens, o->wanted, o->spool_dir, bar, c,
                         err);
    moe_pool_destroy(pool);
    return status;
}

moe_status convert_model(const moe_model *m, const dataset *data,
                         const convert_options *o, progress *bar, converted *out,
                         moe_error *err)
{
    capture c = {.fd = -1};
    workers *w = NULL;
    int n_threads = 0;
    blas_begin();
    moe_status status = converted_init(m, out, err);
    if (status != MOE_OK)
        return status;
    status = run_capture(m, data, o, bar, &c, &n_threads, err);
    if (status == MOE_OK) {
        out->n_tokens = c.n_tokens;
        out->n_seqs = c.n_seqs;
        out->n_rows = c.n_rows;
        out->n_unknown = c.n_unknown;
        status = workers_create(n_threads, &w, err);
    }
    if (status == MOE_OK)
        status = convert_layers(m, o, &c, w, bar, out, err);
    workers_destroy(w);
    capture_close(&c);
    if (status != MOE_OK)
        converted_free(out);
    return status;
}
