/* SPDX-License-Identifier: Apache-2.0
 * Group normalization forward; instance and ghost batch normalization are views of it. */

#include <math.h>
#include <string.h>

#include "apply.h"
#include "groups.h"
#include "measure.h"

typedef struct {
    const ncpu_groups *statistics;
    ncpu_grouping g;
    ncpu_view view, measured_view; /* of a sample; measured: its groups as the channels of runs, or its channels */
    ncpu_application a;            /* of the first sample, as are x and m */
    ncpu_operand x;
    ncpu_measurement m;
    int by_channel; /* channels are measured, and then join to groups */
    ptrdiff_t x_step, residual_step, y_step, mask_step; /* bytes from sample to sample */
    size_t rows, len, channels;                         /* of a box that is applied */
    ncpu_team *team;
    int together; /* the team works on one sample at a time */
    size_t tasks, scratch_size;
    char *scratch;
} group_job;

/* What a task works in. */
typedef struct {
    ncpu_application a; /* moved to its sample, with coefficients of its own, as are x and m */
    ncpu_operand x;
    ncpu_measurement m;
    double *mean, *mean_tail, *var; /* (padded c) */
    ncpu_moments_state total, part; /* (padded c) */
    char *measuring, *applying;
} workspace;

static size_t lay_out(const group_job *job, char *memory, workspace *w)
{
    const size_t padded = ncpu_padded(job->view.c), box = job->rows * job->channels * job->len;
    ncpu_arena arena = {memory, 0};
    w->a = job->a, w->x = job->x, w->m = job->m;
    w->m.x = &w->x;
    ncpu_take_coefficients(&w->a, &arena);
    double *doubles = ncpu_take(&arena, 11 * padded * sizeof *doubles);
    w->measuring = ncpu_take(&arena, job->together ? 0 : ncpu_measure_scratch(&job->m));
    w->applying = ncpu_take(&arena, job->together ? 0 : ncpu_apply_scratch(&job->a, box));
    if (!memory) return arena.used;
    w->mean = doubles, w->mean_tail = doubles + padded, w->var = doubles + 2 * padded;
    w->total = ncpu_state_in(doubles + 3 * padded, padded), w->part = ncpu_state_in(doubles + 7 * padded, padded);
    w->a.coefficients.mean = w->mean, w->a.coefficients.mean_tail = w->mean_tail, w->a.coefficients.var = w->var;
    return arena.used;
}

static void move_to(const group_job *job, workspace *w, size_t sample)
{
    const ptrdiff_t i = (ptrdiff_t)sample;
    w->x.data = job->x.data + i * job->x_step;
    w->a.x.data = job->a.x.data + i * job->x_step;
    w->a.y.data = job->a.y.data + i * job->y_step;
    if (w->a.has_residual) w->a.residual.data = job->a.residual.data + i * job->residual_step;
    if (w->a.epilogue.mask) w->a.epilogue.mask = job->a.epilogue.mask + i * job->mask_step;
}

/* total = moments of the groups, from those of their channels, which have `count` elements each: halves of the channels
 * merge in a tree, (channels, groups) side by side. */
static void join_channels(const group_job *job, workspace *w, double count)
{
    const size_t groups = job->g.groups, channels = job->g.together;
    const double *from[] = {w->total.mean, w->total.mean_tail, w->total.m2, w->total.m2_tail};
    double *to[] = {w->part.mean, w->part.mean_tail, w->part.m2, w->part.m2_tail};
    for (size_t i = 0; i < 4 && channels > 1; i++)
        for (size_t k = 0; k < channels; k++)
            for (size_t g = 0; g < groups; g++) to[i][k * groups + g] = from[i][g * channels + k];
    double odd = 0, each = count;
    for (size_t left = channels; left > 1; left /= 2, each *= 2) {
        const ncpu_moments_state last = ncpu_state_at(&w->part, (left - 1) * groups);
        const ncpu_moments_state upper = ncpu_state_at(&w->part, left / 2 * groups);
        if (left % 2) job->m.kernels->merge(groups, odd, &w->total, each, &last), odd += each;
        job->m.kernels->merge(left / 2 * groups, each, &w->part, each, &upper);
    }
    if (channels > 1) job->m.kernels->merge(groups, odd, &w->total, each, &w->part);
}

/* total = moments of groups [from, to) of the sample that w was moved to. */
static void measure(const group_job *job, workspace *w, size_t from, size_t to)
{
    const size_t first = job->by_channel ? 0 : from, width = job->by_channel ? job->view.c : to - from;
    const ncpu_moments_state total = ncpu_state_at(&w->total, first);
    double count = 0;
    for (size_t q = 0; q < w->m.chunks; q++) {
        const double more = (double)ncpu_chunk_count(&w->m, q);
        ncpu_measure_chunk(&w->m, first, width, q, q ? &w->part : &total, w->measuring, job->team);
        if (q) w->m.kernels->merge(width, count, &total, more, &w->part);
        count += more;
    }
    if (job->by_channel) join_channels(job, w, count);
}

