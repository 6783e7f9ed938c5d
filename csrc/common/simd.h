#pragma once

// One source, several SIMD levels. A kernel file `x_cpu.cpp` consists of
//
//     #define SIMD_SOURCE "x/x_cpu.inl"
//     #include "common/simd_levels.h"
//
// and functions that call SIMD_CALL(function, arguments...). The .inl is compiled once per level inside
// namespace `SIMD_LEVEL`; the level is chosen once, by what the processor has. MASKRCNN_OPS_SIMD=avx2 or
// =baseline in the environment keeps to a lower one (the tests run every level). Per-file compiler flags would leak
// into templates shared with other files, so the level is set by a pragma around the included source.
// The level avx512 is for its masks and registers: lanes stay eight floats, since 512 bits slow some processors down.

#include <cstdint>

namespace maskrcnn_ops {

enum class SimdLevel { baseline, avx2, avx512 };

SimdLevel simd_level();
const char* simd_level_name();

}  // namespace maskrcnn_ops

#if defined(__x86_64__)
#include <immintrin.h>
#define SIMD_CALL(function, ...)                                     \
  (simd_level() == SimdLevel::avx512 ? avx512::function(__VA_ARGS__) \
   : simd_level() == SimdLevel::avx2 ? avx2::function(__VA_ARGS__)   \
                                     : baseline::function(__VA_ARGS__))
#else
#define SIMD_CALL(function, ...) baseline::function(__VA_ARGS__)
#endif
