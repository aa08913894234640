/* checkpoint_loader.h: reading a Hugging Face checkpoint's tensors into packed weights,
 * for each family's list of them.
 *
 * Each tensor is found by name, checked (shape, dtype, no NaN or infinity), converted to
 * fp32 rows in a scratch array and packed. Sizes are allocated only once a tensor of that
 * size has been found, so that a config cannot ask for more than the files hold. The
 * first failure is kept in the loader; the steps after it do nothing and return zeros. */
#ifndef MOE_MODEL_CHECKPOINT_LOADER_H
#define MOE_MODEL_CHECKPOINT_LOADER_H

#include "engine/model/memory.h"

typedef struct {
    moe_model_memory *m;
    const char *prefix;    /* before every name but a head's */
    float *scratch;
    size_t scratch_floats;
    moe_status status;     /* of the first failure */
    moe_error *err;
} checkpoint_loader;

enum { MAX_PARTS = 3 };

/* A tensor's name, or the stem that its ".weight" and ".bias" share. */
typedef struct { char text[128]; } tensor_name;
tensor_name name_of(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* STEM.PART [n] of fp32, owned by the model. */
const float *load_vector(checkpoint_loader *l, const char *stem, const char *part, int n);
/* n zeros, owned by the model. */
const float *load_zeros(checkpoint_loader *l, int n);
/* One linear [n_parts * n, k] from n_parts modules of [n, k], with or without biases. */
moe_linear load_linear(checkpoint_loader *l, const tensor_name *stems, int n_parts, int n,
                       int k, bool bias);
/* LayerNorm of d_model: weight and bias, or the weight alone (rms). */
moe_norm load_norm(checkpoint_loader *l, const char *stem, bool rms);
/* Rows [n, d]; they stay where they are mapped, unless the file has them misaligned. */
moe_table load_table(checkpoint_loader *l, const char *name, int n, int d);
/* d_ff neurons as ceil(d_ff / 32) experts, places past d_ff being dead. gate: of a gated
 * FFN, the module whose activation up's values are multiplied by, else NULL. Without
 * biases b1 and b2 are zeros. */
moe_ffn load_ffn(checkpoint_loader *l, const tensor_name *gate, const tensor_name *up,
                 const tensor_name *down, bool bias);

#endif
