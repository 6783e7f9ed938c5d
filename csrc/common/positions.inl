// Positions of maxima: as many integer lanes as the accumulation type has, int32 in memory. After planes.inl.
// No include guard: included once per SIMD level by the kernels that use it.

namespace maskrcnn_ops {
namespace SIMD_LEVEL {

typedef int32_t IntLanes __attribute__((vector_size(32)));
typedef int32_t FourInts __attribute__((vector_size(16)));
typedef int64_t LongLanes __attribute__((vector_size(32)));

// Integer lanes as wide as the accumulation type's, as comparisons give them.
template <class A>
using Positions = std::conditional_t<std::is_same_v<A, double>, LongLanes, IntLanes>;

template <class A>
SIMD_INLINE Positions<A> load_positions(const int32_t* p) {
  if constexpr (std::is_same_v<A, double>) {
    FourInts v;
    __builtin_memcpy(&v, p, sizeof v);
    return __builtin_convertvector(v, LongLanes);
  } else {
    IntLanes v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
}

SIMD_INLINE void store_positions(int32_t* p, IntLanes v) { __builtin_memcpy(p, &v, sizeof v); }
SIMD_INLINE void store_positions(int32_t* p, LongLanes v) {
  const FourInts narrowed = __builtin_convertvector(v, FourInts);
  __builtin_memcpy(p, &narrowed, sizeof narrowed);
}

// scatter_lines for 32-bit integers, `block` of them a position: target[c * channel_stride + k * step] = lines[k][c].
template <int block>
void scatter_positions(const int32_t* lines, int32_t* target, int64_t channel_stride, int64_t step, int64_t channels,
                       int64_t count) {
  int64_t k = 0;
  if (channel_stride == 1) {
    for (; k < count; ++k)
      if (channels == block) __builtin_memcpy(target + k * step, lines + k * block, block * sizeof(int32_t));
      else std::copy(lines + k * block, lines + k * block + channels, target + k * step);
    return;
  }
  if (step == 1)
    for (; k + 8 <= count; k += 8)
      for (int64_t c = 0; c < channels; c += 8) {
        FloatLanes tile[8];
        for (int i = 0; i < 8; ++i) __builtin_memcpy(&tile[i], lines + (k + i) * block + c, sizeof tile[i]);
        transpose_lanes(tile);
        for (int i = 0; i < 8; ++i)
          if (c + i < channels) __builtin_memcpy(target + (c + i) * channel_stride + k, &tile[i], sizeof tile[i]);
      }
  for (; k < count; ++k)
    for (int64_t c = 0; c < channels; ++c) target[c * channel_stride + k * step] = lines[k * block + c];
}

}  // namespace SIMD_LEVEL
}  // namespace maskrcnn_ops
