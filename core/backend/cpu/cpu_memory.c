/* cpu_memory.c - memory of the CPU backend, the page's assembly, and the split of ranges over
 * threads. */
#include "core/backend/cpu/cpu.h"

#include <string.h>

#include "core/backend/cpu/act.h"
#include "core/backend/quant.h"
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
    CHECK(count % dtype_block(dtype) == 0);
    TRY(memory_mul(&bytes, count / dtype_block(dtype), dtype_bytes(dtype), what));
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

enum { CHUNK = 4096 };

static int chunks(size_t count) {
    return (int)((count + CHUNK - 1) / CHUNK);
}
static size_t chunk_end(int last, size_t count) {
    return (size_t)last * CHUNK < count ? (size_t)last * CHUNK : count;
}
static int upto(size_t left) { /* for the loads and stores that take at most a vector */
    return left < VW ? (int)left : VW;
}

typedef struct { /* between the host's f32 and bf16 */
    float *host;
    uint16_t *buf;
    size_t count;
} Convert;

static void narrow_range(void *ctx, int first, int last) {
    const Convert *c = ctx;
    size_t end = chunk_end(last, c->count), i = (size_t)first * CHUNK;
    for (; i + VW <= end; i += VW) vstore_bf16(c->buf + i, vload(c->host + i));
    if (i < end)
        vstore_bf16_n(c->buf + i, vload_n(c->host + i, upto(end - i), 0.0f), upto(end - i));
}

static void widen_range(void *ctx, int first, int last) {
    const Convert *c = ctx;
    size_t end = chunk_end(last, c->count), i = (size_t)first * CHUNK;
    for (; i + VW <= end; i += VW) vstore(c->host + i, vload_bf16(c->buf + i));
    if (i < end) vstore_n(c->host + i, vload_bf16_n(c->buf + i, upto(end - i)), upto(end - i));
}

static void upload(Backend *b, Buf to, const void *from, size_t count) {
    (void)b;
    if (to.dtype == DT_BF16) {
        Convert c = {(float *)from, bf16(to), count};
        CPU(parallel)(chunks(count), 8, narrow_range, &c);
    } else if (dtype_quantized(to.dtype)) {
        quantize(to.ptr, to.dtype, from, count);
    } else if (count) {
        memcpy(to.ptr, from, count * dtype_bytes(to.dtype));
    }
}

static void download(Backend *b, void *to, Buf from, size_t count) {
    (void)b;
    if (from.dtype == DT_BF16) {
        Convert c = {to, bf16(from), count};
        CPU(parallel)(chunks(count), 8, widen_range, &c);
    } else if (dtype_quantized(from.dtype)) {
        dequantize(to, from.ptr, from.dtype, count);
    } else if (count) {
        memcpy(to, from.ptr, count * dtype_bytes(from.dtype));
    }
}

static void copy(Backend *b, Buf to, Buf from, size_t count) {
    (void)b;
    CHECK(to.dtype == from.dtype);
    if (count) memmove(to.ptr, from.ptr, count * dtype_bytes(to.dtype));
}

static void zero(Backend *b, Buf to, size_t count) {
    (void)b;
    if (count) memset(to.ptr, 0, count * dtype_bytes(to.dtype));
}

typedef struct {
    Buf out, x, y; /* of one type */
    size_t count;
} Add;

static void add_range(void *ctx, int first, int last) {
    const Add *a = ctx;
    size_t end = chunk_end(last, a->count), i = (size_t)first * CHUNK;
    if (a->out.dtype == DT_BF16) {
        uint16_t *out = bf16(a->out), *x = bf16(a->x), *y = bf16(a->y);
        for (; i + VW <= end; i += VW) vstore_bf16(out + i, vload_bf16(x + i) + vload_bf16(y + i));
        int n = upto(end - i);
        if (n) vstore_bf16_n(out + i, vload_bf16_n(x + i, n) + vload_bf16_n(y + i, n), n);
    } else {
        float *out = f32(a->out), *x = f32(a->x), *y = f32(a->y);
        for (; i < end; i++) out[i] = x[i] + y[i];
    }
}

static void add(Backend *b, Buf out, Buf x, Buf y, size_t count) {
    (void)b;
    CHECK(out.dtype == x.dtype && out.dtype == y.dtype);
    Add a = {out, x, y, count};
    CPU(parallel)(chunks(count), 8, add_range, &a);
}

typedef struct {
    float *out;
    const float *x;
    size_t count;
    float t;
} Lerp;

static void lerp_range(void *ctx, int first, int last) {
    const Lerp *l = ctx;
    size_t end = chunk_end(last, l->count);
    for (size_t i = (size_t)first * CHUNK; i < end; i++) l->out[i] += l->t * (l->x[i] - l->out[i]);
}

static void lerp(Backend *b, Buf out, Buf x, size_t count, float t) {
    (void)b;
    Lerp l = {f32(out), f32(x), count, t};
    CPU(parallel)(chunks(count), 8, lerp_range, &l);
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
    b->alloc_host = alloc;
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
    CPU(norm_page)(b);
    CPU(attention_page)(b);
    CPU(head_page)(b);
    CPU(optim_page)(b);
}
