/* threads.c - the pool.
 *
 * A run opens a job, workers enter it, each takes the items of its own share in order and then
 * steals the last ones of others (Blumofe & Leiserson 1999), and the caller closes the job before
 * it waits for those inside. Entering is "count me, then look whether it is open", closing is
 * "close, then look whether anybody is counted": one of the two sees the other, so a worker that
 * wakes late finds the job closed and touches nothing of the next one. */
#include "core/base/threads.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MAX_THREADS = 1024, SPIN_NS = 30000 };

typedef struct { /* items that nobody has taken yet: the first in the lower half, the end above */
    _Alignas(64) _Atomic uint64_t left;
} Share;

static struct {
    int n; /* threads in all, the caller's included */
    pthread_t worker[MAX_THREADS];

    ThreadsTask task;
    void *ctx;
    Share share[MAX_THREADS];
    _Alignas(64) atomic_uint inside; /* workers that entered; the caller sleeps on it */
    atomic_int open, caller_waits;
    _Alignas(64) atomic_uint calls; /* counts jobs and the stop; idle workers sleep on it */
    atomic_int sleepers, stop;
} pool = {.n = 1};

static pthread_mutex_t one_caller = PTHREAD_MUTEX_INITIALIZER;
static _Thread_local int in_task, my_index;

static void futex_wait(atomic_uint *word, unsigned seen) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake_all(atomic_uint *word) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Spins until *word differs from `seen` or the time is up; 1 when it differs. */
static int spin_while(atomic_uint *word, unsigned seen) {
    int64_t until = now_ns() + SPIN_NS;
    do {
        for (int i = 0; i < 64; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != seen) return 1;
            relax();
        }
    } while (now_ns() < until);
    return 0;
}

/* Items of a share: the owner's next one, or the last one for a thief; -1: none is left. */
static int take_first(Share *s) {
    uint64_t v = atomic_load(&s->left);
    while ((uint32_t)v < v >> 32)
        if (atomic_compare_exchange_weak(&s->left, &v, v + 1)) return (int)(uint32_t)v;
    return -1;
}
static int steal_last(Share *s) {
    uint64_t v = atomic_load(&s->left), one = (uint64_t)1 << 32;
    while ((uint32_t)v < v >> 32)
        if (atomic_compare_exchange_weak(&s->left, &v, v - one)) return (int)(v >> 32) - 1;
    return -1;
}

static void drain(int thread) {
    int i;
    in_task = 1;
    while ((i = take_first(&pool.share[thread])) >= 0) pool.task(pool.ctx, i, thread);
    for (int k = 1; k < pool.n; k++)
        while ((i = steal_last(&pool.share[(thread + k) % pool.n])) >= 0)
            pool.task(pool.ctx, i, thread);
    in_task = 0;
}

static uint64_t first_of_share(int items, int thread) {
    return (uint64_t)items * (uint64_t)thread / (uint64_t)pool.n;
}

static void *work(void *arg) {
    my_index = (int)(intptr_t)arg;
    for (unsigned seen = 0;;) {
        if (!spin_while(&pool.calls, seen)) {
            atomic_fetch_add(&pool.sleepers, 1);
            while (atomic_load(&pool.calls) == seen) futex_wait(&pool.calls, seen);
            atomic_fetch_sub(&pool.sleepers, 1);
        }
        seen = atomic_load(&pool.calls);
        if (atomic_load(&pool.stop)) return NULL;
        atomic_fetch_add(&pool.inside, 1);
        if (atomic_load(&pool.open)) drain(my_index);
        atomic_fetch_sub(&pool.inside, 1);
        if (atomic_load(&pool.caller_waits)) futex_wake_all(&pool.inside);
    }
}

static void call_workers(void) {
    atomic_fetch_add(&pool.calls, 1);
    if (atomic_load(&pool.sleepers) > 0) futex_wake_all(&pool.calls);
}

static void wait_until_empty(void) {
    for (unsigned v; (v = atomic_load(&pool.inside)) > 0;) {
        if (spin_while(&pool.inside, v)) continue;
        atomic_store(&pool.caller_waits, 1);
        if (atomic_load(&pool.inside) == v) futex_wait(&pool.inside, v);
        atomic_store(&pool.caller_waits, 0);
    }
}

static void run_serially(int items, ThreadsTask task, void *ctx) {
    int outer = in_task;
    in_task = 1;
    for (int i = 0; i < items; i++) task(ctx, i, my_index);
    in_task = outer;
}

void threads_run(int items, ThreadsTask task, void *ctx) {
    if (in_task || (items <= 1 && pool.n == 1)) {
        run_serially(items, task, ctx);
        return;
    }
    pthread_mutex_lock(&one_caller);
    if (pool.n == 1 || items <= 1) {
        run_serially(items, task, ctx);
    } else {
        pool.task = task;
        pool.ctx = ctx;
        for (int i = 0; i < pool.n; i++) {
            uint64_t first = first_of_share(items, i), end = first_of_share(items, i + 1);
            atomic_store_explicit(&pool.share[i].left, end << 32 | first, memory_order_relaxed);
        }
        atomic_store(&pool.open, 1);
        call_workers();
        drain(0);
        atomic_store(&pool.open, 0);
        wait_until_empty();
    }
    pthread_mutex_unlock(&one_caller);
}

/* A container may be given less time than it sees cores: "quota period", in microseconds. */
static int quota_cores(void) {
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "r");
    if (!f) return INT_MAX;
    long quota, period;
    int n = fscanf(f, "%ld %ld", &quota, &period);
    fclose(f);
    if (n != 2 || quota <= 0 || period <= 0) return INT_MAX;
    return quota < period ? 1 : (int)((quota + period - 1) / period);
}

static int usable_cores(void) {
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
                                                        : (int)sysconf(_SC_NPROCESSORS_ONLN);
    int quota = quota_cores();
    if (n > quota) n = quota;
    return n < 1 ? 1 : n;
}

int threads_count(void) {
    return pool.n;
}

void threads_stop(void) {
    atomic_store(&pool.stop, 1);
    call_workers();
    for (int i = 1; i < pool.n; i++) pthread_join(pool.worker[i], NULL);
    atomic_store(&pool.stop, 0);
    atomic_store(&pool.calls, 0);
    pool.n = 1;
}

Status threads_start(int n) {
    CHECK(!in_task);
    if (n == 0) n = usable_cores();
    if (n < 1 || n > MAX_THREADS)
        return status_fail(E_USAGE, "threads: %d is not between 1 and %d", n, MAX_THREADS);
    if (n == pool.n) return OK;
    threads_stop();
    for (int i = 1; i < n; i++) {
        int err = pthread_create(&pool.worker[i], NULL, work, (void *)(intptr_t)i);
        if (err) {
            pool.n = i;
            threads_stop();
            return status_fail(E_MEMORY, "threads: cannot start thread %d of %d: %s", i + 1, n,
                               strerror(err));
        }
    }
    pool.n = n;
    return OK;
}
