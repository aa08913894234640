/* encoder_names.c: the table itself. */
#include "engine/model/encoder_names.h"

#include <string.h>

#define BERT_LAYER "encoder.layer", "attention.self.query", "attention.self.key", \
                   "attention.self.value", "attention.output.dense", \
                   "attention.output.LayerNorm", "intermediate.dense", "output.dense", \
                   "output.LayerNorm"

static const encoder_names bert = {"bert.", BERT_LAYER, "pooler.dense", "classifier"};
static const encoder_names roberta = {"roberta.", BERT_LAYER, "classifier.dense",
                                      "classifier.out_proj"};
static const encoder_names distilbert = {
    "distilbert.", "transformer.layer", "attention.q_lin", "attention.k_lin", "attention.v_lin",
    "attention.out_lin", "sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm",
    "pre_classifier", "classifier"};

const encoder_names *encoder_names_of(moe_family family)
{
    return family == MOE_FAMILY_DISTILBERT ? &distilbert
         : family == MOE_FAMILY_ROBERTA    ? &roberta
                                           : &bert;
}

bool encoder_is_head(const char *name)
{
    static const char *const heads[] = {"classifier", "pre_classifier", "qa_outputs"};
    size_t n = strcspn(name, ".");
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
        if (strlen(heads[i]) == n && memcmp(heads[i], name, n) == 0)
            return true;
    return false;
}
