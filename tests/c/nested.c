/* SPDX-License-Identifier: Apache-2.0
 *
 * A parallel region of somebody else's, with calls from every thread of it at once. */
#include <omp.h>

/* Calls once per thread and returns how many threads there were; with `levels` 2 a region inside may have a team too. */
int call_in_region(int threads, int levels, void (*call)(int))
{
    int team = 0;
    omp_set_max_active_levels(levels);
#pragma omp parallel num_threads(threads)
    {
#pragma omp single
        team = omp_get_num_threads();
        call(omp_get_thread_num());
    }
    return team;
}
