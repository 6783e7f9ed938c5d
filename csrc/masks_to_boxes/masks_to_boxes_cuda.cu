#include "common/cuda_kernel.h"
#include "masks_to_boxes/masks_to_boxes.h"

namespace maskrcnn_ops {
namespace {

constexpr int threads = 256;

__device__ __forceinline__ PixelBox shuffle_down(const PixelBox& box, int distance) {
  return {__shfl_down_sync(0xffffffffu, box.x1, distance), __shfl_down_sync(0xffffffffu, box.y1, distance),
          __shfl_down_sync(0xffffffffu, box.x2, distance), __shfl_down_sync(0xffffffffu, box.y2, distance)};
}

template <class U>
__device__ __forceinline__ void note(U value, U significant, int64_t x, int64_t y, PixelBox& box) {
  if (value & significant) box = merge(box, {x, y, x, y});
}

// First pass. A block searches one band of rows of one mask, a warp one row at a time: lanes take consecutive
// 16-byte packs (single elements before and after the aligned part of the row), so a warp reads runs of 512 bytes. A
// pack without a set bit is passed over at once. The bound is reading every mask once. Minima and maxima do not depend
// on their order: deterministic, no atomics.
template <class U>
__global__ void __launch_bounds__(threads)
    search_bands(const U* __restrict__ masks, U significant, PixelBox* __restrict__ found, Bands bands, int64_t count) {
  __shared__ PixelBox partial[threads / 32];
  constexpr int n = Pack<U>::size;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t width = bands.stack.width;
  for (int64_t i = blockIdx.x; i < count; i += gridDim.x) {
    const Bands::Band band = bands.band(i);
    PixelBox box = no_pixels();
    for (int64_t y = band.first + warp; y < band.last; y += threads / 32) {
      const U* row = masks + (band.mask * bands.stack.height + y) * width;
      const int64_t head = min(head_elements(row, n), width);
      const int64_t packs = (width - head) / n;
      if (lane < head) note(row[lane], significant, lane, y, box);  // a head has at most 15 elements
      for (int64_t p = lane; p < packs; p += 32) {
        const int64_t x = head + p * n;
        const uint4 bits = *reinterpret_cast<const uint4*>(row + x);
        if ((bits.x | bits.y | bits.z | bits.w) == 0) continue;
#pragma unroll
        for (int k = 0; k < n; ++k) note(row[x + k], significant, x + k, y, box);
      }
      const int64_t tail = head + packs * n + lane;  // fewer than n <= 16 elements are left
      if (tail < width) note(row[tail], significant, tail, y, box);
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) box = merge(box, shuffle_down(box, distance));
    if (lane == 0) partial[warp] = box;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int w = 1; w < threads / 32; ++w) box = merge(box, partial[w]);
      found[i] = box;
    }
    __syncthreads();  // `partial` has been read
  }
}

// Second pass. One thread merges the few bands of one mask and writes its box.
__global__ void __launch_bounds__(threads)
    merge_bands(const PixelBox* __restrict__ found, float* __restrict__ boxes, int64_t masks, int64_t per_mask) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * threads;
  for (int64_t m = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; m < masks; m += step) {
    PixelBox box = no_pixels();
    for (int64_t b = 0; b < per_mask; ++b) box = merge(box, found[m * per_mask + b]);
    write_box(box, boxes + 4 * m);
  }
}

}  // namespace

template <class U>
int masks_to_boxes_cuda(const U* masks, U significant, float* boxes, PixelBox* bands, const MaskStack& stack,
                        void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  const Bands cut{stack, cuda_band_rows};
  search_bands<<<grid_of(cut.count()), threads, 0, s>>>(masks, significant, bands, cut, cut.count());
  merge_bands<<<grid_of((stack.masks + threads - 1) / threads), threads, 0, s>>>(bands, boxes, stack.masks,
                                                                                 cut.per_mask());
  return cudaGetLastError();
}

#define INSTANTIATE(U) template int masks_to_boxes_cuda(const U*, U, float*, PixelBox*, const MaskStack&, void*);
INSTANTIATE(uint8_t)
INSTANTIATE(uint16_t)
INSTANTIATE(uint32_t)
INSTANTIATE(uint64_t)

}  // namespace maskrcnn_ops
