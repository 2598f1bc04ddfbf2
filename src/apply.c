/* SPDX-License-Identifier: Apache-2.0 */

#include "apply.h"

#include <string.h>

ncpu_status ncpu_check_epilogue(ncpu_dtype dtype, const ncpu_epilogue *e)
{
    const int transcendental = e->activation >= NCPU_SILU && e->activation <= NCPU_TANH;
    if ((unsigned)e->activation > NCPU_HARDSWISH) return NCPU_ERROR_ARGUMENT;
    if (dtype == NCPU_F64 && transcendental) return NCPU_ERROR_UNSUPPORTED;
    if (e->mask && e->activation != NCPU_RELU) return NCPU_ERROR_UNSUPPORTED;
    return NCPU_OK;
}

ncpu_status ncpu_plan_application(ncpu_application *a, const ncpu_kernels *kernels, const ncpu_view *view,
                                  const ncpu_array *x, const ncpu_epilogue *epilogue, const ncpu_array *y)
{
    const int integer = x->dtype == NCPU_U8 || x->dtype == NCPU_I8;
    *a = (ncpu_application){.kernels = kernels, .view = view, .dtype = x->dtype, .widened = 1};
    if (epilogue) a->epilogue = *epilogue;
    if (y->dtype != (integer ? NCPU_F32 : x->dtype) || (integer && a->epilogue.residual)) return NCPU_ERROR_ARGUMENT;
    ncpu_status status = ncpu_check_epilogue(x->dtype, &a->epilogue);
    if (!status) status = ncpu_operand_of(x, x, view, &a->x);
    if (!status) status = ncpu_operand_of(y, x, view, &a->y);
    if (!status && a->epilogue.residual) {
        a->has_residual = 1;
        if (a->epilogue.residual->dtype != x->dtype) return NCPU_ERROR_ARGUMENT;
        status = ncpu_operand_of(a->epilogue.residual, x, view, &a->residual);
    }
    const size_t row = view->cols ? view->c : view->s;
    a->mask_row = (ptrdiff_t)divide_up(row, 8);
    const double bytes = (double)view->n * (double)view->c * (double)view->s * (double)(a->x.size + a->y.size);
    a->stream = a->y.direct && y->data != x->data && !a->epilogue.mask && ncpu_leaves_caches(bytes);
    a->in_order = bytes > (double)ncpu_cache_bytes(2) && 3 * view->c * ncpu_real_size(x->dtype) <= NCPU_NEAR;
    if (view->cols) a->widened = ncpu_rows_beside(view->c);
    return status;
}

void ncpu_take_coefficients(ncpu_application *a, ncpu_arena *arena)
{
    const size_t bytes = ncpu_padded(a->view->c * a->widened + NCPU_WRAP) * ncpu_real_size(a->dtype);
    ncpu_coefficients *k = &a->coefficients;
    k->center = ncpu_take(arena, bytes), k->scale = ncpu_take(arena, bytes), k->shift = ncpu_take(arena, bytes);
    k->outside = ncpu_take(arena, ncpu_padded(a->view->c));
}

static const void *real_at(const void *reals, size_t j, ncpu_dtype dtype)
{
    return reals ? (const char *)reals + j * ncpu_real_size(dtype) : NULL;
}

void ncpu_fill_coefficients(ncpu_application *a, size_t from, size_t to)
{
    ncpu_coefficients *k = &a->coefficients;
    const size_t at = from * ncpu_real_size(a->dtype);
    a->kernels->set[a->dtype].coefficients(
        to - from, k->mean + from, k->mean_tail ? k->mean_tail + from : NULL, k->var + from, k->eps,
        real_at(k->weight, from, a->dtype), real_at(k->bias, from, a->dtype), (char *)k->center + at,
        (char *)k->scale + at, (char *)k->shift + at, k->outside + from);
}

void ncpu_widen_coefficients(ncpu_application *a)
{
    const size_t c = a->view->c, size = ncpu_real_size(a->dtype), more = c * (a->widened - 1) + NCPU_WRAP;
    void *arrays[] = {a->coefficients.center, a->coefficients.scale, a->coefficients.shift};
    a->coefficients.any_outside = memchr(a->coefficients.outside, 1, c) != NULL;
    for (size_t i = 0; i < 3 && a->view->cols; i++) ncpu_repeat(arrays[i], size, c, more);
}

