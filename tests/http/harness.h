/* harness.h: starts the real moefied on a free port and talks to it.
 *
 * moefied_start runs $MOE_BUILD/moefied and reads the port from its first
 * line; its stderr goes to $MOE_TMP/NAME.err. call() is one request by libcurl,
 * raw_* a plain socket for what no well-behaved client would send. Models:
 * tiny ones made on the spot (tests/support/tiny_model.h) and the shipped
 * checkpoint, whose forward passes take long enough to be caught in. */
#ifndef TESTS_HTTP_HARNESS_H
#define TESTS_HTTP_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdbool.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <cjson/cJSON.h>
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define UNUSED_OK __attribute__((unused)) static

#define MINILM "models/minilm-sst2-relu"

UNUSED_OK const char *tmp_path(const char *name)
{
    static __thread char path[4][4096];
    static __thread int turn;
    const char *dir = getenv("MOE_TMP");
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", dir ? dir : "/tmp", name);
    return p;
}

UNUSED_OK int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

UNUSED_OK void sleep_ms(int ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000L}, NULL);
}

/* ---- the server --------------------------------------------------------- */

typedef struct {
    pid_t pid;
    int port, out;
    char url[64], errors[4096];
} moefied;

enum { MAX_ARGS = 40 };

/* Starts moefied with `args` (NULL-ended) as they are; out: its stdout. */
UNUSED_OK pid_t moefied_spawn(const char *const *args, const char *err_path, int *out)
{
    const char *build = getenv("MOE_BUILD");
    char program[4096];
    char *argv[MAX_ARGS] = {program};
    int n = 1, pipe_fds[2];
    snprintf(program, sizeof program, "%s/moefied", build ? build : "build/release");
    for (; *args && n < MAX_ARGS - 1; args++)
        argv[n++] = (char *)*args;
    if (pipe2(pipe_fds, O_CLOEXEC) != 0)
        return -1;
    pid_t pid = fork();
    if (pid == 0) {
        int err = open(err_path, O_CREAT | O_TRUNC | O_WRONLY, 0666);
        dup2(pipe_fds[1], STDOUT_FILENO);
        dup2(err, STDERR_FILENO);
        execv(program, argv);
        _exit(127);
    }
    close(pipe_fds[1]);
    *out = pipe_fds[0];
    return pid;
}

UNUSED_OK void print_file(const char *path)
{
    char line[1024];
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f))
        print_error("%s", line);
    if (f)
        fclose(f);
}

/* Waits for the end; the exit code, 128 + signal, or -1 if it had to be killed. */
UNUSED_OK int moefied_wait(moefied *m, int ms)
{
    int status = 0;
    int64_t until = now_ms() + ms;
    while (waitpid(m->pid, &status, WNOHANG) == 0) {
        if (now_ms() > until) {
            kill(m->pid, SIGKILL);
            waitpid(m->pid, &status, 0);
            return -1;
        }
        sleep_ms(5);
    }
    close(m->out);
    m->pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Starts on a free port of 127.0.0.1 with more arguments (NULL-ended). */
UNUSED_OK void moefied_start(moefied *m, const char *name, ...)
{
    const char *args[MAX_ARGS] = {"--listen", "127.0.0.1:0"};
    char line[256] = "", err_name[80];
    size_t n = 0;
    int n_args = 2;
    va_list more;
    va_start(more, name);
    while (n_args < MAX_ARGS - 1 && (args[n_args] = va_arg(more, const char *)))
        n_args++;
    va_end(more);
    *m = (moefied){0};
    snprintf(err_name, sizeof err_name, "%s.err", name);
    snprintf(m->errors, sizeof m->errors, "%s", tmp_path(err_name));
    m->pid = moefied_spawn(args, m->errors, &m->out);
    while (n < sizeof line - 1 && read(m->out, line + n, 1) == 1 && line[n] != '\n')
        n++;
    if (sscanf(line, "listening on http://127.0.0.1:%d", &m->port) != 1) {
        print_file(m->errors);
        fail_msg("moefied did not start: it ended with %d and said '%s'", moefied_wait(m, 1000), line);
    }
    snprintf(m->url, sizeof m->url, "http://127.0.0.1:%d", m->port);
}

UNUSED_OK void moefied_stop(moefied *m)
{
    if (m->pid <= 0)
        return;
    kill(m->pid, SIGTERM);
    int code = moefied_wait(m, 60000);
    if (code != 0) {
        print_file(m->errors);
        fail_msg("moefied ended with %d", code);
    }
}

/* ---- one request -------------------------------------------------------- */

typedef struct {
    int status; /* 0: no answer */
    char *head, *body;
    size_t head_bytes, body_bytes;
    cJSON *json; /* NULL if it is none */
} answer;

UNUSED_OK size_t grow(char **to, size_t *n, const char *bytes, size_t more)
{
    char *p = realloc(*to, *n + more + 1);
    if (!p)
        return 0;
    memcpy(p + *n, bytes, more);
    *n += more;
    p[*n] = '\0';
    *to = p;
    return more;
}

UNUSED_OK size_t on_head(char *bytes, size_t size, size_t n, void *arg)
{
    answer *a = arg;
    return grow(&a->head, &a->head_bytes, bytes, size * n);
}

UNUSED_OK size_t on_body(char *bytes, size_t size, size_t n, void *arg)
{
    answer *a = arg;
    return grow(&a->body, &a->body_bytes, bytes, size * n);
}

/* method NULL: POST with a body, else GET. headers: "A: b" lines ended by
 * NULL, or NULL. Free with answer_free. */
UNUSED_OK answer call_with(const moefied *m, const char *method, const char *path,
                           const char *body, size_t body_bytes, const char *const *headers)
{
    answer a = {0};
    char url[4096];
    CURL *c = curl_easy_init();
    struct curl_slist *list = curl_slist_append(NULL, "Content-Type: application/json");
    for (; headers && *headers; headers++)
        list = curl_slist_append(list, *headers);
    snprintf(url, sizeof url, "%s%s", m->url, path);
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_TIMEOUT, 120L);
    curl_easy_setopt(c, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, list);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_head);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, &a);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, &a);
    if (body) {
        curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE, (long)body_bytes);
        curl_easy_setopt(c, CURLOPT_POSTFIELDS, body);
    }
    if (method && strcmp(method, "HEAD") == 0)
        curl_easy_setopt(c, CURLOPT_NOBODY, 1L);
    else if (method)
        curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, method);
    if (curl_easy_perform(c) == CURLE_OK || a.head) {
        long status = 0;
        curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
        a.status = (int)status;
    }
    curl_slist_free_all(list);
    curl_easy_cleanup(c);
    if (a.body)
        a.json = cJSON_Parse(a.body);
    return a;
}

