/* converted.h: a model whose FFNs are being cut: the source's weights with the
 * converted layers put in their place one by one. At any time it is a model that an
 * engine can run. */
#ifndef CONVERT_CONVERTED_H
#define CONVERT_CONVERTED_H

#include "convert/curve.h"
#include "convert/ratio_table.h"
#include "convert/router.h"
#include "convert/split.h"
#include "engine/model/model.h"

/* What was found out about a layer. */
typedef struct {
    bool converted;
    split_report split;
    router_report router;
    double active;          /* share of (token, neuron) pairs that fire */
    int dead;               /* neurons that never fire */
    double captured;        /* by the router at 20% of the experts, held-out tokens */
    double oracle;          /* the same by the true best experts */
} layer_report;

typedef struct {
    moe_model model;        /* borrows the source's arrays; info has the ratio table */
    layer_report *layers;   /* [n_layers] */
    bool *wanted;           /* [n_layers]: those to convert */
    ratio_table table;      /* what model.info.ratio_rows points into */
    fidelity_curve fidelity;
    bool shifted;           /* the FFNs have shifts */
    int n_tokens, n_seqs, n_rows, n_unknown;
    struct converted_memory *memory;
} converted;

/* An unconverted copy of m, which it borrows. converted_free, also after a failure. */
moe_status converted_create(const moe_model *m, const bool *wanted, converted *out,
                            moe_error *err);
void converted_free(converted *c);

/* Puts the neurons of FFN `layer` in the order of neurons [n_experts * 32].
 * frequency [n_experts]. */
moe_status converted_put_split(converted *c, int layer, const int32_t *neurons,
                               const float *frequency, moe_error *err);
/* Puts the layer's router, in the place of one that is there. */
moe_status converted_put_router(converted *c, int layer, const router_rows *r,
                                moe_error *err);
/* Gives the layer's FFN shifts, zeros, one to each row of the table, or nothing where it has
 * no router. *shift [N_RATIOS, d]: to be filled, owned by c; NULL: there are none. */
moe_status converted_add_shift(converted *c, int layer, float **shift, moe_error *err);
/* Makes the layer's linear weights, those of a decoder's cross-attention too, bf16 or
 * int8, after the last put. The mean squares
 * of what enters qkv [d], the FFN [d] and w2 [d_ff], by which int8 scales are chosen;
 * NULL: see lower.h. */
moe_status converted_lower(converted *c, int layer, moe_dtype t, const float *qkv,
                           const float *in, const float *hidden, moe_error *err);
/* The same of the words' logits, where the model has them (T5). */
moe_status converted_lower_head(converted *c, moe_dtype t, moe_error *err);
/* Makes the table the model's, with this policy as its default. */
void converted_use_table(converted *c, moe_policy policy);

#endif
