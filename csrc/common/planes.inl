// Moves between a map of any layout and lines: position-major, one block of channels (work.h) per position.
// No include guard: included once per SIMD level by the kernels that use it.

namespace maskrcnn_ops {
namespace SIMD_LEVEL {

SIMD_INLINE void transpose_lanes(FloatLanes (&r)[8]) {
  FloatLanes t[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = __builtin_shufflevector(r[i], r[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
    t[i + 1] = __builtin_shufflevector(r[i], r[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
  FloatLanes u[8];
  for (int i = 0; i < 8; i += 4)
    for (int j = 0; j < 2; ++j) {
      u[i + j] = __builtin_shufflevector(t[i + j], t[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      u[i + j + 2] = __builtin_shufflevector(t[i + j], t[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  for (int i = 0; i < 4; ++i) {
    r[i] = __builtin_shufflevector(u[i], u[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    r[i + 4] = __builtin_shufflevector(u[i], u[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

SIMD_INLINE void transpose_lanes(DoubleLanes (&r)[4]) {
  DoubleLanes t[4];
  for (int i = 0; i < 4; i += 2) {
    t[i] = __builtin_shufflevector(r[i], r[i + 1], 0, 4, 2, 6);
    t[i + 1] = __builtin_shufflevector(r[i], r[i + 1], 1, 5, 3, 7);
  }
  for (int i = 0; i < 2; ++i) {
    r[i] = __builtin_shufflevector(t[i], t[i + 2], 0, 1, 4, 5);
    r[i + 2] = __builtin_shufflevector(t[i], t[i + 2], 2, 3, 6, 7);
  }
}

// lines[k][c] = source[c * channel_stride + k * step] for k < count, c < channels; missing channels become zero.
template <class T, class A>
void gather_lines(const T* source, int64_t channel_stride, int64_t step, int64_t channels, int64_t count, A* lines) {
  constexpr int64_t block = line_size<A>;
  constexpr int lanes = lane_count<A>;
  int64_t k = 0;
  if (channel_stride == 1 && channels == block) {
    for (; k < count; ++k)
      for (int64_t c = 0; c < block; c += lanes) store(lines + k * block + c, load(source + k * step + c));
    return;
  }
  if (channels < block) __builtin_memset(lines, 0, static_cast<size_t>(count) * 64);
  if (step == 1) {
    for (; k + lanes <= count; k += lanes)
      for (int64_t c = 0; c < channels; c += lanes) {
        Lanes<A> tile[lanes] = {};
        for (int i = 0; i < lanes; ++i)
          if (c + i < channels) tile[i] = load(source + (c + i) * channel_stride + k);
        transpose_lanes(tile);
        for (int i = 0; i < lanes; ++i) store(lines + (k + i) * block + c, tile[i]);
      }
  }
  for (; k < count; ++k)
    for (int64_t c = 0; c < channels; ++c) lines[k * block + c] = widen(source[c * channel_stride + k * step]);
}

// Asks for the memory of a scatter to come, whose stores would wait for it: results are large and written once.
template <class T>
SIMD_INLINE void expect_scatter(T* target, int64_t channel_stride, int64_t step, int64_t channels, int64_t count) {
  constexpr int64_t line = 64 / sizeof(T);
  const bool by_lines = channel_stride == 1;
  const int64_t pieces = by_lines ? count : channels, piece = by_lines ? channels : count;
  const int64_t distance = by_lines ? step : channel_stride;
  for (int64_t k = 0; k < pieces; ++k)
    for (int64_t first = 0; first < piece; first += line) __builtin_prefetch(target + k * distance + first, 1);
}

// The inverse: target[c * channel_stride + k * step] = lines[k][c].
template <class T, class A>
void scatter_lines(const A* lines, T* target, int64_t channel_stride, int64_t step, int64_t channels, int64_t count) {
  constexpr int64_t block = line_size<A>;
  constexpr int lanes = lane_count<A>;
  int64_t k = 0;
  if (channel_stride == 1 && channels == block) {
    for (; k < count; ++k)
      for (int64_t c = 0; c < block; c += lanes) store(target + k * step + c, load(lines + k * block + c));
    return;
  }
  if (step == 1) {
    for (; k + lanes <= count; k += lanes)
      for (int64_t c = 0; c < channels; c += lanes) {
        Lanes<A> tile[lanes];
        for (int i = 0; i < lanes; ++i) tile[i] = load(lines + (k + i) * block + c);
        transpose_lanes(tile);
        for (int i = 0; i < lanes; ++i)
          if (c + i < channels) store(target + (c + i) * channel_stride + k, tile[i]);
      }
  }
  for (; k < count; ++k)
    for (int64_t c = 0; c < channels; ++c) target[c * channel_stride + k * step] = narrow<T>(lines[k * block + c]);
}

}  // namespace SIMD_LEVEL
}  // namespace maskrcnn_ops
