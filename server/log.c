/* log.c: request lines, in words or as JSON. */
#include "server/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "server/clock.h"
#include "server/json_out.h"

enum { LOG_TEXT = 256 };

static void write_out(const char *bytes, size_t n)
{
    ssize_t ignored = write(STDERR_FILENO, bytes, n); /* nowhere to report it */
    (void)ignored;
}

void log_error(const char *format, ...)
{
    char message[600], line[640];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    int n = snprintf(line, sizeof line, "moefied: %s\n", message);
    write_out(line, (size_t)n);
}

/* "2024-11-24T12:00:00.123Z" */
static void timestamp(char out[32])
{
    struct timespec t;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &t);
    gmtime_r(&t.tv_sec, &utc);
    size_t n = strftime(out, 32, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(out + n, 32 - n, ".%03dZ", (int)(t.tv_nsec / 1000000));
}

/* A client's bytes as printable ASCII, cut to what a line should hold. */
static const char *printable(const char *s, char out[LOG_TEXT])
{
    size_t n = 0;
    for (; s[n] && n + 1 < LOG_TEXT; n++)
        out[n] = s[n] > 0x20 && s[n] < 0x7f ? s[n] : '?';
    out[n] = '\0';
    return out;
}

static void add_json(buffer *b, const char *time, const log_request *r)
{
    char text[LOG_TEXT];
    jw_open(b, '{');
    jw_pair_string(b, "time", time);
    jw_pair_string(b, "id", r->id);
    jw_pair_string(b, "method", printable(r->method, text));
    jw_pair_string(b, "path", printable(r->path, text));
    jw_pair_int(b, "status", r->status);
    jw_pair_fixed(b, "total_ms", ns_to_ms(r->total_ns), 3);
    if (r->model) {
        jw_pair_string(b, "model", r->model);
        jw_pair_int(b, "inputs", r->n_inputs);
        jw_pair_int(b, "tokens", r->n_tokens);
        jw_pair_number(b, "ratio", r->ratio, 6);
        jw_pair_fixed(b, "queue_ms", ns_to_ms(r->queue_ns), 3);
        jw_pair_fixed(b, "compute_ms", ns_to_ms(r->compute_ns), 3);
    }
    jw_close(b, '}');
}

static void add_plain(buffer *b, const char *time, const log_request *r)
{
    char method[LOG_TEXT], path[LOG_TEXT];
    buffer_printf(b, "%s %s %s %d %.3f ms", time, printable(r->method, method),
                  printable(r->path, path), r->status, ns_to_ms(r->total_ns));
    buffer_printf(b, " id=%s", r->id);
    if (r->model)
        buffer_printf(b, " model=%s inputs=%d tokens=%d ratio=%.6g queue=%.3f compute=%.3f",
                      r->model, r->n_inputs, r->n_tokens, r->ratio,
                      ns_to_ms(r->queue_ns), ns_to_ms(r->compute_ns));
}

void log_line(log_format format, const log_request *r)
{
    char time[32];
    buffer b = {0};
    if (format == LOG_NONE)
        return;
    timestamp(time);
    if (format == LOG_JSON)
        add_json(&b, time, r);
    else
        add_plain(&b, time, r);
    buffer_add_char(&b, '\n');
    if (!b.failed)
        write_out(b.bytes, b.n);
    buffer_free(&b);
}
