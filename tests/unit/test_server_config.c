/* test_server_config.c: flags over environment over file, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "server/listen.h"
#include "server/option.h"

static config c;
static moe_error err;

/* Reads flags given as one NULL-ended list; frees what the last call left. */
static config_result read_flags(const char *first, ...)
{
    char *argv[32] = {(char *)"moefied"};
    int argc = 1;
    va_list args;
    va_start(args, first);
    for (const char *a = first; a; a = va_arg(args, const char *))
        argv[argc++] = (char *)a;
    va_end(args);
    config_release(&c);
    err = (moe_error){0};
    return config_load(&c, argc, argv, &err);
}

static const char *write_file(const char *text)
{
    static char path[4096];
    const char *dir = getenv("MOE_TMP");
    snprintf(path, sizeof path, "%s/moefied_%d.json", dir ? dir : "/tmp", getpid());
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    return path;
}

static int forget_environment(void **state)
{
    (void)state;
    for (int i = 0; i < n_options; i++) {
        char variable[48];
        option_variable(&options[i], variable);
        unsetenv(variable);
    }
    return 0;
}

static int clean_up(void **state)
{
    config_release(&c);
    return forget_environment(state);
}

static void defaults_are_usable(void **state)
{
    (void)state;
    assert_int_equal(read_flags("--model", "models/sst2/", NULL), CONFIG_READY);
    assert_string_equal(c.models[0].name, "sst2");
    assert_string_equal(c.models[0].dir, "models/sst2/");
    assert_string_equal(c.listen, "127.0.0.1:8080");
    assert_float_equal(c.ratio, 1, 0);
    assert_true(c.probe);
    assert_int_equal(c.backend, MOE_BACKEND_AUTO);
    assert_int_equal(c.log, LOG_NONE);
}

static void a_flag_beats_the_environment_which_beats_the_file(void **state)
{
    const char *path = write_file("{\"model\":{\"file\":\"f\"},\"ratio\":0.125,\"max_inputs\":5,"
                                  "\"threads\":7,\"probe\":false,\"log\":\"json\"}");
    (void)state;
    assert_int_equal(read_flags("--config", path, NULL), CONFIG_READY);
    assert_string_equal(c.models[0].name, "file");
    assert_int_equal(c.max_inputs, 5);
    assert_false(c.probe);
    assert_int_equal(c.log, LOG_JSON);
    setenv("MOEFIED_RATIO", "0.25", 1);
    setenv("MOEFIED_MAX_INPUTS", "6", 1);
    setenv("MOEFIED_PROBE", "true", 1);
    setenv("MOEFIED_MODEL", "env=e,other=o", 1);
    assert_int_equal(read_flags("--config", path, "--ratio=0.5", NULL), CONFIG_READY);
    assert_float_equal(c.ratio, 0.5, 0);
    assert_int_equal(c.max_inputs, 6);
    assert_int_equal(c.threads, 7);
    assert_true(c.probe);
    assert_int_equal(c.n_models, 2);
    assert_string_equal(c.models[1].name, "other");
    assert_int_equal(read_flags("--config", path, "--model", "a=b", "--no-probe", NULL), CONFIG_READY);
    assert_int_equal(c.n_models, 1);
    assert_string_equal(c.models[0].name, "a");
    assert_false(c.probe);
    setenv("MOEFIED_CONFIG", path, 1);
    unsetenv("MOEFIED_MODEL");
    assert_int_equal(read_flags(NULL, NULL), CONFIG_READY);
    assert_string_equal(c.models[0].name, "file");
    unlink(path);
}

static void wrong_flags_are_usage_errors(void **state)
{
    static const char *const flags[] = {
        "--nope", "--max-inputs=x", "--max-inputs=0", "--max-inputs=1.5", "--max-inputs= 5",
        "--ratio=0", "--ratio=nan", "--ratio=1.5", "--log=loud", "extra", "-v", "--no-ratio",
        "--model==d", "--model=a b=d", "--model=n=", "--no-probe=1", "--probe=maybe",
        "--threads=99999999999999999999", "--listen", "--", "--model=/", "--backend=gpu",
    };
    (void)state;
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (read_flags("--model", "m=d", flags[i], NULL) != CONFIG_USAGE || !err.message[0])
            fail_msg("%s was not refused: %s", flags[i], err.message);
    assert_int_equal(read_flags(NULL, NULL), CONFIG_USAGE); /* no model */
    assert_int_equal(read_flags("--model", "a=x", "--model", "a=y", NULL), CONFIG_USAGE);
}

