/* ratio_table.c: the grid, and thresholds as ranks of sampled scores.
 *
 * The score of rank n among millions is found without sorting: floats, their sign
 * turned, are ordered as whole numbers; one pass counts by the upper half of the
 * bits, the next within the half that holds the rank. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert/ratio_table.h"

const double ratio_grid[N_RATIOS] = {0.05, 0.1, 0.125, 0.2, 0.25, 0.3, 0.4,
                                     0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 1};

void ratio_table_free(ratio_table *t)
{
    free(t->experts);
    free(t->mean);
    free(t->thresholds);
    *t = (ratio_table){.n_layers = 0};
}

static int uniform_count(double ratio, int n_experts)
{
    const int k = (int)lround(ratio * n_experts);
    return k > 1 ? k : 1;
}

moe_status ratio_table_create(int n_layers, int n_experts, const bool *converted,
                              bool dynamic, ratio_table *t, moe_error *err)
{
    const size_t n = (size_t)N_RATIOS * (size_t)n_layers;
    *t = (ratio_table){.n_layers = n_layers, .n_experts = n_experts,
                       .converted = converted};
    t->experts = malloc(n * sizeof *t->experts);
    if (dynamic) {
        t->mean = malloc(n * sizeof *t->mean);
        t->thresholds = calloc(n, sizeof *t->thresholds);
    }
    if (!t->experts || (dynamic && !(t->mean && t->thresholds)))
        return moe_fail(err, MOE_E_MEMORY, "no memory for a table of %d layers", n_layers);
    for (int r = 0; r < N_RATIOS; r++) {
        const size_t at = (size_t)r * (size_t)n_layers;
        for (int l = 0; l < n_layers; l++) {
            t->experts[at + (size_t)l] =
                converted[l] ? uniform_count(ratio_grid[r], n_experts) : n_experts;
            if (dynamic)
                t->mean[at + (size_t)l] = (float)t->experts[at + (size_t)l];
        }
        t->rows[r] = (moe_ratio_row){.ratio = ratio_grid[r], .experts = t->experts + at};
        if (dynamic) {
            t->rows[r].mean_experts = t->mean + at;
            t->rows[r].thresholds = t->thresholds + at;
        }
    }
    return MOE_OK;
}

/* ---- ranks of scores ----------------------------------------------------- */

/* Whole numbers ordered as the floats are. NaN isn't expected. */
static uint32_t order_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static float float_of(uint32_t order)
{
    const uint32_t bits = order & 0x80000000u ? order & 0x7fffffffu : ~order;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* The scores of layers [first, end) that are converted. */
typedef struct {
    const score_sample *s;
    const bool *converted;
    int first, end;
} score_set;

static size_t layer_pairs(const score_sample *s)
{
    return (size_t)s->n_tokens * (size_t)s->n_experts;
}

static size_t set_size(const score_set *set)
{
    size_t n = 0;
    for (int l = set->first; l < set->end; l++)
        n += set->converted[l] ? layer_pairs(set->s) : 0;
    return n;
}

static void count_halves(const score_set *set, bool upper, uint32_t half, size_t *count)
{
    const size_t n = layer_pairs(set->s);
    memset(count, 0, 65536 * sizeof *count);
    for (int l = set->first; l < set->end; l++) {
        const float *scores = set->s->scores + (size_t)l * n;
        for (size_t i = 0; set->converted[l] && i < n; i++) {
            const uint32_t order = order_of(scores[i]);
            if (upper)
                count[order >> 16]++;
            else if (order >> 16 == half)
                count[order & 0xffff]++;
        }
    }
}

/* The n-th largest score, n in [1, set_size]. */
static float nth_largest(const score_set *set, size_t n)
{
    size_t count[65536];
    uint32_t upper = 65535, lower = 65535;
    count_halves(set, true, 0, count);
    for (; n > count[upper]; upper--)
        n -= count[upper];
    count_halves(set, false, upper, count);
    for (; n > count[lower]; lower--)
        n -= count[lower];
    return float_of(upper << 16 | lower);
}

typedef struct { size_t above, equal; } pair_counts;

static pair_counts count_pairs(const score_sample *s, int layer, float threshold)
{
    const size_t n = layer_pairs(s);
    const float *scores = s->scores + (size_t)layer * n;
    pair_counts c = {0, 0};
    for (size_t i = 0; i < n; i++) {
        c.above += scores[i] > threshold;
        c.equal += scores[i] == threshold;
    }
    return c;
}

/* ---- the table ----------------------------------------------------------- */

static size_t wanted_pairs(double share, size_t all)
{
    const size_t n = (size_t)llround(share * (double)all);
    return n < 1 ? 1 : n > all ? all : n;
}

/* One ratio: scores equal to the threshold count in part, so that the layers' means
 * add up to the ratio where many are equal, too. */
static void share_row(ratio_table *t, const score_sample *s, int r)
{
    const score_set set = {s, t->converted, 0, t->n_layers};
    const size_t wanted = wanted_pairs(ratio_grid[r], set_size(&set));
    const float threshold = nth_largest(&set, wanted);
    pair_counts all = {0, 0};
    for (int l = 0; l < t->n_layers; l++)
        if (t->converted[l]) {
            const pair_counts c = count_pairs(s, l, threshold);
            all.above += c.above;
            all.equal += c.equal;
        }
    const double part = (double)(wanted - all.above) / (double)all.equal;
    for (int l = 0; l < t->n_layers; l++) {
        const size_t at = (size_t)r * (size_t)t->n_layers + (size_t)l;
        t->thresholds[at] = t->converted[l] ? threshold : 0;
        if (!t->converted[l] || ratio_grid[r] == 1)
            continue;
        const pair_counts c = count_pairs(s, l, threshold);
        t->mean[at] = (float)(((double)c.above + part * (double)c.equal) / s->n_tokens);
    }
}

void ratio_table_share(ratio_table *t, const score_sample *s)
{
    const score_set set = {s, t->converted, 0, t->n_layers};
    for (int r = 0; set_size(&set) > 0 && r < N_RATIOS; r++)
        share_row(t, s, r);
}

void ratio_table_follow(ratio_table *t, const score_sample *s)
{
    for (int r = 0; r < N_RATIOS; r++)
        for (int l = 0; l < t->n_layers; l++) {
            const size_t at = (size_t)r * (size_t)t->n_layers + (size_t)l;
            const score_set set = {s, t->converted, l, l + 1};
            if (!t->converted[l])
                continue;
            t->mean[at] = (float)t->experts[at];
            t->thresholds[at] = nth_largest(
                &set, wanted_pairs((double)t->experts[at] / t->n_experts, set_size(&set)));
        }
}
