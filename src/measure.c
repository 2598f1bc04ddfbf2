/* SPDX-License-Identifier: Apache-2.0 */

#include "measure.h"

#include <math.h>
#include <string.h>

#include "memory.h"

enum { COLS_ROWS = 512, COLS_ROWS_F64 = 256 }; /* rows of a block of cols: doubles have shorter chains, see measure.inc */
enum { LEAST_CHUNK = 16 * NCPU_BLOCK, MOST_CHUNKS = 64 }; /* elements of a channel */
enum { LEAST_GROUP = 32768 }; /* bytes: about the fastest cache, and enough to hide the calls */

static size_t cols_rows(ncpu_dtype dtype) { return dtype == NCPU_F64 ? COLS_ROWS_F64 : COLS_ROWS; }

void ncpu_plan_measurement(ncpu_measurement *m, const ncpu_kernels *kernels, const ncpu_view *view,
                           const ncpu_operand *x, ncpu_dtype dtype, size_t run, size_t width)
{
    m->kernels = kernels, m->view = view, m->x = x, m->dtype = dtype;
    m->count = view->n * view->s;
    m->widened = 1;
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

static size_t box_count(const ncpu_measurement *m, const ncpu_box *box)
{
    return m->view->cols ? box->rows : box->rows * box->len;
}

size_t ncpu_chunk_count(const ncpu_measurement *m, size_t chunk)
{
    size_t count = 0;
    for (size_t b = chunk * m->chunk_blocks; b < least(m->blocks, (chunk + 1) * m->chunk_blocks); b++) {
        const ncpu_box box = ncpu_measure_box(m, 0, 1, b);
        count += box_count(m, &box);
    }
    return count;
}

/* What a task works in: per channel of its width, and room for one packed block. */
typedef struct {
    double *k, *s1, *s2;
    double *wide_k, *wide_s1, *wide_s2; /* cols laid side by side */
    ncpu_moments_state part;
    uint8_t *rejected;
    void *pack;
} workspace;

static size_t lay_out(const ncpu_measurement *m, char *memory, workspace *w)
{
    const size_t padded = ncpu_padded(m->width) + NCPU_PAD, beside = m->widened > 1 ? padded * m->widened : 0;
    ncpu_arena a = {memory, 0};
    w->k = ncpu_take(&a, padded * 8), w->s1 = ncpu_take(&a, padded * 8), w->s2 = ncpu_take(&a, padded * 8);
    w->wide_k = ncpu_take(&a, beside * 8), w->wide_s1 = ncpu_take(&a, beside * 8), w->wide_s2 = ncpu_take(&a, beside * 8);
    w->part = (ncpu_moments_state){ncpu_take(&a, padded * 8), ncpu_take(&a, padded * 8), ncpu_take(&a, padded * 8),
                                   ncpu_take(&a, padded * 8)};
    w->rejected = ncpu_take(&a, padded);
    const int packs = !m->x->direct || (m->widened > 1 && m->x->row_step != (ptrdiff_t)m->view->c);
    w->pack = ncpu_take(&a, packs ? m->rows * m->len * (m->view->cols ? 1 : m->width) * m->x->size : 0);
    return a.used;
}

size_t ncpu_measure_scratch(const ncpu_measurement *m)
{
    workspace w;
    return lay_out(m, NULL, &w);
}

static double start(const ncpu_measurement *m, double x) { return ncpu_start(x, m->x->size); }

/* Sums of cols with `widened` rows side by side: as if the array had widened * c columns. */
static void measure_beside(const ncpu_measurement *m, const ncpu_kernel_set *set, ncpu_measure_args args, workspace *w)
{
    const size_t c = args.len, f = m->widened, rest = args.rows % f;
    for (size_t i = 0; i < f; i++) memcpy(w->wide_k + i * c, w->k, c * sizeof *w->k);
    memset(w->s1, 0, c * sizeof *w->s1);
    memset(w->s2, 0, c * sizeof *w->s2);
    for (int last = 0; last < 2; last++) { /* whole groups of f rows, then the rest as one shorter row */
        ncpu_measure_args wide = args;
        wide.rows = last ? rest > 0 : args.rows / f;
        wide.len = last ? rest * c : f * c;
        wide.row_stride = (ptrdiff_t)(f * c);
        wide.x = (const char *)args.x + (last ? (args.rows - rest) * c * m->x->size : 0);
        if (!wide.rows) continue;
        set->measure_cols(&wide, w->wide_k, w->wide_s1, w->wide_s2);
        for (size_t half = f / 2; half && !last; half /= 2) /* pairwise */
            for (size_t i = 0; i < half * c; i++)
                w->wide_s1[i] += w->wide_s1[half * c + i], w->wide_s2[i] += w->wide_s2[half * c + i];
        for (size_t i = 0; i < (last ? wide.len : c); i++) w->s1[i % c] += w->wide_s1[i], w->s2[i % c] += w->wide_s2[i];
    }
}

static void measure_set(const ncpu_measurement *m, const ncpu_kernel_set *set, const ncpu_measure_args *args,
                        const double *k, double *s1, double *s2)
{
    (m->view->cols ? set->measure_cols : set->measure_runs)(args, k, s1, s2);
}

/* Measures a rejected channel (runs) or 16 columns (cols) again: from the mean that the first sums gave, then, where
 * float cannot hold the squares, in double from its own guess and again from that pass's mean. */
static void measure_again(const ncpu_measurement *m, ncpu_measure_args args, double count, size_t j, size_t width,
                          workspace *w)
{
    const ncpu_kernel_set *set = &m->kernels->set[m->dtype], *wide = &m->kernels->wide[m->dtype];
    const ncpu_moments_state out = ncpu_state_at(&w->part, j);
    double k[NCPU_PAD] = {0}, s1[NCPU_PAD], s2[NCPU_PAD], memory[4 * NCPU_PAD];
    const ncpu_moments_state part = ncpu_state_in(memory, NCPU_PAD);
    uint8_t ignored[NCPU_PAD], pending[NCPU_PAD];
    memcpy(pending, w->rejected + j, width);
    if (m->view->cols) args.x = (const char *)args.x + j * m->x->size, args.len = width;
    else args.x = (const char *)args.x + (ptrdiff_t)j * args.channel_stride * (ptrdiff_t)m->x->size, args.channels = 1;

    for (int pass = 0; pass < 3; pass++) {
        if (pass == 1) (m->view->cols ? wide->guess_cols : wide->guess_runs)(&args, k);
        else
            for (size_t i = 0; i < width; i++) {
                const double mean = pass ? part.mean[i] : start(m, out.mean[i]);
                k[i] = isfinite(mean) ? mean : pass ? k[i] : w->k[j + i];
            }
        measure_set(m, pass ? wide : set, &args, k, s1, s2);
        m->kernels->finish(width, count, 0, 1, k, s1, s2, &part, ignored);
        int unsettled = 0;
        for (size_t i = 0; i < width; i++) {
            if (!pending[i]) continue;
            if (pass == 0 && !(s2[i] >= ncpu_tiny(m->dtype) * count && s2[i] < INFINITY)) {
                unsettled = 1;
                continue;
            }
            out.mean[i] = part.mean[i], out.mean_tail[i] = part.mean_tail[i];
            out.m2[i] = part.m2[i], out.m2_tail[i] = part.m2_tail[i];
            w->k[j + i] = start(m, part.mean[i]);
            if (pass == 0) pending[i] = 0;
        }
        if (pass == 0 && !unsettled) return;
    }
}

/* w->part = moments of one block. */
static void measure_block(const ncpu_measurement *m, const ncpu_box *box, int first, workspace *w)
{
    const ncpu_kernel_set *set = &m->kernels->set[m->dtype];
    const size_t channels = m->view->cols ? box->len : box->channels;
    const double count = (double)box_count(m, box);
    ncpu_tile tile = ncpu_tile_in(m->x, m->view, box, w->pack);
    const int beside = m->widened > 1 && channels == m->view->c;
    if (beside && m->x->direct && tile.row_stride != (ptrdiff_t)channels) {
        ncpu_gather(m->x, m->view, box, w->pack);
        tile = (ncpu_tile){w->pack, 0, (ptrdiff_t)channels};
    }
    const ncpu_measure_args args = {.channels = box->channels, .rows = box->rows, .len = box->len, .x = tile.data,
                                    .channel_stride = tile.channel_stride, .row_stride = tile.row_stride};
    if (first) (m->view->cols ? set->guess_cols : set->guess_runs)(&args, w->k);
    if (beside) measure_beside(m, set, args, w);
    else measure_set(m, set, &args, w->k, w->s1, w->s2);
    const size_t step = m->view->cols ? NCPU_PAD : 1;
    if (m->kernels->finish(channels, count, ncpu_tiny(m->dtype), ncpu_near(m->dtype), w->k, w->s1, w->s2, &w->part, w->rejected))
        for (size_t j = 0; j < channels; j += step) {
            const size_t width = least(step, channels - j);
            if (memchr(w->rejected + j, 1, width)) measure_again(m, args, count, j, width, w);
        }
    if (first)
        for (size_t j = 0; j < channels; j++) {
            const double mean = start(m, w->part.mean[j]);
            if (isfinite(mean)) w->k[j] = mean;
        }
}

/* into, of `count` elements so far, with blocks [from, to); returns how many it has then. */
static double measure_blocks(const ncpu_measurement *m, size_t channel, size_t channels, size_t from, size_t to,
                             double count, const ncpu_moments_state *into, workspace *w, ncpu_team *team)
{
    for (size_t b = from; b < to; b++) {
        if (b % 16 == 0 && ncpu_team_stopped(team)) break;
        const ncpu_box box = ncpu_measure_box(m, channel, channels, b);
        measure_block(m, &box, count == 0, w);
        const double part = (double)box_count(m, &box);
        m->kernels->merge(channels, count, into, part, &w->part);
        count += part;
    }
    return count;
}

void ncpu_measure_chunk(const ncpu_measurement *m, size_t channel, size_t channels, size_t chunk,
                        const ncpu_moments_state *into, void *scratch, ncpu_team *team)
{
    workspace w;
    lay_out(m, scratch, &w);
    const size_t from = chunk * m->chunk_blocks, to = least(m->blocks, from + m->chunk_blocks);
    const double bytes = (double)m->count * (double)m->view->c * (double)m->x->size;
    if (m->view->cols || m->len == m->view->s || !ncpu_leaves_caches(bytes)) {
        measure_blocks(m, channel, channels, from, to, 0, into, &w, team);
        return;
    }
    /* From beyond the caches in the order of memory: all pieces of a run, then the next channel's. */
    const size_t pieces = divide_up(m->view->s, m->len);
    double count = 0;
    for (size_t b = from, end; b < to; b = end) {
        end = least(to, (b / pieces + 1) * pieces);
        double more = 0;
        for (size_t j = 0; j < channels; j++) {
            workspace one = w;
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
