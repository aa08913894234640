/* report_charts.c: one card per chart: title, how to read it, the chart, its legend
 * and its numbers as a table. */
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "convert/metrics.h"
#include "convert/report.h"
#include "convert/svg.h"

enum { MARKED_LAYERS = 8, FIRST_LAYER_COLOUR = 8, MAX_RANKS = 64, N_LAYER_COLOURS = 8,
       MAX_RATIOS = 64 };

/* ---- memory of a section: freed at its end -------------------------------------- */

typedef struct block { struct block *next; max_align_t bytes[]; } block;
typedef struct { block *last; bool failed; } heap;

static void *take(heap *h, size_t n, size_t size)
{
    block *b = calloc(1, sizeof *b + (n + 1) * size);
    h->failed |= !b;
    if (!b)
        return NULL;
    b->next = h->last;
    h->last = b;
    return b->bytes;
}

static double *numbers(heap *h, int n)
{
    return take(h, (size_t)n, sizeof(double));
}

__attribute__((format(printf, 2, 3)))
static const char *text(heap *h, const char *format, ...)
{
    enum { SIZE = 160 };
    char *to = take(h, SIZE, 1);
    va_list args;
    va_start(args, format);
    if (to)
        vsnprintf(to, SIZE, format, args);
    va_end(args);
    return to ? to : "";
}

static void heap_free(heap *h)
{
    for (block *b = h->last, *next; b; b = next) {
        next = b->next;
        free(b);
    }
}

/* ---- cards ----------------------------------------------------------------------- */

/* A column of a card's table. */
typedef struct {
    const char *head;
    svg_kind kind;
    int digits;
    const double *values; /* [rows] */
} column;

static void write_table(FILE *to, const column *c, int n_columns, int n_rows)
{
    char cell[32];
    fputs("<details><summary>Numbers</summary><div class=\"scroll\"><table>\n<thead><tr>", to);
    for (int i = 0; i < n_columns; i++) {
        fputs("<th scope=\"col\">", to);
        svg_escape(to, c[i].head);
        fputs("</th>", to);
    }
    fputs("</tr></thead>\n<tbody>\n", to);
    for (int r = 0; r < n_rows; r++) {
        fputs("<tr>", to);
        for (int i = 0; i < n_columns; i++) {
            svg_value(c[i].kind, c[i].values[r], c[i].digits, cell, sizeof cell);
            fprintf(to, i == 0 ? "<th scope=\"row\">%s</th>" : "<td>%s</td>", cell);
        }
        fputs("</tr>\n", to);
    }
    fputs("</tbody></table></div></details>\n", to);
}

/* aid: plain text of ours, without markup. */
static void write_card(FILE *to, const char *id, const char *aid, const svg_chart *chart,
                       const column *columns, int n_columns, int n_rows)
{
    fprintf(to, "<figure class=\"card\" id=\"%s\">\n<figcaption><h3>", id);
    svg_escape(to, chart->title);
    fputs("</h3>\n<p>", to);
    svg_escape(to, aid);
    fputs("</p></figcaption>\n", to);
    svg_draw(to, chart);
    svg_legend(to, chart);
    write_table(to, columns, n_columns, n_rows);
    fputs("</figure>\n", to);
}

static const svg_axis unfitted = {.min = NAN, .max = NAN};

static svg_axis axis(const char *label, svg_kind kind)
{
    svg_axis a = unfitted;
    a.label = label;
    a.kind = kind;
    return a;
}

/* ---- fidelity ---------------------------------------------------------------------- */

/* One quality of a curve's point. */
typedef double (*quality)(const evaluation *);

static double get_agreement(const evaluation *e) { return e->agreement; }
static double get_mass(const evaluation *e) { return e->mass; }
static double get_accuracy(const evaluation *e) { return e->accuracy; }
static double get_pearson(const evaluation *e) { return e->pearson; }
static double get_difference(const evaluation *e) { return e->mean_abs_difference; }
/* Of the dense model itself it is 0, which a log axis doesn't hold. */
static double get_kl(const evaluation *e) { return e->kl > 1e-7 ? e->kl : NAN; }

