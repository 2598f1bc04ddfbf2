/* SPDX-License-Identifier: Apache-2.0
 *
 * For LD_PRELOAD: malloc and free as they were, but that one allocation of normcpu's C code can be told to fail, and
 * that those it still holds are counted.  NumPy's and Python's own are left alone.  Calls come from one thread. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 256 };
static void *held[MOST];
static int armed;
static long seen, failing;

/* The failing'th allocation from now on, from 0, is refused; -1: none is. */
void malloc_arm(long which) { armed = 1, seen = 0, failing = which; }

/* How many allocations there were since then. */
long malloc_disarm(void)
{
    armed = 0;
    return seen;
}

long malloc_held(void)
{
    long count = 0;
    for (int i = 0; i < MOST; i++) count += held[i] != NULL;
    return count;
}

static int asked_by_normcpu(void *caller)
{
    Dl_info info;
    return dladdr(caller, &info) && info.dli_fname && strstr(info.dli_fname, "normcpu/_core.");
}

void *malloc(size_t bytes)
{
    static void *(*next)(size_t);
    if (!next) *(void **)&next = dlsym(RTLD_NEXT, "malloc");
    if (!armed || !asked_by_normcpu(__builtin_return_address(0))) return next(bytes);
    if (seen++ == failing) return NULL;
    void *block = next(bytes);
    for (int i = 0; i < MOST; i++)
        if (!held[i]) {
            held[i] = block;
            return block;
        }
    abort();
}

void free(void *block)
{
    static void (*next)(void *);
    if (!next) *(void **)&next = dlsym(RTLD_NEXT, "free");
    for (int i = 0; armed && block && i < MOST; i++)
        if (held[i] == block) held[i] = NULL;
    next(block);
}
