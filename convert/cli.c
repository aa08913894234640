/* cli.c: reading a subcommand's command line and saying what is wrong with it.
 *
 * "--name value" and "--name=value" fill the variables of the option table;
 * everything else is positional, as is all that follows "--". A lone "-" is
 * positional or a value: it stands for standard input. */
#include "convert/cli.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- messages ----------------------------------------------------------- */

int cli_failed(const moe_error *err)
{
    fprintf(stderr, "moefy: %s\n", err->message);
    return EXIT_FAILED;
}

int cli_usage(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("moefy: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    return EXIT_USAGE;
}

moe_status cli_flush(moe_error *err)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return MOE_OK;
    return moe_fail(err, MOE_E_IO, "standard output: %s",
                    errno ? strerror(errno) : "an earlier write failed");
}

/* ---- help --------------------------------------------------------------- */

static int option_width(const cli_option *o)
{
    return (int)(strlen(o->name) + (o->argument ? 1 + strlen(o->argument) : 0));
}

static void print_help(const char *usage, const cli_option *options)
{
    static const cli_option help = {.name = "--help", .help = "print this"};
    int width = option_width(&help);
    for (const cli_option *o = options; o->name; o++)
        if (option_width(o) > width)
            width = option_width(o);
    printf("usage: %s\n\n", usage);
    for (const cli_option *o = options;; o++) {
        const cli_option *p = o->name ? o : &help;
        int padding = width - option_width(p) + 2;
        printf("  %s%s%s%*s%s\n", p->name, p->argument ? " " : "",
               p->argument ? p->argument : "", padding, "", p->help);
        if (!o->name)
            break;
    }
}

/* ---- nearest name ------------------------------------------------------- */

enum { MAX_NAME = 32 };

int cli_distance(const char *a, const char *b)
{
    int row[MAX_NAME + 1]; /* of Levenshtein's table: a[0 .. i) against b[0 .. j) */
    int n = (int)strnlen(b, MAX_NAME), m = (int)strnlen(a, MAX_NAME);
    for (int j = 0; j <= n; j++)
        row[j] = j;
    for (int i = 1; i <= m; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            best = best < row[j] + 1 ? best : row[j] + 1;
            row[j] = best < row[j - 1] + 1 ? best : row[j - 1] + 1;
        }
    }
    return row[n];
}

/* Says that an option is unknown, with the likeliest one meant. */
static int unknown_option(const char *command, const cli_option *options, const char *given)
{
    int length = (int)strcspn(given, "=");
    char name[MAX_NAME + 1];
    snprintf(name, sizeof name, "%.*s", length, given);
    const char *nearest = NULL;
    int best = 3; /* further than two edits is a guess, not a help */
    for (const cli_option *o = options; o->name; o++) {
        int distance = cli_distance(name, o->name);
        if (distance < best) {
            best = distance;
            nearest = o->name;
        }
    }
    if (nearest)
        return cli_usage("%s: unknown option '%.*s', did you mean %s?", command, length,
                         given, nearest);
    return cli_usage("%s: unknown option '%.*s'; 'moefy %s --help' lists them", command,
                     length, given, command);
}

/* ---- values ------------------------------------------------------------- */

static int set_int(const char *command, const cli_option *o, const char *text)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno || end == text || *end || value < o->min || value > o->max)
        return cli_usage("%s: %s is '%s', expected a whole number from %lld to %lld",
                         command, o->name, text, (long long)o->min, (long long)o->max);
    *(int *)o->value = (int)value;
    return -1;
}

static int set_uint64(const char *command, const cli_option *o, const char *text)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || end == text || *end || strchr(text, '-'))
        return cli_usage("%s: %s is '%s', expected a whole number from 0 to %llu", command,
                         o->name, text, (unsigned long long)UINT64_MAX);
    *(uint64_t *)o->value = value;
    return -1;
}

static int set_value(const char *command, const cli_option *o, const char *text)
{
    switch (o->type) {
    case OPT_INT:
        return set_int(command, o, text);
    case OPT_UINT64:
        return set_uint64(command, o, text);
    case OPT_STRING:
        *(const char **)o->value = text;
        return -1;
    case OPT_FLAG:
        break;
    }
    return cli_usage("%s: %s takes no value, found '%s'", command, o->name, text);
}

static const cli_option *find_option(const cli_option *options, const char *given)
{
    size_t length = strcspn(given, "=");
    for (const cli_option *o = options; o->name; o++)
        if (strlen(o->name) == length && strncmp(o->name, given, length) == 0)
            return o;
    return NULL;
}

