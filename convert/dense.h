/* dense.h: an open model's weights as a dense Hugging Face checkpoint. */
#ifndef CONVERT_DENSE_H
#define CONVERT_DENSE_H

#include "engine/model/model.h"

/* Writes every tensor of BertForSequenceClassification in fp32, neurons in the
 * source's order, to path, and syncs it. On failure path does not exist. */
moe_status dense_write_tensors(const char *path, const moe_model *m, moe_error *err);

#endif
