/* report_card.c: cards, and the memory behind their numbers: a list of blocks. */
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include "convert/report_card.h"

enum { PLAIN_DIGITS = 6 };

/* ---- memory -------------------------------------- */

typedef struct heap_block { struct heap_block *next; max_align_t bytes[]; } block;

void *heap_take(heap *h, size_t n, size_t size)
{
    block *b = calloc(1, sizeof *b + (n + 1) * size);
    h->failed |= !b;
    if (!b)
        return NULL;
    b->next = h->last;
    h->last = b;
    return b->bytes;
}

double *heap_numbers(heap *h, int n)
{
    return heap_take(h, (size_t)n, sizeof(double));
}

const char *heap_text(heap *h, const char *format, ...)
{
    enum { SIZE = 160 };
    char *to = heap_take(h, SIZE, 1);
    va_list args;
    va_start(args, format);
    if (to)
        vsnprintf(to, SIZE, format, args);
    va_end(args);
    return to ? to : "";
}

void heap_free(heap *h)
{
    for (block *b = h->last, *next; b; b = next) {
        next = b->next;
        free(b);
    }
}

/* ---- cards ----------------------------------------------------------------------- */

/* Fixed decimals, so that those of a column stand below each other. */
static void write_cell(FILE *to, const card_column *c, int row)
{
    const double v = c->values[row];
    char text[32];
    if (isnan(v) || c->decimals == PLAIN)
        svg_value(c->kind, v, PLAIN_DIGITS, text, sizeof text);
    else if (c->kind == SVG_PERCENT)
        snprintf(text, sizeof text, "%.*f%%", c->decimals, 100 * v);
    else
        snprintf(text, sizeof text, "%.*f", c->decimals, v);
    fputs(text, to);
}

static void write_table(FILE *to, const card_column *c, int n_columns, int n_rows)
{
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
            fputs(i == 0 ? "<th scope=\"row\">" : "<td>", to);
            write_cell(to, &c[i], r);
            fputs(i == 0 ? "</th>" : "</td>", to);
        }
        fputs("</tr>\n", to);
    }
    fputs("</tbody></table></div></details>\n", to);
}

void card_draw(FILE *to, const char *id, const char *aid, const svg_chart *chart,
               const card_column *columns, int n_columns, int n_rows)
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

svg_axis card_axis(const char *label, svg_kind kind)
{
    return (svg_axis){.label = label, .kind = kind, .min = NAN, .max = NAN};
}
