/* analysis.c: one pass over a layer's rows, in tasks of 256, then one over the
 * tokens of the most and of the least selected experts.
 *
 * Pairs of neurons need no matrix: for a token, the sum of h_n h_m over pairs is
 * ((sum h)^2 - sum h^2) / 2, over all neurons or over those of one expert, and the
 * cut is what the experts don't hold. Likewise pairs of tokens: the sum of cosines
 * of a set is (|S|^2 - n) / 2 with S the sum of its rows brought to length one.
 * Held per token: a byte for each expert. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert/analysis.h"
#include "convert/interrupt.h"

void layer_figures_free(layer_figures *f)
{
    free(f->firing);
    free(f->selected);
    f->firing = NULL;
    f->selected = NULL;
}

double layer_firing_cdf(const layer_figures *f, double share)
{
    int64_t tokens = 0;
    for (int n = 0; n <= f->d_ff && n <= share * f->d_ff * (1 + 1e-12); n++)
        tokens += f->firing[n];
    return (double)tokens / f->n_tokens;
}

double layer_firing_max(const layer_figures *f)
{
    int n = f->d_ff;
    while (n > 0 && f->firing[n] == 0)
        n--;
    return (double)n / f->d_ff;
}

/* ---- the pass over the rows --------------------------------------------------- */

/* Sums of one task: added up in task order. */
typedef struct {
    double pairs, within;               /* sums over pairs of neurons, x 2 */
    double mass, mass_router, mass_oracle;
    int64_t picked, pickable;
} sums;

/* What a worker writes on. */
typedef struct {
    float *h, *scores, *scratch; /* [256, d_ff], [256, E], the router's */
    float *mass, *squares;       /* [E] of a token */
    uint8_t *by_router, *by_mass; /* [E] */
    int64_t *firing, *fired;     /* [d_ff + 1], [d_ff]: whole numbers, any order */
} desk;

typedef struct {
    const ffn_layer *l;
    const router_rows *r;
    int n_experts, k_selected, k_judged; /* n_experts 0: not routed */
    int32_t *expert;    /* [d_ff] */
    uint8_t *selected;  /* [n_tokens, E] */
    desk *desks;        /* [workers] */
    sums *parts;        /* [tasks] */
} job;

/* in [n]: 1 for the k largest, ties to the lower index. */
static void best(const float *scores, int n, int k, uint8_t *in)
{
    memset(in, 0, (size_t)n);
    for (int i = 0; i < k; i++) {
        int found = -1;
        for (int e = 0; e < n; e++)
            if (!in[e] && (found < 0 || scores[e] > scores[found]))
                found = e;
        in[found] = 1;
    }
}

/* Counts the neurons that fire and sums h and its squares per expert. */
static void read_token(const job *j, desk *w, const float *h)
{
    int firing = 0;
    for (int n = 0; n < j->l->d_ff; n++) {
        firing += h[n] > 0;
        w->fired[n] += h[n] > 0;
    }
    w->firing[firing]++;
    if (!j->n_experts)
        return;
    memset(w->mass, 0, (size_t)j->n_experts * sizeof *w->mass);
    memset(w->squares, 0, (size_t)j->n_experts * sizeof *w->squares);
    for (int n = 0; n < j->l->d_ff; n++) {
        w->mass[j->expert[n]] += h[n];
        w->squares[j->expert[n]] += h[n] * h[n];
    }
}

static void add_pairs(const job *j, const desk *w, sums *s)
{
    double all = 0, squares = 0;
    for (int e = 0; e < j->n_experts; e++) {
        const double mass = w->mass[e];
        s->within += mass * mass - w->squares[e];
        all += mass;
        squares += w->squares[e];
    }
    s->pairs += all * all - squares;
}

static void judge_router(const job *j, desk *w, const float *scores, sums *s)
{
    best(scores, j->n_experts, j->k_judged, w->by_router);
    best(w->mass, j->n_experts, j->k_judged, w->by_mass);
    for (int e = 0; e < j->n_experts; e++) {
        const bool wanted = w->by_mass[e] && w->mass[e] > 0;
        s->mass += w->mass[e];
        s->mass_router += w->by_router[e] ? w->mass[e] : 0;
        s->mass_oracle += w->by_mass[e] ? w->mass[e] : 0;
        s->pickable += wanted;
        s->picked += wanted && w->by_router[e];
    }
}

