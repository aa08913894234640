/* dense.c: the packed weight table back to row-major tensors under their Hugging
 * Face names, in one safetensors file: 8 bytes of header length, a JSON header
 * padded to a multiple of 8, the data end to end. Each tensor is unpacked when its
 * turn comes: memory holds one. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "convert/dense.h"
#include "convert/write.h"
#include "engine/model/dtype.h"
#include "engine/model/encoder_names.h"
#include "engine/model/pack.h"

typedef enum { FROM_VECTOR, FROM_TABLE, FROM_LINEAR, FROM_W1, FROM_B1, FROM_W2, FROM_UP } origin;

typedef struct {
    char name[128];
    int rows, columns;  /* columns 0: a vector of `rows` */
    origin origin;
    const void *from;   /* float *, moe_table *, moe_linear * or moe_ffn * */
    int first_row;      /* of a linear: the piece begins there */
} tensor;

typedef struct {
    tensor *items;
    int n;
} tensor_list;

/* ---- what there is ------------------------------------------------------- */

__attribute__((format(printf, 7, 8)))
static void add(tensor_list *list, origin how, const void *from, int rows,
                int columns, int first_row, const char *format, ...)
{
    tensor *t = &list->items[list->n++];
    *t = (tensor){.rows = rows, .columns = columns, .origin = how, .from = from,
                  .first_row = first_row};
    va_list args;
    va_start(args, format);
    vsnprintf(t->name, sizeof t->name, format, args);
    va_end(args);
}

static void add_norm(tensor_list *list, const moe_norm *norm, const char *name)
{
    add(list, FROM_VECTOR, norm->gamma, norm->d, 0, 0, "%s.weight", name);
    add(list, FROM_VECTOR, norm->beta, norm->d, 0, 0, "%s.bias", name);
}

/* Rows [first, first + n) of a linear layer and their biases. */
static void add_linear(tensor_list *list, const moe_linear *linear, int first, int n,
                       const char *prefix)
{
    add(list, FROM_LINEAR, linear, n, linear->k, first, "%s.weight", prefix);
    add(list, FROM_VECTOR, linear->b ? linear->b + first : NULL, n, 0, 0, "%s.bias",
        prefix);
}

/* The name of a layer's module, in `to`. */
typedef struct { const encoder_names *names; int layer; char text[128]; } module_name;

static const char *module(module_name *m, const char *name)
{
    snprintf(m->text, sizeof m->text, "%s%s.%d.%s", m->names->prefix, m->names->layer, m->layer,
             name);
    return m->text;
}

static void add_layer(tensor_list *list, const encoder_names *names, const moe_layer *l, int index)
{
    const char *const parts[] = {names->query, names->key, names->value};
    const int d = l->ffn.d, d_ff = l->ffn.d_ff;
    module_name m = {.names = names, .layer = index};
    for (int i = 0; i < 3; i++)
        add_linear(list, &l->qkv, i * d, d, module(&m, parts[i]));
    add_linear(list, &l->attention_out, 0, d, module(&m, names->attention_out));
    add_norm(list, &l->attention_norm, module(&m, names->attention_norm));
    add(list, FROM_W1, &l->ffn, d_ff, d, 0, "%s.weight", module(&m, names->up));
    add(list, FROM_B1, &l->ffn, d_ff, 0, 0, "%s.bias", module(&m, names->up));
    add(list, FROM_W2, &l->ffn, d, d_ff, 0, "%s.weight", module(&m, names->down));
    add(list, FROM_VECTOR, l->ffn.b2, d, 0, 0, "%s.bias", module(&m, names->down));
    add_norm(list, &l->ffn_norm, module(&m, names->ffn_norm));
}

static void add_table(tensor_list *list, const encoder_names *names, const moe_table *table,
                      const char *name)
{
    add(list, FROM_TABLE, table, table->n, table->d, 0, "%sembeddings.%s.weight", names->prefix,
        name);
}

/* The pooler's, where there is one, and the classifier's. */
static void add_head(tensor_list *list, const encoder_names *names, const moe_weights *w)
{
    char name[96];
    snprintf(name, sizeof name, "%s%s", encoder_is_head(names->pooler) ? "" : names->prefix,
             names->pooler);
    if (w->pooler.n)
        add_linear(list, &w->pooler, 0, w->pooler.n, name);
    add_linear(list, &w->classifier, 0, w->classifier.n,
               w->pooler.n ? names->classifier : "qa_outputs");
}

static void list_encoder(const moe_weights *w, const encoder_names *names, tensor_list *list)
{
    char norm[64];
    add_table(list, names, &w->words, "word_embeddings");
    add_table(list, names, &w->positions, "position_embeddings");
    if (w->types.n)
        add_table(list, names, &w->types, "token_type_embeddings");
    snprintf(norm, sizeof norm, "%sembeddings.LayerNorm", names->prefix);
    add_norm(list, &w->embed_norm, norm);
    for (int l = 0; l < w->n_layers; l++)
        add_layer(list, names, &w->layers[l], l);
    add_head(list, names, w);
}

