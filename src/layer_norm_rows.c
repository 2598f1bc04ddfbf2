/* SPDX-License-Identifier: Apache-2.0
 * Rows that lie in memory as rows: groups of them, measured and then applied from cache. */

#include <math.h>
#include <string.h>

#include "layer_norm.h"
#include "row_masks.h"

enum { MOST_TOGETHER = 16384 }; /* bytes of rows that stay in the fastest cache while others arrive */

/* What a task works in: for each row of a group. */
typedef struct {
    ncpu_moments_state total;
    double *mean, *var, *start, *s1, *s2;
    void *center, *scale, *shift; /* real */
    uint8_t *outside, *rejected;
    float *values; /* (width): what is to be quantized */
    void *measure; /* of one row that plain sums do not fit */
    void *kept;    /* (width): its elements that have a say */
    void *x, *added, *sum, *residual, *y; /* copies, where arrays are not direct */
    void *floats, *residual_floats;       /* of 16-bit data, of a row or those together */
} workspace;

static size_t lay_out(const ncpu_norm_job *j, char *memory, workspace *w)
{
    const ncpu_rows *r = &j->rows;
    const size_t padded = ncpu_padded(r->group), bytes = padded * sizeof(double);
    ncpu_arena a = {memory, 0};
    double *moments = ncpu_take(&a, 9 * bytes);
    if (memory) {
        w->total = ncpu_state_in(moments, padded), w->mean = moments + 4 * padded, w->var = moments + 5 * padded;
        w->start = moments + 6 * padded, w->s1 = moments + 7 * padded, w->s2 = moments + 8 * padded;
        memset(w->start, 0, bytes);
    }
    w->center = ncpu_take(&a, bytes), w->scale = ncpu_take(&a, bytes), w->shift = ncpu_take(&a, bytes);
    w->outside = ncpu_take(&a, padded), w->rejected = ncpu_take(&a, padded);
    w->measure = ncpu_take(&a, j->measure_size);
    w->kept = ncpu_take(&a, j->norm->valid ? r->view.s * ncpu_real_size(r->dtype) : 0);
    w->values = ncpu_take(&a, j->quantization ? r->view.s * sizeof(float) : 0);
    w->x = ncpu_take_rows(r, &j->x, &a), w->added = ncpu_take_rows(r, &j->added, &a);
    w->sum = ncpu_take_rows(r, &j->sum, &a), w->residual = ncpu_take_rows(r, &j->residual, &a);
    w->y = ncpu_take_rows(r, &j->y, &a);
    const size_t elements = (r->taken == r->stored ? 1 : j->together) * r->view.s;
    w->floats = ncpu_take(&a, ncpu_float_room(r, elements));
    w->residual_floats = ncpu_take(&a, j->residual.given ? ncpu_float_room(r, elements) : 0);
    return a.used;
}

/* len elements of one row as a channel. */
static void plan_row(const ncpu_norm_job *j, void *data, size_t len, ncpu_view *view, ncpu_operand *operand,
                     ncpu_measurement *m)
{
    *view = (ncpu_view){.n = 1, .c = 1, .s = len};
    *operand = (ncpu_operand){.data = data, .size = ncpu_real_size(j->rows.dtype), .direct = 1};
    ncpu_plan_measurement(m, j->rows.kernels, view, operand, j->rows.dtype, NCPU_BLOCK, 1);
}

/* w->total of a row, in blocks, each from a start value of its own. */
static void measure_row(const ncpu_norm_job *j, void *data, size_t len, size_t row, workspace *w)
{
    ncpu_view view;
    ncpu_operand operand;
    ncpu_measurement m;
    double memory[4];
    const ncpu_moments_state total = ncpu_state_at(&w->total, row), part = ncpu_state_in(memory, 1);
    double count = 0;
    plan_row(j, data, len, &view, &operand, &m);
    for (size_t q = 0; q < m.chunks; q++) {
        const double more = (double)ncpu_chunk_count(&m, q);
        ncpu_measure_chunk(&m, 0, 1, q, q ? &part : &total, w->measure, j->team);
        if (q) m.kernels->merge(1, count, &total, more, &part);
        count += more;
    }
}

