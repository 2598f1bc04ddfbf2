/* SPDX-License-Identifier: Apache-2.0
 * The gradients of layer and root mean square normalization.  What relu or a residual asks of dy, and what elements
 * without a say need it for afterwards, is done to a copy of a group's rows, in cache.
 *
 * Sums over rows have an order that the shape fixes: `slice` rows are added in the data's own numbers, slices in double
 * within a chunk, and chunks in order. */

#include <math.h>
#include <string.h>

#include "row_masks.h"

enum { SLICE = 16, CHUNKS = 16, LEAST_CHUNK = 32 }; /* rows, but for CHUNKS */

typedef struct {
    ncpu_rows rows;
    const ncpu_row_norm *norm;
    ncpu_rows_array dy, s, y, dsum, dx, dresidual;
    const uint8_t *mask;
    int copied; /* dy */
    const void *weight;
    const double *mean, *var;
    int summed, stream; /* dx past the caches */
    ncpu_team *team;
    size_t chunk, chunks, tasks, padded; /* rows of a chunk; padded: of the width */
    char *scratch;
    size_t scratch_size;
    double *total, *parts; /* (2, padded); of every chunk, or one for all where they come in order */
} job;

/* What a task works in: for each row of a group, and the strips of one slice. */
typedef struct {
    double *mean, *var, *start, *p1, *p2, *unused;
    void *center, *slope, *curve, *offset, *shift; /* real */
    uint8_t *outside, *also;
    void *strips, *dy, *s, *y, *dsum, *dx, *dresidual, *copy;
    void *dy_floats, *s_floats, *dsum_floats, *dx_floats; /* of 16-bit data, of a row or the group */
} workspace;

static size_t lay_out(const job *j, char *memory, workspace *w)
{
    const size_t padded = ncpu_padded(j->rows.group), bytes = padded * sizeof(double);
    ncpu_arena a = {memory, 0};
    double **doubles[] = {&w->mean, &w->var, &w->start, &w->p1, &w->p2, &w->unused};
    void **reals[] = {&w->center, &w->slope, &w->curve, &w->offset, &w->shift};
    for (size_t i = 0; i < sizeof doubles / sizeof *doubles; i++) *doubles[i] = ncpu_take(&a, bytes);
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) *reals[i] = ncpu_take(&a, bytes);
    w->outside = ncpu_take(&a, padded), w->also = ncpu_take(&a, padded);
    w->strips = ncpu_take(&a, j->summed ? 2 * j->padded * sizeof(double) : 0);
    w->dy = ncpu_take_rows(&j->rows, &j->dy, &a), w->s = ncpu_take_rows(&j->rows, &j->s, &a);
    w->dsum = ncpu_take_rows(&j->rows, &j->dsum, &a), w->dx = ncpu_take_rows(&j->rows, &j->dx, &a);
    w->y = ncpu_take_rows(&j->rows, &j->y, &a), w->dresidual = ncpu_take_rows(&j->rows, &j->dresidual, &a);
    const size_t elements = j->copied && !j->dresidual.given ? j->rows.group * j->rows.view.s : 0;
    w->copy = ncpu_take(&a, elements * j->dy.operand.size);
    const size_t room = ncpu_float_room(&j->rows, (j->rows.taken == j->rows.stored ? 1 : j->rows.group) * j->rows.view.s);
    w->dy_floats = ncpu_take(&a, room), w->s_floats = ncpu_take(&a, room), w->dx_floats = ncpu_take(&a, room);
    w->dsum_floats = ncpu_take(&a, j->dsum.given ? room : 0);
    return a.used;
}

