/* SPDX-License-Identifier: Apache-2.0
 *
 * The number of threads, and the order in which they finish, change no bit: a team of any size that costs nothing and
 * does its tasks last to first, on one thread.  Splits are thereby tried on any machine, busy or not. */
#include "operations.h"

static int members = 1, regions;

static void backwards(ptrdiff_t tasks, int threads, ncpu_body body, void *context)
{
    (void)threads;
    regions += tasks > 1;
    for (ptrdiff_t task = tasks; task-- > 0;) body(context, task);
}
static int max_threads(void) { return members; }
static const ncpu_threading pretended = {"pretended", backwards, max_threads};

static results serial;
static buffers serial_running;

int main(int argc, char **argv)
{
    int failed = 0, used = 0;
    ncpu_set_threading(&pretended);
    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++)
        for (size_t i = 0; i < PROBLEMS; i++)
            for (size_t op = 0; op < OPERATIONS; op++) {
                if (!is_tried(d + i + op, argc, argv)) continue;
                call c;
                describe(&c, &problems[i], dtypes[d]);
                members = 1;
                ncpu_set_num_threads(1);
                ncpu_status status = run(op, &c);
                serial = made, serial_running = running;
                for (int threads = 2; threads <= 7 && status == NCPU_OK; threads += threads == 3 ? 4 : 1) {
                    members = threads;
                    ncpu_set_num_threads(threads);
                    regions = 0;
                    status = run(op, &c);
                    used += regions > 0;
                    if (memcmp(&made, &serial, sizeof made) || memcmp(&running, &serial_running, sizeof running)) {
                        print_case(op, &problems[i], dtypes[d]);
                        printf("%d threads give other bits than one\n", threads);
                        failed++;
                    }
                }
                if (status != NCPU_OK) {
                    print_case(op, &problems[i], dtypes[d]);
                    printf("status %d\n", (int)status);
                    failed++;
                }
            }
    if (!used) printf("no call used a team\n");
    return failed || !used;
}