/* w->total, mean and var of the rows: by plain sums where the mean is small beside sigma and float can hold the squares. */
static void measure_rows(const ncpu_norm_job *j, const ncpu_norm_args *a, workspace *w)
{
    const ncpu_kernels *kernels = j->rows.kernels;
    const double count = (double)a->len, tiny = ncpu_tiny(j->rows.dtype);
    const int rms = j->norm->rms;
    kernels->rows[j->rows.taken].norm_sums(a, w->s1, w->s2);
    int any = 0;
    if (!rms) any = kernels->finish(a->rows, count, tiny, ncpu_near(j->rows.dtype), w->start, w->s1, w->s2, &w->total, w->rejected);
    for (size_t i = 0; rms && i < a->rows; i++) {
        w->mean[i] = 0, w->var[i] = w->s2[i] / count;
        any |= w->rejected[i] = !(w->s2[i] >= tiny * count && w->s2[i] < INFINITY);
    }
    for (size_t i = 0; any && i < a->rows; i++) {
        if (!w->rejected[i]) continue;
        const void *x = ncpu_moved(a->x, (ptrdiff_t)i * a->x_stride, ncpu_dtype_size(j->rows.taken));
        measure_row(j, ncpu_row_floats(&j->rows, x, a->len, w->floats), a->len, i, w);
        if (rms) w->var[i] = w->total.m2[i] / count + w->total.mean[i] * w->total.mean[i];
    }
    for (size_t i = 0; !rms && i < a->rows; i++) w->mean[i] = w->total.mean[i], w->var[i] = w->total.m2[i] / count;
}

/* The same of the elements that have a say; `first` is the number of the first row.  Of none, mean is 0 and var NaN. */
static void measure_valid(const ncpu_norm_job *j, const ncpu_norm_args *a, size_t first, workspace *w)
{
    for (size_t i = 0; i < a->rows; i++) {
        const void *row = ncpu_moved(a->x, (ptrdiff_t)i * a->x_stride, ncpu_real_size(j->rows.dtype));
        const uint8_t *valid = j->norm->valid + (first + i) * a->len;
        const size_t count = ncpu_keep_valid_elements(j->rows.dtype, a->len, row, valid, w->kept);
        w->total.mean[i] = w->total.mean_tail[i] = w->total.m2[i] = w->total.m2_tail[i] = 0;
        if (count) measure_row(j, w->kept, count, i, w);
        const double mean = w->total.mean[i], var = w->total.m2[i] / (double)count;
        w->mean[i] = j->norm->rms ? 0 : mean, w->var[i] = j->norm->rms ? var + mean * mean : var;
    }
}

/* The arguments from the i'th row on, of elements of `size` bytes. */
static ncpu_norm_args from_row(const ncpu_norm_job *j, ncpu_norm_args a, size_t i, size_t rows, size_t size)
{
    const ptrdiff_t by = (ptrdiff_t)i;
    const size_t real = ncpu_real_size(j->rows.dtype);
    a.rows = rows;
    a.x = ncpu_moved(a.x, by * a.x_stride, size), a.residual = ncpu_moved(a.residual, by * a.residual_stride, size);
    a.y = (void *)ncpu_moved(a.y, by * a.y_stride, j->quantization ? 1 : size);
    a.center = ncpu_moved(a.center, by, real), a.scale = ncpu_moved(a.scale, by, real), a.shift = ncpu_moved(a.shift, by, real);
    return a;
}

