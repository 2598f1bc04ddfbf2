/* SPDX-License-Identifier: Apache-2.0
 *
 * What normalizing rows forwards and backwards share: any axes as (rows, width), in groups of rows that stay in a core's
 * own cache between being measured and being applied.  A direct array's rows are read where they lie; others are packed, a
 * group at a time. */
#ifndef NCPU_ROWS_H
#define NCPU_ROWS_H

#include "measure.h"
#include "memory.h"
#include "sizes.h"
#include "view.h"

typedef struct {
    const ncpu_kernels *kernels;
    const uint8_t *axes;
    ncpu_view view; /* n rows, s their width */
    ncpu_dtype stored, dtype; /* of the arrays, and what is computed with: f32 or f64 */
    ncpu_dtype taken;         /* what the kernels of rows take: either */
    size_t group; /* rows taken together */
} ncpu_rows;

/* An array of x's shape, where there is one. */
typedef struct {
    int given;
    ncpu_operand operand;
} ncpu_rows_array;

/* ARGUMENT where x is of no such shape or dtype. */
ncpu_status ncpu_plan_rows(ncpu_rows *rows, const ncpu_array *x, const uint8_t *axes, size_t group_bytes);
/* array: NULL, or of x's shape and of this dtype. */
ncpu_status ncpu_bring_rows(const ncpu_rows *rows, const ncpu_array *array, const ncpu_array *x, ncpu_dtype dtype,
                            ncpu_rows_array *brought);

static inline ncpu_box ncpu_rows_box(const ncpu_rows *r, size_t row, size_t rows)
{
    return (ncpu_box){.channels = 1, .row = row, .rows = rows, .len = r->view.s};
}
/* Room for a group's copy where the array needs one. */
static inline void *ncpu_take_rows(const ncpu_rows *r, const ncpu_rows_array *a, ncpu_arena *arena)
{
    return a->given && !a->operand.direct ? ncpu_take(arena, r->group * r->view.s * a->operand.size) : NULL;
}

/* What is computed with: the tile (rows, len) itself, or of 16-bit data its floats in `room`.  And back: `to` of 16-bit data
 * from those floats. */
static inline int ncpu_is_half(const ncpu_rows *r) { return r->stored != r->dtype; }
ncpu_tile ncpu_as_floats(const ncpu_rows *r, const ncpu_tile *tile, size_t rows, size_t len, void *room);
void ncpu_from_floats(const ncpu_rows *r, const ncpu_tile *floats, const ncpu_tile *to, size_t rows, size_t len);
/* One row of what kernels take, as the numbers that are computed with. */
void *ncpu_row_floats(const ncpu_rows *r, const void *row, size_t len, void *room);
/* Bytes of such a room; 0 where there need be none. */
static inline size_t ncpu_float_room(const ncpu_rows *r, size_t elements)
{
    return ncpu_is_half(r) ? elements * sizeof(float) : 0;
}

/* norm->weight, or where 1 is to be added to it, the sum in `room` (width). */
const void *ncpu_row_weight(const ncpu_row_norm *norm, ncpu_dtype dtype, size_t width, void *room);

/* The shift makes up for what rounding left of the mean.  Below a quarter of an ulp of the row's root mean square, which is
 * sqrt(var / (var + eps)), it is left out, so that most rows need not add it: whether a row does follows from the row alone.
 * Returns whether any does. */
int ncpu_drop_shifts(void *shifts, const double *var, double eps, size_t rows, ncpu_dtype dtype);

/* x * 1 + 0, exactly: what is left is a sum with a residual, or relu's bits. */
void ncpu_set_identity(ncpu_dtype dtype, ncpu_apply_args *args);

static inline const void *ncpu_moved(const void *p, ptrdiff_t elements, size_t size)
{
    return p ? (const char *)p + elements * (ptrdiff_t)size : NULL;
}

#endif
