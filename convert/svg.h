/* svg.h: charts as inline SVG, read without scripts and without colour.
 *
 * A chart is W x H units whose size on the page is the style sheet's business;
 * colours are classes (c0 .. c15) of the page. Text of the caller is escaped here.
 * NaN is a value that is not there: its point is left out and the line broken. */
#ifndef CONVERT_SVG_H
#define CONVERT_SVG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

enum { SVG_WIDTH = 460, SVG_HEIGHT = 270, SVG_MAX_TICKS = 12, SVG_SHAPES = 8 };

/* ---- scales ----------------------------------------------------------------- */

typedef enum { SVG_NUMBER, SVG_PERCENT, SVG_WHOLE } svg_kind;

typedef struct {
    const char *label;
    svg_kind kind;       /* SVG_PERCENT: a share, printed x 100 with %;
                            SVG_WHOLE: no ticks between whole numbers */
    bool log;
    double min, max;     /* NaN: fitted to the data, out to the next tick */
    const double *ticks; /* [n_ticks] where these are wanted and no others, or NULL */
    int n_ticks;
} svg_axis;

/* Round numbers within [min, max]: 1, 2 or 5 times a power of ten apart, about
 * `want` of them; of a log axis powers of ten, with 2 and 5 times them where that
 * is few. tick [SVG_MAX_TICKS]: out; returns how many. */
int svg_ticks(const svg_axis *a, int want, double *tick);
/* Sets the ends of an axis that are NaN from the data's [low, high]. */
void svg_axis_fit(svg_axis *a, double low, double high);
/* Where value lies between the places `from` and `to` of the axis's ends. */
double svg_place(const svg_axis *a, double value, double from, double to);
/* A value as its axis writes it, to `digits` significant ones: "12.5%". */
void svg_value(svg_kind kind, double value, int digits, char *text, size_t size);

/* ---- charts ----------------------------------------------------------------- */

/* How a series looks: each part tells it from the others by itself. */
typedef struct { int colour, shape; } svg_style; /* [0, 16), [0, SVG_SHAPES) */

typedef enum { SVG_LINE, SVG_FAINT_LINE, SVG_BAR, SVG_HOLLOW_BAR, SVG_TICK } svg_look;

typedef struct {
    const char *name;
    const double *x, *y; /* [n]; x is not read of bars and ticks, which lie at
                            0 .. n - 1 */
    const double *low, *high; /* [n] an interval drawn as a band, or NULL */
    int n;
    svg_style style;
    svg_look look;
    int marker_every;    /* of a line: 0 and 1 mark each point */
    int marker_first;    /* the first point marked */
} svg_series;

typedef struct { const char *name; double y; } svg_rule; /* a level: a dashed line */

typedef struct {
    const char *title;
    svg_axis x, y;
    const svg_series *series;
    int n_series;
    const svg_rule *rules;
    int n_rules;
    const char *const *category; /* of bars: [n] names along x */
} svg_chart;

/* The chart as one <svg> element; lines, or bars where the first series is bars. */
void svg_draw(FILE *to, const svg_chart *c);
/* Its legend as an HTML list, each entry with a sample of its line or bar. */
void svg_legend(FILE *to, const svg_chart *c);

/* Text for element content and quoted attributes: & < > " ' as entities, bytes
 * that are not UTF-8 and control characters as U+FFFD. */
void svg_escape(FILE *to, const char *text);
void svg_escape_n(FILE *to, const char *text, size_t n);

#endif
