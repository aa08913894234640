/* http.c: libmicrohttpd behind our own words.
 *
 * Two internal polling threads (epoll) share the listening socket; a request
 * that waits for the engine is a suspended connection, not a thread. The
 * access handler is called for the headers, for every piece of the body, at
 * its end, and once more after a resume. Bodies are collected here, bounded.
 *
 * Two library rules shape this file: an answer may be queued only before the
 * body or after it, and all connections must be resumed before the daemon is
 * stopped. So a body that turns out too long on the way is thrown away up to
 * twice the limit, and past that gets a bare 413 on the socket. */
#include "server/http.h"

#include <errno.h>
#include <microhttpd.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/clock.h"
#include "server/listen.h"

enum { HTTP_THREADS = 2, BACKLOG = 1024 };

struct http_server {
    http_options o;
    http_handlers h;
    server_stats *stats;
    struct MHD_Daemon *daemon;
    int listen_fd;
    char address[LISTEN_TEXT];
    _Atomic bool draining;
    _Atomic int active;
};

struct http_exchange {
    http_server *server;
    struct MHD_Connection *connection;
    const char *method, *path;
    buffer body;
    size_t body_bytes; /* seen, stored or not */
    bool too_large, delivered, suspended, answered;
    int64_t begun_ns;
    void *state;
    int status, n_headers;
    const char *content_type;
    buffer answer;
    struct {
        const char *name;
        char value[HTTP_HEADER_BYTES];
    } headers[HTTP_HEADERS];
};

/* ---- sending ---------------------------------------------------------- */

static void add_headers(const http_exchange *x, struct MHD_Response *r)
{
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, x->content_type);
    for (int i = 0; i < x->n_headers; i++)
        MHD_add_response_header(r, x->headers[i].name, x->headers[i].value);
    if (http_draining(x->server))
        MHD_add_response_header(r, MHD_HTTP_HEADER_CONNECTION, "close");
}