/* Coefficients of the channels of groups [from, to), of `count` elements each. */
static void settle(const group_job *job, workspace *w, size_t sample, size_t from, size_t to, double count)
{
    const size_t channels = job->g.together;
    double *mean = job->statistics->mean + sample * job->g.groups, *var = job->statistics->var + sample * job->g.groups;
    for (size_t g = from; g < to; g++) {
        if (!job->statistics->given) mean[g] = w->total.mean[g], var[g] = w->total.m2[g] / count;
        const double tail = job->statistics->given ? 0 : w->total.mean_tail[g];
        for (size_t j = g * channels; j < (g + 1) * channels; j++)
            w->mean[j] = mean[g], w->mean_tail[j] = tail, w->var[j] = var[g];
    }
    ncpu_fill_coefficients(&w->a, from * channels, to * channels);
    if (job->view.cols) ncpu_widen_coefficients(&w->a);
}

/* Channels [from, to): of runs in the order of memory, which was faster than beginning with what was measured last. */
static void apply(const group_job *job, workspace *w, size_t from, size_t to)
{
    const ncpu_view *v = &job->view;
    if (v->cols) {
        for (size_t i = 0; i < divide_up(v->n, job->rows); i++) {
            const ncpu_box box = {.channels = 1, .row = i * job->rows, .rows = least(job->rows, v->n - i * job->rows),
                                  .len = v->c};
            ncpu_apply_box(&w->a, &box, w->applying);
        }
        return;
    }
    const size_t pieces = divide_up(v->s, job->len), sets = divide_up(to - from, job->channels);
    for (size_t i = 0; i < v->n * sets * pieces; i++) {
        const size_t at = i % pieces * job->len, channel = from + i / pieces % sets * job->channels;
        const ncpu_box box = {.channel = channel, .channels = least(job->channels, to - channel),
                              .row = i / pieces / sets, .rows = 1, .at = at, .len = least(job->len, v->s - at)};
        ncpu_apply_box(&w->a, &box, w->applying);
    }
}

static void unit_task(void *context, ptrdiff_t task)
{
    const group_job *job = context;
    const ncpu_grouping *g = &job->g;
    const size_t t = (size_t)task, units = g->samples * g->units, channels = g->together;
    workspace w;
    lay_out(job, job->scratch + t * job->scratch_size, &w);
    for (size_t u = units * t / job->tasks; u < units * (t + 1) / job->tasks; u++) {
        const size_t from = u % g->units * g->width, to = least(from + g->width, g->groups);
        move_to(job, &w, u / g->units);
        if (!job->statistics->given) measure(job, &w, from, to);
        if (ncpu_team_stopped(job->team)) return;
        settle(job, &w, u / g->units, from, to, (double)(g->positions * channels));
        apply(job, &w, from * channels, to * channels);
    }
}

/* Samples one after the other, the team on each. */
static ncpu_status sample_by_sample(group_job *job)
{
    workspace w;
    const ncpu_grouping *g = &job->g;
    const uint8_t *valid = job->statistics->valid;
    ptrdiff_t *places = valid ? ncpu_allocate(g->positions * sizeof *places) : NULL;
    if (valid && !places) return NCPU_ERROR_MEMORY;
    lay_out(job, job->scratch, &w);
    ncpu_status status = NCPU_OK;
    for (size_t i = 0; i < g->samples && !status && !ncpu_team_stopped(job->team); i++) {
        size_t count = g->positions;
        ncpu_view view = job->measured_view;
        move_to(job, &w, i);
        if (valid) {
            count = ncpu_keep_valid(&w.x, &view, valid + i * g->positions, places);
            if (count) ncpu_plan_measurement(&w.m, job->m.kernels, &view, &w.x, job->m.dtype, NCPU_BLOCK, job->m.width);
        }
        memset(w.total.mean, 0, 4 * ncpu_padded(job->view.c) * sizeof(double));
        const int measured = !job->statistics->given && count; /* of nothing all moments are 0 */
        if (measured) status = ncpu_measure(&w.m, &w.total, job->team);
        if (status || ncpu_team_stopped(job->team)) break;
        if (job->by_channel && measured) join_channels(job, &w, (double)count);
        settle(job, &w, i, 0, g->groups, (double)(count * g->together));
        status = ncpu_apply(&w.a, job->team);
    }
    ncpu_release(places);
    return status;
}

/* The groups of a sample as the channels of runs: the channel axis cut in two. */
static ncpu_status view_groups(group_job *job, const ncpu_array *x)
{
    ptrdiff_t shape[NCPU_MAX_NDIM + 1], strides[NCPU_MAX_NDIM + 1];
    const ncpu_array sample = ncpu_first_sample(x);
    const int axis = job->view.axis;
    for (int i = 0; i < sample.ndim; i++) {
        const int to = i <= axis ? i : i + 1;
        shape[to] = sample.shape[i], strides[to] = sample.strides[i];
    }
    shape[axis + 1] = (ptrdiff_t)job->g.together, strides[axis + 1] = strides[axis];
    shape[axis] = (ptrdiff_t)job->g.groups, strides[axis] *= shape[axis + 1];
    const ncpu_array cut = {sample.data, x->dtype, sample.ndim + 1, shape, strides};
    ncpu_view *v = &job->measured_view;
    *v = (ncpu_view){.axis = axis, .n = 1, .c = job->g.groups, .s = job->g.together};
    for (int i = 0; i < sample.ndim; i++)
        if (i != axis) *(i < axis ? &v->n : &v->s) *= (size_t)sample.shape[i];
    if (v->s == 1) v->s = v->n, v->n = 1;
    const ncpu_status status = ncpu_operand_of(&cut, &cut, v, &job->x);
    if (!status && x->strides[0] % (ptrdiff_t)job->x.size) job->x.direct = 0;
    return status;
}

