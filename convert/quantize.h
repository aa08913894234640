/* quantize.h: the linear weights of a converted model's layers made bf16 or int8. */
#ifndef CONVERT_QUANTIZE_H
#define CONVERT_QUANTIZE_H

#include "convert/calibration.h"
#include "convert/converted.h"
#include "convert/workers.h"

/* Of every layer of c, converted or not, when nothing more will be put. int8 scales
 * are chosen by what enters the weights when m, the dense source of c, reads text; a
 * few thousand tokens of it do. F32: nothing to do. */
moe_status quantize_model(const moe_model *m, moe_pool *pool, workers *hands,
                          const calibration *text, moe_dtype t, progress *bar, converted *c,
                          moe_error *err);

#endif
