/* mma.cuh - the instructions of sm_80 that kernels on tensor cores use, under plain names.
 *
 * Fragments of mma_bf16 (PTX ISA, "mma.m16n8k16"): with g = lane / 4 and t = lane % 4,
 *   A [16][16]: a[0] = rows g,   columns 2t, 2t+1;  a[1] = rows g+8, the same columns;
 *               a[2] = rows g,   columns 2t+8, +9;  a[3] = rows g+8, those columns;
 *   B [16][8] : b[0] = rows 2t, 2t+1, column g;     b[1] = rows 2t+8, 2t+9, column g;
 *   C [16][8] : c[0], c[1] = row g, columns 2t, 2t+1;  c[2], c[3] = row g+8. */
#ifndef MMA_CUH
#define MMA_CUH

#include "core/backend/cuda/device.cuh"

/* c += A B in f32, A and B bf16 */
static __device__ __forceinline__ void mma_bf16(float c[4], const uint32_t a[4],
                                                const uint32_t b[2]) {
#ifdef __CUDACC__
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    emulator_mma_bf16(c, a, b);
#endif
}

/* Four 8x8 tiles of 16-bit numbers from shared memory: lane l gives the address of row l % 8 of
 * tile l / 8 (16 bytes, aligned); r[i] of lane l is row l / 4, columns 2 (l % 4), +1 of tile i. */
static __device__ __forceinline__ void load_tiles(uint32_t r[4], const void *row) {
#ifdef __CUDACC__
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
#else
    emulator_load_tiles(r, row, 0);
#endif
}
/* the same with each tile transposed: r[i] is rows 2 (l % 4), +1 of column l / 4 */
static __device__ __forceinline__ void load_tiles_transposed(uint32_t r[4], const void *row) {
#ifdef __CUDACC__
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at)
                 : "memory");
#else
    emulator_load_tiles(r, row, 1);
#endif
}

/* 16 bytes from global to shared memory behind the thread's back; zeros where not `valid` (then
 * `from` is not read). Complete only after copy_wait and a barrier. */
static __device__ __forceinline__ void copy_async(void *to, const void *from, bool valid) {
#ifdef __CUDACC__
    uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(bytes)
                 : "memory");
#else
    emulator_copy_async(to, from, valid);
#endif
}
/* closes a group of copies */
static __device__ __forceinline__ void copy_commit() {
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    emulator_copy_commit();
#endif
}
/* until at most PENDING of the newest groups are under way */
template <int PENDING> static __device__ __forceinline__ void copy_wait() {
#ifdef __CUDACC__
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#else
    emulator_copy_wait(PENDING);
#endif
}

#endif
