/* config.c: reads the three sources in order of increasing weight.
 *
 * Each source sets what it names; the list of models is replaced as a whole by
 * a weightier source that names any. Flags are checked first, because
 * --config and --help come from them. */
#include "server/config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "server/buffer.h"
#include "server/json.h"
#include "server/option.h"

enum { MAX_FILE_BYTES = 1 << 20 };

static void forget_models(config *c)
{
    for (int i = 0; i < MAX_MODELS; i++) {
        free(c->models[i].dir);
        c->models[i].dir = NULL;
    }
    c->n_models = 0;
}

void config_release(config *c)
{
    forget_models(c);
    free(c->listen);
    free(c->config_file);
    c->listen = c->config_file = NULL;
}

static moe_status set_defaults(config *c, moe_error *err)
{
    moe_status status = MOE_OK;
    *c = (config){0};
    for (int i = 0; status == MOE_OK && i < n_options; i++)
        if (options[i].initial)
            status = option_set(c, &options[i], options[i].name, options[i].initial, err);
    return status;
}

/* ---- flags ------------------------------------------------------------ */

/* One flag at argv[*i]: "--name value", "--name=value", "--no-name". */
static moe_status read_flag(int argc, char **argv, int *i, const option **o,
                            const char **value, moe_error *err)
{
    const char *flag = argv[*i];
    char name[40];
    if (strncmp(flag, "--", 2) != 0 || flag[2] == '\0')
        return moe_fail(err, MOE_E_ARGUMENT, "unexpected argument '%.100s'; --help lists the options", flag);
    const char *equals = strchr(flag, '=');
    size_t n = equals ? (size_t)(equals - flag) - 2 : strlen(flag) - 2;
    snprintf(name, sizeof name, "%.*s", n < sizeof name ? (int)n : 0, flag + 2);
    bool off = strncmp(name, "no-", 3) == 0;
    *o = option_find(off ? name + 3 : name);
    if (!*o || (off && ((*o)->type != OPTION_SWITCH || equals)))
        return moe_fail(err, MOE_E_ARGUMENT, "unknown option '%.100s'; --help lists the options", flag);
    if (off || ((*o)->type == OPTION_SWITCH && !equals))
        *value = off ? "false" : "true";
    else if (equals)
        *value = equals + 1;
    else if (*i + 1 < argc)
        *value = argv[++*i];
    else
        return moe_fail(err, MOE_E_ARGUMENT, "%s needs a value: %s", flag, (*o)->argument);
    return MOE_OK;
}

static moe_status set_flags(config *c, int argc, char **argv, moe_error *err)
{
    bool own_models = false;
    for (int i = 1; i < argc; i++) {
        const option *o = NULL;
        const char *value = NULL;
        char what[48];
        moe_status status = read_flag(argc, argv, &i, &o, &value, err);
        if (status != MOE_OK)
            return status;
        if (o->type == OPTION_MODELS && !own_models) {
            forget_models(c);
            own_models = true;
        }
        snprintf(what, sizeof what, "--%s", o->name);
        status = option_set(c, o, what, value, err);
        if (status != MOE_OK)
            return status;
    }
    return MOE_OK;
}

static bool has_flag(int argc, char **argv, const char *flag)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], flag) == 0)
            return true;
    return false;
}

/* ---- environment ------------------------------------------------------ */

/* "a=dir,b=dir" */
static moe_status set_model_list(config *c, const option *o, const char *what,
                                 const char *list, moe_error *err)
{
    moe_status status = MOE_OK;
    char *copy = strdup(list), *rest = copy, *one;
    if (!copy)
        return moe_fail(err, MOE_E_MEMORY, "%s: out of memory", what);
    forget_models(c);
    while (status == MOE_OK && (one = strsep(&rest, ",")))
        if (*one)
            status = option_set(c, o, what, one, err);
    free(copy);
    return status;
}

