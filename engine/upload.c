/* upload.c: hands a model's arrays to a backend, one by one. On the CPU this
 * copies pointers; on a device it copies the weights. */
#include "engine/upload.h"

#include <stdlib.h>
#include <string.h>

#include "engine/model/lower.h"

typedef struct {
    moe_backend *b;
    bool failed;
} uploader;

static const void *bytes_up(uploader *u, const void *host, size_t bytes)
{
    if (!host || u->failed)
        return NULL;
    const void *there = u->b->ops->upload(u->b, host, bytes);
    u->failed |= !there;
    return there;
}

static const float *floats_up(uploader *u, const float *host, size_t n)
{
    return bytes_up(u, host, n * sizeof *host);
}

static void linear_up(uploader *u, moe_linear *w)
{
    size_t columns = lower_linear_bytes(MOE_I8, w->n, 1) / 4;
    w->w = bytes_up(u, w->w, lower_linear_bytes(w->dtype, w->n, w->k));
    w->b = floats_up(u, w->b, (size_t)w->n);
    w->scale = floats_up(u, w->scale, columns);
    w->offset = bytes_up(u, w->offset, columns * sizeof *w->offset);
}

static void norm_up(uploader *u, moe_norm *w)
{
    w->gamma = floats_up(u, w->gamma, (size_t)w->d);
    w->beta = floats_up(u, w->beta, (size_t)w->d);
}

static void table_up(uploader *u, moe_table *w)
{
    w->rows = bytes_up(u, w->rows, (size_t)w->n * (size_t)w->d * moe_dtype_bytes(w->dtype));
}

static void ffn_up(uploader *u, moe_ffn *w)
{
    size_t neurons = (size_t)w->n_experts * MOE_EXPERT_SIZE;
    size_t columns = lower_w2_bytes(MOE_I8, 1, w->d) / MOE_EXPERT_SIZE;
    w->w1 = bytes_up(u, w->w1, lower_linear_bytes(w->dtype, (int)neurons, w->d));
    w->up = bytes_up(u, w->up, lower_linear_bytes(w->dtype, (int)neurons, w->d));
    w->b1 = floats_up(u, w->b1, neurons);
    w->w2 = bytes_up(u, w->w2, lower_w2_bytes(w->dtype, w->n_experts, w->d));
    w->b2 = floats_up(u, w->b2, (size_t)w->d);
    w->scale_up = floats_up(u, w->scale_up, neurons);
    w->offset_up = bytes_up(u, w->offset_up, neurons * sizeof *w->offset_up);
    w->shift = floats_up(u, w->shift, (size_t)w->n_shifts * (size_t)w->d);
    w->scale1 = floats_up(u, w->scale1, neurons);
    w->offset1 = bytes_up(u, w->offset1, neurons * sizeof *w->offset1);
    w->scale2 = floats_up(u, w->scale2, columns);
    w->offset2 =
        bytes_up(u, w->offset2, (size_t)w->n_experts * columns * sizeof *w->offset2);
}

static void router_up(uploader *u, moe_router *w)
{
    if (!w->present)
        return;
    linear_up(u, &w->first);
    if (w->n_linears == 2)
        linear_up(u, &w->second);
}

static void layer_up(uploader *u, moe_layer *w)
{
    linear_up(u, &w->qkv);
    linear_up(u, &w->attention_out);
    norm_up(u, &w->attention_norm);
    linear_up(u, &w->cross_q);
    linear_up(u, &w->cross_kv);
    linear_up(u, &w->cross_out);
    norm_up(u, &w->cross_norm);
    ffn_up(u, &w->ffn);
    router_up(u, &w->router);
    norm_up(u, &w->ffn_norm);
}

moe_status weights_upload(moe_backend *b, const moe_weights *host, moe_weights *out,
                          moe_error *err)
{
    uploader u = {.b = b};
    size_t bytes = (size_t)host->n_layers * sizeof *host->layers;
    *out = *host;
    out->layers = malloc(bytes ? bytes : 1);
    if (!out->layers)
        return moe_fail(err, MOE_E_MEMORY, "out of memory for %d layers", host->n_layers);
    memcpy(out->layers, host->layers, bytes);
    table_up(&u, &out->words);
    table_up(&u, &out->positions);
    table_up(&u, &out->types);
    norm_up(&u, &out->embed_norm);
    for (int l = 0; l < out->n_layers; l++)
        layer_up(&u, &out->layers[l]);
    linear_up(&u, &out->pooler);
    linear_up(&u, &out->classifier);
    norm_up(&u, &out->encoder_norm);
    norm_up(&u, &out->decoder_norm);
    linear_up(&u, &out->lm_head);
    if (!u.failed)
        return MOE_OK;
    weights_release(out);
    return moe_fail(err, MOE_E_MEMORY, "%s backend: out of memory for the weights",
                    b->ops->name);
}

void weights_release(moe_weights *w)
{
    free(w->layers);
    w->layers = NULL;
}
