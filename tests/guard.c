/* guard.c - see guard.h. All memory is one mapping, opened when the outermost kernel begins and
 * locked when it ends. */
#include "tests/guard.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/base/memory.h"

enum { ROOM = 256 << 20 };
static Backend cpu; /* the page behind the guard */
static char *room;
static size_t used;
static int depth;

static void enter(void) {
    if (depth++ == 0) CHECK(mprotect(room, ROOM, PROT_READ | PROT_WRITE) == 0);
}
static void leave(void) {
    if (--depth == 0) CHECK(mprotect(room, ROOM, PROT_NONE) == 0);
}

static Status guard_alloc(Backend *b, Buf *out, Dtype dtype, size_t count, const char *what) {
    (void)b, (void)what;
    size_t bytes = (count / dtype_block(dtype) * dtype_bytes(dtype) + 63) / 64 * 64;
    CHECK(!memory_frozen() && bytes <= ROOM - used);
    *out = (Buf){room + used, dtype};
    used += bytes;
    return OK;
}
static void guard_free(Backend *b, Buf *buf) {
    (void)b;
    buf->ptr = NULL;
}

/* Each operation of the page: open, the CPU's kernel (which may call the page again), lock. */
#define GUARD(op, parameters, arguments)                                                           \
    static void guard_##op parameters {                                                            \
        enter();                                                                                   \
        cpu.op arguments;                                                                          \
        leave();                                                                                   \
    }
GUARD(upload, (Backend * b, Buf to, const void *from, size_t n), (b, to, from, n))
GUARD(download, (Backend * b, void *to, Buf from, size_t n), (b, to, from, n))
GUARD(copy, (Backend * b, Buf to, Buf from, size_t n), (b, to, from, n))
GUARD(zero, (Backend * b, Buf to, size_t n), (b, to, n))
GUARD(add, (Backend * b, Buf o, Buf x, Buf y, size_t n), (b, o, x, y, n))
GUARD(lerp, (Backend * b, Buf o, Buf x, size_t n, float t), (b, o, x, n, t))
GUARD(pack, (Backend * b, Mat m), (b, m))
GUARD(matmul_forward, (Backend * b, Buf y, Buf x, Mat w, int N), (b, y, x, w, N))
GUARD(matmul_backward_input, (Backend * b, Buf dx, Buf dy, Mat w, int N), (b, dx, dy, w, N))
GUARD(matmul_backward_weight, (Backend * b, Buf dw, Buf dy, Buf x, int N, int O, int K),
      (b, dw, dy, x, N, O, K))
GUARD(embedding_forward, (Backend * b, Buf x, Buf e, Buf ids, int N, int C, float s),
      (b, x, e, ids, N, C, s))
GUARD(embedding_backward, (Backend * b, Buf de, Buf dx, Buf ids, int N, int C, float s),
      (b, de, dx, ids, N, C, s))
GUARD(norm_forward, (Backend * b, Buf o, Buf s, Buf sum, Buf x, Buf y, Norm w, int N, int C),
      (b, o, s, sum, x, y, w, N, C))
GUARD(norm_backward,
      (Backend * b, Buf dx, Buf dw, Buf ds, Buf d, Buf x, Norm w, Buf s, int N, int C),
      (b, dx, dw, ds, d, x, w, s, N, C))
GUARD(headnorm_forward, (Backend * b, Buf q, Buf k, Buf r, Norm w, int N, int s, int h, int HS),
      (b, q, k, r, w, N, s, h, HS))
GUARD(headnorm_backward,
      (Backend * b, Buf dq, Buf dw, Buf k, Norm w, Buf r, int N, int s, int h, int HS),
      (b, dq, dw, k, w, r, N, s, h, HS))
GUARD(bias_backward, (Backend * b, Buf dw, Buf dy, int N, int O), (b, dw, dy, N, O))
GUARD(rope, (Backend * b, Buf q, Buf p, Buf t, int N, int s, int h, int HS, int R, int k),
      (b, q, p, t, N, s, h, HS, R, k))
GUARD(attention_forward, (Backend * b, Buf o, Buf l, Buf q, Buf st, int S, int N, AttentionShape a),
      (b, o, l, q, st, S, N, a))
