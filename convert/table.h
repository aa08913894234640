/* table.h: how moefy's human output looks: aligned columns, colour on terminals. */
#ifndef CONVERT_TABLE_H
#define CONVERT_TABLE_H

#include <stdbool.h>
#include <stddef.h>

/* Whether stdout is a terminal that takes colours (NO_COLOR and TERM=dumb say no). */
bool table_colour(void);
/* Escape sequences, "" where there is no colour. */
const char *table_bold(void);
const char *table_dim(void);
const char *table_plain(void);

/* Prints text padded with spaces to a width in code points. */
void table_left(const char *text, int width);

/* "1.2 MB": three digits or fewer before the unit. */
void table_bytes(size_t bytes, char *text, size_t size);
/* A bar of `width` places for a share of 0 to 1: "######----". */
void table_bar(double share, int width, char *text, size_t size);

#endif
