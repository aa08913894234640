/* config.h: everything that can be set, from three places: a flag beats the
 * environment, which beats the JSON file.
 *
 * One table (config.c) names every option; from it come the flag --max-inputs,
 * the variable MOEFIED_MAX_INPUTS, the key "max_inputs" and the --help text. */
#ifndef SERVER_CONFIG_H
#define SERVER_CONFIG_H

#include <stdio.h>
#include "engine/moe.h"
#include "server/log.h"

enum { MAX_MODELS = 16, MODEL_NAME_BYTES = 64 };

typedef struct {
    char name[MODEL_NAME_BYTES + 1]; /* letters, digits, '.', '_', '-' */
    char *dir;
} model_entry;

typedef struct {
    model_entry models[MAX_MODELS]; /* the first is the default */
    int n_models;
    char *listen;
    char *config_file; /* NULL: none */
    double ratio;      /* of requests that name none */
    int threads;       /* compute; 0: what the machine allows */
    int batch_tokens;
    int queue_inputs, queue_tokens;
    int max_inputs, max_json_depth, max_body_bytes, header_bytes, max_connections;
    int request_timeout_ms; /* 0: none */
    int idle_seconds, grace_seconds;
    moe_backend_kind backend;
    bool probe;
    log_format log;
} config;

typedef enum {
    CONFIG_READY,
    CONFIG_PRINTED, /* --help or --version: exit 0 */
    CONFIG_USAGE,   /* a wrong flag: err says which, exit 2 */
    CONFIG_BAD,     /* a wrong variable, file or value: err, exit 1 */
} config_result;

/* Reads flags, environment and file into *c. Owns strings: config_release,
 * whatever the result. */
config_result config_load(config *c, int argc, char **argv, moe_error *err);
void config_release(config *c);

#endif
