/* lines.c: a buffer that doubles up to the longest line allowed; what was handed
 * out is moved over when more is read. */
#include "convert/lines.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FIRST_ROOM = 1 << 16 };

moe_status lines_open(line_reader *r, const char *path, moe_error *err)
{
    bool standard = strcmp(path, "-") == 0;
    *r = (line_reader){.path = standard ? "standard input" : path, .room = FIRST_ROOM};
    r->fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (r->fd < 0)
        return moe_fail(err, MOE_E_IO, "%s: %s", path, strerror(errno));
    r->bytes = malloc(r->room);
    if (r->bytes)
        return MOE_OK;
    lines_close(r);
    return moe_fail(err, MOE_E_MEMORY, "%s: out of memory", path);
}

void lines_close(line_reader *r)
{
    if (r->fd > STDIN_FILENO)
        close(r->fd);
    free(r->bytes);
    *r = (line_reader){.fd = -1};
}

static char *newline_in(const line_reader *r)
{
    return memchr(r->bytes + r->begin, '\n', r->end - r->begin);
}

/* Moves what is left to the front and reads more behind it. */
static moe_status read_more(line_reader *r, moe_error *err)
{
    memmove(r->bytes, r->bytes + r->begin, r->end - r->begin);
    r->end -= r->begin;
    r->begin = 0;
    if (r->end == r->room) {
        char *larger = NULL;
        if (r->room > LINES_MAX_BYTES)
            return moe_fail(err, MOE_E_LIMIT, "%s:%d: a line of more than %d bytes", r->path,
                            r->number + 1, LINES_MAX_BYTES);
        larger = realloc(r->bytes, r->room * 2);
        if (!larger)
            return moe_fail(err, MOE_E_MEMORY, "%s:%d: out of memory", r->path, r->number + 1);
        r->bytes = larger;
        r->room *= 2;
    }
    ssize_t got;
    do
        got = read(r->fd, r->bytes + r->end, r->room - r->end);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return moe_fail(err, MOE_E_IO, "%s: read: %s", r->path, strerror(errno));
    r->at_end = got == 0;
    r->end += (size_t)got;
    return MOE_OK;
}

moe_status lines_next(line_reader *r, const char **line, size_t *n, moe_error *err)
{
    char *newline;
    *line = NULL;
    while (!(newline = newline_in(r)) && !r->at_end) {
        moe_status status = read_more(r, err);
        if (status != MOE_OK)
            return status;
    }
    if (r->begin == r->end)
        return MOE_OK;
    *line = r->bytes + r->begin;
    *n = newline ? (size_t)(newline - *line) : r->end - r->begin;
    if (*n > LINES_MAX_BYTES)
        return moe_fail(err, MOE_E_LIMIT, "%s:%d: a line of more than %d bytes", r->path,
                        r->number + 1, LINES_MAX_BYTES);
    r->begin += *n + (newline != NULL);
    r->number++;
    return MOE_OK;
}

bool lines_ready(const line_reader *r)
{
    struct pollfd p = {.fd = r->fd, .events = POLLIN};
    return r->at_end || newline_in(r) || poll(&p, 1, 0) > 0;
}
