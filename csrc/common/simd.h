#pragma once

// One source, several SIMD levels. A kernel file `x_cpu.cpp` consists of
//
//     #define SIMD_SOURCE "x/x_cpu.inl"
//     #include "common/simd_levels.h"
//
// and functions that call SIMD_CALL(function, arguments...). The .inl is compiled once per level inside
// namespace `SIMD_LEVEL`; the level is chosen once, by what the processor has. MASKRCNN_OPS_SIMD=baseline
// in the environment forces the portable one (the tests run every level). Per-file compiler flags would leak
// into templates shared with other files, so the level is set by a pragma around the included source.

#include <cstdint>

namespace maskrcnn_ops {

enum class SimdLevel { baseline, avx2 };

SimdLevel simd_level();
const char* simd_level_name();

}  // namespace maskrcnn_ops

#if defined(__x86_64__)
#include <immintrin.h>
#define SIMD_CALL(function, ...) \
  (simd_level() == SimdLevel::avx2 ? avx2::function(__VA_ARGS__) : baseline::function(__VA_ARGS__))
#else
#define SIMD_CALL(function, ...) baseline::function(__VA_ARGS__)
#endif
