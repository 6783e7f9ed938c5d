// The search of a band of rows at one SIMD level (see common/simd.h).

namespace maskrcnn_ops {
namespace SIMD_LEVEL {

// Whether one of 64 bytes' worth of elements is not zero.
template <class U>
SIMD_INLINE bool any_in_chunk(const U* p, U significant) {
  U bits = 0;
  for (int k = 0; k < chunk<U>; ++k) bits |= p[k];
  return (bits & significant) != 0;
}

// Index of the first non-zero element, or `count`.
template <class U>
inline int64_t first_set(const U* p, int64_t count, U significant) {
  int64_t k = 0;
  while (k + chunk<U> <= count && !any_in_chunk(p + k, significant)) k += chunk<U>;
  while (k < count && !(p[k] & significant)) ++k;
  return k;
}

// Index of the last non-zero element, or -1.
template <class U>
inline int64_t last_set(const U* p, int64_t count, U significant) {
  int64_t k = count;
  while (k >= chunk<U> && !any_in_chunk(p + k - chunk<U>, significant)) k -= chunk<U>;
  while (k > 0 && !(p[k - 1] & significant)) --k;
  return k - 1;
}

// No element is read twice but for the chunk in which a search ends, and what lies inside the box found so far is
// not read at all: rows are searched from the top and from the bottom, and those between only beside the box.
template <class U>
void search_band(const U* mask, int64_t first, int64_t last, int64_t width, U significant, PixelBox& box) {
  box = no_pixels();
  auto whole_row = [&](int64_t y) {
    const U* row = mask + y * width;
    const int64_t x = first_set(row, width, significant);
    if (x == width) return false;
    box = merge(box, {x, y, last_set(row, width, significant), y});
    return true;
  };
  while (first < last && !whole_row(first)) ++first;
  if (first == last) return;
  while (last - 1 > first && !whole_row(last - 1)) --last;
  for (int64_t y = first + 1; y < last - 1; ++y) {
    const U* row = mask + y * width;
    const int64_t left = first_set(row, box.x1, significant);
    const int64_t right = last_set(row + box.x2 + 1, width - box.x2 - 1, significant);
    if (left < box.x1) box.x1 = left;
    if (right >= 0) box.x2 += right + 1;
  }
}

}  // namespace SIMD_LEVEL
}  // namespace maskrcnn_ops
