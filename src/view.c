/* SPDX-License-Identifier: Apache-2.0 */

#include "view.h"

#include "kernels.h"

#include <stdlib.h>
#include <string.h>

size_t ncpu_dtype_size(ncpu_dtype dtype)
{
    switch (dtype) {
    case NCPU_F64: return 8;
    case NCPU_F32: return 4;
    case NCPU_F16: case NCPU_BF16: return 2;
    case NCPU_U8: case NCPU_I8: return 1;
    }
    return 0;
}

static size_t product(const ptrdiff_t *shape, int from, int to)
{
    size_t p = 1;
    for (int i = from; i < to; i++) p *= (size_t)shape[i];
    return p;
}

ncpu_status ncpu_view_of(const ncpu_array *x, int channel_axis, ncpu_view *view)
{
    if (x->ndim < 1 || x->ndim > NCPU_MAX_NDIM + 1) return NCPU_ERROR_ARGUMENT; /* + 1: ncpu_moments of one channel */
    if (channel_axis < -x->ndim || channel_axis >= x->ndim) return NCPU_ERROR_ARGUMENT;
    const int axis = channel_axis < 0 ? channel_axis + x->ndim : channel_axis;
    ptrdiff_t least = PTRDIFF_MAX; /* the smallest step within a channel */
    for (int i = 0; i < x->ndim; i++) {
        if (x->shape[i] < 0) return NCPU_ERROR_ARGUMENT;
        if (i != axis && x->shape[i] > 1 && labs(x->strides[i]) < least) least = labs(x->strides[i]);
    }
    view->axis = axis;
    view->n = product(x->shape, 0, axis);
    view->c = (size_t)x->shape[axis];
    view->s = product(x->shape, axis + 1, x->ndim);
    view->cols = view->c > 1 && labs(x->strides[axis]) < least;
    if (view->cols) view->n *= view->s, view->s = 1;
    else if (view->s == 1) view->s = view->n, view->n = 1;
    return NCPU_OK;
}

int ncpu_is_channels_last(const ncpu_array *x, int channel_axis)
{
    ncpu_view view;
    return ncpu_view_of(x, channel_axis, &view) == NCPU_OK && view.cols;
}

static void add_dim(ncpu_operand *o, ptrdiff_t extent, ptrdiff_t stride, int first)
{
    if (extent == 1) return;
    if (o->dims > first && o->strides[o->dims - 1] == stride * extent) { /* the axes before step over this one */
        o->shape[o->dims - 1] *= extent;
        o->strides[o->dims - 1] = stride;
        return;
    }
    o->shape[o->dims] = extent;
    o->strides[o->dims++] = stride;
}

ncpu_status ncpu_operand_of(const ncpu_array *a, const ncpu_array *x, const ncpu_view *view, ncpu_operand *o)
{
    if (a->ndim != x->ndim || !ncpu_dtype_size(a->dtype)) return NCPU_ERROR_ARGUMENT;
    for (int i = 0; i < x->ndim; i++)
        if (a->shape[i] != x->shape[i]) return NCPU_ERROR_ARGUMENT;
    o->data = a->data;
    o->size = ncpu_dtype_size(a->dtype);
    o->c_stride = a->strides[view->axis];
    o->dims = 0, o->places = NULL;
    for (int i = 0; i < view->axis; i++) add_dim(o, a->shape[i], a->strides[i], 0);
    o->n_dims = o->dims;
    /* Rows of cols, and runs of single elements, are one list of positions. */
    const int joined = view->cols || (view->n == 1 && view->s == product(x->shape, 0, view->axis));
    for (int i = view->axis + 1; i < a->ndim; i++) add_dim(o, a->shape[i], a->strides[i], joined ? 0 : o->n_dims);
    if (view->cols) o->n_dims = o->dims;
    else if (joined && view->n == 1) o->n_dims = 0;

    const int s_dims = o->dims - o->n_dims;
    const ptrdiff_t size = (ptrdiff_t)o->size, along = view->cols ? o->c_stride : s_dims ? o->strides[o->n_dims] : size;
    const ptrdiff_t row = o->n_dims ? o->strides[0] : 0;
    o->direct = o->n_dims <= 1 && s_dims <= 1 && (along == size || (view->cols ? view->c : view->s) == 1)
                && row % size == 0 && o->c_stride % size == 0 && (uintptr_t)o->data % o->size == 0;
    o->row_step = row / size;
    o->channel_step = o->c_stride / size;
    return NCPU_OK;
}

