#pragma once

// exp and log without branches or tables, so that the compiler vectorises loops over them; the same bits at every
// SIMD level. Within 1 ulp in float. double goes to the standard library.

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/macros.h"

namespace maskrcnn_ops {

template <class To, class From>
HOST_DEVICE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "a view of the same bits");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

// x = n · ln 2 + r with |r| <= ln 2 / 2, then the Taylor series of e^r (its next term, r^8 / 8!, is below a tenth
// of an ulp) times 2^n. 2^n goes in two factors: n reaches from the subnormals, -150, to overflow, 128.
HOST_DEVICE float exp_of(float x) {
  constexpr float round_by = 12582912.0f;  // 1.5 · 2^23: adding it leaves the nearest integer in the low bits
  x = x < -104.0f ? -104.0f : x;
  x = x > 89.0f ? 89.0f : x;
  const float shifted = x * 1.44269504f + round_by;
  const float n = shifted - round_by;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;  // ln 2 in two parts, the first of 10 bits
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = 1.0f + (r + r * r * p);
  const int32_t exponent = bits_as<int32_t>(shifted) - bits_as<int32_t>(round_by);
  const int32_t half = exponent >> 1;
  const uint32_t low = static_cast<uint32_t>(half + 127) << 23;
  const uint32_t high = static_cast<uint32_t>(exponent - half + 127) << 23;
  return p * bits_as<float>(low) * bits_as<float>(high);
}

HOST_DEVICE double exp_of(double x) { return exp(x); }

// x = 2^k · m with m in [sqrt(1/2), sqrt(2)); log m = 2 atanh(s) with s = f / (2 + f), f = m - 1, arranged so that
// the leading term f is exact: log m = f - (f²/2 - s · (f²/2 + R)), R = s² · (2/3 + 2/5 s² + ...).
HOST_DEVICE float log_of(float x) {
  const bool subnormal = x < 1.17549435e-38f;
  const uint32_t bits = bits_as<uint32_t>(subnormal ? x * 8388608.0f : x);
  const int32_t k = static_cast<int32_t>(bits - 0x3f3504f3u) >> 23;  // 0x3f3504f3 is sqrt(1/2)
  const float m = bits_as<float>(bits - (static_cast<uint32_t>(k) << 23));
  const float f = m - 1.0f;
  const float s = f / (2.0f + f);
  const float z = s * s;
  const float series = z * (2.0f / 3 + z * (2.0f / 5 + z * (2.0f / 7 + z * (2.0f / 9))));
  const float half_square = 0.5f * f * f;
  const float e = static_cast<float>(k - (subnormal ? 23 : 0));
  float y = e * 0.693359375f - ((half_square - (s * (half_square + series) + e * -2.12194440e-4f)) - f);
  y = x == 0.0f ? -HUGE_VALF : y;
  y = x < 0.0f ? x - x + bits_as<float>(0x7fc00000) : y;
  return x - x == 0.0f ? y : (x > 0.0f ? x : bits_as<float>(0x7fc00000));
}

HOST_DEVICE double log_of(double x) { return log(x); }

}  // namespace maskrcnn_ops
