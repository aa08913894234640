/* metis.c: a dense matrix to METIS's sparse graph, and its k-way partitioner
 * with the options of the authors' gpmetis: its defaults. */
#include <metis.h>
#include <signal.h>
#include <stdlib.h>

#include "convert/metis.h"

/* METIS sums edge weights in idx_t; half its range leaves it room to do so. */
#define WEIGHT_LIMIT ((double)IDX_MAX / 2)

typedef struct {
    idx_t *xadj, *adjncy, *adjwgt;
} graph;

static void graph_free(graph *g)
{
    free(g->xadj);
    free(g->adjncy);
    free(g->adjwgt);
}

/* Number of edges, each in both directions, and the sum of their weights. */
static size_t count_edges(const float *weight, int n, float least, double *sum)
{
    size_t edges = 0;
    *sum = 0;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            const float w = weight[(size_t)i * (size_t)n + (size_t)j];
            if (i != j && w > least) {
                edges++;
                *sum += (double)w / least;
            }
        }
    return edges;
}

static moe_status build_graph(const float *weight, int n, float least, graph *g,
                              moe_error *err)
{
    double sum;
    const size_t edges = count_edges(weight, n, least, &sum);
    if (edges > (size_t)IDX_MAX)
        return moe_fail(err, MOE_E_LIMIT, "%zu co-activation edges, METIS takes %lld",
                        edges, (long long)IDX_MAX);
    *g = (graph){malloc(((size_t)n + 1) * sizeof(idx_t)),
                 malloc((edges + 1) * sizeof(idx_t)),
                 malloc((edges + 1) * sizeof(idx_t))};
    if (!g->xadj || !g->adjncy || !g->adjwgt)
        return moe_fail(err, MOE_E_MEMORY, "no memory for a graph of %zu edges", edges);
    const double scale = (sum > WEIGHT_LIMIT ? WEIGHT_LIMIT / sum : 1) / least;
    size_t at = 0;
    g->xadj[0] = 0;
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < n; j++) {
            const float w = weight[(size_t)i * (size_t)n + (size_t)j];
            if (i == j || !(w > least))
                continue;
            const double whole = w * scale;
            g->adjncy[at] = j;
            g->adjwgt[at++] = whole > 1 ? (idx_t)whole : 1;
        }
        g->xadj[i + 1] = (idx_t)at;
    }
    return MOE_OK;
}

/* METIS's return code; found [n]: the parts. */
static int cut_graph(graph *g, int n, int n_parts, uint64_t seed, idx_t *found)
{
    idx_t n_vertices = n, n_constraints = 1, parts = n_parts, cut = 0;
    idx_t options[METIS_NOPTIONS];
    METIS_SetDefaultOptions(options);
    options[METIS_OPTION_SEED] = (idx_t)(seed & 0x7fffffff);
    /* METIS takes SIGTERM for an error of its own; it has to wait. */
    sigset_t term, former;
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &term, &former);
    int code = METIS_PartGraphKway(&n_vertices, &n_constraints, g->xadj, g->adjncy, NULL,
                                   NULL, g->adjwgt, &parts, NULL, NULL, options, &cut,
                                   found);
    pthread_sigmask(SIG_SETMASK, &former, NULL);
    return code;
}

moe_status metis_partition(const float *weight, int n, int n_parts, float least,
                           uint64_t seed, int32_t *part, moe_error *err)
{
    /* METIS divides by the logarithm of the parts, and expects an edge. */
    if (n_parts < 2) {
        for (int i = 0; i < n; i++)
            part[i] = 0;
        return MOE_OK;
    }
    graph g = {NULL, NULL, NULL};
    idx_t *found = malloc((size_t)n * sizeof *found);
    moe_status status = build_graph(weight, n, least, &g, err);
    if (status == MOE_OK && !found)
        status = moe_fail(err, MOE_E_MEMORY, "no memory to partition %d neurons", n);
    if (status == MOE_OK) {
        const bool edges = g.xadj[n] > 0;
        int code = edges ? cut_graph(&g, n, n_parts, seed, found) : METIS_OK;
        for (int i = 0; code == METIS_OK && i < n; i++)
            part[i] = edges ? (int32_t)found[i] : i % n_parts;
        if (code != METIS_OK)
            status = moe_fail(err, code == METIS_ERROR_MEMORY ? MOE_E_MEMORY : MOE_E_LIMIT,
                              "METIS could not cut a graph of %d neurons into %d parts "
                              "(code %d)", n, n_parts, code);
    }
    graph_free(&g);
    free(found);
    return status;
}
