/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory that cannot be had is a status, whichever allocation it is: nothing leaks, nothing crashes, running statistics
 * keep their bits, and the next call works.  The allocator is replaced by a stack that every call finds empty. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define OWN_ALLOCATOR
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || defined(OWN_ALLOCATOR)
int main(void) { return 0; } /* sanitizers bring an allocator that cannot be replaced */
#else
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static _Alignas(64) unsigned char pool[256 << 20];
static size_t taken;
static long live, calls, failing = -1; /* the failing'th allocation from now returns NULL */

static void *take(size_t bytes)
{
    if (calls++ == failing) return NULL;
    const size_t size = (bytes + 127) / 64 * 64; /* a header for realloc */
    if (size > sizeof pool - taken) return NULL;
    unsigned char *block = pool + taken;
    *(size_t *)(void *)block = bytes;
    taken += size, live++;
    return block + 64;
}
void *malloc(size_t bytes) { return take(bytes); }
void free(void *block) { live -= block != NULL; }
void *calloc(size_t n, size_t size)
{
    void *block = take(n * size); /* not malloc: compilers turn malloc and memset into a call of calloc */
    return block ? memset(block, 0, n * size) : NULL;
}
void *realloc(void *old, size_t bytes)
{
    unsigned char *block = take(bytes), *from = old;
    for (size_t i = 0; from && block && i < bytes && i < *(size_t *)(void *)(from - 64); i++) block[i] = from[i];
    if (block) free(old);
    return block;
}

#include "operations.h"

static void each(ptrdiff_t tasks, int threads, ncpu_body body, void *context)
{
    (void)threads;
    for (ptrdiff_t task = 0; task < tasks; task++) body(context, task);
}
static int max_threads(void) { return 4; }
static const ncpu_threading pretended = {"pretended", each, max_threads};

static results expected;
static buffers before, after;

static int complain(size_t op, const problem *p, ncpu_dtype dtype, const char *what)
{
    print_case(op, p, dtype);
    printf("%s\n", what);
    return 1;
}

int main(int argc, char **argv)
{
    static char stream[4096];
    setvbuf(stdout, stream, _IOLBF, sizeof stream);
    int failed = 0, failures = 0;
    const size_t bottom = taken;
    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++)
        for (size_t i = 0; i < PROBLEMS; i++)
            for (size_t op = 0; op < OPERATIONS; op++) {
                if (!is_tried(d + i + op, argc, argv)) continue;
                const problem *p = &problems[i];
                call c;
                describe(&c, p, dtypes[d]);
                ncpu_set_threading(i % 2 ? &pretended : NULL);
                prepare(dtypes[d]);
                before = running;
                taken = bottom, calls = 0, failing = -1;
                const long alive = live;
                ncpu_status status = run(op, &c);
                const long allocations = calls;
                expected = made, after = running;
                if (status != NCPU_OK || live != alive) failed += complain(op, p, dtypes[d], "does not work or leaks");
                for (long k = 0; k < allocations; k++) {
                    taken = bottom, calls = 0, failing = k;
                    errno = 12345;
                    status = run(op, &c);
                    failures++;
                    if (status != NCPU_ERROR_MEMORY) failed += complain(op, p, dtypes[d], "another status than MEMORY");
                    if (live != alive) failed += complain(op, p, dtypes[d], "leaks when memory runs out"), live = alive;
                    if (memcmp(&running, &before, sizeof running))
                        failed += complain(op, p, dtypes[d], "touched the running statistics");
                    if (errno != 12345) failed += complain(op, p, dtypes[d], "set errno");
                }
                failing = -1, taken = bottom;
                status = run(op, &c);
                if (status != NCPU_OK || memcmp(&made, &expected, sizeof made) || memcmp(&running, &after, sizeof running))
                    failed += complain(op, p, dtypes[d], "does not recover");
            }
    if (!failures) printf("no call allocated anything\n");
    return failed || !failures;
}
#endif
