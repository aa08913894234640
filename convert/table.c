/* table.c: small helpers of the human output on stdout. */
#include "convert/table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "convert/utf8.h"

bool table_colour(void)
{
    const char *term = getenv("TERM"), *no_colour = getenv("NO_COLOR");
    return isatty(STDOUT_FILENO) && term && strcmp(term, "dumb") != 0 &&
           !(no_colour && *no_colour);
}

const char *table_bold(void)
{
    return table_colour() ? "\033[1m" : "";
}

const char *table_dim(void)
{
    return table_colour() ? "\033[2m" : "";
}

const char *table_plain(void)
{
    return table_colour() ? "\033[0m" : "";
}

void table_left(const char *text, int width)
{
    int padding = width - utf8_code_points(text, strlen(text));
    printf("%s%*s", text, padding > 0 ? padding : 0, "");
}

void table_bytes(size_t bytes, char *text, size_t size)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    double value = (double)bytes;
    int unit = 0;
    while (value >= 999.5 && unit < 4) {
        value /= 1000;
        unit++;
    }
    snprintf(text, size, "%.*f %s", unit == 0 || value >= 99.95 ? 0 : 1, value, units[unit]);
}

void table_bar(double share, int width, char *text, size_t size)
{
    int filled = (int)(share * width + 0.5);
    size_t n = 0;
    for (int i = 0; i < width && n + 1 < size; i++)
        text[n++] = i < filled ? '#' : '.';
    text[n] = 0;
}
