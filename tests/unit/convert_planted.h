/* convert_planted.h: FFN layers whose right split is known.
 *
 * N_GROUPS groups of 32 neurons in shuffled order; group_of tells the group of
 * each. Tokens come in sequences of ten. */
#ifndef CONVERT_PLANTED_H
#define CONVERT_PLANTED_H

#include <stdlib.h>
#include <string.h>

#include "convert/blas.h"
#include "convert/layer.h"
#include "convert/rng.h"

enum { N_GROUPS = 8, N_NEURONS = N_GROUPS * 32, SEQ_TOKENS = 10 };

typedef struct {
    ffn_layer l;
    float *w1, *b1, *w2, *x;
    int32_t *cu_seqlens;
    int32_t group_of[N_NEURONS];
} planted;

static inline void planted_alloc(planted *p, int d, int n_tokens, int threads)
{
    memset(p, 0, sizeof *p);
    blas_begin();
    p->w1 = calloc((size_t)N_NEURONS * (size_t)d, sizeof(float));
    p->b1 = calloc(N_NEURONS, sizeof(float));
    p->w2 = calloc((size_t)d * N_NEURONS, sizeof(float));
    p->x = calloc((size_t)n_tokens * (size_t)d, sizeof(float));
    rng columns = rng_stream(98, 0, 0);
    for (int i = 0; i < d * N_NEURONS; i++)
        p->w2[i] = (float)rng_normal(&columns);
    const int n_seqs = n_tokens / SEQ_TOKENS;
    p->cu_seqlens = calloc((size_t)n_seqs + 1, sizeof(int32_t));
    for (int s = 0; s <= n_seqs; s++)
        p->cu_seqlens[s] = s * SEQ_TOKENS;
    workers *w;
    if (workers_create(threads, &w, NULL) != MOE_OK)
        abort();
    p->l = (ffn_layer){.d = d, .d_ff = N_NEURONS, .n_experts = N_GROUPS,
                   .act = MOE_ACT_RELU, .w1 = p->w1, .b1 = p->b1, .w2 = p->w2,
                   .x = p->x, .n_tokens = n_seqs * SEQ_TOKENS,
                   .cu_seqlens = p->cu_seqlens, .n_seqs = n_seqs, .workers = w};
    rng r = rng_stream(99, 0, 0);
    for (int i = 0; i < N_NEURONS; i++)
        p->group_of[i] = i / 32;
    rng_shuffle(&r, p->group_of, N_NEURONS);
}

static inline void planted_free(planted *p)
{
    workers_destroy(p->l.workers);
    free(p->w1);
    free(p->b1);
    free(p->w2);
    free(p->x);
    free(p->cu_seqlens);
}

/* Rows of W1 near their group's direction; a token points along two groups. */
static inline void plant_directions(planted *p, int n_tokens, int threads)
{
    enum { D = 64 };
    float direction[N_GROUPS][D];
    planted_alloc(p, D, n_tokens, threads);
    rng r = rng_stream(5, 0, 0);
    for (int g = 0; g < N_GROUPS; g++)
        for (int i = 0; i < D; i++)
            direction[g][i] = (float)rng_normal(&r) / 8;
    for (int n = 0; n < N_NEURONS; n++) {
        float length = 0.5f + (float)rng_uniform(&r) * 4; /* k-means must not see it */
        for (int i = 0; i < D; i++)
            p->w1[n * D + i] = length * (direction[p->group_of[n]][i] +
                                         0.06f * (float)rng_normal(&r));
        p->b1[n] = -0.3f * length;
    }
    for (int t = 0; t < n_tokens; t++) {
        const uint64_t a = rng_below(&r, N_GROUPS), b = rng_below(&r, N_GROUPS);
        for (int i = 0; i < D; i++)
            p->x[t * D + i] = direction[a][i] + 0.6f * direction[b][i];
    }
}

/* Each neuron looks at a feature of its own; the features of a group come
 * together. Rows of W1 are orthogonal: only co-activation can tell. */
static inline void plant_cofiring(planted *p, int n_tokens, int threads)
{
    enum { D = N_NEURONS };
    planted_alloc(p, D, n_tokens, threads);
    rng r = rng_stream(6, 0, 0);
    for (int n = 0; n < N_NEURONS; n++)
        p->w1[n * D + n] = 1;
    for (int t = 0; t < n_tokens; t++) {
        const int32_t on = (int32_t)rng_below(&r, N_GROUPS);
        for (int n = 0; n < N_NEURONS; n++) {
            /* Members of the group fire most of the time, others now and then. */
            const double odds = p->group_of[n] == on ? 0.7 : 0.03;
            const bool fires = rng_uniform(&r) < odds;
            p->x[t * D + n] = fires ? (float)(0.2 + rng_uniform(&r)) : -1;
        }
    }
}

/* Pairs of neurons of one group that share an expert, over all such pairs. */
static inline double planted_recovered(const planted *p, const int32_t *expert)
{
    int together = 0, pairs = 0;
    for (int i = 0; i < N_NEURONS; i++)
        for (int j = 0; j < i; j++)
            if (p->group_of[i] == p->group_of[j]) {
                pairs++;
                together += expert[i] == expert[j];
            }
    return (double)together / pairs;
}

#endif
