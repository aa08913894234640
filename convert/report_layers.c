/* report_layers.c: what the layers do: curves with one line per layer, then one number
 * per layer and measure. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "convert/report.h"
#include "convert/report_card.h"

enum { MARKED_LAYERS = 8, FIRST_LAYER_COLOUR = 8, N_LAYER_COLOURS = 8, MAX_RANKS = 64 };

/* ---- layers: curves ------------------------------------------------------------------ */

/* Of n layers, every one is marked where they are few; else MARKED_LAYERS evenly
 * spread ones, and the others are drawn thin. -1: thin; else which mark. */
static int mark_of(int i, int n)
{
    if (n <= MARKED_LAYERS)
        return i;
    for (int m = 0; m < MARKED_LAYERS; m++)
        if (m * (n - 1) / (MARKED_LAYERS - 1) == i)
            return m;
    return -1;
}

static svg_series layer_curve(heap *h, int layer, int i, int n, const double *x,
                              const double *y, int n_points)
{
    const int mark = mark_of(i, n), last = (n < MARKED_LAYERS ? n : MARKED_LAYERS) - 1;
    const double place = n > 1 ? (double)i / (n - 1) : 0;
    const int colour = FIRST_LAYER_COLOUR + (int)(place * (N_LAYER_COLOURS - 1) + 0.5);
    const int every = n_points > 8 ? n_points / 7 : 1;
    return (svg_series){
        .name = mark >= 0 ? heap_text(h, "layer %d", layer) : i == 1 ? "layers between" : "",
        .x = x, .y = y, .n = n_points, .style = {colour, mark >= 0 ? mark : 0},
        .look = mark >= 0 ? SVG_LINE : SVG_FAINT_LINE, .marker_every = every,
        .marker_first = mark >= 0 && last > 0 ? mark * (every - 1) / last : 0};
}

static void cdf_card(FILE *to, heap *h, const figures *f)
{
    int layer[REPORT_MAX_LAYERS];
    const int n = report_choose_layers(f, false, layer);
    svg_series series[REPORT_MAX_LAYERS];
    card_column columns[REPORT_MAX_LAYERS + 1];
    double *x = heap_numbers(h, CDF_POINTS), most = 0;
    for (int i = 0; x && i < CDF_POINTS; i++)
        x[i] = figures_cdf_share(f, i);
    columns[0] = (card_column){"at most", SVG_PERCENT, 2, x};
    for (int i = 0; i < n; i++) {
        const layer_figures *l = &f->layers[layer[i]];
        double *y = heap_numbers(h, CDF_POINTS);
        int n_points = 0; /* a curve ends where it has come to 1 */
        for (int k = 0; x && y && k < CDF_POINTS; k++) {
            y[k] = layer_firing_cdf(l, x[k]);
            n_points += k == 0 || y[k - 1] < 1;
        }
        series[i] = layer_curve(h, layer[i], i, n, x, y, n_points);
        columns[i + 1] = (card_column){heap_text(h, "layer %d", layer[i]), SVG_PERCENT, 1, y};
        most = fmax(most, l->active);
    }
    svg_chart c = {.title = "Neurons activated per token", .series = series, .n_series = n,
                   .x = card_axis("share of the layer's neurons activated", SVG_PERCENT),
                   .y = card_axis("tokens with at most that share", SVG_PERCENT)};
    c.x.min = c.y.min = 0;
    c.y.max = 1;
    if (!h->failed)
        card_draw(to, "activated", heap_text(h, "Curves far to the left are sparse layers; the "
                   "densest one activates %.1f%% on average.", 100 * most), &c, columns, n + 1,
                   CDF_POINTS);
}

static int descending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

/* Frequencies from the most selected on, at n_ranks evenly spread ranks. */
static double *ranked(heap *h, const layer_figures *l, int n_ranks)
{
    double *all = heap_numbers(h, l->n_experts), *y = heap_numbers(h, n_ranks);
    if (h->failed)
        return NULL;
    memcpy(all, l->selected, (size_t)l->n_experts * sizeof *all);
    qsort(all, (size_t)l->n_experts, sizeof *all, descending);
    for (int i = 0; i < n_ranks; i++)
        y[i] = all[n_ranks > 1 ? (int64_t)i * (l->n_experts - 1) / (n_ranks - 1) : 0];
    return y;
}

