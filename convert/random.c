/* random.c: a list of tensors by name, then one pass that writes the header and one that
 * draws each tensor's values in turn, a buffer at a time.
 *
 * Values are uniform. Deviations are those that T5 is born with, k^-0.5 for a matrix over
 * k inputs and (k d_kv)^-0.5 for T5's queries, as its attention has no scale: activations
 * neither vanish nor overflow. Half of the neurons of such an FFN fire, far more than of
 * a trained one: speed and memory are real, quality at a ratio is not. */
#include "convert/random.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "convert/interrupt.h"
#include "convert/json.h"
#include "convert/rng.h"
#include "convert/write.h"

enum { BUFFER_FLOATS = 1 << 16, MAX_VOCAB = 1 << 22, POSITIONS = 512, TYPES = 2, LABELS = 2,
       BUCKETS = 32, MAX_DISTANCE = 128, PER_LAYER = 16, OTHERS = 9 };

#define T5_TOKENIZER "models/t5-mini-glue"
#define BERT_TOKENIZER "models/minilm-sst2-relu"

const random_shape random_shapes[] = {
    {"t5-mini", true, 4, 256, 1024, 4, 64, 0, "relu", T5_TOKENIZER},
    {"t5-small", true, 6, 512, 2048, 8, 64, 32128, "relu", T5_TOKENIZER},
    {"t5-base", true, 12, 768, 3072, 12, 64, 32128, "relu", T5_TOKENIZER},
    {"t5-large", true, 24, 1024, 4096, 16, 64, 32128, "relu", T5_TOKENIZER},
    {"minilm", false, 6, 384, 1536, 12, 32, 0, "relu", BERT_TOKENIZER},
    {"bert-base", false, 12, 768, 3072, 12, 64, 0, "gelu", BERT_TOKENIZER},
    {"bert-large", false, 24, 1024, 4096, 16, 64, 0, "gelu", BERT_TOKENIZER},
    {.name = NULL},
};

typedef struct {
    char name[96];
    int rows, columns;       /* columns 0: a vector */
    double centre, deviation;
} tensor;

typedef struct { tensor *items; int n; } tensor_list;

/* ---- what there is ------------------------------------------------------- */

__attribute__((format(printf, 6, 7)))
static void add(tensor_list *list, int rows, int columns, double centre, double deviation,
                const char *format, ...)
{
    tensor *t = &list->items[list->n++];
    *t = (tensor){.rows = rows, .columns = columns, .centre = centre, .deviation = deviation};
    va_list args;
    va_start(args, format);
    vsnprintf(t->name, sizeof t->name, format, args);
    va_end(args);
}

static void add_linear(tensor_list *list, int n, int k, const char *stem)
{
    add(list, n, k, 0, 1 / sqrt(k), "%s.weight", stem);
    add(list, n, 0, 0, 0.01, "%s.bias", stem);
}

static void add_norm(tensor_list *list, int d, const char *stem)
{
    add(list, d, 0, 1, 0, "%s.weight", stem);
    add(list, d, 0, 0, 0.01, "%s.bias", stem);
}

static void add_bert_layer(tensor_list *list, const random_shape *s, int i)
{
    static const char *const parts[] = {"query", "key", "value"};
    const int d = s->d_model;
    char at[48], stem[88];
    snprintf(at, sizeof at, "bert.encoder.layer.%d", i);
    for (int p = 0; p < 3; p++) {
        snprintf(stem, sizeof stem, "%s.attention.self.%s", at, parts[p]);
        add_linear(list, d, d, stem);
    }
    snprintf(stem, sizeof stem, "%s.attention.output.dense", at);
    add_linear(list, d, d, stem);
    snprintf(stem, sizeof stem, "%s.attention.output.LayerNorm", at);
    add_norm(list, d, stem);
    snprintf(stem, sizeof stem, "%s.intermediate.dense", at);
    add_linear(list, s->d_ff, d, stem);
    snprintf(stem, sizeof stem, "%s.output.dense", at);
    add_linear(list, d, s->d_ff, stem);
    snprintf(stem, sizeof stem, "%s.output.LayerNorm", at);
    add_norm(list, d, stem);
}

