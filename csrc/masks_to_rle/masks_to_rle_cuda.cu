#include "common/cuda_kernel.h"
#include "masks_to_rle/masks_to_rle.h"

// This file is compiled without contraction (-fmad=false), so pixels are decided as on the CPU, to the bit.

namespace maskrcnn_ops {
namespace {

constexpr int threads = 128, scanning_threads = 1024;

template <class T>
struct ReadElement {
  __device__ __forceinline__ Acc<T> operator()(T value) const { return to_acc(value); }
};

template <class T>
__device__ __forceinline__ const T* mask_of(const T* masks, int64_t d, const PasteMasks& args) {
  return masks + d * args.mask_height * args.mask_width;
}

// A thread counts the changes of one column of one mask; neighbouring threads take neighbouring columns, so they read
// the same cells of the mask, from the cache. Columns outside the box return at once. Deterministic.
template <class T, class C>
__global__ void __launch_bounds__(threads, 1)
    count_changes(const T* __restrict__ masks, const C* __restrict__ boxes, int64_t* __restrict__ starts,
                  Acc<T> threshold, PasteMasks args) {
  for (int64_t d = blockIdx.x; d < args.masks; d += gridDim.x)
    for (unsigned x = blockIdx.y * threads + threadIdx.x; x < static_cast<unsigned>(args.width);
         x += gridDim.y * threads) {
      int64_t count = 0;
      for_each_change<ReadElement<T>>(mask_of(masks, d, args), boxes + 4 * d, static_cast<int>(x), threshold, args,
                                      [&](int) { ++count; });
      starts[d * args.width + x] = count;
    }
}

// A block turns each row of `size` values into the sums of the values before each, in place or elsewhere, every value
// raised by `more`; the row's sum goes to totals[row * total_stride]. A warp sums by shuffles, the first warp sums the
// warps'; `carry` goes from one piece of the row to the next. The order of sums is fixed (and they are integers).
__global__ void __launch_bounds__(scanning_threads)
    scan_rows(const int64_t* values, int64_t* sums, int64_t* totals, int64_t rows, int64_t size, int64_t more) {
  __shared__ int64_t of_warp[32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    int64_t carry = 0;
    for (int64_t first = 0; first < size; first += scanning_threads) {
      const int64_t i = first + threadIdx.x;
      const int64_t value = i < size ? values[row * size + i] + more : 0;
      int64_t sum = value;
      for (int step = 1; step < 32; step *= 2) {
        const int64_t other = __shfl_up_sync(0xffffffffu, sum, step);
        if (lane >= step) sum += other;
      }
      if (lane == 31) of_warp[warp] = sum;
      __syncthreads();
      int64_t before = carry, piece = 0;
      for (int w = 0; w < 32; ++w) {
        if (w < warp) before += of_warp[w];
        piece += of_warp[w];
      }
      if (i < size) sums[row * size + i] = before + sum - value;
      carry += piece;
      __syncthreads();  // `of_warp` has been read
    }
    if (threadIdx.x == 0) totals[row] = carry;
  }
}

// As count_changes, but writes the pixel of each change, where the run before it ends; the thread of column 0 also
// writes the end of the mask's last run.
template <class T, class C>
__global__ void __launch_bounds__(threads, 1)
    write_changes(const T* __restrict__ masks, const C* __restrict__ boxes, const int64_t* __restrict__ starts,
                  const int64_t* __restrict__ offsets, int64_t* __restrict__ ends, Acc<T> threshold, PasteMasks args) {
  for (int64_t d = blockIdx.x; d < args.masks; d += gridDim.x)
    for (unsigned x = blockIdx.y * threads + threadIdx.x; x < static_cast<unsigned>(args.width);
         x += gridDim.y * threads) {
      int64_t* target = ends + offsets[d] + starts[d * args.width + x];
      for_each_change<ReadElement<T>>(mask_of(masks, d, args), boxes + 4 * d, static_cast<int>(x), threshold, args,
                                      [&](int y) { *target++ = static_cast<int64_t>(x) * args.height + y; });
      if (x == 0) ends[offsets[d + 1] - 1] = static_cast<int64_t>(args.height) * args.width;
    }
}

// A block takes a mask: each thread the length of every `threads`-th run, its end less the end before it.
__global__ void __launch_bounds__(threads, 1)
    lengths_of_runs(const int64_t* __restrict__ ends, const int64_t* __restrict__ offsets, int64_t* __restrict__ counts,
                    int64_t masks) {
  for (int64_t d = blockIdx.x; d < masks; d += gridDim.x)
    for (int64_t i = offsets[d] + threadIdx.x; i < offsets[d + 1]; i += threads)
      counts[i] = ends[i] - (i > offsets[d] ? ends[i - 1] : 0);
}

// A block of threads for every mask (x) and every 128 columns (y).
dim3 grid_of_columns(const PasteMasks& args) {
  return dim3(grid_of(args.masks), static_cast<unsigned>(std::min((args.width + threads - 1) / threads, 65535)));
}

}  // namespace

template <class T, class C>
int count_runs_cuda(const T* masks, const C* boxes, int64_t* starts, int64_t* work, int64_t* offsets, Acc<T> threshold,
                    const PasteMasks& args, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  count_changes<<<grid_of_columns(args), threads, 0, s>>>(masks, boxes, starts, threshold, args);
  scan_rows<<<grid_of(args.masks), scanning_threads, 0, s>>>(starts, starts, work, args.masks, args.width, 0);
  // A mask has one run more than changes.
  scan_rows<<<1, scanning_threads, 0, s>>>(work, offsets, offsets + args.masks, 1, args.masks, 1);
  return cudaGetLastError();
}

template <class T, class C>
int write_runs_cuda(const T* masks, const C* boxes, const int64_t* starts, const int64_t* offsets, int64_t* ends,
                    int64_t* counts, Acc<T> threshold, const PasteMasks& args, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  write_changes<<<grid_of_columns(args), threads, 0, s>>>(masks, boxes, starts, offsets, ends, threshold, args);
  lengths_of_runs<<<grid_of(args.masks), threads, 0, s>>>(ends, offsets, counts, args.masks);
  return cudaGetLastError();
}

#define INSTANTIATE_BOXES(T, C)                                                                                     \
  template int count_runs_cuda(const T*, const C*, int64_t*, int64_t*, int64_t*, Acc<T>, const PasteMasks&, void*); \
  template int write_runs_cuda(const T*, const C*, const int64_t*, const int64_t*, int64_t*, int64_t*, Acc<T>,      \
                               const PasteMasks&, void*);
#define INSTANTIATE(T)        \
  INSTANTIATE_BOXES(T, float) \
  INSTANTIATE_BOXES(T, double)
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(Half)
INSTANTIATE(BFloat16)

}  // namespace maskrcnn_ops