static bool any_value(const fidelity *s, quality get)
{
    for (int i = 0; i < s->n; i++)
        if (!isnan(get(&s->at[i])))
            return true;
    return false;
}

/* Wilson's interval of a share of rows; stored curves don't know their rows. */
static void add_interval(heap *h, const fidelity *from, quality get, svg_series *to)
{
    double *low = numbers(h, from->n), *high = numbers(h, from->n);
    for (int i = 0; i < from->n && !h->failed; i++) {
        const evaluation *e = &from->at[i];
        const interval w = wilson_interval(get == get_agreement ? e->n_agree : e->n_correct, e->n);
        low[i] = e->ratio < 1 || get == get_accuracy ? w.low : NAN;
        high[i] = e->ratio < 1 || get == get_accuracy ? w.high : NAN;
    }
    to->low = low;
    to->high = high;
}

static svg_series curve(heap *h, const fidelity *from, int index, quality get)
{
    double *x = numbers(h, from->n), *y = numbers(h, from->n);
    svg_series s = {.name = from->name, .x = x, .y = y, .n = from->n,
                    .style = {index % 8, index % SVG_SHAPES}, .look = SVG_LINE};
    for (int i = 0; i < from->n && !h->failed; i++) {
        x[i] = from->at[i].effective_ratio;
        y[i] = get(&from->at[i]);
    }
    if (index == 0 && (get == get_agreement || get == get_accuracy))
        add_interval(h, from, get, &s);
    return s;
}

/* ratio [MAX_RATIOS]: every ratio that any curve has, ascending; returns how many. */
static int all_ratios(const figures *f, double *ratio)
{
    int n = 0;
    for (int s = 0; s < f->n_series; s++)
        for (int i = 0; i < f->series[s].n; i++) {
            const double r = f->series[s].at[i].ratio;
            int at = 0;
            while (at < n && ratio[at] < r)
                at++;
            if (n == MAX_RATIOS || isnan(r) || (at < n && ratio[at] == r))
                continue;
            memmove(ratio + at + 1, ratio + at, (size_t)(n - at) * sizeof *ratio);
            ratio[at] = r;
            n++;
        }
    return n;
}

/* A row per ratio of any curve, a column per curve. Returns the columns. */
static int fidelity_table(heap *h, const figures *f, quality get, svg_kind kind, column *c,
                          int *n_rows)
{
    const fidelity *base = &f->series[0];
    double *ratio = numbers(h, MAX_RATIOS), *effective = numbers(h, MAX_RATIOS);
    int n_columns = 0;
    if (h->failed)
        return 0;
    const int n = all_ratios(f, ratio);
    for (int i = 0; i < n; i++) {
        const evaluation *e = report_at(base, ratio[i]);
        effective[i] = e ? e->effective_ratio : NAN;
    }
    c[n_columns++] = (column){"ratio", SVG_NUMBER, 4, ratio};
    c[n_columns++] = (column){"effective", SVG_NUMBER, 4, effective};
    for (int s = 0; s < f->n_series; s++) {
        double *values = numbers(h, n);
        if (!any_value(&f->series[s], get) || !values)
            continue;
        for (int i = 0; i < n; i++) {
            const evaluation *e = report_at(&f->series[s], ratio[i]);
            values[i] = !e ? NAN : get == get_kl ? e->kl : get(e);
        }
        c[n_columns++] = (column){f->series[s].name, kind, kind == SVG_PERCENT ? 4 : 3, values};
    }
    *n_rows = n;
    return n_columns;
}

static void fidelity_card(FILE *to, heap *h, const figures *f, const char *id,
                          const char *title, const char *aid, svg_axis y, quality get)
{
    static const double ratios[] = {0.0625, 0.125, 0.25, 0.5, 1};
    svg_series series[MAX_SERIES];
    column columns[MAX_SERIES + 2];
    svg_rule rule;
    int n_rows = 0;
    svg_chart c = {.title = title, .y = y, .series = series,
                   .x = axis("share of the FFN neurons computed (log scale)", SVG_NUMBER)};
    c.x.log = true;
    c.x.ticks = ratios;
    c.x.n_ticks = sizeof ratios / sizeof *ratios;
    for (int i = 0; i < f->n_series; i++)
        if (any_value(&f->series[i], get))
            series[c.n_series++] = curve(h, &f->series[i], i, get);
    const evaluation *dense = report_at(&f->series[0], 1);
    if (dense && (get == get_accuracy || get == get_pearson)) {
        rule = (svg_rule){"dense model", get(dense)};
        c.rules = &rule;
        c.n_rules = 1;
    }
    const int n_columns = fidelity_table(h, f, get, y.kind, columns, &n_rows);
    if (!h->failed && c.n_series > 0)
        write_card(to, id, aid, &c, columns, n_columns, n_rows);
}

