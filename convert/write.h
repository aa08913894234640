/* write.h: the files of a MoEfied directory (docs/model-format.md). */
#ifndef CONVERT_WRITE_H
#define CONVERT_WRITE_H

#include "convert/convert.h"
#include "convert/json.h"
#include "convert/outdir.h"

/* Writes config.json, model.safetensors, the tokenizer's files and a card into
 * o's temporary directory. Nothing in them depends on the time or the threads. */
moe_status write_model(const outdir *o, const moe_model *m, const converted *c,
                       const convert_options *options, const dataset *data,
                       moe_error *err);

/* A hash of all that such a conversion's result depends on; for resume.h. */
moe_status write_conversion_key(const moe_model *m, const convert_options *o,
                                const dataset *data, char key[65], moe_error *err);

/* Pieces of it that the writers of dense checkpoints share. *config: json_free. */
moe_status write_read_config(const char *dir, json **config, moe_error *err);
moe_status write_config(const outdir *o, const json *config, moe_error *err);
moe_status write_tokenizer(const outdir *o, const char *from, moe_error *err);

/* Adds "calibration": name, hash and counts of the text. */
void write_add_calibration(json *parent, const dataset *data, int rows, int sequences,
                           int tokens);
/* Adds "source": name and hashes of m's directory. */
moe_status write_add_source(json *parent, const moe_model *m, moe_error *err);

/* The part of a path after its last slash, trailing ones left out; free() it. */
char *path_base(const char *path);

#endif
