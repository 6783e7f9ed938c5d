#include "common/cuda_kernel.h"
#include "soft_nms/soft_nms.h"

// The kernels of one call: prepare, soften; after torch has sorted, count_kept. Deterministic: the box to keep next is
// the best by a total order, however the threads share the search. Nothing is read back in between.

namespace maskrcnn_ops {
namespace {

constexpr int threads = 256;
constexpr int softening_threads = 512;
constexpr unsigned whole_warp = 0xffffffffu;

// One thread moves one box and its score to its place; the score of a box that takes no part is -inf.
template <class C>
__global__ void __launch_bounds__(threads)
    prepare(const C* __restrict__ boxes, const C* __restrict__ scores, const int64_t* __restrict__ order, int64_t count,
            SoftRule<C> rule, Box<C>* __restrict__ sorted, C* __restrict__ rest, C* __restrict__ decayed) {
  for (int64_t p = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; p < count;
       p += static_cast<int64_t>(gridDim.x) * threads) {
    const int64_t i = order == nullptr ? p : order[p];
    const Box<C> box = load_box(boxes + 4 * i);
    sorted[p] = box;
    rest[p] = scores[i] > rule.floor && !has_nan(box) ? scores[i] : gone<C>();
    decayed[p] = gone<C>();
  }
}

// The best of all threads' picks, in every thread.
template <class C>
__device__ Pick<C> best_of_block(Pick<C> mine, Pick<C>* in_warp) {
  for (int offset = 16; offset > 0; offset /= 2) {
    const C score = __shfl_xor_sync(whole_warp, mine.score, offset);
    const int64_t place = __shfl_xor_sync(whole_warp, static_cast<long long>(mine.place), offset);
    if (mine.behind(score, place)) mine = {score, place};
  }
  if (threadIdx.x % 32 == 0) in_warp[threadIdx.x / 32] = mine;
  __syncthreads();
  for (int w = 0; w < softening_threads / 32; ++w)
    if (mine.behind(in_warp[w].score, in_warp[w].place)) mine = in_warp[w];
  __syncthreads();  // `in_warp` has been read
  return mine;
}

// A block of threads takes a group, from its first place on. A step keeps one box, lowers the scores of the others,
// each thread those of its places, and finds the best of them: kept boxes times members of the group, one pass over
// scores and boxes a step, from the caches. All threads agree on everything that decides where they meet.
template <bool gaussian, class C>
__global__ void __launch_bounds__(softening_threads)
    soften(const Box<C>* __restrict__ sorted, const int64_t* __restrict__ order, const int64_t* __restrict__ groups,
           int64_t count, SoftRule<C> rule, C* rest, C* __restrict__ decayed) {
  __shared__ Pick<C> in_warp[softening_threads / 32];
  for (int64_t first = blockIdx.x; first < count; first += gridDim.x) {
    if (first > 0 && (groups == nullptr || groups[first] == groups[first - 1])) continue;
    int64_t end = count;
    if (groups != nullptr) {
      int64_t low = first + 1;  // the end lies in [low, end]
      while (low < end) {
        const int64_t middle = (low + end) / 2;
        if (groups[middle] == groups[first]) low = middle + 1;
        else end = middle;
      }
    }
    Pick<C> mine{gone<C>(), end};
    for (int64_t p = first + threadIdx.x; p < end; p += softening_threads)
      if (mine.behind(rest[p], p)) mine = {rest[p], p};
    for (;;) {
      const Pick<C> next = best_of_block(mine, in_warp);
      if (next.score == gone<C>()) break;
      const Box<C> box = sorted[next.place];
      const C area = area_of(box);
      mine = {gone<C>(), end};
      for (int64_t p = first + threadIdx.x; p < end; p += softening_threads) {
        C score = rest[p];
        if (score == gone<C>()) continue;
        if (p == next.place) {
          decayed[order == nullptr ? p : order[p]] = score;
          score = gone<C>();
        } else {
          score = decayed_score<gaussian>(box, area, sorted[p], area_of(sorted[p]), score, rule);
        }
        rest[p] = score;
        if (mine.behind(score, p)) mine = {score, p};
      }
    }
  }
}

// One thread: bisection.
template <class C>
__global__ void count_kept(const C* __restrict__ scores, int64_t count, int64_t* __restrict__ kept) {
  int64_t low = 0, high = count;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (scores[middle] > gone<C>()) low = middle + 1;
    else high = middle;
  }
  *kept = low;
}

}  // namespace

template <class C>
int soft_nms_cuda(const C* boxes, const C* scores, const int64_t* order, const int64_t* groups, int64_t count,
                  const SoftRule<C>& rule, Box<C>* sorted, C* rest, C* decayed, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  prepare<<<grid_of((count + threads - 1) / threads), threads, 0, s>>>(boxes, scores, order, count, rule, sorted, rest,
                                                                       decayed);
  const unsigned grid = groups == nullptr ? 1 : grid_of(std::min<int64_t>(count, 65536));
  auto* kernel = rule.gaussian ? &soften<true, C> : &soften<false, C>;
  kernel<<<grid, softening_threads, 0, s>>>(sorted, order, groups, count, rule, rest, decayed);
  return cudaGetLastError();
}

template <class C>
int count_kept_cuda(const C* scores, int64_t count, int64_t* kept, void* stream) {
  count_kept<<<1, 1, 0, static_cast<cudaStream_t>(stream)>>>(scores, count, kept);
  return cudaGetLastError();
}

#define INSTANTIATE(C)                                                                                                 \
  template int soft_nms_cuda(const C*, const C*, const int64_t*, const int64_t*, int64_t, const SoftRule<C>&, Box<C>*, \
                             C*, C*, void*);                                                                           \
  template int count_kept_cuda(const C*, int64_t, int64_t*, void*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace maskrcnn_ops
