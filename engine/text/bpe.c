/* bpe.c: merging a word's tokens, the pair of lowest rank first, the leftmost of equals.
 *
 * The word is a linked list in an array. Every pair of neighbours that can join waits in
 * a binary heap by (rank, place); one whose tokens have changed since is recognised when
 * it comes up, by joining to something else, and skipped. */
#include "engine/text/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "engine/text/utf8.h"
#include "engine/text/vocab.h"

/* ---- the table of joins -------------------------------------------------- */

static uint64_t pair_of(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static size_t slot_of(const bpe *b, uint64_t pair)
{
    return (size_t)(pair * 0x9E3779B97F4A7C15u >> b->shift);
}

/* The join of a pair, or the free slot where it would be. */
static bpe_join *find_join(const bpe *b, uint64_t pair)
{
    size_t mask = ((size_t)1 << (64 - b->shift)) - 1, i = slot_of(b, pair);
    while (b->joins[i].rank >= 0 && b->joins[i].pair != pair)
        i = (i + 1) & mask;
    return &b->joins[i];
}

/* The join of spec's merge of some rank. The first merge of a pair counts. */
static moe_status add_join(bpe *b, const bpe_spec *spec, int rank, moe_error *err)
{
    const bpe_merge *m = &spec->merges[rank];
    int32_t left = trie_find(&b->vocab, m->left, m->n_left);
    int32_t right = trie_find(&b->vocab, m->right, m->n_right);
    int32_t node = trie_walk(&b->vocab, m->left, m->n_left);
    node = trie_walk_from(&b->vocab, node, m->right, m->n_right);
    int32_t id = node == TRIE_NONE ? TRIE_NONE : b->vocab.values[node];
    if (left == TRIE_NONE || right == TRIE_NONE || id == TRIE_NONE)
        return moe_fail(err, MOE_E_FORMAT,
                        "tokenizer: merge %d is '%.*s' and '%.*s', expected both and what they "
                        "join to in the vocabulary", rank, (int)m->n_left, m->left,
                        (int)m->n_right, m->right);
    bpe_join *join = find_join(b, pair_of(left, right));
    if (join->rank < 0)
        *join = (bpe_join){.pair = pair_of(left, right), .rank = rank, .id = id};
    return MOE_OK;
}

static moe_status fill_joins(bpe *b, const bpe_spec *spec, moe_error *err)
{
    size_t slots = 16;
    for (b->shift = 60; slots < 2 * (size_t)spec->n_merges; b->shift--)
        slots *= 2;
    b->joins = malloc(slots * sizeof *b->joins);
    if (!b->joins)
        return moe_fail(err, MOE_E_MEMORY, "tokenizer: no memory for %d merges", spec->n_merges);
    for (size_t i = 0; i < slots; i++)
        b->joins[i].rank = -1;
    moe_status status = MOE_OK;
    for (int rank = 0; rank < spec->n_merges && status == MOE_OK; rank++)
        status = add_join(b, spec, rank, err);
    return status;
}

/* Printable Latin-1 stands for itself, the rest for U+0100 on in order. */
static void fill_bytes(bpe *b)
{
    uint32_t other = 0x100;
    for (uint32_t byte = 0; byte < 256; byte++) {
        bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
        uint8_t text[4];
        size_t n = utf8_put(text, printable ? byte : other++);
        b->byte_id[byte] = trie_find(&b->vocab, (const char *)text, n);
    }
}

moe_status bpe_init(bpe *b, const bpe_spec *spec, moe_error *err)
{
    moe_status status = vocab_fill(&b->vocab, spec->vocab, spec->n_vocab, err);
    if (status == MOE_OK)
        status = fill_joins(b, spec, err);
    if (status == MOE_OK)
        fill_bytes(b);
    return status;
}

void bpe_free(bpe *b)
{
    trie_free(&b->vocab);
    free(b->joins);
}

/* ---- a word --------------------------------------------------------------- */

static bool before(const struct bpe_candidate *a, const struct bpe_candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void push(bpe_work *w, struct bpe_candidate c)
{
    size_t i = w->n_heap++;
    for (; i > 0 && before(&c, &w->heap[(i - 1) / 2]); i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = c;
}

static struct bpe_candidate pop(bpe_work *w)
{
    struct bpe_candidate top = w->heap[0], c = w->heap[--w->n_heap];
    size_t i = 0, child;
    for (; (child = 2 * i + 1) < w->n_heap; i = child) {
        if (child + 1 < w->n_heap && before(&w->heap[child + 1], &w->heap[child]))
            child++;
        if (!before(&w->heap[child], &c))
            break;
        w->heap[i] = w->heap[child];
    }
    w->heap[i] = c;
    return top;
}

/* The symbol at `at` and the one after it, if they join. */
static void consider(const bpe *b, bpe_work *w, int32_t at)
{
    const struct bpe_symbol *s = at < 0 ? NULL : &w->symbols[at];
    if (!s || s->next < 0)
        return;
    const bpe_join *join = find_join(b, pair_of(s->id, w->symbols[s->next].id));
    if (join->rank >= 0)
        push(w, (struct bpe_candidate){.rank = join->rank, .at = at, .id = join->id});
}

/* A symbol that joined its left neighbour has begin == end. */
static bool still_there(const bpe *b, const bpe_work *w, const struct bpe_candidate *c)
{
    const struct bpe_symbol *s = &w->symbols[c->at];
    if (s->begin == s->end || s->next < 0)
        return false;
    const bpe_join *join = find_join(b, pair_of(s->id, w->symbols[s->next].id));
    return join->rank == c->rank && join->id == c->id;
}

static void join_next(bpe_work *w, int32_t at, int32_t id)
{
    struct bpe_symbol *s = &w->symbols[at], *gone = &w->symbols[s->next];
    s->id = id;
    s->end = gone->end;
    s->next = gone->next;
    gone->begin = gone->end;
    if (s->next >= 0)
        w->symbols[s->next].previous = at;
}

/* Each join makes at most two new pairs: a heap of 3 n never overflows. */
static bool reserve(bpe_work *w, size_t n)
{
    if (n <= w->capacity)
        return true;
    size_t capacity = n < 64 ? 64 : n;
    bpe_work_free(w);
    w->symbols = malloc(capacity * sizeof *w->symbols);
    w->heap = malloc(3 * capacity * sizeof *w->heap);
    w->capacity = w->symbols && w->heap ? capacity : 0;
    return w->capacity > 0;
}

/* Bytes as symbols, those without a token left out; returns how many. */
static int32_t spell(const bpe *b, const uint8_t *bytes, size_t n, bpe_work *w)
{
    int32_t count = 0;
    for (uint32_t i = 0; i < n; i++)
        if (b->byte_id[bytes[i]] != TRIE_NONE) {
            w->symbols[count] = (struct bpe_symbol){
                .id = b->byte_id[bytes[i]], .previous = count - 1, .next = count + 1,
                .begin = i, .end = i + 1};
            count++;
        }
    if (count)
        w->symbols[count - 1].next = -1;
    return count;
}

bool bpe_word(const bpe *b, const uint8_t *bytes, size_t n, bpe_work *w, int32_t *first)
{
    if (!reserve(w, n))
        return false;
    int32_t count = spell(b, bytes, n, w);
    w->n_heap = 0;
    *first = count ? 0 : -1;
    for (int32_t i = 0; i < count; i++)
        consider(b, w, i);
    while (w->n_heap) {
        struct bpe_candidate c = pop(w);
        if (!still_there(b, w, &c))
            continue;
        join_next(w, c.at, c.id);
        consider(b, w, w->symbols[c.at].previous);
        consider(b, w, c.at);
    }
    return true;
}

void bpe_work_free(bpe_work *w)
{
    free(w->symbols);
    free(w->heap);
    *w = (bpe_work){0};
}
