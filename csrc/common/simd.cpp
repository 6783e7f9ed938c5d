#include "common/simd.h"

#include <cstdlib>
#include <cstring>

namespace maskrcnn_ops {
namespace {

SimdLevel choose() {
#if defined(__x86_64__)
  const char* wish = std::getenv("MASKRCNN_OPS_SIMD");
  if (wish != nullptr && std::strcmp(wish, "baseline") == 0) return SimdLevel::baseline;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
    return SimdLevel::avx2;
#endif
  return SimdLevel::baseline;
}

}  // namespace

SimdLevel simd_level() {
  static const SimdLevel level = choose();
  return level;
}

const char* simd_level_name() { return simd_level() == SimdLevel::avx2 ? "avx2" : "baseline"; }

}  // namespace maskrcnn_ops
