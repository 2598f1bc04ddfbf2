/* SPDX-License-Identifier: Apache-2.0
 * Batch normalization backward: the sums of gradient.h, their total, and dx, on the same boxes as forward. */

#include <string.h>

#include "gradient.h"

static size_t box_rows(const ncpu_gradient *g)
{
    return ncpu_even_part(g->view->n, ncpu_box_rows(g->view->c, 1), (size_t)g->team->threads);
}

/* Boxes of rows (cols), or of channels of one sample or a piece of a long run (runs), whatever the statistics' boxes were. */
static ncpu_box apply_box_at(const ncpu_gradient *g, size_t channel, size_t channels, size_t index)
{
    const ncpu_view *v = g->view;
    if (v->cols) {
        const size_t rows = box_rows(g);
        return (ncpu_box){.channels = 1, .row = index * rows, .rows = least(rows, v->n - index * rows), .len = v->c};
    }
    const size_t pieces = divide_up(v->s, NCPU_BOX), at = index % pieces * NCPU_BOX;
    return (ncpu_box){.channel = channel, .channels = channels, .row = index / pieces, .rows = 1, .at = at,
                      .len = least(NCPU_BOX, v->s - at)};
}

static size_t apply_boxes(const ncpu_gradient *g)
{
    const ncpu_view *v = g->view;
    if (v->cols) return divide_up(v->n, box_rows(g));
    return v->n * divide_up(v->s, NCPU_BOX);
}

static size_t largest_box(const ncpu_gradient *g)
{
    const ncpu_view *v = g->view;
    const size_t measured = g->m.rows * g->m.len * (v->cols ? 1 : g->width);
    const size_t applied = v->cols ? box_rows(g) * v->c : g->width * least(v->s, NCPU_BOX);
    return measured > applied ? measured : applied;
}

static void sum_task(void *context, ptrdiff_t task)
{
    const ncpu_gradient *g = context;
    const size_t t = (size_t)task, units = g->groups * g->m.chunks, padded = ncpu_padded(g->view->c);
    for (size_t u = units * t / g->tasks; u < units * (t + 1) / g->tasks; u++) {
        const size_t chunk = u / g->groups, first = u % g->groups * g->width;
        double *part = g->parts + chunk * 2 * padded + first;
        ncpu_gradient_sum(g, first, least(g->width, g->view->c - first), chunk, part, part + padded,
                  g->scratch + t * g->scratch_size);
    }
}

static void apply_task(void *context, ptrdiff_t task)
{
    const ncpu_gradient *g = context;
    const size_t t = (size_t)task, boxes = apply_boxes(g), groups = g->view->cols ? 1 : g->groups;
    const size_t units = groups * boxes;
    for (size_t u = units * t / g->tasks; u < units * (t + 1) / g->tasks; u++) {
        if (u % 16 == 0 && ncpu_team_stopped(g->team)) return;
        const size_t unit = units - 1 - u; /* what was summed last is still in cache */
        const size_t first = unit % groups * g->width;
        const ncpu_box box = apply_box_at(g, first, least(g->width, g->view->c - first), unit / groups);
        ncpu_gradient_apply(g, &box, g->scratch + t * g->scratch_size + ncpu_gradient_sums_scratch(g));
    }
}

/* Groups of channels of runs that stay in cache: summed, then applied from there. */
static void group_task(void *context, ptrdiff_t task)
{
    const ncpu_gradient *g = context;
    const size_t t = (size_t)task, padded = ncpu_padded(g->view->c);
    char *scratch = g->scratch + t * g->scratch_size;
    for (size_t i = g->groups * t / g->tasks; i < g->groups * (t + 1) / g->tasks; i++) {
        const size_t first = i * g->width, channels = least(g->width, g->view->c - first);
        for (size_t q = 0; q < g->m.chunks; q++) {
            double *part = g->parts + 2 * padded * t + first;
            ncpu_gradient_sum(g, first, channels, q, part, part + padded, scratch);
            for (size_t j = 0; j < channels; j++) g->p1[first + j] += part[j], g->p2[first + j] += part[padded + j];
        }
        if (ncpu_team_stopped(g->team)) return;
        ncpu_gradient_settle(g, first, first + channels);
        const size_t boxes = g->has_dx || g->has_dresidual ? apply_boxes(g) : 0;
        for (size_t b = boxes; b-- > 0;) { /* what was summed last is in the nearest cache */
            if (b % 16 == 15 && ncpu_team_stopped(g->team)) return;
            const ncpu_box box = apply_box_at(g, first, channels, b);
            ncpu_gradient_apply(g, &box, scratch + ncpu_gradient_sums_scratch(g));
        }
    }
}

static ncpu_status run(ncpu_gradient *g)
{
    const size_t c = g->view->c, padded = ncpu_padded(c), threads = (size_t)g->team->threads;
    const int by_group = !g->view->cols && (g->groups >= threads || g->m.count * c * g->x.size * 2 <= ncpu_cached_bytes());
    const size_t parts = (by_group ? least(g->groups, threads) : g->m.chunks) * 2 * padded * sizeof(double);
    g->scratch_size = ncpu_gradient_sums_scratch(g) + ncpu_gradient_pack(g, largest_box(g));
    g->scratch_size = (g->scratch_size + 63) / 64 * 64;
    char *memory = ncpu_allocate(parts + threads * g->scratch_size);
    if (!memory) return NCPU_ERROR_MEMORY;
    g->parts = (double *)memory, g->scratch = memory + parts;
    if (by_group) {
        g->tasks = least(g->groups, threads);
        ncpu_team_run(g->team, (ptrdiff_t)g->tasks, group_task, g);
    } else {
        g->tasks = least(g->groups * g->m.chunks, threads);
        ncpu_team_run(g->team, (ptrdiff_t)g->tasks, sum_task, g);
        for (size_t q = 0; q < g->m.chunks; q++)
            for (size_t j = 0; j < c; j++)
                g->p1[j] += g->parts[2 * q * padded + j], g->p2[j] += g->parts[(2 * q + 1) * padded + j];
        ncpu_gradient_settle(g, 0, c);
        ncpu_gradient_widen(g);
        g->tasks = threads;
        if (!ncpu_team_stopped(g->team) && (g->has_dx || g->has_dresidual))
            ncpu_team_run(g->team, (ptrdiff_t)g->tasks, apply_task, g);
    }
    ncpu_release(memory);
    return NCPU_OK;
}

