/* balance.c: the transportation problem, solved exactly by shortest augmenting
 * paths on the bins.
 *
 * Items enter one at a time. Where an item's best bin is full, a member of it
 * has to move on, perhaps displacing another: the cheapest such chain is a
 * shortest path in the graph whose nodes are the bins and whose arc e -> f costs
 *     step[e, f] = min over members j of e of affinity[j, e] - affinity[j, f].
 * Prices on the bins (the dual variables: 0 while a bin has room) keep all
 * reduced arcs step[e, f] - price[e] + price[f] >= 0, so Dijkstra's algorithm
 * finds it in n_bins^2; afterwards only the bins on the path get new arcs. Some
 * fifty bins and two thousand items take milliseconds: an auction, which pays
 * per bid and only comes within an epsilon of the best, is no faster here. */
#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "convert/balance.h"

typedef struct {
    const float *affinity; /* [n_items, n_bins] */
    int n_bins;
    const int *capacity;
    int *count;            /* [n_bins] */
    size_t *first;         /* [n_bins]: bin e owns member[first[e] ..] */
    int32_t *member;       /* [sum of capacity] */
    float *step;           /* [n_bins, n_bins] */
    double *price, *dist;  /* [n_bins] */
    int *from;             /* [n_bins]: the bin before on the path, -1 the item */
    bool *done;            /* [n_bins] */
} solver;

static const float *row_of(const solver *s, int item)
{
    return s->affinity + (size_t)item * (size_t)s->n_bins;
}

/* step[e, :] anew from the members of e. */
static void refresh_steps(solver *s, int e)
{
    float *step = s->step + (size_t)e * (size_t)s->n_bins;
    for (int f = 0; f < s->n_bins; f++)
        step[f] = FLT_MAX;
    for (int m = 0; m < s->count[e]; m++) {
        const float *row = row_of(s, s->member[s->first[e] + (size_t)m]);
        const float own = row[e];
        for (int f = 0; f < s->n_bins; f++) {
            float loss = own - row[f];
            step[f] = loss < step[f] ? loss : step[f];
        }
    }
}

/* The place in e of the member whose move to f costs step[e, f]. */
static int cheapest_member(const solver *s, int e, int f)
{
    int best = 0;
    float least = FLT_MAX;
    for (int m = 0; m < s->count[e]; m++) {
        const float *row = row_of(s, s->member[s->first[e] + (size_t)m]);
        float loss = row[e] - row[f];
        if (loss < least) {
            least = loss;
            best = m;
        }
    }
    return best;
}

static int nearest_open(const solver *s)
{
    int best = -1;
    for (int e = 0; e < s->n_bins; e++)
        if (!s->done[e] && (best < 0 || s->dist[e] < s->dist[best]))
            best = e;
    return best;
}

static void relax_from(solver *s, int e)
{
    const float *step = s->step + (size_t)e * (size_t)s->n_bins;
    for (int f = 0; f < s->n_bins; f++) {
        if (s->done[f])
            continue;
        /* Rounding may leave a reduced arc a hair below zero. */
        double arc = (double)step[f] - s->price[e] + s->price[f];
        double reach = s->dist[e] + (arc > 0 ? arc : 0);
        if (reach < s->dist[f]) {
            s->dist[f] = reach;
            s->from[f] = e;
        }
    }
}

/* The bin with room that item reaches most cheaply; leaves the path in from and
 * prices that keep every reduced arc non-negative. */
static int find_room(solver *s, int item)
{
    const float *row = row_of(s, item);
    double best = -DBL_MAX;
    for (int e = 0; e < s->n_bins; e++)
        if (row[e] - s->price[e] > best)
            best = row[e] - s->price[e];
    for (int e = 0; e < s->n_bins; e++) {
        s->dist[e] = best - (row[e] - s->price[e]);
        s->from[e] = -1;
        s->done[e] = false;
    }
    int target;
    for (;;) {
        target = nearest_open(s);
        if (s->count[target] < s->capacity[target])
            break;
        s->done[target] = true;
        relax_from(s, target);
    }
    for (int e = 0; e < s->n_bins; e++)
        if (s->done[e])
            s->price[e] += s->dist[target] - s->dist[e];
    return target;
}

static void put_member(solver *s, int e, int32_t item)
{
    s->member[s->first[e] + (size_t)s->count[e]++] = item;
}

/* Shifts one member along each arc of the path that ends in target, backwards,
 * then puts item into the bin where the path began. */
static void shift_along_path(solver *s, int target, int item)
{
    int f = target;
    for (int e; (e = s->from[f]) >= 0; f = e) {
        int32_t *members = s->member + s->first[e];
        int m = cheapest_member(s, e, f);
        put_member(s, f, members[m]);
        members[m] = members[--s->count[e]];
    }
    put_member(s, f, item);
    for (f = target; f >= 0; f = s->from[f])
        refresh_steps(s, f);
}

static bool solver_alloc(solver *s)
{
    size_t n = (size_t)s->n_bins, places = 0;
    for (size_t e = 0; e < n; e++)
        places += (size_t)s->capacity[e];
    s->count = calloc(n, sizeof *s->count);
    s->first = calloc(n, sizeof *s->first);
    s->member = calloc(places, sizeof *s->member);
    s->step = calloc(n * n, sizeof *s->step);
    s->price = calloc(n, sizeof *s->price);
    s->dist = calloc(n, sizeof *s->dist);
    s->from = calloc(n, sizeof *s->from);
    s->done = calloc(n, sizeof *s->done);
    return s->count && s->first && s->member && s->step && s->price && s->dist &&
           s->from && s->done;
}

static void solver_free(solver *s)
{
    free(s->count);
    free(s->first);
    free(s->member);
    free(s->step);
    free(s->price);
    free(s->dist);
    free(s->from);
    free(s->done);
}

static int64_t room_in(const int *capacity, int n_bins)
{
    int64_t sum = 0;
    for (int e = 0; e < n_bins; e++)
        sum += capacity[e];
    return sum;
}

moe_status balance_assign(const float *affinity, int n_items, int n_bins,
                          const int *capacity, int32_t *bin, moe_error *err)
{
    if (room_in(capacity, n_bins) < n_items)
        return moe_fail(err, MOE_E_ARGUMENT,
                        "%d items do not fit into %d bins of %lld places in all",
                        n_items, n_bins, (long long)room_in(capacity, n_bins));
    if (n_items == 0)
        return MOE_OK;
    solver s = {.affinity = affinity, .n_bins = n_bins, .capacity = capacity};
    if (!solver_alloc(&s)) {
        solver_free(&s);
        return moe_fail(err, MOE_E_MEMORY, "no memory to assign %d items to %d bins",
                        n_items, n_bins);
    }
    for (int e = 1; e < n_bins; e++)
        s.first[e] = s.first[e - 1] + (size_t)capacity[e - 1];
    for (int e = 0; e < n_bins; e++)
        refresh_steps(&s, e);
    for (int i = 0; i < n_items; i++)
        shift_along_path(&s, find_room(&s, i), i);
    for (int e = 0; e < n_bins; e++)
        for (int m = 0; m < s.count[e]; m++)
            bin[s.member[s.first[e] + (size_t)m]] = e;
    solver_free(&s);
    return MOE_OK;
}
