/* cpu_memory.c - memory of the CPU backend, the page's assembly, and the split of ranges over
 * threads. */
#include "core/backend/cpu/cpu.h"

#include <string.h>

#include "core/backend/cpu/vec.h"
#include "core/base/memory.h"
#include "core/base/threads.h"

typedef struct {
    CpuRange body;
    void *ctx;
    int n, step;
} Parallel;

static void parallel_item(void *ctx, int item, int thread) {
    (void)thread;
    const Parallel *p = ctx;
    int first = item * p->step, last = first + p->step;
    p->body(p->ctx, first, last < p->n ? last : p->n);
}

void CPU(parallel)(int n, int grain, CpuRange body, void *ctx) {
    int threads = threads_count();
    if (grain < 1) grain = 1;
    if (threads == 1 || n <= grain) {
        if (n > 0) body(ctx, 0, n);
        return;
    }
    int step = (n + threads - 1) / threads;
    if (step < grain) step = grain;
    Parallel p = {body, ctx, n, step};
    threads_run((n + step - 1) / step, parallel_item, &p);
}

static Status alloc(Backend *b, Buf *out, Dtype dtype, size_t count, const char *what) {
    (void)b;
    size_t bytes;
    *out = (Buf){NULL, dtype};
    TRY(memory_mul(&bytes, count, dtype_bytes(dtype), what));
    return memory_alloc(&out->ptr, bytes, what);
}

static void release(Backend *b, Buf *buf) {
    (void)b;
    memory_release(buf->ptr);
    buf->ptr = NULL;
}

static size_t memory_free(Backend *b) {
    (void)b;
    return memory_available();
}

static void upload(Backend *b, Buf to, const void *from, size_t count) {
    (void)b;
    if (count) memcpy(to.ptr, from, count * dtype_bytes(to.dtype));
}

static void download(Backend *b, void *to, Buf from, size_t count) {
    (void)b;
    if (count) memcpy(to, from.ptr, count * dtype_bytes(from.dtype));
}

static void copy(Backend *b, Buf to, Buf from, size_t count) {
    (void)b;
    if (count) memmove(to.ptr, from.ptr, count * dtype_bytes(to.dtype));
}

static void zero(Backend *b, Buf to, size_t count) {
    (void)b;
    if (count) memset(to.ptr, 0, count * dtype_bytes(to.dtype));
}

typedef struct {
    float *out;
    const float *x, *y;
    size_t count;
} Add;
enum { ADD_CHUNK = 4096 };

static void add_range(void *ctx, int first, int last) {
    const Add *a = ctx;
    size_t end = (size_t)last * ADD_CHUNK < a->count ? (size_t)last * ADD_CHUNK : a->count;
    for (size_t i = (size_t)first * ADD_CHUNK; i < end; i++) a->out[i] = a->x[i] + a->y[i];
}

static void add(Backend *b, Buf out, Buf x, Buf y, size_t count) {
    (void)b;
    Add a = {f32(out), f32(x), f32(y), count};
    CPU(parallel)((int)((count + ADD_CHUNK - 1) / ADD_CHUNK), 8, add_range, &a);
}

typedef struct {
    float *out;
    const float *x;
    size_t count;
    float t;
} Lerp;

static void lerp_range(void *ctx, int first, int last) {
    const Lerp *l = ctx;
    size_t end = (size_t)last * ADD_CHUNK < l->count ? (size_t)last * ADD_CHUNK : l->count;
    for (size_t i = (size_t)first * ADD_CHUNK; i < end; i++)
        l->out[i] += l->t * (l->x[i] - l->out[i]);
}

static void lerp(Backend *b, Buf out, Buf x, size_t count, float t) {
    (void)b;
    Lerp l = {f32(out), f32(x), count, t};
    CPU(parallel)((int)((count + ADD_CHUNK - 1) / ADD_CHUNK), 8, lerp_range, &l);
}

static Status sync(Backend *b) {
    return b->error;
}

static int replay_begin(Backend *b, uint64_t key) {
    (void)b;
    (void)key;
    return 0;
}

static void replay_end(Backend *b) {
    (void)b;
}

void CPU(memory_page)(Backend *b) {
    b->alloc = alloc;
    b->release = release;
    b->memory_free = memory_free;
    b->upload = upload;
    b->download = download;
    b->copy = copy;
    b->zero = zero;
    b->add = add;
    b->lerp = lerp;
    b->sync = sync;
    b->replay_begin = replay_begin;
    b->replay_end = replay_end;
}

void CPU(page)(Backend *b) {
    CPU(memory_page)(b);
    CPU(matmul_page)(b);
    CPU(layers_page)(b);
    CPU(attention_page)(b);
    CPU(head_page)(b);
    CPU(optim_page)(b);
}
