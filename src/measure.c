/* SPDX-License-Identifier: Apache-2.0 */

#include "measure.h"

#include "block.h"
#include "memory.h"

enum { COLS_ROWS = 512, COLS_ROWS_F64 = 256 }; /* rows of a block of cols: doubles have shorter chains, see measure.inc */
enum { LEAST_CHUNK = 16 * NCPU_BLOCK }; /* elements of a channel */
enum { MOST_CHUNKS = 64 };
enum { LEAST_GROUP = 32768 }; /* bytes: about the fastest cache, and enough to hide the calls */

static size_t cols_rows(ncpu_dtype dtype) { return dtype == NCPU_F64 ? COLS_ROWS_F64 : COLS_ROWS; }

void ncpu_plan_measurement(ncpu_measurement *m, const ncpu_kernels *kernels, const ncpu_view *view,
                           const ncpu_operand *x, ncpu_dtype dtype, size_t run, size_t width)
{
    m->kernels = kernels, m->view = view, m->x = x, m->dtype = dtype;
    m->count = view->n * view->s;
    m->widened = 1, m->in_order = ncpu_leaves_caches((double)m->count * (double)view->c * (double)x->size);
    if (view->cols) {
        m->rows = cols_rows(dtype), m->len = view->c;
        m->blocks = divide_up(view->n, m->rows);
        m->widened = dtype == NCPU_F64 ? 1 : ncpu_rows_beside(view->c); /* folding doubles would round them again */
    } else if (view->s > NCPU_BLOCK) {
        m->rows = 1, m->len = least(run, view->s);
        m->blocks = view->n * divide_up(view->s, m->len);
    } else {
        m->rows = view->s ? NCPU_BLOCK / view->s : 1, m->len = view->s;
        m->blocks = divide_up(view->n, m->rows);
    }
    m->chunk_blocks = divide_up(m->blocks, MOST_CHUNKS);
    if (!view->cols && m->chunk_blocks * m->rows * m->len < LEAST_CHUNK)
        m->chunk_blocks = divide_up(LEAST_CHUNK, m->rows * m->len);
    m->chunks = m->blocks ? divide_up(m->blocks, m->chunk_blocks) : 0;
    m->width = least(width, view->c);
}

ncpu_box ncpu_measure_box(const ncpu_measurement *m, size_t channel, size_t channels, size_t block)
{
    const ncpu_view *v = m->view;
    if (v->cols)
        return (ncpu_box){.row = block * m->rows, .rows = least(m->rows, v->n - block * m->rows),
                          .at = channel, .len = channels, .channels = 1};
    if (m->len < v->s) {
        const size_t pieces = divide_up(v->s, m->len), at = block % pieces * m->len;
        return (ncpu_box){.channel = channel, .channels = channels, .row = block / pieces, .rows = 1,
                          .at = at, .len = least(m->len, v->s - at)};
    }
    return (ncpu_box){.channel = channel, .channels = channels, .row = block * m->rows,
                      .rows = least(m->rows, v->n - block * m->rows), .len = v->s};
}

size_t ncpu_chunk_count(const ncpu_measurement *m, size_t chunk)
{
    size_t count = 0;
    for (size_t b = chunk * m->chunk_blocks; b < least(m->blocks, (chunk + 1) * m->chunk_blocks); b++) {
        const ncpu_box box = ncpu_measure_box(m, 0, 1, b);
        count += ncpu_box_count(m, &box);
    }
    return count;
}

size_t ncpu_measure_scratch(const ncpu_measurement *m)
{
    ncpu_block_workspace w;
    return ncpu_lay_out_block(m, NULL, &w);
}

/* into, of `count` elements so far, with blocks [from, to); returns how many it has then. */
static double measure_blocks(const ncpu_measurement *m, size_t channel, size_t channels, size_t from, size_t to,
                             double count, const ncpu_moments_state *into, ncpu_block_workspace *w, ncpu_team *team)
{
    for (size_t b = from; b < to; b++) {
        if (b % 16 == 0 && ncpu_team_stopped(team)) break;
        const ncpu_box box = ncpu_measure_box(m, channel, channels, b);
        ncpu_measure_block(m, &box, count == 0, w);
        const double part = (double)ncpu_box_count(m, &box);
        m->kernels->merge(channels, count, into, part, &w->part);
        count += part;
    }
    return count;
}