static void store(const ncpu_gradient *g, void *to, size_t j, double value)
{
    if (!to) return;
    if (g->dtype == NCPU_F64) ((double *)to)[j] = value;
    else ((float *)to)[j] = (float)value;
}

/* x's operand where the array is given. */
static ncpu_status bring(ncpu_gradient *g, const ncpu_array *array, const ncpu_array *x, ncpu_operand *operand, int *has)
{
    *has = array != NULL;
    if (!array) return NCPU_OK;
    return array->dtype != x->dtype ? NCPU_ERROR_ARGUMENT : ncpu_operand_of(array, x, g->view, operand);
}

ncpu_status ncpu_batch_norm_backward(const ncpu_array *dy, const ncpu_array *x, int channel_axis, const void *weight,
                                     const double *mean, const double *var, double eps, int training,
                                     ncpu_activation activation, const ncpu_array *y, const uint8_t *mask,
                                     const ncpu_array *dx, const ncpu_array *dresidual, void *dweight, void *dbias)
{
    if (activation != NCPU_NONE && activation != NCPU_RELU) return NCPU_ERROR_UNSUPPORTED;
    if (x->dtype > NCPU_BF16 || (activation == NCPU_RELU) != (y || mask) || (y && mask)) return NCPU_ERROR_ARGUMENT;
    ncpu_view view;
    ncpu_gradient g = {.kernels = ncpu_kernels_in_use(), .view = &view, .dtype = x->dtype, .training = training, .mean = mean,
                  .var = var, .weight = weight, .eps = eps, .mask = mask};
    int always;
    ncpu_status status = ncpu_view_of(x, channel_axis, &view);
    if (!status) status = bring(&g, x, x, &g.x, &always);
    if (!status) status = bring(&g, dy, x, &g.dy, &always);
    if (!status) status = bring(&g, y, x, &g.y, &g.has_y);
    if (!status) status = bring(&g, dx, x, &g.dx, &g.has_dx);
    if (!status) status = bring(&g, dresidual, x, &g.dresidual, &g.has_dresidual);
    if (status || view.c == 0) return status;

    ncpu_team team;
    const double bytes = (double)view.n * (double)view.s * (double)view.c * (double)g.x.size;
    ncpu_team_begin(&team, 5 * bytes);
    g.team = &team;
    const int direct = g.x.direct && g.dy.direct && (!y || g.y.direct) && (!dx || g.dx.direct)
                       && (!dresidual || g.dresidual.direct);
    ncpu_plan_measurement(&g.m, g.kernels, &view, &g.x, x->dtype, NCPU_BOX,
                          view.cols ? ncpu_columns_together(&view, x->dtype, (size_t)team.threads)
                                    : ncpu_channels_together(&view, 2 * g.x.size, direct, (size_t)team.threads));
    g.width = g.m.width, g.groups = divide_up(view.c, g.width);
    g.mask_channel = (ptrdiff_t)divide_up(view.cols ? view.c : view.s, 8);
    g.mask_row = view.cols ? g.mask_channel : g.mask_channel * (ptrdiff_t)view.c;
    g.in_order = 3 * bytes > (double)ncpu_cache_bytes(2) && 4 * view.c * ncpu_real_size(x->dtype) <= NCPU_NEAR;
    g.stream = g.has_dx && g.dx.direct && dx->data != dy->data && dx->data != x->data && ncpu_leaves_caches(3 * bytes);

    const size_t padded = ncpu_padded(view.c), repeated = ncpu_padded(view.c * ncpu_rows_beside(view.c) + NCPU_WRAP);
    ncpu_arena arena = {NULL, 0};
    arena.base = ncpu_allocate(padded * (4 * sizeof(double) + 1) + repeated * 4 * ncpu_real_size(x->dtype) + 64);
    if (!arena.base) {
        ncpu_team_end(&team);
        return NCPU_ERROR_MEMORY;
    }
    double **sums[] = {&g.p1, &g.p2, &g.start, &g.dweight};
    void **reals[] = {&g.center, &g.slope, &g.curve, &g.offset};
    for (size_t i = 0; i < 4; i++) *sums[i] = ncpu_take(&arena, padded * sizeof(double));
    for (size_t i = 0; i < 4; i++) *reals[i] = ncpu_take(&arena, repeated * ncpu_real_size(x->dtype));
    g.outside = ncpu_take(&arena, padded);
    memset(arena.base, 0, arena.used);
    for (size_t j = 0; j < view.c; j++) g.start[j] = x->dtype == NCPU_F64 ? mean[j] : (double)(float)mean[j];

    if (g.m.count) status = run(&g);
    const ncpu_status stopped = ncpu_team_end(&team);
    if (!status) status = stopped;
    for (size_t j = 0; j < view.c && !status; j++) {
        store(&g, dbias, j, g.p1[j]);
        store(&g, dweight, j, g.dweight[j]);
    }
    ncpu_release(arena.base);
    return status;
}
