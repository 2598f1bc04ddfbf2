/* SPDX-License-Identifier: Apache-2.0
 * Group normalization backward: the sums of gradient.h of every sample, which the channels of a group then share, and dx
 * on the same units as forward. */

#include <string.h>

#include "gradient.h"
#include "groups.h"

enum { MOST_PIECES = 64 }; /* of all samples: dweight and dbias are added up over one sample after the other, then piece by piece */

typedef struct {
    const ncpu_groups *statistics;
    ncpu_grouping g;
    ncpu_view view;
    ncpu_gradient first; /* of the first sample */
    ptrdiff_t x_step, dy_step, y_step, dx_step, dresidual_step, mask_step; /* bytes from sample to sample */
    size_t at_once;                  /* runs: most channels whose sums are taken together */
    size_t rows, len, channels;      /* of a box of dx */
    size_t piece, pieces;            /* samples of a piece */
    double *sums;                    /* (pieces, 2, padded c): dbias and dweight */
    ncpu_team *team;
    size_t tasks, scratch_size;
    char *scratch;
} backward_job;

/* What a task works in. */
typedef struct {
    ncpu_gradient g; /* moved to its sample, with numbers per channel of its own */
    double *mean, *var, *shared1, *shared2, *part; /* (padded c), part: (2, padded c) */
    char *boxes;
} workspace;

static size_t lay_out(const backward_job *job, char *memory, workspace *w)
{
    const size_t c = job->view.c, padded = ncpu_padded(c), real = ncpu_real_size(job->first.dtype);
    const size_t measured = job->first.m.rows * job->first.m.len * (job->view.cols ? 1 : job->at_once);
    const size_t applied = job->rows * job->channels * job->len;
    ncpu_arena arena = {memory, 0};
    w->g = job->first;
    double **doubles[] = {&w->g.p1, &w->g.p2, &w->g.start, &w->g.dweight, &w->mean, &w->var, &w->shared1, &w->shared2};
    void **reals[] = {&w->g.center, &w->g.slope, &w->g.curve, &w->g.offset};
    for (size_t i = 0; i < 8; i++) *doubles[i] = ncpu_take(&arena, padded * sizeof(double));
    for (size_t i = 0; i < 4; i++) *reals[i] = ncpu_take(&arena, ncpu_padded(c * ncpu_rows_beside(c) + NCPU_WRAP) * real);
    w->part = ncpu_take(&arena, 2 * padded * sizeof(double));
    w->g.outside = ncpu_take(&arena, padded);
    w->boxes = ncpu_take(&arena, ncpu_gradient_sums_scratch(&job->first)
                                     + ncpu_gradient_pack(&job->first, measured > applied ? measured : applied));
    w->g.mean = w->mean, w->g.var = w->var, w->g.shared1 = w->shared1, w->g.shared2 = w->shared2;
    return (arena.used + 63) / 64 * 64;
}

/* Moves w to the sample, and sets out with the statistics of its groups [from, to). */
static void start(const backward_job *job, workspace *w, size_t sample, size_t from, size_t to)
{
    const ptrdiff_t i = (ptrdiff_t)sample;
    const ncpu_gradient *g = &job->first;
    w->g.x.data = g->x.data + i * job->x_step, w->g.dy.data = g->dy.data + i * job->dy_step;
    if (g->has_y) w->g.y.data = g->y.data + i * job->y_step;
    if (g->has_dx) w->g.dx.data = g->dx.data + i * job->dx_step;
    if (g->has_dresidual) w->g.dresidual.data = g->dresidual.data + i * job->dresidual_step;
    if (g->mask) w->g.mask = g->mask + i * job->mask_step;
    for (size_t j = from * job->g.together; j < to * job->g.together; j++) {
        const size_t at = sample * job->g.groups + j / job->g.together;
        w->mean[j] = job->statistics->mean[at], w->var[j] = job->statistics->var[at];
        w->g.start[j] = g->dtype == NCPU_F64 ? w->mean[j] : (double)(float)w->mean[j];
        w->g.p1[j] = w->g.p2[j] = 0;
    }
}

/* What the sum a + b has lost: Knuth's two-sum. */
static double lost(double a, double b, double sum)
{
    const double came = sum - a;
    return (a - (sum - came)) + (b - came);
}

/* From the sums of the channels of groups [from, to) to what the last step takes, and the sample's part of dweight and
 * dbias. */
