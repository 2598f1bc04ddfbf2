/* SPDX-License-Identifier: Apache-2.0
 *
 * Normalization of one sample after the other: x without its first axis is the array that gets a view, and the same plan
 * serves every sample, moved to where it lies.
 *
 *     unit   some groups of a sample that stay in cache: measured, then applied from there; channels-last all of them */
#ifndef NCPU_GROUPS_H
#define NCPU_GROUPS_H

#include "memory.h"
#include "sizes.h"
#include "team.h"
#include "view.h"

enum { NCPU_PACKED = 32768 }; /* bytes taken at once where tiles are copies: about the fastest cache */

/* The shape of the work: `groups` of `together` channels each, `units` in a sample, of up to `width` groups. */
typedef struct {
    size_t samples, groups, together, positions, width, units;
} ncpu_grouping;

/* Where the first sample of an array lies and how far on the next: whole elements apart, or not direct. */
static inline ncpu_array ncpu_first_sample(const ncpu_array *x)
{
    return (ncpu_array){x->data, x->dtype, x->ndim - 1, x->shape + 1, x->strides + 1};
}

/* The view of a sample and the grouping of its channels; width: see ncpu_set_units. */
ncpu_status ncpu_group(const ncpu_array *x, int channel_axis, const ncpu_groups *groups, ncpu_view *view,
                       ncpu_grouping *grouping);
/* Units whose elements, of `size` bytes in all that is read, are still in cache when they are read again; a whole sample
 * where `whole`. */
void ncpu_set_units(ncpu_grouping *g, size_t size, int direct, int whole);
/* operand: of the first sample of `array`, in the view that x's has. */
ncpu_status ncpu_sample_operand(const ncpu_array *array, const ncpu_array *x, const ncpu_view *view,
                                ncpu_operand *operand);
/* Bytes of the mask of one sample. */
size_t ncpu_sample_mask(const ncpu_view *view);

#endif
