/* golden_rows.h: the rows of a golden JSONL file, with texts that hold NUL bytes. */
#ifndef MOE_TEST_GOLDEN_ROWS_H
#define MOE_TEST_GOLDEN_ROWS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

/* cJSON ends a string at a NUL; some rows have one within the text. It comes as a
 * private character that no row has, and is put back. */
static inline void golden_hide_nuls(char *line)
{
    for (char *at = line; (at = strstr(at, "\\u0000"));)
        memcpy(at, "\\uE0FF", 6);
}

/* Puts NULs back in place; returns the length. */
static inline size_t golden_restore_nuls(char *s)
{
    size_t n = 0;
    for (const char *from = s; *from; n++) {
        int nul = !strncmp(from, "\xee\x83\xbf", 3);
        s[n] = nul ? '\0' : *from;
        from += nul ? 3 : 1;
    }
    return n;
}

/* The rows of a file as objects, at most `most`; returns how many, -1: no such file. */
static inline int golden_read(const char *path, cJSON **rows, int most)
{
    FILE *f = fopen(path, "r");
    char *line = NULL;
    size_t room = 0;
    int n = 0;
    if (!f)
        return -1;
    while (n < most && getline(&line, &room, f) > 0) {
        golden_hide_nuls(line);
        rows[n++] = cJSON_Parse(line);
    }
    free(line);
    fclose(f);
    return n;
}

#endif
