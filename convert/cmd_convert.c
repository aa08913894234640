/* cmd_convert.c: moefy convert - options, checks, and the report at the end. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "convert/calibration.h"
#include "convert/card.h"
#include "convert/cli.h"
#include "convert/convert.h"
#include "convert/interrupt.h"
#include "convert/json.h"
#include "convert/write.h"
#include "engine/model/lower.h"

static const char usage[] =
    "moefy convert SRC -o OUT --calibrate FILE [options]\n"
    "Cuts the FFNs of the checkpoint SRC into experts and trains their routers on\n"
    "the text of FILE (TSV with a header, or JSONL; labels are not needed).";

enum { MAX_CALIBRATION_TOKENS = 1 << 24, FEW_TOKENS = 4096, MAX_KINDS = 16 };
static const uint64_t max_seed = 1ULL << 53; /* exact in JSON */

typedef struct {
    const char *out, *calibrate, *preset, *layers, *dtype, *task, *tasks;
    const char *split, *router, *target, *states, *budget, *shift; /* as given, or NULL */
    int expert_size, threads, max_tokens;
    uint64_t seed;
    bool json;
    const char *source;
    int n_positional;
} arguments;

static int parse(int argc, char **argv, arguments *a)
{
    *a = (arguments){.dtype = "f32", .expert_size = MOE_EXPERT_SIZE,
                     .max_tokens = 131072, .seed = 1};
    const cli_option options[] = {
        {"-o", OPT_STRING, &a->out, 0, 0, "OUT", "directory to write"},
        {"--calibrate", OPT_STRING, &a->calibrate, 0, 0, "FILE", "calibration text"},
        {"--preset", OPT_STRING, &a->preset, 0, 0, "NAME",
         "paper: --split coactivation --router mlp --budget uniform, as MoEfication's "
         "authors do"},
        {"--split", OPT_STRING, &a->split, 0, 0, "KIND",
         "em, coactivation, clustering or random (default em)"},
        {"--router", OPT_STRING, &a->router, 0, 0, "KIND",
         "norm, mlp, similarity, avgk or random (default norm)"},
        {"--target", OPT_STRING, &a->target, 0, 0, "KIND",
         "of norm routers: what an expert adds to the answer, or to its layer's output "
         "(default answer)"},
        {"--states", OPT_STRING, &a->states, 0, 0, "KIND",
         "that norm routers are fitted to at last: sparse or dense (default sparse)"},
        {"--budget", OPT_STRING, &a->budget, 0, 0, "KIND",
         "experts per layer: measured or uniform (default measured)"},
        {"--shift", OPT_STRING, &a->shift, 0, 0, "KIND",
         "what is added for the experts left out, by ratio: measured or none (default measured "
         "for GELU and text to text)"},
        {"--expert-size", OPT_INT, &a->expert_size, 1, 1 << 20, "N",
         "neurons of an expert: 32"},
        {"--layers", OPT_STRING, &a->layers, 0, 0, "LIST",
         "layers to convert, as in 0-3,5 (default all)"},
        {"--dtype", OPT_STRING, &a->dtype, 0, 0, "TYPE",
         "of the weights: f32, bf16 or int8 (default f32)"},
        {"--task", OPT_STRING, &a->task, 0, 0, "NAME",
         "of a text-to-text model's rows that name none: sst2, mrpc, qnli, squad, ..."},
        {"--tasks", OPT_STRING, &a->tasks, 0, 0, "FILE",
         "tasks that a text-to-text model is to state: {\"tasks\": [...]} in JSON"},
        {"--seed", OPT_UINT64, &a->seed, 0, 0, "N",
         "the same seed gives the same model (default 1)"},
        {"--threads", OPT_INT, &a->threads, 0, 1024, "N",
         "compute threads (default: all that this process may use)"},
        {"--max-tokens", OPT_INT, &a->max_tokens, 1, MAX_CALIBRATION_TOKENS, "N",
         "calibration tokens to use, spread over FILE (default 131072)"},
        {"--json", OPT_FLAG, &a->json, 0, 0, NULL, "print one JSON object"},
        {.name = NULL},
    };
    return cli_parse(usage, options, argc, argv, 1, &a->source, &a->n_positional);
}

