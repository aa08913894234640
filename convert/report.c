/* report.c: the page around the charts: its head, the key figures, the budgets as a
 * heat table, and the facts of the conversion. */
#include <libgen.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "convert/report.h"
#include "convert/svg.h"
#include "convert/table.h"

enum { MAX_RATIO_ROWS = 24, MAX_FACTS = 200, MAX_LIST = 24, MAX_TEXT = 300, DIGITS = 6 };

/* ---- looking things up -------------------------------------------------------- */

const fidelity *report_series(const figures *f, const char *name)
{
    for (int i = 0; i < f->n_series; i++)
        if (!f->series[i].stored && strcmp(f->series[i].name, name) == 0)
            return &f->series[i];
    return NULL;
}

const evaluation *report_at(const fidelity *s, double ratio)
{
    for (int i = 0; s && i < s->n; i++)
        if (s->at[i].ratio == ratio)
            return &s->at[i];
    return NULL;
}

int report_choose_layers(const figures *f, bool routed, int *layer)
{
    int n = 0, kept = 0, all = 0;
    for (int l = 0; l < f->n_layers; l++)
        all += f->layers[l].routed || !routed;
    n = all < REPORT_MAX_LAYERS ? all : REPORT_MAX_LAYERS;
    for (int l = 0, at = 0; l < f->n_layers && kept < n; l++) {
        if (routed && !f->layers[l].routed)
            continue;
        /* The at-th of all; the kept-th of n evenly spread ones lies there. */
        if (n == 1 || at == (int)((int64_t)kept * (all - 1) / (n - 1)))
            layer[kept++] = l;
        at++;
    }
    return n;
}

/* ---- the head ----------------------------------------------------------------- */

static void write_name(FILE *to, const char *path)
{
    char *copy = strdup(path);
    svg_escape(to, copy ? basename(copy) : path);
    free(copy);
}

__attribute__((format(printf, 4, 5)))
static void tile(FILE *to, const char *label, const char *value, const char *format, ...)
{
    va_list args;
    fprintf(to, "<li><span class=\"label\">%s</span><strong>%s</strong><span class=\"note\">",
            label, value);
    va_start(args, format);
    vfprintf(to, format, args);
    va_end(args);
    fputs("</span></li>\n", to);
}

static void fidelity_tile(FILE *to, const figures *f, double ratio)
{
    const evaluation *e = report_at(report_series(f, "router"), ratio);
    char label[64], value[32];
    if (!e)
        return;
    if (f->regress) {
        snprintf(label, sizeof label, "difference at ratio %g", ratio);
        svg_value(SVG_NUMBER, e->mean_abs_difference, 3, value, sizeof value);
        tile(to, label, value, "mean, absolute, from dense");
    } else {
        snprintf(label, sizeof label, "agreement at ratio %g", ratio);
        snprintf(value, sizeof value, "%.1f%%", 100 * e->agreement);
        tile(to, label, value, "KL %.3g nats", e->kl);
    }
}

static void layer_tiles(FILE *to, const figures *f)
{
    double active = 0, caught = 0;
    int n_routed = 0;
    char value[32];
    for (int l = 0; l < f->n_layers; l++) {
        active += f->layers[l].active / f->n_layers;
        if (f->layers[l].routed) {
            caught += f->layers[l].mass_router;
            n_routed++;
        }
    }
    snprintf(value, sizeof value, "%.1f%%", 100 * active);
    tile(to, "neurons active", value, "mean over tokens and layers");
    if (n_routed == 0)
        return;
    snprintf(value, sizeof value, "%.1f%%", 100 * caught / n_routed);
    tile(to, "activation mass kept", value, "by the router at 20%% of the experts");
}

/* "65,536" */
static const char *grouped(int n, char text[16])
{
    if (n < 1000)
        snprintf(text, 16, "%d", n);
    else if (n < 1000000)
        snprintf(text, 16, "%d,%03d", n / 1000, n % 1000);
    else
        snprintf(text, 16, "%d,%03d,%03d", n / 1000000, n / 1000 % 1000, n % 1000);
    return text;
}

