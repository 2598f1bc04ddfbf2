/* SPDX-License-Identifier: Apache-2.0
 * Scale and shift of a normalization into weights: x * factor along an axis, over boxes of a view, on the team. */

#include <string.h>

#include "memory.h"
#include "sizes.h"
#include "team.h"
#include "view.h"

enum { COLUMNS = 16384, /* whose factors and peaks, 256 KB, stay in L2 */
       AHEAD = 16384,   /* bytes: the hardware does not see through rows side by side */
       SHORT_RUN = 64,  /* elements that a row's own costs are not worth: see join_runs */
       FEW_ROWS = 4 };  /* the kernels take as many at a time */

typedef struct {
    ptrdiff_t shape[NCPU_MAX_NDIM], strides[NCPU_MAX_NDIM];
    ncpu_array array;
} joined;

typedef struct {
    ncpu_team *team;
    void (*kernel)(const ncpu_scale_args *);
    ncpu_view view;
    ncpu_operand x, y;
    int look, stream;
    ptrdiff_t ahead;
    size_t repeats; /* of each factor: 1, or s where runs were joined */
    size_t channels, rows, len, pieces, groups, boxes; /* of a box; how many along s or c, and along c or the rows */
    size_t tasks, scratch_size;
    const double *factor; /* padded (view.c) */
    double *peaks;        /* (tasks, padded view.c) */
    char *scratch;        /* (tasks, scratch_size) */
} scaling;

/* Axes [axis, ndim) as one, where they lie in memory as in row-major order. */
static int join_axes(const ncpu_array *a, int axis, joined *j)
{
    ptrdiff_t extent = 1, step = 0;
    for (int i = a->ndim - 1; i >= axis; i--) {
        if (a->shape[i] == 1) continue;
        if (extent == 1) step = a->strides[i];
        else if (a->strides[i] != step * extent) return 0;
        extent *= a->shape[i];
    }
    for (int i = 0; i < axis; i++) j->shape[i] = a->shape[i], j->strides[i] = a->strides[i];
    j->shape[axis] = extent, j->strides[axis] = step;
    j->array = (ncpu_array){a->data, a->dtype, axis + 1, j->shape, j->strides};
    return 1;
}

/* Many short runs (n, c, s) are n rows of c*s columns with each factor s times: the 9 of a 3x3 filter are no loop. */
static void join_runs(scaling *job, const ncpu_array **x, const ncpu_array **y, joined *x_joined, joined *y_joined)
{
    const ncpu_view *v = &job->view;
    job->repeats = 1;
    if (v->cols || v->s >= SHORT_RUN || v->n < FEW_ROWS || !join_axes(*x, v->axis, x_joined)) return;
    if (*y && !join_axes(*y, v->axis, y_joined)) return;
    ncpu_view rows;
    if (ncpu_view_of(&x_joined->array, v->axis, &rows) != NCPU_OK || !rows.cols) return;
    job->repeats = v->s, job->view = rows, *x = &x_joined->array;
    if (*y) *y = &y_joined->array;
}

static void plan_boxes(scaling *job)
{
    const ncpu_view *v = &job->view;
    if (v->cols) {
        job->channels = 1, job->len = least(v->c, COLUMNS), job->rows = divide_up(NCPU_BOX / job->len, 4) * 4;
        job->pieces = divide_up(v->c, job->len), job->groups = divide_up(v->n, job->rows);
        job->boxes = job->pieces * job->groups;
    } else {
        job->rows = 1, job->len = least(v->s, NCPU_BOX), job->channels = least(v->c, NCPU_BOX / job->len);
        job->pieces = divide_up(v->s, job->len), job->groups = divide_up(v->c, job->channels);
        job->boxes = v->n * job->pieces * job->groups;
    }
}

static ncpu_box box_of(const scaling *job, size_t index)
{
    const ncpu_view *v = &job->view;
    if (v->cols) {
        const size_t at = index / job->groups * job->len, row = index % job->groups * job->rows;
        return (ncpu_box){.channels = 1, .row = row, .rows = least(job->rows, v->n - row), .at = at,
                          .len = least(job->len, v->c - at)};
    }
    const size_t at = index % job->pieces * job->len, channel = index / job->pieces % job->groups * job->channels;
    return (ncpu_box){.row = index / job->pieces / job->groups, .rows = 1, .channel = channel,
                      .channels = least(job->channels, v->c - channel), .at = at, .len = least(job->len, v->s - at)};
}

