/* svg_scale.c: round ticks, places along an axis, numbers and text as written. */
#include <math.h>
#include <string.h>

#include "convert/svg.h"
#include "convert/utf8.h"

/* ---- ticks ------------------------------------------------------------------ */

/* The least of 1, 2, 5 times a power of ten that is at least `least`. */
static double round_step(double least)
{
    const double power = pow(10, floor(log10(least)));
    static const double steps[] = {1, 2, 5};
    for (int i = 0; i < 3; i++)
        if (steps[i] * power >= least * (1 - 1e-9))
            return steps[i] * power;
    return 10 * power;
}

static double linear_step(const svg_axis *a, double low, double high, int want)
{
    const double scale = a->kind == SVG_PERCENT ? 100 : 1; /* round as printed */
    const double step = round_step(scale * (high - low) / (want > 1 ? want - 1 : 1)) / scale;
    return a->kind == SVG_WHOLE && step < 1 ? 1 : step;
}

static int linear_ticks(const svg_axis *a, int want, double *tick)
{
    const double step = linear_step(a, a->min, a->max, want);
    int n = 0;
    for (double i = ceil(a->min / step - 1e-6); n < SVG_MAX_TICKS; i++) {
        if (i * step > a->max + 1e-6 * step)
            break;
        tick[n++] = i * step + 0.0; /* no -0 */
    }
    return n;
}

/* Powers of ten, every so many that they fit; with few, 2 and 5 times them too. */
static int log_ticks(const svg_axis *a, int want, double *tick)
{
    const int first = (int)floor(log10(a->min) + 1e-9), last = (int)ceil(log10(a->max) - 1e-9);
    const int decades = last - first;
    const int every = decades / want + 1;
    int n = 0;
    for (int p = first; p <= last; p += every)
        for (int i = 0; i < 3; i++) {
            static const double times[] = {1, 2, 5};
            const double v = times[i] * pow(10, p);
            const bool wanted = i == 0 || decades <= want / 2;
            if (wanted && v >= a->min * (1 - 1e-9) && v <= a->max * (1 + 1e-9) &&
                n < SVG_MAX_TICKS)
                tick[n++] = v;
        }
    return n;
}

int svg_ticks(const svg_axis *a, int want, double *tick)
{
    if (!a->ticks)
        return a->log ? log_ticks(a, want, tick) : linear_ticks(a, want, tick);
    int n = 0;
    for (int i = 0; i < a->n_ticks && n < SVG_MAX_TICKS; i++)
        if (a->ticks[i] >= a->min * (1 - 1e-9) && a->ticks[i] <= a->max * (1 + 1e-9))
            tick[n++] = a->ticks[i];
    return n;
}

/* ---- ends ------------------------------------------------------------------- */

/* Data that is one value, or none at all, gets an axis of some length around it. */
static void spread(const svg_axis *a, double *low, double *high)
{
    if (!(*low <= *high))
        *low = *high = a->log ? 1 : 0;
    if (*high > *low)
        return;
    const double by = a->kind == SVG_WHOLE ? 1 : *low != 0 ? 0.1 * fabs(*low) : 0.1;
    *low = a->log ? *low / 2 : *low - by;
    *high = a->log ? *high * 2 : *high + by;
}

static void fit_log(double *low, double *high)
{
    *low = pow(10, floor(log10(*low) + 1e-9));
    *high = pow(10, ceil(log10(*high) - 1e-9));
}

void svg_axis_fit(svg_axis *a, double low, double high)
{
    enum { WANT = 6 };
    if (!isnan(a->min))
        low = a->min;
    if (!isnan(a->max))
        high = a->max;
    spread(a, &low, &high);
    if (a->log && !a->ticks) {
        fit_log(&low, &high);
    } else if (!a->ticks) {
        const double step = linear_step(a, low, high, WANT);
        const double bottom = floor(low / step + 1e-6) * step;
        low = low >= 0 && bottom < 0 ? 0 : bottom;
        high = ceil(high / step - 1e-6) * step;
    }
    a->min = isnan(a->min) ? low : a->min;
    a->max = isnan(a->max) ? high : a->max;
    if (a->max <= a->min)
        a->max = a->min + 1;
}

double svg_place(const svg_axis *a, double value, double from, double to)
{
    const double share = a->log ? log(value / a->min) / log(a->max / a->min)
                                : (value - a->min) / (a->max - a->min);
    return from + share * (to - from);
}

/* ---- as written ------------------------------------------------------------- */

void svg_value(svg_kind kind, double value, int digits, char *text, size_t size)
{
    if (isnan(value))
        snprintf(text, size, "\xE2\x80\x93"); /* an en dash */
    else if (kind == SVG_PERCENT)
        snprintf(text, size, "%.*g%%", digits, 100 * value);
    else
        snprintf(text, size, "%.*g", digits, value);
}

static const char *entity(char c)
{
    switch (c) {
    case '&': return "&amp;";
    case '<': return "&lt;";
    case '>': return "&gt;";
    case '"': return "&quot;";
    case '\'': return "&#39;";
    }
    return NULL;
}

/* U+FFFE and U+FFFF, and the C1 controls, are no characters of XML or of HTML. */
static bool is_text(const char *s, size_t bytes)
{
    const unsigned char *u = (const unsigned char *)s;
    if (bytes == 1)
        return (u[0] >= 0x20 && u[0] != 0x7F) || u[0] == '\n' || u[0] == '\t';
    if (bytes == 2)
        return u[0] != 0xC2 || u[1] >= 0xA0;
    return !(bytes == 3 && u[0] == 0xEF && u[1] == 0xBF && u[2] >= 0xBE);
}

void svg_escape_n(FILE *to, const char *text, size_t n)
{
    for (size_t i = 0; i < n;) {
        const size_t bytes = utf8_sequence_bytes(text + i, n - i);
        const char *e = entity(text[i]);
        if (e)
            fputs(e, to);
        else if (bytes && is_text(text + i, bytes))
            fwrite(text + i, 1, bytes, to);
        else
            fputs("\xEF\xBF\xBD", to);
        i += bytes ? bytes : 1;
    }
}

void svg_escape(FILE *to, const char *text)
{
    svg_escape_n(to, text, strlen(text));
}
