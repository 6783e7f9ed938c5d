// Enlarging one heatmap and finding its peak, at one SIMD level (see common/simd.h).

namespace maskrcnn_ops {
namespace SIMD_LEVEL {

// out[0 .. count) = the taps' weighted sum of four rows; returns the largest value, -inf where all are NaN.
template <class A>
inline A blend(const A* const rows[4], const A* weights, int64_t count, A* out) {
  constexpr int n = lane_count<A>;
  A largest = -std::numeric_limits<A>::infinity();
  int64_t i = 0;
  if (count >= n) {
    Lanes<A> lanes = Lanes<A>{} + largest;
    for (; i + n <= count; i += n) {
      const Lanes<A> sum = load(rows[0] + i) * weights[0] + load(rows[1] + i) * weights[1] +
                           load(rows[2] + i) * weights[2] + load(rows[3] + i) * weights[3];
      store(out + i, sum);
      lanes = sum > lanes ? sum : lanes;
    }
    for (int k = 0; k < n; ++k) largest = lanes[k] > largest ? lanes[k] : largest;
  }
  for (; i < count; ++i) {
    out[i] = rows[0][i] * weights[0] + rows[1][i] * weights[1] + rows[2][i] * weights[2] + rows[3][i] * weights[3];
    largest = out[i] > largest ? out[i] : largest;
  }
  return largest;
}

// Rows of `from` [rows, columns] become columns of `to` [columns, rows].
template <class T, class A>
inline void transpose(const T* from, int64_t rows, int64_t columns, A* to) {
  for (int64_t y = 0; y < rows; ++y)
    for (int64_t x = 0; x < columns; ++x) to[x * rows + y] = widen(from[y * columns + x]);
}

// Along x first, on the transposed map, where the four cells are four rows; then along y, one row of the enlarged map
// at a time. Only a row that raises the peak is searched for its place.
template <class T, class A>
Peak<A> find_peak(const T* heatmap, int64_t height, int64_t width, const std::vector<CubicTap<A>>& taps_x,
                  const std::vector<CubicTap<A>>& taps_y, Enlargement<A>& work) {
  const int64_t columns = taps_x.size(), positions_y = taps_y.size();
  work.transposed.resize(width * height);
  work.wide_transposed.resize(columns * height);
  work.wide.resize(height * columns);
  work.row.resize(columns);
  auto rows_of = [](const CubicTap<A>& tap, const A* map, int64_t length, const A** rows) {
    for (int k = 0; k < 4; ++k) rows[k] = map + tap.cells[k] * length;
  };
  const A* rows[4];
  transpose(heatmap, height, width, work.transposed.data());
  for (int64_t x = 0; x < columns; ++x) {
    rows_of(taps_x[x], work.transposed.data(), height, rows);
    blend(rows, taps_x[x].weights, height, work.wide_transposed.data() + x * height);
  }
  transpose(work.wide_transposed.data(), columns, height, work.wide.data());
  Peak<A> peak{-std::numeric_limits<A>::infinity(), 0};
  for (int64_t y = 0; y < positions_y; ++y) {
    rows_of(taps_y[y], work.wide.data(), columns, rows);
    const A largest = blend(rows, taps_y[y].weights, columns, work.row.data());
    if (largest > peak.value)
      peak = {largest, y * columns + (std::find(work.row.begin(), work.row.end(), largest) - work.row.begin())};
  }
  return peak;
}

}  // namespace SIMD_LEVEL
}  // namespace maskrcnn_ops
