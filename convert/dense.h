/* dense.h: an open model's weights as a dense Hugging Face checkpoint. */
#ifndef CONVERT_DENSE_H
#define CONVERT_DENSE_H

#include "convert/json.h"
#include "convert/outdir.h"
#include "engine/model/model.h"

/* Writes every tensor of BertForSequenceClassification in fp32, neurons in the
 * source's order, to path, and syncs it. On failure path does not exist. */
moe_status dense_write_tensors(const char *path, const moe_model *m, moe_error *err);

/* Writes config.json, model.safetensors and the tokenizer's files of m's directory
 * into o. config: the source's, as write_read_config gives it, with the caller's
 * changes; here it loses its moefication and gets the dtype that is written now. */
moe_status dense_write(const outdir *o, const moe_model *m, json *config, moe_error *err);

#endif
