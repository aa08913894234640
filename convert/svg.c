/* svg.c: line and bar charts.
 *
 * The y label stands above the plot's left edge, where it reads without turning
 * the head; the x label below it. Grid lines are horizontal. A line is told from
 * others by its dashes and by the shape of its markers, a bar by being filled,
 * hollow or a tick; the legend shows the same. Every marker and bar has a <title>,
 * which browsers show under the pointer. */
#include <math.h>
#include <string.h>

#include "convert/svg.h"

enum { TOP = 32, BOTTOM = 44, RIGHT = 16, CHAR_WIDTH = 8, WANT_X = 6, WANT_Y = 6,
       MAX_CATEGORY_LABELS = 12, LABEL_DIGITS = 4, TITLE_DIGITS = 4 };

static const char *const dashes[SVG_SHAPES] = {"", "7 3", "2 3", "9 3 2 3", "4 2", "12 4",
                                               "1 4", "6 2 1 2 1 2"};

/* ---- marks ------------------------------------------------------------------ */

/* The outline of a marker of radius r around (x, y). */
static void shape_path(FILE *to, int shape, double x, double y, double r)
{
    switch (shape) {
    case 1: case 5:
        fprintf(to, "M%.1f %.1fh%.1fv%.1fh%.1fz", x - 0.9 * r, y - 0.9 * r, 1.8 * r, 1.8 * r,
                -1.8 * r);
        break;
    case 2:
        fprintf(to, "M%.1f %.1fl%.1f %.1fh%.1fz", x, y - 1.2 * r, 1.15 * r, 2.1 * r, -2.3 * r);
        break;
    case 3:
        fprintf(to, "M%.1f %.1fl%.1f %.1fl%.1f %.1fl%.1f %.1fz", x, y - 1.3 * r, 1.3 * r,
                1.3 * r, -1.3 * r, 1.3 * r, -1.3 * r, -1.3 * r);
        break;
    case 6:
        fprintf(to, "M%.1f %.1fl%.1f %.1fm0 %.1fl%.1f %.1f", x - r, y - r, 2 * r, 2 * r,
                -2 * r, -2 * r, 2 * r);
        break;
    case 7:
        fprintf(to, "M%.1f %.1fh%.1fm%.1f %.1fv%.1f", x - 1.3 * r, y, 2.6 * r, -1.3 * r,
                -1.3 * r, 2.6 * r);
        break;
    default: /* a circle, filled or hollow */
        fprintf(to, "M%.1f %.1fa%.1f %.1f 0 1 0 %.1f 0a%.1f %.1f 0 1 0 %.1f 0z", x - r, y, r, r,
                2 * r, r, r, -2 * r);
    }
}

static void marker(FILE *to, const svg_style *s, double x, double y)
{
    const bool hollow = s->shape == 4 || s->shape == 5;
    fprintf(to, "<path class=\"%s c%d\" d=\"", s->shape >= 6 ? "stroke" : hollow ? "ring" : "dot",
            s->colour);
    shape_path(to, s->shape, x, y, 3.2);
    fputc('"', to);
}

static void dash_attribute(FILE *to, int shape)
{
    if (*dashes[shape])
        fprintf(to, " stroke-dasharray=\"%s\"", dashes[shape]);
}

/* ---- the frame -------------------------------------------------------------- */

typedef struct {
    const svg_chart *c;
    svg_axis x, y;             /* fitted */
    double left, right, top, bottom;
    bool bars;
} frame;

static double place_x(const frame *f, double v)
{
    return svg_place(&f->x, v, f->left, f->right);
}

static double place_y(const frame *f, double v)
{
    return svg_place(&f->y, v, f->bottom, f->top);
}

static bool drawable(const svg_axis *a, double v)
{
    return isfinite(v) && (!a->log || v > 0);
}

static void widen(const svg_axis *a, double v, double *low, double *high)
{
    if (!drawable(a, v))
        return;
    *low = v < *low ? v : *low;
    *high = v > *high ? v : *high;
}

