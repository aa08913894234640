/* labels.c: making the tree of a set of label words. Sorted by their tokens, the labels
 * with a common prefix stand together, so a node is a range of them and a depth. Nodes
 * are worked off in the order they are found in: level by level. */
#include "engine/task/labels.h"

#include <stdlib.h>
#include <string.h>

#include "engine/graph/t5.h"

enum { MAX_LABELS = 4096 };

/* A label's tokens, while the tree is made. */
typedef struct { moe_tokens tokens; int label; } word;

typedef struct { int first, end; } range; /* of a node's labels */

typedef struct {
    moe_labels *l;
    word *words;  /* [n], sorted */
    range *ranges; /* [n_nodes] */
} maker;

static int by_tokens(const void *a, const void *b)
{
    const moe_tokens *x = &((const word *)a)->tokens, *y = &((const word *)b)->tokens;
    for (int i = 0; i < x->n && i < y->n; i++)
        if (x->ids[i] != y->ids[i])
            return x->ids[i] < y->ids[i] ? -1 : 1;
    return x->n - y->n;
}

/* More than 1 token: the last is </s>. */
static moe_status read_word(const moe_model *m, const char *text, int i, word *out,
                            moe_error *err)
{
    const moe_text in = {.text = text, .text_bytes = strlen(text),
                         .truncation = MOE_TRUNCATE_NEVER};
    out->label = i;
    moe_status status = moe_tokenize(m, &in, &out->tokens, err);
    if (status == MOE_OK && out->tokens.n < 2)
        return moe_fail(err, MOE_E_ARGUMENT, "label %d, '%.100s', has no token", i, text);
    return status;
}

static moe_status refuse_twins(const word *w, int n, const char *const *texts, moe_error *err)
{
    for (int i = 1; i < n; i++)
        if (by_tokens(&w[i - 1], &w[i]) == 0)
            return moe_fail(err, MOE_E_ARGUMENT, "labels %d, '%.100s', and %d, '%.100s', have "
                            "the same tokens", w[i - 1].label, texts[w[i - 1].label], w[i].label,
                            texts[w[i].label]);
    return MOE_OK;
}

static void add_node(maker *m, int32_t token, int parent, int first, int end)
{
    moe_labels *l = m->l;
    int depth = parent < 0 ? 0 : l->node[parent].depth + 1;
    m->ranges[l->n_nodes] = (range){first, end};
    l->node[l->n_nodes++] = (label_node){.token = token, .parent = parent, .depth = depth};
    l->n_links += depth + 1;
}

/* The edges of a node, and the nodes that they lead to. */
static void grow(maker *m, int node)
{
    moe_labels *l = m->l;
    int depth = l->node[node].depth, end = m->ranges[node].end;
    l->node[node].first_edge = l->n_edges;
    for (int i = m->ranges[node].first, next; i < end; i = next) {
        int32_t token = m->words[i].tokens.ids[depth];
        for (next = i + 1; next < end && m->words[next].tokens.ids[depth] == token;)
            next++;
        l->edge[l->n_edges++] = (label_edge){token, i, next};
        int longer = i + (m->words[i].tokens.n == depth + 1); /* the shortest comes first */
        if (longer < next)
            add_node(m, token, node, longer, next);
    }
}

static moe_status make_tree(moe_labels *l, word *words, moe_error *err)
{
    size_t most = 1;
    for (int i = 0; i < l->n; i++)
        most += (size_t)words[i].tokens.n;
    maker m = {.l = l, .words = words, .ranges = malloc(most * sizeof *m.ranges)};
    l->node = malloc((most + 1) * sizeof *l->node);
    l->edge = malloc(most * sizeof *l->edge);
    l->order = malloc((size_t)l->n * sizeof *l->order);
    bool made = m.ranges && l->node && l->edge && l->order;
    if (made) {
        add_node(&m, l->model->t5.start_id, -1, 0, l->n);
        for (int i = 0; i < l->n_nodes; i++)
            grow(&m, i);
        l->node[l->n_nodes].first_edge = l->n_edges;
        for (int i = 0; i < l->n; i++)
            l->order[i] = words[i].label;
    }
    free(m.ranges);
    return made ? MOE_OK : moe_fail(err, MOE_E_MEMORY, "out of memory for %d labels", l->n);
}

static moe_status check_size(const moe_labels *l, moe_error *err)
{
    int most = l->model->info.max_tokens;
    if (l->n_nodes > most || l->n_links > T5_KEYS_PER_ROW * most)
        return moe_fail(err, MOE_E_LIMIT, "%d labels have %d prefixes of %d tokens in all, "
                        "expected at most %d of %d", l->n, l->n_nodes, l->n_links, most,
                        T5_KEYS_PER_ROW * most);
    return MOE_OK;
}

static moe_status fill(moe_labels *l, const char *const *texts, word *words, moe_error *err)
{
    moe_status status = MOE_OK;
    for (int i = 0; i < l->n && status == MOE_OK; i++)
        status = read_word(l->model, texts[i], i, &words[i], err);
    if (status != MOE_OK)
        return status;
    qsort(words, (size_t)l->n, sizeof *words, by_tokens);
    status = refuse_twins(words, l->n, texts, err);
    if (status == MOE_OK)
        status = make_tree(l, words, err);
    return status == MOE_OK ? check_size(l, err) : status;
}

moe_status moe_labels_create(const moe_model *m, const char *const *texts, int n,
                             moe_labels **out, moe_error *err)
{
    *out = NULL;
    if (m->info.task != MOE_TASK_TEXT)
        return moe_fail(err, MOE_E_ARGUMENT, "%s: label words are of text-to-text models",
                        m->info.dir);
    if (n < 1 || n > MAX_LABELS)
        return moe_fail(err, n < 1 ? MOE_E_ARGUMENT : MOE_E_LIMIT,
                        "%d labels, expected 1 to %d", n, MAX_LABELS);
    moe_labels *l = calloc(1, sizeof *l);
    word *words = calloc((size_t)n, sizeof *words);
    moe_status status = MOE_OK;
    if (!l || !words)
        status = moe_fail(err, MOE_E_MEMORY, "out of memory for %d labels", n);
    if (status == MOE_OK) {
        l->model = m;
        l->n = n;
        status = fill(l, texts, words, err);
    }
    for (int i = 0; words && i < n; i++)
        moe_tokens_free(&words[i].tokens);
    free(words);
    if (status == MOE_OK)
        *out = l;
    else
        moe_labels_destroy(l);
    return status;
}

void moe_labels_destroy(moe_labels *l)
{
    if (!l)
        return;
    free(l->order);
    free(l->node);
    free(l->edge);
    free(l);
}

int moe_labels_count(const moe_labels *l)
{
    return l->n;
}

int moe_labels_tokens(const moe_labels *l)
{
    return l->n_nodes;
}
