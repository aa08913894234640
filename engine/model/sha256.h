/* sha256.h: SHA-256 (FIPS 180-4) of files and bytes, for provenance. */
#ifndef MOE_MODEL_SHA256_H
#define MOE_MODEL_SHA256_H

#include "engine/moe.h"

/* hex: out, 64 lower-case digits and a NUL; empty on failure. */
moe_status file_sha256(const char *path, char hex[65], moe_error *err);
void bytes_sha256(const void *bytes, size_t n, char hex[65]);

#endif
