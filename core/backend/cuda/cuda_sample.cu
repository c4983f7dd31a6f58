/* cuda_sample.cu - sampling by inverse transform from a row of logits, after top-k and top-p
 * (nucleus sampling, Holtzman et al. 2020), a block per row and all of it on the device.
 *
 * Two passes over a row without top-k and top-p: its softmax statistics, then the masses of its
 * segments, of which one is walked through. A cut costs a pass per halving of the line that the
 * logits sit on. */
#include "core/backend/cuda/device.cuh"
#include "core/backend/cuda/row.cuh"

enum { THREADS = 1024, WARPS = THREADS / WARP, LANE_SEGMENTS = 8, SEGMENTS = WARP * LANE_SEGMENTS };

typedef struct {
    const float *z;
    int V, vocab;
    float inv, lse;
} Row;

typedef struct { /* of the tokens at or above a threshold, and their neighbours on the line */
    double mass;
    int count;
    float least, below; /* the least of them; the greatest of the others */
} Above;

template <bool WIDE> static __device__ Above above(const Row &r, float threshold, double *room) {
    Above a = {0.0, 0, INFINITY, -INFINITY};
    for (int base = 0; base < r.vocab; base += THREADS * EACH) {
        float t[EACH];
        load_logits<THREADS, WIDE>(t, r.z, base, r.V, r.inv, -INFINITY);
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            if (logit_at<THREADS, WIDE>(base, j) >= r.vocab) continue;
            if (t[j] < threshold) {
                a.below = fmaxf(a.below, t[j]);
            } else {
                a.least = fminf(a.least, t[j]);
                a.mass += (double)expf(t[j] - r.lse);
                a.count++;
            }
        }
    }
    a.mass = block_reduce<THREADS>(a.mass, room, [](double x, double y) { return x + y; });
    a.count = block_reduce<THREADS>(a.count, (int *)room, [](int x, int y) { return x + y; });
    a.below = block_max<THREADS>(a.below, (float *)room);
    a.least = -block_max<THREADS>(-a.least, (float *)room);
    return a;
}

typedef struct { /* a threshold that is known to keep enough, and what it keeps */
    float threshold;
    double kept;
} Cut;

/* The largest threshold that keeps >= top_k tokens, or >= top_p mass where top_k is 0. Both ends of
 * the search move to logits that occur, so it ends when no other is between them. */
template <bool WIDE>
static __device__ Cut cut_at(const Row &r, Cut low, float max, int top_k, double top_p,
                             double *room) {
    float middle = max, high = max;
    do {
        Above a = above<WIDE>(r, middle, room);
        if (a.count > 0 && (top_k ? a.count >= top_k : a.mass >= top_p))
            low = Cut{a.least, a.mass};
        else
            high = a.below;
        middle = low.threshold + (high - low.threshold) * 0.5f;
        if (middle <= low.threshold) middle = high;
    } while (low.threshold < high);
    return low;
}

static __device__ __forceinline__ double mass_of(const Row &r, int v, float threshold) {
    float t = r.z[v] * r.inv;
    return t >= threshold ? (double)expf(t - r.lse) : 0.0;
}

/* sum over the lanes up to this one */
static __device__ __forceinline__ double warp_scan(double x) {
    int lane = threadIdx.x % WARP;
    for (int o = 1; o < WARP; o *= 2) {
        double y = __shfl_up_sync(ALL_LANES, x, o);
        if (lane >= o) x += y;
    }
    return x;
}

/* The masses of SEGMENTS pieces of the row, each `length` long. */
static __device__ void segment_masses(const Row &r, float threshold, int length, double *segments) {
    int lane = threadIdx.x % WARP;
    for (int s = (int)threadIdx.x / WARP; s < SEGMENTS; s += WARPS) {
        int end = min(r.vocab, (s + 1) * length);
        double sum = 0.0;
#pragma unroll 4
        for (int v = s * length + lane; v < end; v += WARP) sum += mass_of(r, v, threshold);
        for (int o = WARP / 2; o; o /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, o);
        if (lane == 0) segments[s] = sum;
    }
    __syncthreads();
}

/* One warp: the segment in which the running mass first exceeds u times all of it, the last with
 * any mass where rounding leaves none; before: the mass in front of it, goal: what is to be
 * exceeded. */
static __device__ int find_segment(const double *segments, double u, double *before, double *goal) {
    const double *mine = segments + threadIdx.x % WARP * LANE_SEGMENTS;
    double sum = 0.0;
    for (int i = 0; i < LANE_SEGMENTS; i++) sum += mine[i];
    double upto = warp_scan(sum), previous = __shfl_up_sync(ALL_LANES, upto, 1);
    *goal = u * __shfl_sync(ALL_LANES, upto, WARP - 1);
    unsigned some = __ballot_sync(ALL_LANES, sum > 0.0);
    unsigned over = __ballot_sync(ALL_LANES, sum > 0.0 && upto > *goal);
    int lane = over ? __ffs((int)over) - 1 : some ? WARP - 1 - __clz((int)some) : 0;
    int chosen = lane * LANE_SEGMENTS, end = chosen + LANE_SEGMENTS;
    previous = __shfl_sync(ALL_LANES, previous, lane);
    double running = lane ? previous : 0.0;
    *before = running;
    for (int s = chosen; s < end && !(running > *goal); s++) {
        if (!(segments[s] > 0.0)) continue;
        chosen = s;
        *before = running;
        running += segments[s];
    }
    return chosen;
}