static void list_bert(tensor_list *list, const random_shape *s, int n_vocab)
{
    const int d = s->d_model;
    add(list, n_vocab, d, 0, 0.5, "bert.embeddings.word_embeddings.weight");
    add(list, POSITIONS, d, 0, 0.5, "bert.embeddings.position_embeddings.weight");
    add(list, TYPES, d, 0, 0.5, "bert.embeddings.token_type_embeddings.weight");
    add_norm(list, d, "bert.embeddings.LayerNorm");
    for (int i = 0; i < s->n_layers; i++)
        add_bert_layer(list, s, i);
    add_linear(list, d, d, "bert.pooler.dense");
    add_linear(list, LABELS, d, "classifier");
}

static void add_t5_attention(tensor_list *list, const random_shape *s, const char *at)
{
    const int d = s->d_model, inner = s->n_heads * s->d_head;
    add(list, inner, d, 0, 1 / sqrt((double)d * s->d_head), "%s.q.weight", at);
    add(list, inner, d, 0, 1 / sqrt(d), "%s.k.weight", at);
    add(list, inner, d, 0, 1 / sqrt(d), "%s.v.weight", at);
    add(list, d, inner, 0, 1 / sqrt(inner), "%s.o.weight", at);
}

static void add_t5_block(tensor_list *list, const random_shape *s, const char *half, int i,
                         bool decoder)
{
    const int d = s->d_model;
    char at[32], stem[64];
    int part = 0;
    snprintf(at, sizeof at, "%s.block.%d.layer", half, i);
    snprintf(stem, sizeof stem, "%s.0.SelfAttention", at);
    add_t5_attention(list, s, stem);
    if (i == 0)
        add(list, BUCKETS, s->n_heads, 0, 1 / sqrt(d), "%s.relative_attention_bias.weight", stem);
    add(list, d, 0, 1, 0, "%s.%d.layer_norm.weight", at, part++);
    if (decoder) {
        snprintf(stem, sizeof stem, "%s.1.EncDecAttention", at);
        add_t5_attention(list, s, stem);
        add(list, d, 0, 1, 0, "%s.%d.layer_norm.weight", at, part++);
    }
    add(list, s->d_ff, d, 0, 1 / sqrt(d), "%s.%d.DenseReluDense.wi.weight", at, part);
    add(list, d, s->d_ff, 0, 1 / sqrt(s->d_ff), "%s.%d.DenseReluDense.wo.weight", at, part);
    add(list, d, 0, 1, 0, "%s.%d.layer_norm.weight", at, part);
}

static void list_t5(tensor_list *list, const random_shape *s, int n_vocab)
{
    add(list, n_vocab, s->d_model, 0, 1, "shared.weight");
    for (int half = 0; half < 2; half++) {
        const char *name = half ? "decoder" : "encoder";
        for (int i = 0; i < s->n_layers; i++)
            add_t5_block(list, s, name, i, half == 1);
        add(list, s->d_model, 0, 1, 0, "%s.final_layer_norm.weight", name);
    }
}

static size_t floats_of(const tensor *t)
{
    return (size_t)t->rows * (size_t)(t->columns ? t->columns : 1);
}

/* ---- model.safetensors --------------------------------------------------- */