UNUSED_OK answer call(const moefied *m, const char *method, const char *path, const char *body)
{
    return call_with(m, method, path, body, body ? strlen(body) : 0, NULL);
}

UNUSED_OK answer get(const moefied *m, const char *path)
{
    return call(m, NULL, path, NULL);
}

UNUSED_OK answer classify(const moefied *m, const char *body)
{
    return call(m, NULL, "/v1/classify", body);
}

UNUSED_OK void answer_free(answer *a)
{
    cJSON_Delete(a->json);
    free(a->head);
    free(a->body);
    *a = (answer){0};
}

/* A header's value, "" if absent. */
UNUSED_OK const char *header(const answer *a, const char *name)
{
    static __thread char value[512];
    size_t n = strlen(name);
    value[0] = '\0';
    for (const char *line = a->head; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (strncasecmp(line, name, n) == 0 && line[n] == ':')
            sscanf(line + n + 1, " %511[^\r\n]", value);
    return value;
}

/* Fails unless the answer has this status. */
UNUSED_OK void expect_status(const answer *a, int status, const char *what)
{
    if (a->status != status)
        fail_msg("%s: status %d, expected %d: %s", what, a->status, status, a->body ? a->body : "");
}

/* "a.b.2.c" in the answer's JSON; fails if it is not there. */
UNUSED_OK const cJSON *at(const answer *a, const char *path)
{
    char part[64];
    const cJSON *node = a->json;
    for (const char *p = path; node && *p;) {
        size_t n = strcspn(p, ".");
        snprintf(part, sizeof part, "%.*s", (int)n, p);
        node = cJSON_IsArray(node) ? cJSON_GetArrayItem(node, atoi(part))
                                   : cJSON_GetObjectItemCaseSensitive(node, part);
        p += n + (p[n] == '.');
    }
    if (!node)
        fail_msg("no %s in %s", path, a->body ? a->body : "nothing");
    return node;
}

UNUSED_OK double number_at(const answer *a, const char *path)
{
    const cJSON *node = at(a, path);
    if (!cJSON_IsNumber(node))
        fail_msg("%s is no number in %s", path, a->body);
    return node->valuedouble;
}

UNUSED_OK const char *string_at(const answer *a, const char *path)
{
    const cJSON *node = at(a, path);
    if (!cJSON_IsString(node))
        fail_msg("%s is no string in %s", path, a->body);
    return node->valuestring;
}

/* The value of a Prometheus series "name{labels}"; fails if it is not there. */
UNUSED_OK double metric(const moefied *m, const char *series)
{
    answer a = get(m, "/metrics");
    size_t n = strlen(series);
    double value = 0;
    bool found = false;
    for (const char *line = a.body; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (strncmp(line, series, n) == 0 && line[n] == ' ') {
            value = strtod(line + n, NULL);
            found = true;
        }
    answer_free(&a);
    if (!found)
        fail_msg("no series %s", series);
    return value;
}

/* {"inputs":["w w w ...", ...]}: n texts of `words` words; free it. */
UNUSED_OK char *long_body(int n, int words, double ratio)
{
    char *body = malloc((size_t)n * (size_t)(words * 6 + 8) + 64), *p = body;
    p += sprintf(p, "{\"ratio\":%g,\"inputs\":[", ratio);
    for (int i = 0; i < n; i++) {
        p += sprintf(p, "%s\"", i ? "," : "");
        for (int w = 0; w < words; w++)
            p += sprintf(p, "good ");
        p += sprintf(p, "\"");
    }
    sprintf(p, "]}");
    return body;
}

/* A body of BUSY_TEXTS texts that keeps a server of MINILM busy for about
 * `seconds`, whatever the machine and the sanitizer; free it. Start the server
 * with --batch-tokens 16, so that it computes them in many small batches. */
enum { BUSY_TEXTS = 40 };
UNUSED_OK char *busy_body(const moefied *m, double seconds)
{
    for (int i = 0; i < 2; i++) {
        char *warm = long_body(1, 40, 1);
        answer a = classify(m, warm);
        expect_status(&a, 200, "warming up");
        answer_free(&a);
        free(warm);
    }
    double speed = metric(m, "moefied_tokens_per_second{model=\"minilm-sst2-relu\"}");
    double words = speed * seconds / BUSY_TEXTS - 2;
    return long_body(BUSY_TEXTS, words < 4 ? 4 : words > 480 ? 480 : (int)words, 1);
}
#define DEPTH "moefied_queue_depth{model=\"minilm-sst2-relu\"}"
#define SMALL_BATCHES "--batch-tokens", "16"

/* ---- a request on a thread of its own ------------------------------------ */

typedef struct {
    const moefied *m;
    const char *path, *body;
    answer a;
    pthread_t thread;
} background;

UNUSED_OK void *background_main(void *arg)
{
    background *b = arg;
    b->a = call(b->m, NULL, b->path, b->body);
    return NULL;
}

UNUSED_OK void background_call(background *b, const moefied *m, const char *path, const char *body)
{
    *b = (background){.m = m, .path = path, .body = body};
    pthread_create(&b->thread, NULL, background_main, b);
}

/* A request is counted once its answer is sent, which the client may see first:
 * waits until only the one that asks for metrics is active. */
UNUSED_OK void settle(const moefied *m)
{
    int64_t until = now_ms() + 10000;
    while (metric(m, "moefied_requests_active") > 1) {
        assert_true(now_ms() < until);
        sleep_ms(10);
    }
}

/* Waits until the server computes or holds n texts more than `series` says. */
UNUSED_OK void wait_for_metric(const moefied *m, const char *series, double at_least)
{
    int64_t until = now_ms() + 30000;
    while (metric(m, series) < at_least) {
        if (now_ms() > until)
            fail_msg("%s did not reach %g", series, at_least);
        sleep_ms(5);
    }
}

/* ---- plain sockets ------------------------------------------------------- */

/* -1: refused. */
UNUSED_OK int raw_connect(const moefied *m)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)m->port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

UNUSED_OK void raw_send(int fd, const char *bytes, size_t n)
{
    while (n > 0) {
        ssize_t sent = send(fd, bytes, n, MSG_NOSIGNAL);
        if (sent <= 0)
            return; /* the server may hang up first, and tests say if it may */
        bytes += sent;
        n -= (size_t)sent;
    }
}

UNUSED_OK void raw_text(int fd, const char *text)
{
    raw_send(fd, text, strlen(text));
}

UNUSED_OK void raw_post(int fd, const char *path, const char *body)
{
    char head[512];
    int n = snprintf(head, sizeof head, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n",
                     path, strlen(body));
    raw_send(fd, head, (size_t)n);
    raw_send(fd, body, strlen(body));
}

/* Reads until `marks` texts "mark" were seen, the peer closed, or ms passed.
 * Returns what came, NUL-terminated; free it. closed: whether the peer closed. */
UNUSED_OK char *raw_read(int fd, const char *mark, int marks, int ms, bool *closed)
{
    char *all = NULL, chunk[4096];
    size_t n = 0;
    int64_t until = now_ms() + ms;
    *closed = false;
    grow(&all, &n, "", 0);
    for (;;) {
        int seen = 0;
        for (const char *p = all; mark && (p = strstr(p, mark)); p++)
            seen++;
        int64_t left = until - now_ms();
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if ((mark && seen >= marks) || left <= 0 || poll(&p, 1, (int)left) <= 0)
            return all;
        ssize_t got = recv(fd, chunk, sizeof chunk, 0);
        if (got <= 0) {
            *closed = true;
            return all;
        }
        grow(&all, &n, chunk, (size_t)got);
    }
}

UNUSED_OK int count_text(const char *in, const char *what)
{
    int n = 0;
    for (; (in = strstr(in, what)); in++)
        n++;
    return n;
}

#endif