/* The i'th row, whose coefficients or results float's range does not hold. */
static void apply_wide(const ncpu_norm_job *j, ncpu_norm_args a, size_t i, const workspace *w)
{
    const ncpu_rows *r = &j->rows;
    double center[NCPU_PAD] = {0}, scale[NCPU_PAD] = {0}, shift[NCPU_PAD] = {0};
    uint8_t outside[NCPU_PAD];
    const double *tail = j->norm->rms ? NULL : w->total.mean_tail + i;
    r->kernels->wide[r->dtype].coefficients(1, w->mean + i, tail, w->var + i, j->norm->eps, NULL, NULL, center, scale, shift, outside);
    a.center = center, a.scale = scale, a.shift = shift, a.centered = a.shifted = 1, a.stream = 0, a.ahead = 0;
    const ncpu_tile y = {a.y, 0, 0}, floats = {w->floats, 0, 0};
    const int converted = r->taken != r->dtype && !j->quantization;
    a.x = ncpu_row_floats(r, a.x, a.len, w->floats);
    if (a.residual) a.residual = ncpu_row_floats(r, a.residual, a.len, w->residual_floats);
    if (converted) a.y = w->floats;
    r->kernels->wide_rows[r->dtype].norm_rows(&a);
    if (converted) ncpu_from_floats(r, &floats, &y, 1, a.len);
}

/* A row of bytes from w->values. */
static void quantize(const ncpu_norm_job *j, size_t row, int low, uint8_t *y, const workspace *w)
{
    const ncpu_quantization *q = j->quantization;
    const size_t width = j->rows.view.s;
    if (!q->scales) {
        j->rows.kernels->quantize(width, w->values, q->scale, q->zero_point, low, low + 255, y);
        return;
    }
    const float peak = j->rows.kernels->peak(width, w->values);
    q->scales[row] = peak / 127 > 0 ? peak / 127 : 1; /* not where the quotient underflows */
    j->rows.kernels->quantize(width, w->values, q->scales[row], 0, -127, 127, y);
}

/* Rows that are measured, from the row'th of all. */
static void apply(const ncpu_norm_job *j, const ncpu_norm_args *all, size_t row, const workspace *w)
{
    const ncpu_kernels *kernels = j->rows.kernels;
    const ncpu_quantization *q = j->quantization;
    const int low = j->y_dtype == NCPU_I8 ? -128 : 0;
    for (size_t i = 0, end; i < all->rows; i = end) {
        for (end = i + 1; (!q || j->to_bytes) && !w->outside[i] && end < all->rows && !w->outside[end];) end++;
        ncpu_norm_args a = from_row(j, *all, i, end - i, ncpu_dtype_size(j->rows.taken));
        uint8_t *bytes = a.y;
        if (j->to_bytes && !w->outside[i]) {
            kernels->norm_bytes[j->rows.taken](&a, q->scale, q->zero_point, low, low + 255);
            continue;
        }
        if (q) a.y = w->values;
        if (w->outside[i]) apply_wide(j, a, i, w);
        else kernels->rows[j->rows.taken].norm_rows(&a);
        if (q) quantize(j, row + i, low, bytes, w);
    }
}

/* Rows that are taken together, from the row'th of all: `a` has no coefficients yet. */
static void normalize(const ncpu_norm_job *j, ncpu_norm_args a, size_t row, workspace *w)
{
    const ncpu_rows *r = &j->rows;
    const ncpu_tile y = {a.y, 0, a.y_stride}, result = {w->floats, 0, (ptrdiff_t)a.len}; /* in place of the floats */
    const int converted = r->taken != r->stored, back = converted && !j->quantization;
    if (converted) {
        ncpu_tile x = {(void *)a.x, 0, a.x_stride}, residual = {(void *)a.residual, 0, a.residual_stride};
        a.x = ncpu_as_floats(r, &x, a.rows, a.len, w->floats).data;
        if (a.residual) a.residual = ncpu_as_floats(r, &residual, a.rows, a.len, w->residual_floats).data;
        a.x_stride = a.residual_stride = (ptrdiff_t)a.len;
        if (back) a.y = w->floats, a.y_stride = (ptrdiff_t)a.len;
    }
    if (j->norm->valid) measure_valid(j, &a, row, w);
    else measure_rows(j, &a, w);
    r->kernels->set[r->dtype].coefficients(a.rows, w->mean, j->norm->rms ? NULL : w->total.mean_tail, w->var, j->norm->eps,
                                           NULL, NULL, w->center, w->scale, w->shift, w->outside);
    a.center = w->center, a.scale = w->scale, a.shift = w->shift;
    a.shifted = !j->norm->rms && ncpu_drop_shifts(w->shift, w->var, j->norm->eps, a.rows, r->dtype);
    apply(j, &a, row, w);
    if (j->epilogue.mask)
        ncpu_bits_of_rows(r, converted ? &result : &y, a.rows, a.len, j->epilogue.mask + row * ncpu_row_bits(a.len));
    if (back) ncpu_from_floats(r, &result, &y, a.rows, a.len);
    if (j->mean) memcpy(j->mean + row, w->mean, a.rows * sizeof(double));
    if (j->var) memcpy(j->var + row, w->var, a.rows * sizeof(double));
}

