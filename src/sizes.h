/* SPDX-License-Identifier: Apache-2.0
 * Arithmetic of sizes that operations share. */
#ifndef NCPU_SIZES_H
#define NCPU_SIZES_H

#include "kernels.h"

static inline size_t least(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t divide_up(size_t a, size_t b) { return (a + b - 1) / b; }
/* Parts of at most `most`, as many as keep every thread busy to the end. */
static inline size_t ncpu_even_part(size_t total, size_t most, size_t threads)
{
    const size_t parts = divide_up(divide_up(total, most), threads) * threads;
    return parts ? divide_up(total, parts) : 1;
}
static inline size_t ncpu_padded(size_t c) { return (c + NCPU_PAD - 1) / NCPU_PAD * NCPU_PAD; }
static inline size_t ncpu_real_size(ncpu_dtype dtype) { return dtype == NCPU_F64 ? 8 : 4; }
static inline double ncpu_real(const void *reals, size_t j, ncpu_dtype dtype)
{
    return dtype == NCPU_F64 ? ((const double *)reals)[j] : (double)((const float *)reals)[j];
}

#endif
