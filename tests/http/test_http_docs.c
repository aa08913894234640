/* Every curl command of the documentation is run as it is written there, and what comes
 * back has the shape that it shows: the same keys and types, the same words where they
 * depend on nothing. */
#include "tests/http/harness.h"
#include "tests/support/command.h"
#include "tests/support/sanitized.h"

enum { LINE = 16384, MAX_SHOWN = 64 };

static moefied server;
static char sst2[4096];

static int start(void **state)
{
    (void)state;
    snprintf(sst2, sizeof sst2, "sst2=%s", tmp_path("sst2"));
    command_result r = command_run("moefy", "rm -rf '%s' && \"$P\" convert " MINILM " -o '%s' "
                                   "--calibrate tests/data/sst2_calibration.tsv --split random "
                                   "%s 2>&1", sst2 + 5, sst2 + 5,
                                   SANITIZED ? "--layers 5 --max-tokens 200"
                                             : "--max-tokens 1500");
    if (r.code)
        fail_msg("%s", r.out);
    command_free(&r);
    curl_global_init(CURL_GLOBAL_ALL);
    moefied_start(&server, "docs", "--model", sst2, "--model", "squad=models/minilm-squad-relu",
                  "--model", "t5=models/t5-mini-glue", NULL);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    moefied_stop(&server);
    return 0;
}

/* ---- comparing ------------------------------------------------------------------ */

static bool is_fixed(const char *key)
{
    static const char *const keys[] = {"label", "answer", "text", "task", "type", "finish_reason",
                                       "name", "model", "model_name", "datatype", "message"};
    for (size_t i = 0; key && i < sizeof keys / sizeof *keys; i++)
        if (strcmp(keys[i], key) == 0)
            return true;
    return false;
}

static void expect_alike(const cJSON *got, const cJSON *shown, const char *command)
{
    const char *key = shown->string ? shown->string : "";
    const cJSON *item, *other;
    if (!got || (got->type != shown->type && !(cJSON_IsBool(got) && cJSON_IsBool(shown))))
        fail_msg("%s: '%s' is missing or of another type", command, key);
    if (cJSON_IsString(shown) && is_fixed(shown->string) &&
        strcmp(got->valuestring, shown->valuestring) != 0)
        fail_msg("%s: '%s' is '%s', shown as '%s'", command, key, got->valuestring,
                 shown->valuestring);
    if (cJSON_IsObject(shown)) {
        cJSON_ArrayForEach(item, shown)
            expect_alike(cJSON_GetObjectItemCaseSensitive(got, item->string), item, command);
        cJSON_ArrayForEach(item, got)
            if (!cJSON_GetObjectItemCaseSensitive(shown, item->string))
                fail_msg("%s: key '%s' of '%s' is not shown", command, item->string, key);
    }
    if (cJSON_IsArray(shown))
        for (item = shown->child, other = got->child; item && other;
             item = item->next, other = other->next)
            expect_alike(other, item, command);
}

/* Without the numbers of what is shown as "...": those answers are cut. */
static void check_answer(const char *command, const char *out, const char *shown)
{
    const char *body = strncmp(out, "HTTP/1.1 200", 12) == 0 ? strstr(out, "\r\n\r\n") : out;
    cJSON *got = body ? cJSON_Parse(body) : NULL;
    cJSON *want = shown && !strstr(shown, "...") ? cJSON_Parse(shown) : NULL;
    if (!got)
        fail_msg("%s: no JSON came back: '%.200s'", command, out);
    if (shown && !want && !strstr(shown, "..."))
        fail_msg("%s: what is shown is no JSON: '%.200s'", command, shown);
    if (want)
        expect_alike(got, want, command);
    else
        assert_null(cJSON_GetObjectItem(got, "error"));
    cJSON_Delete(got);
    cJSON_Delete(want);
}

/* ---- running --------------------------------------------------------------------- */

/* A command with this server's address for localhost:8080. */
static void run(const char *command, const char *shown)
{
    static const char address[] = "localhost:8080";
    char here[LINE + 64], *to = here;
    for (const char *from = command; *from;) {
        bool found = strncmp(from, address, sizeof address - 1) == 0;
        if (found)
            to += sprintf(to, "127.0.0.1:%d", server.port);
        else
            *to++ = *from;
        from += found ? sizeof address - 1 : 1;
    }
    *to = '\0';
    command_result r = command_run("moefied", "%s", here);
    if (r.code)
        fail_msg("%s: exit code %d", command, r.code);
    if (strchr(command, '|'))
        assert_true(*r.out != '\0');
    else
        check_answer(command, r.out, shown);
    command_free(&r);
}

/* "curl ..." of a line, behind a "$ " or not; NULL: another line. */
static const char *command_of(const char *line)
{
    line += strncmp(line, "$ ", 2) == 0 ? 2 : 0;
    return strncmp(line, "curl ", 5) == 0 && !strstr(line, "promtool") ? line : NULL;
}

static bool reads_answer(const char *line)
{
    return *line == '{' || *line == '[';
}

/* The commands of a file, each with the line of JSON that follows it, if one does before
 * the next command or the text goes on. Returns how many. */
static int run_file(const char *path)
{
    static char line[LINE], command[LINE];
    FILE *f = fopen(path, "r");
    int n = 0;
    bool pending = false;
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        const char *next = command_of(line);
        bool header = !next && *line && (strncmp(line, "```", 3) == 0 || strstr(line, ": ") ||
                                         strncmp(line, "HTTP/", 5) == 0);
        if (pending && (next || reads_answer(line) || (*line && !header))) {
            run(command, reads_answer(line) ? line : NULL);
            pending = false;
            n++;
        }
        if (next) {
            strcpy(command, next);
            pending = true;
        }
    }
    if (pending)
        run(command, NULL);
    fclose(f);
    return n + pending;
}

static void requests_of_the_readme(void **state)
{
    (void)state;
    assert_true(run_file("README.md") >= 2);
}

static void requests_of_the_api(void **state)
{
    (void)state;
    assert_true(run_file("docs/api.md") >= 16);
}

static void requests_of_the_metrics(void **state)
{
    (void)state;
    assert_true(run_file("docs/metrics.md") >= 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_of_the_readme),
        cmocka_unit_test(requests_of_the_api),
        cmocka_unit_test(requests_of_the_metrics),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
