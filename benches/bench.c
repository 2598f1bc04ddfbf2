/* SPDX-License-Identifier: Apache-2.0
 *
 * Times everyone who can do something with an array, in turn, in one process:
 *
 *     bench THREADS SECONDS [OP,...]  < problems  > results
 *
 * problems: lines "dtype n c [s...]".  results: JSON lines, seconds per run.  Each round lets every
 * contestant run once untimed, to bring its own data into the caches, then timed; the order alternates
 * from round to round, so that what disturbs the machine for a while disturbs all alike.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "bench.h"

#ifdef BENCH_OPENMP
const ncpu_threading *ncpu_openmp(void); /* src/omp.c */
#endif

enum { MIN_ROUNDS = 9 };
enum { MAX_ROUNDS = 400 };
static const double SHORTEST = 50e-6; /* a thousand times the clock's cost */

static const char *const DTYPES[] = {"f32", "f64", "f16", "bf16"}; /* in the order of ncpu_dtype */
static const size_t SIZES[] = {4, 8, 2, 2};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void bench_enter(bench_list *list, bench_contestant contestant)
{
    if (list->count == BENCH_MAX_CONTESTANTS) abort();
    list->entry[list->count++] = contestant;
}

static double timed(const bench_contestant *who, int runs)
{
    double start = now();
    for (int i = 0; i < runs; i++) who->run(who->context);
    return (now() - start) / runs;
}