static void fit_y(frame *f)
{
    double low = INFINITY, high = -INFINITY;
    for (int s = 0; s < f->c->n_series; s++) {
        const svg_series *one = &f->c->series[s];
        for (int i = 0; i < one->n; i++) {
            widen(&f->y, one->y[i], &low, &high);
            if (one->low) {
                widen(&f->y, one->low[i], &low, &high);
                widen(&f->y, one->high[i], &low, &high);
            }
        }
    }
    for (int i = 0; i < f->c->n_rules; i++)
        widen(&f->y, f->c->rules[i].y, &low, &high);
    if (f->bars)
        widen(&f->y, 0, &low, &high); /* the length of a bar is its value */
    svg_axis_fit(&f->y, low, high);
}

static void fit_x(frame *f)
{
    double low = INFINITY, high = -INFINITY;
    int n_categories = 0;
    for (int s = 0; s < f->c->n_series; s++) {
        const svg_series *one = &f->c->series[s];
        n_categories = one->n > n_categories ? one->n : n_categories;
        for (int i = 0; i < one->n && !f->bars; i++)
            widen(&f->x, one->x[i], &low, &high);
    }
    if (f->bars) {
        f->x.min = -0.5;
        f->x.max = n_categories - 0.5;
    }
    svg_axis_fit(&f->x, low, high);
}

static void tick_label(FILE *to, double x, double y, const char *anchor, const char *text)
{
    fprintf(to, "<text class=\"tick\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", x, y, anchor);
    svg_escape(to, text);
    fputs("</text>", to);
}

static void draw_y_axis(FILE *to, const frame *f, const double *tick, int n)
{
    char text[32];
    for (int i = 0; i < n; i++) {
        const double y = place_y(f, tick[i]);
        fprintf(to, "<path class=\"grid\" d=\"M%.1f %.1fH%.1f\"/>", f->left, y, f->right);
        svg_value(f->y.kind, tick[i], LABEL_DIGITS, text, sizeof text);
        tick_label(to, f->left - 7, y + 4, "end", text);
    }
}

static void draw_x_axis(FILE *to, const frame *f)
{
    double tick[SVG_MAX_TICKS];
    char text[32];
    const int n = f->bars ? 0 : svg_ticks(&f->x, WANT_X, tick);
    fprintf(to, "<path class=\"axis\" d=\"M%.1f %.1fH%.1f\"/>", f->left, f->bottom, f->right);
    for (int i = 0; i < n; i++) {
        const double x = place_x(f, tick[i]);
        fprintf(to, "<path class=\"axis\" d=\"M%.1f %.1fv4\"/>", x, f->bottom);
        svg_value(f->x.kind, tick[i], LABEL_DIGITS, text, sizeof text);
        tick_label(to, x, f->bottom + 17, "middle", text);
    }
    const int n_categories = (int)(f->x.max + 0.5);
    const int every = (n_categories + MAX_CATEGORY_LABELS - 1) / MAX_CATEGORY_LABELS;
    for (int i = 0; f->bars && i < n_categories; i += every)
        tick_label(to, place_x(f, i), f->bottom + 17, "middle", f->c->category[i]);
    fprintf(to, "<text class=\"label\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">",
            (f->left + f->right) / 2, f->bottom + 37);
    svg_escape(to, f->x.label);
    fputs("</text>", to);
}

/* Fits both axes and leaves as much room at the left as the widest label takes. */
static void draw_frame(FILE *to, frame *f)
{
    double tick[SVG_MAX_TICKS];
    size_t widest = 0;
    char text[32];
    fit_x(f);
    fit_y(f);
    const int n = svg_ticks(&f->y, WANT_Y, tick);
    for (int i = 0; i < n; i++) {
        svg_value(f->y.kind, tick[i], LABEL_DIGITS, text, sizeof text);
        widest = strlen(text) > widest ? strlen(text) : widest;
    }
    f->left = 12 + CHAR_WIDTH * (double)widest;
    f->right = SVG_WIDTH - RIGHT;
    f->top = TOP;
    f->bottom = SVG_HEIGHT - BOTTOM;
    draw_y_axis(to, f, tick, n);
    draw_x_axis(to, f);
    fputs("<text class=\"label\" x=\"2\" y=\"13\">", to);
    svg_escape(to, f->y.label);
    fputs("</text>", to);
}

/* ---- series ----------------------------------------------------------------- */

