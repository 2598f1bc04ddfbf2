/* SPDX-License-Identifier: Apache-2.0
 * Dropout: bits of boxes of elements, drawn or given, and what they keep, on the team. */

#include <math.h>
#include <stdlib.h>

#include "bits.h"
#include "memory.h"
#include "sizes.h"
#include "team.h"
#include "view.h"

enum { BOX = 4096 }; /* elements: a box and its bits stay in the fastest cache, and no byte of the mask is in two */

typedef struct {
    ptrdiff_t shape[NCPU_MAX_NDIM + 1], strides[NCPU_MAX_NDIM + 1];
    ncpu_array array;
} reordered;

typedef struct {
    ncpu_team *team;
    const ncpu_kernels *kernels;
    ncpu_view view; /* one channel: every element along s */
    ncpu_operand x, y;
    reordered x_axes, y_axes;
    ncpu_keep_args how;
    ncpu_random_args random; /* seed and threshold */
    int far, draw, drop_all, whole_channels;
    size_t outer, c, inner; /* whole_channels: elements are (samples, outer, c, inner) */
    size_t count, boxes, tasks; /* count: of the bits of the mask */
    uint8_t *drawn;
    const uint8_t *mask;
} dropping;

/* ---- Plan ---- */

/* Axes after the samples' from the slowest to the fastest in memory: which element comes when has no say in whole channels. */
static void order_axes(const ncpu_array *x, const ncpu_dropped *what, int order[NCPU_MAX_NDIM])
{
    for (int i = 0; i < x->ndim; i++) {
        order[i] = i;
        for (int k = i; what->whole_channels && k > !!what->batched && labs(x->strides[order[k - 1]]) < labs(x->strides[i]); k--)
            order[k] = order[k - 1], order[k - 1] = i;
    }
}

/* With an axis of extent 1 in front, the one channel of the view. */
static void reorder(const ncpu_array *a, const int order[NCPU_MAX_NDIM], reordered *r)
{
    r->shape[0] = 1, r->strides[0] = 0;
    for (int i = 0; i < a->ndim; i++) r->shape[i + 1] = a->shape[order[i]], r->strides[i + 1] = a->strides[order[i]];
    r->array = (ncpu_array){a->data, a->dtype, a->ndim + 1, r->shape, r->strides};
}

static void plan_channels(dropping *job, const ncpu_array *x, const ncpu_dropped *what, const int order[NCPU_MAX_NDIM])
{
    job->outer = job->inner = 1, job->c = (size_t)x->shape[what->channel_axis];
    size_t *extents = &job->outer;
    for (int i = !!what->batched; i < x->ndim; i++) {
        if (order[i] == what->channel_axis) extents = &job->inner;
        else *extents *= (size_t)x->shape[order[i]];
    }
    job->count = (what->batched ? (size_t)x->shape[0] : 1) * job->c;
}

static void plan_values(dropping *job, const ncpu_dropped *what, int forward)
{
    const double p = what->p, alpha = 1.7580993408473766, q = 1 - p;
    const double a = what->alpha ? 1 / sqrt(q * (1 + p * alpha * alpha)) : 1 / q;
    job->how = (ncpu_keep_args){.scale = p == 1 ? 0 : a, .plain = !what->alpha || !forward || p == 0 || p == 1};
    if (!job->how.plain) job->how.shift = a * p * alpha, job->how.other = -a * q * alpha;
    job->drop_all = p == 1;
    job->random.threshold = p == 1 ? 0 : (uint64_t)ldexp(p, 64);
}

static ncpu_status plan(dropping *job, const ncpu_array *x, const ncpu_dropped *what, const ncpu_array *y, int forward)
{
    int order[NCPU_MAX_NDIM];
    if (x->ndim < 0 || x->ndim > NCPU_MAX_NDIM || y->ndim != x->ndim) return NCPU_ERROR_ARGUMENT;
    if (x->dtype > NCPU_BF16 || y->dtype != x->dtype || !(what->p >= 0 && what->p <= 1)) return NCPU_ERROR_ARGUMENT;
    if (what->whole_channels && (what->channel_axis < !!what->batched || what->channel_axis >= x->ndim))
        return NCPU_ERROR_ARGUMENT;
    order_axes(x, what, order);
    reorder(x, order, &job->x_axes), reorder(y, order, &job->y_axes);
    ncpu_status status = ncpu_view_of(&job->x_axes.array, 0, &job->view);
    if (!status) status = ncpu_operand_of(&job->x_axes.array, &job->x_axes.array, &job->view, &job->x);
    if (!status) status = ncpu_operand_of(&job->y_axes.array, &job->x_axes.array, &job->view, &job->y);
    if (status) return status;
    job->count = job->view.s, job->whole_channels = what->whole_channels;
    if (what->whole_channels) plan_channels(job, x, what, order);
    plan_values(job, what, forward);
    job->kernels = ncpu_kernels_in_use();
    const double bytes = 2 * (double)job->view.s * (double)job->x.size;
    job->how.stream = job->y.direct && y->data != x->data && ncpu_leaves_caches(bytes);
    job->far = bytes > (double)ncpu_cache_bytes(2);
    job->boxes = divide_up(job->view.s, BOX);
    return NCPU_OK;
}

/* ---- Elements whose bits are known ---- */

typedef struct {
    const dropping *job;
    ncpu_keep_args rest; /* of a box, its elements side by side */
    const char *soon;    /* `ahead` elements of the next one */
    size_t ahead;
} waiting;

