/* report_fidelity.c: quality against ratio: one card per measure, one curve per way of
 * choosing experts. */
#include <math.h>
#include <string.h>

#include "convert/metrics.h"
#include "convert/report.h"
#include "convert/report_card.h"

enum { MAX_RATIOS = 64 };

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
    double *low = heap_numbers(h, from->n), *high = heap_numbers(h, from->n);
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
    double *x = heap_numbers(h, from->n), *y = heap_numbers(h, from->n);
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
static int fidelity_table(heap *h, const figures *f, quality get, svg_kind kind, card_column *c,
                          int *n_rows)
{
    const fidelity *base = &f->series[0];
    double *ratio = heap_numbers(h, MAX_RATIOS), *effective = heap_numbers(h, MAX_RATIOS);
    int n_columns = 0;
    if (h->failed)
        return 0;
    const int n = all_ratios(f, ratio);
    for (int i = 0; i < n; i++) {
        const evaluation *e = report_at(base, ratio[i]);
        effective[i] = e ? e->effective_ratio : NAN;
    }
    c[n_columns++] = (card_column){"ratio", SVG_NUMBER, PLAIN, ratio};
    c[n_columns++] = (card_column){"effective", SVG_NUMBER, 4, effective};
    for (int s = 0; s < f->n_series; s++) {
        double *values = heap_numbers(h, n);
        if (!any_value(&f->series[s], get) || !values)
            continue;
        for (int i = 0; i < n; i++) {
            const evaluation *e = report_at(&f->series[s], ratio[i]);
            values[i] = !e ? NAN : get == get_kl ? e->kl : get(e);
        }
        c[n_columns++] = (card_column){f->series[s].name, kind, kind == SVG_PERCENT ? 1 : 4,
                                       values};
    }
    *n_rows = n;
    return n_columns;
}

static void fidelity_card(FILE *to, heap *h, const figures *f, const char *id,
                          const char *title, const char *aid, svg_axis y, quality get)
{
    static const double ratios[] = {0.0625, 0.125, 0.25, 0.5, 1};
    svg_series series[MAX_SERIES];
    card_column columns[MAX_SERIES + 2];
    svg_rule rule;
    int n_rows = 0;
    svg_chart c = {.title = title, .y = y, .series = series,
                   .x = card_axis("share of the FFN neurons computed (log scale)", SVG_NUMBER)};
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
        card_draw(to, id, aid, &c, columns, n_columns, n_rows);
}

static const char *agreement_aid(heap *h, const figures *f)
{
    const evaluation *router = report_at(report_series(f, "router"), 0.25);
    const evaluation *oracle = report_at(report_series(f, "oracle"), 0.25);
    if (!router || !oracle)
        return "Share of the rows that get the dense model's label.";
    return heap_text(h, "At ratio 0.25, %.1f%% of the rows get the dense model's label, "
                     "%.1f%% if the oracle chose.", 100 * router->agreement, 100 * oracle->agreement);
}

static void class_cards(FILE *to, heap *h, const figures *f)
{
    svg_axis kl = card_axis("KL(dense \xE2\x80\x96 sparse), nats (log scale)", SVG_NUMBER);
    kl.log = true;
    fidelity_card(to, h, f, "agreement", "Agreement with the dense model",
                  agreement_aid(h, f), card_axis("rows with the dense model's label", SVG_PERCENT),
                  get_agreement);
    fidelity_card(to, h, f, "kl", "KL divergence from the dense model",
                  "Lower is closer to the dense model's probabilities; at ratio 1 it is 0.", kl,
                  get_kl);
    if (f->labelled)
        fidelity_card(to, h, f, "accuracy", "Accuracy",
                      "Share of rows with the right label; the dashed level is the dense model.",
                      card_axis("rows with the right label", SVG_PERCENT), get_accuracy);
}

static void value_cards(FILE *to, heap *h, const figures *f)
{
    svg_axis difference = card_axis("mean absolute difference", SVG_NUMBER);
    difference.min = 0;
    fidelity_card(to, h, f, "difference", "Difference from the dense model",
                  "How far the output lies from the dense model's, on average; lower is closer.",
                  difference, get_difference);
    if (f->labelled)
        fidelity_card(to, h, f, "pearson", "Correlation with the labels",
                      "Pearson's correlation of output and label; the dashed level is the dense "
                      "model.", card_axis("Pearson correlation", SVG_NUMBER), get_pearson);
}

bool report_fidelity(FILE *to, const figures *f)
{
    heap h = {.last = NULL};
    fprintf(to, "<section>\n<h2>Fidelity</h2>\n<p class=\"intro\">What each ratio keeps of the "
            "dense model. The oracle knows which experts are the most active, random chooses by "
            "chance, frequency computes the same experts for every token.%s</p>\n"
            "<div class=\"grid\">\n", f->regress ? "" : " The band around the router is "
            "Wilson's 95% interval.");
    if (f->regress)
        value_cards(to, &h, f);
    else
        class_cards(to, &h, f);
    fidelity_card(to, &h, f, "mass-by-ratio", "Activation mass kept",
                  "The oracle's curve is the most that this split allows; it says less about "
                  "quality than agreement and KL do.",
                  card_axis("share of the positive activation", SVG_PERCENT), get_mass);
    fputs("</div>\n</section>\n", to);
    heap_free(&h);
    return !h.failed;
}
