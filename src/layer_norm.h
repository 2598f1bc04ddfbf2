/* SPDX-License-Identifier: Apache-2.0
 *
 * Layer and root mean square normalization forward: rows that lie in memory as rows are taken in groups, rows that lie
 * across, as the channels of (n, c, h, w) do, side by side as columns. */
#ifndef NCPU_LAYER_NORM_H
#define NCPU_LAYER_NORM_H

#include "rows.h"
#include "team.h"

typedef struct {
    ncpu_rows rows;
    const ncpu_row_norm *norm;
    ncpu_epilogue epilogue;
    const ncpu_quantization *quantization;
    ncpu_rows_array x, added, sum, residual, y;
    ncpu_dtype y_dtype;
    const void *weight;
    double *mean, *var; /* OUT: (rows), or NULL */
    int stream, far;    /* y past the caches; x is beyond them */
    ncpu_team *team;
    size_t units, tasks, scratch_size; /* units: groups of rows, or tiles of columns */
    char *scratch;
    int to_bytes;                      /* rows: normalized and quantized at once */
    size_t together, measure_size;     /* rows: those that are measured, then applied, in a group; scratch of one's measurement */
    size_t run, tile, tiles;           /* columns that follow each other; of a tile; tiles of a run */
} ncpu_norm_job;

/* sum = x + added, exactly x * 1 + 0 + added. */
void ncpu_norm_add(const ncpu_norm_job *j, const ncpu_tile *x, const ncpu_tile *added, const ncpu_tile *sum, size_t rows,
                   size_t len);

/* Rows: plans the groups and a task's scratch; one group. */
void ncpu_plan_groups(ncpu_norm_job *j);
void ncpu_norm_group(const ncpu_norm_job *j, size_t unit, char *scratch);

/* Columns: plans the tiles; a task's scratch; one tile. */
void ncpu_plan_columns(ncpu_norm_job *j);
size_t ncpu_columns_scratch(const ncpu_norm_job *j);
void ncpu_norm_tile(const ncpu_norm_job *j, size_t unit, char *scratch);

#endif
