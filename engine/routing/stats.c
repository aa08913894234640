/* stats.c: routing counters and their public readers. */
#include "engine/routing/stats.h"

#include <stdlib.h>

#include "engine/engine.h"

bool routing_stats_init(routing_stats *s, int n_layers, int n_experts)
{
    *s = (routing_stats){.n_layers = n_layers, .n_experts = n_experts};
    s->selected = calloc((size_t)n_layers * (size_t)n_experts, sizeof *s->selected);
    return s->selected != NULL;
}

void routing_stats_free(routing_stats *s)
{
    free(s->selected);
    s->selected = NULL;
}

static void add(_Atomic uint64_t *to, uint64_t n)
{
    atomic_fetch_add_explicit(to, n, memory_order_relaxed);
}

static uint64_t get(const _Atomic uint64_t *from)
{
    return atomic_load_explicit(from, memory_order_relaxed);
}

void routing_stats_add_layer(routing_stats *s, int layer, const uint64_t *counts)
{
    _Atomic uint64_t *row = s->selected + (size_t)layer * (size_t)s->n_experts;
    for (int e = 0; e < s->n_experts; e++)
        if (counts[e])
            add(&row[e], counts[e]);
}

void routing_stats_add_totals(routing_stats *s, const moe_stats_totals *t)
{
    add(&s->tokens, t->tokens);
    add(&s->last_tokens, t->last_tokens);
    add(&s->dense_tokens, t->dense_tokens);
    add(&s->neurons_selected, t->neurons_selected);
    add(&s->neurons_skipped, t->neurons_skipped);
}

moe_stats_totals moe_stats_read(const moe_engine *e)
{
    const routing_stats *s = &e->stats;
    return (moe_stats_totals){
        .tokens = get(&s->tokens),
        .last_tokens = get(&s->last_tokens),
        .dense_tokens = get(&s->dense_tokens),
        .neurons_selected = get(&s->neurons_selected),
        .neurons_skipped = get(&s->neurons_skipped),
    };
}

void moe_stats_experts(const moe_engine *e, uint64_t *selected)
{
    const routing_stats *s = &e->stats;
    size_t n = (size_t)s->n_layers * (size_t)s->n_experts;
    for (size_t i = 0; i < n; i++)
        selected[i] = get(&s->selected[i]);
}

void moe_stats_reset(moe_engine *e)
{
    routing_stats *s = &e->stats;
    size_t n = (size_t)s->n_layers * (size_t)s->n_experts;
    for (size_t i = 0; i < n; i++)
        atomic_store_explicit(&s->selected[i], 0, memory_order_relaxed);
    atomic_store_explicit(&s->tokens, 0, memory_order_relaxed);
    atomic_store_explicit(&s->last_tokens, 0, memory_order_relaxed);
    atomic_store_explicit(&s->dense_tokens, 0, memory_order_relaxed);
    atomic_store_explicit(&s->neurons_selected, 0, memory_order_relaxed);
    atomic_store_explicit(&s->neurons_skipped, 0, memory_order_relaxed);
}
