#include "common/cuda_kernel.h"
#include "match_boxes/match_boxes.h"

namespace maskrcnn_ops {
namespace {

constexpr int threads = 256;
// Left to itself ptxas aims at six blocks on sm_80 and spills registers of the double kernels.
constexpr int blocks_per_multiprocessor = 4;
constexpr int chunk = 128;  // ground truths in shared memory at a time

// IoUs are not negative, so their bits are ordered as they are: the largest is found by an integer atomicMax, whose
// result does not depend on the order.
template <class C>
using Bits = std::conditional_t<sizeof(C) == 8, unsigned long long, unsigned>;

__device__ __forceinline__ unsigned bits_of(float value) { return __float_as_uint(value); }
__device__ __forceinline__ unsigned long long bits_of(double value) {
  return static_cast<unsigned long long>(__double_as_longlong(value));
}

template <class C>
struct TruthChunk {
  Box<C> boxes[chunk];
  C areas[chunk];
  Bits<C> best[chunk];
};

// All threads of the block take part; the caller synchronises before `best` is read.
template <class C>
__device__ __forceinline__ void load_truths(const C* __restrict__ truths, int64_t first, int count, const Bits<C>* best,
                                            TruthChunk<C>& shared) {
  for (int g = threadIdx.x; g < count; g += threads) {
    shared.boxes[g] = load_box(truths + 4 * (first + g));
    shared.areas[g] = area_of(shared.boxes[g]);
    shared.best[g] = best ? best[first + g] : Bits<C>(0);
  }
}

__device__ __forceinline__ int chunk_size(int64_t truths, int64_t first) {
  return truths - first < chunk ? static_cast<int>(truths - first) : chunk;
}

// One thread finds one box's best ground truth; a block goes through the ground truths in chunks that it shares, and
// sends their best IoUs to truth_best [G], zero before. Reads the boxes once (grids: computes them), writes 8 +
// sizeof(C) bytes a box. Few boxes overlap a ground truth, so that the atomics in shared memory are rare.
// Deterministic.
template <class C, class Boxes>
__global__ void __launch_bounds__(threads, blocks_per_multiprocessor)
    find_best(const C* __restrict__ truths, const Boxes boxes, int64_t* __restrict__ matches, C* __restrict__ ious,
              Bits<C>* truth_best, MatchRule<C> rule) {
  __shared__ TruthChunk<C> shared;
  const int64_t count = boxes.size();
  for (int64_t tile = blockIdx.x; tile * threads < count; tile += gridDim.x) {
    const int64_t i = tile * threads + threadIdx.x;
    const Box<C> box = i < count ? boxes.anchor(boxes.place(i)) : Box<C>{};
    const C area = area_of(box);
    BestTruth<C> best{C(0), 0};
    for (int64_t first = 0; first < rule.truths; first += chunk) {
      const int size = chunk_size(rule.truths, first);
      __syncthreads();  // the chunk before has been used
      load_truths<C>(truths, first, size, nullptr, shared);
      __syncthreads();
      if (i < count) {
        for (int g = 0; g < size; ++g) {
          const C iou = match_iou(shared.boxes[g], shared.areas[g], box, area);
          best.see(iou, first + g);
          if (rule.low_quality && iou > C(0)) atomicMax(&shared.best[g], bits_of(iou));
        }
      }
      __syncthreads();
      if (rule.low_quality)
        for (int g = threadIdx.x; g < size; g += threads)
          if (shared.best[g] > 0) atomicMax(truth_best + first + g, shared.best[g]);
    }
    if (i < count) {
      matches[i] = best.index;
      ious[i] = best.iou;
    }
  }
}

// One thread decides one box from what find_best has written. IoUs are computed again only for ground truths whose best
// the box's own best reaches: others it cannot tie. Deterministic, no atomics.
template <class C, class Boxes>
__global__ void __launch_bounds__(threads, blocks_per_multiprocessor)
    decide_boxes(const C* __restrict__ truths, const Boxes boxes, int64_t* __restrict__ matches,
                 const C* __restrict__ ious, const Bits<C>* __restrict__ truth_best, MatchRule<C> rule) {
  __shared__ TruthChunk<C> shared;
  const int64_t count = boxes.size();
  for (int64_t tile = blockIdx.x; tile * threads < count; tile += gridDim.x) {
    const int64_t i = tile * threads + threadIdx.x;
    const BestTruth<C> best = i < count ? BestTruth<C>{ious[i], matches[i]} : BestTruth<C>{C(0), 0};
    bool ties = false;
    if (rule.low_quality) {
      const Box<C> box = i < count ? boxes.anchor(boxes.place(i)) : Box<C>{};
      const C area = area_of(box);
      for (int64_t first = 0; first < rule.truths; first += chunk) {
        const int size = chunk_size(rule.truths, first);
        __syncthreads();  // the chunk before has been used
        load_truths(truths, first, size, truth_best, shared);
        __syncthreads();
        for (int g = 0; g < size && !ties; ++g)
          ties = shared.best[g] <= bits_of(best.iou) &&
                 shared.best[g] == bits_of(match_iou(shared.boxes[g], shared.areas[g], box, area));
      }
    }
    if (i < count) matches[i] = decide(best, ties, rule);
  }
}

}  // namespace

template <class C, class Boxes>
int match_boxes_cuda(const C* truths, const Boxes& boxes, int64_t* matches, C* ious, int64_t* truth_best,
                     const MatchRule<C>& rule, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  auto* best = reinterpret_cast<Bits<C>*>(truth_best);
  if (rule.truths > 0) {
    const cudaError_t error = cudaMemsetAsync(best, 0, rule.truths * sizeof(Bits<C>), s);
    if (error != cudaSuccess) return error;
  }
  const unsigned blocks = grid_of((boxes.size() + threads - 1) / threads);
  find_best<C, Boxes><<<blocks, threads, 0, s>>>(truths, boxes, matches, ious, best, rule);
  decide_boxes<C, Boxes><<<blocks, threads, 0, s>>>(truths, boxes, matches, ious, best, rule);
  return cudaGetLastError();
}

#define INSTANTIATE(C)                                                                                                \
  template int match_boxes_cuda(const C*, const StoredBoxes<C>&, int64_t*, C*, int64_t*, const MatchRule<C>&, void*); \
  template int match_boxes_cuda(const C*, const AnchorPyramid<C>&, int64_t*, C*, int64_t*, const MatchRule<C>&, void*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace maskrcnn_ops