static void scale_box(const scaling *job, const ncpu_box *box, double *peak, char *scratch)
{
    const int cols = job->view.cols;
    const size_t first = cols ? box->at : box->channel, bytes = box->channels * box->rows * box->len * job->x.size;
    const ncpu_tile x = ncpu_tile_in(&job->x, &job->view, box, scratch);
    ncpu_tile y = {0};
    if (!job->look) y = ncpu_tile_out(&job->y, &job->view, box, scratch + (job->x.direct ? 0 : bytes));
    job->kernel(&(ncpu_scale_args){
        .rows = cols ? box->rows : box->channels, .len = box->len, .x = x.data, .y = y.data,
        .x_stride = cols ? x.row_stride : x.channel_stride, .y_stride = cols ? y.row_stride : y.channel_stride,
        .factor = job->factor + first, .peak = peak + first, .step = 1, .ahead = job->ahead, .stream = job->stream});
    if (!job->look) ncpu_tile_done(&job->y, &job->view, box, &y);
}

static void scale_task(void *context, ptrdiff_t task)
{
    const scaling *job = context;
    const size_t t = (size_t)task, from = job->boxes * t / job->tasks, to = job->boxes * (t + 1) / job->tasks;
    for (size_t i = from; i < to; i++) {
        if ((i - from) % 16 == 0 && ncpu_team_stopped(job->team)) return;
        const ncpu_box box = box_of(job, i);
        scale_box(job, &box, job->peaks + t * ncpu_padded(job->view.c), job->scratch + t * job->scratch_size);
    }
}

/* One allocation: factors, peaks and scratch. */
static void *take_memory(scaling *job, const double *factor)
{
    const size_t c = job->view.c, columns = ncpu_padded(c), elements = job->channels * job->rows * job->len;
    const size_t packs = (size_t)!job->x.direct + (size_t)(!job->look && !job->y.direct);
    job->scratch_size = divide_up(packs * elements * job->x.size, 64) * 64;
    const size_t reals = (1 + job->tasks) * columns * sizeof(double);
    double *memory = ncpu_allocate(reals + job->tasks * job->scratch_size);
    if (!memory) return NULL;
    double *next = memory;
    for (size_t j = 0; j < c / job->repeats; j++)
        for (size_t i = 0; i < job->repeats; i++) *next++ = factor[j];
    memset(memory + c, 0, reals - c * sizeof(double));
    job->factor = memory, job->peaks = memory + columns, job->scratch = (char *)memory + reals;
    return memory;
}

ncpu_status ncpu_scale_axis(const ncpu_array *x, int axis, const double *factor, const ncpu_array *y, double *peak)
{
    if (x->dtype > NCPU_BF16 || (y && y->dtype != x->dtype)) return NCPU_ERROR_ARGUMENT;
    ncpu_team team;
    joined x_joined, y_joined;
    scaling job = {.team = &team, .look = !y};
    ncpu_status status = ncpu_view_of(x, axis, &job.view);
    if (status) return status;
    memset(peak, 0, job.view.c * sizeof(double));
    if (job.view.n * job.view.c * job.view.s == 0) return NCPU_OK;
    join_runs(&job, &x, &y, &x_joined, &y_joined);
    status = ncpu_operand_of(x, x, &job.view, &job.x);
    if (!status && y) status = ncpu_operand_of(y, x, &job.view, &job.y);
    if (status) return status;
    plan_boxes(&job);
    const ncpu_kernels *kernels = ncpu_kernels_in_use();
    const size_t bytes = job.view.n * job.view.c * job.view.s * job.x.size;
    job.kernel = job.view.cols ? kernels->scale_cols[x->dtype] : kernels->scale_runs[x->dtype];
    const int large = ncpu_leaves_caches(2 * (double)bytes), whole_lines = job.x.size >= 4; /* 16 elements */
    job.stream = y && job.y.direct && y->data != x->data && large && whole_lines;
    job.ahead = job.x.direct && large ? AHEAD / (ptrdiff_t)job.x.size : 0;

    ncpu_team_begin(&team, (double)bytes * (y ? 2 : 1));
    job.tasks = least(job.boxes, (size_t)team.threads);
    void *memory = take_memory(&job, factor);
    if (memory) ncpu_team_run(&team, (ptrdiff_t)job.tasks, scale_task, &job);
    const ncpu_status stopped = ncpu_team_end(&team);
    for (size_t t = 0; memory && t < job.tasks; t++) {
        const double *found = job.peaks + t * ncpu_padded(job.view.c);
        for (size_t j = 0; j < job.view.c / job.repeats; j++)
            for (size_t i = 0; i < job.repeats; i++, found++)
                if (*found > peak[j] || *found != *found) peak[j] = *found;
    }
    ncpu_release(memory);
    return memory ? stopped : NCPU_ERROR_MEMORY;
}
