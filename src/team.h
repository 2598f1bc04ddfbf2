/* SPDX-License-Identifier: Apache-2.0
 *
 * How work is spread over threads.  Tasks are fixed by the shape alone, so results do not depend on how many
 * threads run them; whether more than one does is decided by the measured cost of a parallel region. */
#ifndef NCPU_TEAM_H
#define NCPU_TEAM_H

#include <stdatomic.h>

#include "normcpu.h"

/* One running operation: the team it may use, and whether it was told to stop. */
typedef struct {
    int threads;
    int holds_team;
    atomic_int status; /* ncpu_status of the first failure */
    atomic_llong next_check;
} ncpu_team;

/* `bytes`: memory traffic of the whole operation, which says what it takes on one thread. */
void ncpu_team_begin(ncpu_team *team, double bytes);
ncpu_status ncpu_team_end(ncpu_team *team);

/* body(context, task) for tasks [0, tasks); returns when all are done.  Tasks are skipped after a failure. */
void ncpu_team_run(ncpu_team *team, ptrdiff_t tasks, ncpu_body body, void *context);

/* To be called between pieces of at most about 10 ms: nonzero when the operation has failed or is interrupted. */
int ncpu_team_stopped(ncpu_team *team);
void ncpu_team_fail(ncpu_team *team, ncpu_status status);

#endif