static enum MHD_Result send_answer(http_exchange *x)
{
    if (x->answer.failed) {
        buffer_free(&x->answer);
        x->status = MHD_HTTP_INTERNAL_SERVER_ERROR;
    }
    struct MHD_Response *r = MHD_create_response_from_buffer(
        x->answer.n, x->answer.bytes ? x->answer.bytes : (void *)"",
        x->answer.bytes ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
    if (!r)
        return MHD_NO; /* closes the connection; finished() follows */
    x->answer = (buffer){0};
    add_headers(x, r);
    enum MHD_Result queued = MHD_queue_response(x->connection, (unsigned)x->status, r);
    MHD_destroy_response(r);
    return queued;
}

/* After a callback: sends its answer, or goes on waiting. */
static enum MHD_Result conclude(http_exchange *x)
{
    if (x->answered)
        return send_answer(x);
    return x->suspended ? MHD_YES : MHD_NO;
}

/* ---- receiving -------------------------------------------------------- */

static bool announces_too_much(const http_exchange *x)
{
    const char *length = http_header(x, MHD_HTTP_HEADER_CONTENT_LENGTH);
    if (!length)
        return false;
    errno = 0;
    unsigned long long n = strtoull(length, NULL, 10);
    return errno == ERANGE || n > x->server->o.max_body_bytes;
}

static void deliver(http_exchange *x)
{
    x->delivered = true;
    x->begun_ns = clock_ns();
    x->server->active++;
    if (x->too_large)
        x->server->h.too_large(x->server->h.ctx, x);
    else
        x->server->h.request(x->server->h.ctx, x);
}

static enum MHD_Result begin(http_server *s, struct MHD_Connection *c, const char *path,
                             const char *method, void **state)
{
    http_exchange *x = calloc(1, sizeof *x);
    if (!x)
        return MHD_NO;
    *x = (http_exchange){.server = s, .connection = c, .method = method, .path = path};
    *state = x;
    if (!announces_too_much(x))
        return MHD_YES;
    x->too_large = true;
    deliver(x);
    return conclude(x);
}

/* The library takes no answer in the middle of a body, so this one is written
 * by hand; the connection is closed after it. */
static void refuse_on_socket(http_exchange *x)
{
    buffer b = {0};
    deliver(x);
    buffer_printf(&b, "HTTP/1.1 %d Content Too Large\r\nConnection: close\r\n"
                  "Content-Type: %s\r\nContent-Length: %zu\r\n", x->status,
                  x->content_type, x->answer.n);
    for (int i = 0; i < x->n_headers; i++)
        buffer_printf(&b, "%s: %s\r\n", x->headers[i].name, x->headers[i].value);
    buffer_add_string(&b, "\r\n");
    if (x->answer.bytes)
        buffer_add(&b, x->answer.bytes, x->answer.n);
    if (!b.failed)
        /* A peer that does not read misses a courtesy. */
        (void)!send(http_socket(x), b.bytes, b.n, MSG_NOSIGNAL | MSG_DONTWAIT);
    buffer_free(&b);
}

static enum MHD_Result collect(http_exchange *x, const char *bytes, size_t *n)
{
    size_t limit = x->server->o.max_body_bytes;
    x->body_bytes += *n;
    if (x->body_bytes > limit) {
        x->too_large = true;
        buffer_free(&x->body);
        if (x->body_bytes - limit > limit) {
            refuse_on_socket(x);
            return MHD_NO;
        }
    } else {
        buffer_add(&x->body, bytes, *n);
        if (x->body.failed)
            return MHD_NO;
    }
    *n = 0;
    return MHD_YES;
}

static enum MHD_Result on_access(void *ctx, struct MHD_Connection *c, const char *path,
                                 const char *method, const char *version,
                                 const char *bytes, size_t *n_bytes, void **state)
{
    (void)version;
    if (!*state)
        return begin(ctx, c, path, method, state);
    http_exchange *x = *state;
    if (*n_bytes)
        return collect(x, bytes, n_bytes);
    if (x->suspended) {
        x->suspended = false;
        x->server->h.resumed(x->server->h.ctx, x);
    } else if (!x->delivered) {
        deliver(x);
    }
    return conclude(x);
}

static void on_completed(void *ctx, struct MHD_Connection *c, void **state,
                         enum MHD_RequestTerminationCode code)
{
    http_server *s = ctx;
    http_exchange *x = *state;
    (void)c, (void)code;
    if (!x)
        return;
    *state = NULL;
    if (x->delivered)
        s->h.finished(s->h.ctx, x);
    bool delivered = x->delivered;
    buffer_free(&x->body);
    buffer_free(&x->answer);
    free(x);
    if (delivered)
        s->active--;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* Percent-decoding in place, except %00: a decoded NUL would end the path and
 * let "/%00..." pass for "/". */
static size_t unescape(void *ctx, struct MHD_Connection *c, char *s)
{
    char *to = s;
    (void)ctx, (void)c;
    for (const char *from = s; *from; from++) {
        int high = *from == '%' ? hex_digit(from[1]) : -1;
        int low = high >= 0 ? hex_digit(from[2]) : -1;
        if (low >= 0 && high + low > 0) {
            *to++ = (char)(high * 16 + low);
            from += 2;
        } else {
            *to++ = *from;
        }
    }
    *to = '\0';
    return (size_t)(to - s);
}

static void on_connection(void *ctx, struct MHD_Connection *c, void **state,
                          enum MHD_ConnectionNotificationCode code)
{
    http_server *s = ctx;
    (void)c, (void)state;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        counter_add(&s->stats->connections, 1);
        counter_add(&s->stats->connections_total, 1);
    } else {
        counter_add(&s->stats->connections, UINT64_MAX); /* minus one */
    }
}

/* ---- the server ------------------------------------------------------- */

moe_status http_bind(const http_options *o, const http_handlers *h, server_stats *stats,
                     http_server **out, moe_error *err)
{
    *out = NULL;
    http_server *s = calloc(1, sizeof *s);
    if (!s)
        return moe_fail(err, MOE_E_MEMORY, "out of memory for the HTTP server");
    s->o = *o;
    s->h = *h;
    s->stats = stats;
    moe_status status = listen_bind(o->listen, &s->listen_fd, s->address, err);
    if (status != MOE_OK) {
        free(s);
        return status;
    }
    *out = s;
    return MOE_OK;
}

moe_status http_start(http_server *s, moe_error *err)
{
    if (listen(s->listen_fd, BACKLOG) != 0)
        return moe_fail(err, MOE_E_IO, "cannot listen on %s: %s", s->address, strerror(errno));
    s->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ITC, 0, NULL,
        NULL, on_access, s,
        MHD_OPTION_LISTEN_SOCKET, (MHD_socket)s->listen_fd,
        MHD_OPTION_THREAD_POOL_SIZE, (unsigned)HTTP_THREADS,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)s->o.max_connections,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)s->o.idle_seconds,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, s->o.header_bytes,
        MHD_OPTION_UNESCAPE_CALLBACK, unescape, NULL,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, s,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, s,
        MHD_OPTION_END);
    if (!s->daemon)
        return moe_fail(err, MOE_E_IO, "cannot start the HTTP server on %s", s->address);
    return MOE_OK;
}

