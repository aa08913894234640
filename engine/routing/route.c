/* route.c: one layer's routing within a forward pass.
 *
 * Each sequence's ratio was turned into a choice per layer: an expert count or, by its
 * policy, a threshold or a number of (token, expert) pairs. A layer where every sequence
 * has all experts takes the dense path; otherwise the chunk is routed as a whole, and a
 * dense sequence's tokens select all experts (the same bits as the dense path). Scores
 * come from the layer's router, or from one of the controls that evaluation asks for.
 *
 * Where the head reads first tokens only, the last layer's others need no experts: a
 * budget of pairs that a sequence has for that layer is its first token's. The effective
 * ratio stays a share of all tokens' neurons in all layers: those others count with
 * what their sequence's choice grants them, computed or not.
 *
 * Runs on the engine's thread; the backend does the arithmetic. */
#include "engine/routing/route.h"

#include <string.h>

#include "engine/routing/ratio.h"

static moe_selector selector_of(const chunk *c)
{
    return c->selection ? c->selection[0].selector : MOE_SELECT_ROUTER;
}

static bool is_sparse(const chunk *c, int seq)
{
    return c->selection && c->selection[seq].ratio < 1;
}

/* A layer without a router is dense, unless a control needs none. */
static bool can_route(const moe_layer *layer, moe_selector selector)
{
    switch (selector) {
    case MOE_SELECT_ROUTER: return layer->router.present;
    case MOE_SELECT_FREQUENCY: return layer->router.frequency != NULL;
    case MOE_SELECT_ORACLE:
    case MOE_SELECT_RANDOM: return true;
    }
    return false;
}

static moe_policy policy_of(const moe_engine *e, const chunk *c, int seq)
{
    return is_sparse(c, seq) && selector_of(c) == MOE_SELECT_ROUTER
               ? moe_policy_resolve(&e->model->info, c->selection[seq].policy)
               : MOE_POLICY_TOPK;
}

static moe_choice *choices_of(const moe_engine *e, int layer)
{
    return e->choice + (size_t)layer * (size_t)e->chunk_tokens;
}

/* The last layer where only the first token is read: it has the pairs of all. What is
 * due to all of them is that or, by threshold, the table's mean. */
static void choose_for_first(moe_engine *e, int seq, double ratio, int n_tokens)
{
    int last = e->weights.n_layers - 1, n_experts = e->weights.layers[last].ffn.n_experts;
    moe_choice *out = &choices_of(e, last)[seq];
    e->due_pairs[seq] = -1;
    if (out->n_pairs) {
        e->due_pairs[seq] = out->n_pairs;
        *out = (moe_choice){.k = out->n_pairs < n_experts ? out->n_pairs : n_experts};
    } else if (!out->k) {
        bool known = ratio_to_means(&e->model->info, ratio, e->layer_means);
        e->due_pairs[seq] = known ? (int32_t)(e->layer_means[last] * n_tokens + 0.5) : 0;
    }
}

/* What a sequence computes in each layer, by its ratio and policy. */
static void choose(moe_engine *e, const chunk *c, int seq)
{
    const moe_model_info *info = &e->model->info;
    moe_policy policy = policy_of(e, c, seq);
    double ratio = is_sparse(c, seq) ? c->selection[seq].ratio : 1;
    int n_tokens = c->cu_seqlens[seq + 1] - c->cu_seqlens[seq];
    pair_budget pairs = {0};
    bool by_threshold = policy == MOE_POLICY_THRESHOLD &&
                        ratio_to_thresholds(info, ratio, e->layer_thresholds);
    bool by_pairs = policy == MOE_POLICY_SEQUENCE &&
                    ratio_to_means(info, ratio, e->layer_means);
    ratio_to_experts(info, ratio, e->layer_experts);
    for (int l = c->first_layer; l < c->end_layer; l++) {
        int n_experts = e->weights.layers[l].ffn.n_experts;
        moe_choice *out = &choices_of(e, l)[seq];
        if (!can_route(&e->weights.layers[l], selector_of(c)))
            *out = (moe_choice){.k = n_experts};
        else if (by_pairs)
            *out = (moe_choice){.n_pairs = ratio_next_pairs(&pairs, e->layer_means[l],
                                                            n_tokens, n_experts)};
        else if (by_threshold)
            *out = (moe_choice){.threshold = e->layer_thresholds[l]};
        else
            *out = (moe_choice){.k = e->layer_experts[l]};
    }
    if (reads_first_tokens(e))
        choose_for_first(e, seq, ratio, n_tokens);
    e->shift[seq] = ratio_to_shift(info, ratio);
}

