/* SPDX-License-Identifier: Apache-2.0
 * Rows that lie across memory, side by side: a tile has their elements as rows and them as columns. */

#include <math.h>
#include <string.h>

#include "layer_norm.h"
#include "row_masks.h"

enum { LEAST_TILE = 64, MOST_TILE = 1024 }; /* columns */

/* What a task works in: for each column of a tile. */
typedef struct {
    ncpu_moments_state total, part;
    double *mean, *var;
    void *center, *scale, *shift; /* real */
    uint8_t *outside;
    float *values; /* (width, tile): what is to be quantized */
    void *measure, *x, *added, *sum, *residual, *y;
    void *floats, *residual_floats; /* of 16-bit data */
} workspace;

/* The tile as channels-last rows; `widened` stays 1, or a column's sums would depend on how many there are. */
static void plan(const ncpu_norm_job *j, const ncpu_tile *s, size_t columns, ncpu_view *view, ncpu_operand *operand,
                 ncpu_measurement *m)
{
    const size_t size = ncpu_real_size(j->rows.dtype);
    *view = (ncpu_view){.cols = 1, .n = j->rows.view.n, .c = columns, .s = 1};
    *operand = (ncpu_operand){.data = s->data, .size = size, .c_stride = (ptrdiff_t)size, .direct = 1,
                              .channel_step = 1, .row_step = s->row_stride};
    ncpu_plan_measurement(m, j->rows.kernels, view, operand, j->rows.dtype, NCPU_BLOCK, columns);
    m->widened = 1;
}

void ncpu_plan_columns(ncpu_norm_job *j)
{
    const ncpu_operand *x = &j->x.operand;
    const size_t width = j->rows.view.n, positions = j->rows.view.s;
    const int in_runs = x->dims > x->n_dims && x->strides[x->dims - 1] == (ptrdiff_t)x->size;
    j->run = in_runs ? (size_t)x->shape[x->dims - 1] : positions;
    const size_t fit = ncpu_cached_bytes() / 2 / (width * x->size) / LEAST_TILE * LEAST_TILE;
    j->tile = fit < LEAST_TILE ? LEAST_TILE : least(fit, MOST_TILE);
    j->tile = least(j->tile, j->run);
    j->tiles = divide_up(j->run, j->tile);
    j->units = positions / j->run * j->tiles;
}

/* Where the array has the box itself: in one run, its rows at one distance. */
static int has_box(const ncpu_operand *o, const ncpu_box *box)
{
    if (o->n_dims > 1 || (uintptr_t)o->data % o->size) return 0;
    if (o->n_dims && o->strides[0] % (ptrdiff_t)o->size) return 0;
    if (o->dims == o->n_dims) return 1;
    const size_t run = (size_t)o->shape[o->dims - 1];
    if (o->strides[o->dims - 1] != (ptrdiff_t)o->size || box->at % run + box->len > run) return 0;
    for (int i = o->n_dims; i < o->dims - 1; i++)
        if (o->strides[i] % (ptrdiff_t)o->size) return 0;
    return 1;
}

static ncpu_tile tile_at(const ncpu_norm_job *j, const ncpu_operand *o, const ncpu_box *box, void *pack, int read)
{
    if (!has_box(o, box)) {
        if (read) ncpu_gather(o, &j->rows.view, box, pack);
        return (ncpu_tile){pack, 0, (ptrdiff_t)box->len};
    }
    char *data = o->data;
    size_t index = box->at;
    for (int i = o->dims - 1; i >= o->n_dims; i--) {
        data += (ptrdiff_t)(index % (size_t)o->shape[i]) * o->strides[i];
        index /= (size_t)o->shape[i];
    }
    return (ncpu_tile){data, 0, o->n_dims ? o->strides[0] / (ptrdiff_t)o->size : 0};
}

static void done(const ncpu_norm_job *j, const ncpu_operand *o, const ncpu_box *box, const ncpu_tile *tile)
{
    ncpu_operand packed = *o;
    packed.direct = 0; /* whatever the whole array is, this box was a copy */
    if (!has_box(o, box)) ncpu_tile_done(&packed, &j->rows.view, box, tile);
}

static void *take(const ncpu_norm_job *j, const ncpu_rows_array *a, ncpu_arena *arena)
{
    return a->given ? ncpu_take(arena, a->operand.direct ? 0 : j->rows.view.n * j->tile * a->operand.size) : NULL;
}

