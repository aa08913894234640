/* analysis.h: what the tokens of a text show of one MoEfied layer: the figures of
 * section 5 and of the appendices of the MoEfication paper.
 *
 * All of it is seen on the rows that enter the FFN of the dense model. h is the
 * positive part of the activations (layer_hidden), mass[e] its sum over expert e. */
#ifndef CONVERT_ANALYSIS_H
#define CONVERT_ANALYSIS_H

#include "convert/router.h"

enum { GROUP_EXPERTS = 8 }; /* the most, and the least, selected experts */

/* How alike the inputs are of the tokens that select an expert of a group: mean
 * cosine over pairs of different tokens. NaN: no such pair. */
typedef struct {
    int n_experts;  /* of the group, at most GROUP_EXPERTS */
    double self;    /* both tokens select the same expert; mean over experts */
    double inter;   /* they select two different experts; mean over pairs of experts */
} similarity;

typedef struct {
    int index;            /* of the layer */
    bool routed;          /* has experts; else only what comes before this is known:
                             n_tokens, d_ff, firing, active, dead */
    int n_tokens, d_ff, n_experts;
    int64_t *firing;      /* [d_ff + 1] tokens for which just so many neurons fire */
    double active;        /* mean share of the neurons that fire for a token */
    int dead;             /* neurons that fire for none */

    int k_selected;       /* experts a token selects where `selected` was counted */
    double *selected;     /* [n_experts] share of the tokens that select the expert */
    similarity most, least;

    double cut;           /* share of sum over tokens and pairs n < m of h_n h_m that
                             lies between experts; NaN: nothing fires together */
    double cut_random;    /* what a random split into experts of these sizes has on
                             average */

    int k_judged;         /* experts for the rest: a fifth of them, at least one */
    double picked;        /* share of the k_judged experts with the most mass that
                             the router picks too; experts without mass don't count.
                             NaN: no mass anywhere */
    double mass_router, mass_oracle; /* share of all mass in the router's k_judged
                             experts, and in those with the most. 1: no mass */
} layer_figures;

/* neurons [n_experts * 32]: the split, -1 for padding anywhere; r: the router; both
 * NULL for a layer that stays dense. The same bits for any number of threads.
 * Interrupted by a signal: MOE_E_IO. out: layer_figures_free, also on failure. */
moe_status analyse_layer(const ffn_layer *l, const int32_t *neurons, const router_rows *r,
                         int k_selected, layer_figures *out, moe_error *err);
void layer_figures_free(layer_figures *f);

/* Share of tokens for which at most `share` of the neurons fire. */
double layer_firing_cdf(const layer_figures *f, double share);
/* The largest share of the neurons that fire for any token. */
double layer_firing_max(const layer_figures *f);

#endif
