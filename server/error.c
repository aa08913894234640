/* error.c: a problem in the shapes that clients of each protocol expect. */
#include <string.h>

#include "server/json_out.h"
#include "server/server.h"

/* The names that text-embeddings-inference has for our types of error. */
static const char *tei_type(const problem *p)
{
    switch (p->status) {
    case 429: return "Overloaded";
    case 503: return "Unhealthy";
    case 500: return "Backend";
    default: return strcmp(p->type, "empty") == 0 ? "Empty" : "Validation";
    }
}

static const char *openai_type(const problem *p)
{
    return p->status == 404   ? "NotFoundError"
           : p->status == 429 ? "RateLimitError"
           : p->status >= 500 ? "InternalServerError"
                              : "BadRequestError";
}

void error_write(buffer *b, error_shape shape, const problem *p)
{
    bool nested = shape == ERROR_OWN || shape == ERROR_OPENAI;
    jw_open(b, '{');
    if (nested) {
        jw_key(b, "error");
        jw_open(b, '{');
        jw_pair_string(b, "type", shape == ERROR_OWN ? p->type : openai_type(p));
        jw_pair_string(b, "message", p->message);
        if (shape == ERROR_OPENAI) {
            jw_key(b, "param");
            jw_null(b);
            jw_pair_int(b, "code", p->status);
        }
        jw_close(b, '}');
    } else {
        jw_pair_string(b, "error", p->message);
        if (shape == ERROR_TEI)
            jw_pair_string(b, "error_type", tei_type(p));
    }
    jw_close(b, '}');
}
