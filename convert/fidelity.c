/* fidelity.c: the curves that config.json holds: read, and drawn with characters.
 *
 *      ratio  80%                    100%   A topk  B threshold    layer   0   1   2
 *      0.125  |.......A....B............|    85.7%        88.1%           29  14   2
 *
 * Every row is a ratio, every letter a policy; * stands where two fall on one place. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/fidelity.h"
#include "convert/json.h"
#include "convert/table.h"

/* ---- reading ------------------------------------------------------------------ */

static double number_or_nan(const json *row, const char *key)
{
    double value;
    return json_get_number(row, key, &value) ? value : NAN;
}

static evaluation read_row(const json *row)
{
    const double ratio = number_or_nan(row, "ratio");
    const double effective = number_or_nan(row, "effective_ratio");
    return (evaluation){
        .ratio = ratio, .effective_ratio = isnan(effective) ? ratio : effective,
        .agreement = number_or_nan(row, "agreement"), .kl = number_or_nan(row, "kl"),
        .accuracy = number_or_nan(row, "accuracy"), .mass = number_or_nan(row, "mass"),
        .mean_abs_difference = number_or_nan(row, "mean_abs_difference"),
        .pearson = number_or_nan(row, "pearson"), .spearman = number_or_nan(row, "spearman")};
}

/* The curve of a policy, a new one if there is room; NULL: there is none. */
static fidelity *find_curve(const char *policy, int max, fidelity *series, int *n)
{
    fidelity new = {.stored = true};
    snprintf(new.name, sizeof new.name, "stored, %.48s", policy ? policy : "topk");
    for (int i = 0; i < *n; i++)
        if (series[i].stored && strcmp(series[i].name, new.name) == 0)
            return &series[i];
    if (*n == max)
        return NULL;
    series[*n] = new;
    return &series[(*n)++];
}

moe_status fidelity_stored(const moe_model_info *info, int max, fidelity *series, int *n,
                           moe_error *err)
{
    json *j = json_parse_text(info->moefication_json, strlen(info->moefication_json));
    const json *list = json_get(j, "fidelity");
    bool enough = true;
    for (const json *row = list ? json_first(list) : NULL; row && enough; row = json_next(row)) {
        fidelity *s = find_curve(json_get_string(row, "policy"), max, series, n);
        evaluation *at = s ? realloc(s->at, (size_t)(s->n + 1) * sizeof *at) : NULL;
        enough = !s || at;
        if (!at)
            continue;
        s->at = at;
        s->at[s->n++] = read_row(row);
    }
    json_free(j);
    return enough ? MOE_OK : moe_fail(err, MOE_E_MEMORY, "no memory for the stored curve");
}

/* ---- drawing ------------------------------------------------------------------ */

enum { PLACES = 40, MAX_ROWS = 64, MAX_LAYERS = 24 };

typedef struct {
    const moe_model_info *info;
    const fidelity *series;
    int n;
    bool shares;      /* agreement; else mean absolute difference */
    double low, high; /* of the line */
} chart;

static double value_of(const chart *c, const evaluation *e)
{
    return c->shares ? e->agreement : e->mean_abs_difference;
}

static const evaluation *find_row(const fidelity *s, double ratio)
{
    for (int i = 0; i < s->n; i++)
        if (s->at[i].ratio == ratio)
            return &s->at[i];
    return NULL;
}

/* The next larger ratio of any curve; INFINITY: there is none. */
static double next_ratio(const chart *c, double after)
{
    double next = INFINITY;
    for (int s = 0; s < c->n; s++)
        for (int i = 0; i < c->series[s].n; i++)
            if (c->series[s].at[i].ratio > after && c->series[s].at[i].ratio < next)
                next = c->series[s].at[i].ratio;
    return next;
}

/* Shares from the tenth below the least to 1, differences from 0 to the largest. */
static bool fit(chart *c)
{
    double low = INFINITY, high = -INFINITY;
    for (int s = 0; s < c->n; s++)
        for (int i = 0; i < c->series[s].n; i++) {
            const double v = value_of(c, &c->series[s].at[i]);
            low = v < low ? v : low;
            high = v > high ? v : high;
        }
    c->low = c->shares ? fmin(floor(10 * low) / 10, 0.9) : 0;
    c->high = c->shares || high <= 0 ? 1 : high;
    return low <= high;
}

