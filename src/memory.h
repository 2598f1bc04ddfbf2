/* SPDX-License-Identifier: Apache-2.0
 * Scratch: one allocation per operation, cut into aligned pieces. */
#ifndef NCPU_MEMORY_H
#define NCPU_MEMORY_H

#include <stddef.h>

/* Cuts `base` into pieces aligned to a cache line; with base == NULL only counts. */
typedef struct {
    char *base;
    size_t used;
} ncpu_arena;

static inline void *ncpu_take(ncpu_arena *arena, size_t bytes)
{
    void *piece = arena->base ? arena->base + arena->used : NULL;
    arena->used += (bytes + 63) / 64 * 64;
    return piece;
}

void *ncpu_allocate(size_t bytes); /* aligned to a cache line; NULL when there is none */
void ncpu_release(void *memory);

/* Bytes of the cache of that level, 2 or 3: what the system tells, or what is common. */
size_t ncpu_cache_bytes(int level);

/* Half of a core's own cache: what a group of channels may fill between being measured and being applied. */
static inline size_t ncpu_cached_bytes(void) { return ncpu_cache_bytes(2) / 2; }
/* Whether arrays of so many bytes in all leave the last level: what is written then goes past the caches. */
static inline int ncpu_leaves_caches(double bytes) { return bytes >= 0.75 * (double)ncpu_cache_bytes(3); }

#endif