/* ---- One box ---- */

typedef void (*apply_kernel)(const ncpu_apply_args *);

static apply_kernel kernel_of(const ncpu_application *a)
{
    const int cols = a->view->cols;
    if (a->dtype == NCPU_U8) return cols ? a->kernels->apply_cols_u8 : a->kernels->apply_runs_u8;
    if (a->dtype == NCPU_I8) return cols ? a->kernels->apply_cols_i8 : a->kernels->apply_runs_i8;
    return cols ? a->kernels->set[a->dtype].apply_cols : a->kernels->set[a->dtype].apply_runs;
}

static void shift_args(const ncpu_application *a, ncpu_apply_args *args, ptrdiff_t x, ptrdiff_t residual, ptrdiff_t y)
{
    args->x = (const char *)args->x + x * (ptrdiff_t)a->x.size;
    if (args->residual) args->residual = (const char *)args->residual + residual * (ptrdiff_t)a->residual.size;
    args->y = (char *)args->y + y * (ptrdiff_t)a->y.size;
}

/* The mask of columns computed apart, whose bits do not start at a byte: from the output itself. */
static void mask_column(const ncpu_application *a, const ncpu_apply_args *args, size_t j)
{
    for (size_t row = 0; row < args->rows; row++) {
        const char *y = (const char *)args->y + ((ptrdiff_t)row * args->y_stride) * (ptrdiff_t)a->y.size;
        int passed = 0; /* relu wrote +0 or -0 where it did not pass: all bits but the sign */
        for (size_t byte = 0; byte < a->y.size; byte++) passed |= y[byte] & (byte + 1 == a->y.size ? 0x7f : 0xff);
        uint8_t *mask = args->mask + (ptrdiff_t)row * args->mask_stride + j / 8;
        *mask = (uint8_t)((*mask & ~(1u << j % 8)) | (unsigned)(passed != 0) << j % 8);
    }
}

/* Channel `channel` of the box in double: args are those of the whole box, `j` its place within. */
static void apply_wide(const ncpu_application *a, ncpu_apply_args args, size_t channel, size_t j, uint8_t *mask)
{
    const ncpu_kernel_set *wide = &a->kernels->wide[a->dtype];
    const ncpu_coefficients *k = &a->coefficients;
    double center[NCPU_PAD] = {0}, scale[NCPU_PAD] = {0}, shift[NCPU_PAD] = {0};
    uint8_t outside[NCPU_PAD];
    wide->coefficients(1, k->mean + channel, k->mean_tail ? k->mean_tail + channel : NULL, k->var + channel, k->eps,
                       real_at(k->weight, channel, a->dtype), real_at(k->bias, channel, a->dtype), center, scale,
                       shift, outside);
    args.center = center, args.scale = scale, args.shift = shift, args.step = 0, args.stream = 0;
    if (!a->view->cols) {
        wide->apply_runs(&args);
        return;
    }
    shift_args(a, &args, (ptrdiff_t)j, (ptrdiff_t)j, (ptrdiff_t)j);
    args.len = 1, args.mask = NULL;
    wide->apply_cols(&args);
    if (mask) args.mask = mask, mask_column(a, &args, channel);
}

