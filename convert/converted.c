/* converted.c: packing into the kernels' layouts, and who owns the arrays. */
#include <stdlib.h>
#include <string.h>

#include "convert/converted.h"
#include "engine/model/lower.h"
#include "engine/model/pack.h"

/* Arrays of one layer; each is made once, at the first put. */
typedef struct {
    float *w1, *b1, *w2, *up, *frequency; /* up: of a gated FFN */
    int32_t *neurons;
    float *first, *first_bias, *second, *second_bias, *shift;
} layer_arrays;

struct converted_memory {
    moe_layer *layers;
    layer_arrays *arrays; /* [n_layers] */
    moe_layer *lower;     /* [n_layers] whose linear weights are owned; zeros: none */
    moe_linear lower_head;
};

moe_status converted_create(const moe_model *m, const bool *wanted, converted *out,
                            moe_error *err)
{
    const size_t n = (size_t)m->weights.n_layers;
    *out = (converted){.model = *m};
    out->layers = calloc(n, sizeof *out->layers);
    out->wanted = malloc(n * sizeof *out->wanted);
    out->memory = calloc(1, sizeof *out->memory);
    if (out->memory) {
        out->memory->layers = malloc(n * sizeof(moe_layer));
        out->memory->arrays = calloc(n, sizeof(layer_arrays));
        out->memory->lower = calloc(n, sizeof(moe_layer));
    }
    if (!out->layers || !out->wanted || !out->memory || !out->memory->layers ||
        !out->memory->arrays || !out->memory->lower)
        return moe_fail(err, MOE_E_MEMORY, "no memory for %d layers", m->weights.n_layers);
    memcpy(out->wanted, wanted, n * sizeof *wanted);
    memcpy(out->memory->layers, m->weights.layers, n * sizeof(moe_layer));
    out->model.weights.layers = out->memory->layers;
    return MOE_OK;
}

void converted_free(converted *c)
{
    for (int l = 0; c->memory && c->memory->arrays && l < c->model.weights.n_layers; l++) {
        layer_arrays *a = &c->memory->arrays[l];
        free(a->w1);
        free(a->b1);
        free(a->w2);
        free(a->up);
        free(a->frequency);
        free(a->neurons);
        free(a->first);
        free(a->first_bias);
        free(a->second);
        free(a->second_bias);
        free(a->shift);
    }
    for (int l = 0; c->memory && c->memory->lower && l < c->model.weights.n_layers; l++) {
        lower_linear_release(&c->memory->lower[l].qkv);
        lower_linear_release(&c->memory->lower[l].attention_out);
        lower_linear_release(&c->memory->lower[l].cross_q);
        lower_linear_release(&c->memory->lower[l].cross_kv);
        lower_linear_release(&c->memory->lower[l].cross_out);
        lower_ffn_release(&c->memory->lower[l].ffn);
    }
    if (c->memory) {
        lower_linear_release(&c->memory->lower_head);
        free(c->memory->lower);
        free(c->memory->arrays);
        free(c->memory->layers);
    }
    free(c->memory);
    free(c->layers);
    free(c->wanted);
    ratio_table_free(&c->table);
    *c = (converted){.n_tokens = 0};
}

/* *array of 64-byte aligned floats, unless it is there already. */
static bool make(float **array, size_t floats)
{
    if (!*array)
        *array = aligned_alloc(64, (floats * sizeof(float) + 63) / 64 * 64);
    return *array != NULL;
}

static moe_status no_memory(int layer, moe_error *err)
{
    return moe_fail(err, MOE_E_MEMORY, "no memory for layer %d", layer);
}

/* The layer's arrays from those in use, by way of rows in source order. */
static bool pack_ffn(const moe_ffn *from, const int32_t *neurons, layer_arrays *a)
{
    const int d = from->d, d_ff = from->d_ff, n = from->n_experts;
    float *w1 = malloc((size_t)d_ff * (size_t)d * sizeof *w1);
    float *b1 = malloc((size_t)d_ff * sizeof *b1);
    float *w2 = malloc((size_t)d_ff * (size_t)d * sizeof *w2);
    const bool ok = w1 && b1 && w2;
    if (ok) {
        unpack_w1(from, w1);
        unpack_b1(from, b1);
        unpack_w2(from, w2);
        pack_w1(w1, d_ff, d, n, neurons, a->w1);
        pack_b1(b1, d_ff, n, neurons, a->b1);
        pack_w2(w2, d_ff, d, n, neurons, a->w2);
    }
    if (ok && from->gated) {
        unpack_up(from, w1);
        pack_w1(w1, d_ff, d, n, neurons, a->up);
    }
    free(w1);
    free(b1);
    free(w2);
    return ok;
}