/* "router: 0.25, 97.4%" under the pointer. */
static void point_title(FILE *to, const frame *f, const svg_series *s, int i)
{
    char x[32], y[32];
    svg_value(f->y.kind, s->y[i], TITLE_DIGITS, y, sizeof y);
    if (!f->bars)
        svg_value(f->x.kind, s->x[i], TITLE_DIGITS, x, sizeof x);
    fputs("<title>", to);
    svg_escape(to, s->name);
    fputs(f->bars ? ", " : ": ", to);
    svg_escape(to, f->bars ? f->c->category[i] : x);
    fprintf(to, "%s%s</title>", f->bars ? ": " : ", ", y);
}

static bool point_there(const frame *f, const svg_series *s, int i)
{
    return drawable(&f->x, s->x[i]) && drawable(&f->y, s->y[i]);
}

static double clamped_y(const frame *f, double v)
{
    const double y = drawable(&f->y, v) ? place_y(f, v) : f->bottom;
    return y > f->bottom ? f->bottom : y < f->top ? f->top : y;
}

static void draw_band(FILE *to, const frame *f, const svg_series *s)
{
    int n = 0;
    fprintf(to, "<path class=\"band c%d\" d=\"", s->style.colour);
    for (int i = 0; i < s->n; i++)
        if (point_there(f, s, i) && !isnan(s->high[i]))
            fprintf(to, "%c%.1f %.1f", n++ ? 'L' : 'M', place_x(f, s->x[i]),
                    clamped_y(f, s->high[i]));
    for (int i = s->n - 1; i >= 0; i--)
        if (point_there(f, s, i) && !isnan(s->low[i]))
            fprintf(to, "L%.1f %.1f", place_x(f, s->x[i]), clamped_y(f, s->low[i]));
    fputs(n ? "z\"/>" : "\"/>", to);
}

static void draw_line(FILE *to, const frame *f, const svg_series *s)
{
    bool pen_down = false;
    fprintf(to, "<path class=\"%s c%d\"", s->look == SVG_FAINT_LINE ? "faint" : "line",
            s->style.colour);
    if (s->look == SVG_LINE)
        dash_attribute(to, s->style.shape);
    fputs(" d=\"", to);
    for (int i = 0; i < s->n; i++) {
        const bool there = point_there(f, s, i);
        if (there)
            fprintf(to, "%c%.1f %.1f", pen_down ? 'L' : 'M', place_x(f, s->x[i]),
                    place_y(f, s->y[i]));
        pen_down = there;
    }
    fputs("\"/>", to);
}

static void draw_markers(FILE *to, const frame *f, const svg_series *s)
{
    const int every = s->marker_every > 1 ? s->marker_every : 1;
    for (int i = s->marker_first; i < s->n; i += every) {
        if (!point_there(f, s, i))
            continue;
        marker(to, &s->style, place_x(f, s->x[i]), place_y(f, s->y[i]));
        fputc('>', to);
        point_title(to, f, s, i);
        fputs("</path>", to);
    }
}

/* Bars of one category stand side by side in 72% of its width; a tick crosses all. */
static void draw_bar(FILE *to, const frame *f, const svg_series *s, int i, int at, int n_bars)
{
    const double group = 0.72 * (place_x(f, 1) - place_x(f, 0));
    const double each = group / n_bars, gap = each > 6 ? 1 : 0;
    const double x = place_x(f, i) - group / 2 + at * each, y = place_y(f, s->y[i]);
    const double zero = place_y(f, 0);
    if (s->look == SVG_TICK)
        fprintf(to, "<path class=\"level c%d\" d=\"M%.1f %.1fh%.1f\">", s->style.colour,
                place_x(f, i) - group / 2 - 2, y, group + 4);
    else
        fprintf(to, "<rect class=\"%s c%d\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\">",
                s->look == SVG_BAR ? "bar" : "hollow", s->style.colour, x + gap,
                y < zero ? y : zero, each - 2 * gap, fabs(zero - y));
    point_title(to, f, s, i);
    fputs(s->look == SVG_TICK ? "</path>" : "</rect>", to);
}

