/* listen.c: address parsing, binding, and what was bound in words. */
#include "server/listen.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Splits "[::1]:80" or "host:80"; an empty host means every address. */
static bool split(const char *where, char host[LISTEN_TEXT], const char **port)
{
    const char *colon = strrchr(where, ':');
    if (!colon || (size_t)(colon - where) >= LISTEN_TEXT)
        return false;
    size_t n = (size_t)(colon - where);
    const char *from = where;
    if (n >= 2 && from[0] == '[' && from[n - 1] == ']') {
        from++;
        n -= 2;
    } else if (memchr(from, ':', n)) {
        return false; /* IPv6 needs brackets */
    }
    memcpy(host, from, n);
    host[n] = '\0';
    char *end;
    *port = colon + 1;
    unsigned long number = strtoul(*port, &end, 10);
    return **port >= '0' && **port <= '9' && *end == '\0' && number <= 65535;
}

static moe_status describe(int fd, char address[LISTEN_TEXT], moe_error *err)
{
    struct sockaddr_storage bound;
    socklen_t size = sizeof bound;
    char host[LISTEN_TEXT - 16], port[8];
    if (getsockname(fd, (struct sockaddr *)&bound, &size) != 0 ||
        getnameinfo((struct sockaddr *)&bound, size, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return moe_fail(err, MOE_E_IO, "cannot read the address of a bound socket");
    snprintf(address, LISTEN_TEXT, bound.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
    return MOE_OK;
}

static moe_status bind_one(const struct addrinfo *a, const char *where, int *fd, moe_error *err)
{
    int on = 1;
    *fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (*fd >= 0 && setsockopt(*fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
        bind(*fd, a->ai_addr, a->ai_addrlen) == 0)
        return MOE_OK;
    moe_fail(err, MOE_E_IO, "cannot listen on %s: %s", where, strerror(errno));
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
    return MOE_E_IO;
}

moe_status listen_bind(const char *where, int *fd, char address[LISTEN_TEXT], moe_error *err)
{
    char host[LISTEN_TEXT];
    const char *port;
    *fd = -1;
    if (!split(where, host, &port))
        return moe_fail(err, MOE_E_ARGUMENT,
                        "listen is '%s', expected ADDR:PORT or [ADDR6]:PORT", where);
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    int code = getaddrinfo(*host ? host : NULL, port, &hints, &found);
    if (code != 0)
        return moe_fail(err, MOE_E_IO, "cannot listen on %s: %s", where, gai_strerror(code));
    moe_status status = bind_one(found, where, fd, err);
    freeaddrinfo(found);
    if (status == MOE_OK && (status = describe(*fd, address, err)) != MOE_OK) {
        close(*fd);
        *fd = -1;
    }
    return status;
}