static bool write_header(FILE *to, const tensor_list *list, size_t *bytes)
{
    char *text = NULL;
    size_t n = 0, at = 0;
    FILE *header = open_memstream(&text, &n);
    if (!header)
        return false;
    fprintf(header, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; i < list->n; i++) {
        const tensor *t = &list->items[i];
        const size_t end = at + floats_of(t) * sizeof(float);
        fprintf(header, ",\"%s\":{\"dtype\":\"F32\",\"shape\":[%d", t->name, t->rows);
        if (t->columns)
            fprintf(header, ",%d", t->columns);
        fprintf(header, "],\"data_offsets\":[%zu,%zu]}", at, end);
        at = end;
    }
    const long length = ftell(header) + 1;
    fprintf(header, "}%*s", (int)((8 - length % 8) % 8), "");
    bool ok = fclose(header) == 0;
    unsigned char size[8];
    for (int i = 0; i < 8; i++)
        size[i] = (unsigned char)((uint64_t)n >> (8 * i));
    ok = ok && fwrite(size, 1, 8, to) == 8 && fwrite(text, 1, n, to) == n;
    free(text);
    *bytes = at;
    return ok;
}

static moe_status cannot_write(const char *path, moe_error *err)
{
    return moe_fail(err, MOE_E_IO, "%s: cannot be written: %s", path, strerror(errno));
}

/* Draws the values of t from a stream of its own; buffer [BUFFER_FLOATS]. */
static moe_status write_values(FILE *to, const char *path, const tensor *t, rng draw,
                               float *buffer, moe_error *err)
{
    const double width = t->deviation * sqrt(12); /* of a uniform of that deviation */
    moe_status status = MOE_OK;
    for (size_t left = floats_of(t), n; left && status == MOE_OK; left -= n) {
        n = left < BUFFER_FLOATS ? left : BUFFER_FLOATS;
        for (size_t i = 0; i < n; i++)
            buffer[i] = (float)(t->centre + (rng_uniform(&draw) - 0.5) * width);
        status = fwrite(buffer, sizeof *buffer, n, to) == n ? interrupt_check(err)
                                                            : cannot_write(path, err);
    }
    return status;
}

static moe_status write_tensors(FILE *to, const char *path, const tensor_list *list,
                                uint64_t seed, size_t *bytes, moe_error *err)
{
    float *buffer = malloc(BUFFER_FLOATS * sizeof *buffer);
    if (!buffer)
        return moe_fail(err, MOE_E_MEMORY, "%s: no memory for a buffer", path);
    moe_status status = write_header(to, list, bytes) ? MOE_OK : cannot_write(path, err);
    for (int i = 0; i < list->n && status == MOE_OK; i++)
        status = write_values(to, path, &list->items[i], rng_stream(seed, (uint64_t)i, 0),
                              buffer, err);
    if (status == MOE_OK && (fflush(to) != 0 || fsync(fileno(to)) != 0))
        status = cannot_write(path, err);
    free(buffer);
    return status;
}

static moe_status write_weights(const outdir *o, const random_shape *s, int n_vocab,
                                uint64_t seed, size_t *bytes, moe_error *err)
{
    const size_t blocks = (size_t)s->n_layers * (s->t5 ? 2 : 1);
    tensor_list list = {.items = calloc(blocks * PER_LAYER + OTHERS, sizeof(tensor))};
    char *path = outdir_file(o, "model.safetensors");
    moe_status status = MOE_OK;
    FILE *to = NULL;
    if (!list.items || !path)
        status = moe_fail(err, MOE_E_MEMORY, "no memory to list the tensors of %s", s->name);
    else if (!(to = fopen(path, "wbxe")))
        status = cannot_write(path, err);
    if (status == MOE_OK) {
        (s->t5 ? list_t5 : list_bert)(&list, s, n_vocab);
        status = write_tensors(to, path, &list, seed, bytes, err);
    }
    if (to && fclose(to) != 0 && status == MOE_OK)
        status = cannot_write(path, err);
    free(path);
    free(list.items);
    return status;
}

/* ---- config.json --------------------------------------------------------- */

