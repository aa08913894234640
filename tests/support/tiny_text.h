/* tiny_text.h: calibration text in the words that tiny_model.h's vocabulary
 * spells, scratch paths, and what of a directory's files tests compare. */
#ifndef TESTS_SUPPORT_TINY_TEXT_H
#define TESTS_SUPPORT_TINY_TEXT_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* MOE_TMP/name; 32 of them may be in use at once. */
static inline const char *in_tmp(const char *name)
{
    static char path[32][4096];
    static int next;
    char *to = path[next++ % 32];
    snprintf(to, sizeof path[0], "%s/%s", getenv("MOE_TMP"), name);
    return to;
}

static inline void write_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "wb");
    if (!f || fputs(text, f) < 0 || fclose(f))
        abort();
}

/* n rows of one to six words. */
static inline void write_sentences(const char *path, int n)
{
    FILE *f = fopen(path, "wb");
    unsigned seed = 17;
    if (!f)
        abort();
    fputs("sentence\tlabel\n", f);
    for (int i = 0; i < n; i++) {
        for (int words = 1 + i % 6; words > 0; words--) {
            for (int letters = 1 + (int)(seed >> 20) % 4; letters > 0; letters--) {
                seed = seed * 1664525u + 1013904223u;
                fputc('a' + (int)(seed >> 24) % 26, f);
            }
            fputc(words > 1 ? ' ' : '.', f);
        }
        fprintf(f, "\t%d\n", i % 2);
    }
    if (fclose(f))
        abort();
}

/* The bytes of dir/name, NULL if there is none; free() it. */
static inline char *file_bytes(const char *dir, const char *name, size_t *n)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    char *bytes = malloc(*n + 1);
    if (!bytes || fread(bytes, 1, *n, f) != *n)
        abort();
    bytes[*n] = 0;
    fclose(f);
    return bytes;
}

#endif
