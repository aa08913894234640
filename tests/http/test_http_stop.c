/* test_http_stop.c: how the server ends, and what keeps it from starting. */
#include "tests/http/harness.h"

static int prepare(void **state)
{
    (void)state;
    curl_global_init(CURL_GLOBAL_ALL);
    return 0;
}

static void a_signal_lets_what_is_queued_finish(void **state)
{
    moefied m;
    background slow;
    bool closed;
    (void)state;
    moefied_start(&m, "drain", "--model", MINILM, SMALL_BATCHES, "--grace-seconds", "200", NULL);
    char *body = busy_body(&m, 3);
    int open_one = raw_connect(&m), idle = raw_connect(&m), health = raw_connect(&m);
    raw_post(open_one, "/v1/classify", "{\"inputs\":\"a\"}");
    free(raw_read(open_one, "timing_ms", 1, 20000, &closed));
    raw_text(health, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
    free(raw_read(health, "ok", 1, 20000, &closed));
    background_call(&slow, &m, "/v1/classify", body);
    wait_for_metric(&m, DEPTH, 2);
    kill(m.pid, SIGTERM);
    for (int64_t until = now_ms() + 5000; now_ms() < until;) {
        int fd = raw_connect(&m);
        if (fd < 0)
            break;
        close(fd);
        sleep_ms(5);
    }
    assert_int_equal(raw_connect(&m), -1); /* new connections are refused */
    raw_post(open_one, "/v1/classify", "{\"inputs\":\"a\"}");
    char *got = raw_read(open_one, NULL, 0, 5000, &closed);
    assert_true(closed);
    if (!strstr(got, "HTTP/1.1 503"))
        fail_msg("%s", got);
    assert_non_null(strstr(got, "draining"));
    assert_non_null(strstr(got, "Connection: close"));
    free(got);
    raw_text(health, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
    got = raw_read(health, NULL, 0, 5000, &closed);
    if (!strstr(got, "HTTP/1.1 503"))
        fail_msg("health: %s", got);
    free(got);
    pthread_join(slow.thread, NULL);
    expect_status(&slow.a, 200, "the request in flight");
    assert_int_equal(cJSON_GetArraySize(at(&slow.a, "results")), BUSY_TEXTS);
    answer_free(&slow.a);
    assert_int_equal(moefied_wait(&m, 60000), 0);
    close(open_one);
    close(idle);
    close(health);
    free(body);
}

static void an_idle_server_ends_at_once(void **state)
{
    moefied m;
    (void)state;
    moefied_start(&m, "idle", "--model", MINILM, NULL);
    int idle = raw_connect(&m), half = raw_connect(&m);
    raw_text(half, "POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{");
    sleep_ms(50);
    int64_t begin = now_ms();
    kill(m.pid, SIGINT);
    assert_int_equal(moefied_wait(&m, 20000), 0);
    assert_true(now_ms() - begin < 5000);
    close(idle);
    close(half);
}

static void requests_beyond_the_grace_time_are_refused(void **state)
{
    moefied m;
    background slow;
    (void)state;
    moefied_start(&m, "grace", "--model", MINILM, SMALL_BATCHES, "--grace-seconds", "0", NULL);
    char *body = busy_body(&m, 4);
    background_call(&slow, &m, "/v1/classify", body);
    wait_for_metric(&m, DEPTH, 2);
    kill(m.pid, SIGTERM);
    pthread_join(slow.thread, NULL);
    expect_status(&slow.a, 503, "over the grace time");
    answer_free(&slow.a);
    assert_int_equal(moefied_wait(&m, 20000), 1);
    free(body);
}

static void a_second_signal_ends_at_once(void **state)
{
    moefied m;
    background slow;
    (void)state;
    moefied_start(&m, "twice", "--model", MINILM, SMALL_BATCHES, NULL);
    char *body = busy_body(&m, 6);
    background_call(&slow, &m, "/v1/classify", body);
    wait_for_metric(&m, DEPTH, 2);
    kill(m.pid, SIGTERM);
    sleep_ms(100);
    int64_t begin = now_ms();
    kill(m.pid, SIGTERM);
    assert_int_equal(moefied_wait(&m, 20000), 1);
    assert_true(now_ms() - begin < 3000);
    pthread_join(slow.thread, NULL);
    answer_free(&slow.a);
    free(body);
}

/* ---- not starting --------------------------------------------------------- */

/* Runs moefied to its end; the exit code. lines: of stderr. */
static int run_to_end(const char *const *args, char *text, size_t room, int *lines)
{
    char path[4096];
    moefied m = {0};
    snprintf(path, sizeof path, "%s", tmp_path("refused.err"));
    m.pid = moefied_spawn(args, path, &m.out);
    int code = moefied_wait(&m, 20000);
    FILE *f = fopen(path, "r");
    size_t n = f ? fread(text, 1, room - 1, f) : 0;
    text[n] = '\0';
    if (f)
        fclose(f);
    *lines = count_text(text, "\n");
    return code;
}

static void what_keeps_it_from_starting_is_one_line(void **state)
{
    static char port[64], config_path[4096];
    moefied m;
    (void)state;
    moefied_start(&m, "taken", "--model", MINILM, NULL);
    snprintf(port, sizeof port, "127.0.0.1:%d", m.port);
    snprintf(config_path, sizeof config_path, "%s", tmp_path("broken.json"));
    FILE *f = fopen(config_path, "w");
    fputs("{\"model\": {\"m\": \"" MINILM "\"}, \"max_inputs\": \"many\"}", f);
    fclose(f);
    const struct { const char *args[6]; int code; const char *says; } cases[] = {
        {{"--model", MINILM, "--listen", port}, 1, "in use"},
        {{"--model", "m=/no/such/dir"}, 1, "/no/such/dir"},
        {{"--model", "m=tests"}, 1, "config.json"},
        {{"--config", config_path}, 1, "max_inputs"},
        {{"--config", "/no/such/file"}, 1, "/no/such/file"},
        {{"--model", MINILM, "--listen", "nonsense"}, 1, "nonsense"},
        {{"--model", MINILM, "--ratio", "2"}, 2, "--ratio"},
        {{"--model", MINILM, "--nope"}, 2, "--nope"},
        {{"--model", MINILM, "--backend", "gpu"}, 2, "--backend"},
        {{"--model", MINILM, "--backend", "cuda"}, 1, "backend cuda: this build has none"},
        {{NULL}, 2, "--model"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[4096];
        int lines, code = run_to_end(cases[i].args, text, sizeof text, &lines);
        if (code != cases[i].code || lines != 1 || !strstr(text, cases[i].says))
            fail_msg("case %zu: code %d, %d lines: %s; expected %d and '%s'", i, code, lines, text,
                     cases[i].code, cases[i].says);
    }
    moefied_stop(&m);
}

static void help_and_version_are_printed(void **state)
{
    static const char *const help[] = {"--help", NULL}, *const version[] = {"--version", NULL};
    char text[4096];
    int out, lines;
    (void)state;
    assert_int_equal(run_to_end(help, text, sizeof text, &lines), 0);
    moefied m = {.pid = moefied_spawn(version, tmp_path("version.err"), &out)};
    m.out = out;
    ssize_t n = read(out, text, sizeof text - 1);
    assert_true(n > 0);
    text[n] = '\0';
    assert_int_equal(strncmp(text, "moefied ", 8), 0);
    assert_int_equal(moefied_wait(&m, 10000), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_signal_lets_what_is_queued_finish),
        cmocka_unit_test(an_idle_server_ends_at_once),
        cmocka_unit_test(requests_beyond_the_grace_time_are_refused),
        cmocka_unit_test(a_second_signal_ends_at_once),
        cmocka_unit_test(what_keeps_it_from_starting_is_one_line),
        cmocka_unit_test(help_and_version_are_printed),
    };
    return cmocka_run_group_tests(tests, prepare, NULL);
}
