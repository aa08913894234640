/* metis.h: graph partitioning; metis.c is the one file that knows METIS. */
#ifndef CONVERT_METIS_H
#define CONVERT_METIS_H

#include "engine/moe.h"

/* Cuts a symmetric weighted graph into parts of nearly equal size with little
 * weight between them. weight [n, n]: entries of at most `least`, and the
 * diagonal, are no edge; the others count as weight / least, whole numbers
 * (scaled down together where their sum would not fit METIS's integers).
 * least > 0. part [n]: out, in [0, n_parts); the same input and seed give the
 * same parts. Not to be called from two threads at once: METIS draws from the C
 * library's one generator. */
moe_status metis_partition(const float *weight, int n, int n_parts, float least,
                           uint64_t seed, int32_t *part, moe_error *err);

#endif