static moe_status set_environment(config *c, moe_error *err)
{
    for (int i = 0; i < n_options; i++) {
        char variable[48];
        option_variable(&options[i], variable);
        const char *value = getenv(variable);
        if (!value || !*value)
            continue;
        moe_status status = options[i].type == OPTION_MODELS
            ? set_model_list(c, &options[i], variable, value, err)
            : option_set(c, &options[i], variable, value, err);
        if (status != MOE_OK)
            return status;
    }
    return MOE_OK;
}

/* ---- file ------------------------------------------------------------- */

static moe_status read_file(const char *path, buffer *out, moe_error *err)
{
    char chunk[4096];
    size_t n;
    struct stat st;
    FILE *f = fopen(path, "rbe");
    if (!f)
        return moe_fail(err, MOE_E_IO, "%s: %s", path, strerror(errno));
    if (fstat(fileno(f), &st) == 0 && !S_ISREG(st.st_mode) && !S_ISFIFO(st.st_mode)) {
        fclose(f);
        return moe_fail(err, MOE_E_IO, "%s: expected a file", path);
    }
    while ((n = fread(chunk, 1, sizeof chunk, f)) > 0 && out->n <= MAX_FILE_BYTES)
        buffer_add(out, chunk, n);
    bool broken = ferror(f);
    fclose(f);
    if (broken || out->failed)
        return moe_fail(err, MOE_E_IO, "%s: cannot be read", path);
    if (out->n > MAX_FILE_BYTES)
        return moe_fail(err, MOE_E_LIMIT, "%s: larger than %d bytes", path, MAX_FILE_BYTES);
    return MOE_OK;
}

/* {"name": "dir"}, ["name=dir"] or "name=dir" */
static moe_status set_models(config *c, const option *o, const char *what, const jnode *v,
                             moe_error *err)
{
    forget_models(c);
    if (jnode_type(v) == JNODE_STRING)
        return option_set(c, o, what, jnode_string(v), err);
    if (jnode_type(v) != JNODE_ARRAY && jnode_type(v) != JNODE_OBJECT)
        return moe_fail(err, MOE_E_FORMAT, "%s is %s, expected an object of names and directories",
                        what, jnode_type_name(v));
    for (const jnode *m = jnode_first(v); m; m = jnode_next(m)) {
        char pair[4096];
        if (jnode_type(m) != JNODE_STRING)
            return moe_fail(err, MOE_E_FORMAT, "%s holds %s, expected a directory's name", what,
                            jnode_type_name(m));
        bool object = jnode_type(v) == JNODE_OBJECT;
        int n = snprintf(pair, sizeof pair, "%s%s%s", object ? jnode_key(m) : "",
                         object ? "=" : "", jnode_string(m));
        if (n >= (int)sizeof pair)
            return moe_fail(err, MOE_E_LIMIT, "%s: a name and directory of %d bytes", what, n);
        moe_status status = option_set(c, o, what, pair, err);
        if (status != MOE_OK)
            return status;
    }
    return MOE_OK;
}

static moe_status set_member(config *c, const char *path, const jnode *m, moe_error *err)
{
    const option *o = NULL;
    char what[512], text[64];
    for (int i = 0; i < n_options && !o; i++) {
        char key[40];
        option_key(&options[i], key);
        if (strcmp(key, jnode_key(m)) == 0 && strcmp(key, "config") != 0)
            o = &options[i];
    }
    snprintf(what, sizeof what, "%.400s: %.80s", path, jnode_key(m));
    if (!o)
        return moe_fail(err, MOE_E_FORMAT, "%s is no option; moefied --help lists them", what);
    if (o->type == OPTION_MODELS)
        return set_models(c, o, what, m, err);
    bool number = o->type == OPTION_INT || o->type == OPTION_RATIO;
    jnode_kind wanted = number ? JNODE_NUMBER : o->type == OPTION_SWITCH ? JNODE_BOOL : JNODE_STRING;
    if (jnode_type(m) != wanted)
        return moe_fail(err, MOE_E_FORMAT, "%s is %s, expected %s", what, jnode_type_name(m),
                        number ? "a number" : wanted == JNODE_BOOL ? "a boolean" : "a string");
    if (number)
        snprintf(text, sizeof text, "%.17g", jnode_number(m));
    return option_set(c, o, what, number ? text : wanted == JNODE_BOOL
                      ? (jnode_bool(m) ? "true" : "false") : jnode_string(m), err);
}

