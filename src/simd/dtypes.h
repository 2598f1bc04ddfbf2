/* SPDX-License-Identifier: Apache-2.0
 *
 * Storage types that C lacks, as distinct structs so that the compiler tells them apart, and their exact
 * conversions in integer arithmetic: the definition that every instruction set's own must equal.
 */
#ifndef NCPU_DTYPES_H
#define NCPU_DTYPES_H

#include <stdint.h>
#include <string.h>

typedef struct { uint16_t bits; } ncpu_f16;  /* IEEE binary16: 1 sign, 5 exponent, 10 fraction bits */
typedef struct { uint16_t bits; } ncpu_bf16; /* the upper half of a binary32 */

static inline uint32_t ncpu_bits(float x) { uint32_t u; memcpy(&u, &x, 4); return u; }
static inline float ncpu_float(uint32_t u) { float x; memcpy(&x, &u, 4); return x; }

static inline float ncpu_from_bf16(ncpu_bf16 h) { return ncpu_float((uint32_t)h.bits << 16); }

static inline ncpu_bf16 ncpu_to_bf16(float x)
{
    uint32_t u = ncpu_bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (ncpu_bf16){(uint16_t)((u >> 16) | 0x40u)}; /* quiet NaN */
    return (ncpu_bf16){(uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

/* Moving the 15 bits up by 13 leaves the exponent biased by 15 where float has 127; multiplying by 2^112
 * repairs that, subnormals included, exactly.  Infinity and NaN (exponent 31) need float's exponent 255. */
static inline float ncpu_from_f16(ncpu_f16 h)
{
    uint32_t magnitude = (uint32_t)(h.bits & 0x7fffu) << 13, sign = (uint32_t)(h.bits & 0x8000u) << 16;
    if (magnitude >= 0x0f800000u) return ncpu_float(sign | magnitude | 0x7f800000u);
    return ncpu_float(sign | ncpu_bits(ncpu_float(magnitude) * 0x1p112f));
}

/* Normal results: add half an ulp (to even) and let the carry run into the exponent.  Subnormal results:
 * adding 0.5 aligns the ulp of the sum with f16's smallest subnormal, 2^-24, and the FPU rounds. */
static inline ncpu_f16 ncpu_to_f16(float x)
{
    uint32_t u = ncpu_bits(x), sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu, h;
    if (magnitude > 0x7f800000u) h = 0x7e00u;
    else if (magnitude >= 0x47800000u) h = 0x7c00u; /* 2^16 and above */
    else if (magnitude < 0x38800000u) h = ncpu_bits(ncpu_float(magnitude) + 0.5f) - 0x3f000000u;
    else h = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    return (ncpu_f16){(uint16_t)(sign | h)};
}

/* A double rounded to float towards odd: inexact results get an odd last bit, so that rounding the float
 * again, to a format at least two bits shorter, rounds the double once. */
static inline float ncpu_to_odd(double x)
{
    float y = (float)x;
    uint32_t u = ncpu_bits(y);
    if ((double)y == x || y != y || (u & 1u)) return y;
    if ((u & 0x7fffffffu) == 0x7f800000u) return ncpu_float(u - 1); /* overflow: the largest float is odd */
    return ncpu_float((y < 0 ? -(double)y : y) < (x < 0 ? -x : x) ? u + 1 : u - 1);
}

#endif
