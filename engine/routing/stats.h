/* stats.h: which experts the tokens went to, counted while serving.
 * One thread adds (the engine's), any thread reads or resets: every counter is
 * a relaxed atomic. A reading taken during a forward pass may hold some layers
 * of a chunk and not yet others. */
#ifndef MOE_ROUTING_STATS_H
#define MOE_ROUTING_STATS_H

#include <stdatomic.h>
#include "engine/moe.h"

typedef struct {
    int n_layers, n_experts;
    _Atomic uint64_t *selected; /* [n_layers, n_experts] */
    _Atomic uint64_t tokens, last_tokens, dense_tokens, neurons_selected, neurons_skipped;
} routing_stats;

/* false: out of memory. */
bool routing_stats_init(routing_stats *s, int n_layers, int n_experts);
void routing_stats_free(routing_stats *s);
/* counts [n_experts] of one layer. */
void routing_stats_add_layer(routing_stats *s, int layer, const uint64_t *counts);
void routing_stats_add_totals(routing_stats *s, const moe_stats_totals *t);

#endif
