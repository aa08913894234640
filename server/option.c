/* option.c: the one table of options, their limits, defaults and help. */
#include "server/option.h"

#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define AT(field) offsetof(config, field)

const option options[] = {
    {"model", OPTION_MODELS, AT(models), 0, 0, NULL, "NAME=DIR",
     "serve the model in DIR as NAME; may be given again, the first is the default"},
    {"listen", OPTION_TEXT, AT(listen), 0, 0, "127.0.0.1:8080", "ADDR:PORT",
     "where to listen; port 0 takes a free one"},
    {"config", OPTION_TEXT, AT(config_file), 0, 0, NULL, "FILE",
     "JSON file with these options as keys (max_inputs for --max-inputs)"},
    {"ratio", OPTION_RATIO, AT(ratio), 0, 0, "1", "R",
     "share of FFN neurons for requests that name none, over 0 and at most 1"},
    {"threads", OPTION_INT, AT(threads), 0, 1024, "0", "N",
     "compute threads; 0: what affinity mask and cgroup quota allow"},
    {"backend", OPTION_BACKEND, AT(backend), 0, 0, "auto", "auto|cpu|cuda",
     "what computes; auto: a GPU if this build and machine have one, else the CPU"},
    {"batch-tokens", OPTION_INT, AT(batch_tokens), 1, 65536, "512", "N",
     "tokens computed at once"},
    {"queue-inputs", OPTION_INT, AT(queue_inputs), 1, 65536, "1024", "N",
     "texts that may wait for a model; more get 429"},
    {"queue-tokens", OPTION_INT, AT(queue_tokens), 1, 1 << 26, "131072", "N",
     "tokens that may wait for a model; more get 429"},
    {"max-inputs", OPTION_INT, AT(max_inputs), 1, 65536, "128", "N",
     "texts in one request"},
    {"max-body-bytes", OPTION_INT, AT(max_body_bytes), 1, 1 << 28, "1048576", "N",
     "size of a request's body"},
    {"max-json-depth", OPTION_INT, AT(max_json_depth), 3, 256, "16", "N",
     "nesting of a request's JSON"},
    {"header-bytes", OPTION_INT, AT(header_bytes), 2048, 1 << 20, "32768", "N",
     "size of a request's headers, and memory of a connection"},
    {"max-connections", OPTION_INT, AT(max_connections), 2, 65536, "1024", "N",
     "open connections; more wait to be accepted"},
    {"request-timeout-ms", OPTION_INT, AT(request_timeout_ms), 0, 86400000, "30000", "N",
     "longest wait of a request in the queue, then 503; 0: no limit"},
    {"idle-seconds", OPTION_INT, AT(idle_seconds), 1, 86400, "60", "N",
     "silence after which a connection is closed"},
    {"grace-seconds", OPTION_INT, AT(grace_seconds), 0, 86400, "30", "N",
     "time to finish what is queued after SIGTERM or SIGINT"},
    {"probe", OPTION_SWITCH, AT(probe), 0, 0, "true", NULL,
     "measure the speedup over dense when idle, in at most 1% of the time"},
    {"log", OPTION_LOG, AT(log), 0, 0, "none", "none|plain|json",
     "one line per request on stderr"},
};
const int n_options = sizeof options / sizeof *options;

const option *option_find(const char *name)
{
    for (int i = 0; i < n_options; i++)
        if (strcmp(options[i].name, name) == 0)
            return &options[i];
    return NULL;
}

void option_key(const option *o, char out[40])
{
    snprintf(out, 40, "%s", o->name);
    for (char *c = out; *c; c++)
        if (*c == '-')
            *c = '_';
}

void option_variable(const option *o, char out[48])
{
    char key[40];
    option_key(o, key);
    snprintf(out, 48, "MOEFIED_%s", key);
    for (char *c = out; *c; c++)
        *c = (char)toupper((unsigned char)*c);
}

/* ---- setting ---------------------------------------------------------- */

static moe_status set_text(char **to, const char *what, const char *value, moe_error *err)
{
    char *copy = strdup(value);
    if (!copy)
        return moe_fail(err, MOE_E_MEMORY, "%s: out of memory", what);
    free(*to);
    *to = copy;
    return MOE_OK;
}

static moe_status set_int(int *to, const option *o, const char *what, const char *value,
                          moe_error *err)
{
    char *end;
    errno = 0;
    long long n = strtoll(value, &end, 10);
    if (end == value || *end || isspace((unsigned char)*value) || errno || n < o->min || n > o->max)
        return moe_fail(err, MOE_E_ARGUMENT, "%s is '%.40s', expected a whole number from %d to %d",
                        what, value, o->min, o->max);
    *to = (int)n;
    return MOE_OK;
}

static moe_status set_ratio(double *to, const char *what, const char *value, moe_error *err)
{
    char *end;
    double r = strtod(value, &end);
    if (end == value || *end || isspace((unsigned char)*value) || !(r > 0 && r <= 1))
        return moe_fail(err, MOE_E_ARGUMENT, "%s is '%.40s', expected a number over 0 and at most 1",
                        what, value);
    *to = r;
    return MOE_OK;
}