/* "a, b or c" of the names of a table of kinds. */
static void list_names(const char *const *names, int n, char *text, size_t size)
{
    size_t at = 0;
    text[0] = 0;
    for (int i = 0; i < n && at < size; i++) {
        int more = snprintf(text + at, size - at, "%s%s",
                            i == 0 ? "" : i == n - 1 ? " or " : ", ", names[i]);
        at += more > 0 ? (size_t)more : 0;
    }
}

/* The index of text among n names; -1: none of them, which has been said. */
static int choose(const char *option, const char *text, const char *const *names, int n)
{
    char list[256];
    for (int i = 0; i < n; i++)
        if (!strcmp(names[i], text))
            return i;
    list_names(names, n, list, sizeof list);
    cli_usage("%s is '%s', expected %s", option, text, list);
    return -1;
}

/* The preset may not be mixed with what it sets. EXIT_USAGE, or -1 to go on. */
static int check_preset(const arguments *a)
{
    const struct { const char *option, *value; } set[] = {
        {"--split", a->split}, {"--router", a->router}, {"--target", a->target},
        {"--states", a->states}, {"--budget", a->budget}, {"--shift", a->shift},
    };
    if (a->preset && strcmp(a->preset, "paper") != 0)
        return cli_usage("--preset is '%s', expected paper", a->preset);
    for (size_t i = 0; a->preset && i < sizeof set / sizeof *set; i++)
        if (set[i].value)
            return cli_usage("--preset paper and %s %s exclude each other: the preset is "
                             "--split coactivation --router mlp --budget uniform",
                             set[i].option, set[i].value);
    return -1;
}

static int choose_split(const char *name)
{
    const char *names[MAX_KINDS];
    int n = 0;
    for (; n < MAX_KINDS && split_kinds[n].name; n++)
        names[n] = split_kinds[n].name;
    return choose("--split", name, names, n);
}

static int choose_router(const char *name)
{
    const char *names[MAX_KINDS];
    int n = 0;
    for (; n < MAX_KINDS && router_kinds[n].name; n++)
        names[n] = router_kinds[n].name;
    return choose("--router", name, names, n);
}

/* Finds all methods by name: as given, by the preset or by default, but whether there are
 * shifts by default, which the model says. EXIT_USAGE, or -1 to go on. */
static int find_methods(const arguments *a, convert_options *o)
{
    static const char *const targets[] = {"answer", "output"};
    static const char *const states[] = {"sparse", "dense"};
    static const char *const budgets[] = {"uniform", "measured"};
    static const char *const shifts[] = {"none", "measured"};
    const bool paper = a->preset != NULL;
    int code = check_preset(a), split, router = -1, target = -1, state = -1, budget = -1,
        shift = -1;
    if (code >= 0)
        return code;
    split = choose_split(a->split ? a->split : paper ? "coactivation" : "em");
    if (split >= 0)
        router = choose_router(a->router ? a->router : paper ? "mlp" : "norm");
    if (router >= 0)
        target = choose("--target", a->target ? a->target : "answer", targets, 2);
    if (target >= 0)
        state = choose("--states", a->states ? a->states : "sparse", states, 2);
    if (state >= 0)
        budget = choose("--budget", a->budget ? a->budget : paper ? "uniform" : "measured",
                        budgets, 2);
    if (budget >= 0)
        shift = choose("--shift", a->shift ? a->shift : "none", shifts, 2);
    if (shift < 0)
        return EXIT_USAGE;
    o->split = &split_kinds[split];
    o->router = &router_kinds[router];
    o->sensitivity = target == 0;
    o->refit = state == 0;
    o->shift = shift == 1;
    o->budget = budget == 0 ? BUDGET_UNIFORM : BUDGET_MEASURED;
    return -1;
}