static const char *agreement_aid(heap *h, const figures *f)
{
    const evaluation *router = report_at(report_series(f, "router"), 0.25);
    const evaluation *oracle = report_at(report_series(f, "oracle"), 0.25);
    if (!router || !oracle)
        return "Share of the rows that get the dense model's label.";
    return text(h, "At ratio 0.25, %.1f%% of the rows get the dense model's label, %.1f%% if the "
                "oracle chose.", 100 * router->agreement, 100 * oracle->agreement);
}

static void class_cards(FILE *to, heap *h, const figures *f)
{
    svg_axis kl = axis("KL(dense \xE2\x80\x96 sparse), nats (log scale)", SVG_NUMBER);
    kl.log = true;
    fidelity_card(to, h, f, "agreement", "Agreement with the dense model",
                  agreement_aid(h, f), axis("rows with the dense model's label", SVG_PERCENT),
                  get_agreement);
    fidelity_card(to, h, f, "kl", "KL divergence from the dense model",
                  "Lower is closer to the dense model's probabilities; at ratio 1 it is 0.", kl,
                  get_kl);
    if (f->labelled)
        fidelity_card(to, h, f, "accuracy", "Accuracy",
                      "Share of rows with the right label; the dashed level is the dense model.",
                      axis("rows with the right label", SVG_PERCENT), get_accuracy);
}

static void value_cards(FILE *to, heap *h, const figures *f)
{
    svg_axis difference = axis("mean absolute difference", SVG_NUMBER);
    difference.min = 0;
    fidelity_card(to, h, f, "difference", "Difference from the dense model",
                  "How far the output lies from the dense model's, on average; lower is closer.",
                  difference, get_difference);
    if (f->labelled)
        fidelity_card(to, h, f, "pearson", "Correlation with the labels",
                      "Pearson's correlation of output and label; the dashed level is the dense "
                      "model.", axis("Pearson correlation", SVG_NUMBER), get_pearson);
}

bool report_fidelity(FILE *to, const figures *f)
{
    heap h = {.last = NULL};
    fputs("<section>\n<h2>Fidelity</h2>\n<p class=\"intro\">What each ratio keeps of the dense "
          "model. The oracle knows which experts are the most active, random chooses by chance, "
          "frequency computes the same experts for every token. The band around the router is "
          "Wilson's 95% interval.</p>\n<div class=\"grid\">\n", to);
    if (f->regress)
        value_cards(to, &h, f);
    else
        class_cards(to, &h, f);
    fidelity_card(to, &h, f, "mass-by-ratio", "Activation mass kept",
                  "The oracle's curve is the most that this split allows; it says less about "
                  "quality than agreement and KL do.",
                  axis("share of the positive activation", SVG_PERCENT), get_mass);
    fputs("</div>\n</section>\n", to);
    heap_free(&h);
    return !h.failed;
}

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
        .name = mark >= 0 ? text(h, "layer %d", layer) : i == 1 ? "layers between" : "",
        .x = x, .y = y, .n = n_points, .style = {colour, mark >= 0 ? mark : 0},
        .look = mark >= 0 ? SVG_LINE : SVG_FAINT_LINE, .marker_every = every,
        .marker_first = mark >= 0 && last > 0 ? mark * (every - 1) / last : 0};
}