static void settle(const backward_job *job, workspace *w, size_t sample, size_t from, size_t to)
{
    ncpu_gradient *g = &w->g;
    const size_t channels = job->g.together, c = job->view.c;
    for (size_t i = from; i < to; i++) {
        double sum1 = 0, sum2 = 0, rest1 = 0, rest2 = 0;
        for (size_t j = i * channels; j < (i + 1) * channels; j++) {
            const double weight = g->weight ? ncpu_real(g->weight, j, g->dtype) : 1;
            const double term1 = weight * g->p1[j], term2 = weight * (g->p2[j] - (w->mean[j] - g->start[j]) * g->p1[j]);
            const double next1 = sum1 + term1, next2 = sum2 + term2;
            rest1 += lost(sum1, term1, next1), rest2 += lost(sum2, term2, next2);
            sum1 = next1, sum2 = next2;
        }
        for (size_t j = i * channels; j < (i + 1) * channels; j++)
            w->shared1[j] = sum1 + rest1, w->shared2[j] = sum2 + rest2;
    }
    ncpu_gradient_settle(g, from * channels, to * channels);
    ncpu_gradient_widen(g);
    double *sums = job->sums + sample / job->piece * 2 * ncpu_padded(c);
    for (size_t j = from * channels; j < to * channels; j++)
        sums[j] += g->p1[j], sums[ncpu_padded(c) + j] += g->dweight[j];
}

/* ---- Boxes of dx: rows of cols, or of runs channels of a row or a piece of one ---- */

static size_t boxes_of(const backward_job *job, size_t channels)
{
    const ncpu_view *v = &job->view;
    return v->cols ? divide_up(v->n, job->rows) : v->n * divide_up(channels, job->channels) * divide_up(v->s, job->len);
}

static ncpu_box box_at(const backward_job *job, size_t first, size_t channels, size_t index)
{
    const ncpu_view *v = &job->view;
    if (v->cols)
        return (ncpu_box){.channels = 1, .row = index * job->rows, .rows = least(job->rows, v->n - index * job->rows),
                          .len = v->c};
    const size_t pieces = divide_up(v->s, job->len), sets = divide_up(channels, job->channels);
    const size_t at = index % pieces * job->len, channel = index / pieces % sets * job->channels;
    return (ncpu_box){.channel = first + channel, .channels = least(job->channels, channels - channel),
                      .row = index / pieces / sets, .rows = 1, .at = at, .len = least(job->len, v->s - at)};
}

static int writes(const backward_job *job) { return job->first.has_dx || job->first.has_dresidual; }

/* Where some positions have no say: stretches of positions of one kind. */
static void apply_valid(const backward_job *job, workspace *w, const uint8_t *valid)
{
    const ncpu_view *v = &job->view;
    const size_t along = v->cols ? v->n : v->s, most = v->cols ? job->rows : job->len;
    char *scratch = w->boxes + ncpu_gradient_sums_scratch(&w->g);
    for (size_t row = 0; row < (v->cols ? 1 : v->n); row++, valid += along)
        for (size_t at = 0, end; at < along; at = end) {
            for (end = at + 1; end < along && end - at < most && !valid[end] == !valid[at];) end++;
            w->g.training = valid[at] && job->first.training;
            for (size_t j = 0; j < (v->cols ? 1 : v->c); j += job->channels) {
                const ncpu_box runs = {.channel = j, .channels = least(job->channels, v->c - j), .row = row, .rows = 1,
                                       .at = at, .len = end - at};
                const ncpu_box cols = {.channels = 1, .row = at, .rows = end - at, .len = v->c};
                ncpu_gradient_apply(&w->g, v->cols ? &cols : &runs, scratch);
            }
        }
    w->g.training = job->first.training;
}

/* ---- Units on the team ---- */

static void sum(const backward_job *job, workspace *w, size_t from, size_t to)
{
    double *part2 = w->part + ncpu_padded(job->view.c);
    for (size_t first = from; first < to; first += job->at_once) {
        const size_t channels = least(job->at_once, to - first);
        for (size_t q = 0; q < w->g.m.chunks; q++) {
            ncpu_gradient_sum(&w->g, first, channels, q, w->part, part2, w->boxes);
            for (size_t j = 0; j < channels; j++) w->g.p1[first + j] += w->part[j], w->g.p2[first + j] += part2[j];
        }
    }
}

static void unit_task(void *context, ptrdiff_t task)
{
    const backward_job *job = context;
    const size_t t = (size_t)task, units = job->pieces * job->g.units, together = job->g.together;
    workspace w;
    lay_out(job, job->scratch + t * job->scratch_size, &w);
    for (size_t u = units * t / job->tasks; u < units * (t + 1) / job->tasks; u++) {
        const size_t from = u % job->g.units * job->g.width, to = least(from + job->g.width, job->g.groups);
        const size_t sample = u / job->g.units * job->piece, end = least(sample + job->piece, job->g.samples);
        for (size_t i = sample; i < end; i++) {
            start(job, &w, i, from, to);
            sum(job, &w, from * together, to * together);
            if (ncpu_team_stopped(job->team)) return;
            settle(job, &w, i, from, to);
            const size_t channels = (to - from) * together;
            for (size_t b = 0; writes(job) && b < boxes_of(job, channels); b++) {
                const ncpu_box box = box_at(job, from * together, channels, b);
                ncpu_gradient_apply(&w.g, &box, w.boxes + ncpu_gradient_sums_scratch(&w.g));
            }
        }
    }
}