static size_t lay_out(const ncpu_norm_job *j, char *memory, workspace *w)
{
    const size_t padded = ncpu_padded(j->tile), bytes = padded * sizeof(double);
    ncpu_arena a = {memory, 0};
    ncpu_view view;
    ncpu_operand operand;
    ncpu_measurement m;
    plan(j, &(ncpu_tile){0}, j->tile, &view, &operand, &m);
    double *moments = ncpu_take(&a, 10 * bytes);
    if (memory) {
        w->total = ncpu_state_in(moments, padded), w->part = ncpu_state_in(moments + 4 * padded, padded);
        w->mean = moments + 8 * padded, w->var = moments + 9 * padded;
    }
    w->center = ncpu_take(&a, bytes), w->scale = ncpu_take(&a, bytes), w->shift = ncpu_take(&a, bytes);
    w->outside = ncpu_take(&a, padded);
    w->measure = ncpu_take(&a, ncpu_measure_scratch(&m));
    w->values = ncpu_take(&a, j->quantization ? j->rows.view.n * j->tile * sizeof(float) : 0);
    w->x = take(j, &j->x, &a), w->added = take(j, &j->added, &a), w->sum = take(j, &j->sum, &a);
    w->residual = take(j, &j->residual, &a), w->y = take(j, &j->y, &a);
    const size_t room = ncpu_float_room(&j->rows, j->rows.view.n * j->tile);
    w->floats = ncpu_take(&a, room), w->residual_floats = ncpu_take(&a, j->residual.given ? room : 0);
    return a.used;
}

size_t ncpu_columns_scratch(const ncpu_norm_job *j)
{
    workspace unused;
    return lay_out(j, NULL, &unused);
}

static void measure_columns(const ncpu_norm_job *j, const ncpu_tile *s, size_t columns, workspace *w)
{
    ncpu_view view;
    ncpu_operand operand;
    ncpu_measurement m;
    plan(j, s, columns, &view, &operand, &m);
    double count = 0;
    for (size_t q = 0; q < m.chunks; q++) {
        const double more = (double)ncpu_chunk_count(&m, q);
        ncpu_measure_chunk(&m, 0, columns, q, q ? &w->part : &w->total, w->measure, j->team);
        if (q) m.kernels->merge(columns, count, &w->total, more, &w->part);
        count += more;
    }
    for (size_t i = 0; i < columns; i++) {
        const double mean = w->total.mean[i], var = w->total.m2[i] / count;
        w->mean[i] = j->norm->rms ? 0 : mean, w->var[i] = j->norm->rms ? var + mean * mean : var;
    }
}

/* Columns [at, at + columns), which are all in float's range, or one that is not. */
static void apply(const ncpu_norm_job *j, ncpu_norm_args a, size_t at, size_t columns, const workspace *w)
{
    const ncpu_kernels *kernels = j->rows.kernels;
    const ptrdiff_t i = (ptrdiff_t)at;
    const size_t size = ncpu_real_size(j->rows.dtype), real = size;
    a.len = columns;
    a.x = ncpu_moved(a.x, i, size), a.residual = ncpu_moved(a.residual, i, size);
    a.y = (void *)ncpu_moved(a.y, i, size);
    a.center = ncpu_moved(a.center, i, real), a.scale = ncpu_moved(a.scale, i, real);
    a.shift = ncpu_moved(a.shift, i, real);
    if (!w->outside[at]) {
        kernels->rows[j->rows.dtype].norm_cols(&a);
        return;
    }
    double center[NCPU_PAD] = {0}, scale[NCPU_PAD] = {0}, shift[NCPU_PAD] = {0};
    uint8_t outside[NCPU_PAD];
    const double *tail = j->norm->rms ? NULL : w->total.mean_tail + at;
    kernels->wide[j->rows.dtype].coefficients(1, w->mean + at, tail, w->var + at, j->norm->eps, NULL, NULL, center, scale, shift, outside);
    a.center = center, a.scale = scale, a.shift = shift, a.centered = a.shifted = 1;
    kernels->wide_rows[j->rows.dtype].norm_cols(&a);
}

