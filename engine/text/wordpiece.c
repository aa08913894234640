/* wordpiece.c: from characters to words to word pieces.
 *
 * A word is a run without white space and punctuation. It is cut greedily: the
 * longest token of the vocabulary that it starts with, then the longest one with the
 * continuation prefix ("##ing"), and so on; where nothing fits, the whole word is one
 * unknown token. Each cut is one walk down a trie, the continuations from the node
 * behind the prefix, so no string is ever put together.
 *
 * Only max_word_chars characters of a word are stored: the rest of a longer one
 * moves its end and nothing else. */
#include "engine/text/wordpiece.h"

#include <stdlib.h>

#include "engine/text/unicode.h"
#include "engine/text/utf8.h"

/* ---- tokens ------------------------------------------------------------ */

static bool grow(token_list *list)
{
    int capacity = list->capacity ? list->capacity * 2 : 64;
    if (capacity > list->keep)
        capacity = list->keep;
    int32_t *ids = realloc(list->ids, (size_t)capacity * sizeof *ids);
    if (!ids)
        return false;
    list->ids = ids;
    if (list->want_spans) {
        moe_span *spans = realloc(list->spans, (size_t)capacity * sizeof *spans);
        if (!spans)
            return false;
        list->spans = spans;
    }
    list->capacity = capacity;
    return true;
}

void token_list_add(token_list *list, int32_t id, int32_t start, int32_t end)
{
    list->total++;
    if (list->n == list->keep || list->failed)
        return;
    if (list->n == list->capacity && !grow(list)) {
        list->failed = true;
        return;
    }
    list->ids[list->n] = id;
    if (list->want_spans)
        list->spans[list->n] = (moe_span){list->which, start, end};
    list->n++;
}

void token_list_free(token_list *list)
{
    free(list->ids);
    free(list->spans);
    list->ids = NULL;
    list->spans = NULL;
}

/* ---- words ------------------------------------------------------------- */

bool word_reader_init(word_reader *w, const wordpiece *pieces, token_list *out)
{
    size_t n = 4 * (size_t)pieces->max_word_chars;
    *w = (word_reader){.pieces = pieces, .out = out};
    w->at = malloc(n * (sizeof *w->at + sizeof *w->bytes));
    if (!w->at)
        return false;
    w->bytes = (uint8_t *)(w->at + n);
    return true;
}

void word_reader_free(word_reader *w)
{
    free(w->at);
}

static void unknown(const word_reader *w)
{
    token_list_add(w->out, w->pieces->unk, w->at[0], w->last + 1);
}

static void cut(const word_reader *w)
{
    const wordpiece *p = w->pieces;
    token_list *out = w->out;
    size_t n = (size_t)w->n_bytes, length;
    int n_before = out->n;
    int64_t total_before = out->total;
    int32_t node = TRIE_ROOT, id;
    for (size_t done = 0; done < n; done += length, node = p->continuation) {
        id = node == TRIE_NONE ? TRIE_NONE : trie_longest(&p->vocab, node, w->bytes + done,
                                                          n - done, &length);
        if (id == TRIE_NONE) { /* take back what was cut off so far */
            out->n = n_before;
            out->total = total_before;
            unknown(w);
            return;
        }
        token_list_add(out, id, w->at[done], w->at[done + length - 1] + 1);
    }
}

void word_end(word_reader *w)
{
    if (w->n_chars > w->pieces->max_word_chars)
        unknown(w);
    else if (w->n_chars > 0)
        cut(w);
    w->n_chars = w->n_bytes = 0;
}

static void append(word_reader *w, uint32_t cp, int32_t at)
{
    w->last = at;
    if (w->n_chars >= w->pieces->max_word_chars) {
        w->n_chars = w->pieces->max_word_chars + 1;
        return;
    }
    size_t n = utf8_put(w->bytes + w->n_bytes, cp);
    for (size_t i = 0; i < n; i++)
        w->at[w->n_bytes++] = at;
    w->n_chars++;
}

void word_put(word_reader *w, uint32_t cp, uint8_t flags, int32_t at)
{
    if (!(flags & (CHAR_SPACE | CHAR_PUNCT))) {
        append(w, cp, at);
        return;
    }
    word_end(w);
    if (flags & CHAR_PUNCT) {
        append(w, cp, at);
        word_end(w);
    }
}