/* Whether a member's key came before it in its object. */
static bool comes_again(const jnode *object, const jnode *member)
{
    const jnode *m = jnode_first(object);
    while (m != member && strcmp(jnode_key(m), jnode_key(member)) != 0)
        m = jnode_next(m);
    return m != member;
}

static moe_status set_file(config *c, const char *path, moe_error *err)
{
    static const json_limits limits = {.max_depth = 8, .max_values = 4096};
    buffer text = {0};
    json_fault fault;
    jnode *tree = NULL;
    moe_status status = read_file(path, &text, err);
    if (status == MOE_OK && jnode_parse(text.bytes ? text.bytes : "", text.n, &limits, &tree, &fault) != JSON_FINE)
        status = moe_fail(err, MOE_E_FORMAT, "%s: byte %zu: %s", path, fault.byte, fault.message);
    if (status == MOE_OK && jnode_type(tree) != JNODE_OBJECT)
        status = moe_fail(err, MOE_E_FORMAT, "%s holds %s, expected an object", path, jnode_type_name(tree));
    if (status == MOE_OK)
        for (const jnode *m = jnode_first(tree); m && status == MOE_OK; m = jnode_next(m))
            status = comes_again(tree, m)
                ? moe_fail(err, MOE_E_FORMAT, "%s: '%.80s' comes twice", path, jnode_key(m))
                : set_member(c, path, m, err);
    jnode_free(tree);
    buffer_free(&text);
    return status;
}

/* ---- all of them ------------------------------------------------------ */

/* Values that are fine alone and not together. */
static moe_status check(const config *c, moe_error *err)
{
    if (c->n_models == 0)
        return moe_fail(err, MOE_E_ARGUMENT, "no model to serve: --model NAME=DIR names one");
    if (c->max_inputs > c->queue_inputs)
        return moe_fail(err, MOE_E_ARGUMENT, "max-inputs is %d, more than queue-inputs, %d: such a "
                        "request would never be taken", c->max_inputs, c->queue_inputs);
    return MOE_OK;
}

/* The flags alone, which must be right whatever the rest says; *file: the
 * configuration file they name, or NULL. */
static moe_status check_flags(int argc, char **argv, char **file, moe_error *err)
{
    config flags;
    moe_status status = set_defaults(&flags, err);
    if (status == MOE_OK)
        status = set_flags(&flags, argc, argv, err);
    *file = flags.config_file;
    flags.config_file = NULL;
    config_release(&flags);
    return status;
}

static moe_status set_all(config *c, const char *file, int argc, char **argv, moe_error *err)
{
    moe_status status = file && *file ? set_file(c, file, err) : MOE_OK;
    if (status == MOE_OK)
        status = set_environment(c, err);
    if (status == MOE_OK)
        status = set_flags(c, argc, argv, err);
    return status;
}

config_result config_load(config *c, int argc, char **argv, moe_error *err)
{
    char *file;
    if (set_defaults(c, err) != MOE_OK)
        return CONFIG_BAD;
    if (has_flag(argc, argv, "--help")) {
        option_print_help(stdout);
        return CONFIG_PRINTED;
    }
    if (has_flag(argc, argv, "--version")) {
        printf("moefied %s\n", MOE_VERSION);
        return CONFIG_PRINTED;
    }
    if (check_flags(argc, argv, &file, err) != MOE_OK) {
        free(file);
        return CONFIG_USAGE;
    }
    moe_status status = set_all(c, file ? file : getenv("MOEFIED_CONFIG"), argc, argv, err);
    free(file);
    if (status != MOE_OK || check(c, err) != MOE_OK)
        return status == MOE_OK && c->n_models == 0 ? CONFIG_USAGE : CONFIG_BAD;
    return CONFIG_READY;
}