moe_status converted_put_split(converted *c, int layer, const int32_t *neurons,
                               const float *frequency, moe_error *err)
{
    layer_arrays *a = &c->memory->arrays[layer];
    moe_layer *to = &c->memory->layers[layer];
    const int d = to->ffn.d, n = to->ffn.n_experts;
    const size_t places = (size_t)n * MOE_EXPERT_SIZE;
    if (!a->neurons)
        a->neurons = malloc(places * sizeof *a->neurons);
    if (!make(&a->w1, places * (size_t)d) || !make(&a->b1, places) ||
        !make(&a->w2, pack_w2_floats(n, d)) ||
        (to->ffn.gated && !make(&a->up, places * (size_t)d)) ||
        !make(&a->frequency, (size_t)n) ||
        !a->neurons || !pack_ffn(&to->ffn, neurons, a))
        return no_memory(layer, err);
    memcpy(a->neurons, neurons, places * sizeof *neurons);
    memcpy(a->frequency, frequency, (size_t)n * sizeof *frequency);
    to->ffn.w1 = a->w1;
    to->ffn.b1 = a->b1;
    to->ffn.w2 = a->w2;
    to->ffn.up = a->up;
    to->ffn.neurons = a->neurons;
    to->router.frequency = a->frequency;
    return MOE_OK;
}

static bool pack_router_linear(const float *rows, const float *bias, int n, int k,
                               float **w, float **b, moe_linear *out)
{
    if (!make(w, pack_linear_floats(n, k)) || !make(b, (size_t)n))
        return false;
    pack_linear(rows, n, k, *w);
    memcpy(*b, bias, (size_t)n * sizeof **b);
    *out = (moe_linear){.n = n, .k = k, .w = *w, .b = *b};
    return true;
}

moe_status converted_put_router(converted *c, int layer, const router_rows *r,
                                moe_error *err)
{
    layer_arrays *a = &c->memory->arrays[layer];
    moe_layer *to = &c->memory->layers[layer];
    const int n = to->ffn.n_experts, width = r->n_linears == 2 ? r->n_hidden : n;
    to->router.present = true;
    to->router.normalize = r->normalize;
    to->router.n_linears = r->n_linears;
    if (!pack_router_linear(r->first, r->first_bias, width, to->ffn.d, &a->first,
                            &a->first_bias, &to->router.first))
        return no_memory(layer, err);
    if (r->n_linears == 2 &&
        !pack_router_linear(r->second, r->second_bias, n, width, &a->second,
                            &a->second_bias, &to->router.second))
        return no_memory(layer, err);
    return MOE_OK;
}

moe_status converted_add_shift(converted *c, int layer, float **shift, moe_error *err)
{
    layer_arrays *a = &c->memory->arrays[layer];
    moe_layer *to = &c->memory->layers[layer];
    const size_t n = (size_t)N_RATIOS * (size_t)to->ffn.d;
    *shift = NULL;
    if (!to->router.present)
        return MOE_OK;
    if (!make(&a->shift, n))
        return no_memory(layer, err);
    memset(a->shift, 0, n * sizeof *a->shift);
    to->ffn.n_shifts = N_RATIOS;
    to->ffn.shift = *shift = a->shift;
    c->shifted = true;
    return MOE_OK;
}

moe_status converted_lower(converted *c, int layer, moe_dtype t, const float *qkv,
                           const float *in, const float *hidden, moe_error *err)
{
    moe_layer *to = &c->memory->layers[layer], *lower = &c->memory->lower[layer];
    const struct { moe_linear *from, *to; const float *importance; } linears[] = {
        {&to->qkv, &lower->qkv, qkv}, {&to->attention_out, &lower->attention_out, NULL},
        {&to->cross_q, &lower->cross_q, NULL}, {&to->cross_kv, &lower->cross_kv, NULL},
        {&to->cross_out, &lower->cross_out, NULL},
    };
    moe_status status = MOE_OK;
    for (size_t i = 0; status == MOE_OK && i < sizeof linears / sizeof *linears; i++)
        if (linears[i].from->n)
            status = lower_linear(linears[i].from, t, linears[i].importance, linears[i].to, err);
    if (status == MOE_OK)
        status = lower_ffn(&to->ffn, t, in, hidden, &lower->ffn, err);
    if (status != MOE_OK)
        return status;
    for (size_t i = 0; i < sizeof linears / sizeof *linears; i++)
        *linears[i].from = *linears[i].to;
    to->ffn = lower->ffn;
    c->model.info.dtype = lower_name(t);
    return MOE_OK;
}

moe_status converted_lower_head(converted *c, moe_dtype t, moe_error *err)
{
    moe_linear *head = &c->model.weights.lm_head, *lower = &c->memory->lower_head;
    if (!head->n)
        return MOE_OK;
    moe_status status = lower_linear(head, t, NULL, lower, err);
    if (status == MOE_OK)
        *head = *lower;
    return status;
}

void converted_use_table(converted *c, moe_policy policy)
{
    moe_model_info *info = &c->model.info;
    info->moefied = true;
    info->n_ratio_rows = N_RATIOS;
    info->ratio_rows = c->table.rows;
    info->has_thresholds = c->table.thresholds != NULL;
    info->has_mean_experts = c->table.mean != NULL;
    info->policy = policy;
}
