/* cli.h: what every subcommand of moefy shares: options, progress, output.
 *
 * Exit codes: 0 done, 1 failed, 2 usage. With --json one JSON object goes to
 * stdout and nothing else; notes and progress go to stderr, progress only where
 * stderr is a terminal. */
#ifndef CONVERT_CLI_H
#define CONVERT_CLI_H

#include "engine/moe.h"

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

/* One option of a subcommand. A subcommand lists its options in a table ended
 * by a NULL name; cli_parse fills the variables. */
typedef enum { OPT_STRING, OPT_INT, OPT_FLAG, OPT_UINT64 } option_type;
typedef struct {
    const char *name;     /* "--split", or "-o" */
    option_type type;
    void *value;          /* const char **, int *, bool *, uint64_t * */
    int64_t min, max;     /* of OPT_INT */
    const char *argument; /* "N", shown in the help; NULL for a flag */
    const char *help;     /* one line */
} cli_option;

/* Parses argv[1 .. argc) ("--name value" or "--name=value"), leaving positional
 * arguments in place: positional[0 .. *n_positional) of at most max_positional.
 * Returns -1 to go on; otherwise the exit code to end with (--help printed the
 * help on stdout: EXIT_DONE; a wrong option was named on stderr: EXIT_USAGE). */
int cli_parse(const char *usage, const cli_option *options, int argc, char **argv,
              int max_positional, const char **positional, int *n_positional);

/* Readers of an option's value; a wrong one is named on stderr.
 * "1,0.5,0.25", each in (0, 1]; returns how many, 0: wrong. */
int cli_ratios(const char *command, const char *option, const char *text, int max_n,
               double *out);
/* "8,16", each in [min, max]; returns how many, 0: wrong. */
int cli_ints(const char *command, const char *option, const char *text, int min, int max,
             int max_n, int *out);
/* The index of text in names (NULL at the end); -1: wrong. */
int cli_choice(const char *command, const char *option, const char *text,
               const char *const *names);

/* The policy of that name, MODEL where text is NULL; false: wrong. */
bool cli_policy(const char *command, const char *option, const char *text,
                moe_policy *out);

/* The backend of that name, AUTO where text is NULL; false: wrong. */
bool cli_backend(const char *command, const char *text, moe_backend_kind *out);

/* Edits (insert, delete, replace a byte) between two names: for suggestions. */
int cli_distance(const char *a, const char *b);

/* Prints "moefy: MESSAGE" on stderr and returns EXIT_FAILED. */
int cli_failed(const moe_error *err);
/* The same for a wrong argument: EXIT_USAGE. */
int cli_usage(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A progress line on stderr: drawn at most ten times a second, only on a
 * terminal. One thread. */
typedef struct { const char *label; int64_t total; int64_t last_ns, start_ns; bool on; } progress;
void progress_begin(progress *p, const char *label, int64_t total);
void progress_update(progress *p, int64_t done, const char *note /* or NULL */);
void progress_end(progress *p); /* clears the line */

/* Flushes stdout; MOE_E_IO where what was printed could not be written. */
moe_status cli_flush(moe_error *err);

/* Seconds since some fixed point, monotonic. */
double cli_seconds(void);

/* Subcommands: argv[0] is the subcommand's name. */
int cmd_convert(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_report(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_export(int argc, char **argv);
int cmd_relufy(int argc, char **argv);
int cmd_random(int argc, char **argv);

/* MOE_E_UNSUPPORTED where a model with a decoder comes to a command that is not for them. */
moe_status cli_refuse_text(const moe_model_info *info, const char *command, moe_error *err);
/* The same of a model with a decoder and a classifier, for commands that do text to text. */
moe_status cli_refuse_classifier(const moe_model_info *info, const char *command, moe_error *err);

#endif