/* One warp: the same among the tokens [first, end). */
static __device__ int find_token(const Row &r, float threshold, int first, int end, double before,
                                 double goal) {
    int lane = threadIdx.x % WARP, token = min(first, r.vocab - 1);
    for (int v = first; v < end; v += WARP) {
        double p = v + lane < end ? mass_of(r, v + lane, threshold) : 0.0;
        double upto = before + warp_scan(p);
        unsigned some = __ballot_sync(ALL_LANES, p > 0.0);
        unsigned over = __ballot_sync(ALL_LANES, p > 0.0 && upto > goal);
        if (over) return v + __ffs((int)over) - 1;
        if (some) token = v + WARP - 1 - __clz((int)some);
        before = __shfl_sync(ALL_LANES, upto, WARP - 1);
    }
    return token;
}

/* Where the row's mass may be cut; *removed is how much of it goes. */
template <bool WIDE>
static __device__ float threshold_of(const Row &r, float max, const SampleParams &p, double *room,
                                     float *removed) {
    bool by_count = p.top_k > 0 && p.top_k < p.vocab, by_mass = p.top_p < 1.0f;
    *removed = 0.0f;
    if (!by_count && !by_mass && !(p.min_p > 0.0f)) return -INFINITY;
    Above all = above<WIDE>(r, -INFINITY, room);
    Cut cut = {fmaxf(all.least, max - 1000.0f), all.mass}; /* below that, probabilities are 0 */
    if (by_count) cut = cut_at<WIDE>(r, cut, max, p.top_k, 0.0, room);
    if (by_mass) cut = cut_at<WIDE>(r, cut, max, 0, (double)p.top_p * cut.kept, room);
    if (p.min_p > 0.0f && max + logf(p.min_p) > cut.threshold) {
        cut.threshold = max + logf(p.min_p);
        cut.kept = above<WIDE>(r, cut.threshold, room).mass;
    }
    *removed = (float)(all.mass - cut.kept);
    return cut.threshold;
}

template <bool WIDE>
static __global__ void __launch_bounds__(THREADS)
    sample_rows(int *ids, float *logp, float *removed, const float *logits, const double *uniform,
                int V, SampleParams p) {
    __shared__ double room[WARPS], segments[SEGMENTS];
    bool greedy = !(p.temperature > 0.0f);
    Row r = {logits + (size_t)blockIdx.x * V, V, p.vocab, greedy ? 1.0f : 1.0f / p.temperature, 0};
    RowStats s = row_stats<THREADS, WIDE>(r.z, V, p.vocab, r.inv, (float *)room);
    int id = s.top;
    float gone = 0.0f;
    r.lse = s.lse;
    if (!greedy) {
        float threshold = threshold_of<WIDE>(r, s.max, p, room, &gone);
        int length = (p.vocab + SEGMENTS - 1) / SEGMENTS;
        segment_masses(r, threshold, length, segments);
        if (threadIdx.x < WARP) {
            double before, goal;
            int at = find_segment(segments, uniform[blockIdx.x], &before, &goal);
            id = find_token(r, threshold, at * length, min(p.vocab, (at + 1) * length), before,
                            goal);
        }
    }
    if (threadIdx.x == 0) {
        ids[blockIdx.x] = id;
        logp[blockIdx.x] = r.z[id] * r.inv - r.lse;
        removed[blockIdx.x] = gone;
    }
}

/* a block per row of the chunk that begins at row r0 */
static __global__ void edit_rows(float *logits, const int *edits, const int *starts, int r0, int V,
                                 float penalty) {
    float *z = logits + (size_t)blockIdx.x * V;
    int end = starts[r0 + blockIdx.x + 1];
    for (int i = starts[r0 + blockIdx.x] + (int)threadIdx.x; i < end; i += (int)blockDim.x) {
        int id = edits[i];
        if (id < 0)
            z[~id] = -INFINITY;
        else
            z[id] = z[id] < 0.0f ? z[id] * penalty : z[id] / penalty;
    }
}

static void sample(Backend *page, Buf ids, Buf logp, Buf cut, Buf h, Mat w, Buf uniform, Buf logits,
                   int chunk, int R, SampleParams p) {
    CudaBackend *b = cuda(page);
    auto *kernel = wide_rows(w.O, EACH, logits.ptr) ? sample_rows<true> : sample_rows<false>;
    for (int r = 0; r < R; r += chunk) {
        int n = R - r < chunk ? R - r : chunk;
        page->matmul_forward(page, logits, buf_at(h, (size_t)r * w.K), w, n);
        cuda_bend_logits(b, as<float>(logits), (size_t)n * w.O, p.softcap);
        if (p.edits.ptr)
            LAUNCH(b, edit_rows, n, 256, 0, as<float>(logits), as<int>(p.edits),
                   as<int>(p.edit_starts), r, w.O, p.penalty);
        LAUNCH(b, kernel, n, THREADS, 0, as<int>(ids) + r, as<float>(logp) + r, as<float>(cut) + r,
               as<float>(logits), as<double>(uniform) + r, w.O, p);
    }
}

void cuda_sample_page(Backend *b) {
    b->sample = sample;
}
