/* emulator.cpp - fibers for the threads of a block, a device memory that bites, and the few calls
 * of the CUDA runtime that core/backend/cuda makes. See cuda_runtime.h. */
#include "cuda_runtime.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <map>
#include <vector>

namespace {

enum { THREADS_MAX = 1024, STACK = 128 << 10, SHARED_MAX = 99 << 10, PAGE = 4096 };

struct Copy {
    void *to;
    const void *from;
    bool valid;
};

struct Warp {
    int live, arrived, everyone;
    unsigned generation;
    unsigned char slot[2][32][32];
};

struct Fiber {
    EmulatedPlace place;
    ucontext_t start;
    jmp_buf at;
    bool started, done;
    const unsigned *waits_for; /* runs again when this counter leaves `seen` */
    unsigned seen;
    unsigned exchanges;
    std::vector<std::vector<Copy>> groups; /* committed copies, oldest first */
    std::vector<Copy> open;
};

Fiber fibers[THREADS_MAX];
Warp warps[THREADS_MAX / 32];
int n_threads, live, arrived;
unsigned generation;
jmp_buf scheduler;
ucontext_t scheduler_context;
Fiber *now;
const std::function<void()> *body;
const char *kernel_name = "";
char *stacks, *shared_end;
size_t shared_bytes;

[[noreturn]] void fail(const char *what) {
    fprintf(stderr, "emulator: %s: %s (block %u,%u,%u thread %u)\n", kernel_name, what,
            now ? now->place.block.x : 0, now ? now->place.block.y : 0,
            now ? now->place.block.z : 0, now ? now->place.thread.x : 0);
    abort();
}

char *guarded(size_t bytes) { /* the end of the mapping that begins here is a locked page */
    size_t whole = (bytes + PAGE - 1) / PAGE * PAGE + PAGE;
    char *p = (char *)mmap(NULL, whole, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return NULL;
    mprotect(p + whole - PAGE, PAGE, PROT_NONE);
    return p;
}

void wait_on(const unsigned *counter, unsigned seen) {
    now->waits_for = counter;
    now->seen = seen;
    if (!_setjmp(now->at)) _longjmp(scheduler, 1);
}

void warp_barrier(unsigned mask) {
    Warp *w = &warps[now - fibers < 0 ? 0 : (now - fibers) / 32];
    if (mask != 0xffffffffu) fail("a warp-wide operation names only some lanes");
    if (w->live != w->everyone)
        fail("a warp-wide operation after some lanes of the warp have left");
    unsigned seen = w->generation;
    if (++w->arrived == w->live) {
        w->arrived = 0;
        w->generation++;
    } else {
        wait_on(&w->generation, seen);
    }
}

void leave() { /* a thread ends: those who wait for all that are left may go on */
    Warp *w = &warps[(now - fibers) / 32];
    now->done = true;
    live--;
    w->live--;
    if (live > 0 && arrived == live) {
        arrived = 0;
        generation++;
    }
    if (w->arrived > 0) fail("a thread left while its warp waits for it");
    _longjmp(scheduler, 1);
}

void fiber_main() {
    (*body)();
    leave();
}

void resume(Fiber *f) {
    now = f;
    emulator_place = &f->place;
    if (_setjmp(scheduler)) return;
    if (f->started) _longjmp(f->at, 1);
    f->started = true;
    swapcontext(&scheduler_context, &f->start);
}

void block_start(dim3 block_at, dim3 block) {
    n_threads = live = (int)(block.x * block.y * block.z);
    arrived = 0;
    generation = 0;
    if (n_threads > THREADS_MAX) fail("more than 1024 threads in a block");
    memset(shared_end - SHARED_MAX, 0xff, SHARED_MAX);
    for (int w = 0; w * 32 < n_threads; w++) {
        warps[w].everyone = warps[w].live = min(32, n_threads - w * 32);
        warps[w].arrived = 0;
        warps[w].generation = 0;
    }
    for (int i = 0; i < n_threads; i++) {
        Fiber *f = &fibers[i];
        unsigned u = (unsigned)i;
        f->place = {dim3(u % block.x, u / block.x % block.y, u / block.x / block.y), block_at,
                    i % 32};
        f->started = f->done = false;
        f->waits_for = NULL;
        f->exchanges = 0;
        f->groups.clear();
        f->open.clear();
        getcontext(&f->start);
        f->start.uc_stack.ss_sp = stacks + (size_t)i * STACK;
        f->start.uc_stack.ss_size = STACK;
        f->start.uc_link = NULL;
        makecontext(&f->start, fiber_main, 0);
    }
}

void block_run() {
    static const char *order = getenv("EMULATOR_ORDER");
    bool down = order && !strcmp(order, "descending");
    while (live > 0) {
        bool moved = false;
        for (int i = 0; i < n_threads; i++) {
            Fiber *f = &fibers[down ? n_threads - 1 - i : i];
            if (f->done || (f->waits_for && *f->waits_for == f->seen)) continue;
            f->waits_for = NULL;
            moved = true;
            resume(f);
        }
        if (!moved) fail("threads wait for each other: a barrier that not all of them reach");
    }
    now = NULL;
}

/* --- graphs: recorded calls --- */

} // namespace

struct EmulatedGraph {
    std::vector<std::function<void()>> calls;
};
struct EmulatedStream {
    EmulatedGraph *recording;
};

static EmulatedStream *last_recording; /* one stream records at a time */

EmulatedPlace *emulator_place;
dim3 emulator_block_dim, emulator_grid_dim;

static void launch_now(dim3 grid, dim3 block, size_t shared, const char *name,
                       const std::function<void()> &kernel) {
    if (!stacks) {
        stacks = (char *)mmap(NULL, (size_t)THREADS_MAX * STACK, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        shared_end = guarded(SHARED_MAX + PAGE);
        if (stacks == MAP_FAILED || !shared_end) fail("no memory for stacks");
        shared_end += (SHARED_MAX + PAGE + PAGE - 1) / PAGE * PAGE;
    }
    kernel_name = name;
    if (shared > SHARED_MAX) fail("more than 99 KiB of shared memory");
    if (!grid.x || !grid.y || !grid.z || grid.y > 65535 || grid.z > 65535)
        fail("a grid that cannot be");
    emulator_block_dim = block;
    emulator_grid_dim = grid;
    shared_bytes = (shared + 127) / 128 * 128;
    body = &kernel;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                block_start(dim3(x, y, z), block);
                block_run();
            }
}

void emulator_run(std::function<void()> call) {
    if (last_recording)
        last_recording->recording->calls.push_back(call);
    else
        call();
}

void emulator_launch(dim3 grid, dim3 block, size_t shared, const char *name,
                     std::function<void()> kernel) {
    emulator_run([=] { launch_now(grid, block, shared, name, kernel); });
}

char *emulator_shared(void) {
    return shared_end - shared_bytes;
}

void __syncthreads(void) {
    unsigned seen = generation;
    if (++arrived == live) {
        arrived = 0;
        generation++;
    } else {
        wait_on(&generation, seen);
    }
}

void __syncwarp(unsigned mask) {
    warp_barrier(mask);
}

const unsigned char (*emulator_exchange(unsigned mask, const void *mine, size_t n))[32] {
    Warp *w = &warps[(now - fibers) / 32];
    if (n > 32) fail("an exchange of more than 32 bytes");
    unsigned char(*slot)[32] = w->slot[now->exchanges++ % 2];
    memcpy(slot[now->place.lane], mine, n);
    warp_barrier(mask);
    return slot;
}

unsigned __ballot_sync(unsigned mask, int yes) {
    int mine = yes != 0;
    int lanes = warps[(now - fibers) / 32].everyone;
    const unsigned char(*all)[32] = emulator_exchange(mask, &mine, sizeof mine);
    unsigned votes = 0;
    for (int i = 0; i < lanes; i++) votes |= (unsigned)all[i][0] << i;
    return votes;
}

int __all_sync(unsigned mask, int yes) {
    int lanes = warps[(now - fibers) / 32].everyone;
    return __ballot_sync(mask, yes) == (lanes == 32 ? 0xffffffffu : (1u << lanes) - 1);
}

uint16_t emulator_bf16(float x) {
    uint32_t u = __float_as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

static float half_of(uint32_t two, int high) {
    return __uint_as_float(high ? two & 0xffff0000u : two << 16);
}

void emulator_mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2]) {
    uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]}, all[32][8];
    memcpy(all, emulator_exchange(0xffffffffu, mine, sizeof mine), sizeof all);
    int lane = now->place.lane, g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) {
        int row = g + i / 2 * 8, column = 2 * t + i % 2;
        float sum = c[i];
        for (int k = 0; k < 16; k++) {
            int of = k % 8 / 2;
            sum += half_of(all[row % 8 * 4 + of][k / 8 * 2 + row / 8], k % 2) *
                   half_of(all[column * 4 + of][4 + k / 8], k % 2);
        }
        c[i] = sum;
    }
}

