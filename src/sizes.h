/* SPDX-License-Identifier: Apache-2.0
 * Arithmetic of sizes that operations share. */
#ifndef NCPU_SIZES_H
#define NCPU_SIZES_H

#include "kernels.h"

static inline size_t least(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t divide_up(size_t a, size_t b) { return (a + b - 1) / b; }
static inline size_t ncpu_padded(size_t c) { return (c + NCPU_PAD - 1) / NCPU_PAD * NCPU_PAD; }
static inline size_t ncpu_real_size(ncpu_dtype dtype) { return dtype == NCPU_F64 ? 8 : 4; }
static inline double ncpu_real(const void *reals, size_t j, ncpu_dtype dtype)
{
    return dtype == NCPU_F64 ? ((const double *)reals)[j] : (double)((const float *)reals)[j];
}

#endif