static void frequency_card(FILE *to, heap *h, const figures *f, const int *layer, int n)
{
    svg_series series[REPORT_MAX_LAYERS];
    card_column columns[REPORT_MAX_LAYERS + 1];
    const int experts = f->info->n_experts, n_ranks = experts < MAX_RANKS ? experts : MAX_RANKS;
    double *rank = heap_numbers(h, n_ranks);
    for (int i = 0; rank && i < n_ranks; i++)
        rank[i] = 1 + (n_ranks > 1 ? (int64_t)i * (experts - 1) / (n_ranks - 1) : 0);
    columns[0] = (card_column){"rank", SVG_WHOLE, PLAIN, rank};
    for (int i = 0; i < n; i++) {
        const double *y = ranked(h, &f->layers[layer[i]], n_ranks);
        series[i] = layer_curve(h, layer[i], i, n, rank, y, n_ranks);
        columns[i + 1] = (card_column){heap_text(h, "layer %d", layer[i]), SVG_PERCENT, 1, y};
    }
    svg_rule rule = {heap_text(h, "all alike: %g", f->selected_ratio), f->selected_ratio};
    svg_chart c = {.title = heap_text(h, "Selection frequency at ratio %g", f->selected_ratio),
                   .series = series, .n_series = n, .rules = &rule, .n_rules = 1,
                   .x = card_axis("rank of the expert, from the most selected", SVG_WHOLE),
                   .y = card_axis("tokens that select the expert", SVG_PERCENT)};
    c.y.min = 0;
    c.y.max = 1;
    c.x.min = 1;
    c.x.max = experts > 1 ? experts : 2;
    if (!h->failed)
        card_draw(to, "frequency", "A flat curve shares the work; a steep one has experts for "
                   "nearly all tokens and experts for few.", &c, columns, n + 1, n_ranks);
}

/* ---- layers: one number each ----------------------------------------------------------- */

typedef double (*layer_value)(const layer_figures *);

static double get_most_self(const layer_figures *l) { return l->most.self; }
static double get_most_inter(const layer_figures *l) { return l->most.inter; }
static double get_least_self(const layer_figures *l) { return l->least.self; }
static double get_least_inter(const layer_figures *l) { return l->least.inter; }
static double get_cut(const layer_figures *l) { return l->cut; }
static double get_cut_random(const layer_figures *l) { return l->cut_random; }
static double get_picked(const layer_figures *l) { return l->picked; }
static double get_mass_router(const layer_figures *l) { return l->mass_router; }
static double get_mass_oracle(const layer_figures *l) { return l->mass_oracle; }
static double get_chance(const layer_figures *l) { return (double)l->k_judged / l->n_experts; }
static double get_index(const layer_figures *l) { return l->index; }

static double *per_layer(heap *h, const figures *f, const int *layer, int n, layer_value get)
{
    double *v = heap_numbers(h, n);
    for (int i = 0; v && i < n; i++)
        v[i] = get(&f->layers[layer[i]]);
    return v;
}

/* A series of a chart over layers. */
typedef struct { const char *name; layer_value get; svg_look look; svg_style style; } layer_row;

static void layer_card(FILE *to, heap *h, const figures *f, const int *layer, int n,
                       const char *id, const char *aid, svg_chart c, const layer_row *rows,
                       int n_rows)
{
    svg_series series[8];
    card_column columns[9];
    const char **names = heap_take(h, (size_t)n, sizeof *names);
    const double *index = per_layer(h, f, layer, n, get_index);
    columns[0] = (card_column){"layer", SVG_WHOLE, PLAIN, index};
    for (int i = 0; names && i < n; i++)
        names[i] = heap_text(h, "%d", layer[i]);
    for (int s = 0; s < n_rows; s++) {
        const double *y = per_layer(h, f, layer, n, rows[s].get);
        series[s] = (svg_series){.name = rows[s].name, .x = index, .y = y, .n = n,
                                 .style = rows[s].style, .look = rows[s].look};
        columns[s + 1] = (card_column){rows[s].name, c.y.kind, c.y.kind == SVG_PERCENT ? 1 : 3, y};
    }
    c.x = card_axis("layer", SVG_WHOLE);
    c.x.min = n > 1 ? layer[0] : NAN;
    c.x.max = n > 1 ? layer[n - 1] : NAN;
    c.series = series;
    c.n_series = n_rows;
    c.category = names;
    if (!h->failed)
        card_draw(to, id, aid, &c, columns, n_rows + 1, n);
}

