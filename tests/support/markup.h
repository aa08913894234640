/* markup.h: a strict little reader of XML-like pages, for tests: every element
 * closed in order, attributes quoted, no stray < or &. */
#ifndef TESTS_SUPPORT_MARKUP_H
#define TESTS_SUPPORT_MARKUP_H

#include <ctype.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

enum { MARKUP_DEPTH = 64, MARKUP_NAME = 32 };

static inline bool markup_name(const char **at, char *name)
{
    size_t n = 0;
    while (isalnum((unsigned char)**at) || **at == '-') {
        if (n + 1 == MARKUP_NAME)
            return false;
        name[n++] = *(*at)++;
    }
    name[n] = 0;
    return n > 0;
}

/* &amp; &lt; &gt; &quot; &#39; */
static inline bool markup_entity(const char **at)
{
    static const char *const known[] = {"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"};
    for (int i = 0; i < 5; i++)
        if (strncmp(*at, known[i], strlen(known[i])) == 0) {
            *at += strlen(known[i]);
            return true;
        }
    return false;
}

/* Attributes up to > or />; *closed: it was />. */
static inline bool markup_attributes(const char **at, bool *closed)
{
    char name[MARKUP_NAME];
    for (;;) {
        while (isspace((unsigned char)**at))
            (*at)++;
        *closed = **at == '/';
        *at += *closed;
        if (**at == '>')
            return (*at)++, true;
        if (*closed || !markup_name(at, name) || strncmp(*at, "=\"", 2))
            return false;
        for (*at += 2; **at && **at != '"';)
            if (**at == '<' || (**at == '&' && !markup_entity(at)))
                return false;
            else if (**at != '"')
                (*at)++;
        if (*(*at)++ != '"')
            return false;
    }
}

/* NULL: well-formed, with one element at the top (after <!DOCTYPE html>); else where
 * it is not. */
static inline const char *markup_fault(const char *page)
{
    char open[MARKUP_DEPTH][MARKUP_NAME], name[MARKUP_NAME];
    int depth = 0, roots = 0;
    const char *at = page;
    if (strncmp(at, "<!DOCTYPE html>", 15) == 0)
        at += 15;
    while (*at) {
        const char *from = at;
        if (*at == '&') {
            if (!markup_entity(&at))
                return from;
        } else if (*at != '<') {
            if (depth == 0 && !isspace((unsigned char)*at))
                return from;
            at++;
        } else if (at[1] == '/') {
            at += 2;
            if (!markup_name(&at, name) || *at++ != '>' || depth == 0 ||
                strcmp(open[--depth], name))
                return from;
        } else {
            bool closed;
            at++;
            if (depth == MARKUP_DEPTH || !markup_name(&at, open[depth]) ||
                !markup_attributes(&at, &closed))
                return from;
            roots += depth == 0;
            depth += !closed;
        }
    }
    return depth == 0 && roots == 1 ? NULL : at;
}

#endif
