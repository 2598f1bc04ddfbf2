/* SPDX-License-Identifier: Apache-2.0
 * Layer and root mean square normalization forward: groups of rows, measured and then applied from cache. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "apply.h"
#include "layer_norm.h"

/* What a task works in: for each row of a group. */
typedef struct {
    ncpu_moments_state total;
    double *mean, *var, *start, *s1, *s2;
    void *center, *scale, *shift; /* real */
    uint8_t *outside, *rejected;
    float *values; /* (width): what is to be quantized */
    void *measure; /* of one row that plain sums do not fit */
    void *x, *added, *sum, *residual, *y; /* copies, where arrays are not direct */
    void *floats, *residual_floats;       /* of 16-bit data */
} workspace;

static size_t lay_out(const ncpu_norm_job *j, char *memory, workspace *w)
{
    const ncpu_rows *r = &j->rows;
    const size_t padded = ncpu_padded(r->group), bytes = padded * sizeof(double);
    ncpu_arena a = {memory, 0};
    double *moments = ncpu_take(&a, 9 * bytes);
    if (memory) {
        w->total = ncpu_state_in(moments, padded), w->mean = moments + 4 * padded, w->var = moments + 5 * padded;
        w->start = moments + 6 * padded, w->s1 = moments + 7 * padded, w->s2 = moments + 8 * padded;
        memset(w->start, 0, bytes);
    }
    w->center = ncpu_take(&a, bytes), w->scale = ncpu_take(&a, bytes), w->shift = ncpu_take(&a, bytes);
    w->outside = ncpu_take(&a, padded), w->rejected = ncpu_take(&a, padded);
    w->measure = ncpu_take(&a, j->measure_size);
    w->values = ncpu_take(&a, j->quantization ? r->view.s * sizeof(float) : 0);
    w->x = ncpu_take_rows(r, &j->x, &a), w->added = ncpu_take_rows(r, &j->added, &a);
    w->sum = ncpu_take_rows(r, &j->sum, &a), w->residual = ncpu_take_rows(r, &j->residual, &a);
    w->y = ncpu_take_rows(r, &j->y, &a);
    w->floats = ncpu_take(&a, ncpu_float_room(r, r->group * r->view.s));
    w->residual_floats = ncpu_take(&a, j->residual.given ? ncpu_float_room(r, r->group * r->view.s) : 0);
    return a.used;
}

/* ---- One group ---- */

void ncpu_norm_add(const ncpu_norm_job *j, const ncpu_tile *x, const ncpu_tile *added, const ncpu_tile *sum, size_t rows,
                   size_t len)
{
    static const float single[3] = {0, 1, 0};
    static const double twice[3] = {0, 1, 0};
    const int wide = j->rows.stored == NCPU_F64;
    j->rows.kernels->set[j->rows.stored].apply_runs(&(ncpu_apply_args){
        .rows = rows, .len = len, .x = x->data, .residual = added->data, .y = sum->data, .x_stride = x->row_stride,
        .residual_stride = added->row_stride, .y_stride = sum->row_stride,
        .center = wide ? (const void *)twice : single, .scale = wide ? (const void *)(twice + 1) : single + 1,
        .shift = wide ? (const void *)(twice + 2) : single + 2});
}

/* One row as a channel. */
static void plan_row(const ncpu_norm_job *j, void *data, ncpu_view *view, ncpu_operand *operand, ncpu_measurement *m)
{
    *view = (ncpu_view){.n = 1, .c = 1, .s = j->rows.view.s};
    *operand = (ncpu_operand){.data = data, .size = ncpu_real_size(j->rows.dtype), .direct = 1};
    ncpu_plan_measurement(m, j->rows.kernels, view, operand, j->rows.dtype, NCPU_BLOCK, 1);
}

/* w->total of a row, in blocks, each from a start value of its own. */
static void measure_row(const ncpu_norm_job *j, void *data, size_t row, workspace *w)
{
    ncpu_view view;
    ncpu_operand operand;
    ncpu_measurement m;
    double memory[4];
    const ncpu_moments_state total = ncpu_state_at(&w->total, row), part = ncpu_state_in(memory, 1);
    double count = 0;
    plan_row(j, data, &view, &operand, &m);
    for (size_t q = 0; q < m.chunks; q++) {
        const double more = (double)ncpu_chunk_count(&m, q);
        ncpu_measure_chunk(&m, 0, 1, q, q ? &part : &total, w->measure, j->team);
        if (q) m.kernels->merge(1, count, &total, more, &part);
        count += more;
    }
}

