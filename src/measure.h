/* SPDX-License-Identifier: Apache-2.0
 *
 * Moments of the channels of a view, in steps that the shape alone fixes:
 *
 *     block   at most NCPU_BLOCK elements of a channel: sums from a start value near its mean
 *     chunk   at least 16 whole blocks' worth, at most 64 a channel: blocks merged in order; a unit of work
 *     total   chunks merged in order
 */
#ifndef NCPU_MEASURE_H
#define NCPU_MEASURE_H

#include "sizes.h"
#include "team.h"
#include "view.h"

typedef struct {
    const ncpu_kernels *kernels;
    const ncpu_view *view;
    const ncpu_operand *x;
    ncpu_dtype dtype;
    size_t count;                 /* elements of a channel */
    size_t rows, len;             /* of a block: several rows, or a piece of one where len is less than s */
    size_t blocks, chunk_blocks, chunks;
    int in_order;                 /* of memory, from beyond the caches: all pieces of a run, then the next channel's */
    size_t widened;               /* cols: this many rows side by side fill whole vectors */
    size_t width;                 /* most channels measured at once */
} ncpu_measurement;

/* run: most elements of one long run in a block; width: most channels at once. */
void ncpu_plan_measurement(ncpu_measurement *m, const ncpu_kernels *kernels, const ncpu_view *view,
                           const ncpu_operand *x, ncpu_dtype dtype, size_t run, size_t width);
/* Bytes of scratch that one task needs. */
size_t ncpu_measure_scratch(const ncpu_measurement *m);

/* The block'th box of channels [channel, channel + channels). */
ncpu_box ncpu_measure_box(const ncpu_measurement *m, size_t channel, size_t channels, size_t block);
/* Elements of a channel in the chunk. */
size_t ncpu_chunk_count(const ncpu_measurement *m, size_t chunk);

/* into[0..channels) = moments of these channels over the chunk; or over all chunks, merged in order. */
void ncpu_measure_chunk(const ncpu_measurement *m, size_t channel, size_t channels, size_t chunk,
                        const ncpu_moments_state *into, void *scratch, ncpu_team *team);

/* How many channels of runs to take at once, on so many threads: the blocks of a group are read in the order of memory,
 * and its elements, of `size` bytes in all that is read, are still in cache when they are read again.  direct: no tile is
 * a copy. */
size_t ncpu_channels_together(const ncpu_view *view, size_t size, int direct, size_t threads);

/* How many channels of cols: all of them, which is the order of memory, unless the rows are too few for the threads. */
size_t ncpu_columns_together(const ncpu_view *view, ncpu_dtype dtype, size_t threads);

/* All channels, on the team: total must have room for the padded number of channels. */
ncpu_status ncpu_measure(ncpu_measurement *m, const ncpu_moments_state *total, ncpu_team *team);

/* Below it, squares of differences lose bits to float's underflow: 2^-100 is 2^49 subnormal steps.  f16 data is
 * made of multiples of 2^-24, whose squares do not come near. */
static inline double ncpu_tiny(ncpu_dtype dtype) { return dtype == NCPU_F32 || dtype == NCPU_BF16 ? 0x1p-100 : 0; }

/* s2 and s1^2/count cancel, to half of s2 where k is a standard deviation from the mean, and what s2 has lost then counts
 * twice: sums of doubles, with nothing to spare, must start nearer. */
static inline double ncpu_near(ncpu_dtype dtype) { return dtype == NCPU_F64 ? 4 : 2; }

static inline ncpu_moments_state ncpu_state_at(const ncpu_moments_state *s, size_t j)
{
    return (ncpu_moments_state){s->mean + j, s->mean_tail + j, s->m2 + j, s->m2_tail + j};
}
/* Four arrays of `stride` doubles from `memory`. */
static inline ncpu_moments_state ncpu_state_in(double *memory, size_t stride)
{
    return (ncpu_moments_state){memory, memory + stride, memory + 2 * stride, memory + 3 * stride};
}

#endif
