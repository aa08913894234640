/* option.h: the table of options and setting one of them from text. */
#ifndef SERVER_OPTION_H
#define SERVER_OPTION_H

#include "server/config.h"

typedef enum {
    OPTION_TEXT, OPTION_INT, OPTION_RATIO, OPTION_SWITCH, /* --no-NAME turns it off */
    OPTION_LOG, OPTION_BACKEND, OPTION_MODELS,
} option_type;

typedef struct {
    const char *name; /* "max-inputs" */
    option_type type;
    size_t offset;    /* in config */
    int min, max;     /* OPTION_INT */
    const char *initial;  /* as text; NULL: none */
    const char *argument, *help;
} option;

extern const option options[];
extern const int n_options;

/* name without dashes; NULL: there is no such option. */
const option *option_find(const char *name);
/* "max_inputs" and "MOEFIED_MAX_INPUTS" for "max-inputs". */
void option_key(const option *o, char out[40]);
void option_variable(const option *o, char out[48]);

/* Sets the option; what names its source in messages ("--max-inputs",
 * "MOEFIED_MAX_INPUTS", "FILE: max_inputs"). OPTION_MODELS adds to the list. */
moe_status option_set(config *c, const option *o, const char *what, const char *value,
                      moe_error *err);
void option_print_help(FILE *to);

#endif
