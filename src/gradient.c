/* SPDX-License-Identifier: Apache-2.0 */

#include "gradient.h"

#include <math.h>
#include <string.h>

static void *at(const void *reals, size_t j, size_t size) { return reals ? (char *)reals + j * size : NULL; }

/* ---- A box as tiles ---- */

typedef struct {
    ncpu_tile x, dy, y, dx, dresidual;
    const uint8_t *mask;
} tiles;

static void *take_pack(const ncpu_operand *o, int present, size_t elements, ncpu_arena *arena)
{
    return present && !o->direct ? ncpu_take(arena, elements * o->size) : NULL;
}

static tiles tiles_of(const ncpu_gradient *g, const ncpu_box *box, int outputs, void *scratch)
{
    const size_t elements = box->channels * box->rows * box->len;
    ncpu_arena arena = {scratch, 0};
    tiles t = {0};
    t.x = ncpu_tile_in(&g->x, g->view, box, take_pack(&g->x, 1, elements, &arena));
    t.dy = ncpu_tile_in(&g->dy, g->view, box, take_pack(&g->dy, 1, elements, &arena));
    if (g->has_y) t.y = ncpu_tile_in(&g->y, g->view, box, take_pack(&g->y, 1, elements, &arena));
    if (outputs && g->has_dx) t.dx = ncpu_tile_out(&g->dx, g->view, box, take_pack(&g->dx, 1, elements, &arena));
    if (outputs && g->has_dresidual)
        t.dresidual = ncpu_tile_out(&g->dresidual, g->view, box, take_pack(&g->dresidual, 1, elements, &arena));
    if (g->mask)
        t.mask = g->mask + (ptrdiff_t)box->row * g->mask_row + (ptrdiff_t)box->channel * g->mask_channel
                 + (ptrdiff_t)(box->at / 8);
    return t;
}

size_t ncpu_gradient_pack(const ncpu_gradient *g, size_t elements)
{
    ncpu_arena arena = {NULL, 0};
    take_pack(&g->x, 1, elements, &arena);
    take_pack(&g->dy, 1, elements, &arena);
    take_pack(&g->y, g->has_y, elements, &arena);
    take_pack(&g->dx, g->has_dx, elements, &arena);
    take_pack(&g->dresidual, g->has_dresidual, elements, &arena);
    if (g->mask && g->view->cols) ncpu_take(&arena, elements * g->x.size); /* columns_apart */
    return arena.used;
}

/* Columns that are computed one by one find their mask bit at no byte's start: the same tiles with the mask as values,
 * positive (0x3c3c... is, in every dtype) where a bit is set, in place of y. */
static tiles columns_apart(const ncpu_gradient *g, const ncpu_box *box, const tiles *t, char *scratch)
{
    tiles apart = *t;
    if (!g->mask) return apart;
    const size_t size = g->x.size;
    char *values = scratch + ncpu_gradient_pack(g, box->rows * box->len) - (box->rows * box->len * size + 63) / 64 * 64;
    for (size_t row = 0; row < box->rows; row++)
        for (size_t j = 0; j < box->len; j++) {
            const int bit = t->mask[(ptrdiff_t)row * g->mask_row + (ptrdiff_t)(j / 8)] >> j % 8 & 1;
            memset(values + (row * box->len + j) * size, bit ? 0x3c : 0, size);
        }
    apart.mask = NULL;
    apart.y = (ncpu_tile){values, 0, (ptrdiff_t)box->len};
    return apart;
}

static ncpu_grad_source source_of(const ncpu_gradient *g, const tiles *t)
{
    return (ncpu_grad_source){.dy = t->dy.data, .y = t->y.data, .mask = t->mask, .dy_stride = t->dy.row_stride,
                              .y_stride = t->y.row_stride, .mask_stride = g->mask_row,
                              .dy_channel_stride = t->dy.channel_stride, .y_channel_stride = t->y.channel_stride,
                              .mask_channel_stride = g->mask_channel};
}

/* ---- The sums ---- */

/* Whether float is too small for a channel's sums, or its products: below 2^-126 each of at most 2^15 products may be off
 * by 2^-150, which 1/sigma then makes large; from 2^-100 on that is nothing. */
static int beyond_float(const ncpu_gradient *g, double p1, double p2)
{
    return !isfinite(p1) | !isfinite(p2) | (g->dtype != NCPU_F64 && p2 != 0 && fabs(p2) < 0x1p-100);
}