static void wrong_files_are_named(void **state)
{
    static const struct { const char *text, *says; } cases[] = {
        {"{\"model\":\"m=d\",", "byte 15"},
        {"[]", "expected an object"},
        {"{\"model\":\"m=d\",\"max_input\":3}", "max_input"},
        {"{\"model\":\"m=d\",\"max_inputs\":\"3\"}", "max_inputs"},
        {"{\"model\":\"m=d\",\"max_inputs\":0}", "max_inputs"},
        {"{\"model\":\"m=d\",\"max_inputs\":1e99}", "max_inputs"},
        {"{\"model\":\"m=d\",\"probe\":1}", "probe"},
        {"{\"model\":\"m=d\",\"config\":\"x\"}", "config"},
        {"{\"threads\":1,\"model\":\"m=d\",\"threads\":2}", "'threads' comes twice"},
        {"{\"model\":[1]}", "model"},
        {"{\"model\":3}", "model"},
        {"", "byte 0"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = write_file(cases[i].text);
        if (read_flags("--config", path, NULL) != CONFIG_BAD || !strstr(err.message, cases[i].says) ||
            !strstr(err.message, path))
            fail_msg("'%s' gave: %s; expected '%s'", cases[i].text, err.message, cases[i].says);
        unlink(path);
    }
    assert_int_equal(read_flags("--config", "/no/such/file", NULL), CONFIG_BAD);
    assert_int_equal(read_flags("--config", "/", NULL), CONFIG_BAD);
    assert_int_equal(read_flags("--model", "m=d", "--max-inputs=9", "--queue-inputs=8", NULL), CONFIG_BAD);
    setenv("MOEFIED_THREADS", "many", 1);
    assert_int_equal(read_flags("--model", "m=d", NULL), CONFIG_BAD);
    assert_non_null(strstr(err.message, "MOEFIED_THREADS"));
}

static void help_and_schema_name_every_option(void **state)
{
    char *help, *schema = NULL;
    size_t n;
    (void)state;
    FILE *f = open_memstream(&help, &n);
    option_print_help(f);
    fclose(f);
    f = fopen("config/moefied.schema.json", "r");
    assert_non_null(f);
    size_t room = 0;
    assert_true(getdelim(&schema, &room, '\0', f) > 0);
    fclose(f);
    for (int i = 0; i < n_options; i++) {
        char key[40], quoted[48];
        option_key(&options[i], key);
        snprintf(quoted, sizeof quoted, "\"%s\"", key);
        assert_non_null(strstr(help, options[i].help));
        if (strcmp(key, "config") != 0 && !strstr(schema, quoted))
            fail_msg("config/moefied.schema.json lacks %s", quoted);
    }
    free(help);
    free(schema);
}

static void the_example_configuration_is_right(void **state)
{
    (void)state;
    if (read_flags("--config", "config/example.json", NULL) != CONFIG_READY)
        fail_msg("%s", err.message);
}

static void addresses_are_bound_as_written(void **state)
{
    static const char *const bad[] = {"", "8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x",
                                      "127.0.0.1:70000", "::1:80", "127.0.0.1:-1"};
    char address[LISTEN_TEXT];
    int fd;
    (void)state;
    assert_int_equal(listen_bind("127.0.0.1:0", &fd, address, &err), MOE_OK);
    assert_int_equal(strncmp(address, "127.0.0.1:", 10), 0);
    assert_string_not_equal(address, "127.0.0.1:0");
    close(fd);
    if (listen_bind("[::1]:0", &fd, address, &err) == MOE_OK) { /* where there is IPv6 */
        assert_int_equal(strncmp(address, "[::1]:", 6), 0);
        close(fd);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(listen_bind(bad[i], &fd, address, &err), MOE_E_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(defaults_are_usable, forget_environment, clean_up),
        cmocka_unit_test_setup_teardown(a_flag_beats_the_environment_which_beats_the_file,
                                        forget_environment, clean_up),
        cmocka_unit_test_setup_teardown(wrong_flags_are_usage_errors, forget_environment, clean_up),
        cmocka_unit_test_setup_teardown(wrong_files_are_named, forget_environment, clean_up),
        cmocka_unit_test(help_and_schema_name_every_option),
        cmocka_unit_test_setup_teardown(the_example_configuration_is_right, forget_environment, clean_up),
        cmocka_unit_test(addresses_are_bound_as_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
