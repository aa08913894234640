/* labels.h: inside of a set of label words: the tree of their tokens' prefixes.
 *
 * A node is a prefix, the root being the empty one; its row of the decoder gets the
 * prefix's last token (the root the start token). An edge leads from a node to a token
 * that some labels go on with; its log-probability counts for each of those, which are
 * neighbours in the order of tokens. Nodes and edges come level by level. */
#ifndef MOE_TASK_LABELS_H
#define MOE_TASK_LABELS_H

#include "engine/moe.h"

typedef struct { int32_t token, parent, depth, first_edge; } label_node;
typedef struct { int32_t token, first, end; } label_edge; /* of order */

struct moe_labels {
    const moe_model *model;
    int n, n_nodes, n_edges;
    int n_links;       /* nodes on the way from the root to each, itself counted, summed */
    int32_t *order;    /* [n] labels by their tokens */
    label_node *node;  /* [n_nodes + 1]; the last has first_edge alone */
    label_edge *edge;  /* [n_edges] */
};

#endif
