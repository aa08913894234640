/* sha256.h: SHA-256 of bytes in memory (FIPS 180-4), for provenance. */
#ifndef CONVERT_SHA256_H
#define CONVERT_SHA256_H

#include <stddef.h>

/* hex: out, 64 lower-case digits and a NUL. */
void bytes_sha256(const void *bytes, size_t n, char hex[65]);

#endif
