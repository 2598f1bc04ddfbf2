/* SPDX-License-Identifier: Apache-2.0
 * Batch normalization forward, and scale_shift, which is its last step alone. */

#include <string.h>

#include "apply.h"
#include "measure.h"

static double traffic(const ncpu_view *v, const ncpu_application *a)
{
    return (double)v->n * (double)v->c * (double)v->s * (double)(a->x.size + a->y.size * (a->has_residual ? 2 : 1));
}

static int is_float(ncpu_dtype dtype) { return dtype >= NCPU_F32 && dtype <= NCPU_BF16; }

ncpu_status ncpu_batch_norm(const ncpu_array *x, int channel_axis, const void *mean, const void *var,
                            const void *weight, const void *bias, double eps, const ncpu_epilogue *epilogue,
                            const ncpu_array *y)
{
    ncpu_view view;
    ncpu_application a;
    if (!is_float(x->dtype)) return NCPU_ERROR_ARGUMENT;
    ncpu_status status = ncpu_view_of(x, channel_axis, &view);
    if (!status) status = ncpu_plan_application(&a, ncpu_kernels_in_use(), &view, x, epilogue, y);
    if (status) return status;

    const size_t padded = ncpu_padded(view.c);
    ncpu_arena arena = {NULL, 0};
    ncpu_take_coefficients(&a, &arena);
    arena.base = ncpu_allocate(arena.used + 2 * padded * sizeof(double) + 128);
    if (!arena.base) return NCPU_ERROR_MEMORY;
    arena.used = 0;
    ncpu_take_coefficients(&a, &arena);
    double *means = ncpu_take(&arena, padded * sizeof(double)), *vars = ncpu_take(&arena, padded * sizeof(double));
    for (size_t j = 0; j < view.c; j++) means[j] = ncpu_real(mean, j, x->dtype), vars[j] = ncpu_real(var, j, x->dtype);
    a.coefficients.mean = means, a.coefficients.var = vars, a.coefficients.eps = eps;
    a.coefficients.weight = weight, a.coefficients.bias = bias;
    ncpu_fill_coefficients(&a, 0, view.c);
    ncpu_widen_coefficients(&a);

    ncpu_team team;
    ncpu_team_begin(&team, traffic(&view, &a));
    status = ncpu_apply(&a, &team);
    const ncpu_status stopped = ncpu_team_end(&team);
    ncpu_release(arena.base);
    return status ? status : stopped;
}

ncpu_status ncpu_scale_shift(const ncpu_array *x, int channel_axis, const void *center, const void *scale,
                             const void *shift, const ncpu_epilogue *epilogue, const ncpu_array *y)
{
    ncpu_view view;
    ncpu_application a;
    ncpu_status status = ncpu_view_of(x, channel_axis, &view);
    if (!status) status = ncpu_plan_application(&a, ncpu_kernels_in_use(), &view, x, epilogue, y);
    if (status) return status;
    ncpu_arena arena = {NULL, 0};
    ncpu_take_coefficients(&a, &arena);
    arena.base = ncpu_allocate(arena.used);
    if (!arena.base) return NCPU_ERROR_MEMORY;
    arena.used = 0;
    ncpu_take_coefficients(&a, &arena);
    const void *given[] = {center, scale, shift};
    void *kept[] = {a.coefficients.center, a.coefficients.scale, a.coefficients.shift};
    for (size_t i = 0; i < 3; i++)
        for (size_t j = 0; j < view.c; j++) {
            const double value = given[i] ? ncpu_real(given[i], j, x->dtype) : i == 1;
            if (x->dtype == NCPU_F64) ((double *)kept[i])[j] = value;
            else ((float *)kept[i])[j] = (float)value;
        }
    memset(a.coefficients.outside, 0, view.c);
    ncpu_widen_coefficients(&a);

    ncpu_team team;
    ncpu_team_begin(&team, traffic(&view, &a));
    status = ncpu_apply(&a, &team);
    const ncpu_status stopped = ncpu_team_end(&team);
    ncpu_release(arena.base);
    return status ? status : stopped;
}

/* ---- Training ---- */

typedef struct {
    ncpu_application *a;
    ncpu_measurement *m;
    ncpu_team *team;
    double count;
    ncpu_moments_state moments;
    double *var;
    size_t groups, tasks, scratch_size, part_size, measure_scratch;
    char *scratch;
    int direct; /* tiles are no copies */
} train_job;

static void settle(const train_job *job, size_t from, size_t to)
{
    for (size_t j = from; j < to; j++) job->var[j] = job->moments.m2[j] / job->count;
    ncpu_fill_coefficients(job->a, from, to);
}