void ncpu_norm_group(const ncpu_norm_job *j, size_t unit, char *scratch)
{
    const ncpu_rows *r = &j->rows;
    const size_t first = unit * r->group, rows = least(r->group, r->view.n - first), width = r->view.s;
    workspace w;
    lay_out(j, scratch, &w);
    const ncpu_box box = ncpu_rows_box(r, first, rows);
    ncpu_tile s = ncpu_tile_in(&j->x.operand, &r->view, &box, w.x), sum = {0}, residual = {0};
    if (j->added.given) {
        const ncpu_tile added = ncpu_tile_in(&j->added.operand, &r->view, &box, w.added);
        sum = ncpu_tile_out(&j->sum.operand, &r->view, &box, w.sum);
        ncpu_norm_add(j, &s, &added, &sum, rows, width);
        s = sum;
    }
    if (j->residual.given) residual = ncpu_tile_in(&j->residual.operand, &r->view, &box, w.residual);
    const ncpu_tile y = ncpu_tile_out(&j->y.operand, &r->view, &box, w.y);
    const ncpu_norm_args args = {
        .rows = rows, .len = width, .x = s.data, .residual = residual.data, .y = y.data, .x_stride = s.row_stride,
        .residual_stride = residual.row_stride, .y_stride = y.row_stride, .weight = j->weight, .bias = j->norm->bias,
        .centered = !j->norm->rms, .stream = j->stream,
        .activation = j->epilogue.activation, .negative_slope = j->epilogue.negative_slope};
    for (size_t i = 0, some; i < rows; i += some) {
        some = least(j->together, rows - i);
        ncpu_norm_args a = from_row(j, args, i, some, j->x.operand.size);
        if (j->far && first + i + 2 * some <= r->view.n) a.ahead = (ptrdiff_t)some * a.x_stride;
        normalize(j, a, first + i, &w);
    }
    ncpu_tile_done(&j->y.operand, &r->view, &box, &y);
    if (j->added.given) ncpu_tile_done(&j->sum.operand, &r->view, &box, &sum);
}

void ncpu_plan_groups(ncpu_norm_job *j)
{
    ncpu_rows *r = &j->rows;
    ncpu_view view;
    ncpu_operand operand;
    ncpu_measurement m;
    workspace unused;
    const int simple = j->epilogue.activation <= NCPU_RELU;
    j->to_bytes = j->quantization && !j->quantization->scales && simple && r->view.s >= NCPU_SHORT_ROW;
    const int plain = simple && !j->epilogue.mask && (!j->quantization || j->to_bytes) && !j->norm->valid;
    r->taken = ncpu_is_half(r) && (!plain || r->view.s <= NCPU_SHORT_ROW) ? r->dtype : r->stored;
    plan_row(j, NULL, r->view.s, &view, &operand, &m);
    j->measure_size = ncpu_measure_scratch(&m);
    r->group = least(r->group, divide_up(r->view.n, (size_t)j->team->threads));
    const int converted = r->taken != r->stored;
    const size_t bytes = r->view.s * ncpu_dtype_size(r->taken), few = bytes < MOST_TOGETHER ? MOST_TOGETHER / bytes : 1;
    j->stream &= !converted;
    j->far &= !converted && few > 1;
    j->together = converted || j->far ? few : r->group;
    j->units = divide_up(r->view.n, r->group);
    j->scratch_size = lay_out(j, NULL, &unused);
}
