#pragma once

// bfloat16's conversions, by the CPU kernels' own.

#include "common/scalar.h"

struct __nv_bfloat16 {
  unsigned short bits;
};

inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) { return value.bits; }
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  return {maskrcnn_ops::narrow<maskrcnn_ops::BFloat16>(value).bits};
}