void emulator_load_tiles(uint32_t r[4], const void *row, int transposed) {
    if ((uintptr_t)row % 16) fail("ldmatrix from an address that is no multiple of 16");
    const unsigned char(*all)[32] = emulator_exchange(0xffffffffu, &row, sizeof row);
    int lane = now->place.lane;
    for (int i = 0; i < 4; i++) {
        uint16_t half[2];
        for (int j = 0; j < 2; j++) {
            int of = transposed ? 2 * (lane % 4) + j : lane / 4;
            int column = transposed ? lane / 4 : 2 * (lane % 4) + j;
            const uint16_t *from;
            memcpy(&from, all[8 * i + of], sizeof from);
            half[j] = from[column];
        }
        r[i] = half[0] | (uint32_t)half[1] << 16;
    }
    __syncwarp(); /* the rows are read before anyone goes on to overwrite them */
}

void emulator_copy_async(void *to, const void *from, bool valid) {
    if ((uintptr_t)to % 16 || (valid && (uintptr_t)from % 16))
        fail("cp.async with an address that is no multiple of 16");
    now->open.push_back({to, from, valid});
}

void emulator_copy_commit(void) {
    now->groups.push_back(now->open);
    now->open.clear();
}

void emulator_copy_wait(int pending) {
    while ((int)now->groups.size() > pending) {
        for (const Copy &c : now->groups.front()) {
            if (c.valid)
                memcpy(c.to, c.from, 16);
            else
                memset(c.to, 0, 16);
        }
        now->groups.erase(now->groups.begin());
    }
}

