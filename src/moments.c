/* SPDX-License-Identifier: Apache-2.0
 * Moments over any set of axes: one view with the kept axes as channels, or several where they do not merge. */

#include <string.h>

#include "measure.h"

void ncpu_moments_merge(size_t c, int64_t into_count, const ncpu_moments_state *into, int64_t count,
                        const ncpu_moments_state *part)
{
    ncpu_kernels_in_use()->merge(c, (double)into_count, into, (double)count, part);
}

/* The array with its kept axes merged as far as possible: `kept` of them remain.  Room for one axis more. */
typedef struct {
    ptrdiff_t shape[NCPU_MAX_NDIM + 1], strides[NCPU_MAX_NDIM + 1];
    uint8_t reduce[NCPU_MAX_NDIM + 1];
    int ndim, kept;
} merged_axes;

static void merge_axes(const ncpu_array *x, const uint8_t *reduce, merged_axes *m)
{
    m->ndim = m->kept = 0;
    for (int i = 0; i < x->ndim; i++) {
        if (x->shape[i] == 1) continue;
        const int last = m->ndim - 1;
        if (last >= 0 && !reduce[i] && !m->reduce[last] && m->strides[last] == x->strides[i] * x->shape[i]) {
            m->shape[last] *= x->shape[i];
            m->strides[last] = x->strides[i];
            continue;
        }
        m->shape[m->ndim] = x->shape[i], m->strides[m->ndim] = x->strides[i];
        m->reduce[m->ndim++] = reduce[i] != 0;
        m->kept += !reduce[i];
    }
}

static ncpu_status measure_array(const ncpu_array *x, int axis, const ncpu_moments_state *result, ncpu_team *team)
{
    ncpu_view view;
    ncpu_operand operand;
    ncpu_measurement m;
    ncpu_status status = ncpu_view_of(x, axis, &view);
    if (!status) status = ncpu_operand_of(x, x, &view, &operand);
    if (status) return status;
    const size_t threads = (size_t)team->threads;
    ncpu_plan_measurement(&m, ncpu_kernels_in_use(), &view, &operand, x->dtype, NCPU_BLOCK,
                          view.cols ? ncpu_columns_together(&view, x->dtype, threads)
                                    : ncpu_channels_together(&view, operand.size, operand.direct, threads));
    return ncpu_measure(&m, result, team);
}

ncpu_status ncpu_moments(const ncpu_array *x, const uint8_t *reduce, const ncpu_moments_state *result)
{
    if (x->ndim < 0 || x->ndim > NCPU_MAX_NDIM || x->dtype > NCPU_BF16) return NCPU_ERROR_ARGUMENT;
    size_t count = 1, kept = 1;
    for (int i = 0; i < x->ndim; i++) *(reduce[i] ? &count : &kept) *= (size_t)x->shape[i];
    if (kept == 0) return NCPU_OK;
    if (count == 0) {
        double *arrays[] = {result->mean, result->mean_tail, result->m2, result->m2_tail};
        for (int i = 0; i < 4; i++) memset(arrays[i], 0, kept * sizeof(double));
        return NCPU_OK;
    }
    merged_axes m;
    merge_axes(x, reduce, &m);
    if (m.kept == 0) { /* one channel: an axis of extent 1 in front */
        memmove(m.shape + 1, m.shape, (size_t)m.ndim * sizeof *m.shape);
        memmove(m.strides + 1, m.strides, (size_t)m.ndim * sizeof *m.strides);
        memmove(m.reduce + 1, m.reduce, (size_t)m.ndim);
        m.shape[0] = 1, m.strides[0] = 0, m.reduce[0] = 0, m.ndim++;
    }
    int axis = m.ndim - 1; /* the innermost kept axis holds the channels; the others are walked */
    while (m.reduce[axis]) axis--;
    const size_t channels = (size_t)m.shape[axis];

    ncpu_team team;
    ncpu_team_begin(&team, (double)count * (double)kept * (double)ncpu_dtype_size(x->dtype));
    ncpu_status status = NCPU_OK;
    for (size_t outer = 0; outer < kept / channels && !status; outer++) {
        ptrdiff_t shape[NCPU_MAX_NDIM + 1], strides[NCPU_MAX_NDIM + 1];
        char *data = x->data;
        size_t index = outer;
        int ndim = 0, channel_axis = 0;
        for (int i = axis; i-- > 0;)
            if (!m.reduce[i]) {
                data += (ptrdiff_t)(index % (size_t)m.shape[i]) * m.strides[i];
                index /= (size_t)m.shape[i];
            }
        for (int i = 0; i < m.ndim; i++) {
            if (!m.reduce[i] && i != axis) continue;
            if (i == axis) channel_axis = ndim;
            shape[ndim] = m.shape[i], strides[ndim++] = m.strides[i];
        }
        const ncpu_array part = {data, x->dtype, ndim, shape, strides};
        const size_t at = outer * channels;
        const ncpu_moments_state into = ncpu_state_at(result, at);
        status = measure_array(&part, channel_axis, &into, &team);
        if (ncpu_team_stopped(&team)) break;
    }
    const ncpu_status stopped = ncpu_team_end(&team);
    return status ? status : stopped;
}
