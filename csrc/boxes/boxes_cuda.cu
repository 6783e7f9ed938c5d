#include "boxes/boxes.h"
#include "common/cuda_kernel.h"

namespace maskrcnn_ops {
namespace {

constexpr int threads = 256;
constexpr int rows_a_thread = 16;

template <class C>
__device__ __forceinline__ Box<C> shuffle_down(const Box<C>& box, int distance) {
  return {__shfl_down_sync(0xffffffffu, box.x1, distance), __shfl_down_sync(0xffffffffu, box.y1, distance),
          __shfl_down_sync(0xffffffffu, box.x2, distance), __shfl_down_sync(0xffffffffu, box.y2, distance)};
}

template <class C>
__device__ __forceinline__ Box<C> sum(const Box<C>& a, const Box<C>& b) {
  return {a.x1 + b.x1, a.y1 + b.y1, a.x2 + b.x2, a.y2 + b.y2};
}

// Forward. A block computes one tile of the matrix. A thread keeps one box of boxes2 in registers and goes down its
// column, so consecutive threads write consecutive elements and read the same box of boxes1 (one broadcast). Narrow
// matrices get narrow tiles, whose threads stand in several rows. Bound by the writes of the result. Deterministic.
template <bool generalized, class C>
__global__ void __launch_bounds__(threads) overlap_tiles(const C* __restrict__ boxes1, const C* __restrict__ boxes2,
                                                         C* __restrict__ result, PairTiles tiles, int64_t count) {
  const Pairs& pairs = tiles.pairs;
  const int across = static_cast<int>(tiles.tile_columns);  // a power of two
  const int down = threads / across;
  for (int64_t i = blockIdx.x; i < count; i += gridDim.x) {
    const PairTiles::Tile tile = tiles.tile(i);
    const int64_t column = tile.first_column + threadIdx.x % across;
    if (column >= pairs.columns) continue;
    const Box<C> b = load_box(boxes2 + 4 * (tile.batch * pairs.columns + column));
    const int64_t last = min(tile.first_row + tiles.tile_rows, pairs.rows);
    for (int64_t row = tile.first_row + threadIdx.x / across; row < last; row += down) {
      const int64_t line = tile.batch * pairs.rows + row;
      result[line * pairs.columns + column] = overlap<generalized>(load_box(boxes1 + 4 * line), b);
    }
  }
}

// Backward. A block owns one box of boxes1: its threads take boxes2 in turn, each in order, and their sums are added
// in a fixed tree. Every gradient is written once: no atomics, deterministic. Gradients of the result are read in
// runs where their columns are adjacent (boxes1); in the transposed call (boxes2) neighbouring blocks share each
// sector through the L2 cache.
template <bool generalized, class C>
__global__ void __launch_bounds__(threads)
    overlap_gradients(PairGradient<C> grad, const C* __restrict__ boxes1, const C* __restrict__ boxes2,
                      C* __restrict__ grad_boxes1, Pairs pairs, int64_t count) {
  __shared__ Box<C> partial[threads / 32];
  for (int64_t i = blockIdx.x; i < count; i += gridDim.x) {
    const int64_t n = i / pairs.rows, row = i % pairs.rows;
    const Box<C> a = load_box(boxes1 + 4 * i);
    const C* weights = grad.data + n * grad.batch + row * grad.row;
    const C* others = boxes2 + 4 * n * pairs.columns;
    Box<C> total{C(0), C(0), C(0), C(0)};
    for (int64_t c = threadIdx.x; c < pairs.columns; c += threads)
      total = sum(total, overlap_backward<generalized>(weights[c * grad.column], a, load_box(others + 4 * c)));
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) total = sum(total, shuffle_down(total, distance));
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = total;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int w = 1; w < threads / 32; ++w) total = sum(total, partial[w]);
      C* target = grad_boxes1 + 4 * i;
      target[0] = total.x1;
      target[1] = total.y1;
      target[2] = total.x2;
      target[3] = total.y2;
    }
    __syncthreads();  // `partial` has been read
  }
}

template <bool generalized, class C>
void forward(const C* boxes1, const C* boxes2, C* result, const Pairs& pairs, cudaStream_t stream) {
  const PairTiles tiles = cuda_tiles(pairs, threads, rows_a_thread);
  const int64_t count = tiles.count();
  overlap_tiles<generalized><<<grid_of(count), threads, 0, stream>>>(boxes1, boxes2, result, tiles, count);
}

}  // namespace

template <class C>
int box_iou_cuda(const C* boxes1, const C* boxes2, C* result, const Pairs& pairs, bool generalized, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  if (generalized) forward<true>(boxes1, boxes2, result, pairs, s);
  else forward<false>(boxes1, boxes2, result, pairs, s);
  return cudaGetLastError();
}

template <class C>
int box_iou_backward_cuda(const PairGradient<C>& grad, const C* boxes1, const C* boxes2, C* grad_boxes1,
                          const Pairs& pairs, bool generalized, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  const int64_t count = pairs.batches * pairs.rows;
  const unsigned blocks = grid_of(count);
  if (generalized) overlap_gradients<true><<<blocks, threads, 0, s>>>(grad, boxes1, boxes2, grad_boxes1, pairs, count);
  else overlap_gradients<false><<<blocks, threads, 0, s>>>(grad, boxes1, boxes2, grad_boxes1, pairs, count);
  return cudaGetLastError();
}

#define INSTANTIATE(C)                                                          \
  template int box_iou_cuda(const C*, const C*, C*, const Pairs&, bool, void*); \
  template int box_iou_backward_cuda(const PairGradient<C>&, const C*, const C*, C*, const Pairs&, bool, void*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace maskrcnn_ops
