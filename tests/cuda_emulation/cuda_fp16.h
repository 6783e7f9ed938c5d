#pragma once

// Half precision's conversions, by the CPU kernels' own.

#include "common/scalar.h"

struct __half {
  unsigned short bits;
};

inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline unsigned short __half_as_ushort(__half value) { return value.bits; }
inline float __half2float(__half value) { return maskrcnn_ops::widen(maskrcnn_ops::Half{value.bits}); }
inline __half __float2half_rn(float value) { return {maskrcnn_ops::narrow<maskrcnn_ops::Half>(value).bits}; }
