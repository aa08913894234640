/* The pieces of a conversion: what is kept is found bit for bit or not at all, and a
 * conversion that was killed goes on where it was. */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "convert/resume.h"
#include "tests/support/tiny_model.h"
#include "tests/support/tiny_text.h"

static const char goes_on[] = "finished steps of this conversion";

static void shell(const char *command)
{
    char line[8192];
    snprintf(line, sizeof line, "cd '%s' && %s", getenv("MOE_TMP"), command);
    assert_int_equal(system(line), 0);
}

static bool is_there(const char *name)
{
    return access(in_tmp(name), F_OK) == 0;
}

static int make_source(void **state)
{
    (void)state;
    shell("rm -rf ./*");
    tiny_model_write(in_tmp("source"), 3);
    write_sentences(in_tmp("text.tsv"), 600);
    return 0;
}

/* ---- pieces -------------------------------------------------------------- */

enum { N_PARTS = 2 };
static char first[5], second[8];
static const resume_part kept[N_PARTS] = {{first, sizeof first}, {second, sizeof second}};

static resume pieces_of(char key)
{
    static char dir[4096];
    snprintf(dir, sizeof dir, "%s", in_tmp("pieces"));
    resume r = {.dir = dir};
    memset(r.key, key, 64);
    return r;
}

/* Looks for "it" with parts of a and b bytes. */
static bool found_as(resume *r, size_t a, size_t b, char *x, char *y)
{
    const resume_part parts[N_PARTS] = {{x, a}, {y, b}};
    return resume_find(r, "it", parts, N_PARTS);
}

static bool found(resume *r)
{
    char x[sizeof first], y[sizeof second];
    return found_as(r, sizeof x, sizeof y, x, y);
}

static int keep_one(void **state)
{
    (void)state;
    shell("rm -rf pieces");
    const resume r = pieces_of('a');
    memcpy(first, "\0\xff\n\r1", sizeof first);
    memcpy(second, "\x80two\0\0\x7f\0", sizeof second);
    assert_int_equal(resume_keep(&r, "it", kept, N_PARTS, NULL), MOE_OK);
    return 0;
}

static void what_is_kept_is_found_bit_for_bit(void **state)
{
    (void)state;
    resume r = pieces_of('a');
    char x[sizeof first] = {0}, y[sizeof second] = {0};
    assert_true(found_as(&r, sizeof x, sizeof y, x, y));
    assert_memory_equal(x, first, sizeof first);
    assert_memory_equal(y, second, sizeof second);
    assert_int_equal(r.n_found, 1);
    assert_false(is_there("pieces/it.piece.tmp"));
    second[3] ^= 1;
    assert_int_equal(resume_keep(&r, "it", kept, N_PARTS, NULL), MOE_OK); /* replaces */
    assert_true(found_as(&r, sizeof x, sizeof y, x, y));
    assert_memory_equal(y, second, sizeof second);
    assert_int_equal(r.n_found, 2);
}

static void another_key_name_or_size_is_not_there(void **state)
{
    (void)state;
    char x[16], y[16];
    resume r = pieces_of('a'), other = pieces_of('a');
    other.key[63] = 'b';
    assert_false(found(&other));
    assert_false(found_as(&r, sizeof first - 1, sizeof second, x, y));
    assert_false(found_as(&r, sizeof first + 1, sizeof second - 1, x, y));
    assert_false(found_as(&r, sizeof first, sizeof second + 1, x, y));
    assert_false(resume_find(&r, "that", kept, N_PARTS));
    assert_int_equal(other.n_found + r.n_found, 0);
    assert_true(found(&r));
    shell("rm -r pieces");
    assert_false(found(&r));
    assert_false(is_there("pieces"));
}

static void a_piece_cut_short_or_grown_is_not_there(void **state)
{
    (void)state;
    resume r = pieces_of('a');
    size_t n;
    char *bytes = file_bytes(r.dir, "it.piece", &n);
    assert_non_null(bytes);
    for (size_t length = 0; length <= n + 1; length++) {
        FILE *f = fopen(in_tmp("pieces/it.piece"), "wb");
        assert_non_null(f);
        assert_int_equal(fwrite(bytes, 1, length, f), length); /* bytes[n] is 0 */
        assert_int_equal(fclose(f), 0);
        assert_int_equal(found(&r), length == n);
    }
    free(bytes);
}

static void clearing_removes_pieces_and_nothing_else(void **state)
{
    (void)state;
    const resume r = pieces_of('a');
    shell("echo cut > pieces/next.piece.tmp");
    resume_clear(&r);
    assert_false(is_there("pieces"));
    resume_clear(&r); /* nothing to do */
    assert_int_equal(resume_keep(&r, "it", kept, N_PARTS, NULL), MOE_OK);
    shell("echo mine > pieces/notes.txt && echo mine > pieces/.piece");
    resume_clear(&r);
    assert_false(is_there("pieces/it.piece"));
    assert_true(is_there("pieces/notes.txt"));
    assert_true(is_there("pieces/.piece"));
}

/* ---- conversions --------------------------------------------------------- */

/* "moefy convert" of the source to out with two more options, in a new process;
 * stderr goes to the file said. */
static pid_t start(const char *out, const char *const more[4])
{
    char moefy[4096];
    const char *source = in_tmp("source"), *text = in_tmp("text.tsv");
    const char *to = in_tmp(out), *said = in_tmp("said");
    snprintf(moefy, sizeof moefy, "%s/moefy", getenv("MOE_BUILD"));
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (freopen("/dev/null", "w", stdout) && freopen(said, "w", stderr))
            execl(moefy, "moefy", "convert", source, "-o", to, "--calibrate", text,
                  more[0], more[1], more[2], more[3], (char *)NULL);
        _exit(127);
    }
    return child;
}

