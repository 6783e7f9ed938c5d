// The loops of paste_masks_cpu.cpp over the pixels of a row, once per SIMD level. Products and sums round one by one
// (no contraction), so every level gives the same bits.

namespace maskrcnn_ops {
namespace SIMD_LEVEL {

// row[k] = the mask's row, with its ring, at pixel k.
template <class A>
void stretch_row(const A* ring, const ColumnTaps<A>& taps, A* row) {
  const int* cell = taps.cell.data();
  const A *low = taps.low.data(), *high = taps.high.data();
  const int64_t n = taps.count;
  for (int64_t k = 0; k < n; ++k) row[k] = low[k] * ring[cell[k]] + high[k] * ring[cell[k] + 1];
}

// The transpose: adds a row of pixels to the ring's cells.
template <class A>
void shrink_row(const A* row, const ColumnTaps<A>& taps, A* ring) {
  for (int64_t k = 0; k < taps.count; ++k) {
    ring[taps.cell[k]] += taps.low[k] * row[k];
    ring[taps.cell[k] + 1] += taps.high[k] * row[k];
  }
}

template <class A>
void blend_decided(const RowPair<A>& rows, A threshold, int64_t n, uint8_t* output) {
  const A *low = rows.low, *high = rows.high;
  const A a = rows.low_weight, b = rows.high_weight;
  for (int64_t k = 0; k < n; ++k) output[k] = a * low[k] + b * high[k] > threshold;
}

template <class A, class T>
void blend(const RowPair<A>& rows, int64_t n, T* output) {
  constexpr int lanes = lane_count<A>;
  const A *low = rows.low, *high = rows.high;
  const A a = rows.low_weight, b = rows.high_weight;
  int64_t k = 0;
  for (; k + lanes <= n; k += lanes) store(output + k, a * load(low + k) + b * load(high + k));
  for (; k < n; ++k) output[k] = narrow<T>(a * low[k] + b * high[k]);
}

// The transpose: adds a row of the gradient to both stretched rows.
template <class A, class T>
void add_row(const T* gradient, A low_weight, A high_weight, int64_t n, A* low, A* high) {
  constexpr int lanes = lane_count<A>;
  int64_t k = 0;
  for (; k + lanes <= n; k += lanes) {
    const Lanes<A> g = load(gradient + k);
    store(low + k, load(low + k) + low_weight * g);
    store(high + k, load(high + k) + high_weight * g);
  }
  for (; k < n; ++k) {
    const A g = widen(gradient[k]);
    low[k] += low_weight * g;
    high[k] += high_weight * g;
  }
}

}  // namespace SIMD_LEVEL
}  // namespace maskrcnn_ops