/* ---- The team on one sample ---- */

typedef struct {
    const backward_job *job;
    const ncpu_gradient *g;
    double *parts; /* (chunks, 2, padded c) */
    char *scratch;
    size_t scratch_size, tasks;
} sample_job;

static void sum_task(void *context, ptrdiff_t task)
{
    const sample_job *s = context;
    const size_t at_once = s->job->at_once, c = s->job->view.c, padded = ncpu_padded(c), sets = divide_up(c, at_once);
    const size_t t = (size_t)task, units = sets * s->g->m.chunks;
    for (size_t u = units * t / s->tasks; u < units * (t + 1) / s->tasks; u++) {
        const size_t first = u % sets * at_once;
        double *part = s->parts + u / sets * 2 * padded + first;
        ncpu_gradient_sum(s->g, first, least(at_once, c - first), u / sets, part, part + padded,
                          s->scratch + t * s->scratch_size);
    }
}

static void apply_task(void *context, ptrdiff_t task)
{
    const sample_job *s = context;
    const size_t t = (size_t)task, c = s->job->view.c, boxes = boxes_of(s->job, c);
    char *scratch = s->scratch + t * s->scratch_size + ncpu_gradient_sums_scratch(s->g);
    for (size_t u = boxes * t / s->tasks; u < boxes * (t + 1) / s->tasks; u++) {
        if (u % 16 == 0 && ncpu_team_stopped(s->job->team)) return;
        const ncpu_box box = box_at(s->job, 0, c, u);
        ncpu_gradient_apply(s->g, &box, scratch);
    }
}

static ncpu_status sample_by_sample(backward_job *job)
{
    const size_t c = job->view.c, padded = ncpu_padded(c), threads = (size_t)job->team->threads;
    const uint8_t *valid = job->statistics->valid;
    workspace w;
    lay_out(job, job->scratch, &w);
    sample_job s = {.job = job, .g = &w.g, .tasks = threads};
    s.scratch_size = job->scratch_size - (size_t)(w.boxes - job->scratch);
    const size_t parts = w.g.m.chunks * 2 * padded * sizeof *s.parts;
    char *memory = ncpu_allocate(parts + threads * s.scratch_size);
    if (!memory) return NCPU_ERROR_MEMORY;
    s.parts = (double *)memory, s.scratch = memory + parts;
    for (size_t i = 0; i < job->g.samples && !ncpu_team_stopped(job->team); i++) {
        start(job, &w, i, 0, job->g.groups);
        ncpu_team_run(job->team, (ptrdiff_t)s.tasks, sum_task, &s);
        if (ncpu_team_stopped(job->team)) break;
        for (size_t q = 0; q < w.g.m.chunks; q++)
            for (size_t j = 0; j < c; j++)
                w.g.p1[j] += s.parts[2 * q * padded + j], w.g.p2[j] += s.parts[(2 * q + 1) * padded + j];
        if (valid) {
            w.g.shared_count = 0;
            for (size_t k = 0; k < job->g.positions; k++)
                w.g.shared_count += (double)((valid[i * job->g.positions + k] != 0) * job->g.together);
        }
        settle(job, &w, i, 0, job->g.groups);
        if (valid && writes(job)) apply_valid(job, &w, valid + i * job->g.positions);
        else if (writes(job)) ncpu_team_run(job->team, (ptrdiff_t)s.tasks, apply_task, &s);
    }
    ncpu_release(memory);
    return NCPU_OK;
}

/* ---- The operation ---- */

static ncpu_status bring(const backward_job *job, const ncpu_array *array, const ncpu_array *x, ncpu_operand *operand,
                         int *has, ptrdiff_t *step)
{
    *has = array != NULL;
    if (!array) return NCPU_OK;
    *step = array->strides[0];
    return ncpu_sample_operand(array, x, &job->view, operand);
}

