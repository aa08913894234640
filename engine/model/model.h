/* model.h: inside of an open model, for engine/ and for the converter. */
#ifndef MOE_MODEL_MODEL_H
#define MOE_MODEL_MODEL_H

#include "engine/model/weights.h"
#include "engine/text/tokenizer.h"

struct moe_model {
    moe_model_info info;
    moe_weights weights;      /* pointers into `files` or `owned` */
    float attention_scale;    /* 1 / sqrt(d / n_heads) */
    moe_tokenizer *tokenizer;
    struct moe_model_memory *memory; /* mapped files and owned arrays */
};

#endif
