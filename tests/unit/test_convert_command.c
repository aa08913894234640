/* moefy convert and export as commands: exit codes and messages, bad text, output
 * directories that are taken, full disks and signals. */
#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/support/tiny_model.h"
#include "tests/support/tiny_text.h"

static char output[1 << 16]; /* stdout and stderr of the last command */

/* Runs "moefy LINE" in a shell, after `before`, in MOE_TMP; returns its exit code. */
static int moefy_after(const char *before, const char *line)
{
    char command[16384], *build = realpath(getenv("MOE_BUILD"), NULL);
    snprintf(command, sizeof command, "cd '%s' && exec 2>&1; %s '%s/moefy' %s",
             getenv("MOE_TMP"), before, build, line);
    free(build);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    size_t n = fread(output, 1, sizeof output - 1, f);
    output[n] = 0;
    int status = pclose(f);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int moefy(const char *line)
{
    return moefy_after("", line);
}

static void expect(const char *line, int code, const char *message)
{
    int got = moefy(line);
    if (got != code || !strstr(output, message))
        fail_msg("moefy %s: exit %d, expected %d; printed '%s', expected '%s'", line, got,
                 code, output, message);
}

static void shell(const char *command)
{
    char line[8192];
    snprintf(line, sizeof line, "cd '%s' && %s", getenv("MOE_TMP"), command);
    assert_int_equal(system(line), 0);
}

/* Names in MOE_TMP that begin with `prefix`. */
static int count_names(const char *prefix)
{
    int n = 0;
    DIR *d = opendir(getenv("MOE_TMP"));
    assert_non_null(d);
    for (struct dirent *entry; (entry = readdir(d)); )
        n += !strncmp(entry->d_name, prefix, strlen(prefix));
    closedir(d);
    return n;
}

static int make_source(void **state)
{
    (void)state;
    shell("rm -rf ./*");
    tiny_model_write(in_tmp("source"), 3);
    write_sentences(in_tmp("text.tsv"), 300);
    return 0;
}

static void wrong_arguments_are_usage_errors_that_say_what_is_allowed(void **state)
{
    (void)state;
    expect("convert", 2, "convert needs the checkpoint");
    expect("convert source --calibrate text.tsv", 2, "needs -o OUT");
    expect("convert source -o out", 2, "needs --calibrate FILE");
#define WITH "convert source -o out --calibrate text.tsv "
    expect(WITH "--split ema", 2,
           "--split is 'ema', expected em, coactivation, clustering or random");
    expect(WITH "--router norms", 2,
           "--router is 'norms', expected norm, mlp, similarity, avgk or random");
    expect(WITH "--preset papers", 2, "--preset is 'papers', expected paper");
    expect(WITH "--preset paper --split em", 2, "--preset paper and --split em exclude");
    expect(WITH "--router mlp --preset paper", 2, "--preset paper and --router mlp exclude");
    expect(WITH "--dtype int4", 2, "--dtype is 'int4', expected f32, bf16 or int8");
    expect(WITH "--expert-size 64", 2, "--expert-size is 64, expected 32");
    expect(WITH "--max-tokens 0", 2, "--max-tokens");
    expect(WITH "--seed -1", 2, "--seed");
    expect(WITH "--layers 2", 2, "--layers is '2', expected layers of 0 to 1");
    assert_int_equal(count_names("out"), 0);
}

static void missing_or_broken_inputs_are_named(void **state)
{
    (void)state;
    expect("convert nowhere -o out --calibrate text.tsv", 1, "nowhere");
    expect("convert source -o out --calibrate nowhere.tsv", 1, "nowhere.tsv");
    expect("convert source -o no/such/out --calibrate text.tsv", 1, "no/such");
    write_text(in_tmp("broken.tsv"), "sentence\tlabel\na b\t1\nno tab here\n");
    expect("convert source -o out --calibrate broken.tsv", 1, "broken.tsv:3");
    write_text(in_tmp("blank.jsonl"), "{\"text\":\"\"}\n{\"text\":\"  \"}\n");
    expect("convert source -o out --calibrate blank.jsonl", 1,
           "blank.jsonl: 2 rows, but none holds text");
    expect("convert source -o out --calibrate text.tsv --max-tokens 2", 1,
           "text.tsv: its shortest row has");
    assert_int_equal(count_names("out"), 0);
}

/* Little or odd text makes a sound model, and a note where it is doubtful. */
static void poor_text_converts_with_a_note(void **state)
{
    (void)state;
    write_text(in_tmp("one.jsonl"), "{\"text\":\"a\"}\n");
    write_text(in_tmp("strange.jsonl"),
               "{\"text\":\"\xd1\x8f \xd0\xb5 \xd1\x89\"}\n{\"text\":\"\"}\n"
               "{\"text\":\"\xe4\xb8\xad\xe6\x96\x87\", \"text_pair\":\"b\"}\n");
    write_sentences(in_tmp("ten.tsv"), 10);
    shell("(head -1 text.tsv; for i in $(seq 200); do echo 'a b c d\t1'; done) > same.tsv");
    static const char *const files[] = {"one.jsonl", "strange.jsonl", "ten.tsv", "same.tsv"};
    for (int i = 0; i < 4; i++) {
        char line[256];
        snprintf(line, sizeof line, "convert source -o poor --calibrate %s", files[i]);
        expect(line, 0, "tokens: some 16384 or more make a better model");
        assert_int_equal(!strstr(output, "are not in the model's vocabulary"), i != 1);
        expect("run poor --ratio 0.34 'a b'", 0, "");
    }
    assert_int_equal(count_names("poor"), 1);
}

static void json_is_one_object_and_nothing_else(void **state)
{
    (void)state;
    assert_int_equal(moefy_after("exec 2>/dev/null;", "convert source -o out-json "
                                 "--calibrate text.tsv --layers 0 --json"), 0);
    assert_true(strchr(output, '\n') == output + strlen(output) - 1);
    static const char *const parts[] = {
        "{\"output\": \"out-json\"", "\"split\": \"em\"", "\"router\": \"norm\"",
        "\"layers\": [{\"layer\": 0, \"converted\": true, \"experts\": 3", "\"mass_at_20\": ",
        "{\"layer\": 1, \"converted\": false}]", "\"tokens\": ", "\"seconds\": "};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!strstr(output, parts[i]))
            fail_msg("no '%s' in %s", parts[i], output);
}

