/* selection.c: each token's experts by its sequence's choice. Where a token's experts go
 * depends on the counts of all before it, so these come first: one task per sequence
 * that chooses by pairs, as it takes some twenty passes over its scores; the others'
 * one pass or none is not worth waking the threads for. Then tasks are blocks of rows. */
#include "engine/cpu/cpu.h"
#include "engine/routing/select.h"

enum { ROWS_PER_TASK = 16 };

typedef struct {
    const float *scores;
    const moe_choice *choice;
    const int32_t *cu_seqlens;
    int n_seqs, n_experts;
    float *cut;           /* [n_seqs] of sequences that choose by pairs */
    const moe_route *route;
} select_job;

static const float *scores_of(const select_job *j, int t)
{
    return j->scores + (size_t)t * (size_t)j->n_experts; /* [t, :] */
}

/* Counts stand a place up, where their sums will. */
static void count_pairs_task(void *ctx, int s, int thread)
{
    (void)thread;
    const select_job *j = ctx;
    int first = j->cu_seqlens[s], n_tokens = j->cu_seqlens[s + 1] - first;
    if (j->choice[s].n_pairs)
        j->cut[s] = select_pairs(scores_of(j, first), n_tokens, j->n_experts,
                                 j->choice[s].n_pairs, j->route->bound + 1 + first);
}

static void count_tokens(const select_job *j, int s)
{
    const moe_choice *c = &j->choice[s];
    for (int t = j->cu_seqlens[s]; t < j->cu_seqlens[s + 1]; t++)
        j->route->bound[t + 1] =
            c->k ? c->k : select_threshold_count(scores_of(j, t), j->n_experts, c->threshold);
}

static void select_task(void *ctx, int task, int thread)
{
    (void)thread;
    const select_job *j = ctx;
    const int32_t *bound = j->route->bound;
    int t = task * ROWS_PER_TASK, end = t + ROWS_PER_TASK;
    if (end > j->cu_seqlens[j->n_seqs])
        end = j->cu_seqlens[j->n_seqs];
    int s = cpu_find_sequence(j->cu_seqlens, j->n_seqs, t);
    for (; t < end; t++) {
        while (j->cu_seqlens[s + 1] <= t)
            s++;
        const moe_choice *c = &j->choice[s];
        int32_t *out = j->route->expert + bound[t];
        int count = bound[t + 1] - bound[t];
        if (c->n_pairs)
            select_above(scores_of(j, t), j->n_experts, j->cut[s], count, out);
        else if (c->k)
            select_topk(scores_of(j, t), j->n_experts, c->k, out);
        else
            select_threshold(scores_of(j, t), j->n_experts, c->threshold, count, out);
    }
}

void cpu_select(moe_backend *base, const float *scores, const moe_choice *choice,
                const int32_t *cu_seqlens, int n_seqs, int n_experts, moe_route *route)
{
    cpu_backend *b = (cpu_backend *)base;
    select_job j = {.scores = scores, .choice = choice, .cu_seqlens = cu_seqlens,
                    .n_seqs = n_seqs, .n_experts = n_experts, .cut = b->pair_cut,
                    .route = route};
    int n_tokens = n_seqs ? cu_seqlens[n_seqs] : 0;
    bool by_pairs = false;
    for (int s = 0; s < n_seqs; s++) {
        if (!choice[s].n_pairs)
            count_tokens(&j, s);
        by_pairs |= choice[s].n_pairs > 0;
    }
    if (by_pairs)
        pool_run(b->pool, count_pairs_task, &j, n_seqs);
    route->bound[0] = 0;
    for (int t = 0; t < n_tokens; t++)
        route->bound[t + 1] += route->bound[t];
    pool_run(b->pool, select_task, &j, cpu_ceil(n_tokens, ROWS_PER_TASK));
}