/* w->total, mean and var of the rows: by plain sums where the mean is small beside sigma and float can hold the squares. */
static void measure_rows(const ncpu_norm_job *j, const ncpu_norm_args *a, size_t rows, workspace *w)
{
    const double count = (double)a->len, least = ncpu_tiny(j->rows.dtype) * count;
    const int rms = j->norm->rms;
    j->rows.kernels->rows[j->rows.dtype].norm_sums(a, w->s1, w->s2);
    if (rms)
        for (size_t i = 0; i < rows; i++) {
            w->mean[i] = 0, w->var[i] = w->s2[i] / count;
            w->rejected[i] = !(w->s2[i] >= least && w->s2[i] < INFINITY);
        }
    else
        j->rows.kernels->finish(rows, count, ncpu_tiny(j->rows.dtype), ncpu_near(j->rows.dtype), w->start, w->s1, w->s2,
                                &w->total, w->rejected);
    for (size_t i = 0; i < rows; i++) {
        if (w->rejected[i]) {
            measure_row(j, (void *)ncpu_moved(a->x, (ptrdiff_t)i * a->x_stride, ncpu_real_size(j->rows.dtype)), i, w);
            const double mean = w->total.mean[i], square = w->total.m2[i] / count + mean * mean;
            if (rms) w->var[i] = square;
        }
        if (!rms) w->mean[i] = w->total.mean[i], w->var[i] = w->total.m2[i] / count;
    }
}

/* The arguments from the row'th row on, in this set's numbers. */
static ncpu_norm_args from_row(const ncpu_norm_job *j, ncpu_norm_args a, size_t row, size_t rows)
{
    const ptrdiff_t i = (ptrdiff_t)row;
    const size_t size = ncpu_real_size(j->rows.dtype), real = size;
    a.rows = rows;
    a.x = ncpu_moved(a.x, i * a.x_stride, size), a.residual = ncpu_moved(a.residual, i * a.residual_stride, size);
    if (!j->quantization) a.y = (void *)ncpu_moved(a.y, i * a.y_stride, size);
    a.center = ncpu_moved(a.center, i, real), a.scale = ncpu_moved(a.scale, i, real), a.shift = ncpu_moved(a.shift, i, real);
    return a;
}

/* Rows [row, row + rows) of the group, which are all in float's range, or one that is not. */
static void apply(const ncpu_norm_job *j, const ncpu_norm_args *all, size_t row, size_t rows, const workspace *w)
{
    ncpu_norm_args a = from_row(j, *all, row, rows);
    const ncpu_kernels *kernels = j->rows.kernels;
    if (!w->outside[row]) {
        kernels->rows[j->rows.dtype].norm_rows(&a);
        return;
    }
    double center[NCPU_PAD] = {0}, scale[NCPU_PAD] = {0}, shift[NCPU_PAD] = {0};
    uint8_t outside[NCPU_PAD];
    const double *tail = j->norm->rms ? NULL : w->total.mean_tail + row;
    kernels->wide[j->rows.dtype].coefficients(1, w->mean + row, tail, w->var + row, j->norm->eps, NULL, NULL, center, scale, shift, outside);
    a.center = center, a.scale = scale, a.shift = shift, a.centered = a.shifted = 1, a.stream = 0;
    kernels->wide_rows[j->rows.dtype].norm_rows(&a);
}

/* A row of bytes from w->values. */
static void quantize(const ncpu_norm_job *j, size_t row, uint8_t *y, const workspace *w)
{
    const ncpu_quantization *q = j->quantization;
    const size_t width = j->rows.view.s;
    const int low = j->y_dtype == NCPU_I8 ? -128 : 0;
    if (!q->scales) {
        j->rows.kernels->quantize(width, w->values, q->scale, q->zero_point, low, low + 255, y);
        return;
    }
    const float peak = j->rows.kernels->peak(width, w->values);
    q->scales[row] = peak / 127 > 0 ? peak / 127 : 1; /* not where the quotient underflows */
    j->rows.kernels->quantize(width, w->values, q->scales[row], 0, -127, 127, y);
}

