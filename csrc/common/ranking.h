#pragma once

// The orders in which CPU kernels visit boxes: by descending score, and by group. Stable radix sorts, since comparison
// sorts would cost more than the suppression itself.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

namespace maskrcnn_ops {
namespace ranking {

// Memory that starts out uninitialised.
template <class T>
class Array {
 public:
  explicit Array(int64_t size) : memory_(new T[size]), size_(size) {}
  T& operator[](int64_t i) { return memory_[i]; }
  const T& operator[](int64_t i) const { return memory_[i]; }
  T* data() { return memory_.get(); }
  const T* data() const { return memory_.get(); }
  int64_t size() const { return size_; }
  void shrink(int64_t size) { size_ = size; }

 private:
  std::unique_ptr<T[]> memory_;
  int64_t size_;
};

template <class S>
using ScoreKey = std::conditional_t<sizeof(S) == 8, uint64_t, uint32_t>;

// An unsigned key that grows as the score falls; equal for both zeros. The score is not NaN.
template <class S>
ScoreKey<S> descending_key(S score) {
  using Key = ScoreKey<S>;
  const S positive_zero = score + S(0);
  Key bits;
  std::memcpy(&bits, &positive_zero, sizeof bits);
  constexpr Key sign = Key(1) << (8 * sizeof(Key) - 1);
  return bits & sign ? bits : ~(bits | sign);
}

template <class Key>
struct Ranked {
  Key key;
  uint32_t index;
};

// Sorts by ascending key, a byte at a time from the lowest; bytes that all keys share are passed over. Stable.
template <class Key>
void radix_sort(Array<Ranked<Key>>& items) {
  constexpr int bytes = sizeof(Key);
  std::array<std::array<uint32_t, 256>, bytes> counts{};
  for (int64_t i = 0; i < items.size(); ++i)
    for (int b = 0; b < bytes; ++b) ++counts[b][items[i].key >> 8 * b & 255];
  Array<Ranked<Key>> room(items.size());
  for (int b = 0; b < bytes; ++b) {
    if (items.size() == 0 || counts[b][items[0].key >> 8 * b & 255] == items.size()) continue;
    uint32_t place = 0;
    for (uint32_t& count : counts[b]) place += std::exchange(count, place);
    for (int64_t i = 0; i < items.size(); ++i) room[counts[b][items[i].key >> 8 * b & 255]++] = items[i];
    std::swap(items, room);
  }
}

using Indices = Array<uint32_t>;

// Those of the items 0 ... count - 1 that `takes_part`, by descending score; equal scores by ascending index.
template <class S, class TakesPart>
Indices order_by_score(const S* scores, int64_t count, const TakesPart& takes_part) {
  Array<Ranked<ScoreKey<S>>> items(count);
  int64_t ranked = 0;
  for (int64_t i = 0; i < count; ++i) {
    items[ranked] = {descending_key(scores[i]), static_cast<uint32_t>(i)};
    ranked += takes_part(i);
  }
  items.shrink(ranked);
  radix_sort(items);
  Indices order(ranked);
  for (int64_t p = 0; p < ranked; ++p) order[p] = items[p].index;
  return order;
}

// The items order[0 ... count - 1] group by group, each in the given order, and where each group begins.
struct Groups {
  Indices order;
  std::vector<int64_t> first;  // of group g; one more at the end

  Groups(const uint32_t* items_in_order, int64_t count, const int64_t* groups) : order(count) {
    Array<Ranked<uint64_t>> items(count);
    uint64_t least = UINT64_MAX;
    for (int64_t p = 0; p < count; ++p) {
      // The offset makes unsigned order agree with signed order.
      items[p] = {static_cast<uint64_t>(groups[items_in_order[p]]) ^ uint64_t(1) << 63, items_in_order[p]};
      least = std::min(least, items[p].key);
    }
    for (int64_t p = 0; p < count; ++p) items[p].key -= least;  // small keys sort in fewer passes
    radix_sort(items);
    for (int64_t p = 0; p < count; ++p) {
      if (p == 0 || items[p].key != items[p - 1].key) first.push_back(p);
      order[p] = items[p].index;
    }
    first.push_back(count);
  }

  int64_t count() const { return static_cast<int64_t>(first.size()) - 1; }
  int64_t size(int64_t group) const { return first[group + 1] - first[group]; }
  const uint32_t* members(int64_t group) const { return order.data() + first[group]; }
};

}  // namespace ranking
}  // namespace maskrcnn_ops