/* The arguments from the row'th row on. */
static ncpu_norm_grad_args from_row(const job *j, ncpu_norm_grad_args a, size_t row, size_t rows)
{
    const ptrdiff_t i = (ptrdiff_t)row;
    const size_t size = ncpu_dtype_size(j->rows.taken), real = ncpu_real_size(j->rows.dtype);
    a.rows = rows;
    a.dy = ncpu_moved(a.dy, i * a.dy_stride, size), a.x = ncpu_moved(a.x, i * a.x_stride, size);
    a.dsum = ncpu_moved(a.dsum, i * a.dsum_stride, size), a.dx = (void *)ncpu_moved(a.dx, i * a.dx_stride, size);
    const void **reals[] = {&a.center, &a.slope, &a.curve, &a.offset, &a.shift};
    for (size_t k = 0; k < sizeof reals / sizeof *reals; k++) *reals[k] = ncpu_moved(*reals[k], i, real);
    return a;
}

/* One row for the wide kernels. */
static ncpu_norm_grad_args as_floats(const job *j, ncpu_norm_grad_args a, const workspace *w)
{
    a.dy = ncpu_row_floats(&j->rows, a.dy, a.len, w->dy_floats), a.x = ncpu_row_floats(&j->rows, a.x, a.len, w->s_floats);
    if (a.dsum) a.dsum = ncpu_row_floats(&j->rows, a.dsum, a.len, w->dsum_floats);
    if (a.dx && j->rows.taken != j->rows.dtype) a.dx = w->dx_floats;
    return a;
}

/* dy where relu passed, else 0. */
static ncpu_tile undo(const job *j, const ncpu_tile *dy, const ncpu_box *box, const workspace *w)
{
    const ncpu_rows *r = &j->rows;
    const size_t bytes = ncpu_row_bits(r->view.s);
    ncpu_tile y = {0}, g = {w->copy, 0, (ptrdiff_t)r->view.s};
    if (j->y.given) y = ncpu_tile_in(&j->y.operand, &r->view, box, w->y);
    if (j->dresidual.given) g = ncpu_tile_out(&j->dresidual.operand, &r->view, box, w->dresidual);
    r->kernels->set[r->stored].grad_apply_runs(&(ncpu_grad_apply_args){
        .rows = box->rows, .len = r->view.s, .dresidual = g.data, .dresidual_stride = g.row_stride,
        .g = {.dy = dy->data, .y = y.data, .mask = j->mask ? j->mask + box->row * bytes : NULL,
              .dy_stride = dy->row_stride, .y_stride = y.row_stride, .mask_stride = (ptrdiff_t)bytes},
        .center = w->center, .slope = w->slope, .curve = w->curve, .offset = w->offset}); /* of dx: not asked for */
    if (j->dresidual.given) ncpu_tile_done(&j->dresidual.operand, &r->view, box, &g);
    return g;
}

/* The count that a row's sums are divided by; where some elements have no say they are divided before. */
static double count_of(const job *j) { return j->norm->valid ? 1 : (double)j->rows.view.s; }

static void divide_sums(const job *j, size_t first, size_t rows, workspace *w)
{
    const size_t width = j->rows.view.s;
    for (size_t i = 0; i < rows && j->norm->valid; i++) {
        const double count = (double)ncpu_count_valid(width, j->norm->valid + (first + i) * width);
        w->p1[i] /= count, w->p2[i] /= count;
    }
}

/* w's coefficients of the rows; those that float cannot hold are marked. */
static void settle(const job *j, const ncpu_norm_grad_args *a, size_t first, size_t rows, workspace *w)
{
    const ncpu_kernel_set *set = &j->rows.kernels->set[j->rows.dtype];
    for (size_t i = 0; i < rows; i++)
        w->start[i] = j->rows.dtype == NCPU_F64 ? w->mean[i] : (double)(float)w->mean[i];
    set->coefficients(rows, w->mean, NULL, w->var, j->norm->eps, NULL, NULL, w->center, w->slope, w->shift, w->outside);
    j->rows.kernels->rows[j->rows.taken].norm_grad_sums(a, w->start, w->p1, w->p2);
    for (size_t i = 0; i < rows; i++) {
        w->outside[i] |= !isfinite(w->p1[i]) | !isfinite(w->p2[i]);
        if (w->outside[i]) {
            const ncpu_norm_grad_args one = as_floats(j, from_row(j, *a, i, 1), w);
            j->rows.kernels->wide_rows[j->rows.dtype].norm_grad_sums(&one, w->start + i, w->p1 + i, w->p2 + i);
        }
        if (j->norm->rms) w->p1[i] = 0;
    }
    divide_sums(j, first, rows, w);
    const ncpu_grad_coefficients c = {
        .mean = w->mean, .var = w->var, .start = w->start, .p1 = w->p1, .p2 = w->p2, .eps = j->norm->eps,
        .count = count_of(j), .training = 1, .center = w->center, .slope = w->slope, .curve = w->curve,
        .offset = w->offset, .dweight = w->unused, .outside = w->also};
    set->grad_coefficients(&c, rows);
    for (size_t i = 0; i < rows; i++) w->outside[i] |= w->also[i];
}

