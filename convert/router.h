/* router.h: which experts a token wants. Each kind is one function from a split
 * layer to one or two small linear layers; a new one is a file and a row of
 * router_kinds. */
#ifndef CONVERT_ROUTER_H
#define CONVERT_ROUTER_H

#include "convert/layer.h"

/* scores = second(tanh(first(x'))) or first(x'), as moe_router, in plain rows.
 * x' = x / ||x|| if normalize. first [hidden or n_experts, d], second
 * [n_experts, hidden]; all owned: router_rows_free. */
typedef struct {
    bool normalize;
    int n_linears;  /* 1 or 2 */
    int n_hidden;   /* outputs of the first of two */
    float *first, *first_bias, *second, *second_bias;
} router_rows;

void router_rows_free(router_rows *r);

typedef struct {
    int epochs, best_epoch; /* run and kept; 0 where nothing is trained */
} router_report;

/* What a router is made from. */
typedef struct {
    const ffn_layer *l;
    const int32_t *neurons; /* [n_experts * 32]: the split */
    const float *mass;      /* [n_tokens, n_experts]: layer_expert_mass */
    const float *sensitivity; /* [n_tokens], or NULL: how much the model's answer hangs
                               on what the FFN adds to the token (sensitivity.h) */
    const int32_t *train, *held_out; /* tokens, from router_hold_out */
    int n_train, n_held_out;
} router_input;

typedef moe_status (*router_fn)(const router_input *in, router_rows *out,
                                router_report *report, moe_error *err);

/* The paper's: two layers, trained on the soft labels of the expert mass. */
moe_status router_mlp(const router_input *in, router_rows *out, router_report *report,
                      moe_error *err);
/* Cosine of the token and the mean of the expert's normalised rows of W1. */
moe_status router_similarity(const router_input *in, router_rows *out,
                             router_report *report, moe_error *err);
/* One linear layer, fitted by ridge regression to what each expert adds to the answer:
 * the root of the token's sensitivity times the norm of the expert's output. Its
 * scores mean the same in all layers and for all tokens. Without sensitivity: fitted
 * to the norm alone. */
moe_status router_norm(const router_input *in, router_rows *out, router_report *report,
                       moe_error *err);
/* EMoE's: the mean input of the expert's neurons, from W1 and b1. */
moe_status router_avgk(const router_input *in, router_rows *out, router_report *report,
                       moe_error *err);
/* A linear layer drawn from the seed: the control. */
moe_status router_random(const router_input *in, router_rows *out,
                         router_report *report, moe_error *err);

typedef struct {
    const char *name;
    router_fn make;
    bool by_norm; /* it reads the sensitivity, and can be fitted again by router_fit */
} router_kind;
extern const router_kind router_kinds[]; /* ended by a NULL name */

/* The regression behind router_norm, rows added by the caller: on any number of rows in
 * bounded memory. */
typedef struct router_fit router_fit;
/* l (its weights) and neurons: the split; both borrowed. */
moe_status router_fit_create(const ffn_layer *l, const int32_t *neurons, router_fit **out,
                             moe_error *err);
/* x [n_rows, d]; sensitivity [n_rows], or NULL. */
moe_status router_fit_add(router_fit *f, const float *x, const float *sensitivity,
                          int n_rows, moe_error *err);
/* out: as after router_rows_alloc. */
moe_status router_fit_solve(router_fit *f, router_rows *out, moe_error *err);
void router_fit_free(router_fit *f); /* NULL is fine */

/* Allocates zeroed arrays of a router's shape. */
moe_status router_rows_alloc(int n_linears, int n_inputs, int n_hidden, int n_experts,
                             router_rows *out, moe_error *err);

/* Splits the tokens 9:1 by whole sequences. train and held_out have room for
 * n_tokens each; a layer with a single sequence is held out and trained on. */
void router_hold_out(const ffn_layer *l, int32_t *train, int *n_train, int32_t *held_out,
                     int *n_held_out);

/* y = x / ||x||, rows of d; a zero vector stays zero. y may be x. */
void router_unit_row(const float *x, int d, float *y);

/* scores [n_rows, n_experts] of x [n_rows, d]; scratch [n_rows, d + n_hidden]. */
void router_scores_of(const router_rows *r, const ffn_layer *l, const float *x, int n_rows,
                      float *scratch, float *scores);

/* The share of positive activation that the best 20% of the experts hold, over
 * the held-out tokens: chosen by the router (r) or by the truth (r NULL). 1 where
 * nothing fires at all. */
moe_status router_captured(const router_input *in, const router_rows *r, double *share,
                           moe_error *err);

#endif
