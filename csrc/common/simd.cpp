#include "common/simd.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace maskrcnn_ops {
namespace {

SimdLevel best() {
#if defined(__x86_64__)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c"))
    return SimdLevel::baseline;
  const bool has_512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                       __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  return has_512 ? SimdLevel::avx512 : SimdLevel::avx2;
#else
  return SimdLevel::baseline;
#endif
}

const char* name_of(SimdLevel level) {
  switch (level) {
    case SimdLevel::avx512: return "avx512";
    case SimdLevel::avx2: return "avx2";
    default: return "baseline";
  }
}

SimdLevel choose() {
  const char* wish = std::getenv("MASKRCNN_OPS_SIMD");
  if (wish == nullptr || *wish == 0) return best();
  for (SimdLevel level : {SimdLevel::baseline, SimdLevel::avx2, SimdLevel::avx512})
    if (std::strcmp(wish, name_of(level)) == 0) return std::min(level, best());
  // Not an exception, which could start in one of several threads.
  std::fprintf(stderr, "maskrcnn_ops: MASKRCNN_OPS_SIMD: expected baseline, avx2 or avx512, got %s; it is ignored\n",
               wish);
  return best();
}

}  // namespace

SimdLevel simd_level() {
  static const SimdLevel level = choose();
  return level;
}

const char* simd_level_name() { return name_of(simd_level()); }

}  // namespace maskrcnn_ops