static moe_status set_switch(bool *to, const char *what, const char *value, moe_error *err)
{
    if (strcmp(value, "true") == 0 || strcmp(value, "1") == 0)
        *to = true;
    else if (strcmp(value, "false") == 0 || strcmp(value, "0") == 0)
        *to = false;
    else
        return moe_fail(err, MOE_E_ARGUMENT, "%s is '%.40s', expected true or false", what, value);
    return MOE_OK;
}

static moe_status set_log(log_format *to, const char *what, const char *value, moe_error *err)
{
    static const char *const names[] = {"none", "plain", "json"};
    for (int i = 0; i < 3; i++)
        if (strcmp(value, names[i]) == 0) {
            *to = (log_format)i;
            return MOE_OK;
        }
    return moe_fail(err, MOE_E_ARGUMENT, "%s is '%.40s', expected none, plain or json", what, value);
}

static moe_status set_backend(moe_backend_kind *to, const char *what, const char *value,
                              moe_error *err)
{
    if (moe_backend_find(value, to))
        return MOE_OK;
    return moe_fail(err, MOE_E_ARGUMENT, "%s is '%.40s', expected auto, cpu or cuda", what, value);
}

/* The last part of a path, without slashes at its end. */
static void base_name(const char *dir, const char **from, size_t *n)
{
    size_t end = strlen(dir);
    while (end > 1 && dir[end - 1] == '/')
        end--;
    size_t start = end;
    while (start > 0 && dir[start - 1] != '/')
        start--;
    *from = dir + start;
    *n = end - start;
}

static bool good_name(const char *name, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)name[i]) && !strchr("._-", name[i]))
            return false;
    return n > 0 && n <= MODEL_NAME_BYTES;
}

/* "NAME=DIR" or "DIR", whose name is its last part. */
static moe_status add_model(config *c, const char *what, const char *value, moe_error *err)
{
    const char *equals = strchr(value, '='), *name = value, *dir = equals ? equals + 1 : value;
    size_t n = equals ? (size_t)(equals - value) : 0;
    if (!equals)
        base_name(value, &name, &n);
    if (!good_name(name, n) || !*dir)
        return moe_fail(err, MOE_E_ARGUMENT, "%s is '%.200s', expected NAME=DIR with a name of "
                        "letters, digits, '.', '_' and '-', at most %d", what, value, MODEL_NAME_BYTES);
    if (c->n_models == MAX_MODELS)
        return moe_fail(err, MOE_E_LIMIT, "%s: more than %d models", what, MAX_MODELS);
    model_entry *e = &c->models[c->n_models];
    memcpy(e->name, name, n);
    e->name[n] = '\0';
    for (int i = 0; i < c->n_models; i++)
        if (strcmp(c->models[i].name, e->name) == 0)
            return moe_fail(err, MOE_E_ARGUMENT, "%s: two models are named '%s'", what, e->name);
    moe_status status = set_text(&e->dir, what, dir, err);
    if (status == MOE_OK)
        c->n_models++;
    return status;
}

moe_status option_set(config *c, const option *o, const char *what, const char *value,
                      moe_error *err)
{
    void *to = (char *)c + o->offset;
    switch (o->type) {
    case OPTION_TEXT: return set_text(to, what, value, err);
    case OPTION_INT: return set_int(to, o, what, value, err);
    case OPTION_RATIO: return set_ratio(to, what, value, err);
    case OPTION_SWITCH: return set_switch(to, what, value, err);
    case OPTION_LOG: return set_log(to, what, value, err);
    case OPTION_BACKEND: return set_backend(to, what, value, err);
    case OPTION_MODELS: return add_model(c, what, value, err);
    }
    return MOE_E_ARGUMENT;
}

/* ---- help ------------------------------------------------------------- */

void option_print_help(FILE *to)
{
    fprintf(to, "usage: moefied --model NAME=DIR [OPTION]...\n\n"
            "Serves MoEfied models over HTTP.\n\n");
    for (int i = 0; i < n_options; i++) {
        const option *o = &options[i];
        char flag[64];
        if (o->type == OPTION_SWITCH)
            snprintf(flag, sizeof flag, "--no-%s", o->name);
        else
            snprintf(flag, sizeof flag, "--%s %s", o->name, o->argument);
        const char *off = o->type == OPTION_SWITCH ? "do not " : "";
        fprintf(to, "  %-26s %s%s", flag, off, o->help);
        if (o->initial && o->type != OPTION_SWITCH)
            fprintf(to, " (%s)", o->initial);
        fprintf(to, "\n");
    }
    fprintf(to, "  %-26s %s\n  %-26s %s\n\n", "--version", "print the version and exit",
            "--help", "print this and exit");
    fprintf(to, "Every option is also an environment variable (MOEFIED_MAX_INPUTS) and a key of\n"
            "the configuration file. A flag beats the environment, which beats the file.\n");
}
