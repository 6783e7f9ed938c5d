#pragma once

// From which level of a feature pyramid a region is pooled (Lin et al., Feature Pyramid Networks, 2017, equation 1):
//     floor(canonical_level + log2(sqrt(area) / canonical_scale + epsilon_inside) + epsilon),
// clamped to the levels there are. The expression grows with the side, so one number decides each border between two
// levels: the smallest relative side that reaches the upper one, found once a call by bisection over the floating-point
// numbers. Kernels only compare, so that a border box goes to the same level on every device.

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/macros.h"

namespace maskrcnn_ops {

constexpr int most_levels = 8;

struct LevelRule {
  double canonical_scale, epsilon_inside;
  int borders;
  double border[most_levels - 1];  // exact in the type in which regions are compared
};

// Index of the level of a region (image index, x1, y1, x2, y2), 0 the finest; also of one without area, inside out, or
// with a NaN.
template <class C>
HOST_DEVICE int level_of(const C* roi, const LevelRule& rule) {
  const C area = (roi[3] - roi[1]) * (roi[4] - roi[2]);
  const C side = std::sqrt(area) / static_cast<C>(rule.canonical_scale) + static_cast<C>(rule.epsilon_inside);
  int level = 0;
  while (level < rule.borders && side >= static_cast<C>(rule.border[level])) ++level;
  return level;
}

// The smallest positive number, infinity included, whose level is at least `level`.
template <class C>
C first_side_of(double level, double canonical_level, double epsilon) {
  using Bits = std::conditional_t<sizeof(C) == 4, uint32_t, uint64_t>;
  auto number = [](Bits bits) {
    C value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  };
  const C infinity = static_cast<C>(INFINITY);
  Bits below = 0, reached;
  std::memcpy(&reached, &infinity, sizeof reached);
  while (reached - below > 1) {
    const Bits middle = below + (reached - below) / 2;
    C found = static_cast<C>(canonical_level) + std::log2(number(middle));
    found += static_cast<C>(epsilon);
    (std::floor(found) >= static_cast<C>(level) ? reached : below) = middle;
  }
  return number(reached);
}

}  // namespace maskrcnn_ops
