/* encoder_names.h: what each family of encoders calls its modules in a Hugging Face
 * checkpoint. "embeddings.*" and "qa_outputs" have one name in all. */
#ifndef MOE_MODEL_ENCODER_NAMES_H
#define MOE_MODEL_ENCODER_NAMES_H

#include "engine/model/config.h"

typedef struct {
    const char *prefix; /* "bert.": of the encoder's modules, some checkpoints leaving it out */
    const char *layer;  /* what "encoder.layer" is followed by: a number, a module */
    const char *query, *key, *value, *attention_out, *attention_norm, *up, *down, *ffn_norm;
    const char *pooler, *classifier; /* of classification; BERT's pooler is in the encoder */
} encoder_names;

/* Not of T5. Lives for ever. */
const encoder_names *encoder_names_of(moe_family family);
/* Of a head beside the encoder, whose names have no prefix. */
bool encoder_is_head(const char *name);

#endif