static void print_value(const chart *c, double v, int width)
{
    if (isnan(v))
        printf("%*s", width, "-");
    else if (c->shares)
        printf("%*.1f%%", width - 1, 100 * v);
    else
        printf("%*.4g", width, v);
}

static void print_line(const chart *c, double ratio)
{
    char line[PLACES + 1];
    memset(line, '.', PLACES);
    line[PLACES] = 0;
    for (int s = 0; s < c->n; s++) {
        const evaluation *e = find_row(&c->series[s], ratio);
        const double v = e ? value_of(c, e) : NAN;
        const double at = (v - c->low) / (c->high - c->low) * (PLACES - 1);
        if (!(at >= 0 && at < PLACES)) /* NaN too */
            continue;
        char *place = &line[lround(at)];
        *place = *place == '.' ? (char)('A' + s) : '*';
    }
    printf("%s|", table_dim());
    for (int i = 0; i < PLACES; i++) {
        const bool mark = line[i] != '.';
        printf("%s%c%s", mark ? table_plain() : "", line[i], mark ? table_dim() : "");
    }
    printf("|%s", table_plain());
}

/* "stored, topk" is "topk" here, where all are stored. */
static const char *short_name(const fidelity *s)
{
    const char *comma = strstr(s->name, ", ");
    return comma ? comma + 2 : s->name;
}

static int column_width(const fidelity *s)
{
    const int n = (int)strlen(short_name(s)) + 4; /* "A topk" and two spaces */
    return n > 9 ? n : 9;
}

static void print_head(const chart *c, int n_layers)
{
    char low[32], high[32];
    snprintf(low, sizeof low, c->shares ? "%.0f%%" : "%.3g", c->low * (c->shares ? 100 : 1));
    snprintf(high, sizeof high, c->shares ? "%.0f%%" : "%.3g", c->high * (c->shares ? 100 : 1));
    printf("%s   ratio  %s%*s", table_dim(), low, PLACES + 2 - (int)strlen(low), high);
    for (int s = 0; s < c->n; s++)
        printf("%*s%c %s", column_width(&c->series[s]) - 2 - (int)strlen(short_name(&c->series[s])),
               "", 'A' + s, short_name(&c->series[s]));
    if (n_layers > 0)
        printf("    layer");
    for (int l = 0; l < n_layers; l++)
        printf("%4d", l);
    printf("%s\n", table_plain());
}

/* The table's counts at just this ratio, if it lists it. */
static void print_budget(const moe_model_info *info, double ratio, int n_layers)
{
    const moe_ratio_row *row = NULL;
    for (int i = 0; i < info->n_ratio_rows; i++)
        if (fabs(info->ratio_rows[i].ratio - ratio) < 1e-9)
            row = &info->ratio_rows[i];
    if (row && n_layers > 0)
        printf("         ");
    for (int l = 0; row && l < n_layers; l++)
        printf("%4d", row->experts[l]);
}

void fidelity_print(const moe_model_info *info, const fidelity *series, int n)
{
    const int n_layers = info->n_layers <= MAX_LAYERS ? info->n_layers : 0;
    chart c = {.info = info, .series = series, .n = n};
    for (int s = 0; s < n; s++)
        for (int i = 0; i < series[s].n; i++)
            c.shares |= !isnan(series[s].at[i].agreement);
    if (!fit(&c))
        return;
    printf("\n%s, as the conversion measured it%s\n\n",
           c.shares ? "agreement with dense" : "mean absolute difference from dense",
           n_layers > 0 ? "; experts of each layer" : "");
    print_head(&c, n_layers);
    double ratio = next_ratio(&c, -INFINITY);
    for (int row = 0; row < MAX_ROWS && ratio < INFINITY; row++) {
        printf("  %6g  ", ratio);
        print_line(&c, ratio);
        for (int s = 0; s < n; s++) {
            const evaluation *e = find_row(&series[s], ratio);
            print_value(&c, e ? value_of(&c, e) : NAN, column_width(&series[s]));
        }
        print_budget(info, ratio, n_layers);
        printf("\n");
        ratio = next_ratio(&c, ratio);
    }
}