/* What can be checked before any file is opened. -1: go on. */
static int check(const arguments *a, convert_options *o)
{
    if (a->n_positional < 1)
        return cli_usage("convert needs the checkpoint to convert: moefy convert SRC -o "
                         "OUT --calibrate FILE");
    if (!a->out)
        return cli_usage("convert needs -o OUT, the directory to write");
    if (!a->calibrate)
        return cli_usage("convert needs --calibrate FILE, text to learn from");
    if (a->expert_size != MOE_EXPERT_SIZE)
        return cli_usage("--expert-size is %d, expected %d", a->expert_size,
                         MOE_EXPERT_SIZE);
    if (!lower_find(a->dtype, &o->dtype))
        return cli_usage("--dtype is '%s', expected f32, bf16 or int8", a->dtype);
    if (a->seed > max_seed)
        return cli_usage("--seed is %llu, expected at most %llu",
                         (unsigned long long)a->seed, (unsigned long long)max_seed);
    return find_methods(a, o);
}

/* "0-3,5" into wanted [n_layers]; false: malformed or out of range. */
static bool parse_layers(const char *list, int n_layers, bool *wanted)
{
    for (const char *at = list; ; at++) {
        char *end;
        if (*at < '0' || *at > '9')
            return false;
        long first = strtol(at, &end, 10), last = first;
        if (*end == '-') {
            at = end + 1;
            if (*at < '0' || *at > '9')
                return false;
            last = strtol(at, &end, 10);
        }
        if (first > last || last >= n_layers)
            return false;
        for (long l = first; l <= last; l++)
            wanted[l] = true;
        if (!*end)
            return true;
        if (*end != ',')
            return false;
        at = end;
    }
}

static void note(const arguments *a, const moe_model *m, const converted *c)
{
    if (strcmp(m->info.activation, "relu") != 0)
        fprintf(stderr, "moefy: note: %s is not ReLU: fewer experts can be skipped; moefy "
                "relufy makes a ReLU model of it\n", m->info.activation);
    calibration_note(a->calibrate, c->n_tokens, c->n_unknown, FEW_TOKENS);
}

static void report_json(const arguments *a, const convert_options *o,
                        const converted *c, double seconds)
{
    json *j = json_object();
    json_add_string(j, "output", a->out);
    json_add_string(j, "split", o->split->name);
    json_add_string(j, "router", o->router->name);
    card_add_layers(j, c, o);
    json_add_number(j, "seconds", seconds, 4);
    json_add_int(j, "tokens", c->n_tokens);
    json_print_line(stdout, j);
    json_free(j);
}

static void report_text(const arguments *a, const convert_options *o,
                        const converted *c, double seconds)
{
    card_print_layers(stdout, c, o);
    printf("\n%s: split %s, router %s, %d tokens, %.1f s\n", a->out, o->split->name,
           o->router->name, c->n_tokens, seconds);
    printf("next: moefy eval %s --data FILE --ratio 1,0.5,0.25   or   moefied --model "
           "NAME=%s\n", a->out, a->out);
}

/* Writes what convert_model found. */
static moe_status write_to(outdir *out, const moe_model *m, const dataset *data,
                           const convert_options *o, const converted *c, moe_error *err)
{
    moe_status status = write_model(out, m, c, o, data, err);
    if (status == MOE_OK)
        status = interrupt_check(err);
    if (status == MOE_OK)
        status = outdir_commit(out, err);
    if (status == MOE_OK)
        resume_clear(o->resume);
    return status;
}

/* Converts and writes; signals are held meanwhile. */
static moe_status convert_to(const arguments *a, const moe_model *m, const dataset *data,
                             convert_options *o, converted *c, moe_error *err)
{
    outdir out;
    progress bar = {.label = NULL};
    moe_status status = outdir_create(a->out, OUTDIR_MAY_REPLACE, &out, err);
    if (status != MOE_OK)
        return status;
    char *kept = NULL;
    resume r = {.n_found = 0};
    o->spool_dir = out.temp;
    o->resume = &r;
    if (asprintf(&kept, "%s.resume", out.path) < 0) {
        kept = NULL;
        status = moe_fail(err, MOE_E_MEMORY, "%s: no memory to write it", a->out);
    } else {
        status = write_conversion_key(m, o, data, r.key, err);
    }
    r.dir = kept;
    if (status == MOE_OK)
        status = convert_model(m, data, o, &bar, c, err);
    if (r.n_found)
        fprintf(stderr, "moefy: note: %s holds %d finished steps of this conversion: not done "
                "again\n", r.dir, r.n_found);
    if (status == MOE_OK)
        status = write_to(&out, m, data, o, c, err);
    outdir_close(&out);
    free(kept);
    return status;
}