GUARD(attention_backward,
      (Backend * b, Buf dq, Buf d, Buf q, Buf o, Buf l, Buf st, int S, int N, AttentionShape a),
      (b, dq, d, q, o, l, st, S, N, a))
GUARD(activation_forward, (Backend * b, Buf h, Buf x, int N, FeedForward f), (b, h, x, N, f))
GUARD(activation_backward, (Backend * b, Buf dx, Buf dh, Buf x, int N, FeedForward f),
      (b, dx, dh, x, N, f))
GUARD(gather_rows, (Backend * b, Buf o, Buf x, Buf rows, int R, int C), (b, o, x, rows, R, C))
GUARD(scatter_rows, (Backend * b, Buf o, Buf x, Buf rows, int R, int N, int C),
      (b, o, x, rows, R, N, C))
GUARD(head_forward,
      (Backend * b, HeadOut o, Buf h, Mat w, Buf t, Buf l, int c, int R, float T, float s),
      (b, o, h, w, t, l, c, R, T, s))
GUARD(head_backward,
      (Backend * b, Buf dh, Buf dw, HeadGrad g, HeadOut o, Buf h, Mat w, Buf t, Buf l, int c, int R,
       float T, float s),
      (b, dh, dw, g, o, h, w, t, l, c, R, T, s))
GUARD(score_forward, (Backend * b, Buf s, Buf h, Buf w, int N, int C, int K), (b, s, h, w, N, C, K))
GUARD(score_backward, (Backend * b, Buf dh, Buf dw, Buf ds, Buf h, Buf w, int N, int C, int K),
      (b, dh, dw, ds, h, w, N, C, K))
GUARD(kv_write, (Backend * b, KvLayer kv, Buf q, Buf r, Buf p, int N, AttentionShape a),
      (b, kv, q, r, p, N, a))
GUARD(attention_decode,
      (Backend * b, Buf o, Buf q, KvLayer kv, Buf r, Buf p, int N, AttentionShape a),
      (b, o, q, kv, r, p, N, a))
GUARD(sample,
      (Backend * b, Buf ids, Buf lp, Buf cut, Buf h, Mat w, Buf u, Buf l, int c, int R,
       SampleParams p),
      (b, ids, lp, cut, h, w, u, l, c, R, p))
GUARD(adamw, (Backend * b, Buf w, Buf m, Buf v, Buf copy, Buf g, size_t n, AdamwParams p),
      (b, w, m, v, copy, g, n, p))

GUARD(adamw_packed, (Backend * b, Mat w, Buf m, Buf v, Buf g, AdamwParams p), (b, w, m, v, g, p))

static double guard_sum_squares(Backend *b, Buf g, size_t n) {
    enter();
    double sum = cpu.sum_squares(b, g, n);
    leave();
    return sum;
}

Backend *guard_create(const char *dtype) {
    Backend *b;
    CHECK(backend_create(&b, "cpu", "auto", dtype) == OK);
    cpu = *b;
    used = 0;
    room = mmap(NULL, ROOM, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(room != MAP_FAILED);
#define USE(op) b->op = guard_##op
    USE(alloc), USE(upload), USE(download), USE(copy), USE(zero), USE(add), USE(lerp), USE(pack),
        USE(matmul_forward);
    USE(matmul_backward_input), USE(matmul_backward_weight), USE(embedding_forward),
        USE(embedding_backward);
    USE(norm_forward), USE(norm_backward), USE(headnorm_forward), USE(headnorm_backward),
        USE(bias_backward), USE(rope), USE(attention_forward), USE(attention_backward);
    USE(activation_forward), USE(activation_backward), USE(gather_rows), USE(scatter_rows),
        USE(head_forward), USE(head_backward);
    USE(score_forward), USE(score_backward), USE(kv_write), USE(attention_decode), USE(sample),
        USE(adamw), USE(adamw_packed), USE(sum_squares);
    b->release = guard_free;
    return b;
}

void guard_release(Backend *b) {
    munmap(room, ROOM);
    backend_release(b);
}
