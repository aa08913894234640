/* main.c: moefy's subcommands by name. */
#include <stdio.h>
#include <string.h>

#include "convert/blas.h"
#include "convert/cli.h"

typedef struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *line;
} command;

static const command commands[] = {
    {"convert", cmd_convert, "cut a checkpoint's FFNs into experts and train their routers"},
    {"eval", cmd_eval, "measure quality against the dense model at several ratios"},
    {"report", cmd_report, "draw a model's quality, neurons and experts as a page of charts"},
    {"bench", cmd_bench, "measure speed at several ratios, lengths and batches"},
    {"run", cmd_run, "classify a text, or a file of them"},
    {"inspect", cmd_inspect, "show what a model is and how it was made"},
    {"tokenize", cmd_tokenize, "show the tokens of a text"},
    {"export", cmd_export, "write a MoEfied model back as a dense checkpoint"},
    {"relufy", cmd_relufy, "give a GELU checkpoint ReLU FFNs, which skip more neurons"},
    {"random", cmd_random, "write a checkpoint of a known shape with random weights"},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static int help(void)
{
    printf("usage: moefy COMMAND ...\n\n"
           "Turns a trained Transformer into one that computes only the neurons an input\n"
           "needs, and measures what that did to it.\n\n");
    for (int i = 0; i < N_COMMANDS; i++)
        printf("  %-10s%s\n", commands[i].name, commands[i].line);
    printf("\n'moefy COMMAND --help' lists a command's options.\n");
    return EXIT_DONE;
}

/* Names the commands nearest to what was typed, or all of them. */
static int unknown(const char *name)
{
    int best = 3; /* further than two edits is a guess, not a help */
    char list[256] = "";
    for (int i = 0; i < N_COMMANDS; i++) {
        int distance = cli_distance(name, commands[i].name);
        bool begins = *name && strncmp(name, commands[i].name, strlen(name)) == 0;
        best = begins ? 0 : distance < best ? distance : best;
    }
    for (int i = 0; i < N_COMMANDS; i++) {
        bool begins = *name && strncmp(name, commands[i].name, strlen(name)) == 0;
        if (best < 3 && !begins && cli_distance(name, commands[i].name) != best)
            continue;
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "", commands[i].name);
    }
    return cli_usage("unknown command '%s', %s: %s", name,
                     best < 3 ? "did you mean" : "expected one of", list);
}

/* What was printed but could not be written (a full disk) is a failure too. */
static int finish(int code)
{
    moe_error err;
    return code != EXIT_DONE || cli_flush(&err) == MOE_OK ? code : cli_failed(&err);
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return cli_usage("which command? 'moefy --help' lists them");
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0)
        return finish(help());
    if (strcmp(name, "--version") == 0) {
        printf("moefy " MOE_VERSION "\n");
        return finish(EXIT_DONE);
    }
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(name, commands[i].name) == 0) {
            if (commands[i].run == cmd_convert || commands[i].run == cmd_report)
                blas_choose_kernels(argv); /* they compute by BLAS */
            return finish(commands[i].run(argc - 1, argv + 1));
        }
    return unknown(name);
}