/* One row in double. */
static void apply_wide(const job *j, ncpu_norm_grad_args a, size_t row, const workspace *w)
{
    const ncpu_tile dx = {a.dx, 0, 0};
    const ncpu_kernel_set *wide = &j->rows.kernels->wide[j->rows.dtype];
    double center[NCPU_PAD] = {0}, slope[NCPU_PAD] = {0}, curve[NCPU_PAD] = {0}, offset[NCPU_PAD] = {0};
    double shift[NCPU_PAD] = {0}, unused[NCPU_PAD];
    uint8_t outside[NCPU_PAD];
    wide->coefficients(1, w->mean + row, NULL, w->var + row, j->norm->eps, NULL, NULL, center, slope, shift, outside);
    const ncpu_grad_coefficients c = {
        .mean = w->mean + row, .var = w->var + row, .start = w->start + row, .p1 = w->p1 + row, .p2 = w->p2 + row,
        .eps = j->norm->eps, .count = count_of(j), .training = 1, .center = center, .slope = slope, .curve = curve,
        .offset = offset, .dweight = unused, .outside = outside};
    wide->grad_coefficients(&c, 1);
    a = as_floats(j, a, w);
    a.center = center, a.slope = slope, a.curve = curve, a.offset = offset, a.shift = shift;
    a.rows = 1, a.shifted = a.certain = 1;
    j->rows.kernels->wide_rows[j->rows.dtype].norm_grad_rows(&a);
    if (a.dx != dx.data) ncpu_from_floats(&j->rows, &(ncpu_tile){a.dx, 0, 0}, &dx, 1, a.len);
}

/* Rows that float can hold.  Their sums over rows may still overflow: then those are made again in double, for which dy has
 * to be there still. */
static void apply(const job *j, const ncpu_norm_grad_args *a, size_t row, const workspace *w)
{
    const ncpu_row_kernels *set = &j->rows.kernels->rows[j->rows.taken];
    ncpu_norm_grad_args sums = *a, dx = *a;
    dx.dweight = dx.dbias = NULL, sums.dx = NULL;
    const int in_place = a->dx == a->dy && j->summed;
    if (!set->norm_grad_rows(in_place ? &sums : a)) {
        if (in_place) set->norm_grad_rows(&dx);
        return;
    }
    for (size_t i = 0; i < a->rows; i++) apply_wide(j, from_row(j, sums, i, 1), row + i, w);
    if (in_place) set->norm_grad_rows(&dx);
}