/* ---- T5, which has no biases ------------------------------------------------ */

static void add_rows(tensor_list *list, const moe_linear *linear, int first, int n,
                     const char *prefix, const char *part)
{
    add(list, FROM_LINEAR, linear, n, linear->k, first, "%s.%s.weight", prefix, part);
}

static void add_gain(tensor_list *list, const moe_norm *norm, const char *prefix)
{
    add(list, FROM_VECTOR, norm->gamma, norm->d, 0, 0, "%s.weight", prefix);
}

/* Queries, keys and values of n rows each. */
static void add_t5_attention(tensor_list *list, const moe_linear *q, const moe_linear *kv,
                             int first, const moe_linear *out, int n, const char *prefix)
{
    add_rows(list, q, 0, n, prefix, "q");
    add_rows(list, kv, first, n, prefix, "k");
    add_rows(list, kv, first + n, n, prefix, "v");
    add_rows(list, out, 0, out->n, prefix, "o");
}

static void add_t5_ffn(tensor_list *list, const moe_ffn *f, const char *prefix)
{
    add(list, FROM_W1, f, f->d_ff, f->d, 0, "%s.%s.weight", prefix, f->gated ? "wi_0" : "wi");
    if (f->gated)
        add(list, FROM_UP, f, f->d_ff, f->d, 0, "%s.wi_1.weight", prefix);
    add(list, FROM_W2, f, f->d, f->d_ff, 0, "%s.wo.weight", prefix);
}

static void add_t5_layer(tensor_list *list, const moe_layer *l, const char *half, int block)
{
    char name[96];
    const int inner = l->attention_out.k;
    int part = 0;
    snprintf(name, sizeof name, "%s.block.%d.layer.%d.SelfAttention", half, block, part);
    add_t5_attention(list, &l->qkv, &l->qkv, inner, &l->attention_out, inner, name);
    snprintf(name, sizeof name, "%s.block.%d.layer.%d.layer_norm", half, block, part++);
    add_gain(list, &l->attention_norm, name);
    if (l->cross_q.n) {
        snprintf(name, sizeof name, "%s.block.%d.layer.%d.EncDecAttention", half, block, part);
        add_t5_attention(list, &l->cross_q, &l->cross_kv, 0, &l->cross_out, inner, name);
        snprintf(name, sizeof name, "%s.block.%d.layer.%d.layer_norm", half, block, part++);
        add_gain(list, &l->cross_norm, name);
    }
    snprintf(name, sizeof name, "%s.block.%d.layer.%d.DenseReluDense", half, block, part);
    add_t5_ffn(list, &l->ffn, name);
    snprintf(name, sizeof name, "%s.block.%d.layer.%d.layer_norm", half, block, part);
    add_gain(list, &l->ffn_norm, name);
}

static void add_t5_table(tensor_list *list, const moe_table *table, const char *name)
{
    add(list, FROM_TABLE, table, table->n, table->d, 0, "%s.weight", name);
}

static void list_t5(const moe_weights *w, bool tied, tensor_list *list)
{
    static const char distances[] = "block.0.layer.0.SelfAttention.relative_attention_bias";
    const int encoder = w->n_layers - w->n_decoder_layers;
    char name[96];
    add_t5_table(list, &w->words, "shared");
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "%s.%s", i ? "decoder" : "encoder", distances);
        add_t5_table(list, i ? &w->decoder_distances : &w->encoder_distances, name);
    }
    for (int l = 0; l < w->n_layers; l++)
        add_t5_layer(list, &w->layers[l], l < encoder ? "encoder" : "decoder",
                     l < encoder ? l : l - encoder);
    add_gain(list, &w->encoder_norm, "encoder.final_layer_norm");
    add_gain(list, &w->decoder_norm, "decoder.final_layer_norm");
    if (!tied)
        add(list, FROM_LINEAR, &w->lm_head, w->lm_head.n, w->lm_head.k, 0, "lm_head.weight");
}

static bool list_tensors(const moe_model *m, tensor_list *list)
{
    enum { PER_LAYER = 16, OTHERS = 9 };
    const moe_weights *w = &m->weights;
    const size_t n = (size_t)w->n_layers * PER_LAYER + OTHERS;
    *list = (tensor_list){.items = calloc(n, sizeof(tensor))};
    if (!list->items)
        return false;
    if (m->family == MOE_FAMILY_T5)
        list_t5(w, m->t5.tied, list);
    else
        list_encoder(w, encoder_names_of(m->family), list);
    return true;
}

static size_t floats_of(const tensor *t)
{
    return (size_t)t->rows * (size_t)(t->columns ? t->columns : 1);
}

/* ---- writing ------------------------------------------------------------- */

