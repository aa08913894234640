/* moefied_tensors.h: the list of tensors of a MoEfied file. Writer and reader
 * walk the same list, so that neither can know a tensor that the other does not. */
#ifndef MOE_MODEL_MOEFIED_TENSORS_H
#define MOE_MODEL_MOEFIED_TENSORS_H

#include "engine/model/weights.h"

/* One tensor and its place in a moe_weights. Exactly one of packed, floats,
 * ints and table is set. */
typedef struct {
    char name[96];
    int n_dims;
    int64_t dims[5];
    bool optional;         /* a bias that may be NULL, and then absent */
    const void **packed;   /* of packed_dtype */
    moe_dtype packed_dtype;
    const float **floats;  /* F32 */
    const int32_t **ints;  /* I32 */
    moe_table *table;      /* F32, F16 or BF16 */
} moefied_tensor;

/* Fills out [moefied_tensors_max(w)] from the shapes in w (sizes, dtypes,
 * activations, router.present, n_linears; ffn.neurons wherever router.present) and returns how many. */
int moefied_tensors_max(const moe_weights *w);
int moefied_tensors_list(const moe_weights *w, moefied_tensor *out);

const void *moefied_tensor_data(const moefied_tensor *t);
moe_dtype moefied_tensor_dtype(const moefied_tensor *t);

/* Of a complete w: neurons are permutations, routers and frequencies finite, int8
 * scales finite and not negative.
 * path is for messages. */
moe_status moefied_check(const char *path, const moe_weights *w, moe_error *err);

#endif