static void group(const job *j, size_t row, size_t rows, double *sums, char *scratch)
{
    const ncpu_rows *r = &j->rows;
    workspace w;
    lay_out(j, scratch, &w);
    const ncpu_box box = ncpu_rows_box(r, row, rows);
    const size_t width = r->view.s;
    ncpu_tile dy = ncpu_tile_in(&j->dy.operand, &r->view, &box, w.dy), dsum = {0};
    ncpu_tile s = ncpu_tile_in(&j->s.operand, &r->view, &box, w.s);
    const ncpu_tile dx = ncpu_tile_out(&j->dx.operand, &r->view, &box, w.dx);
    const int converted = r->taken != r->stored;
    const ncpu_tile result = converted ? (ncpu_tile){w.dx_floats, 0, (ptrdiff_t)width} : dx;
    if (j->dsum.given) dsum = ncpu_tile_in(&j->dsum.operand, &r->view, &box, w.dsum);
    if (j->copied) dy = undo(j, &dy, &box, &w);
    if (converted) dy = ncpu_as_floats(r, &dy, rows, width, w.dy_floats), s = ncpu_as_floats(r, &s, rows, width, w.s_floats);
    if (converted && j->dsum.given) dsum = ncpu_as_floats(r, &dsum, rows, width, w.dsum_floats);
    for (size_t i = 0; i < rows; i++) w.mean[i] = j->norm->rms ? 0 : j->mean[row + i], w.var[i] = j->var[row + i];
    ncpu_norm_grad_args a = {
        .rows = rows, .len = r->view.s, .dy = dy.data, .x = s.data, .dsum = dsum.data, .dx = result.data,
        .dy_stride = dy.row_stride, .x_stride = s.row_stride, .dsum_stride = dsum.row_stride, .dx_stride = result.row_stride,
        .weight = j->weight, .center = w.center, .slope = w.slope, .curve = w.curve, .offset = w.offset, .shift = w.shift,
        .stream = j->stream && ((uintptr_t)result.data | (uintptr_t)result.row_stride * ncpu_dtype_size(r->taken)) % 64 == 0,
        .dweight = j->summed ? sums : NULL, .dbias = j->summed ? sums + j->padded : NULL, .strips = w.strips};
    settle(j, &a, row, rows, &w);
    a.shifted = ncpu_drop_shifts(w.shift, w.var, j->norm->eps, rows, r->dtype);
    for (size_t i = 0, end; i < rows; i = end) {
        for (end = i + 1; !w.outside[i] && end < rows && !w.outside[end] && end % SLICE;) end++;
        const ncpu_norm_grad_args some = from_row(j, a, i, end - i);
        if (w.outside[i]) apply_wide(j, some, i, &w);
        else apply(j, &some, i, &w);
    }
    for (size_t i = 0; i < rows && j->norm->valid; i++) {
        const ncpu_norm_grad_args one = from_row(j, a, i, 1);
        ncpu_bystanders_dx(r->dtype, width, j->norm->valid + (row + i) * width,
                           &(ncpu_bystanders){one.dy, one.dsum, j->weight, one.dx, w.var[i], j->norm->eps});
    }
    if (converted) ncpu_from_floats(r, &result, &dx, rows, width);
    ncpu_tile_done(&j->dx.operand, &r->view, &box, &dx);
}

static void add_part(const job *j, const double *part) { j->rows.kernels->add_doubles(2 * j->padded, part, j->total); }

static void task(void *context, ptrdiff_t number)
{
    const job *j = context;
    const size_t t = (size_t)number, n = j->rows.view.n;
    for (size_t q = j->chunks * t / j->tasks; q < j->chunks * (t + 1) / j->tasks; q++) {
        double *part = j->tasks > 1 ? j->parts + q * 2 * j->padded : q ? j->parts : j->total; /* which is 0 */
        const size_t end = least(n, (q + 1) * j->chunk);
        if (j->summed && part != j->total) memset(part, 0, 2 * j->padded * sizeof(double));
        for (size_t row = q * j->chunk; row < end; row += j->rows.group) {
            if (ncpu_team_stopped(j->team)) return;
            group(j, row, least(j->rows.group, end - row), part, j->scratch + t * j->scratch_size);
        }
        if (j->summed && j->tasks == 1 && part != j->total) add_part(j, part);
    }
    if (j->stream) j->rows.kernels->fence();
}

static void store(const job *j, void *to, const double *sums)
{
    for (size_t i = 0; to && i < j->rows.view.s; i++)
        if (j->rows.dtype == NCPU_F64) ((double *)to)[i] = sums[i];
        else ((float *)to)[i] = (float)sums[i];
}

