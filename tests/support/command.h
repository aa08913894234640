/* command.h: runs a program through the shell and keeps what it said. Include it
 * in one file. */
#ifndef TESTS_SUPPORT_COMMAND_H
#define TESTS_SUPPORT_COMMAND_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

typedef struct {
    int code;          /* exit code, -1: killed by a signal */
    char *out, *err;   /* stdout and stderr, NUL-terminated */
} command_result;

static inline char *command_read_all(FILE *f)
{
    size_t n = 0, room = 1 << 16, got;
    char *bytes = malloc(room);
    while (bytes && (got = fread(bytes + n, 1, room - n - 1, f)) > 0) {
        n += got;
        if (n + 1 == room)
            bytes = realloc(bytes, room *= 2);
    }
    if (!bytes)
        abort();
    bytes[n] = 0;
    return bytes;
}

/* Runs $MOE_BUILD/PROGRAM with arguments as the shell reads them. */
__attribute__((format(printf, 2, 3)))
static inline command_result command_run(const char *program, const char *format, ...)
{
    char arguments[8192], line[16384], err_path[4096];
    va_list args;
    va_start(args, format);
    vsnprintf(arguments, sizeof arguments, format, args);
    va_end(args);
    snprintf(err_path, sizeof err_path, "%s/stderr", getenv("MOE_TMP"));
    /* The program comes after a pipe's left side, which may stand in arguments. */
    snprintf(line, sizeof line, "P='%s/%s'; { %s; } 2>'%s'", getenv("MOE_BUILD"), program,
             arguments, err_path);
    FILE *pipe = popen(line, "r");
    if (!pipe)
        abort();
    command_result r = {.out = command_read_all(pipe)};
    int status = pclose(pipe);
    r.code = WIFEXITED(status) && WEXITSTATUS(status) < 128 ? WEXITSTATUS(status) : -1;
    FILE *f = fopen(err_path, "r");
    if (!f)
        abort();
    r.err = command_read_all(f);
    fclose(f);
    return r;
}

static inline void command_free(command_result *r)
{
    free(r->out);
    free(r->err);
}

#endif