static bool is_bar(const svg_series *s)
{
    return s->look == SVG_BAR || s->look == SVG_HOLLOW_BAR || s->look == SVG_TICK;
}

static void draw_bars(FILE *to, const frame *f)
{
    int n_bars = 0, at = 0;
    for (int s = 0; s < f->c->n_series; s++)
        n_bars += f->c->series[s].look != SVG_TICK;
    for (int s = 0; s < f->c->n_series; s++) {
        const svg_series *one = &f->c->series[s];
        for (int i = 0; i < one->n; i++)
            if (drawable(&f->y, one->y[i]))
                draw_bar(to, f, one, i, at, n_bars ? n_bars : 1);
        at += one->look != SVG_TICK;
    }
}

static void draw_rules(FILE *to, const frame *f)
{
    for (int i = 0; i < f->c->n_rules; i++) {
        if (!drawable(&f->y, f->c->rules[i].y))
            continue;
        fprintf(to, "<path class=\"rule\" d=\"M%.1f %.1fH%.1f\"><title>", f->left,
                place_y(f, f->c->rules[i].y), f->right);
        svg_escape(to, f->c->rules[i].name);
        fputs("</title></path>", to);
    }
}

void svg_draw(FILE *to, const svg_chart *c)
{
    frame f = {.c = c, .x = c->x, .y = c->y, .bars = c->n_series > 0 && is_bar(&c->series[0])};
    fprintf(to, "<svg class=\"chart\" viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"",
            SVG_WIDTH, SVG_HEIGHT);
    svg_escape(to, c->title);
    fputs("\">", to);
    draw_frame(to, &f);
    draw_rules(to, &f);
    if (f.bars)
        draw_bars(to, &f);
    for (int s = 0; s < c->n_series && !f.bars; s++)
        if (c->series[s].low)
            draw_band(to, &f, &c->series[s]);
    /* The first series is the one that matters: it lies on top. */
    for (int s = c->n_series - 1; s >= 0 && !f.bars; s--) {
        draw_line(to, &f, &c->series[s]);
        if (c->series[s].look == SVG_LINE)
            draw_markers(to, &f, &c->series[s]);
    }
    fputs("</svg>\n", to);
}

/* ---- the legend ------------------------------------------------------------- */

static void sample(FILE *to, const svg_series *s)
{
    fputs("<svg viewBox=\"0 0 34 14\" aria-hidden=\"true\">", to);
    switch (s->look) {
    case SVG_BAR:
    case SVG_HOLLOW_BAR:
        fprintf(to, "<rect class=\"%s c%d\" x=\"10\" y=\"1\" width=\"12\" height=\"12\"/>",
                s->look == SVG_BAR ? "bar" : "hollow", s->style.colour);
        break;
    case SVG_TICK:
        fprintf(to, "<path class=\"level c%d\" d=\"M6 7h22\"/>", s->style.colour);
        break;
    case SVG_FAINT_LINE:
        fprintf(to, "<path class=\"faint c%d\" d=\"M1 7h32\"/>", s->style.colour);
        break;
    case SVG_LINE:
        fprintf(to, "<path class=\"line c%d\"", s->style.colour);
        dash_attribute(to, s->style.shape);
        fputs(" d=\"M1 7h32\"/>", to);
        marker(to, &s->style, 17, 7);
        fputs("/>", to);
    }
    fputs("</svg>", to);
}

void svg_legend(FILE *to, const svg_chart *c)
{
    fputs("<ul class=\"legend\">", to);
    for (int faint = 0; faint < 2; faint++) /* thin lines after the others */
        for (int s = 0; s < c->n_series; s++) {
            if (!*c->series[s].name || (c->series[s].look == SVG_FAINT_LINE) != faint)
                continue;
            fputs("<li>", to);
            sample(to, &c->series[s]);
            svg_escape(to, c->series[s].name);
            fputs("</li>", to);
        }
    for (int i = 0; i < c->n_rules; i++) {
        fputs("<li><svg viewBox=\"0 0 34 14\" aria-hidden=\"true\"><path class=\"rule\" "
              "d=\"M1 7h32\"/></svg>", to);
        svg_escape(to, c->rules[i].name);
        fputs("</li>", to);
    }
    fputs("</ul>\n", to);
}
