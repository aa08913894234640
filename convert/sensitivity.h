/* sensitivity.h: how much the model's answer depends on what the FFN of each layer
 * adds to each token: the length of the answer's gradient by it.
 *
 * The answer of a sequence is, of the dense model's logits,
 *     classification   the best less the second best (ties: the lower label first)
 *     multi-label      their sum, each with a random sign of
 *                      rng_stream(seed, sequence, 's'), one draw a label, in order
 *     regression       the value
 *
 * The way goes from the last layer to the first, all tokens of one layer before the
 * next: memory holds one layer's weights and a task's rows per worker. */
#ifndef CONVERT_SENSITIVITY_H
#define CONVERT_SENSITIVITY_H

#include "convert/states.h"
#include "convert/workers.h"

/* Regions that sensitivity_run needs of states after those between the layers. */
enum { SENSITIVITY_REGIONS = 1 };

/* Whether the gradient of this architecture is known here. */
bool sensitivity_supported(const moe_model *m);

/* norm [n_layers, n_tokens]: out. s: of states_run over text, with at least
 * SENSITIVITY_REGIONS extra regions; overwrites the first of them. The same bits for
 * any number of workers. An architecture that is not supported: MOE_E_UNSUPPORTED; a
 * gradient that is not finite: MOE_E_FORMAT, naming layer and token; interrupted:
 * MOE_E_IO. */
moe_status sensitivity_run(const moe_model *m, const calibration *text, const states *s,
                           uint64_t seed, workers *w, progress *bar, float *norm,
                           moe_error *err);

#endif