/* --- runtime --- */

static std::map<void *, std::pair<char *, size_t>> allocated;

cudaError_t cudaMalloc(void **p, size_t bytes) {
    size_t room = (bytes + 255) / 256 * 256, whole = (room + PAGE - 1) / PAGE * PAGE;
    char *base = guarded(room);
    *p = NULL;
    if (!base) return cudaErrorMemoryAllocation;
    char *at = base + whole - room;
    if (bytes < (size_t)256 << 20) memset(at, 0xff, room);
    allocated[at] = {base, whole + PAGE};
    *p = at;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p) {
    auto found = allocated.find(p);
    if (found == allocated.end()) return p ? cudaErrorNotSupported : cudaSuccess;
    munmap(found->second.first, found->second.second);
    allocated.erase(found);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **p, size_t bytes) {
    *p = malloc(bytes);
    return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFreeHost(void *p) {
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t s) {
    if (s && s->recording)
        s->recording->calls.push_back([=] { memmove(to, from, bytes); });
    else
        memmove(to, from, bytes);
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t s) {
    if (s && s->recording)
        s->recording->calls.push_back([=] { memset(to, value, bytes); });
    else
        memset(to, value, bytes);
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned) {
    *s = new EmulatedStream{NULL};
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t s) {
    delete s;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
    return s && s->recording ? cudaErrorNotSupported : cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t s, int) {
    s->recording = new EmulatedGraph;
    last_recording = s;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g) {
    *g = s->recording;
    s->recording = NULL;
    last_recording = NULL;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *x, cudaGraph_t g, unsigned long long) {
    *x = new EmulatedGraph(*g);
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t) {
    for (auto &call : x->calls) call();
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t g) {
    delete g;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x) {
    delete x;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int *n) {
    *n = 1;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
    return device == 0 ? cudaSuccess : cudaErrorNotSupported;
}
cudaError_t cudaDeviceGetAttribute(int *value, int attribute, int) {
    switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = 4; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = SHARED_MAX; break;
    case cudaDevAttrComputeCapabilityMajor: *value = 8; break;
    default: *value = 0;
    }
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
    *free_bytes = *total = (size_t)1 << 33;
    return cudaSuccess;
}
cudaError_t cudaPeekAtLastError(void) {
    return cudaSuccess;
}
cudaError_t cudaGetLastError(void) {
    return cudaSuccess;
}
const char *cudaGetErrorString(cudaError_t e) {
    return e == cudaErrorMemoryAllocation ? "out of memory" : "not supported by the emulator";
}
