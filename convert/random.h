/* random.h: checkpoints of a known shape with random weights, in Hugging Face form: what
 * conversion and serving cost at a size can be tried where no trained model is at hand. */
#ifndef CONVERT_RANDOM_H
#define CONVERT_RANDOM_H

#include "convert/outdir.h"

typedef struct {
    const char *name;
    bool t5;               /* else BERT with a classifier of two labels */
    int n_layers;          /* T5: of the encoder, and as many of the decoder */
    int d_model, d_ff, n_heads, d_head;
    int n_vocab;           /* at least; 0: as many as the tokenizer's model has */
    const char *activation;
    const char *tokenizer; /* a checkpoint that ships with the project */
} random_shape;

extern const random_shape random_shapes[]; /* ended by a NULL name */

/* Writes config.json, model.safetensors in fp32 and the files of the tokenizer of the
 * checkpoint `tokenizer`, which must be of the shape's family, into o's temporary
 * directory. Equal shapes, vocabularies and seeds give equal bytes. Memory: 256 KiB,
 * whatever the shape. *bytes: of all tensors. */
moe_status random_write(const outdir *o, const random_shape *shape, const char *tokenizer,
                        uint64_t seed, size_t *bytes, moe_error *err);

#endif
