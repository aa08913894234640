/* ratio.c: from a request's ratio to expert counts, thresholds or mean counts per
 * layer, by the model's ratio table. Between two rows all are interpolated in a straight
 * line, counts rounded; a model without a table (a plain checkpoint) gets uniform counts. */
#include "engine/routing/ratio.h"

#include <math.h>

bool ratio_valid(double ratio)
{
    return ratio > 0 && ratio <= 1; /* false for NaN */
}

static int clamp_count(double count, int n_experts)
{
    long k = lround(count);
    return k < 1 ? 1 : k > n_experts ? n_experts : (int)k;
}

/* The first row with at least this ratio; n_ratio_rows: none. */
static int row_from(const moe_model_info *info, double ratio)
{
    int row = 0;
    while (row < info->n_ratio_rows && info->ratio_rows[row].ratio < ratio)
        row++;
    return row;
}

void ratio_to_experts(const moe_model_info *info, double ratio, int *experts)
{
    const moe_ratio_row *row = info->ratio_rows;
    int n = info->n_ratio_rows, above = row_from(info, ratio);
    for (int l = 0; l < info->n_layers; l++) {
        double count;
        if (above == n) /* no table, or ratio past its last row */
            count = ratio * info->n_experts;
        else if (above == 0)
            count = row[0].experts[l] * ratio / row[0].ratio;
        else {
            const moe_ratio_row *low = &row[above - 1], *high = &row[above];
            double t = (ratio - low->ratio) / (high->ratio - low->ratio);
            count = low->experts[l] + t * (high->experts[l] - low->experts[l]);
        }
        experts[l] = ratio >= 1 ? info->n_experts : clamp_count(count, info->n_experts);
    }
}

bool ratio_to_thresholds(const moe_model_info *info, double ratio, float *thresholds)
{
    int above = row_from(info, ratio);
    if (!info->has_thresholds || above == info->n_ratio_rows ||
        (above == 0 && ratio < info->ratio_rows[0].ratio))
        return false;
    const moe_ratio_row *high = &info->ratio_rows[above], *low = high - (above > 0);
    double t = above > 0 ? (ratio - low->ratio) / (high->ratio - low->ratio) : 1;
    for (int l = 0; l < info->n_layers; l++) /* a row's own ratio gives its very values */
        thresholds[l] =
            (float)((1 - t) * (double)low->thresholds[l] + t * (double)high->thresholds[l]);
    return true;
}

bool ratio_to_means(const moe_model_info *info, double ratio, double *mean)
{
    int above = row_from(info, ratio);
    if (!info->has_mean_experts || above == info->n_ratio_rows)
        return false;
    const moe_ratio_row *high = &info->ratio_rows[above], *low = high - (above > 0);
    double t = above > 0 ? (ratio - low->ratio) / (high->ratio - low->ratio) : 1;
    double scale = above > 0 ? 1 : ratio / high->ratio;
    for (int l = 0; l < info->n_layers; l++)
        mean[l] = scale * ((1 - t) * (double)low->mean_experts[l] +
                           t * (double)high->mean_experts[l]);
    return true;
}

moe_shift ratio_to_shift(const moe_model_info *info, double ratio)
{
    int above = row_from(info, ratio);
    if (ratio >= 1 || above == info->n_ratio_rows)
        return (moe_shift){.row = -1};
    if (above == 0)
        return (moe_shift){.row = 0};
    const moe_ratio_row *high = &info->ratio_rows[above], *low = high - 1;
    return (moe_shift){.row = above - 1,
                       .part = (float)((ratio - low->ratio) / (high->ratio - low->ratio))};
}

int32_t ratio_next_pairs(pair_budget *b, double mean, int n_tokens, int n_experts)
{
    int64_t most = (int64_t)n_tokens * n_experts;
    b->wanted += mean * n_tokens;
    int64_t n = llround(b->wanted) - b->given;
    n = n < 1 ? 1 : n > most ? most : n;
    b->given += n;
    return (int32_t)n;
}
