/* model.h: inside of an open model, for engine/ and for the converter. */
#ifndef MOE_MODEL_MODEL_H
#define MOE_MODEL_MODEL_H

#include "engine/model/config.h"
#include "engine/text/tokenizer.h"

struct moe_model {
    moe_model_info info;
    moe_weights weights;      /* pointers into `files` or `owned` */
    float attention_scale;    /* 1 / sqrt(d / n_heads); T5: 1 */
    moe_family family;
    int d_head;               /* columns of a head; 0: d / n_heads */
    t5_config t5;
    float logit_scale;        /* T5: of lm_head's products */
    moe_tokenizer *tokenizer;
    struct moe_model_memory *memory; /* mapped files and owned arrays */
};

#endif
