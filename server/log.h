/* log.h: lines on stderr, each written by one call so that threads don't mix.
 *
 * Errors always; one line per request where --log says plain or json. */
#ifndef SERVER_LOG_H
#define SERVER_LOG_H

#include <stdint.h>

typedef enum { LOG_NONE, LOG_PLAIN, LOG_JSON } log_format;

/* Prints "moefied: MESSAGE". Any thread. */
void log_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

typedef struct {
    const char *id, *method, *path; /* of the client: escaped when printed */
    int status;
    int64_t total_ns, queue_ns, compute_ns; /* queue, compute: 0 without inference */
    const char *model;                      /* NULL without inference */
    int n_inputs, n_tokens;
    double ratio; /* effective */
} log_request;

/* Any thread. */
void log_line(log_format format, const log_request *r);

#endif
