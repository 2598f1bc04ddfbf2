/* SPDX-License-Identifier: Apache-2.0
 * Arrays of bits, lowest first in bytes and in words (little-endian, as all CPUs here are). */
#ifndef NCPU_BITS_H
#define NCPU_BITS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline int ncpu_bit(const uint8_t *bits, size_t i) { return bits[i / 8] >> i % 8 & 1; }

/* bits[from, from + count) = value; their words were zero before. */
static inline void ncpu_fill_bits(uint64_t *bits, size_t from, size_t count, int value)
{
    for (size_t end = from + count, n; value && from < end; from += n) {
        n = 64 - from % 64 < end - from ? 64 - from % 64 : end - from;
        bits[from / 64] |= UINT64_MAX >> (64 - n) << from % 64;
    }
}

/* to[at, at + count) = from[first, first + count); their words were zero before. */
static inline void ncpu_copy_bits(uint64_t *to, size_t at, const uint8_t *from, size_t first, size_t count)
{
    for (size_t n; count; at += n, first += n, count -= n) {
        n = 8 - first % 8 < 64 - at % 64 ? 8 - first % 8 : 64 - at % 64;
        n = n < count ? n : count;
        to[at / 64] |= ((uint64_t)from[first / 8] >> first % 8 & (((uint64_t)1 << n) - 1)) << at % 64;
    }
}

#endif