/* Reads the option at argv[*i] and moves *i past its value. */
static int take_option(const cli_option *options, int argc, char **argv, int *i)
{
    const char *given = argv[*i], *equals = strchr(given, '=');
    const cli_option *o = find_option(options, given);
    if (!o)
        return unknown_option(argv[0], options, given);
    if (equals)
        return set_value(argv[0], o, equals + 1);
    if (o->type == OPT_FLAG) {
        *(bool *)o->value = true;
        return -1;
    }
    if (*i + 1 >= argc)
        return cli_usage("%s: %s needs a value: %s %s", argv[0], o->name, o->name,
                         o->argument);
    *i += 1;
    return set_value(argv[0], o, argv[*i]);
}

int cli_parse(const char *usage, const cli_option *options, int argc, char **argv,
              int max_positional, const char **positional, int *n_positional)
{
    bool options_end = false;
    *n_positional = 0;
    for (int i = 1; i < argc; i++) {
        const char *given = argv[i];
        if (options_end || given[0] != '-' || given[1] == 0) {
            if (*n_positional == max_positional)
                return cli_usage("%s: unexpected argument '%s'; usage: %.*s", argv[0], given,
                                 (int)strcspn(usage, "\n"), usage);
            positional[(*n_positional)++] = given;
        } else if (strcmp(given, "--") == 0) {
            options_end = true;
        } else if (strcmp(given, "--help") == 0 || strcmp(given, "-h") == 0) {
            print_help(usage, options);
            return EXIT_DONE;
        } else {
            int code = take_option(options, argc, argv, &i);
            if (code >= 0)
                return code;
        }
    }
    return -1;
}

/* ---- lists -------------------------------------------------------------- */

/* The number that *text starts with; *text moves past it and its comma. */
static bool take_number(const char **text, double *out)
{
    char *end;
    *out = strtod(*text, &end);
    bool read = end != *text && (*end == 0 || (*end == ',' && end[1]));
    *text = *end == ',' ? end + 1 : end;
    return read && isfinite(*out);
}

int cli_ratios(const char *command, const char *option, const char *text, int max_n,
               double *out)
{
    int n = 0;
    const char *c = text;
    do {
        if (n == max_n)
            return cli_usage("%s: %s has more than %d numbers", command, option, max_n), 0;
        if (!take_number(&c, &out[n]) || !(out[n] > 0 && out[n] <= 1))
            return cli_usage("%s: %s is '%s', expected numbers over 0 and at most 1 "
                             "with commas between", command, option, text), 0;
        n++;
    } while (*c);
    return n;
}

int cli_ints(const char *command, const char *option, const char *text, int min, int max,
             int max_n, int *out)
{
    int n = 0;
    const char *c = text;
    do {
        double value;
        if (n == max_n)
            return cli_usage("%s: %s has more than %d numbers", command, option, max_n), 0;
        if (!take_number(&c, &value) || value < min || value > max || value != floor(value))
            return cli_usage("%s: %s is '%s', expected whole numbers from %d to %d with "
                             "commas between", command, option, text, min, max), 0;
        out[n++] = (int)value;
    } while (*c);
    return n;
}

int cli_choice(const char *command, const char *option, const char *text,
               const char *const *names)
{
    char list[256];
    size_t used = 0;
    for (int i = 0; names[i]; i++) {
        if (strcmp(text, names[i]) == 0)
            return i;
        int wrote = snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
        used += (size_t)wrote < sizeof list - used ? (size_t)wrote : 0;
    }
    cli_usage("%s: %s is '%s', expected one of: %s", command, option, text, list);
    return -1;
}

bool cli_policy(const char *command, const char *option, const char *text, moe_policy *out)
{
    *out = MOE_POLICY_MODEL;
    if (!text || moe_policy_find(text, out))
        return true;
    cli_usage("%s: %s is '%s', expected one of: topk, threshold, sequence", command, option,
              text);
    return false;
}

bool cli_backend(const char *command, const char *text, moe_backend_kind *out)
{
    *out = MOE_BACKEND_AUTO;
    if (!text || moe_backend_find(text, out))
        return true;
    cli_usage("%s: --backend is '%s', expected one of: auto, cpu, cuda", command, text);
    return false;
}

moe_status cli_refuse_text(const moe_model_info *info, const char *command, moe_error *err)
{
    if (info->n_decoder_layers == 0)
        return MOE_OK;
    return moe_fail(err, MOE_E_UNSUPPORTED, "%s: is a %s, which moefy %s does not do yet",
                    info->dir, info->architecture, command);
}

moe_status cli_refuse_classifier(const moe_model_info *info, const char *command, moe_error *err)
{
    return info->task == MOE_TASK_TEXT ? MOE_OK : cli_refuse_text(info, command, err);
}
