#pragma once

// What the torch-free .cu files share: element access in the accumulation type, and grids.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "common/scalar.h"

namespace maskrcnn_ops {

__device__ __forceinline__ float to_acc(float v) { return v; }
__device__ __forceinline__ double to_acc(double v) { return v; }
__device__ __forceinline__ float to_acc(Half v) { return __half2float(__ushort_as_half(v.bits)); }
__device__ __forceinline__ float to_acc(BFloat16 v) { return __uint_as_float(static_cast<unsigned>(v.bits) << 16); }

template <class T>
__device__ __forceinline__ T from_acc(Acc<T> v) {
  if constexpr (std::is_same_v<T, Half>) return {__half_as_ushort(__float2half_rn(v))};
  else if constexpr (std::is_same_v<T, BFloat16>) return {__bfloat16_as_ushort(__float2bfloat16_rn(v))};
  else return v;
}

// Sixteen bytes of consecutive elements, moved in one access.
template <class T>
struct alignas(16) Pack {
  static constexpr int size = 16 / sizeof(T);
  T values[size];
};

// The threads of the block, for which `hit` holds, in order: written to `chosen`, their number
// returned. All threads call it.
template <int warps>
__device__ int compact(bool hit, int* chosen, int (&counts)[warps]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const unsigned votes = __ballot_sync(0xffffffffu, hit);
  __syncthreads();  // those chosen before have been read
  if (lane == 0) counts[warp] = __popc(votes);
  __syncthreads();
  int before = __popc(votes & ((1u << lane) - 1u)), count = 0;
  for (int w = 0; w < warps; ++w) {
    if (w < warp) before += counts[w];
    count += counts[w];
  }
  if (hit) chosen[before] = static_cast<int>(threadIdx.x);
  __syncthreads();
  return count;
}

inline bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

// Blocks of a one-dimensional grid whose kernel strides over `items`. Tests set a lower limit, to see it stride.
#ifndef MASKRCNN_OPS_MOST_BLOCKS
#define MASKRCNN_OPS_MOST_BLOCKS 0x7fffffff
#endif
inline unsigned grid_of(int64_t items) {
  return static_cast<unsigned>(std::min<int64_t>(items, MASKRCNN_OPS_MOST_BLOCKS));
}

}  // namespace maskrcnn_ops