static void apply_cols_box(const ncpu_application *a, const ncpu_box *box, ncpu_apply_args args)
{
    const ptrdiff_t c = (ptrdiff_t)a->view->c;
    const size_t f = a->widened;
    uint8_t *mask = args.mask;
    const int joined = !mask && !a->coefficients.any_outside && (ptrdiff_t)box->len == c && args.x_stride == c
                       && args.y_stride == c && (!args.residual || args.residual_stride == c);
    if (joined && (a->stream || a->in_order) && a->epilogue.activation <= NCPU_RELU) {
        args.flat = args.rows * box->len, args.len = f * box->len;
        kernel_of(a)(&args);
        return;
    }
    if (joined && f > 1) {
        ncpu_apply_args beside = args;
        beside.rows = args.rows / f, beside.len = f * box->len;
        beside.x_stride = beside.y_stride = beside.residual_stride = (ptrdiff_t)f * c;
        kernel_of(a)(&beside);
        const ptrdiff_t done = (ptrdiff_t)(beside.rows * f) * c;
        args.rows %= f;
        shift_args(a, &args, done, done, done);
        if (args.rows) kernel_of(a)(&args);
        return;
    }
    if (!a->coefficients.any_outside) {
        kernel_of(a)(&args);
        return;
    }
    /* In place, a column may be applied once only: stretches of ordinary columns, and the others one by one. */
    for (size_t j = 0, end; j < box->len; j = end) {
        const uint8_t *outside = a->coefficients.outside + box->at;
        end = j + 1;
        if (outside[j]) {
            apply_wide(a, args, box->at + j, j, mask);
            continue;
        }
        while (end < box->len && !outside[end]) end++;
        ncpu_apply_args stretch = args;
        shift_args(a, &stretch, (ptrdiff_t)j, (ptrdiff_t)j, (ptrdiff_t)j);
        stretch.len = end - j, stretch.mask = NULL;
        stretch.center = real_at(args.center, j, a->dtype);
        stretch.scale = real_at(args.scale, j, a->dtype);
        stretch.shift = real_at(args.shift, j, a->dtype);
        kernel_of(a)(&stretch);
        for (size_t i = j; mask && i < end; i++) {
            ncpu_apply_args column = args;
            shift_args(a, &column, (ptrdiff_t)i, (ptrdiff_t)i, (ptrdiff_t)i);
            mask_column(a, &column, box->at + i);
        }
    }
}

static void apply_runs_box(const ncpu_application *a, const ncpu_box *box, ncpu_apply_args args, const ncpu_tile *x,
                           const ncpu_tile *residual, const ncpu_tile *y)
{
    const int outside = memchr(a->coefficients.outside + box->channel, 1, box->channels) != NULL;
    const int by_channel = box->channels == 1 || outside;
    const size_t steps = by_channel ? box->channels : box->rows;
    const uint8_t *mask = args.mask;
    args.rows = by_channel ? box->rows : box->channels;
    args.step = !by_channel;
    args.x_stride = by_channel ? x->row_stride : x->channel_stride;
    args.residual_stride = by_channel ? residual->row_stride : residual->channel_stride;
    args.y_stride = by_channel ? y->row_stride : y->channel_stride;
    args.mask_stride = by_channel ? a->mask_row * (ptrdiff_t)a->view->c : a->mask_row;
    for (size_t i = 0; i < steps; i++) {
        ncpu_apply_args step = args;
        const ptrdiff_t at = (ptrdiff_t)(a->backwards ? steps - 1 - i : i);
        shift_args(a, &step, at * (by_channel ? x->channel_stride : x->row_stride),
                   at * (by_channel ? residual->channel_stride : residual->row_stride),
                   at * (by_channel ? y->channel_stride : y->row_stride));
        if (mask) step.mask = args.mask + at * (by_channel ? a->mask_row : a->mask_row * (ptrdiff_t)a->view->c);
        if (by_channel && a->coefficients.outside[box->channel + (size_t)at]) {
            apply_wide(a, step, box->channel + (size_t)at, 0, NULL);
            continue;
        }
        if (by_channel) {
            step.center = real_at(args.center, (size_t)at, a->dtype);
            step.scale = real_at(args.scale, (size_t)at, a->dtype);
            step.shift = real_at(args.shift, (size_t)at, a->dtype);
        }
        kernel_of(a)(&step);
    }
}

static size_t pack_bytes(const ncpu_operand *o, size_t elements) { return o->direct ? 0 : elements * o->size; }

size_t ncpu_apply_scratch(const ncpu_application *a, size_t elements)
{
    ncpu_arena arena = {NULL, 0};
    ncpu_take(&arena, pack_bytes(&a->x, elements));
    ncpu_take(&arena, a->has_residual ? pack_bytes(&a->residual, elements) : 0);
    ncpu_take(&arena, pack_bytes(&a->y, elements));
    return arena.used;
}

