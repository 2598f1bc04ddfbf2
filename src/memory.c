/* SPDX-License-Identifier: Apache-2.0 */

#define _DEFAULT_SOURCE /* sysconf's names of caches */

#include "memory.h"

#include <stdint.h>
#include <stdatomic.h>
#include <stdlib.h>
#ifdef __linux__
#include <unistd.h>
#endif

/* malloc, not aligned_alloc: it is what every platform has and what every allocator replaces. */
void *ncpu_allocate(size_t bytes)
{
    char *memory = bytes > SIZE_MAX - 128 ? NULL : malloc(bytes + 128);
    if (!memory) return NULL;
    char *aligned = memory + 64 + (64 - (uintptr_t)memory % 64) % 64;
    ((void **)aligned)[-1] = memory;
    return aligned;
}

void ncpu_release(void *memory)
{
    if (memory) free(((void **)memory)[-1]);
}

static size_t ask(int level)
{
#if defined(_SC_LEVEL2_CACHE_SIZE) && defined(_SC_LEVEL3_CACHE_SIZE)
    const long bytes = sysconf(level == 2 ? _SC_LEVEL2_CACHE_SIZE : _SC_LEVEL3_CACHE_SIZE);
    /* The whole package's last level may be told (384 MB, on one virtual machine) where a core has a slice of it. */
    if (bytes > 0) return bytes < 32L << 20 ? (size_t)bytes : 32u << 20;
#endif
    return level == 2 ? 1 << 20 : 16 << 20;
}

size_t ncpu_cache_bytes(int level)
{
    static _Atomic(size_t) known[2];
    size_t bytes = atomic_load_explicit(&known[level - 2], memory_order_relaxed);
    if (!bytes) {
        bytes = ask(level);
        atomic_store_explicit(&known[level - 2], bytes, memory_order_relaxed);
    }
    return bytes;
}
