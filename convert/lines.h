/* lines.h: reading a file or standard input line by line, in bounded memory. */
#ifndef CONVERT_LINES_H
#define CONVERT_LINES_H

#include "engine/moe.h"

enum { LINES_MAX_BYTES = 16 << 20 }; /* of one line */

typedef struct {
    const char *path;   /* for messages; "standard input" for "-" */
    int fd, number;     /* of the last line read, from 1 */
    char *bytes;        /* [room]: what was read and not yet handed out */
    size_t begin, end, room;
    bool at_end;
} line_reader;

/* Borrows path. */
moe_status lines_open(line_reader *r, const char *path, moe_error *err);
/* *line NULL at the end; else n bytes without the newline, valid until the next
 * call. A longer line than LINES_MAX_BYTES is MOE_E_LIMIT. */
moe_status lines_next(line_reader *r, const char **line, size_t *n, moe_error *err);
/* Whether lines_next would answer without waiting for whoever writes. */
bool lines_ready(const line_reader *r);
void lines_close(line_reader *r);

#endif
