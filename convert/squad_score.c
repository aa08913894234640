/* squad_score.c: exact match and F1 as SQuAD's evaluation script has them. A text is made
 * lower case, then punctuation is dropped, then the words "a", "an" and "the"; what is
 * left is compared as words. */
#include "convert/squad.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* Words one after the other, each ended by a NUL. */
typedef struct { char *bytes; int n; } words;

static bool is_article(const char *w)
{
    return strcmp(w, "a") == 0 || strcmp(w, "an") == 0 || strcmp(w, "the") == 0;
}

/* *out: free its bytes. False: out of memory. */
static bool normalise(const char *s, size_t n, words *out)
{
    char *to = out->bytes = malloc(2 * n + 1), *word = to;
    out->n = 0;
    if (!to)
        return false;
    for (size_t i = 0; i <= n; i++) {
        unsigned char c = i < n ? (unsigned char)s[i] : ' ';
        if (ispunct(c) && c < 0x80)
            continue;
        if (!isspace(c)) {
            *to++ = (char)(c < 0x80 ? tolower(c) : c);
            continue;
        }
        *to = 0;
        if (to > word && !is_article(word)) {
            word = ++to;
            out->n++;
        } else {
            to = word;
        }
    }
    return true;
}

static bool same(const words *a, const words *b)
{
    const char *x = a->bytes, *y = b->bytes;
    if (a->n != b->n)
        return false;
    for (int i = 0; i < a->n; i++, x += strlen(x) + 1, y += strlen(y) + 1)
        if (strcmp(x, y) != 0)
            return false;
    return true;
}

/* Words of a that b has as well, each of b's counted once; taken [b->n] zeros. */
static int shared(const words *a, const words *b, bool *taken)
{
    int n = 0;
    const char *x = a->bytes;
    for (int i = 0; i < a->n; i++, x += strlen(x) + 1) {
        const char *y = b->bytes;
        for (int k = 0; k < b->n; k++, y += strlen(y) + 1)
            if (!taken[k] && strcmp(x, y) == 0) {
                taken[k] = true;
                n++;
                break;
            }
    }
    return n;
}

/* -1: out of memory. */
static double overlap(const words *a, const words *b)
{
    if (a->n == 0 || b->n == 0)
        return a->n == b->n;
    bool *taken = calloc((size_t)b->n, sizeof *taken);
    if (!taken)
        return -1;
    double n = shared(a, b, taken);
    free(taken);
    return 2 * n / (a->n + b->n);
}

static double score_one(const char *answer, size_t n, const char *right, bool f1)
{
    words a = {0}, b = {0};
    double score = -1;
    if (normalise(answer, n, &a) && normalise(right, strlen(right), &b))
        score = f1 ? overlap(&a, &b) : same(&a, &b);
    free(a.bytes);
    free(b.bytes);
    return score;
}

static double best_score(const char *answer, size_t n, const char *const *right, int n_right,
                         bool f1)
{
    double best = n_right ? 0 : score_one(answer, n, "", f1);
    for (int i = 0; i < n_right; i++) {
        double score = score_one(answer, n, right[i], f1);
        if (score < 0)
            return -1;
        best = score > best ? score : best;
    }
    return best;
}

double squad_exact(const char *answer, size_t n, const char *const *right, int n_right)
{
    return best_score(answer, n, right, n_right, false);
}

double squad_f1(const char *answer, size_t n, const char *const *right, int n_right)
{
    return best_score(answer, n, right, n_right, true);
}