/* Runs that take SHORTEST even in the best of three attempts: a hiccup is no slow contestant. */
static int enough(const bench_contestant *who)
{
    for (int runs = 1;; runs *= 2) {
        int long_enough = 1;
        for (int i = 0; i < 3; i++) long_enough &= runs * timed(who, runs) >= SHORTEST;
        if (long_enough) return runs;
    }
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void compete(const bench_list *list, const char *problem, double seconds)
{
    static double times[BENCH_MAX_CONTESTANTS][MAX_ROUNDS];
    int runs[BENCH_MAX_CONTESTANTS];
    for (int i = 0; i < list->count; i++) runs[i] = enough(&list->entry[i]);
    int rounds = 0;
    for (double end = now() + seconds; rounds < MAX_ROUNDS && (rounds < MIN_ROUNDS || now() < end); rounds++)
        for (int turn = 0; turn < list->count; turn++) {
            int i = rounds % 2 ? list->count - 1 - turn : turn;
            timed(&list->entry[i], 1);
            times[i][rounds] = timed(&list->entry[i], runs[i]);
        }
    for (int i = 0; i < list->count; i++) {
        const bench_contestant *c = &list->entry[i];
        qsort(times[i], (size_t)rounds, sizeof(double), ascending);
        printf("{%s, \"who\": \"%s\", \"op\": \"%s\", \"layout\": \"%s\", \"min\": %.4g, \"median\": %.4g, "
               "\"rounds\": %d}\n",
               problem, c->who, c->op, c->layout, times[i][0], times[i][rounds / 2], rounds);
    }
    fflush(stdout);
}

/* ---- Problems ------------------------------------------------------------------------------------- */

enum { CAPACITY = 512 << 20 }; /* bytes of a buffer; only what a problem touches becomes memory */

/* Huge pages for everyone, and starts as apart as separate allocations are: where two arrays agree in the low bits
 * of their addresses, loads wait for stores to the same place of another page, and both meet in the same bank of the
 * memory, whose rows then change with every line (seen: twice the time for reading two arrays). */
static void *buffer(int index)
{
    size_t huge = (size_t)2 << 20, apart = (size_t)(520 << 10) + 1088;
    char *start = mmap(NULL, CAPACITY + 4 * huge, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) {
        perror("bench");
        exit(1);
    }
    start += huge - (size_t)start % huge;
    madvise(start, CAPACITY + 2 * huge, MADV_HUGEPAGE);
    return start + (size_t)index * apart;
}

/* Truncated, and below the normal range zero: these are only data. */
static uint16_t half_of(uint32_t bits)
{
    uint32_t magnitude = bits & 0x7fffffff, sign = bits >> 16 & 0x8000;
    /* 0x38800000 is 2^-14; the exponents' biases are 127 and 15 */
    return (uint16_t)(magnitude < 0x38800000 ? sign : sign | ((magnitude >> 13) - (112 << 10)));
}

/* Uniform in [-1.9, 2.1): like activations, not quite centred. */
static void fill(void *to, size_t count, ncpu_dtype dtype)
{
    uint64_t state = 88172645463325252u; /* Marsaglia's xorshift64 */
    for (size_t i = 0; i < count; i++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        float value = (float)(state >> 40) * 0x1p-22f - 1.9f;
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        if (dtype == NCPU_F32) ((float *)to)[i] = value;
        if (dtype == NCPU_F64) ((double *)to)[i] = value;
        if (dtype == NCPU_F16) ((uint16_t *)to)[i] = half_of(bits);
        if (dtype == NCPU_BF16) ((uint16_t *)to)[i] = (uint16_t)(bits >> 16);
    }
}

static void *parameter(const bench_problem *p, double value)
{
    void *to = calloc((size_t)p->c, sizeof(double));
    for (ptrdiff_t i = 0; i < p->c; i++)
        if (p->dtype == NCPU_F64) ((double *)to)[i] = value;
        else ((float *)to)[i] = (float)value;
    return to;
}

/* "dtype n c [s...]" -> the problem; returns the bytes of a buffer with c rounded up, 0 where it is none. */
static size_t parse(char *line, bench_problem *p)
{
    char *word = strtok(line, " \n");
    int dtype = 0;
    while (word && dtype < 4 && strcmp(word, DTYPES[dtype])) dtype++;
    if (!word || dtype == 4) return 0;
    for (p->ndim = 0; p->ndim < BENCH_MAX_NDIM && (word = strtok(NULL, " \n")); p->ndim++)
        p->shape[p->ndim] = strtol(word, NULL, 10);
    if (p->ndim < 2) return 0;
    p->dtype = (ncpu_dtype)dtype;
    p->n = p->shape[0], p->c = p->shape[1], p->s = 1;
    for (int i = 2; i < p->ndim; i++) p->s *= p->shape[i];
    p->bytes = (size_t)(p->n * p->c * p->s) * SIZES[dtype];
    size_t room = (size_t)(p->n * ((p->c + 15) / 16 * 16) * p->s) * SIZES[dtype] + 4096;
    return p->bytes && room + 8192 < CAPACITY ? room : 0;
}

static int listed(const char *ops, const char *op)
{
    size_t length = strlen(op);
    for (const char *at = ops; at && (at = strstr(at, op)); at++)
        if ((at == ops || at[-1] == ',') && (at[length] == ',' || !at[length])) return 1;
    return !ops;
}

static void solve(bench_problem *p, size_t room, double seconds, const char *ops)
{
    fill(p->x, room / SIZES[p->dtype], p->dtype);
    fill(p->dy, room / SIZES[p->dtype], p->dtype);
    void **parameters[] = {&p->mean, &p->var, &p->weight, &p->bias, &p->dweight, &p->dbias};
    static const double VALUES[] = {0.1, 1.3, 0.7, 0.2, 0, 0};
    for (int i = 0; i < 6; i++) *parameters[i] = parameter(p, VALUES[i]);
    for (int i = 0; i < 4; i++) p->moments[i] = calloc((size_t)p->c, sizeof(double));
    p->batch_mean = calloc((size_t)p->c, sizeof(double));
    p->batch_var = calloc((size_t)p->c, sizeof(double));
    p->row_mean = calloc((size_t)p->n, sizeof(double));
    p->row_var = calloc((size_t)p->n, sizeof(double));
    for (ptrdiff_t i = 0; i < p->n; i++) p->row_mean[i] = 0.1, p->row_var[i] = 1.3;

    bench_list all = {.count = 0}, list = {.count = 0};
    bench_enter_limits(&all, p);
    bench_enter_normcpu(&all, p);
#ifdef BENCH_ONEDNN
    bench_enter_onednn(&all, p);
#endif
    for (int i = 0; i < all.count; i++)
        if (listed(ops, all.entry[i].op)) bench_enter(&list, all.entry[i]);
    char text[160];
    int at = snprintf(text, sizeof text, "\"dtype\": \"%s\", \"threads\": %d, \"shape\": [",
                      DTYPES[p->dtype], p->threads);
    for (int i = 0; i < p->ndim; i++)
        at += snprintf(text + at, sizeof text - (size_t)at, "%s%td", i ? ", " : "", p->shape[i]);
    snprintf(text + at, sizeof text - (size_t)at, "]");
    compete(&list, text, seconds);

    for (int i = 0; i < all.count; i++) all.entry[i].release(all.entry[i].context);
    for (int i = 0; i < 6; i++) free(*parameters[i]);
    for (int i = 0; i < 4; i++) free(p->moments[i]);
    free(p->batch_mean), free(p->batch_var), free(p->row_mean), free(p->row_var);
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fputs("usage: bench THREADS SECONDS [OP,...] < problems\n", stderr);
        return 2;
    }
    bench_problem p = {.threads = atoi(argv[1])};
#ifdef BENCH_OPENMP
    p.threading = ncpu_openmp();
#endif
    ncpu_set_threading(p.threading);
    ncpu_set_num_threads(p.threads);
    void *volatile large = malloc(24 << 20); /* until the first of its kind, glibc returns scratch to the system each time */
    free(large);
    void **buffers[] = {&p.x, &p.y, &p.dy, &p.dx};
    for (int i = 0; i < 4; i++) *buffers[i] = buffer(i);
    printf("{\"who\": \"machine\", \"isa\": \"%s\", \"threading\": \"%s\"}\n", ncpu_isa(),
           ncpu_threading_name());
    char line[256];
    while (fgets(line, sizeof line, stdin)) {
        char copy[256];
        strcpy(copy, line);
        size_t room = parse(copy, &p);
        if (!room) {
            fprintf(stderr, "bench: cannot time %s", line);
            return 2;
        }
        solve(&p, room, atof(argv[2]), argc > 3 ? argv[3] : NULL);
    }
    return 0;
}