/* elements: a multiple of 8, or all. */
static void keep_some(void *context, size_t elements)
{
    waiting *w = context;
    const size_t size = w->job->x.size;
    ncpu_keep_args some = w->rest;
    some.len = least(elements, some.len);
    if (!some.len) return;
    w->job->kernels->keep[w->job->x_axes.array.dtype](&some);
    w->rest.len -= some.len, w->rest.bits += some.len / 8;
    w->rest.x = (const char *)some.x + some.len * size, w->rest.y = (char *)some.y + some.len * size;
}

static void fetch_some(void *context, size_t elements)
{
    waiting *w = context;
    const size_t bytes = least(elements, w->ahead) * w->job->x.size;
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(w->soon + i);
    w->ahead -= least(elements, w->ahead), w->soon += bytes;
}

/* ---- Bits ---- */

/* Bits [at, at + count) of the mask, drawn; at is a multiple of BOX. */
static void draw(const dropping *job, size_t at, size_t count, uint64_t bits[BOX / 64 + 1], waiting *meanwhile)
{
    ncpu_random_args random = job->random;
    /* What comes from far away is worth the registers that a call costs, what is near only has to be fetched. */
    if (meanwhile) random.meanwhile = job->far ? keep_some : fetch_some, random.context = meanwhile;
    random.first = at / NCPU_RANDOM_BLOCK, random.blocks = divide_up(count, NCPU_RANDOM_BLOCK), random.bits = bits;
    if (job->drop_all) memset(bits, 0, BOX / 8);
    else job->kernels->random_bits(&random);
    memcpy(job->drawn + at / 8, bits, divide_up(count, 8));
    if (count % 8) job->drawn[(at + count) / 8] &= (uint8_t)((1u << count % 8) - 1);
}

/* The bits of elements [at, at + len) from those of their channels. */
static void spread(const dropping *job, size_t at, size_t len, uint64_t bits[BOX / 64 + 1])
{
    const size_t c = job->c, inner = job->inner, period = c * inner;
    memset(bits, 0, BOX / 8);
    for (size_t i = 0, n; i < len; i += n) {
        const size_t sample = (at + i) / (period * job->outer), place = (at + i) % period;
        const size_t channel = sample * c + place / inner;
        n = least(len - i, inner > 1 ? inner - place % inner : c - place);
        if (inner > 1) ncpu_fill_bits(bits, i, n, ncpu_bit(job->mask, channel));
        else ncpu_copy_bits(bits, i, job->mask, channel, n);
    }
}

/* ---- Boxes ---- */

/* What comes from far away waits until the bits of the next box are drawn, and is kept meanwhile. */
static void keep_box(const dropping *job, size_t at, uint64_t bits[BOX / 64 + 1], waiting *before)
{
    double elements[BOX];
    const ncpu_box box = {.channels = 1, .rows = 1, .at = at, .len = least(BOX, job->view.s - at)};
    before->soon = job->x.data + at * job->x.size, before->ahead = job->x.direct ? box.len : 0;
    if (job->whole_channels) spread(job, at, box.len, bits);
    else if (job->draw) draw(job, at, box.len, bits, before);
    else memcpy(bits, job->mask + at / 8, divide_up(box.len, 8));
    keep_some(before, BOX);
    const ncpu_tile x = ncpu_tile_in(&job->x, &job->view, &box, elements);
    const ncpu_tile y = ncpu_tile_out(&job->y, &job->view, &box, elements);
    before->rest = job->how;
    before->rest.len = box.len, before->rest.x = x.data, before->rest.y = y.data, before->rest.bits = (const uint8_t *)bits;
    if (job->far && job->x.direct && job->y.direct) return;
    keep_some(before, BOX);
    ncpu_tile_done(&job->y, &job->view, &box, &y);
}

static void keep_task(void *context, ptrdiff_t task)
{
    const dropping *job = context;
    const size_t t = (size_t)task, from = job->boxes * t / job->tasks, to = job->boxes * (t + 1) / job->tasks;
    uint64_t bits[2][BOX / 64 + 1];
    waiting last = {.job = job, .rest.len = 0};
    for (size_t i = from; i < to; i++) {
        if ((i - from) % 64 == 0 && ncpu_team_stopped(job->team)) break;
        keep_box(job, i * BOX, bits[i % 2], &last);
    }
    keep_some(&last, BOX);
    if (job->how.stream) job->kernels->fence();
}

static ncpu_status run(dropping *job)
{
    ncpu_team team;
    uint64_t bits[BOX / 64 + 1];
    for (size_t at = 0; job->draw && job->whole_channels && at < job->count; at += BOX)
        draw(job, at, least(BOX, job->count - at), bits, NULL);
    if (!job->view.s) return NCPU_OK;
    const size_t moved = 2 * job->x.size + (job->draw ? 4 : 0); /* drawing a bit takes as long as moving 4 bytes */
    ncpu_team_begin(&team, (double)job->view.s * (double)moved);
    job->team = &team, job->tasks = least(job->boxes, (size_t)team.threads);
    ncpu_team_run(&team, (ptrdiff_t)job->tasks, keep_task, job);
    return ncpu_team_end(&team);
}

ncpu_status ncpu_dropout(const ncpu_array *x, const ncpu_dropped *what, uint64_t seed, const ncpu_array *y, uint8_t *mask)
{
    dropping job = {.draw = 1, .random.seed = seed, .drawn = mask, .mask = mask};
    const ncpu_status status = plan(&job, x, what, y, 1);
    return status ? status : run(&job);
}

ncpu_status ncpu_dropout_backward(const ncpu_array *dy, const ncpu_dropped *what, const uint8_t *mask,
                                  const ncpu_array *dx)
{
    dropping job = {.mask = mask};
    const ncpu_status status = plan(&job, dy, what, dx, 0);
    return status ? status : run(&job);
}
