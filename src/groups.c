/* SPDX-License-Identifier: Apache-2.0 */

#include "groups.h"

ncpu_status ncpu_group(const ncpu_array *x, int channel_axis, const ncpu_groups *groups, ncpu_view *view,
                       ncpu_grouping *g)
{
    if (x->ndim < 2 || x->ndim > NCPU_MAX_NDIM || channel_axis < -x->ndim || channel_axis >= x->ndim)
        return NCPU_ERROR_ARGUMENT;
    const int axis = channel_axis < 0 ? channel_axis + x->ndim : channel_axis;
    if (axis == 0 || x->shape[0] < 0 || groups->count < 1) return NCPU_ERROR_ARGUMENT;
    const ncpu_array sample = ncpu_first_sample(x);
    const ncpu_status status = ncpu_view_of(&sample, axis - 1, view);
    if (status) return status;
    *g = (ncpu_grouping){.samples = (size_t)x->shape[0], .groups = groups->count, .together = view->c / groups->count,
                         .positions = view->n * view->s, .width = groups->count, .units = 1};
    return view->c % groups->count ? NCPU_ERROR_ARGUMENT : NCPU_OK;
}

void ncpu_set_units(ncpu_grouping *g, size_t size, int direct, int whole)
{
    const size_t threads = (size_t)ncpu_get_num_threads(), group = g->together * g->positions * size;
    const size_t own = ncpu_cached_bytes(), shared = ncpu_cache_bytes(3) / 3 / threads; /* as ncpu_channels_together */
    const size_t fit = (!direct ? NCPU_PACKED : own > shared ? own : shared) / group;
    const size_t most = divide_up(g->groups, divide_up(threads, g->samples));
    g->width = whole ? g->groups : least(fit ? fit : 1, most);
    g->units = divide_up(g->groups, g->width);
}

ncpu_status ncpu_sample_operand(const ncpu_array *array, const ncpu_array *x, const ncpu_view *view,
                                ncpu_operand *operand)
{
    if (array->dtype != x->dtype || array->ndim != x->ndim || array->shape[0] != x->shape[0])
        return NCPU_ERROR_ARGUMENT;
    const ncpu_array sample = ncpu_first_sample(array), like = ncpu_first_sample(x);
    const ncpu_status status = ncpu_operand_of(&sample, &like, view, operand);
    if (!status && array->strides[0] % (ptrdiff_t)operand->size) operand->direct = 0;
    return status;
}

size_t ncpu_sample_mask(const ncpu_view *view)
{
    return view->cols ? view->n * divide_up(view->c, 8) : view->n * view->c * divide_up(view->s, 8);
}