static void similarity_card(FILE *to, heap *h, const figures *f, const int *layer, int n)
{
    static const layer_row rows[] = {
        {"most selected, self", get_most_self, SVG_LINE, {0, 0}},
        {"most selected, inter", get_most_inter, SVG_LINE, {0, 4}},
        {"least selected, self", get_least_self, SVG_LINE, {5, 1}},
        {"least selected, inter", get_least_inter, SVG_LINE, {5, 5}},
    };
    svg_chart c = {.title = "How alike the inputs of an expert are",
                   .y = card_axis("mean cosine of pairs of FFN inputs", SVG_NUMBER)};
    layer_card(to, h, f, layer, n, "similarity",
               "Self above inter: tokens that select the same expert are more alike than tokens "
               "of two experts. Of the 8 most and the 8 least selected experts.", c, rows, 4);
}

static void cut_card(FILE *to, heap *h, const figures *f, const int *layer, int n)
{
    static const layer_row rows[] = {
        {"this split", get_cut, SVG_BAR, {0, 0}},
        {"random split, expected", get_cut_random, SVG_TICK, {5, 0}},
    };
    svg_chart c = {.title = "Edge cut of the split",
                   .y = card_axis("co-activation between experts", SVG_PERCENT)};
    c.y.min = 0;
    c.y.max = 1;
    layer_card(to, h, f, layer, n, "edge-cut",
               "Share of the co-activation (sum of products of two neurons' activations) that is "
               "cut; lower keeps more of what fires together in one expert.", c, rows, 2);
}

static void accuracy_card(FILE *to, heap *h, const figures *f, const int *layer, int n)
{
    static const layer_row rows[] = {
        {"router", get_picked, SVG_BAR, {0, 0}},
        {"chance", get_chance, SVG_TICK, {5, 0}},
    };
    svg_chart c = {.title = "Router accuracy at 20% of the experts",
                   .y = card_axis("oracle's experts that the router picks", SVG_PERCENT)};
    c.y.min = 0;
    c.y.max = 1;
    layer_card(to, h, f, layer, n, "router-accuracy",
               "Share of the experts with the most activation that the router selects as well.",
               c, rows, 2);
}

static void mass_card(FILE *to, heap *h, const figures *f, const int *layer, int n)
{
    static const layer_row rows[] = {
        {"router", get_mass_router, SVG_BAR, {0, 0}},
        {"oracle", get_mass_oracle, SVG_HOLLOW_BAR, {1, 0}},
        {"chance", get_chance, SVG_TICK, {5, 0}},
    };
    svg_chart c = {.title = "Activation mass kept at 20% of the experts",
                   .y = card_axis("share of the positive activation", SVG_PERCENT)};
    c.y.min = 0;
    c.y.max = 1;
    layer_card(to, h, f, layer, n, "mass",
               "The gap to the oracle is what a better router could win; the gap of the oracle to "
               "100% is the split's.", c, rows, 3);
}

bool report_layers(FILE *to, const figures *f)
{
    int layer[REPORT_MAX_LAYERS];
    const int n = report_choose_layers(f, true, layer);
    heap h = {.last = NULL};
    fputs("<section>\n<h2>Neurons and experts</h2>\n<p class=\"intro\">Seen on the inputs of each "
          "FFN as the dense model reads the text. A neuron is activated where its activation is "
          "above 0.</p>\n<div class=\"grid\">\n", to);
    cdf_card(to, &h, f);
    if (n > 0) {
        frequency_card(to, &h, f, layer, n);
        similarity_card(to, &h, f, layer, n);
        cut_card(to, &h, f, layer, n);
        accuracy_card(to, &h, f, layer, n);
        mass_card(to, &h, f, layer, n);
    }
    fputs("</div>\n</section>\n", to);
    heap_free(&h);
    return !h.failed;
}