static void sum_box(const ncpu_gradient *g, const ncpu_box *box, size_t first, size_t channels, double *p1, double *p2,
                    char *scratch)
{
    const tiles t = tiles_of(g, box, 0, scratch);
    const ncpu_grad_source source = source_of(g, &t);
    ncpu_measure_args args = {.channels = box->channels, .rows = box->rows, .len = box->len, .x = t.x.data,
                              .channel_stride = t.x.channel_stride, .row_stride = t.x.row_stride};
    const ncpu_kernel_set *sets[] = {&g->kernels->set[g->dtype], &g->kernels->wide[g->dtype]};
    (g->view->cols ? sets[0]->grad_measure_cols : sets[0]->grad_measure_runs)(&args, &source, g->start + first, p1, p2);
    int again = 0; /* in double.  Channels with NaN or infinite data stay as they are. */
    for (size_t j = 0; j < channels; j++) again |= beyond_float(g, p1[j], p2[j]);
    if (!again) return;
    double q1[NCPU_PAD], q2[NCPU_PAD];
    for (size_t j = 0; j < channels; j++) {
        if (!beyond_float(g, p1[j], p2[j])) continue;
        ncpu_grad_source one = source;
        ncpu_measure_args single = args;
        const ptrdiff_t size = (ptrdiff_t)g->x.size, at = (ptrdiff_t)j;
        double start[NCPU_PAD] = {g->start[first + j]};
        if (g->view->cols) {
            const tiles column = columns_apart(g, box, &t, scratch);
            one = source_of(g, &column);
            single.x = (const char *)args.x + at * size, single.len = 1;
            one.dy = (const char *)one.dy + at * size;
            if (one.y) one.y = (const char *)one.y + at * size;
            sets[1]->grad_measure_cols(&single, &one, start, q1, q2);
            p1[j] = q1[0], p2[j] = q2[0];
            continue;
        }
        single.channels = 1, single.x = (const char *)args.x + at * args.channel_stride * size;
        one.dy = (const char *)one.dy + at * one.dy_channel_stride * size;
        if (one.y) one.y = (const char *)one.y + at * one.y_channel_stride * size;
        if (one.mask) one.mask += at * one.mask_channel_stride;
        sets[1]->grad_measure_runs(&single, &one, start, q1, q2);
        p1[j] = q1[0], p2[j] = q2[0];
    }
}

/* Bytes in front of the packed tiles: the sums of one box. */
size_t ncpu_gradient_sums_scratch(const ncpu_gradient *g) { return 2 * (ncpu_padded(g->width) + NCPU_PAD) * sizeof(double); }

/* p1, p2 of channels over a chunk: blocks in order. */
void ncpu_gradient_sum(const ncpu_gradient *g, size_t first, size_t channels, size_t chunk, double *p1, double *p2,
                      char *scratch)
{
    const size_t padded = ncpu_padded(g->width) + NCPU_PAD;
    double *b1 = (double *)scratch, *b2 = b1 + padded;
    memset(p1, 0, channels * sizeof *p1);
    memset(p2, 0, channels * sizeof *p2);
    const size_t from = chunk * g->m.chunk_blocks, to = least(g->m.blocks, from + g->m.chunk_blocks);
    for (size_t b = from; b < to; b++) {
        if (b % 16 == 0 && ncpu_team_stopped(g->team)) return;
        const ncpu_box box = ncpu_measure_box(&g->m, first, channels, b);
        sum_box(g, &box, first, channels, b1, b2, (char *)(b2 + padded));
        for (size_t j = 0; j < channels; j++) p1[j] += b1[j], p2[j] += b2[j];
    }
}

/* ---- The coefficients ---- */

/* Of channels [from, to), from `set`, into arrays of its reals that start at channel `from`. */
static void coefficients(const ncpu_gradient *g, const ncpu_kernel_set *set, size_t from, size_t to, void *const into[4],
                         uint8_t *outside)
{
    const ncpu_grad_coefficients args = {
        .mean = g->mean + from, .var = g->var + from, .start = g->start + from, .p1 = g->p1 + from, .p2 = g->p2 + from,
        .shared1 = g->shared1 ? g->shared1 + from : NULL, .shared2 = g->shared2 ? g->shared2 + from : NULL,
        .eps = g->eps, .count = g->shared1 ? g->shared_count : (double)g->m.count, .weight = at(g->weight, from, ncpu_real_size(g->dtype)),
        .training = g->training, .center = into[0], .slope = into[1], .curve = into[2], .offset = into[3],
        .dweight = g->dweight + from, .outside = outside};
    set->grad_coefficients(&args, to - from);
}

void ncpu_gradient_settle(const ncpu_gradient *g, size_t from, size_t to)
{
    const size_t size = ncpu_real_size(g->dtype);
    void *const into[] = {at(g->center, from, size), at(g->slope, from, size), at(g->curve, from, size),
                          at(g->offset, from, size)};
    coefficients(g, &g->kernels->set[g->dtype], from, to, into, g->outside + from);
}

void ncpu_gradient_widen(const ncpu_gradient *g)
{
    const size_t c = g->view->c;
    void *const reals[] = {g->center, g->slope, g->curve, g->offset};
    for (size_t i = 0; i < 4 && g->view->cols; i++)
        ncpu_repeat(reals[i], ncpu_real_size(g->dtype), c, c * (ncpu_rows_beside(c) - 1) + NCPU_WRAP);
}

/* ---- dx ---- */