/* Groups of channels whose batch stays in cache: measured, then applied from there. */
static void train_task(void *context, ptrdiff_t task)
{
    const train_job *job = context;
    const ncpu_view *v = job->m->view;
    const size_t t = (size_t)task, width = job->m->width;
    char *scratch = job->scratch + t * job->scratch_size;
    for (size_t g = job->groups * t / job->tasks; g < job->groups * (t + 1) / job->tasks; g++) {
        const size_t channel = g * width, channels = least(width, v->c - channel);
        const ncpu_moments_state total = ncpu_state_at(&job->moments, channel);
        const ncpu_moments_state part = ncpu_state_in((double *)scratch, ncpu_padded(width));
        double count = 0;
        for (size_t q = 0; q < job->m->chunks; q++) {
            const double more = (double)ncpu_chunk_count(job->m, q);
            const ncpu_moments_state *into = q ? &part : &total;
            ncpu_measure_chunk(job->m, channel, channels, q, into, scratch + job->part_size, job->team);
            if (q) job->m->kernels->merge(channels, count, &total, more, &part);
            count += more;
        }
        if (ncpu_team_stopped(job->team)) return;
        settle(job, channel, channel + channels);
        const size_t rows = job->direct ? v->n : 1, len = job->direct ? v->s : least(v->s, NCPU_BLOCK);
        for (size_t row = 0; row < v->n; row += rows)
            for (size_t at = 0; at < v->s; at += len) {
                const ncpu_box box = {.channel = channel, .channels = channels, .row = row, .rows = rows,
                                      .at = at, .len = least(len, v->s - at)};
                ncpu_apply_box(job->a, &box, scratch + job->part_size + job->measure_scratch);
            }
    }
}

/* Measures and applies with the memory in `arena`; moments and var of all channels are left in the job. */
static ncpu_status train(train_job *job, const ncpu_view *view, size_t bytes)
{
    const int by_group = !view->cols && (job->groups >= (size_t)job->team->threads || bytes <= ncpu_cached_bytes());
    job->a->backwards = 1;
    if (!by_group) {
        const ncpu_status status = ncpu_measure(job->m, &job->moments, job->team);
        if (status || ncpu_team_stopped(job->team)) return status;
        settle(job, 0, view->c);
        ncpu_widen_coefficients(job->a);
        return ncpu_apply(job->a, job->team);
    }
    job->tasks = least(job->groups, (size_t)job->team->threads);
    job->measure_scratch = ncpu_measure_scratch(job->m);
    job->part_size = 4 * ncpu_padded(job->m->width) * sizeof(double);
    job->scratch_size = job->part_size + job->measure_scratch
                        + (job->direct ? 0 : ncpu_apply_scratch(job->a, job->m->width * least(view->s, NCPU_BLOCK)));
    job->scratch = ncpu_allocate(job->tasks * job->scratch_size);
    if (!job->scratch) return NCPU_ERROR_MEMORY;
    ncpu_team_run(job->team, (ptrdiff_t)job->tasks, train_task, job);
    ncpu_release(job->scratch);
    return NCPU_OK;
}

ncpu_status ncpu_batch_norm_train(const ncpu_array *x, int channel_axis, const void *weight, const void *bias,
                                  double eps, const ncpu_epilogue *epilogue, const ncpu_array *y, double *batch_mean,
                                  double *batch_var, ncpu_running *running)
{
    ncpu_view view;
    ncpu_application a;
    if (!is_float(x->dtype)) return NCPU_ERROR_ARGUMENT;
    ncpu_status status = ncpu_view_of(x, channel_axis, &view);
    if (!status) status = ncpu_plan_application(&a, ncpu_kernels_in_use(), &view, x, epilogue, y);
    if (status) return status;
    if (view.c == 0) return NCPU_OK;
    if (view.n * view.s == 0) return NCPU_ERROR_ARGUMENT;

    const size_t padded = ncpu_padded(view.c);
    ncpu_arena arena = {NULL, 0};
    ncpu_take_coefficients(&a, &arena);
    arena.base = ncpu_allocate(arena.used + 5 * padded * sizeof(double));
    if (!arena.base) return NCPU_ERROR_MEMORY;
    arena.used = 0;
    ncpu_take_coefficients(&a, &arena);

    ncpu_team team;
    ncpu_team_begin(&team, 2 * traffic(&view, &a));
    ncpu_measurement m;
    const int direct = a.x.direct && a.y.direct && (!a.has_residual || a.residual.direct);
    ncpu_plan_measurement(&m, a.kernels, &view, &a.x, x->dtype, NCPU_BLOCK,
                          view.cols ? ncpu_columns_together(&view, x->dtype, (size_t)team.threads)
                                    : ncpu_channels_together(&view, a.x.size, direct, (size_t)team.threads));
    train_job job = {.a = &a, .m = &m, .team = &team, .direct = direct, .count = (double)m.count,
                     .moments = ncpu_state_in(ncpu_take(&arena, 4 * padded * sizeof(double)), padded),
                     .var = ncpu_take(&arena, padded * sizeof(double)), .groups = divide_up(view.c, m.width)};
    a.coefficients.mean = job.moments.mean, a.coefficients.mean_tail = job.moments.mean_tail;
    a.coefficients.var = job.var, a.coefficients.eps = eps;
    a.coefficients.weight = weight, a.coefficients.bias = bias;
    status = train(&job, &view, view.n * view.c * view.s * a.x.size);
    const ncpu_status stopped = ncpu_team_end(&team);
    if (!status) status = stopped;
    if (!status) {
        memcpy(batch_mean, job.moments.mean, view.c * sizeof(double));
        memcpy(batch_var, job.var, view.c * sizeof(double));
        if (running)
            status = ncpu_update_running(view.c, x->dtype, job.moments.mean, job.moments.m2, job.count, running);
    }
    ncpu_release(arena.base);
    return status;
}
