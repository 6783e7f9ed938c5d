#pragma once

// CUDA's language and runtime as far as the kernels use it, on the CPU: for tests on machines without a GPU. Found in
// place of the toolkit's header of this name when csrc's .cu files, rewritten by translate.py, are compiled as C++.
//
// Threads of a block are fibers, run one at a time until they wait for each other. What a GPU leaves undefined is an
// error here, or as unlike the expected as can be: threads that wait in different places, or for some that have
// returned, end the program; shared memory begins as NaN; the order of warps is that of $CUDA_EMULATION_ORDER.
// Not seen: races within a warp's instruction, ranges of memory (AddressSanitizer sees those), registers, and speed.

#include <math.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) alignas(bytes)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

struct alignas(16) ulonglong2 {
  unsigned long long x, y;
};

inline ulonglong2 make_ulonglong2(unsigned long long x, unsigned long long y) { return {x, y}; }

using cudaStream_t = void*;
enum cudaError_t : int { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };

cudaError_t cudaGetLastError();

inline cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  std::memset(memory, value, bytes);
  return cudaSuccess;
}

namespace emulation {

// Of the running kernel; another process thread's launch waits for its end.
extern dim3 thread_index, block_index, block_size, grid_size;

struct Launch {
  const char* kernel;
  dim3 grid, block;
  int64_t shared_bytes;
  cudaStream_t stream;
};

using Body = void (*)(void* thread);
void run(const Launch& launch, Body body, void* thread);

// Calls `thread` once for every thread of the grid.
template <class Thread>
void launch(const Launch& launch, Thread thread) {
  run(launch, [](void* call) { (*static_cast<Thread*>(call))(); }, &thread);
}

// Wait for all threads of the block; for those of `mask` in the warp.
void wait_for_block(int line);
void wait_for_warp(unsigned mask, int line);

// Of the running block, a number that no other has.
uint64_t block_number();

// The launch's own shared memory.
unsigned char* launched_shared_memory();

// A __shared__ variable: one for the whole block, NaN or -1 in each new one. `line` tells variables apart.
template <class Variable, int line>
Variable& shared() {
  struct Memory {
    alignas(Variable) unsigned char bytes[sizeof(Variable)];
    uint64_t block;
  };
  static Memory memory = {};
  if (memory.block != block_number()) {
    memory.block = block_number();
    std::memset(memory.bytes, 0xff, sizeof memory.bytes);
  }
  return reinterpret_cast<Variable&>(memory.bytes);
}

// What the lanes of a warp show each other: where this lane puts its value, and the place of another's.
void* lane_slot(int lane);
constexpr size_t slot_bytes = 16;

inline int linear_thread() {
  return static_cast<int>(thread_index.x + block_size.x * (thread_index.y + block_size.y * thread_index.z));
}

inline int lane() { return linear_thread() % 32; }

// Each lane of the mask shows a value; then `read(slot_of_lane)` sees all. One wait suffices: slots alternate between
// two sets, and no lane gets two exchanges ahead of another.
template <class T, class Read>
auto exchange(unsigned mask, T value, int line, Read read) {
  static_assert(sizeof(T) <= slot_bytes && std::is_trivially_copyable_v<T>);
  std::memcpy(lane_slot(lane()), &value, sizeof value);
  // The slots of this exchange; after the wait `lane_slot` is about the next.
  void* slots = lane_slot(0);
  wait_for_warp(mask, line);
  return read([slots](int other) {
    T found;
    std::memcpy(&found, static_cast<char*>(slots) + other * slot_bytes, sizeof found);
    return found;
  });
}

template <class T>
T shuffle(unsigned mask, T value, int source, int line) {
  return exchange(mask, value, line, [=](auto of) { return source >= 0 && source < 32 ? of(source) : value; });
}

inline unsigned ballot(unsigned mask, bool vote, int line) {
  return exchange(mask, vote, line, [=](auto of) {
    unsigned votes = 0;
    for (int other = 0; other < 32; ++other)
      if (mask >> other & 1 && of(other)) votes |= 1u << other;
    return votes;
  });
}

template <class To, class From>
To same_bits(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  std::memcpy(&result, &value, sizeof result);
  return result;
}

}  // namespace emulation

#define threadIdx ::emulation::thread_index
#define blockIdx ::emulation::block_index
#define blockDim ::emulation::block_size
#define gridDim ::emulation::grid_size

#define __syncthreads() ::emulation::wait_for_block(__LINE__)
#define __syncwarp() ::emulation::wait_for_warp(0xffffffffu, __LINE__)
#define __shfl_sync(mask, value, source) ::emulation::shuffle(mask, value, source, __LINE__)
#define __shfl_down_sync(mask, value, step) ::emulation::shuffle(mask, value, ::emulation::lane() + (step), __LINE__)
#define __shfl_up_sync(mask, value, step) ::emulation::shuffle(mask, value, ::emulation::lane() - (step), __LINE__)
#define __shfl_xor_sync(mask, value, bits) ::emulation::shuffle(mask, value, ::emulation::lane() ^ (bits), __LINE__)
#define __ballot_sync(mask, vote) ::emulation::ballot(mask, vote, __LINE__)
#define __all_sync(mask, vote) (::emulation::ballot(mask, vote, __LINE__) == (mask))
#define __any_sync(mask, vote) (::emulation::ballot(mask, vote, __LINE__) != 0)

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline float __uint_as_float(unsigned bits) { return emulation::same_bits<float>(bits); }
inline unsigned __float_as_uint(float value) { return emulation::same_bits<unsigned>(value); }
inline long long __double_as_longlong(double value) { return emulation::same_bits<long long>(value); }

using std::max;
using std::min;

// Fibers take turns only where they wait, so that these need no lock.
template <class T>
T atomicAdd(T* target, T value) {
  const T before = *target;
  *target += value;
  return before;
}

template <class T>
T atomicMax(T* target, T value) {
  const T before = *target;
  *target = std::max(before, value);
  return before;
}
