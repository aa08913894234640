/* metrics.h: what eval measures, as plain functions of numbers. */
#ifndef CONVERT_METRICS_H
#define CONVERT_METRICS_H

#include <stdbool.h>

#include "engine/moe.h"

/* Wilson's 95% interval of a share of hits among n. n 0: [0, 1]. */
typedef struct { double low, high; } interval;
interval wilson_interval(int hits, int n);

/* The first of the largest. */
int best_label(const float *logits, int n);

/* KL(p || q) in nats of the softmaxes of two rows of logits; never below 0. */
double softmax_kl(const float *p, const float *q, int n);
/* How far the answer of logits q is from that of p: softmax_kl, the sum over labels of
 * KL between their sigmoids, or the squared difference of a regression. */
double answer_divergence(moe_task task, const float *p, const float *q, int n);

/* Of two labels, the second being the positive one: hits [label][said]. F1 is 0 where
 * nothing positive was met or said; Matthews's correlation 0 where one side is constant,
 * as GLUE's scripts have it. */
double f1_score(const double hits[2][2]);
double matthews(const double hits[2][2]);

/* Correlation; NaN where one of the two is constant or n < 2. */
double pearson(const double *a, const double *b, int n);
/* The same of the ranks, equal values sharing their mean rank. false: out of
 * memory. */
bool spearman(const double *a, const double *b, int n, double *out);

#endif