static void cdf_card(FILE *to, heap *h, const figures *f)
{
    int layer[REPORT_MAX_LAYERS];
    const int n = report_choose_layers(f, false, layer);
    svg_series series[REPORT_MAX_LAYERS];
    column columns[REPORT_MAX_LAYERS + 1];
    double *x = numbers(h, CDF_POINTS), most = 0;
    for (int i = 0; x && i < CDF_POINTS; i++)
        x[i] = figures_cdf_share(f, i);
    columns[0] = (column){"at most", SVG_PERCENT, 3, x};
    for (int i = 0; i < n; i++) {
        const layer_figures *l = &f->layers[layer[i]];
        double *y = numbers(h, CDF_POINTS);
        int n_points = 0; /* a curve ends where it has come to 1 */
        for (int k = 0; x && y && k < CDF_POINTS; k++) {
            y[k] = layer_firing_cdf(l, x[k]);
            n_points += k == 0 || y[k - 1] < 1;
        }
        series[i] = layer_curve(h, layer[i], i, n, x, y, n_points);
        columns[i + 1] = (column){text(h, "layer %d", layer[i]), SVG_PERCENT, 4, y};
        most = fmax(most, l->active);
    }
    svg_chart c = {.title = "Neurons activated per token", .series = series, .n_series = n,
                   .x = axis("share of the layer's neurons activated", SVG_PERCENT),
                   .y = axis("tokens with at most that share", SVG_PERCENT)};
    c.x.min = c.y.min = 0;
    c.y.max = 1;
    if (!h->failed)
        write_card(to, "activated", text(h, "Curves far to the left are sparse layers; the "
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
    double *all = numbers(h, l->n_experts), *y = numbers(h, n_ranks);
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
    column columns[REPORT_MAX_LAYERS + 1];
    const int experts = f->info->n_experts, n_ranks = experts < MAX_RANKS ? experts : MAX_RANKS;
    double *rank = numbers(h, n_ranks);
    for (int i = 0; rank && i < n_ranks; i++)
        rank[i] = 1 + (n_ranks > 1 ? (int64_t)i * (experts - 1) / (n_ranks - 1) : 0);
    columns[0] = (column){"rank", SVG_WHOLE, 6, rank};
    for (int i = 0; i < n; i++) {
        const double *y = ranked(h, &f->layers[layer[i]], n_ranks);
        series[i] = layer_curve(h, layer[i], i, n, rank, y, n_ranks);
        columns[i + 1] = (column){text(h, "layer %d", layer[i]), SVG_PERCENT, 3, y};
    }
    svg_rule rule = {text(h, "all alike: %g", f->selected_ratio), f->selected_ratio};
    svg_chart c = {.title = text(h, "Selection frequency at ratio %g", f->selected_ratio),
                   .series = series, .n_series = n, .rules = &rule, .n_rules = 1,
                   .x = axis("rank of the expert, from the most selected", SVG_WHOLE),
                   .y = axis("tokens that select the expert", SVG_PERCENT)};
    c.y.min = 0;
    c.y.max = 1;
    c.x.min = 1;
    c.x.max = experts > 1 ? experts : 2;
    if (!h->failed)
        write_card(to, "frequency", "A flat curve shares the work; a steep one has experts for "
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
    double *v = numbers(h, n);
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
    column columns[9];
    const char **names = take(h, (size_t)n, sizeof *names);
    const double *index = per_layer(h, f, layer, n, get_index);
    columns[0] = (column){"layer", SVG_WHOLE, 6, index};
    for (int i = 0; names && i < n; i++)
        names[i] = text(h, "%d", layer[i]);
    for (int s = 0; s < n_rows; s++) {
        const double *y = per_layer(h, f, layer, n, rows[s].get);
        series[s] = (svg_series){.name = rows[s].name, .x = index, .y = y, .n = n,
                                 .style = rows[s].style, .look = rows[s].look};
        columns[s + 1] = (column){rows[s].name, c.y.kind, c.y.kind == SVG_PERCENT ? 4 : 3, y};
    }
    c.x = axis("layer", SVG_WHOLE);
    c.series = series;
    c.n_series = n_rows;
    c.category = names;
    if (!h->failed)
        write_card(to, id, aid, &c, columns, n_rows + 1, n);
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
                   .y = axis("mean cosine of pairs of FFN inputs", SVG_NUMBER)};
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
                   .y = axis("co-activation between experts", SVG_PERCENT)};
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
                   .y = axis("oracle's experts that the router picks", SVG_PERCENT)};
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
                   .y = axis("share of the positive activation", SVG_PERCENT)};
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