static void group(const ncpu_norm_job *j, size_t row, size_t rows, char *scratch)
{
    const ncpu_rows *r = &j->rows;
    workspace w;
    lay_out(j, scratch, &w);
    const ncpu_box box = ncpu_rows_box(r, row, rows);
    ncpu_tile s = ncpu_tile_in(&j->x.operand, &r->view, &box, w.x), sum = {0}, residual = {0};
    if (j->added.given) {
        const ncpu_tile added = ncpu_tile_in(&j->added.operand, &r->view, &box, w.added);
        sum = ncpu_tile_out(&j->sum.operand, &r->view, &box, w.sum);
        ncpu_norm_add(j, &s, &added, &sum, rows, r->view.s);
        s = sum;
    }
    s = ncpu_as_floats(r, &s, rows, r->view.s, w.floats);
    ncpu_norm_args args = {.rows = rows, .len = r->view.s, .x = s.data, .x_stride = s.row_stride};
    measure_rows(j, &args, rows, &w);
    r->kernels->set[r->dtype].coefficients(rows, w.mean, j->norm->rms ? NULL : w.total.mean_tail, w.var, j->norm->eps, NULL, NULL, w.center,
                      w.scale, w.shift, w.outside);
    if (j->residual.given) {
        residual = ncpu_tile_in(&j->residual.operand, &r->view, &box, w.residual);
        residual = ncpu_as_floats(r, &residual, rows, r->view.s, w.residual_floats);
    }
    const ncpu_tile y = ncpu_tile_out(&j->y.operand, &r->view, &box, w.y);
    const ncpu_tile result = ncpu_is_half(r) ? s : y; /* of floats, in place */
    args = (ncpu_norm_args){
        .len = r->view.s, .x = s.data, .residual = residual.data, .y = j->quantization ? (void *)w.values : result.data,
        .x_stride = s.row_stride, .residual_stride = residual.row_stride, .y_stride = result.row_stride,
        .center = w.center, .scale = w.scale, .shift = w.shift, .weight = j->weight, .bias = j->norm->bias,
        .centered = !j->norm->rms, .shifted = !j->norm->rms && ncpu_drop_shifts(w.shift, rows, r->dtype),
        .stream = j->stream,
        .activation = j->epilogue.activation, .negative_slope = j->epilogue.negative_slope};
    for (size_t i = 0, end; i < rows; i = end) {
        for (end = i + 1; !j->quantization && !w.outside[i] && end < rows && !w.outside[end];) end++;
        apply(j, &args, i, end - i, &w);
        if (j->quantization) quantize(j, row + i, (uint8_t *)y.data + (ptrdiff_t)i * y.row_stride, &w);
    }
    if (!j->quantization) ncpu_from_floats(r, &result, &y, rows, r->view.s);
    ncpu_tile_done(&j->y.operand, &r->view, &box, &y);
    if (j->added.given) ncpu_tile_done(&j->sum.operand, &r->view, &box, &sum);
    if (j->mean) memcpy(j->mean + row, w.mean, rows * sizeof(double));
    if (j->var) memcpy(j->var + row, w.var, rows * sizeof(double));
}

/* ---- All of them ---- */

static void task(void *context, ptrdiff_t number)
{
    const ncpu_norm_job *j = context;
    const size_t t = (size_t)number, n = j->rows.view.n;
    char *scratch = j->scratch + t * j->scratch_size;
    for (size_t u = j->units * t / j->tasks; u < j->units * (t + 1) / j->tasks; u++) {
        if (ncpu_team_stopped(j->team)) return;
        if (j->tile) ncpu_norm_tile(j, u, scratch);
        else group(j, u * j->rows.group, least(j->rows.group, n - u * j->rows.group), scratch);
    }
}

static ncpu_status check(const ncpu_array *x, const ncpu_array *added, const ncpu_array *sum, const ncpu_epilogue *e,
                         const ncpu_quantization *q, const ncpu_array *y)
{
    const int bytes = y->dtype == NCPU_U8 || y->dtype == NCPU_I8;
    if (bytes != (q != NULL) || (!bytes && y->dtype != x->dtype)) return NCPU_ERROR_ARGUMENT;
    if ((added != NULL) != (sum != NULL)) return NCPU_ERROR_ARGUMENT;
    if (q && x->dtype == NCPU_F64) return NCPU_ERROR_UNSUPPORTED;
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

/* Units, tasks and scratch of rows. */
static void plan_groups(ncpu_norm_job *j)
{
    ncpu_view view;
    ncpu_operand operand;
    ncpu_measurement m;
    workspace unused;
    plan_row(j, NULL, &view, &operand, &m);
    j->measure_size = ncpu_measure_scratch(&m);
    j->rows.group = least(j->rows.group, divide_up(j->rows.view.n, (size_t)j->team->threads));
    j->units = divide_up(j->rows.view.n, j->rows.group);
    j->scratch_size = lay_out(j, NULL, &unused);
}

ncpu_status ncpu_layer_norm(const ncpu_array *x, const ncpu_row_norm *norm, const ncpu_array *added,
                            const ncpu_array *sum, const ncpu_epilogue *epilogue,
                            const ncpu_quantization *quantization, const ncpu_array *y, double *mean, double *var)
{
    uint8_t others[NCPU_MAX_NDIM];
    ncpu_norm_job j = {.norm = norm, .quantization = quantization, .y_dtype = y->dtype, .mean = mean, .var = var};
    ncpu_status status = check(x, added, sum, epilogue, quantization, y);
    if (epilogue) j.epilogue = *epilogue;
    if (!status && j.epilogue.mask) status = NCPU_ERROR_UNSUPPORTED;
    const int across = lies_across(x, norm->axes, others);
    if (!status) status = bring(&j, x, across ? others : norm->axes, added, sum, y);
    const ncpu_view *v = &j.rows.view;
    if (status || v->n * v->s == 0) return status;

    const size_t arrays = j.x.operand.size * (size_t)(1 + 2 * j.added.given + j.residual.given) + j.y.operand.size;
    const double bytes = (double)v->n * (double)v->s * (double)arrays;
    ncpu_team team;
    ncpu_team_begin(&team, 2 * bytes);
    j.team = &team;
    j.stream = !quantization && !ncpu_is_half(&j.rows) && j.y.operand.direct && y->data != x->data && (!sum || added->data != y->data)
               && ncpu_leaves_caches(bytes);
    if (across) {
        ncpu_plan_columns(&j);
        j.scratch_size = ncpu_columns_scratch(&j);
    } else {
        plan_groups(&j);
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