static bool write_header(FILE *to, const tensor_list *list)
{
    char *text = NULL;
    size_t n = 0, at = 0;
    FILE *header = open_memstream(&text, &n);
    if (!header)
        return false;
    fprintf(header, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; i < list->n; i++) {
        const tensor *t = &list->items[i];
        const size_t bytes = floats_of(t) * sizeof(float);
        fprintf(header, ",\"%s\":{\"dtype\":\"F32\",\"shape\":[%d", t->name, t->rows);
        if (t->columns)
            fprintf(header, ",%d", t->columns);
        fprintf(header, "],\"data_offsets\":[%zu,%zu]}", at, at + bytes);
        at += bytes;
    }
    const long length = ftell(header) + 1;
    fprintf(header, "}%*s", (int)((8 - length % 8) % 8), "");
    bool ok = fclose(header) == 0;
    unsigned char size[8];
    for (int i = 0; i < 8; i++)
        size[i] = (unsigned char)((uint64_t)n >> (8 * i));
    ok = ok && fwrite(size, 1, 8, to) == 8 && fwrite(text, 1, n, to) == n;
    free(text);
    return ok;
}

/* values [floats_of(t)] in row-major order. */
static bool unpack(const tensor *t, float *values)
{
    const moe_table *table = t->from;
    const moe_linear *linear = t->from;
    switch (t->origin) {
    case FROM_VECTOR:
        if (t->from)
            memcpy(values, t->from, floats_of(t) * sizeof *values);
        else
            memset(values, 0, floats_of(t) * sizeof *values);
        return true;
    case FROM_TABLE:
        dtype_to_f32(table->dtype, table->rows, floats_of(t), values);
        return true;
    case FROM_W1:
        unpack_w1(t->from, values);
        return true;
    case FROM_B1:
        unpack_b1(t->from, values);
        return true;
    case FROM_W2:
        unpack_w2(t->from, values);
        return true;
    case FROM_UP:
        unpack_up(t->from, values);
        return true;
    case FROM_LINEAR:
        break;
    }
    float *all = malloc((size_t)linear->n * (size_t)linear->k * sizeof *all);
    if (!all)
        return false;
    unpack_linear(linear, all);
    memcpy(values, all + (size_t)t->first_row * (size_t)linear->k,
           floats_of(t) * sizeof *values);
    free(all);
    return true;
}

static moe_status write_tensor(FILE *to, const char *path, const tensor *t,
                               moe_error *err)
{
    const size_t n = floats_of(t);
    float *values = malloc(n * sizeof *values);
    moe_status status = MOE_OK;
    if (!values || !unpack(t, values))
        status = moe_fail(err, MOE_E_MEMORY, "no memory for tensor '%s'", t->name);
    else if (fwrite(values, sizeof *values, n, to) != n)
        status = moe_fail(err, MOE_E_IO, "%s: tensor '%s' cannot be written: %s", path,
                          t->name, strerror(errno));
    free(values);
    return status;
}

static moe_status write_to(FILE *to, const char *path, const tensor_list *list,
                           moe_error *err)
{
    if (!write_header(to, list))
        return moe_fail(err, MOE_E_IO, "%s: cannot be written: %s", path, strerror(errno));
    for (int i = 0; i < list->n; i++) {
        moe_status status = write_tensor(to, path, &list->items[i], err);
        if (status != MOE_OK)
            return status;
    }
    if (fflush(to) != 0 || fsync(fileno(to)) != 0)
        return moe_fail(err, MOE_E_IO, "%s: cannot be written: %s", path, strerror(errno));
    return MOE_OK;
}

moe_status dense_write_tensors(const char *path, const moe_model *m, moe_error *err)
{
    tensor_list list;
    if (!list_tensors(m, &list))
        return moe_fail(err, MOE_E_MEMORY, "%s: no memory to list its tensors", path);
    FILE *to = fopen(path, "wbxe");
    moe_status status =
        to ? write_to(to, path, &list, err)
           : moe_fail(err, MOE_E_IO, "%s: cannot be written: %s", path, strerror(errno));
    if (to && fclose(to) != 0 && status == MOE_OK)
        status = moe_fail(err, MOE_E_IO, "%s: cannot be written: %s", path, strerror(errno));
    if (to && status != MOE_OK)
        unlink(path);
    free(list.items);
    return status;
}

/* ---- the directory ------------------------------------------------------- */

static void change_config(json *config)
{
    static const char *const dtype_keys[] = {"torch_dtype", "dtype"};
    json_remove(config, "moefication");
    for (int i = 0; i < 2; i++)
        if (json_get(config, dtype_keys[i])) {
            json_remove(config, dtype_keys[i]);
            json_add_string(config, dtype_keys[i], "float32");
        }
}

moe_status dense_write(const outdir *o, const moe_model *m, json *config, moe_error *err)
{
    change_config(config);
    moe_status status = write_config(o, config, err);
    if (status == MOE_OK)
        status = write_tokenizer(o, m->info.dir, err);
    if (status != MOE_OK)
        return status;
    char *path = outdir_file(o, "model.safetensors");
    status = path ? dense_write_tensors(path, m, err)
                  : moe_fail(err, MOE_E_MEMORY, "no memory to write weights");
    free(path);
    return status;
}
