/* http.h: HTTP without libmicrohttpd's types: http.c is the only file that
 * knows the library.
 *
 * A request and its answer are one http_exchange. Its life, all callbacks on
 * one of the server's few polling threads:
 *
 *   request(x)   the body is complete; must call http_answer, or http_suspend
 *                once and leave the exchange to whoever will call http_resume;
 *   resumed(x)   after http_resume; must call http_answer;
 *   finished(x)  the answer was sent (or the peer left): free what
 *                http_set_state holds.
 *
 * too_large(x) stands for request(x) where the body is over the limit: known
 * from Content-Length before a byte is read, or found while reading. While an
 * exchange is suspended the library watches neither the peer nor the clock:
 * deadlines and departed peers are the batcher's business. */
#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H

#include "engine/moe.h"
#include "server/buffer.h"
#include "server/stats.h"

typedef struct http_server http_server;
typedef struct http_exchange http_exchange;

typedef struct {
    void *ctx;
    void (*request)(void *ctx, http_exchange *x);
    void (*resumed)(void *ctx, http_exchange *x);
    void (*too_large)(void *ctx, http_exchange *x);
    void (*finished)(void *ctx, http_exchange *x);
} http_handlers;

typedef struct {
    const char *listen; /* "127.0.0.1:8080", "[::1]:0", ":8080" */
    size_t max_body_bytes, header_bytes;
    int max_connections, idle_seconds;
} http_options;

/* Binds the address, so that a port in use shows before models are loaded. On
 * failure one line that names the address. */
moe_status http_bind(const http_options *o, const http_handlers *h, server_stats *stats,
                     http_server **out, moe_error *err);
/* Starts to listen and to serve. */
moe_status http_start(http_server *s, moe_error *err);
/* "127.0.0.1:41234", with the port that was really taken. */
const char *http_address(const http_server *s);

/* Stops accepting; open connections get answers with "Connection: close". */
void http_quiesce(http_server *s);
bool http_draining(const http_server *s);
/* Exchanges between request() and finished(). */
int http_active(const http_server *s);
/* No exchange may be suspended. Closes what is open and ends the threads. */
void http_stop(http_server *s);
void http_destroy(http_server *s); /* after http_stop, or never started */

/* ---- one exchange, within its callbacks -------------------------------- */

const char *http_method(const http_exchange *x);
const char *http_path(const http_exchange *x); /* percent-decoded, no query */
const char *http_header(const http_exchange *x, const char *name); /* or NULL */
const char *http_query(const http_exchange *x, const char *name);  /* or NULL */
/* NUL-terminated; "" where there is none. Lives until finished(). */
const char *http_body(const http_exchange *x, size_t *n);
int http_socket(const http_exchange *x);
int64_t http_begun_ns(const http_exchange *x); /* when the body was complete */
int http_status(const http_exchange *x);       /* of the answer; 0 before it */
void *http_state(const http_exchange *x);
void http_set_state(http_exchange *x, void *state);

void http_suspend(http_exchange *x); /* within request() only */
void http_resume(http_exchange *x);  /* any thread, once after http_suspend */

/* Adds a header to the answer to come; value is copied. At most HTTP_HEADERS. */
enum { HTTP_HEADERS = 14, HTTP_HEADER_BYTES = 160 };
void http_answer_header(http_exchange *x, const char *name, const char *value);
/* Answers. Takes over the body's bytes; a failed buffer becomes a bare 500. */
void http_answer(http_exchange *x, int status, const char *content_type, buffer *body);

#endif
