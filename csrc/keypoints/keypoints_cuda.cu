#include "common/cuda_kernel.h"
#include "keypoints/keypoints.h"

namespace maskrcnn_ops {
namespace {

constexpr int threads = 256;
constexpr int64_t shared_bytes = 48 * 1024;  // what every architecture grants unasked

template <class A>
__device__ __forceinline__ Peak<A> shuffle_down(const Peak<A>& peak, int distance) {
  return {__shfl_down_sync(0xffffffffu, peak.value, distance), __shfl_down_sync(0xffffffffu, peak.place, distance)};
}

// One block finds one keypoint of one region. It copies the heatmap to shared memory once, widened (a map too large
// for that is read through the caches), then a warp takes a row of the enlarged map at a time, so that the taps along
// y are the warp's and lanes read neighbouring cells; the bound is the arithmetic of 16 taps a position. The largest
// value and the smallest place among equals do not depend on the order: deterministic, no atomics.
template <class T>
__global__ void __launch_bounds__(threads)
    find_peaks(const T* __restrict__ heatmaps, const Acc<T>* __restrict__ boxes, Acc<T>* __restrict__ keypoints,
               Acc<T>* __restrict__ scores, Heatmaps args, bool in_shared) {
  using A = Acc<T>;
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ Peak<A> partial[threads / 32];
  A* copy = reinterpret_cast<A*>(memory);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t cells = args.height * args.width;
  for (int64_t i = blockIdx.x; i < args.regions * args.keypoints; i += gridDim.x) {
    const A* box = boxes + 4 * (i / args.keypoints);
    if (!is_usable(box)) {
      if (threadIdx.x == 0) write_nothing(keypoints + 3 * i, scores + i);
      continue;
    }
    const T* map = heatmaps + i * cells;
    if (in_shared) {
      for (int64_t cell = threadIdx.x; cell < cells; cell += threads) copy[cell] = to_acc(map[cell]);
      __syncthreads();
    }
    const Axis<A> x = axis_of(box[0], box[2]), y = axis_of(box[1], box[3]);
    Peak<A> peak{-INFINITY, 0};
    for (int64_t row = warp; row < y.positions; row += threads / 32) {
      const CubicTap<A> tap_y = cubic_tap<A>(row, y.positions, args.height);
      for (int64_t column = lane; column < x.positions; column += 32) {
        const CubicTap<A> tap_x = cubic_tap<A>(column, x.positions, args.width);
        A value = 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          A sum = 0;
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            const int64_t cell = tap_y.cells[j] * args.width + tap_x.cells[k];
            sum += tap_x.weights[k] * (in_shared ? copy[cell] : to_acc(map[cell]));
          }
          value += tap_y.weights[j] * sum;
        }
        if (value > peak.value) peak = {value, row * x.positions + column};  // a thread's places ascend
      }
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
      const Peak<A> other = shuffle_down(peak, distance);
      if (beats(other, peak)) peak = other;
    }
    if (lane == 0) partial[warp] = peak;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int w = 1; w < threads / 32; ++w)
        if (beats(partial[w], peak)) peak = partial[w];
      write_keypoint(peak, x, y, keypoints + 3 * i, scores + i);
    }
    __syncthreads();  // `partial` and `copy` have been read
  }
}

}  // namespace

template <class T>
int heatmaps_to_keypoints_cuda(const T* heatmaps, const Acc<T>* boxes, Acc<T>* keypoints, Acc<T>* scores,
                               const Heatmaps& args, void* stream) {
  const int64_t bytes = args.height * args.width * static_cast<int64_t>(sizeof(Acc<T>));
  const bool in_shared = bytes <= shared_bytes - static_cast<int64_t>(sizeof(Peak<Acc<T>>) * (threads / 32));
  find_peaks<T>
      <<<grid_of(args.regions * args.keypoints), threads, in_shared ? bytes : 0, static_cast<cudaStream_t>(stream)>>>(
          heatmaps, boxes, keypoints, scores, args, in_shared);
  return cudaGetLastError();
}

#define INSTANTIATE(T) \
  template int heatmaps_to_keypoints_cuda(const T*, const Acc<T>*, Acc<T>*, Acc<T>*, const Heatmaps&, void*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(Half)
INSTANTIATE(BFloat16)

}  // namespace maskrcnn_ops