static const void *moved(const void *p, ptrdiff_t elements, size_t size)
{
    return p ? (const char *)p + elements * (ptrdiff_t)size : NULL;
}

/* Whole rows of cols that follow each other in every array. */
static int flat(const ncpu_gradient *g, const ncpu_box *box, const ncpu_grad_apply_args *args)
{
    const ptrdiff_t c = (ptrdiff_t)g->view->c;
    return (ptrdiff_t)args->len == c && box->len == args->len && args->g.dy_stride == c && !args->g.mask
           && (!args->g.y || args->g.y_stride == c) && (!args->x || args->x_stride == c) && args->dx
           && args->dx_stride == c && !args->dresidual;
}

/* Channels [j, j + width) of the box, in float or double.  A kernel's rows are those of cols, and of runs the channels of
 * one row after the other. */
static void apply_part(const ncpu_gradient *g, const ncpu_box *box, const tiles *t, size_t j, size_t width, int wide)
{
    const ncpu_kernel_set *set = wide ? &g->kernels->wide[g->dtype] : &g->kernels->set[g->dtype];
    const int cols = g->view->cols;
    const size_t channel = (cols ? box->at : box->channel) + j, size = g->x.size, real = ncpu_real_size(g->dtype);
    const ptrdiff_t n = (ptrdiff_t)j;
    ncpu_grad_apply_args args = {.rows = cols ? box->rows : width, .len = cols ? width : box->len,
                                 .g = source_of(g, t), .step = 1,
                                 .x_stride = cols ? t->x.row_stride : t->x.channel_stride,
                                 .dx_stride = cols ? t->dx.row_stride : t->dx.channel_stride,
                                 .dresidual_stride = cols ? t->dresidual.row_stride : t->dresidual.channel_stride,
                                 .center = at(g->center, channel, real), .slope = at(g->slope, channel, real),
                                 .curve = at(g->curve, channel, real), .offset = at(g->offset, channel, real),
                                 .stream = g->stream && !wide};
    double memory[4][NCPU_PAD];
    uint8_t outside[NCPU_PAD];
    if (wide) {
        void *const into[] = {memory[0], memory[1], memory[2], memory[3]};
        memset(memory, 0, sizeof memory);
        coefficients(g, set, channel, channel + 1, into, outside);
        args.center = into[0], args.slope = into[1], args.curve = into[2], args.offset = into[3];
    }
    args.x = g->training ? moved(t->x.data, cols ? n : n * t->x.channel_stride, size) : NULL;
    args.dx = (void *)moved(t->dx.data, cols ? n : n * t->dx.channel_stride, size);
    args.dresidual = (void *)moved(t->dresidual.data, cols ? n : n * t->dresidual.channel_stride, size);
    args.g.dy = moved(t->dy.data, cols ? n : n * t->dy.channel_stride, size);
    args.g.y = moved(t->y.data, cols ? n : n * t->y.channel_stride, size);
    if (t->mask) args.g.mask = t->mask + (cols ? 0 : n * g->mask_channel); /* cols with a mask: all of the box */
    if (cols) {
        if ((args.stream || g->in_order) && flat(g, box, &args)) args.flat = box->rows * width, args.len = width * ncpu_rows_beside(width);
        set->grad_apply_cols(&args);
        return;
    }
    args.g.dy_stride = t->dy.channel_stride, args.g.y_stride = t->y.channel_stride;
    args.g.mask_stride = g->mask_channel;
    for (size_t row = 0; row < box->rows; row++) {
        set->grad_apply_runs(&args);
        args.x = moved(args.x, t->x.row_stride, size);
        args.dx = (void *)moved(args.dx, t->dx.row_stride, size);
        args.dresidual = (void *)moved(args.dresidual, t->dresidual.row_stride, size);
        args.g.dy = moved(args.g.dy, t->dy.row_stride, size);
        args.g.y = moved(args.g.y, t->y.row_stride, size);
        if (args.g.mask) args.g.mask += g->mask_row;
    }
}

void ncpu_gradient_apply(const ncpu_gradient *g, const ncpu_box *box, char *scratch)
{
    const tiles t = tiles_of(g, box, 1, scratch);
    const size_t channels = g->view->cols ? box->len : box->channels;
    const uint8_t *outside = g->outside + (g->view->cols ? box->at : box->channel);
    if (!memchr(outside, 1, channels)) {
        apply_part(g, box, &t, 0, channels, 0);
    } else {
        const tiles apart = g->view->cols ? columns_apart(g, box, &t, scratch) : t;
        for (size_t j = 0, end; j < channels; j = end) {
            for (end = j; end < channels && !outside[end];) end++;
            if (end > j) apply_part(g, box, &apart, j, end - j, 0);
            else apply_part(g, box, &apart, j, 1, 1), end = j + 1;
        }
    }
    if (g->has_dx) ncpu_tile_done(&g->dx, g->view, box, &t.dx);
    if (g->has_dresidual) ncpu_tile_done(&g->dresidual, g->view, box, &t.dresidual);
}
