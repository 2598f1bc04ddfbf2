/* SPDX-License-Identifier: Apache-2.0
 * y = act((x - center) * scale + shift + residual) over boxes of a view, and over all of it on the team. */
#ifndef NCPU_APPLY_H
#define NCPU_APPLY_H

#include "memory.h"
#include "sizes.h"
#include "team.h"
#include "view.h"

/* Three reals a channel, and where they come from. */
typedef struct {
    const double *mean, *mean_tail, *var; /* padded */
    double eps;
    const void *weight, *bias; /* real (c) or NULL */
    void *center, *scale, *shift;
    uint8_t *outside; /* channels that float cannot hold: applied in double */
    int any_outside;  /* cols: known once all are filled */
} ncpu_coefficients;

typedef struct {
    const ncpu_kernels *kernels;
    const ncpu_view *view;
    ncpu_dtype dtype; /* of x */
    ncpu_operand x, residual, y;
    int has_residual;
    ncpu_epilogue epilogue;
    ptrdiff_t mask_row; /* bytes of mask from row to row */
    ncpu_coefficients coefficients;
    size_t widened; /* cols: center, scale and shift hold this many copies of themselves, and NCPU_WRAP entries more */
    int stream;
    int in_order; /* cols: more than a core's own cache holds, so read in the order of memory */
    int backwards; /* last rows first: what was measured last is still in cache */
} ncpu_application;

/* Whether such data can have it. */
ncpu_status ncpu_check_epilogue(ncpu_dtype dtype, const ncpu_epilogue *epilogue);
/* Checks the operands against x and fills everything but the coefficients' values. */
ncpu_status ncpu_plan_application(ncpu_application *a, const ncpu_kernels *kernels, const ncpu_view *view,
                                  const ncpu_array *x, const ncpu_epilogue *epilogue, const ncpu_array *y);
/* Room for center, scale, shift and outside. */
void ncpu_take_coefficients(ncpu_application *a, ncpu_arena *arena);
/* Fills them for channels [from, to) from mean, mean_tail, var, eps, weight and bias. */
void ncpu_fill_coefficients(ncpu_application *a, size_t from, size_t to);
/* Once all are filled by whatever means: makes the copies that `widened` promises. */
void ncpu_widen_coefficients(ncpu_application *a);

size_t ncpu_apply_scratch(const ncpu_application *a, size_t box_elements);
void ncpu_apply_box(const ncpu_application *a, const ncpu_box *box, void *scratch);
ncpu_status ncpu_apply(const ncpu_application *a, ncpu_team *team);

#endif
