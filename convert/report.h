/* report.h: the figures as one HTML page that needs nothing else: no script, no
 * font, no picture from elsewhere. Well-formed as XML too; the same bytes for the
 * same figures. */
#ifndef CONVERT_REPORT_H
#define CONVERT_REPORT_H

#include "convert/figures.h"

/* Writes the page; false: out of memory (ask ferror(to) for the rest). */
bool report_write(FILE *to, const figures *f);

/* ---- between report*.c ------------------------------------------------------- */

extern const char report_style[];  /* the style sheet */

/* Sections of the page. false: out of memory. */
bool report_fidelity(FILE *to, const figures *f);
bool report_layers(FILE *to, const figures *f);
void report_budgets(FILE *to, const figures *f);
void report_facts(FILE *to, const figures *f);

enum { REPORT_MAX_LAYERS = 48 }; /* drawn: of more, evenly spread ones */
/* The layers that charts and tables show; layer [REPORT_MAX_LAYERS]: out, ascending;
 * returns how many. routed: of those with experts only. */
int report_choose_layers(const figures *f, bool routed, int *layer);

/* The curve of that name (of what was measured), NULL if there is none; and its
 * point of a ratio, or NULL. */
const fidelity *report_series(const figures *f, const char *name);
const evaluation *report_at(const fidelity *s, double ratio);

#endif
