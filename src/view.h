/* SPDX-License-Identifier: Apache-2.0
 *
 * Any array with a channel axis as one of two views, and tiles of it as contiguous memory.
 *
 *     runs   x (n, c, s): the elements of a channel lie along s         channel-major
 *     cols   x (n*s, c): the channels of a position lie side by side    channels-last
 *
 * n counts the positions before the channel axis, s those after it, both in row-major order.  Which view an array
 * gets follows from its shape and from which of its strides is smallest. */
#ifndef NCPU_VIEW_H
#define NCPU_VIEW_H

#include "normcpu.h"

typedef struct {
    int cols;
    int axis;       /* of the channels, >= 0 */
    size_t n, c, s; /* cols: n counts all rows and s is 1; runs of single elements (s == 1) become n == 1 */
} ncpu_view;

/* One array in that view.  Direct: a tile is a pointer into it; otherwise a tile is a copy, at most block-sized. */
typedef struct {
    char *data;
    size_t size;         /* bytes of an element */
    ptrdiff_t c_stride;  /* in bytes, as all others here */
    int dims;            /* of n, then of s, collapsed where strides allow */
    int n_dims;
    ptrdiff_t shape[NCPU_MAX_NDIM], strides[NCPU_MAX_NDIM]; /* of all axes but the channels' */
    const ptrdiff_t *places; /* NULL, or where the only positions that are read lie: see ncpu_keep_valid */
    int direct;
    ptrdiff_t channel_step, row_step; /* direct: strides in elements, from channel to channel and row to row */
} ncpu_operand;

/* rows x len elements of `channels` channels: runs (channels, rows, len); cols (rows, len), channels == 1. */
typedef struct {
    size_t channel, channels; /* runs only */
    size_t row, rows;         /* runs: of n; cols: of all rows */
    size_t at, len;           /* runs: within s; cols: within c */
} ncpu_box;

typedef struct {
    void *data;
    ptrdiff_t channel_stride, row_stride; /* in elements */
} ncpu_tile;

size_t ncpu_dtype_size(ncpu_dtype dtype);

ncpu_status ncpu_view_of(const ncpu_array *x, int channel_axis, ncpu_view *view);
/* ERROR_ARGUMENT where a's shape is not x's. */
ncpu_status ncpu_operand_of(const ncpu_array *a, const ncpu_array *x, const ncpu_view *view, ncpu_operand *operand);

/* Of all positions n * s only those where valid is not 0, as the n rows of cols or the s elements of a single row.
 * places: room for one per position, must outlive the operand.  Returns how many there are. */
size_t ncpu_keep_valid(ncpu_operand *operand, ncpu_view *view, const uint8_t *valid, ptrdiff_t *places);

/* Rows: x as (n, 1, s), s positions of the axes where inner[axis] is nonzero, n of the others, both in row-major order;
 * boxes of it have channels == 1. */
ncpu_status ncpu_rows_of(const ncpu_array *x, const uint8_t *inner, ncpu_view *view);
ncpu_status ncpu_row_operand(const ncpu_array *a, const ncpu_array *x, const uint8_t *inner, ncpu_operand *operand);

/* buffer: room for the box's elements, used where the operand is not direct. */
ncpu_tile ncpu_tile_in(const ncpu_operand *operand, const ncpu_view *view, const ncpu_box *box, void *buffer);
/* Where to write a box's elements; ncpu_tile_done brings them home. */
ncpu_tile ncpu_tile_out(const ncpu_operand *operand, const ncpu_view *view, const ncpu_box *box, void *buffer);
void ncpu_tile_done(const ncpu_operand *operand, const ncpu_view *view, const ncpu_box *box, const ncpu_tile *tile);

/* Copies a box into a buffer as (channels, rows, len), whether the operand is direct or not. */
void ncpu_gather(const ncpu_operand *operand, const ncpu_view *view, const ncpu_box *box, void *buffer);

/* Rows of few channels leave lanes of vectors empty: this many rows side by side are one row that does not. */
size_t ncpu_rows_beside(size_t c);
/* Continues `values` (c) of `size` bytes each for `more` entries, as they began. */
void ncpu_repeat(void *values, size_t size, size_t c, size_t more);

#endif