/* Everything that the shapes and the places of the arrays say. */
static void plan(backward_job *job, const ncpu_array *x, const ncpu_array *dy, const ncpu_array *dx)
{
    const ncpu_view *v = &job->view;
    ncpu_gradient *g = &job->first;
    job->at_once = v->cols ? v->c : NCPU_BOX / least(v->s, NCPU_BLOCK);
    ncpu_plan_measurement(&g->m, g->kernels, v, &g->x, x->dtype, NCPU_BLOCK, job->at_once);
    job->at_once = g->width = g->m.width;
    job->rows = v->cols ? ncpu_box_rows(v->c, ncpu_rows_beside(v->c)) : 1;
    job->len = v->cols ? v->c : least(v->s, NCPU_BOX);
    job->channels = v->cols ? 1 : NCPU_BOX / job->len;
    job->piece = divide_up(job->g.samples, MOST_PIECES), job->pieces = divide_up(job->g.samples, job->piece);
    job->mask_step = (ptrdiff_t)ncpu_sample_mask(v);
    g->shared_count = (double)(job->g.positions * job->g.together);
    g->mask_channel = (ptrdiff_t)divide_up(v->cols ? v->c : v->s, 8);
    g->mask_row = v->cols ? g->mask_channel : g->mask_channel * (ptrdiff_t)v->c;
    const double bytes = (double)(v->n * v->s * v->c * g->x.size), all = bytes * (double)job->g.samples;
    g->in_order = 3 * bytes > (double)ncpu_cache_bytes(2) && 4 * v->c * ncpu_real_size(x->dtype) <= NCPU_NEAR;
    g->stream = g->has_dx && g->dx.direct && dx->data != dy->data && dx->data != x->data && ncpu_leaves_caches(3 * all);
    ncpu_set_units(&job->g, 2 * g->x.size, g->x.direct && g->dy.direct, v->cols);
}

static void store(void *to, size_t j, ncpu_dtype dtype, double value)
{
    if (to && dtype == NCPU_F64) ((double *)to)[j] = value;
    else if (to) ((float *)to)[j] = (float)value;
}

ncpu_status ncpu_group_norm_backward(const ncpu_array *dy, const ncpu_array *x, int channel_axis,
                                     const ncpu_groups *groups, const void *weight, double eps,
                                     ncpu_activation activation, const ncpu_array *y, const uint8_t *mask,
                                     const ncpu_array *dx, const ncpu_array *dresidual, void *dweight, void *dbias)
{
    if (activation != NCPU_NONE && activation != NCPU_RELU) return NCPU_ERROR_UNSUPPORTED;
    if (x->dtype > NCPU_BF16 || (activation == NCPU_RELU) != (y || mask) || (mask && (y || groups->valid)))
        return NCPU_ERROR_ARGUMENT;
    backward_job job = {.statistics = groups};
    ncpu_gradient *g = &job.first;
    *g = (ncpu_gradient){.kernels = ncpu_kernels_in_use(), .view = &job.view, .dtype = x->dtype,
                         .training = !groups->given, .weight = weight, .eps = eps, .mask = mask};
    int always;
    ncpu_status status = ncpu_group(x, channel_axis, groups, &job.view, &job.g);
    if (!status) status = bring(&job, x, x, &g->x, &always, &job.x_step);
    if (!status) status = bring(&job, dy, x, &g->dy, &always, &job.dy_step);
    if (!status) status = bring(&job, y, x, &g->y, &g->has_y, &job.y_step);
    if (!status) status = bring(&job, dx, x, &g->dx, &g->has_dx, &job.dx_step);
    if (!status) status = bring(&job, dresidual, x, &g->dresidual, &g->has_dresidual, &job.dresidual_step);
    const size_t elements = status ? 0 : job.g.samples * job.view.c * job.g.positions;
    for (size_t j = 0; j < job.view.c && !status && !elements; j++)
        store(dbias, j, x->dtype, 0), store(dweight, j, x->dtype, 0);
    if (!elements) return status;

    ncpu_team team;
    ncpu_team_begin(&team, 5 * (double)(elements * g->x.size));
    g->team = job.team = &team;
    plan(&job, x, dy, dx);
    const size_t units = job.pieces * job.g.units, padded = ncpu_padded(job.view.c);
    const int together = groups->valid || (units < (size_t)team.threads && elements * g->x.size > ncpu_cached_bytes());
    workspace w;
    job.tasks = together ? 1 : least(units, (size_t)team.threads), job.scratch_size = lay_out(&job, NULL, &w);
    const size_t sums = job.pieces * 2 * padded * sizeof(double);
    char *memory = ncpu_allocate(sums + job.tasks * job.scratch_size);
    if (memory) {
        memset(memory, 0, sums + job.tasks * job.scratch_size);
        job.sums = (double *)memory, job.scratch = memory + sums;
        if (together) status = sample_by_sample(&job);
        else ncpu_team_run(&team, (ptrdiff_t)job.tasks, unit_task, &job);
    } else {
        status = NCPU_ERROR_MEMORY;
    }
    const ncpu_status stopped = ncpu_team_end(&team);
    for (size_t j = 0; j < job.view.c && !status && !stopped; j++) {
        double bias = 0, scale = 0;
        for (size_t i = 0; i < job.pieces; i++)
            bias += job.sums[2 * i * padded + j], scale += job.sums[(2 * i + 1) * padded + j];
        store(dbias, j, x->dtype, bias), store(dweight, j, x->dtype, scale);
    }
    ncpu_release(memory);
    return status ? status : stopped;
}
