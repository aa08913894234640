/* normalizer.c: BERT's text cleaning as a stream.
 *
 * A character passes drop, CJK spacing, decomposition, accent removal and lower
 * case at once; only combining characters (canonical class not 0) wait in a buffer,
 * because NFD sorts each run of them by class. The run is sorted when a character
 * of class 0 ends it.
 *
 * Positions follow the crate: of what a character decomposes into, the first piece
 * takes the next source position in order and the others share the position last
 * taken. Sorting moves pieces, not positions, so a reordered mark can carry its
 * neighbour's.
 *
 * Accents (Mn) are dropped after sorting. A run of nothing but those, the common
 * case, is forgotten unsorted: no position of a later character depends on it.
 * Time is linear (a counting sort), memory that of the longest run of marks. */
#include "engine/text/normalizer.h"

#include <stdlib.h>
#include <string.h>

enum { SHORT_RUN = 16, FIRST_CAPACITY = 32 };

void normalizer_init(normalizer *rules)
{
    unicode_flags(0, NORMALIZER_TABLE, rules->flags);
}

/* The last steps: drop accents, lower case. */
static void finish(normal_stream *s, uint32_t cp, int32_t at)
{
    const normalizer *rules = s->rules;
    uint8_t flags = normalizer_flags(rules, cp);
    uint32_t lower[UNICODE_MAX_LOWER];
    if (rules->strip_accents && (flags & CHAR_MARK))
        return;
    if (!rules->lower_case || !(flags & CHAR_UPPER)) {
        s->put(s->ctx, cp, flags, at);
        return;
    }
    int n = unicode_lower(cp, lower);
    for (int i = 0; i < n; i++)
        s->put(s->ctx, lower[i], normalizer_flags(rules, lower[i]), at);
}

static void sort_short(normal_mark *marks, int n)
{
    for (int i = 1; i < n; i++) {
        normal_mark m = marks[i];
        int j = i;
        for (; j > 0 && marks[j - 1].combining_class > m.combining_class; j--)
            marks[j] = marks[j - 1];
        marks[j] = m;
    }
}

/* Stable counting sort. */
static bool sort_long(normal_mark *marks, int n)
{
    int start[257] = {0};
    normal_mark *sorted = malloc((size_t)n * sizeof *sorted);
    if (!sorted)
        return false;
    for (int i = 0; i < n; i++)
        start[marks[i].combining_class + 1]++;
    for (int c = 0; c < 256; c++)
        start[c + 1] += start[c];
    for (int i = 0; i < n; i++)
        sorted[start[marks[i].combining_class]++] = marks[i];
    memcpy(marks, sorted, (size_t)n * sizeof *marks);
    free(sorted);
    return true;
}

void normal_flush(normal_stream *s)
{
    int n = s->n_marks, source = 0;
    if (s->keeps_marks) {
        if (n <= SHORT_RUN)
            sort_short(s->marks, n);
        else if (!sort_long(s->marks, n))
            s->failed = true;
        for (int i = 0; i < n; i++) {
            if (s->marks[i].first)
                s->last_source = s->sources[source++];
            finish(s, s->marks[i].cp, s->last_source);
        }
    }
    s->n_marks = s->n_sources = 0;
    s->keeps_marks = false;
}

static bool reserve(normal_stream *s)
{
    if (s->n_marks < s->capacity)
        return true;
    /* A run is at most the text, which is under 2^30. */
    size_t capacity = s->capacity ? (size_t)s->capacity * 2 : FIRST_CAPACITY;
    normal_mark *marks = realloc(s->marks, capacity * sizeof *marks);
    if (marks)
        s->marks = marks;
    int32_t *sources = realloc(s->sources, capacity * sizeof *sources);
    if (sources)
        s->sources = sources;
    if (!marks || !sources) {
        s->failed = true;
        return false;
    }
    s->capacity = (int)capacity;
    return true;
}

static void wait(normal_stream *s, uint32_t cp, uint8_t class, bool first, int32_t at)
{
    if (!reserve(s))
        return;
    s->marks[s->n_marks++] = (normal_mark){cp, class, first};
    if (first)
        s->sources[s->n_sources++] = at;
    if (!(normalizer_flags(s->rules, cp) & CHAR_MARK))
        s->keeps_marks = true;
}

/* NFD of one character; pieces of class 0 go on, the others wait. */
static void decompose(normal_stream *s, uint32_t cp, int32_t at)
{
    uint32_t pieces[UNICODE_MAX_DECOMPOSED];
    int n = unicode_decompose(cp, pieces);
    for (int i = 0; i < n; i++) {
        uint8_t class = unicode_combining_class(pieces[i]);
        if (class) {
            wait(s, pieces[i], class, i == 0, at);
            continue;
        }
        normal_flush(s);
        if (i == 0)
            s->last_source = at;
        finish(s, pieces[i], s->last_source);
    }
}

static void plain(normal_stream *s, uint32_t cp, uint8_t flags, int32_t at)
{
    if (s->rules->strip_accents && (flags & CHAR_NFD)) {
        decompose(s, cp, at);
        return;
    }
    normal_flush(s);
    s->last_source = at;
    finish(s, cp, at);
}

void normal_feed(normal_stream *s, uint32_t cp, int32_t at)
{
    const normalizer *rules = s->rules;
    uint8_t flags = normalizer_flags(rules, cp);
    if (rules->clean_text) {
        if ((flags & CHAR_DROP) && cp != '\t' && cp != '\n' && cp != '\r')
            return;
        if (flags & CHAR_SPACE)
            cp = ' ', flags = CHAR_SPACE;
    }
    if (!rules->split_cjk || !(flags & CHAR_CJK)) {
        plain(s, cp, flags, at);
        return;
    }
    plain(s, ' ', CHAR_SPACE, at);
    plain(s, cp, flags, at);
    plain(s, ' ', CHAR_SPACE, at);
}

void normal_end(normal_stream *s)
{
    normal_flush(s);
    free(s->marks);
    free(s->sources);
    s->marks = NULL;
    s->sources = NULL;
    s->capacity = 0;
}