static void rows_task(void *ctx, int i, int worker)
{
    const job *j = ctx;
    const ffn_layer *l = j->l;
    desk *w = &j->desks[worker];
    const int first = i * LAYER_TASK_ROWS, left = l->n_tokens - first;
    const int rows = left < LAYER_TASK_ROWS ? left : LAYER_TASK_ROWS;
    const float *x = l->x + (size_t)first * (size_t)l->d;
    const size_t experts = (size_t)j->n_experts;
    if (interrupt_check(NULL) != MOE_OK)
        return;
    const ffn_inputs in = layer_inputs(l);
    layer_hidden(l, &in, x, rows, w->h);
    if (experts)
        router_scores_of(j->r, l, x, rows, w->scratch, w->scores);
    for (int t = 0; t < rows; t++) {
        const float *scores = w->scores + (size_t)t * experts;
        read_token(j, w, w->h + (size_t)t * (size_t)l->d_ff);
        if (!experts)
            continue;
        add_pairs(j, w, &j->parts[i]);
        judge_router(j, w, scores, &j->parts[i]);
        best(scores, j->n_experts, j->k_selected,
             j->selected + (size_t)(first + t) * experts);
    }
}

static bool open_desk(const job *j, desk *w)
{
    const size_t d_ff = (size_t)j->l->d_ff, experts = (size_t)j->n_experts + 1;
    const size_t router = j->r ? (size_t)(j->l->d + j->r->n_hidden) : 0;
    *w = (desk){.h = malloc(LAYER_TASK_ROWS * d_ff * sizeof(float)),
                .scores = malloc(LAYER_TASK_ROWS * experts * sizeof(float)),
                .scratch = malloc(LAYER_TASK_ROWS * router * sizeof(float) + 1),
                .mass = malloc(experts * sizeof(float)),
                .squares = malloc(experts * sizeof(float)),
                .by_router = malloc(experts), .by_mass = malloc(experts),
                .firing = calloc(d_ff + 1, sizeof(int64_t)),
                .fired = calloc(d_ff, sizeof(int64_t))};
    return w->h && w->scores && w->scratch && w->mass && w->squares && w->by_router &&
           w->by_mass && w->firing && w->fired;
}

static void close_desk(desk *w)
{
    free(w->h);
    free(w->scores);
    free(w->scratch);
    free(w->mass);
    free(w->squares);
    free(w->by_router);
    free(w->by_mass);
    free(w->firing);
    free(w->fired);
}

/* ---- what the pass found ------------------------------------------------------ */

static void take_firing(const job *j, layer_figures *f)
{
    const int threads = workers_count(j->l->workers);
    double neurons = 0;
    f->dead = 0;
    for (int n = 0; n <= f->d_ff; n++) {
        for (int w = 0; w < threads; w++)
            f->firing[n] += j->desks[w].firing[n];
        neurons += (double)n * (double)f->firing[n];
    }
    for (int n = 0; n < f->d_ff; n++) {
        int64_t fired = 0;
        for (int w = 0; w < threads; w++)
            fired += j->desks[w].fired[n];
        f->dead += fired == 0;
    }
    f->active = neurons / f->d_ff / f->n_tokens;
}

/* Every pair of neurons is as likely as another to share an expert of a random
 * split. */
static double random_cut(const job *j)
{
    double together = 0, all = (double)j->l->d_ff * (j->l->d_ff - 1);
    for (int e = 0; e < j->n_experts; e++) {
        double size = 0;
        for (int n = 0; n < j->l->d_ff; n++)
            size += j->expert[n] == e;
        together += size * (size - 1);
    }
    return all > 0 ? 1 - together / all : NAN;
}

static void take_sums(const job *j, int n_tasks, layer_figures *f)
{
    sums s = {0};
    for (int i = 0; i < n_tasks; i++) {
        const sums *part = &j->parts[i];
        s.pairs += part->pairs;
        s.within += part->within;
        s.mass += part->mass;
        s.mass_router += part->mass_router;
        s.mass_oracle += part->mass_oracle;
        s.picked += part->picked;
        s.pickable += part->pickable;
    }
    f->cut = s.pairs > 0 ? 1 - s.within / s.pairs : NAN;
    f->cut_random = random_cut(j);
    f->picked = s.pickable ? (double)s.picked / (double)s.pickable : NAN;
    f->mass_router = s.mass > 0 ? s.mass_router / s.mass : 1;
    f->mass_oracle = s.mass > 0 ? s.mass_oracle / s.mass : 1;
}