void ncpu_apply_box(const ncpu_application *a, const ncpu_box *box, void *scratch)
{
    const size_t elements = box->channels * box->rows * box->len;
    const size_t first = a->view->cols ? box->at : box->channel;
    ncpu_arena arena = {scratch, 0};
    void *x_pack = ncpu_take(&arena, pack_bytes(&a->x, elements));
    void *residual_pack = ncpu_take(&arena, a->has_residual ? pack_bytes(&a->residual, elements) : 0);
    void *y_pack = ncpu_take(&arena, pack_bytes(&a->y, elements));
    const ncpu_tile x = ncpu_tile_in(&a->x, a->view, box, x_pack), y = ncpu_tile_out(&a->y, a->view, box, y_pack);
    ncpu_tile residual = {0};
    if (a->has_residual) residual = ncpu_tile_in(&a->residual, a->view, box, residual_pack);
    ncpu_apply_args args = {
        .rows = box->rows, .len = box->len, .x = x.data, .residual = residual.data, .y = y.data,
        .x_stride = x.row_stride, .residual_stride = residual.row_stride, .y_stride = y.row_stride,
        .center = real_at(a->coefficients.center, first, a->dtype),
        .scale = real_at(a->coefficients.scale, first, a->dtype),
        .shift = real_at(a->coefficients.shift, first, a->dtype),
        .stream = a->stream, .activation = a->epilogue.activation,
        .negative_slope = a->epilogue.negative_slope};
    if (a->epilogue.mask && a->view->cols) {
        args.mask_stride = a->mask_row;
        args.mask = a->epilogue.mask + box->row * (size_t)a->mask_row;
        if (!a->coefficients.any_outside) args.mask += box->at / 8; /* else by channel number */
    } else if (a->epilogue.mask) {
        args.mask = a->epilogue.mask + (box->row * a->view->c + box->channel) * (size_t)a->mask_row + box->at / 8;
    }
    if (a->view->cols) apply_cols_box(a, box, args);
    else apply_runs_box(a, box, args, &x, &residual, &y);
    ncpu_tile_done(&a->y, a->view, box, &y);
}

/* ---- The whole view ---- */

typedef struct {
    const ncpu_application *a;
    ncpu_team *team;
    size_t channels, len, rows; /* of a box */
    size_t boxes, tasks;
    char *scratch;
    size_t scratch_size;
} apply_job;

static ncpu_box box_of(const apply_job *job, size_t index)
{
    const ncpu_view *v = job->a->view;
    if (v->cols)
        return (ncpu_box){.channels = 1, .row = index * job->rows, .rows = least(job->rows, v->n - index * job->rows),
                          .len = v->c};
    const size_t pieces = divide_up(v->s, job->len), groups = divide_up(v->c, job->channels);
    const size_t at = index % pieces * job->len, channel = index / pieces % groups * job->channels;
    return (ncpu_box){.row = index / pieces / groups, .rows = 1, .channel = channel,
                      .channels = least(job->channels, v->c - channel), .at = at, .len = least(job->len, v->s - at)};
}

static void apply_task(void *context, ptrdiff_t task)
{
    const apply_job *job = context;
    const size_t t = (size_t)task, from = job->boxes * t / job->tasks, to = job->boxes * (t + 1) / job->tasks;
    for (size_t i = from; i < to; i++) {
        if ((i - from) % 16 == 0 && ncpu_team_stopped(job->team)) return;
        const ncpu_box box = box_of(job, job->a->backwards ? job->boxes - 1 - i : i);
        ncpu_apply_box(job->a, &box, job->scratch + t * job->scratch_size);
    }
}

ncpu_status ncpu_apply(const ncpu_application *a, ncpu_team *team)
{
    const ncpu_view *v = a->view;
    if (v->n * v->c * v->s == 0) return NCPU_OK;
    const size_t threads = (size_t)team->threads;
    apply_job job = {.a = a, .team = team};
    size_t elements;
    if (v->cols) {
        const size_t most = ncpu_box_rows(v->c, a->widened) / a->widened;
        job.rows = ncpu_even_part(divide_up(v->n, a->widened), most, threads) * a->widened;
        job.boxes = divide_up(v->n, job.rows);
        elements = job.rows * v->c;
    } else {
        job.len = least(v->s, NCPU_BOX);
        job.channels = ncpu_even_part(v->c, NCPU_BOX / job.len, v->n % threads ? threads : 1);
        job.boxes = v->n * divide_up(v->c, job.channels) * divide_up(v->s, job.len);
        elements = job.len * job.channels;
    }
    job.tasks = least(job.boxes, threads);
    job.scratch_size = ncpu_apply_scratch(a, elements);
    if (job.scratch_size) {
        job.scratch = ncpu_allocate(job.tasks * job.scratch_size);
        if (!job.scratch) return NCPU_ERROR_MEMORY;
    }
    ncpu_team_run(team, (ptrdiff_t)job.tasks, apply_task, &job);
    ncpu_release(job.scratch);
    return NCPU_OK;
}
