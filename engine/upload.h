/* upload.h: a model's weight table as a backend sees it. */
#ifndef MOE_UPLOAD_H
#define MOE_UPLOAD_H

#include "engine/backend.h"

/* Hands every array of host over to b and writes the table with the pointers
 * that b's operations take to *out; free it with weights_release. The host
 * weights must outlive it. */
moe_status weights_upload(moe_backend *b, const moe_weights *host, moe_weights *out,
                          moe_error *err);
void weights_release(moe_weights *w);

#endif