/* Converts to the end; whether it said that it went on. */
static bool convert(const char *out, const char *const more[4])
{
    int status;
    size_t n;
    const pid_t child = start(out, more);
    assert_int_equal(waitpid(child, &status, 0), child);
    char *said = file_bytes(getenv("MOE_TMP"), "said", &n);
    assert_non_null(said);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail_msg("%s: status %d, printed '%s'", out, status, said);
    const bool went_on = strstr(said, goes_on);
    free(said);
    return went_on;
}

/* Kills a conversion to "killed" once it has kept the piece; false if done before. */
static bool killed_after(const char *piece, const char *const more[4])
{
    const struct timespec moment = {0, 200000};
    int status;
    pid_t ended = 0;
    const pid_t child = start("killed", more);
    while (!is_there(piece) && (ended = waitpid(child, &status, WNOHANG)) == 0)
        nanosleep(&moment, NULL);
    if (!ended) {
        kill(child, SIGKILL);
        assert_int_equal(waitpid(child, &status, 0), child);
    }
    if (WIFSIGNALED(status))
        assert_int_equal(WTERMSIG(status), SIGKILL);
    else if (WEXITSTATUS(status) != 0)
        fail_msg("killed: exit %d", WEXITSTATUS(status));
    return is_there(piece) && !is_there("killed");
}

static void kill_after(const char *piece, const char *const more[4])
{
    for (int tries = 0; tries < 50; tries++) {
        shell("rm -rf killed*");
        if (killed_after(piece, more))
            return;
    }
    fail_msg("%s: every conversion was done before it could be killed", piece);
}

static void expect_same(const char *a, const char *b)
{
    static const char *const names[] = {"model.safetensors", "config.json"};
    for (int i = 0; i < 2; i++) {
        size_t n = 0, k = 0;
        char *x = file_bytes(in_tmp(a), names[i], &n);
        char *y = file_bytes(in_tmp(b), names[i], &k);
        assert_true(x && y);
        if (n != k || memcmp(x, y, n) != 0)
            fail_msg("%s of %s and %s differ", names[i], a, b);
        free(x);
        free(y);
    }
}

static const char *const by_norm[4] = {"--router", "norm", "--seed", "4"};
static const char *const by_mlp[4] = {"--router", "mlp", "--seed", "4"};
static const char *const other_seed[4] = {"--router", "norm", "--seed", "5"};

static void a_killed_conversion_goes_on_to_the_same_bytes(void **state)
{
    (void)state;
    static const struct { const char *piece; const char *const *more; } cases[] = {
        {"killed.resume/sensitivity.piece", by_norm},
        {"killed.resume/layer-0-dense-shape.piece", by_norm},
        {"killed.resume/layer-0-sparse-shape.piece", by_norm},
        {"killed.resume/layer-0-dense-shape.piece", by_mlp},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        shell("rm -rf whole");
        assert_false(convert("whole", cases[i].more));
        assert_false(is_there("whole.resume"));
        kill_after(cases[i].piece, cases[i].more);
        assert_true(convert("killed", cases[i].more));
        expect_same("whole", "killed");
        assert_false(is_there("killed.resume"));
    }
}

/* Names that begin with killed.tmp. */
static int count_temps(void)
{
    int n = 0;
    DIR *d = opendir(getenv("MOE_TMP"));
    assert_non_null(d);
    for (struct dirent *entry; (entry = readdir(d)); )
        n += !strncmp(entry->d_name, "killed.tmp.", strlen("killed.tmp."));
    closedir(d);
    return n;
}

static void what_a_killed_conversion_left_goes_and_nothing_else(void **state)
{
    (void)state;
    kill_after("killed.resume/layer-0-dense-shape.piece", by_norm);
    assert_int_equal(count_temps(), 1);
    /* Of a living process; somebody's; no number. */
    shell("mkdir killed.tmp.1 killed.tmp.2 killed.tmp.old && "
          "touch killed.tmp.1/config.json killed.tmp.2/notes killed.tmp.old/config.json");
    const int fd = open(in_tmp("killed.tmp.1"), O_RDONLY | O_DIRECTORY);
    assert_true(fd >= 0 && flock(fd, LOCK_EX) == 0);
    assert_true(convert("killed", by_norm));
    assert_int_equal(count_temps(), 3);
    assert_true(is_there("killed.tmp.1/config.json") && is_there("killed.tmp.2/notes") &&
                is_there("killed.tmp.old/config.json"));
    close(fd);
    shell("rm -r killed");
    assert_false(convert("killed", by_norm));
    assert_int_equal(count_temps(), 2);
    shell("rm -r killed*");
}

static void another_conversion_takes_nothing_of_a_killed_one(void **state)
{
    (void)state;
    shell("rm -rf whole");
    assert_false(convert("whole", other_seed));
    kill_after("killed.resume/layer-0-dense-shape.piece", by_norm);
    assert_false(convert("killed", other_seed));
    expect_same("whole", "killed");
    assert_false(is_there("killed.resume"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(what_is_kept_is_found_bit_for_bit, keep_one),
        cmocka_unit_test_setup(another_key_name_or_size_is_not_there, keep_one),
        cmocka_unit_test_setup(a_piece_cut_short_or_grown_is_not_there, keep_one),
        cmocka_unit_test_setup(clearing_removes_pieces_and_nothing_else, keep_one),
        cmocka_unit_test(a_killed_conversion_goes_on_to_the_same_bytes),
        cmocka_unit_test(what_a_killed_conversion_left_goes_and_nothing_else),
        cmocka_unit_test(another_conversion_takes_nothing_of_a_killed_one),
    };
    return cmocka_run_group_tests(tests, make_source, NULL);
}