/* Bytes of w->values (width, columns), whose columns begin at position `at`. */
static void quantize(const ncpu_norm_job *j, const ncpu_tile *y, size_t at, size_t columns, const workspace *w)
{
    const ncpu_quantization *q = j->quantization;
    const ncpu_kernels *kernels = j->rows.kernels;
    const size_t width = j->rows.view.n;
    const int low = j->y_dtype == NCPU_I8 ? -128 : 0;
    uint8_t *to = y->data;
    for (size_t i = 0; i < width && !q->scales; i++)
        kernels->quantize(columns, w->values + i * columns, q->scale, q->zero_point, low, low + 255,
                          to + (ptrdiff_t)i * y->row_stride);
    if (!q->scales) return;
    float *peak = q->scales + at;
    for (size_t k = 0; k < columns; k++) peak[k] = 0;
    for (size_t i = 0; i < width; i++)
        for (size_t k = 0; k < columns; k++) {
            const float size = fabsf(w->values[i * columns + k]);
            peak[k] = size > peak[k] ? size : peak[k];
        }
    for (size_t k = 0; k < columns; k++) peak[k] = peak[k] / 127 > 0 ? peak[k] / 127 : 1;
    for (size_t i = 0; i < width; i++)
        for (size_t k = 0; k < columns; k++)
            kernels->quantize(1, w->values + i * columns + k, peak[k], 0, -127, 127,
                              to + (ptrdiff_t)i * y->row_stride + (ptrdiff_t)k);
}

void ncpu_norm_tile(const ncpu_norm_job *j, size_t unit, char *scratch)
{
    const ncpu_rows *r = &j->rows;
    const size_t first = unit % j->tiles * j->tile, columns = least(j->tile, j->run - first);
    const ncpu_box box = {.channels = 1, .rows = r->view.n, .at = unit / j->tiles * j->run + first, .len = columns};
    workspace w;
    lay_out(j, scratch, &w);
    ncpu_tile s = tile_at(j, &j->x.operand, &box, w.x, 1), sum = {0}, residual = {0};
    if (j->added.given) {
        const ncpu_tile added = tile_at(j, &j->added.operand, &box, w.added, 1);
        sum = tile_at(j, &j->sum.operand, &box, w.sum, 0);
        ncpu_norm_add(j, &s, &added, &sum, r->view.n, columns);
        s = sum;
    }
    s = ncpu_as_floats(r, &s, r->view.n, columns, w.floats);
    measure_columns(j, &s, columns, &w);
    r->kernels->set[r->dtype].coefficients(columns, w.mean, j->norm->rms ? NULL : w.total.mean_tail, w.var, j->norm->eps,
                                           NULL, NULL, w.center, w.scale, w.shift, w.outside);
    if (j->residual.given) {
        residual = tile_at(j, &j->residual.operand, &box, w.residual, 1);
        residual = ncpu_as_floats(r, &residual, r->view.n, columns, w.residual_floats);
    }
    const ncpu_tile y = tile_at(j, &j->y.operand, &box, w.y, 0);
    const ncpu_tile result = ncpu_is_half(r) ? s : y; /* of floats, in place */
    const ncpu_norm_args args = {
        .rows = r->view.n, .x = s.data, .residual = residual.data, .y = j->quantization ? (void *)w.values : result.data,
        .x_stride = s.row_stride, .residual_stride = residual.row_stride,
        .y_stride = j->quantization ? (ptrdiff_t)columns : result.row_stride, .center = w.center, .scale = w.scale,
        .shift = w.shift, .weight = j->weight, .bias = j->norm->bias, .centered = !j->norm->rms,
        .shifted = ncpu_drop_shifts(w.shift, w.var, j->norm->eps, columns, r->dtype),
        .activation = j->epilogue.activation, .negative_slope = j->epilogue.negative_slope};
    for (size_t i = 0, end; i < columns; i = end) {
        for (end = i + 1; !w.outside[i] && end < columns && !w.outside[end];) end++;
        apply(j, args, i, end - i, &w);
    }
    if (j->epilogue.mask)
        ncpu_bits_of_columns(r, &result, r->view.n, columns, j->epilogue.mask + box.at * ncpu_row_bits(r->view.n));
    if (j->quantization) quantize(j, &y, box.at, columns, &w);
    else ncpu_from_floats(r, &result, &y, r->view.n, columns);
    done(j, &j->y.operand, &box, &y);
    if (j->added.given) done(j, &j->sum.operand, &box, &sum);
    if (j->mean) memcpy(j->mean + box.at, w.mean, columns * sizeof(double));
    if (j->var) memcpy(j->var + box.at, w.var, columns * sizeof(double));
}
