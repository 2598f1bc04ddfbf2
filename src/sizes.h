/* SPDX-License-Identifier: Apache-2.0
 * Arithmetic of sizes that operations share. */
#ifndef NCPU_SIZES_H
#define NCPU_SIZES_H

#include "kernels.h"

/* Elements of a box: small enough to stay in L2 when packed, large enough to hide the call.  Bytes of parameters that stay
 * in the fastest cache beside the data. */
enum { NCPU_BOX = 32768, NCPU_NEAR = 16384 };

static inline size_t least(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t divide_up(size_t a, size_t b) { return (a + b - 1) / b; }
/* Parts of at most `most`, as many as keep every thread busy to the end. */
static inline size_t ncpu_even_part(size_t total, size_t most, size_t threads)
{
    const size_t parts = divide_up(divide_up(total, most), threads) * threads;
    return parts ? divide_up(total, parts) : 1;
}
/* Rows of a box of c columns: a multiple of those that are laid side by side. */
static inline size_t ncpu_box_rows(size_t c, size_t beside)
{
    const size_t rows = NCPU_BOX / c / beside * beside;
    return rows ? rows : beside;
}
static inline size_t ncpu_padded(size_t c) { return (c + NCPU_PAD - 1) / NCPU_PAD * NCPU_PAD; }
static inline size_t ncpu_real_size(ncpu_dtype dtype) { return dtype == NCPU_F64 ? 8 : 4; }
static inline double ncpu_real(const void *reals, size_t j, ncpu_dtype dtype)
{
    return dtype == NCPU_F64 ? ((const double *)reals)[j] : (double)((const float *)reals)[j];
}

#endif