const char *http_address(const http_server *s) { return s->address; }

void http_quiesce(http_server *s)
{
    s->draining = true;
    /* Its threads may still look at the socket, so it is shut, not closed:
     * whoever connects now is refused rather than kept waiting. */
    if (MHD_quiesce_daemon(s->daemon) != MHD_INVALID_SOCKET)
        shutdown(s->listen_fd, SHUT_RDWR);
}

bool http_draining(const http_server *s) { return s->draining; }
int http_active(const http_server *s) { return s->active; }

void http_stop(http_server *s)
{
    bool ours = s->draining; /* the library closes a socket it was not asked to give back */
    if (!s->daemon)
        return;
    MHD_stop_daemon(s->daemon);
    s->daemon = NULL;
    if (!ours)
        s->listen_fd = -1;
}

void http_destroy(http_server *s)
{
    if (!s)
        return;
    if (s->listen_fd >= 0)
        close(s->listen_fd);
    free(s);
}

/* ---- one exchange ----------------------------------------------------- */

const char *http_method(const http_exchange *x) { return x->method; }
const char *http_path(const http_exchange *x) { return x->path; }

const char *http_header(const http_exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);
}

const char *http_query(const http_exchange *x, const char *name)
{
    return MHD_lookup_connection_value(x->connection, MHD_GET_ARGUMENT_KIND, name);
}

const char *http_body(const http_exchange *x, size_t *n)
{
    *n = x->body.n;
    return x->body.bytes ? x->body.bytes : "";
}

int http_socket(const http_exchange *x)
{
    const union MHD_ConnectionInfo *i =
        MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    return i ? i->connect_fd : -1;
}

int64_t http_begun_ns(const http_exchange *x) { return x->begun_ns; }
int http_status(const http_exchange *x) { return x->status; }
void *http_state(const http_exchange *x) { return x->state; }
void http_set_state(http_exchange *x, void *state) { x->state = state; }

void http_suspend(http_exchange *x)
{
    x->suspended = true;
    MHD_suspend_connection(x->connection);
}

void http_resume(http_exchange *x)
{
    MHD_resume_connection(x->connection);
}

void http_answer_header(http_exchange *x, const char *name, const char *value)
{
    size_t n = strlen(value);
    if (x->n_headers == HTTP_HEADERS || n >= HTTP_HEADER_BYTES)
        return;
    x->headers[x->n_headers].name = name;
    memcpy(x->headers[x->n_headers++].value, value, n + 1);
}

void http_answer(http_exchange *x, int status, const char *content_type, buffer *body)
{
    x->status = status;
    x->content_type = content_type;
    x->answer = *body;
    *body = (buffer){0};
    x->answered = true;
}