static void write_lead(FILE *to, const figures *f)
{
    const moe_model_info *info = f->info;
    char n[5][16];
    fprintf(to, "<p class=\"lead\">%d layers, %d FFN neurons each in %d experts of %d, cut by "
            "<b>", info->n_layers, info->d_ff, info->n_experts, info->expert_size);
    svg_escape(to, info->split);
    fputs("</b> and chosen by the router <b>", to);
    svg_escape(to, info->router);
    fputs("</b>. Measured on <b>", to);
    write_name(to, f->data_name);
    if (f->n_rows < f->n_rows_read)
        fprintf(to, "</b>: %s of its %s rows", grouped(f->n_rows, n[0]),
                grouped(f->n_rows_read, n[1]));
    else
        fprintf(to, "</b>: %s rows", grouped(f->n_rows, n[0]));
    fprintf(to, " (%s tokens) for fidelity, %s of them (%s tokens) for the layers%s.</p>\n",
            grouped(f->n_tokens, n[2]), f->n_layer_rows < f->n_rows
            ? grouped(f->n_layer_rows, n[3]) : "all", grouped(f->n_layer_tokens, n[4]),
            f->labelled ? "" : "; it has no labels");
}

static void write_head(FILE *to, const figures *f)
{
    fputs("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
          "<meta name=\"color-scheme\" content=\"light dark\"/>\n<title>", to);
    write_name(to, f->info->dir);
    fprintf(to, " - moefy report</title>\n<style>%s</style>\n</head>\n<body>\n<main>\n<header>\n"
            "<p class=\"kicker\">moefy report</p>\n<h1>", report_style);
    write_name(to, f->info->dir);
    fputs("</h1>\n", to);
    write_lead(to, f);
    fputs("<ul class=\"tiles\">\n", to);
    fidelity_tile(to, f, 0.5);
    fidelity_tile(to, f, 0.25);
    fidelity_tile(to, f, 0.125);
    layer_tiles(to, f);
    fputs("</ul>\n</header>\n", to);
}

/* ---- budgets ------------------------------------------------------------------- */

static void budget_row(FILE *to, const figures *f, const moe_ratio_row *row, const int *layer,
                       int n)
{
    double sum = 0;
    for (int l = 0; l < f->info->n_layers; l++)
        sum += row->experts[l];
    fprintf(to, "<tr><th scope=\"row\">%.4g</th>", row->ratio);
    for (int i = 0; i < n; i++)
        fprintf(to, "<td class=\"heat\" style=\"--v:%.2f\">%d</td>",
                (double)row->experts[layer[i]] / f->info->n_experts, row->experts[layer[i]]);
    fprintf(to, "<td>%.1f</td></tr>\n", sum / f->info->n_layers);
}

void report_budgets(FILE *to, const figures *f)
{
    int layer[REPORT_MAX_LAYERS];
    const int n = report_choose_layers(f, false, layer), all = f->info->n_ratio_rows;
    const int rows = all < MAX_RATIO_ROWS ? all : MAX_RATIO_ROWS;
    fprintf(to, "<section>\n<h2>Budgets</h2>\n<figure class=\"card wide\" id=\"budgets\">\n"
            "<figcaption><h3>Experts computed per layer, of %d</h3>\n<p>One row per ratio of the "
            "model's table (share of the model's FFN neurons), one column per layer; the stronger "
            "a cell's colour, the more of the layer is computed. Requests between two rows get "
            "counts between them.</p></figcaption>\n"
            "<div class=\"scroll\"><table class=\"heatmap\">\n<thead><tr><th scope=\"col\" "
            "rowspan=\"2\">ratio</th><th class=\"soft\" colspan=\"%d\">layer</th>"
            "<th scope=\"col\" rowspan=\"2\">mean</th></tr>\n<tr>", f->info->n_experts, n);
    for (int i = 0; i < n; i++)
        fprintf(to, "<th scope=\"col\">%d</th>", layer[i]);
    fputs("</tr></thead>\n<tbody>\n", to);
    for (int i = 0; i < rows; i++) {
        const int at = rows == 1 ? all - 1 : (int)((int64_t)i * (all - 1) / (rows - 1));
        budget_row(to, f, &f->info->ratio_rows[at], layer, n);
    }
    fputs("</tbody></table></div>\n</figure>\n</section>\n", to);
}

/* ---- facts --------------------------------------------------------------------- */

static void begin_fact(FILE *to, const char *name)
{
    fputs("<div><dt>", to);
    svg_escape(to, name);
    fputs("</dt><dd>", to);
}

static void end_fact(FILE *to)
{
    fputs("</dd></div>\n", to);
}

__attribute__((format(printf, 3, 4)))
static void fact(FILE *to, const char *name, const char *format, ...)
{
    char text[MAX_TEXT];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    begin_fact(to, name);
    svg_escape(to, text);
    end_fact(to);
}

