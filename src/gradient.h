/* SPDX-License-Identifier: Apache-2.0
 *
 * The gradient of an affine normalization, in two steps on boxes of a view: p1 = sum(g) and p2 = sum(g * (x - mean)) of
 * every channel, then dx = g * slope + (x - center) * curve + offset with, in training,
 *
 *     slope = weight * inv        curve = -slope * inv^2 * p2 / count        offset = -slope * p1 / count
 *
 * and curve = offset = 0 where the statistics were given. */
#ifndef NCPU_GRADIENT_H
#define NCPU_GRADIENT_H

#include "measure.h"
#include "memory.h"

typedef struct {
    const ncpu_kernels *kernels;
    const ncpu_view *view;
    ncpu_dtype dtype;
    ncpu_operand x, dy, y, dx, dresidual;
    int has_y, has_dx, has_dresidual, training, stream;
    int in_order; /* as in apply.h */
    const uint8_t *mask;
    ptrdiff_t mask_row, mask_channel;
    ncpu_measurement m; /* supplies the boxes of the sums */
    const double *mean, *var;
    const void *weight;
    double eps;
    double *p1, *p2;                       /* (padded c) */
    const double *shared1, *shared2;       /* (padded c) or NULL, over shared_count elements: see kernels.h */
    double shared_count;
    double *start;                         /* (padded c) the mean rounded to real: where p2's differences start */
    void *center, *slope, *curve, *offset; /* real (padded c) */
    double *dweight;
    uint8_t *outside;
    size_t width, groups, tasks;
    char *scratch;
    size_t scratch_size;
    double *parts; /* (chunks, 2, padded c) */
    ncpu_team *team;
} ncpu_gradient;

/* Scratch of a task: that of the sums in front, then the packed tiles of a box of so many elements. */
size_t ncpu_gradient_sums_scratch(const ncpu_gradient *g);
size_t ncpu_gradient_pack(const ncpu_gradient *g, size_t elements);

/* p1, p2 (channels) of a chunk of channels [first, first + channels). */
void ncpu_gradient_sum(const ncpu_gradient *g, size_t first, size_t channels, size_t chunk, double *p1, double *p2,
                       char *scratch);
/* From g's p1 and p2 to what the last step takes, and dweight, for channels [from, to). */
void ncpu_gradient_settle(const ncpu_gradient *g, size_t from, size_t to);
/* Once all are settled: for cols, copies of them side by side and NCPU_WRAP entries more. */
void ncpu_gradient_widen(const ncpu_gradient *g);
/* dx and dresidual of a box; scratch: as above, behind that of the sums. */
void ncpu_gradient_apply(const ncpu_gradient *g, const ncpu_box *box, char *scratch);

#endif
