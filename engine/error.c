/* error.c: how every function reports what went wrong. */
#include <stdarg.h>
#include <stdio.h>

#include "engine/moe.h"

moe_status moe_fail(moe_error *err, moe_status code, const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        err->code = code;
        vsnprintf(err->message, sizeof err->message, format, args);
        va_end(args);
        /* A message is one line, whatever a file's content put into it. */
        for (char *c = err->message; *c; c++)
            if ((unsigned char)*c < 0x20)
                *c = ' ';
    }
    return code;
}
