/* oip.h: a request of the Open Inference Protocol, version 2, as oip_read.c understands it
 * and oip.c answers it. */
#ifndef SERVER_OIP_H
#define SERVER_OIP_H

#include "server/request.h"

/* What a model gives, in the order of their bits. */
enum { OIP_LABEL, OIP_SCORE, OIP_SCORES, OIP_LOGITS, OIP_ANSWER, OIP_START, OIP_END,
       OIP_N_OUTPUTS };

typedef struct oip_request {
    const char *id;          /* NULL: none */
    unsigned wanted;         /* bits of outputs; 0: all that the model has */
    unsigned binary;         /* of which, as bytes behind the JSON */
    /* Token ids in place of texts: [n_rows, n_columns] each, or NULL. */
    int32_t *ids, *mask, *types;
    int n_rows, n_columns;
    size_t header_bytes;     /* out: the answer's JSON where bytes follow; 0: none do */
} oip_request;

/* json_bytes: of the header Inference-Header-Content-Length, or n. questions: inputs are
 * question and context. What is read points into body and out->tree. On success the
 * caller owns out->oip: oip_free. */
bool oip_read(const char *body, size_t n, size_t json_bytes, bool questions,
              const request_limits *limits, inference_request *out, problem *p);
void oip_free(oip_request *o);

const char *oip_output_name(int output);
const char *oip_output_type(int output); /* "BYTES", "FP32", "INT32" */

#endif
