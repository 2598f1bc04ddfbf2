/* SPDX-License-Identifier: Apache-2.0
 * Layer and root mean square normalization forward: what is asked for, and its parts on the team. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "apply.h"
#include "layer_norm.h"

void ncpu_norm_add(const ncpu_norm_job *j, const ncpu_tile *x, const ncpu_tile *added, const ncpu_tile *sum, size_t rows,
                   size_t len)
{
    ncpu_apply_args args = {.rows = rows, .len = len, .x = x->data, .residual = added->data, .y = sum->data,
                            .x_stride = x->row_stride, .residual_stride = added->row_stride, .y_stride = sum->row_stride};
    ncpu_set_identity(j->rows.stored, &args);
    j->rows.kernels->set[j->rows.stored].apply_runs(&args);
}

static void task(void *context, ptrdiff_t number)
{
    const ncpu_norm_job *j = context;
    const size_t t = (size_t)number;
    char *scratch = j->scratch + t * j->scratch_size;
    for (size_t u = j->units * t / j->tasks; u < j->units * (t + 1) / j->tasks; u++) {
        if (ncpu_team_stopped(j->team)) break;
        if (j->tile) ncpu_norm_tile(j, u, scratch);
        else ncpu_norm_group(j, u, scratch);
    }
    if (j->stream) j->rows.kernels->fence();
}

static ncpu_status check(const ncpu_array *x, const ncpu_array *added, const ncpu_array *sum, const ncpu_epilogue *e,
                         const ncpu_quantization *q, const ncpu_array *y)
{
    const int bytes = y->dtype == NCPU_U8 || y->dtype == NCPU_I8;
    if (bytes != (q != NULL) || (!bytes && y->dtype != x->dtype)) return NCPU_ERROR_ARGUMENT;
    if ((added != NULL) != (sum != NULL)) return NCPU_ERROR_ARGUMENT;
    if (q && (x->dtype == NCPU_F64 || (e && e->mask))) return NCPU_ERROR_UNSUPPORTED;
    if (q && q->scales && y->dtype != NCPU_I8) return NCPU_ERROR_ARGUMENT;
    if (q && !q->scales && !(q->scale > 0 && q->scale < INFINITY)) return NCPU_ERROR_ARGUMENT;
    return e ? ncpu_check_epilogue(x->dtype, e) : NCPU_OK;
}

static ncpu_status bring(ncpu_norm_job *j, const ncpu_array *x, const uint8_t *axes, const ncpu_array *added,
                         const ncpu_array *sum, const ncpu_array *y)
{
    ncpu_status status = ncpu_plan_rows(&j->rows, x, axes, ncpu_cached_bytes() / 2);
    if (!status) status = ncpu_bring_rows(&j->rows, x, x, x->dtype, &j->x);
    if (!status) status = ncpu_bring_rows(&j->rows, added, x, x->dtype, &j->added);
    if (!status) status = ncpu_bring_rows(&j->rows, sum, x, x->dtype, &j->sum);
    if (!status) status = ncpu_bring_rows(&j->rows, j->epilogue.residual, x, x->dtype, &j->residual);
    if (!status) status = ncpu_bring_rows(&j->rows, y, x, y->dtype, &j->y);
    return status;
}

/* Whether rows lie closer together than their elements: this, and so the order of sums, is a matter of shape and strides of
 * x alone.  Then `others` marks the axes that are not normalized over: the rows of the tiles' view. */
static int lies_across(const ncpu_array *x, const uint8_t *axes, uint8_t *others)
{
    ptrdiff_t within = PTRDIFF_MAX, between = PTRDIFF_MAX;
    for (int i = 0; i < x->ndim && i < NCPU_MAX_NDIM; i++) {
        ptrdiff_t *nearest = axes[i] ? &within : &between;
        if (x->shape[i] > 1 && labs(x->strides[i]) < *nearest) *nearest = labs(x->strides[i]);
        others[i] = !axes[i];
    }
    return between < within && within < PTRDIFF_MAX && between > 0;
}

ncpu_status ncpu_layer_norm(const ncpu_array *x, const ncpu_row_norm *norm, const ncpu_array *added,
                            const ncpu_array *sum, const ncpu_epilogue *epilogue,
                            const ncpu_quantization *quantization, const ncpu_array *y, double *mean, double *var)
{
    uint8_t others[NCPU_MAX_NDIM];
    ncpu_norm_job j = {.norm = norm, .quantization = quantization, .y_dtype = y->dtype, .mean = mean, .var = var};
    ncpu_status status = check(x, added, sum, epilogue, quantization, y);
    if (epilogue) j.epilogue = *epilogue;
    const int across = lies_across(x, norm->axes, others) && !norm->valid;
    if (!status) status = bring(&j, x, across ? others : norm->axes, added, sum, y);
    const ncpu_view *v = &j.rows.view;
    if (status || v->n * v->s == 0) return status;

    const size_t arrays = j.x.operand.size * (size_t)(1 + 2 * j.added.given + j.residual.given) + j.y.operand.size;
    const double bytes = (double)v->n * (double)v->s * (double)arrays;
    ncpu_team team;
    ncpu_team_begin(&team, 2 * bytes);
    j.team = &team;
    const int leaves = ncpu_leaves_caches(bytes);
    j.far = leaves && j.x.operand.direct && !sum;
    j.stream = leaves && !quantization && !j.epilogue.mask && j.y.operand.direct && y->data != x->data
               && (!sum || added->data != y->data);
    if (across) {
        ncpu_plan_columns(&j);
        j.scratch_size = ncpu_columns_scratch(&j);
    } else {
        ncpu_plan_groups(&j);
    }
    j.tasks = least(j.units, (size_t)team.threads);
    const size_t width = across ? v->n : v->s;
    const size_t weights = norm->plus_one ? (width * ncpu_real_size(x->dtype) + 63) / 64 * 64 : 0;
    char *memory = ncpu_allocate(weights + j.tasks * j.scratch_size);
    if (memory) {
        j.weight = ncpu_row_weight(norm, x->dtype, width, memory), j.scratch = memory + weights;
        ncpu_team_run(&team, (ptrdiff_t)j.tasks, task, &j);
    }
    const ncpu_status stopped = ncpu_team_end(&team);
    ncpu_release(memory);
    return memory ? stopped : NCPU_ERROR_MEMORY;
}