static void describe_t5(json *config, const random_shape *s)
{
    json_add_int(config, "d_model", s->d_model);
    json_add_int(config, "d_kv", s->d_head);
    json_add_int(config, "d_ff", s->d_ff);
    json_add_int(config, "num_heads", s->n_heads);
    json_add_int(config, "num_layers", s->n_layers);
    json_add_int(config, "num_decoder_layers", s->n_layers);
    json_add_int(config, "n_positions", POSITIONS);
    json_add_int(config, "relative_attention_num_buckets", BUCKETS);
    json_add_int(config, "relative_attention_max_distance", MAX_DISTANCE);
    json_add_number(config, "layer_norm_epsilon", 1e-6, 3);
    json_add_string(config, "feed_forward_proj", s->activation);
    json_add_bool(config, "is_encoder_decoder", true);
    json_add_bool(config, "tie_word_embeddings", true);
    json_add_int(config, "pad_token_id", 0);
    json_add_int(config, "eos_token_id", 1);
    json_add_int(config, "decoder_start_token_id", 0);
}

static void describe_bert(json *config, const random_shape *s)
{
    json_add_int(config, "hidden_size", s->d_model);
    json_add_int(config, "intermediate_size", s->d_ff);
    json_add_int(config, "num_attention_heads", s->n_heads);
    json_add_int(config, "num_hidden_layers", s->n_layers);
    json_add_int(config, "max_position_embeddings", POSITIONS);
    json_add_int(config, "type_vocab_size", TYPES);
    json_add_number(config, "layer_norm_eps", 1e-12, 3);
    json_add_string(config, "hidden_act", s->activation);
    json *names = json_add(config, "id2label", json_object());
    json *ids = json_add(config, "label2id", json_object());
    json_add_string(names, "0", "negative");
    json_add_string(names, "1", "positive");
    json_add_int(ids, "negative", 0);
    json_add_int(ids, "positive", 1);
}

static moe_status write_shape(const outdir *o, const random_shape *s, int n_vocab,
                              moe_error *err)
{
    json *config = json_object();
    json *architectures = json_add(config, "architectures", json_array());
    json_add_string(architectures, NULL,
                    s->t5 ? "T5ForConditionalGeneration" : "BertForSequenceClassification");
    json_add_string(config, "model_type", s->t5 ? "t5" : "bert");
    json_add_int(config, "vocab_size", n_vocab);
    json_add_string(config, "torch_dtype", "float32");
    (s->t5 ? describe_t5 : describe_bert)(config, s);
    moe_status status = write_config(o, config, err);
    json_free(config);
    return status;
}

/* How many rows the word table needs; `from` must be of the shape's family. */
static moe_status count_words(const random_shape *s, const char *from, int *n_vocab,
                              moe_error *err)
{
    const char *expected = s->t5 ? "t5" : "bert";
    json *config;
    double words = 0;
    moe_status status = write_read_config(from, &config, err);
    if (status != MOE_OK)
        return status;
    const char *type = json_get_string(config, "model_type");
    if (!type || strcmp(type, expected) != 0)
        status = moe_fail(err, MOE_E_UNSUPPORTED,
                          "%s/config.json: model_type is '%.40s', expected '%s' for the "
                          "tokenizer of %s", from, type ? type : "", expected, s->name);
    else if (!json_get_number(config, "vocab_size", &words) || !(words >= 1) ||
             words > MAX_VOCAB || words != floor(words))
        status = moe_fail(err, MOE_E_FORMAT, "%s/config.json: vocab_size is %g, expected a "
                          "whole number of 1 to %d", from, words, MAX_VOCAB);
    else
        *n_vocab = words > s->n_vocab ? (int)words : s->n_vocab;
    json_free(config);
    return status;
}

moe_status random_write(const outdir *o, const random_shape *shape, const char *tokenizer,
                        uint64_t seed, size_t *bytes, moe_error *err)
{
    int n_vocab = 0;
    moe_status status = count_words(shape, tokenizer, &n_vocab, err);
    if (status == MOE_OK)
        status = write_shape(o, shape, n_vocab, err);
    if (status == MOE_OK)
        status = write_tokenizer(o, tokenizer, err);
    if (status == MOE_OK)
        status = write_weights(o, shape, n_vocab, seed, bytes, err);
    return status;
}