static int run(const arguments *a, convert_options *o, const moe_model *m, bool *wanted)
{
    const double start = cli_seconds();
    dataset data;
    moe_error err;
    converted c = {.n_tokens = 0};
    for (int l = 0; l < m->info.n_layers; l++)
        wanted[l] = !a->layers;
    if (a->layers && !parse_layers(a->layers, m->info.n_layers, wanted))
        return cli_usage("--layers is '%s', expected layers of 0 to %d, as in 0-3,5",
                         a->layers, m->info.n_layers - 1);
    if (dataset_read(a->calibrate, 0, &data, &err) != MOE_OK)
        return cli_failed(&err);
    o->wanted = wanted;
    interrupt_begin();
    moe_status status = convert_to(a, m, &data, o, &c, &err);
    int code = EXIT_DONE;
    if (status != MOE_OK) {
        code = cli_failed(&err);
    } else {
        note(a, m, &c);
        (a->json ? report_json : report_text)(a, o, &c, cli_seconds() - start);
    }
    converted_free(&c);
    dataset_free(&data);
    interrupt_end();
    return code;
}

/* Where it was found to help (docs/quality.md): of hidden values that may be negative, and
 * of text to text. */
static bool gains_from_shift(const moe_model *m)
{
    return m->info.task == MOE_TASK_TEXT || lower_hidden_is_signed(&m->weights.layers[0].ffn);
}

/* Lets m state the tasks of the file, which *tasks holds. */
static moe_status state_tasks(const char *path, moe_model *m, model_config *tasks,
                              moe_error *err)
{
    if (m->info.task != MOE_TASK_TEXT)
        return moe_fail(err, MOE_E_ARGUMENT, "%s: is no text-to-text model, which --tasks is for",
                        m->info.dir);
    moe_status status = config_read_tasks_file(path, tasks, err);
    if (status == MOE_OK) {
        m->info.tasks = tasks->tasks;
        m->info.n_tasks = tasks->n_tasks;
    }
    return status;
}

int cmd_convert(int argc, char **argv)
{
    arguments a;
    convert_options o = {.split = NULL};
    model_config tasks = {.path = NULL};
    moe_model *m;
    moe_error err;
    int code = parse(argc, argv, &a);
    if (code < 0)
        code = check(&a, &o);
    if (code >= 0)
        return code;
    o.seed = a.seed;
    o.max_tokens = a.max_tokens;
    o.n_threads = a.threads;
    if (moe_model_open(a.source, &m, &err) != MOE_OK)
        return cli_failed(&err);
    if (a.tasks && state_tasks(a.tasks, m, &tasks, &err) != MOE_OK) {
        moe_model_close(m);
        return cli_failed(&err);
    }
    if (!a.shift && !a.preset)
        o.shift = gains_from_shift(m);
    if (m->info.task == MOE_TASK_TEXT) { /* what there is for these so far */
        o.budget = BUDGET_UNIFORM;
        o.sensitivity = o.refit = false;
        o.task = a.task;
    }
    if (m->info.moefied) {
        moe_fail(&err, MOE_E_ARGUMENT, "%s: is MoEfied already; moefy export writes a "
                 "dense checkpoint of it", a.source);
        config_free(&tasks);
        moe_model_close(m);
        return cli_failed(&err);
    }
    bool *wanted = calloc((size_t)m->info.n_layers, sizeof *wanted);
    if (wanted) {
        code = run(&a, &o, m, wanted);
    } else {
        moe_fail(&err, MOE_E_MEMORY, "no memory for %d layers", m->info.n_layers);
        code = cli_failed(&err);
    }
    free(wanted);
    config_free(&tasks);
    moe_model_close(m);
    return code;
}