static void count_selected(const job *j, layer_figures *f)
{
    const size_t experts = (size_t)j->n_experts;
    for (size_t e = 0; e < experts; e++) {
        int64_t tokens = 0;
        for (size_t t = 0; t < (size_t)f->n_tokens; t++)
            tokens += j->selected[t * experts + e];
        f->selected[e] = (double)tokens / f->n_tokens;
    }
}

/* ---- likeness of inputs ------------------------------------------------------- */

/* The experts of both groups, each a task that sums its own tokens' rows. */
typedef struct {
    const job *j;
    int n, expert[2 * GROUP_EXPERTS];
    double *sum;                       /* [n, d] of rows of length one */
    float *unit;                       /* [n, d]: a row of each task */
    uint8_t *zero;                     /* [n_tokens]: a row that has no direction */
    int64_t tokens[2 * GROUP_EXPERTS]; /* with a direction */
} likeness;

static bool selects(const likeness *g, size_t token, int i)
{
    return g->j->selected[token * (size_t)g->j->n_experts + (size_t)g->expert[i]] &&
           !g->zero[token];
}

static void sum_task(void *ctx, int i, int worker)
{
    (void)worker;
    likeness *g = ctx;
    const ffn_layer *l = g->j->l;
    const size_t d = (size_t)l->d;
    float *unit = g->unit + (size_t)i * d;
    for (size_t t = 0; t < (size_t)l->n_tokens; t++) {
        if (!selects(g, t, i))
            continue;
        router_unit_row(l->x + t * d, l->d, unit);
        for (size_t k = 0; k < d; k++)
            g->sum[(size_t)i * d + k] += unit[k];
        g->tokens[i]++;
    }
}

static double dot(const likeness *g, int a, int b)
{
    const size_t d = (size_t)g->j->l->d;
    double sum = 0;
    for (size_t k = 0; k < d; k++)
        sum += g->sum[(size_t)a * d + k] * g->sum[(size_t)b * d + k];
    return sum;
}

/* Mean cosine of the tokens of experts a and b, of different tokens only: a token
 * that selects both would be compared with itself. */
static double mean_cosine(const likeness *g, int a, int b)
{
    int64_t shared = 0;
    for (size_t t = 0; t < (size_t)g->j->l->n_tokens; t++)
        shared += selects(g, t, a) && selects(g, t, b);
    const double pairs = (double)g->tokens[a] * (double)g->tokens[b] - (double)shared;
    return pairs > 0 ? (dot(g, a, b) - (double)shared) / pairs : NAN;
}

/* Of the experts [first, first + n) of g; what is NaN is left out of the means. */
static similarity group_similarity(const likeness *g, int first, int n)
{
    double self = 0, inter = 0;
    int n_self = 0, n_inter = 0;
    for (int a = first; a < first + n; a++)
        for (int b = first; b <= a; b++) {
            const double cosine = mean_cosine(g, a, b);
            if (isnan(cosine))
                continue;
            *(a == b ? &self : &inter) += cosine;
            *(a == b ? &n_self : &n_inter) += 1;
        }
    return (similarity){n, n_self ? self / n_self : NAN, n_inter ? inter / n_inter : NAN};
}

/* The most selected experts first, then the least selected ones of those that two
 * tokens at least select; each expert in one group only. Returns a group's size. */
static int choose_groups(const layer_figures *f, int *expert)
{
    int n = 0, used = 0;
    for (int e = 0; e < f->n_experts; e++)
        n += f->selected[e] * f->n_tokens > 1.5;
    n = n / 2 < GROUP_EXPERTS ? n / 2 : GROUP_EXPERTS;
    for (int group = 0; group < 2; group++)
        for (int i = 0; i < n; i++) {
            int found = -1;
            for (int e = 0; e < f->n_experts; e++) {
                bool free_one = f->selected[e] * f->n_tokens > 1.5;
                for (int u = 0; u < used; u++)
                    free_one = free_one && expert[u] != e;
                const double sign = group == 0 ? 1 : -1;
                if (free_one && (found < 0 || sign * f->selected[e] > sign * f->selected[found]))
                    found = e;
            }
            expert[used++] = found;
        }
    return n;
}

