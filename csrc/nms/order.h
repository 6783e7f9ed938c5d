#pragma once

// The orders in which the CPU kernel visits boxes: by descending score, and by group. Stable radix sorts, since
// comparison sorts would cost more than the suppression itself.

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <utility>

namespace maskrcnn_ops {
namespace greedy {

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

}  // namespace greedy
}  // namespace maskrcnn_ops
