/* figures.h: everything that `moefy report` shows of a model on a text, as numbers:
 * what report.h writes as a page and figures_json as one JSON object. */
#ifndef CONVERT_FIGURES_H
#define CONVERT_FIGURES_H

#include "convert/analysis.h"
#include "convert/cli.h"
#include "convert/dataset.h"
#include "convert/fidelity.h"
#include "convert/json.h"

enum {
    FIDELITY_TOKENS = 65536, /* of whole rows, evenly spread over the text, at most */
    LAYER_TOKENS = 16384,    /* the same for the layers: their inputs lie on disk */
    MAX_SERIES = 12, CDF_POINTS = 61,
};

typedef struct {
    const moe_model_info *info;
    const char *data_name;      /* as given on the command line */
    const char *data_sha256;
    bool regress, labelled;
    int n_rows_read, n_rows, n_tokens;       /* of the text; used for fidelity */
    int n_layer_rows, n_layer_tokens;        /* used for the layers */
    int n_series;
    fidelity series[MAX_SERIES];
    double selected_ratio;      /* that `selected` of the layers was counted at */
    int n_layers;
    layer_figures *layers;      /* [n_layers] */
    double cdf_max;             /* cdf's shares run from 0 to here in CDF_POINTS */
} figures;

/* Whether there is anything to show of a model: it must be MoEfied and not give
 * several labels a row. */
moe_status figures_check(const moe_model_info *info, moe_error *err);

/* Measures the model of s, which figures_check let through, on data. spool_dir: where
 * captured rows may lie. data must outlive out. A text without any word, labels that
 * the model does not have, a signal: an error that says so. out: figures_free, also on
 * failure. */
moe_status figures_make(session *s, const dataset *data, const char *spool_dir,
                        figures *out, moe_error *err);
void figures_free(figures *f);

/* The share at point i of [0, CDF_POINTS). */
double figures_cdf_share(const figures *f, int i);

/* All of it as one JSON object, the caller's. */
json *figures_json(const figures *f);

#endif