static moe_status find_similarity(const job *j, layer_figures *f, moe_error *err)
{
    const ffn_layer *l = j->l;
    likeness g = {.j = j};
    const int n = choose_groups(f, g.expert);
    const size_t floats = (size_t)(2 * n + 1) * (size_t)l->d;
    moe_status status = MOE_OK;
    g.n = 2 * n;
    g.sum = calloc(floats, sizeof *g.sum);
    g.unit = malloc(floats * sizeof *g.unit);
    g.zero = calloc((size_t)l->n_tokens, 1);
    if (g.sum && g.unit && g.zero) {
        for (size_t t = 0; t < (size_t)l->n_tokens; t++) {
            g.zero[t] = 1;
            for (size_t k = 0; k < (size_t)l->d && g.zero[t]; k++)
                g.zero[t] = l->x[t * (size_t)l->d + k] == 0;
        }
        workers_run(l->workers, sum_task, &g, g.n);
        f->most = group_similarity(&g, 0, n);
        f->least = group_similarity(&g, n, n);
    } else {
        status = moe_fail(err, MOE_E_MEMORY, "no memory to compare inputs of layer %d",
                          l->index);
    }
    free(g.sum);
    free(g.unit);
    free(g.zero);
    return status;
}

/* ---- the whole ---------------------------------------------------------------- */

static moe_status run_pass(job *j, layer_figures *f, moe_error *err)
{
    const int n_tasks = (j->l->n_tokens + LAYER_TASK_ROWS - 1) / LAYER_TASK_ROWS;
    j->parts = calloc((size_t)n_tasks + 1, sizeof *j->parts);
    if (!j->parts)
        return moe_fail(err, MOE_E_MEMORY, "no memory to analyse layer %d", j->l->index);
    workers_run(j->l->workers, rows_task, j, n_tasks);
    moe_status status = interrupt_check(err);
    if (status == MOE_OK) {
        take_firing(j, f);
        take_sums(j, n_tasks, f);
        if (j->n_experts)
            count_selected(j, f);
    }
    if (status == MOE_OK && j->n_experts)
        status = find_similarity(j, f, err);
    free(j->parts);
    return status;
}

static bool open_job(job *j, const int32_t *neurons, layer_figures *f)
{
    const ffn_layer *l = j->l;
    const int threads = workers_count(l->workers);
    j->expert = calloc((size_t)l->d_ff, sizeof *j->expert);
    j->selected = malloc((size_t)l->n_tokens * (size_t)j->n_experts + 1);
    j->desks = calloc((size_t)threads, sizeof *j->desks);
    f->firing = calloc((size_t)l->d_ff + 1, sizeof *f->firing);
    f->selected = calloc((size_t)j->n_experts + 1, sizeof *f->selected);
    if (!j->expert || !j->selected || !j->desks || !f->firing || !f->selected)
        return false;
    for (int i = 0; i < j->n_experts * MOE_EXPERT_SIZE; i++)
        if (neurons[i] >= 0)
            j->expert[neurons[i]] = i / MOE_EXPERT_SIZE;
    for (int w = 0; w < threads; w++)
        if (!open_desk(j, &j->desks[w]))
            return false;
    return true;
}

moe_status analyse_layer(const ffn_layer *l, const int32_t *neurons, const router_rows *r,
                         int k_selected, layer_figures *out, moe_error *err)
{
    const int n_experts = neurons ? l->n_experts : 0;
    const long fifth = lround(0.2 * n_experts);
    job j = {.l = l, .r = r, .n_experts = n_experts, .k_selected = k_selected,
             .k_judged = fifth > 1 ? (int)fifth : 1};
    *out = (layer_figures){.index = l->index, .routed = neurons != NULL,
                           .n_tokens = l->n_tokens, .d_ff = l->d_ff, .n_experts = n_experts,
                           .k_selected = k_selected, .k_judged = j.k_judged};
    moe_status status = open_job(&j, neurons, out)
        ? run_pass(&j, out, err)
        : moe_fail(err, MOE_E_MEMORY, "no memory to analyse layer %d", l->index);
    for (int w = 0; j.desks && w < workers_count(l->workers); w++)
        close_desk(&j.desks[w]);
    free(j.desks);
    free(j.expert);
    free(j.selected);
    return status;
}