static ncpu_status bring(job *j, const ncpu_array *dy, const ncpu_array *s, const ncpu_array *y, const ncpu_array *dsum,
                         const ncpu_array *dx, const ncpu_array *dresidual)
{
    ncpu_status status = ncpu_plan_rows(&j->rows, s, j->norm->axes, ncpu_cached_bytes() / 4);
    if (!status) status = ncpu_bring_rows(&j->rows, s, s, s->dtype, &j->s);
    if (!status) status = ncpu_bring_rows(&j->rows, dy, s, s->dtype, &j->dy);
    if (!status) status = ncpu_bring_rows(&j->rows, dsum, s, s->dtype, &j->dsum);
    if (!status) status = ncpu_bring_rows(&j->rows, dx, s, s->dtype, &j->dx);
    if (!status) status = ncpu_bring_rows(&j->rows, y, s, s->dtype, &j->y);
    if (!status) status = ncpu_bring_rows(&j->rows, dresidual, s, s->dtype, &j->dresidual);
    if (j->norm->valid) j->dsum.operand.direct = 0; /* wanted after dx is written, and it may be dx */
    return status;
}

ncpu_status ncpu_layer_norm_backward(const ncpu_array *dy, const ncpu_array *s, const ncpu_row_norm *norm,
                                     const double *mean, const double *var, ncpu_activation activation,
                                     const ncpu_array *y, const uint8_t *mask, const ncpu_array *dsum,
                                     const ncpu_array *dx, const ncpu_array *dresidual, void *dweight, void *dbias)
{
    if (activation != NCPU_NONE && activation != NCPU_RELU) return NCPU_ERROR_UNSUPPORTED;
    if ((activation == NCPU_RELU) != (y || mask) || (y && mask)) return NCPU_ERROR_ARGUMENT;
    job j = {.norm = norm, .mean = mean, .var = var, .mask = mask, .copied = y || mask || dresidual || norm->valid,
             .summed = dweight || dbias};
    ncpu_status status = bring(&j, dy, s, y, dsum, dx, dresidual);
    const ncpu_view *v = &j.rows.view;
    if (status || v->s == 0) return status;

    ncpu_team team;
    const double elements = (double)v->n * (double)v->s, size = (double)j.s.operand.size;
    ncpu_team_begin(&team, elements * size * (5 + j.dsum.given));
    j.team = &team;
    j.stream = ncpu_leaves_caches(elements * size * (3 + j.dsum.given)) && j.dx.operand.direct && dx->data != dy->data && !norm->valid;
    j.rows.group = j.rows.group < SLICE ? SLICE : j.rows.group / SLICE * SLICE;
    if (!norm->valid && j.rows.kernels->rows[j.rows.stored].norm_grad_rows) j.rows.taken = j.rows.stored;
    j.chunk = divide_up(divide_up(v->n, CHUNKS), LEAST_CHUNK) * LEAST_CHUNK;
    j.chunks = v->n ? divide_up(v->n, j.chunk) : 0;
    j.tasks = j.chunks ? least(j.chunks, (size_t)team.threads) : 1;
    j.padded = ncpu_padded(v->s + 1);
    workspace unused;
    j.scratch_size = lay_out(&j, NULL, &unused);
    const size_t sums = j.summed ? 2 * j.padded * sizeof(double) : 0, parts = sums * (j.tasks > 1 ? j.chunks : 1);
    const size_t weights = norm->plus_one ? j.padded * sizeof(double) : 0;
    char *memory = ncpu_allocate(sums + parts + weights + j.tasks * j.scratch_size);
    if (memory) {
        j.total = (double *)memory, j.parts = (double *)(memory + sums);
        memset(j.total, 0, sums);
        j.weight = ncpu_row_weight(norm, s->dtype, v->s, memory + sums + parts);
        j.scratch = memory + sums + parts + weights;
        ncpu_team_run(&team, (ptrdiff_t)j.tasks, task, &j);
        for (size_t q = 0; j.summed && j.tasks > 1 && q < j.chunks; q++) add_part(&j, j.parts + q * 2 * j.padded);
        store(&j, dweight, j.total);
        store(&j, dbias, j.total + j.padded);
    }
    const ncpu_status stopped = ncpu_team_end(&team);
    ncpu_release(memory);
    return memory ? stopped : NCPU_ERROR_MEMORY;
}
