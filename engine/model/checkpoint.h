/* checkpoint.h: the weights of a Hugging Face checkpoint. */
#ifndef MOE_MODEL_CHECKPOINT_H
#define MOE_MODEL_CHECKPOINT_H

#include "engine/model/memory.h"

/* Reads every tensor that m->config asks for from m->files, in fp32, fp16 or
 * bf16, BERT's with or without the prefix "bert.": checks shape and values, converts to
 * fp32, packs into memory of m. Embedding rows stay in the file. w->layers
 * [n_layers] is there, zeroed. MOE_E_FORMAT names file, tensor, expected, found. */
moe_status checkpoint_load(moe_model_memory *m, moe_weights *w, moe_error *err);

/* checkpoint_t5.c: the same for MOE_FAMILY_T5. */
moe_status checkpoint_load_t5(moe_model_memory *m, moe_weights *w, moe_error *err);

#endif