ncpu_status ncpu_rows_of(const ncpu_array *x, const uint8_t *inner, ncpu_view *view)
{
    if (x->ndim < 1 || x->ndim > NCPU_MAX_NDIM) return NCPU_ERROR_ARGUMENT;
    *view = (ncpu_view){.n = 1, .c = 1, .s = 1};
    for (int i = 0; i < x->ndim; i++) {
        if (x->shape[i] < 0) return NCPU_ERROR_ARGUMENT;
        *(inner[i] ? &view->s : &view->n) *= (size_t)x->shape[i];
    }
    return NCPU_OK;
}

ncpu_status ncpu_row_operand(const ncpu_array *a, const ncpu_array *x, const uint8_t *inner, ncpu_operand *o)
{
    if (a->ndim != x->ndim || !ncpu_dtype_size(a->dtype)) return NCPU_ERROR_ARGUMENT;
    for (int i = 0; i < x->ndim; i++)
        if (a->shape[i] != x->shape[i]) return NCPU_ERROR_ARGUMENT;
    *o = (ncpu_operand){.data = a->data, .size = ncpu_dtype_size(a->dtype)};
    for (int i = 0; i < a->ndim; i++)
        if (!inner[i]) add_dim(o, a->shape[i], a->strides[i], 0);
    o->n_dims = o->dims;
    for (int i = 0; i < a->ndim; i++)
        if (inner[i]) add_dim(o, a->shape[i], a->strides[i], o->n_dims);
    const ptrdiff_t size = (ptrdiff_t)o->size, row = o->n_dims ? o->strides[0] : 0;
    const int s_dims = o->dims - o->n_dims;
    o->direct = o->n_dims <= 1 && (s_dims == 0 || (s_dims == 1 && o->strides[o->n_dims] == size)) && row % size == 0
                && (uintptr_t)o->data % o->size == 0;
    o->row_step = row / size;
    return NCPU_OK;
}

/* Byte offset of position `index` in the dims [from, to). */
static ptrdiff_t offset(const ncpu_operand *o, int from, int to, size_t index)
{
    ptrdiff_t bytes = 0;
    for (int i = to - 1; i >= from; i--) {
        const size_t extent = (size_t)o->shape[i];
        bytes += (ptrdiff_t)(index % extent) * o->strides[i];
        index /= extent;
    }
    return bytes;
}

static void copy(char *to, ptrdiff_t to_stride, const char *from, ptrdiff_t from_stride, size_t count, size_t size)
{
    if (to_stride == (ptrdiff_t)size && from_stride == (ptrdiff_t)size) {
        memcpy(to, from, count * size);
        return;
    }
#define COPY(bytes)                                                                                              \
    case bytes:                                                                                                  \
        for (size_t i = 0; i < count; i++, to += to_stride, from += from_stride) memcpy(to, from, bytes);        \
        break
    switch (size) {
        COPY(1);
        COPY(2);
        COPY(4);
        COPY(8);
    }
#undef COPY
}

/* Elements [at, at + len) of the s dims, between their places in the array and a contiguous buffer. */
static void copy_run(const ncpu_operand *o, char *base, size_t at, size_t len, char *buffer, int to_array)
{
    const int last = o->dims - 1;
    const ptrdiff_t size = (ptrdiff_t)o->size;
    const int single = last < o->n_dims;
    const size_t extent = single ? 1 : (size_t)o->shape[last];
    const ptrdiff_t stride = single ? size : o->strides[last];
    while (len) {
        const size_t inner = at % extent, count = len < extent - inner ? len : extent - inner;
        char *place = base + offset(o, o->n_dims, o->dims, at);
        if (to_array) copy(place, stride, buffer, size, count, o->size);
        else copy(buffer, size, place, stride, count, o->size);
        buffer += count * o->size, at += count, len -= count;
    }
}

