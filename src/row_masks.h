/* SPDX-License-Identifier: Apache-2.0
 *
 * The two masks of rows: which elements have a say in the statistics, a byte each, and where relu passed its argument
 * on, a bit each: (rows, width) and (rows, ceil(width / 8)). */
#ifndef NCPU_ROW_MASKS_H
#define NCPU_ROW_MASKS_H

#include "rows.h"

/* Bytes of a row's bits. */
static inline size_t ncpu_row_bits(size_t width) { return divide_up(width, 8); }

/* kept = the elements of a row that have a say, side by side; returns how many. */
size_t ncpu_keep_valid_elements(ncpu_dtype dtype, size_t width, const void *row, const uint8_t *valid, void *kept);
size_t ncpu_count_valid(size_t width, const uint8_t *valid);

/* Bits of rows (rows, len) that relu has made. */
void ncpu_bits_of_rows(const ncpu_rows *r, const ncpu_tile *y, size_t rows, size_t len, uint8_t *bits);
/* Of `columns` columns (width) of them that are the rows. */
void ncpu_bits_of_columns(const ncpu_rows *r, const ncpu_tile *y, size_t width, size_t columns, uint8_t *bits);

/* dx = dy * weight / sqrt(var + eps) + dsum of a row's elements that have no say, in double; numbers are those computed
 * in, dsum and weight may be NULL. */
typedef struct {
    const void *dy, *dsum, *weight;
    void *dx;
    double var, eps;
} ncpu_bystanders;
void ncpu_bystanders_dx(ncpu_dtype dtype, size_t width, const uint8_t *valid, const ncpu_bystanders *row);

#endif
