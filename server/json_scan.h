/* json_scan.h: checks a JSON text from outside before anything is built of it.
 *
 * One pass, no allocation: RFC 8259's grammar, UTF-8, surrogate pairs, and
 * bounds on depth and on the number of values. What passes can be parsed by
 * any JSON library without surprises; what doesn't is named with its byte. */
#ifndef SERVER_JSON_SCAN_H
#define SERVER_JSON_SCAN_H

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    int max_depth;  /* arrays and objects within one another */
    int max_values; /* scalars, arrays and objects, keys not counted */
    bool allow_nul; /* \u0000 in a string: the reader must go by lengths */
} json_limits;

typedef enum {
    JSON_FINE,
    JSON_MALFORMED, /* not JSON, not UTF-8, or nested too deep */
    JSON_REFUSED,   /* a value that is not taken: NaN, \u0000 */
    JSON_TOO_MANY,  /* over max_values */
    JSON_NO_MEMORY,
} json_verdict;

typedef struct {
    size_t byte; /* offset of the fault, from 0 */
    char message[160];
} json_fault;

json_verdict json_scan(const char *bytes, size_t n, const json_limits *limits,
                       json_fault *fault);

#endif