/* Keys of the moefication object that have a better name for people. */
static const struct { const char *path, *name; } known[] = {
    {"split", "split"}, {"router.kind", "router"}, {"policy", "policy"},
    {"router.normalize", "router reads x / \xE2\x80\x96x\xE2\x80\x96"},
    {"router.linears", "linear layers of a router"}, {"router.width", "width of a router"},
    {"dtype", "weights stored as"}, {"expert_size", "neurons of an expert"},
    {"n_experts", "experts of a layer"}, {"layers", "layers with experts"},
    {"format_version", "format version"}, {"provenance.tool", "made by"},
    {"provenance.seed", "seed"}, {"provenance.max_tokens", "calibration tokens allowed"},
    {"provenance.source.name", "source"},
    {"provenance.source.config_sha256", "source config.json, SHA-256"},
    {"provenance.source.weights_sha256", "source weights, SHA-256"},
    {"provenance.calibration.name", "calibrated on"},
    {"provenance.calibration.sha256", "calibration text, SHA-256"},
    {"provenance.calibration.rows", "calibration rows"},
    {"provenance.calibration.sequences", "calibration rows used"},
    {"provenance.calibration.tokens", "calibration tokens used"},
};
static const char *const shown_elsewhere[] = {"ratio_table", "fidelity"};

static const char *people_name(const char *path)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].path, path) == 0)
            return known[i].name;
    return path;
}

static bool is_shown_elsewhere(const char *path)
{
    for (size_t i = 0; i < sizeof shown_elsewhere / sizeof *shown_elsewhere; i++)
        if (strcmp(shown_elsewhere[i], path) == 0)
            return true;
    return false;
}

/* A plain value, long texts cut; lists of lists in brackets. */
static void write_value(FILE *to, const json *v)
{
    char *text = json_print(v, false);
    if (!text)
        return;
    size_t n = strlen(text), from = text[0] == '"' && n >= 2;
    n -= 2 * from;
    svg_escape_n(to, text + from, n < MAX_TEXT ? n : MAX_TEXT);
    fputs(n < MAX_TEXT ? "" : " ...", to);
    free(text);
}

static void write_list(FILE *to, const json *list)
{
    int n = 0;
    for (const json *v = json_first(list); v; v = json_next(v), n++) {
        if (n >= MAX_LIST)
            continue;
        fputs(n ? ", " : "", to);
        write_value(to, v);
    }
    if (n > MAX_LIST)
        fprintf(to, ", ... (%d)", n);
}

/* Every leaf of an object under its path; *left: facts that there is room for. */
static void write_leaves(FILE *to, const json *object, const char *prefix, int *left)
{
    for (const json *v = json_first(object); v && *left > 0; v = json_next(v)) {
        char path[200];
        snprintf(path, sizeof path, "%s%s%s", prefix, *prefix ? "." : "", json_key(v));
        if (is_shown_elsewhere(path))
            continue;
        if (json_is_object(v)) {
            write_leaves(to, v, path, left);
            continue;
        }
        begin_fact(to, people_name(path));
        if (json_is_array(v))
            write_list(to, v);
        else
            write_value(to, v);
        end_fact(to);
        --*left;
    }
}

void report_facts(FILE *to, const figures *f)
{
    const moe_model_info *info = f->info;
    char size[32];
    int left = MAX_FACTS;
    json *j = json_parse_text(info->moefication_json, strlen(info->moefication_json));
    table_bytes(info->weight_bytes, size, sizeof size);
    fputs("<section>\n<h2>Facts</h2>\n<figure class=\"card wide\" id=\"facts\">\n<figcaption>"
          "<h3>The model</h3></figcaption>\n<dl>\n", to);
    fact(to, "directory", "%s", info->dir);
    fact(to, "architecture", "%s, %s", info->architecture, task_name(info->task));
    fact(to, "shape", "%d layers, width %d, %d heads, FFN %d (%s)", info->n_layers,
         info->d_model, info->n_heads, info->d_ff, info->activation);
    fact(to, "weights", "%s, %s", size, info->dtype);
    fputs("</dl>\n<h3>Its conversion</h3>\n<dl>\n", to);
    write_leaves(to, j, "", &left);
    fputs("</dl>\n<h3>This report</h3>\n<dl>\n", to);
    fact(to, "made by", "moefy %s", MOE_VERSION);
    fact(to, "text", "%s", f->data_name);
    fact(to, "text, SHA-256", "%s", f->data_sha256);
    fputs("</dl>\n</figure>\n</section>\n", to);
    json_free(j);
}

bool report_write(FILE *to, const figures *f)
{
    write_head(to, f);
    if (!report_fidelity(to, f) || !report_layers(to, f))
        return false;
    report_budgets(to, f);
    report_facts(to, f);
    fputs("</main>\n</body>\n</html>\n", to);
    return true;
}