/* Elements [at, at + len) of the places of one channel, stretches of equal steps at once, into a contiguous buffer. */
static void copy_places(const ncpu_operand *o, const char *channel, size_t at, size_t len, char *buffer)
{
    const ptrdiff_t *places = o->places + at, size = (ptrdiff_t)o->size;
    for (size_t i = 0, end; i < len; i = end) {
        const ptrdiff_t step = i + 1 < len ? places[i + 1] - places[i] : size;
        for (end = i + 1; end < len && places[end] - places[end - 1] == step;) end++;
        copy(buffer + (ptrdiff_t)i * size, size, channel + places[i], step, end - i, o->size);
    }
}

static void transfer(const ncpu_operand *o, const ncpu_view *view, const ncpu_box *box, char *buffer, int to_array)
{
    const ptrdiff_t size = (ptrdiff_t)o->size;
    for (size_t c = 0; c < (view->cols ? 1 : box->channels); c++)
        for (size_t r = 0; r < box->rows; r++, buffer += box->len * o->size) {
            char *row = o->data;
            if (o->places && !view->cols) {
                copy_places(o, row + (ptrdiff_t)(box->channel + c) * o->c_stride, box->at, box->len, buffer);
                continue;
            }
            row += o->places ? o->places[box->row + r] : offset(o, 0, o->n_dims, box->row + r);
            if (!view->cols) {
                copy_run(o, row + (ptrdiff_t)(box->channel + c) * o->c_stride, box->at, box->len, buffer, to_array);
                continue;
            }
            row += (ptrdiff_t)box->at * o->c_stride;
            if (to_array) copy(row, o->c_stride, buffer, size, box->len, o->size);
            else copy(buffer, size, row, o->c_stride, box->len, o->size);
        }
}

void ncpu_gather(const ncpu_operand *operand, const ncpu_view *view, const ncpu_box *box, void *buffer)
{
    transfer(operand, view, box, buffer, 0);
}

ncpu_tile ncpu_tile_out(const ncpu_operand *o, const ncpu_view *view, const ncpu_box *box, void *buffer)
{
    if (!o->direct) return (ncpu_tile){buffer, (ptrdiff_t)(box->rows * box->len), (ptrdiff_t)box->len};
    const ptrdiff_t elements = (ptrdiff_t)box->row * o->row_step + (ptrdiff_t)box->at
                               + (view->cols ? 0 : (ptrdiff_t)box->channel * o->channel_step);
    return (ncpu_tile){o->data + elements * (ptrdiff_t)o->size, o->channel_step, o->row_step};
}

ncpu_tile ncpu_tile_in(const ncpu_operand *operand, const ncpu_view *view, const ncpu_box *box, void *buffer)
{
    const ncpu_tile tile = ncpu_tile_out(operand, view, box, buffer);
    if (!operand->direct) ncpu_gather(operand, view, box, buffer);
    return tile;
}

void ncpu_tile_done(const ncpu_operand *operand, const ncpu_view *view, const ncpu_box *box, const ncpu_tile *tile)
{
    if (!operand->direct) transfer(operand, view, box, tile->data, 1);
}

size_t ncpu_keep_valid(ncpu_operand *o, ncpu_view *view, const uint8_t *valid, ptrdiff_t *places)
{
    const size_t positions = view->n * view->s;
    size_t count = 0;
    for (size_t i = 0; i < positions; i++)
        if (valid[i]) places[count++] = offset(o, 0, o->dims, i);
    o->places = places, o->direct = 0;
    view->n = view->cols ? count : 1;
    view->s = view->cols ? 1 : count;
    return count;
}

size_t ncpu_rows_beside(size_t c)
{
    size_t rows = 1;
    while (c < NCPU_WRAP && (c * rows < NCPU_WRAP || c * rows % NCPU_PAD)) rows *= 2;
    return rows;
}

void ncpu_repeat(void *values, size_t size, size_t c, size_t more)
{
    for (size_t done = 0, part; done < more; done += part) {
        part = c < more - done ? c : more - done;
        memcpy((char *)values + (c + done) * size, values, part * size);
    }
}
