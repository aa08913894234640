/* sha256.c: SHA-256 (FIPS 180-4) of files and bytes, for provenance.
 *
 * The state is eight words. Each 64-byte block is expanded to 64 words and run
 * through 64 rounds; the message ends in a bit 1, zeros and its length in bits. */
#include "engine/model/sha256.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Fractional parts of the cube roots of the first 64 primes. */
static const uint32_t round_constant[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
    0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
    0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
    0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
    0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
    0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
    0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
    0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
    0xc67178f2,
};

static uint32_t rotate(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

static void expand(const unsigned char block[64], uint32_t w[64])
{
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
               (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (rotate(a, 7) ^ rotate(a, 18) ^ a >> 3) + w[i - 7] +
               (rotate(b, 17) ^ rotate(b, 19) ^ b >> 10);
    }
}

static void add_block(uint32_t state[8], const unsigned char block[64])
{
    uint32_t w[64], s[8];
    expand(block, w);
    memcpy(s, state, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t a = s[0], e = s[4];
        uint32_t t1 = s[7] + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) +
                      ((e & s[5]) ^ (~e & s[6])) + round_constant[i] + w[i];
        uint32_t t2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) +
                      ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += t1;
        s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++)
        state[i] += s[i];
}

static const uint32_t first_state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

/* The message's last n bytes, of total; then the state in hex. */
static void finish(uint32_t state[8], const unsigned char *bytes, size_t n, uint64_t total,
                   char hex[65])
{
    unsigned char end[128] = {0};
    size_t whole = n / 64 * 64, rest = n - whole, size = rest < 56 ? 64 : 128;
    for (size_t i = 0; i < whole; i += 64)
        add_block(state, bytes + i);
    if (rest)
        memcpy(end, bytes + whole, rest);
    end[rest] = 0x80;
    for (int i = 0; i < 8; i++)
        end[size - 1 - (size_t)i] = (unsigned char)(total * 8 >> (8 * i));
    for (size_t i = 0; i < size; i += 64)
        add_block(state, end + i);
    for (int i = 0; i < 8; i++)
        snprintf(hex + 8 * i, 9, "%08x", state[i]);
}

void bytes_sha256(const void *bytes, size_t n, char hex[65])
{
    uint32_t state[8];
    memcpy(state, first_state, sizeof state);
    finish(state, bytes, n, n, hex);
}

moe_status file_sha256(const char *path, char hex[65], moe_error *err)
{
    uint32_t state[8];
    unsigned char bytes[64 * 512];
    uint64_t total = 0;
    size_t n;
    hex[0] = '\0';
    FILE *f = fopen(path, "rbe");
    if (!f)
        return moe_fail(err, MOE_E_IO, "%s: cannot open: %s", path, strerror(errno));
    memcpy(state, first_state, sizeof state);
    while ((n = fread(bytes, 1, sizeof bytes, f)) == sizeof bytes) {
        for (size_t i = 0; i < n; i += 64)
            add_block(state, bytes + i);
        total += n;
    }
    bool failed = ferror(f);
    int reason = errno;
    fclose(f);
    if (failed)
        return moe_fail(err, MOE_E_IO, "%s: read failed: %s", path, strerror(reason));
    finish(state, bytes, n, total + n, hex);
    return MOE_OK;
}
