/* memory.h: what an open model holds on to: its config, the mapped files and
 * the arrays that were made when it was opened. One thread, until it is open. */
#ifndef MOE_MODEL_MEMORY_H
#define MOE_MODEL_MEMORY_H

#include "engine/model/config.h"
#include "engine/model/safetensors.h"

typedef struct moe_model_memory {
    char *dir;
    model_config config;
    safetensors *files;
    moe_layer *layers;
    size_t owned_bytes;
    struct memory_block *blocks; /* the newest first */
} moe_model_memory;

/* Memory for weights, 64-byte aligned, or on huge pages where it is large: the kernels
 * stream it, and a small page's address would have to be looked up every 4 KB. free() it;
 * NULL: no memory. Any thread. */
void *memory_alloc(size_t bytes);

/* Room for `bytes`, 64-byte aligned, freed with the model. NULL: no memory. */
void *memory_take(moe_model_memory *m, size_t bytes);
/* n floats; NULL also if the size overflows. */
float *memory_floats(moe_model_memory *m, size_t n);
void memory_free(moe_model_memory *m);

#endif
