/* moefied.h: the tensors of a MoEfied model.safetensors, written and read side
 * by side so that the two can't drift apart. Names and layouts are described in
 * docs/model-format.md. */
#ifndef MOE_MODEL_MOEFIED_H
#define MOE_MODEL_MOEFIED_H

#include "engine/model/weights.h"

/* Writes weights (every layer's ffn.neurons and router set) as a MoEfied
 * safetensors file: tensors ordered so that each starts on a multiple of its
 * own alignment (up to 4096) with no holes. A layer without a router is written
 * dense, without neurons. Written beside path and renamed: on success the file is
 * complete and synced, on failure path is as it was and nothing lies beside it. */
moe_status moefied_write_tensors(const char *path, const moe_weights *w,
                                 moe_error *err);

struct moe_model_memory;
/* Points w into m->files as m->config describes it, every shape, dtype and
 * alignment checked, and routers and neuron tables looked through. w->layers
 * [n_layers] is there, zeroed. */
moe_status moefied_load(struct moe_model_memory *m, moe_weights *w, moe_error *err);

#endif