void route_begin(moe_engine *e, const chunk *c)
{
    for (int s = 0; s < c->n_seqs; s++) {
        choose(e, c, s);
        e->kept_neurons[s] = 0;
        e->kept_mass[s] = e->total_mass[s] = 0;
    }
}

/* splitmix64's finaliser: neighbouring keys give unrelated numbers. */
static uint64_t hash64(uint64_t z)
{
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Scores that depend on layer, position, token and expert alone, so that the
 * random control, too, gives the same answer in any batch. */
static void random_scores(const chunk *c, int layer, int n_experts, float *scores)
{
    for (int s = 0; s < c->n_seqs; s++)
        for (int t = c->cu_seqlens[s]; t < c->cu_seqlens[s + 1]; t++) {
            int position = c->positions ? c->positions[t] : t - c->cu_seqlens[s];
            uint64_t place = (uint64_t)layer << 32 | (uint32_t)position;
            uint64_t key = hash64(hash64(place) ^ (uint32_t)c->ids[t]);
            for (int x = 0; x < n_experts; x++)
                scores[(size_t)t * n_experts + x] =
                    (float)(hash64(key + (uint64_t)x) >> 40);
        }
}

/* Leaves scores [n_tokens, n_experts] of the rows x in e->scores. */
static void score(moe_engine *e, const chunk *c, int layer, moe_selector selector,
                  const float *x)
{
    moe_backend *b = e->backend;
    const moe_layer *w = &e->weights.layers[layer];
    int n_experts = w->ffn.n_experts;
    size_t bytes = (size_t)c->n_tokens * n_experts * sizeof(float);
    switch (selector) {
    case MOE_SELECT_ROUTER:
        b->ops->router_scores(b, &w->router, x, c->n_tokens, e->scores);
        break;
    case MOE_SELECT_ORACLE:
        b->ops->expert_mass(b, &w->ffn, x, c->n_tokens, e->scores);
        break;
    case MOE_SELECT_RANDOM:
        random_scores(c, layer, n_experts, e->host_scores);
        b->ops->put(b, e->scores, e->host_scores, bytes);
        break;
    case MOE_SELECT_FREQUENCY: {
        /* The table is the host's: uploads leave it where it is. */
        const float *frequency = e->model->weights.layers[layer].router.frequency;
        for (int t = 0; t < c->n_tokens; t++)
            memcpy(e->host_scores + (size_t)t * n_experts, frequency,
                   (size_t)n_experts * sizeof(float));
        b->ops->put(b, e->scores, e->host_scores, bytes);
        break;
    }
    }
}

/* What a sequence's tokens are granted, if those of the chunk computed so many neurons
 * of so many experts: the first token's share for each, or what is due to them all. */
static uint64_t granted(const moe_engine *e, const chunk *c, int layer, int seq, uint64_t kept,
                        int pairs)
{
    if (!c->whole)
        return kept;
    uint64_t others = (uint64_t)(c->whole[seq + 1] - c->whole[seq] - 1);
    uint64_t most = others * (uint64_t)e->weights.layers[layer].ffn.d_ff;
    if (e->due_pairs[seq] < 0)
        return kept * (1 + others);
    if (e->due_pairs[seq] <= pairs)
        return kept;
    uint64_t spare = (uint64_t)(e->due_pairs[seq] - pairs) * MOE_EXPERT_SIZE;
    return kept + (spare < most ? spare : most);
}

/* Adds the layer's selection to the sequences' sums and the statistics. */
static void count_route(moe_engine *e, const chunk *c, int layer)
{
    moe_backend *b = e->backend;
    moe_route *r = &e->host_route;
    int n_experts = e->weights.layers[layer].ffn.n_experts;
    const int *real = e->real_neurons + (size_t)layer * e->max_experts;
    b->ops->download(b, r->bound, e->route.bound,
                     ((size_t)c->n_tokens + 1) * sizeof *r->bound);
    b->ops->download(b, r->expert, e->route.expert,
                     (size_t)r->bound[c->n_tokens] * sizeof *r->expert);
    memset(e->expert_tokens, 0, (size_t)n_experts * sizeof *e->expert_tokens);
    for (int s = 0; s < c->n_seqs; s++) {
        uint64_t kept = 0, counted = is_sparse(c, s);
        int begin = r->bound[c->cu_seqlens[s]], end = r->bound[c->cu_seqlens[s + 1]];
        for (int i = begin; i < end; i++) {
            kept += (uint64_t)real[r->expert[i]];
            e->expert_tokens[r->expert[i]] += counted;
        }
        e->kept_neurons[s] += granted(e, c, layer, s, kept, end - begin);
    }
    if (!c->uncounted)
        routing_stats_add_layer(&e->stats, layer, e->expert_tokens);
}

/* The dense path's share: every real neuron of every token. */
static void count_dense(moe_engine *e, const chunk *c, int layer)
{
    int n_experts = e->weights.layers[layer].ffn.n_experts;
    uint64_t d_ff = (uint64_t)e->weights.layers[layer].ffn.d_ff, counted = 0;
    for (int s = 0; s < c->n_seqs; s++) {
        uint64_t n = (uint64_t)(c->cu_seqlens[s + 1] - c->cu_seqlens[s]);
        e->kept_neurons[s] += granted(e, c, layer, s, n * d_ff, n_experts);
        counted += is_sparse(c, s) ? n : 0;
    }
    for (int x = 0; x < n_experts; x++)
        e->expert_tokens[x] = counted;
    if (!c->uncounted)
        routing_stats_add_layer(&e->stats, layer, e->expert_tokens);
}

/* Sums the positive activation that the selection keeps; route NULL: all. */
static void count_mass(moe_engine *e, const chunk *c, int layer, bool routed,
                       const float *x)
{
    moe_backend *b = e->backend;
    const moe_ffn *ffn = &e->weights.layers[layer].ffn;
    const moe_route *r = &e->host_route;
    b->ops->expert_mass(b, ffn, x, c->n_tokens, e->scores);
    b->ops->download(b, e->host_scores, e->scores,
                     (size_t)c->n_tokens * ffn->n_experts * sizeof(float));
    for (int s = 0; s < c->n_seqs; s++)
        for (int t = c->cu_seqlens[s]; t < c->cu_seqlens[s + 1]; t++) {
            const float *mass = e->host_scores + (size_t)t * ffn->n_experts;
            double total = 0, kept = 0;
            for (int i = 0; i < ffn->n_experts; i++)
                total += mass[i];
            for (int i = routed ? r->bound[t] : 0; routed && i < r->bound[t + 1]; i++)
                kept += mass[r->expert[i]];
            e->total_mass[s] += total;
            e->kept_mass[s] += routed ? kept : total;
        }
}

const moe_route *route_layer(moe_engine *e, const chunk *c, int layer, const float *x)
{
    moe_backend *b = e->backend;
    const moe_choice *choice = choices_of(e, layer);
    int n_experts = e->weights.layers[layer].ffn.n_experts;
    bool routed = false;
    for (int s = 0; s < c->n_seqs; s++)
        routed |= choice[s].k < n_experts; /* 0 where k does not count */
    if (routed) {
        score(e, c, layer, selector_of(c), x);
        b->ops->select(b, e->scores, choice, c->cu_seqlens, c->n_seqs, n_experts, &e->route);
        count_route(e, c, layer);
    } else {
        count_dense(e, c, layer);
    }
    if (c->mass)
        count_mass(e, c, layer, routed, x);
    return routed ? &e->route : NULL;
}

void route_add_shift(moe_engine *e, const chunk *c, int layer, const moe_route *route, float *y)
{
    const moe_ffn *w = &e->weights.layers[layer].ffn;
    if (route && w->shift && selector_of(c) == MOE_SELECT_ROUTER)
        e->backend->ops->add_shift(e->backend, w, e->shift, c->cu_seqlens, c->n_seqs, y);
}

void route_end(moe_engine *e, const chunk *c)
{
    moe_stats_totals totals = {0};
    uint64_t neurons = 0;
    for (int l = c->first_layer; l < c->end_layer; l++)
        neurons += (uint64_t)e->weights.layers[l].ffn.d_ff;
    for (int s = 0; s < c->n_seqs; s++) {
        uint64_t n = (uint64_t)(c->cu_seqlens[s + 1] - c->cu_seqlens[s]);
        if (c->effective_ratio)
            c->effective_ratio[s] = (double)e->kept_neurons[s] / (double)(n * neurons);
        if (c->mass)
            c->mass[s] = e->total_mass[s] > 0 ? e->kept_mass[s] / e->total_mass[s] : 1;
        *(is_sparse(c, s) ? &totals.tokens : &totals.dense_tokens) += n;
        totals.last_tokens += !is_sparse(c, s) ? 0 : reads_first_tokens(e) ? 1 : n;
        totals.neurons_selected += e->kept_neurons[s];
        totals.neurons_skipped += n * neurons - e->kept_neurons[s];
    }
    routing_stats_add_totals(&e->stats, &totals);
}