void ncpu_measure_chunk(const ncpu_measurement *m, size_t channel, size_t channels, size_t chunk,
                        const ncpu_moments_state *into, void *scratch, ncpu_team *team)
{
    ncpu_block_workspace w;
    ncpu_lay_out_block(m, scratch, &w);
    const size_t from = chunk * m->chunk_blocks, to = least(m->blocks, from + m->chunk_blocks);
    if (m->view->cols || m->len == m->view->s || !m->in_order) {
        measure_blocks(m, channel, channels, from, to, 0, into, &w, team);
        return;
    }
    const size_t pieces = divide_up(m->view->s, m->len);
    double count = 0;
    for (size_t b = from, end; b < to; b = end) {
        if (ncpu_team_stopped(team)) return;
        end = least(to, (b / pieces + 1) * pieces);
        double more = 0;
        for (size_t j = 0; j < channels; j++) {
            ncpu_block_workspace one = w;
            const ncpu_moments_state state = ncpu_state_at(into, j);
            one.k += j;
            more = measure_blocks(m, channel + j, 1, b, end, count, &state, &one, team);
        }
        count = more;
    }
}

size_t ncpu_channels_together(const ncpu_view *view, size_t size, int direct, size_t threads)
{
    const size_t run = view->s * size + (view->s == 0), channel = view->n * run + (view->n == 0);
    const size_t all = channel * view->c, own = ncpu_cache_bytes(2) / 2, shared = ncpu_cache_bytes(3) / 3 / threads;
    const size_t budget = all <= own || !direct ? LEAST_GROUP : own > shared ? own : shared;

    const size_t most = least(budget / channel ? budget / channel : 1, divide_up(view->c, threads));
    const size_t groups = divide_up(divide_up(view->c, most), threads) * threads;
    return divide_up(view->c, groups);
}

size_t ncpu_columns_together(const ncpu_view *view, ncpu_dtype dtype, size_t threads)
{
    /* Few channels are laid side by side, which a strip of them could not be. */
    if (threads == 1 || view->c < NCPU_WRAP * threads || divide_up(view->n, cols_rows(dtype)) >= 8 * threads) return view->c;
    return ncpu_padded(divide_up(view->c, threads));
}

typedef struct {
    const ncpu_measurement *m;
    ncpu_team *team;
    size_t groups, tasks, stride;
    char *scratch;
    size_t scratch_size;
    double *parts; /* (chunks, 4, stride) */
} measure_job;

static void measure_task(void *context, ptrdiff_t task)
{
    const measure_job *job = context;
    const ncpu_measurement *m = job->m;
    const size_t units = job->groups * m->chunks, t = (size_t)task;
    for (size_t u = units * t / job->tasks; u < units * (t + 1) / job->tasks; u++) {
        const size_t chunk = u / job->groups, channel = u % job->groups * m->width;
        const ncpu_moments_state part = ncpu_state_in(job->parts + chunk * 4 * job->stride + channel, job->stride);
        ncpu_measure_chunk(m, channel, least(m->width, m->view->c - channel), chunk, &part,
                           job->scratch + t * job->scratch_size, job->team);
    }
}

ncpu_status ncpu_measure(ncpu_measurement *m, const ncpu_moments_state *total, ncpu_team *team)
{
    const size_t c = m->view->c, groups = divide_up(c, m->width), units = groups * m->chunks;
    if (units == 0) return NCPU_OK;
    measure_job job = {.m = m, .team = team, .groups = groups, .stride = ncpu_padded(c)};
    job.tasks = least(units, (size_t)team->threads);
    job.scratch_size = ncpu_measure_scratch(m);
    const size_t parts = m->chunks * 4 * job.stride * sizeof(double);
    char *memory = ncpu_allocate(parts + job.tasks * job.scratch_size);
    if (!memory) return NCPU_ERROR_MEMORY;
    job.parts = (double *)memory, job.scratch = memory + parts;
    ncpu_team_run(team, (ptrdiff_t)job.tasks, measure_task, &job);
    double count = 0;
    for (size_t q = 0; q < m->chunks && !ncpu_team_stopped(team); q++) {
        const ncpu_moments_state part = ncpu_state_in(job.parts + q * 4 * job.stride, job.stride);
        const double more = (double)ncpu_chunk_count(m, q);
        m->kernels->merge(c, count, total, more, &part);
        count += more;
    }
    ncpu_release(memory);
    return NCPU_OK;
}
