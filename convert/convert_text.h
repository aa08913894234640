/* convert_text.h: the conversion of text-to-text models, both halves. */
#ifndef CONVERT_CONVERT_TEXT_H
#define CONVERT_CONVERT_TEXT_H

#include "convert/convert.h"

/* As convert_model does it; called by it. The encoder reads data's texts, in the template
 * of each row's task or o->task; the decoder is forced to the labels, or where a row has
 * none to what the model itself says. The same number of experts in every layer; the
 * layers of both halves, one after the other, each on the dense model's rows. */
moe_status convert_text_model(const moe_model *m, const dataset *data,
                              const convert_options *o, progress *bar, converted *out,
                              moe_error *err);

#endif
