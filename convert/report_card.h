/* report_card.h: what the sections of the report share: memory that goes at a section's
 * end, and cards, each a chart with its title, a sentence on how to read it, its legend
 * and its numbers. */
#ifndef CONVERT_REPORT_CARD_H
#define CONVERT_REPORT_CARD_H

#include "convert/svg.h"

/* Blocks of a section. Once one could not be had, `failed` stays true, and no card
 * should be written any more. */
typedef struct { struct heap_block *last; bool failed; } heap;
void *heap_take(heap *h, size_t n, size_t size); /* zeroed; NULL: no memory */
double *heap_numbers(heap *h, int n);
/* At most 159 bytes; "" where there is no memory. */
const char *heap_text(heap *h, const char *format, ...) __attribute__((format(printf, 2, 3)));
void heap_free(heap *h);

enum { PLAIN = -1 };

/* A column of a card's table. */
typedef struct {
    const char *head;
    svg_kind kind;
    int decimals;         /* PLAIN: as few as its value takes */
    const double *values; /* [rows] */
} card_column;

/* aid: how to read the chart, plain text. */
void card_draw(FILE *to, const char *id, const char *aid, const svg_chart *chart,
               const card_column *columns, int n_columns, int n_rows);

/* An axis that fits its data. */
svg_axis card_axis(const char *label, svg_kind kind);

#endif
