/* card.h: README.md of a MoEfied directory, and the same figures for a person at
 * a terminal. */
#ifndef CONVERT_CARD_H
#define CONVERT_CARD_H

#include <stdio.h>

#include "convert/convert.h"
#include "convert/json.h"
#include "convert/outdir.h"

moe_status card_write(const outdir *o, const moe_model *m, const converted *c,
                      const convert_options *options, const dataset *data,
                      moe_error *err);

/* One line a layer: how sparse it is, how well it was split, what its router
 * catches. Columns that a method has nothing to say on are left out. */
void card_print_layers(FILE *to, const converted *c, const convert_options *options);

/* The same as an array of objects. */
void card_add_layers(json *parent, const converted *c, const convert_options *options);

#endif
