/* main.c: start and stop.
 *
 * The main thread reads the configuration, binds, opens models, starts the
 * threads, says where it listens, and then waits for a signal. Signals are
 * blocked everywhere and taken by sigtimedwait here alone. On the first
 * SIGTERM or SIGINT it drains: no new connections, 503 for new requests on
 * open ones, and an answer for everything queued; a second one ends at once.
 * Exit codes: 0 stopped, 1 failed, 2 usage. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "server/clock.h"
#include "server/routes.h"

enum { STOPPED = 0, FAILED = 1, USAGE = 2 };
enum { POLL_NS = 10000000, LAST_ANSWERS_SECONDS = 2 };

static int fail(const moe_error *err, int code)
{
    log_error("%s", err->message);
    return code;
}

static sigset_t block_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    return set;
}

/* Waits until no request is being answered, or for `seconds`, or for another
 * signal, which ends the process. */
static bool wait_for_answers(const server *s, const sigset_t *signals, int seconds)
{
    int64_t until = clock_ns() + (int64_t)seconds * 1000000000;
    while (http_active(s->http) > 0 && clock_ns() < until) {
        struct timespec pause = {0, POLL_NS};
        if (sigtimedwait(signals, NULL, &pause) > 0)
            _exit(FAILED);
    }
    return http_active(s->http) == 0;
}

/* Ends what runs; the exit code. */
static int drain(server *s, const sigset_t *signals)
{
    http_quiesce(s->http);
    bool done = wait_for_answers(s, signals, s->config->grace_seconds);
    if (!done) {
        log_error("%d requests were not answered within %d s of grace",
                  http_active(s->http), s->config->grace_seconds);
        models_refuse(&s->models);
        /* A batch in the engine cannot be called back: it has a moment more,
         * and no connection may be suspended when the library stops. */
        if (!wait_for_answers(s, signals, LAST_ANSWERS_SECONDS))
            _exit(FAILED);
    }
    http_stop(s->http);
    return done ? STOPPED : FAILED;
}

static int serve(server *s, const sigset_t *signals)
{
    moe_error err;
    if (models_start(&s->models, s->config, &err) != MOE_OK || http_start(s->http, &err) != MOE_OK)
        return fail(&err, FAILED);
    printf("listening on http://%s\n", http_address(s->http));
    fflush(stdout);
    siginfo_t from;
    while (sigwaitinfo(signals, &from) < 0)
        continue; /* EINTR: a debugger, or a stop and continue */
    log_error("%s from process %d: %d requests to finish",
              from.si_signo == SIGINT ? "SIGINT" : "SIGTERM", (int)from.si_pid,
              http_active(s->http));
    return drain(s, signals);
}

static int run(server *s)
{
    const config *c = s->config;
    moe_error err;
    http_options o = {
        .listen = c->listen,
        .max_body_bytes = (size_t)c->max_body_bytes,
        .header_bytes = (size_t)c->header_bytes,
        .max_connections = c->max_connections,
        .idle_seconds = c->idle_seconds,
    };
    http_handlers h = routes_handlers(s);
    if (http_bind(&o, &h, &s->stats, &s->http, &err) != MOE_OK)
        return fail(&err, FAILED);
    int code = FAILED;
    if (models_open(&s->models, c, &err) == MOE_OK) {
        sigset_t signals = block_signals(); /* before the first thread */
        code = serve(s, &signals);
        models_close(&s->models);
    } else {
        fail(&err, FAILED);
    }
    http_destroy(s->http);
    return code;
}

int main(int argc, char **argv)
{
    config c;
    moe_error err;
    int code = STOPPED;
    switch (config_load(&c, argc, argv, &err)) {
    case CONFIG_PRINTED: break;
    case CONFIG_USAGE: code = fail(&err, USAGE); break;
    case CONFIG_BAD: code = fail(&err, FAILED); break;
    case CONFIG_READY: {
        server s = {.config = &c};
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        s.stats.started_unix_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
        uint64_t start = (uint64_t)s.stats.started_unix_ns;
        if (getrandom(&start, sizeof start, GRND_NONBLOCK) != sizeof start)
            start ^= (uint64_t)getpid() << 40;
        s.next_id = start;
        code = run(&s);
    }
    }
    config_release(&c);
    return code;
}