static void the_papers_preset_is_the_papers_methods(void **state)
{
    (void)state;
    expect(WITH "--preset paper --json", 0,
           "\"split\": \"coactivation\", \"router\": \"mlp\"");
    expect(WITH "--split em --router norm --json", 0,
           "\"split\": \"em\", \"router\": \"norm\"");
}

static void only_empty_or_moefied_directories_are_replaced(void **state)
{
    (void)state;
#define TO(out) "convert source -o " out " --calibrate text.tsv --router random"
    shell("mkdir taken empty && echo mine > taken/notes.txt && echo mine > file");
    expect(TO("taken"), 1, "taken: exists and is not empty or a MoEfied model");
    expect(TO("source"), 1, "source: exists and is not empty or a MoEfied model");
    expect(TO("file"), 1, "file: exists and is not a directory");
    expect(TO("empty"), 0, "");
    shell("cp empty/model.safetensors first && cp empty/config.json first.json");
    expect(TO("empty") " --seed 9", 0, "");
    shell("! cmp -s first empty/model.safetensors");
    expect("run empty a", 0, "");
    expect(TO("empty/"), 0, ""); /* as shells complete it */
    shell("cmp first empty/model.safetensors && cmp first.json empty/config.json");
    shell("echo mine > empty/notes.txt");
    expect(TO("empty"), 1, "holds 'notes.txt', which moefy did not write");
    shell("cmp first empty/model.safetensors");
    expect("convert empty -o again --calibrate text.tsv", 1, "is MoEfied already");
    expect("export empty -o taken", 1, "taken: exists and is not empty");
    assert_int_equal(count_names("empty."), 0);
    assert_int_equal(count_names("taken."), 0);
}

/* A limit on the size of files stands for a full disk. */
static void a_full_disk_leaves_nothing_behind(void **state)
{
    (void)state;
    static const char *const commands[] = {
        "convert source -o full --calibrate text.tsv",
        "convert source -o full --calibrate text.tsv --max-tokens 100",
        "export source -o full"};
    static const char *const messages[] = {"rows between layers",
                                           "model.safetensors", "model.safetensors"};
    for (int i = 0; i < 3; i++) {
        /* 100 kB holds the rows of 100 tokens, and no weights. */
        int code = moefy_after("trap '' XFSZ; ulimit -f 200;", commands[i]);
        assert_int_equal(code, 1);
        if (!strstr(output, messages[i]))
            fail_msg("%s: %s", commands[i], output);
        /* Finished layers stay for another try, as they were before the disk was full. */
        shell("rm -rf full.resume");
        assert_int_equal(count_names("full"), 0);
    }
    if (geteuid() != 0) {
        shell("mkdir -p locked && chmod 555 locked");
        expect("convert source -o locked/out --calibrate text.tsv", 1, "locked/out");
        shell("chmod 755 locked");
    }
}

static void pause_ms(long ms)
{
    const struct timespec t = {0, ms * 1000000};
    nanosleep(&t, NULL);
}

/* Waits until the output's temporary directory is there, interrupts, and sees
 * moefy die of the signal with nothing left. */
static void a_signal_leaves_nothing_behind(void **state)
{
    (void)state;
    char moefy_path[4096], out[4096];
    snprintf(moefy_path, sizeof moefy_path, "%s/moefy", getenv("MOE_BUILD"));
    snprintf(out, sizeof out, "%s/cut", getenv("MOE_TMP"));
    static const int signals[] = {SIGINT, SIGTERM};
    for (int i = 0; i < 2; i++) {
        pid_t child = fork();
        if (child == 0) {
            freopen("/dev/null", "w", stderr);
            execl(moefy_path, "moefy", "convert", "models/minilm-sst2-relu", "-o", out,
                  "--calibrate", "tests/data/sst2_calibration.tsv", (char *)NULL);
            _exit(127);
        }
        for (int waited = 0; count_names("cut.tmp") == 0 && waited < 10000; waited += 10)
            pause_ms(10);
        assert_int_equal(count_names("cut.tmp"), 1);
        pause_ms(200 * (i + 1));
        int status;
        kill(child, signals[i]);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        assert_int_equal(WTERMSIG(status), signals[i]);
        shell("rm -rf cut.resume");
        assert_int_equal(count_names("cut"), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_arguments_are_usage_errors_that_say_what_is_allowed),
        cmocka_unit_test(missing_or_broken_inputs_are_named),
        cmocka_unit_test(poor_text_converts_with_a_note),
        cmocka_unit_test(json_is_one_object_and_nothing_else),
        cmocka_unit_test(the_papers_preset_is_the_papers_methods),
        cmocka_unit_test(only_empty_or_moefied_directories_are_replaced),
        cmocka_unit_test(a_full_disk_leaves_nothing_behind),
        cmocka_unit_test(a_signal_leaves_nothing_behind),
    };
    return cmocka_run_group_tests(tests, make_source, NULL);
}
