/* spool.h: an unlinked file for what would not fit in memory.
 *
 * Its room is reserved when it is made, so that a full disk shows at once, and a
 * killed moefy leaves nothing behind. Reading and writing: any thread. */
#ifndef CONVERT_SPOOL_H
#define CONVERT_SPOOL_H

#include "engine/moe.h"

/* A file of `bytes` in dir; what: what it will hold, for the message where there is
 * no room. *fd: close(); -1 on failure. */
moe_status spool_open(const char *dir, size_t bytes, const char *what, int *fd,
                      moe_error *err);
moe_status spool_write(int fd, const void *bytes, size_t n, size_t at, moe_error *err);
moe_status spool_read(int fd, void *bytes, size_t n, size_t at, moe_error *err);

#endif