static ncpu_status plan(group_job *job, const ncpu_array *x, const ncpu_epilogue *epilogue, const ncpu_array *y)
{
    const ncpu_view *v = &job->view;
    const ncpu_array first_x = ncpu_first_sample(x), first_y = ncpu_first_sample(y);
    ncpu_epilogue after = epilogue ? *epilogue : (ncpu_epilogue){0};
    ncpu_array first_residual;
    if (after.residual) first_residual = ncpu_first_sample(after.residual), after.residual = &first_residual;
    ncpu_application *a = &job->a;
    ncpu_status status = ncpu_plan_application(a, ncpu_kernels_in_use(), v, &first_x, &after, &first_y);
    if (!status) status = ncpu_sample_operand(x, x, v, &a->x);
    if (!status) status = ncpu_sample_operand(y, x, v, &a->y);
    if (!status && a->has_residual) status = ncpu_sample_operand(epilogue->residual, x, v, &a->residual);
    if (status) return status;
    const double bytes = (double)(job->g.samples * v->n * v->c * v->s) * (double)(a->x.size + a->y.size);
    a->stream = a->y.direct && y->data != x->data && !after.mask && ncpu_leaves_caches(bytes);
    job->x_step = x->strides[0], job->y_step = y->strides[0], job->mask_step = (ptrdiff_t)ncpu_sample_mask(v);
    job->residual_step = a->has_residual ? epilogue->residual->strides[0] : 0;
    job->rows = v->cols ? ncpu_box_rows(v->c, a->widened) : 1;
    job->len = v->cols ? v->c : least(v->s, NCPU_BOX);
    job->channels = v->cols ? 1 : NCPU_BOX / job->len;

    /* A single position has columns of one element each: its groups are rows. */
    job->by_channel = job->statistics->valid || (v->cols && v->n > 1);
    job->measured_view = *v, job->x = a->x;
    if (!job->by_channel) status = view_groups(job, x);
    ncpu_set_units(&job->g, job->x.size, job->x.direct, v->cols);
    const size_t packed = NCPU_PACKED / (least(v->s, NCPU_BLOCK) * job->x.size);
    const size_t width = !job->by_channel ? job->g.width : v->cols ? v->c : packed ? packed : 1;
    ncpu_plan_measurement(&job->m, a->kernels, &job->measured_view, &job->x, x->dtype, NCPU_BLOCK, width);
    job->m.in_order = ncpu_leaves_caches(bytes); /* of all samples */
    return status;
}

ncpu_status ncpu_group_norm(const ncpu_array *x, int channel_axis, const ncpu_groups *groups, const void *weight,
                            const void *bias, double eps, const ncpu_epilogue *epilogue, const ncpu_array *y)
{
    group_job job = {.statistics = groups};
    if (x->dtype > NCPU_BF16) return NCPU_ERROR_ARGUMENT;
    ncpu_status status = ncpu_group(x, channel_axis, groups, &job.view, &job.g);
    if (status) return status;
    if (job.g.samples * job.view.c * job.g.positions == 0) {
        for (size_t i = 0; i < job.g.samples * job.g.groups && !groups->given; i++)
            groups->mean[i] = 0, groups->var[i] = NAN;
        return NCPU_OK;
    }
    status = plan(&job, x, epilogue, y);
    if (status) return status;
    job.a.coefficients.eps = eps, job.a.coefficients.weight = weight, job.a.coefficients.bias = bias;

    ncpu_team team;
    const size_t elements = job.g.samples * job.view.c * job.g.positions, units = job.g.samples * job.g.units;
    ncpu_team_begin(&team, (double)elements * (double)(2 * job.x.size + job.a.y.size));
    job.team = &team;
    job.together = groups->valid || (units < (size_t)team.threads && elements * job.x.size > ncpu_cached_bytes());
    job.tasks = job.together ? 1 : least(units, (size_t)team.threads);
    workspace w;
    job.scratch_size = (lay_out(&job, NULL, &w) + 63) / 64 * 64;
    job.scratch = ncpu_allocate(job.tasks * job.scratch_size);
    if (!job.scratch) status = NCPU_ERROR_MEMORY;
    else if (job.together) status = sample_by_sample(&job);
    else ncpu_team_run(&team, (ptrdiff_t)job.tasks, unit_task, &job);
    ncpu_release(job.scratch);
    const ncpu_status stopped = ncpu_team_end(&team);
    return status ? status : stopped;
}
