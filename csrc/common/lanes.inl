// Lanes of one SIMD level, written with the compilers' vector extension: `Lanes<float>` is eight floats and
// `Lanes<double>` four doubles at every level (the baseline splits them in two registers). No include guard:
// included once per level by simd_levels.h.

namespace maskrcnn_ops {
namespace SIMD_LEVEL {

typedef float FloatLanes __attribute__((vector_size(32)));
typedef double DoubleLanes __attribute__((vector_size(32)));
typedef uint16_t HalfBits __attribute__((vector_size(16)));
typedef uint32_t FloatBits __attribute__((vector_size(32)));

template <class A>
using Lanes = std::conditional_t<std::is_same_v<A, double>, DoubleLanes, FloatLanes>;

template <class A>
constexpr int lane_count = 32 / sizeof(A);

#define SIMD_INLINE inline __attribute__((always_inline))

// Unaligned loads and stores; half-precision storage is widened and narrowed on the way.
SIMD_INLINE FloatLanes load(const float* p) {
  FloatLanes v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

SIMD_INLINE DoubleLanes load(const double* p) {
  DoubleLanes v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

SIMD_INLINE FloatLanes load(const BFloat16* p) {
#if SIMD_F16C  // gcc 12 takes the general form apart into numbers
  return (FloatLanes)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16);
#else
  HalfBits h;
  __builtin_memcpy(&h, p, sizeof h);
  return (FloatLanes)(__builtin_convertvector(h, FloatBits) << 16);
#endif
}

SIMD_INLINE FloatLanes load(const Half* p) {
#if SIMD_F16C
  return (FloatLanes)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  FloatLanes v;
  for (int i = 0; i < 8; ++i) v[i] = widen(p[i]);
  return v;
#endif
}

SIMD_INLINE void store(float* p, FloatLanes v) { __builtin_memcpy(p, &v, sizeof v); }
SIMD_INLINE void store(double* p, DoubleLanes v) { __builtin_memcpy(p, &v, sizeof v); }

// To the nearest bfloat16, ties to even, in the upper half of each number; NaN stays NaN.
SIMD_INLINE FloatBits round_to_bfloat16(FloatLanes v) {
  const FloatBits bits = (FloatBits)v, is_nan = (FloatBits)(v != v);
  return (is_nan & (bits | 0x400000u)) | (~is_nan & (bits + 0x7fffu + (bits >> 16 & 1u)));
}

SIMD_INLINE void store(BFloat16* p, FloatLanes v) {
  HalfBits h = __builtin_convertvector(round_to_bfloat16(v) >> 16, HalfBits);
  __builtin_memcpy(p, &h, sizeof h);
}

SIMD_INLINE void store(Half* p, FloatLanes v) {
#if SIMD_F16C
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < 8; ++i) p[i] = narrow<Half>(v[i]);
#endif
}

// Consecutive numbers in two vectors, in the order that is cheapest to load: what is done to all numbers alike does not
// need theirs. bfloat16 has even ones first, then odd ones, which widen in place
// (little-endian, as all that this is built for).
template <class T>
struct Pair {
  static constexpr int numbers = 2 * lane_count<Acc<T>>;
  Lanes<Acc<T>> first, second;
};

template <class T>
SIMD_INLINE Pair<T> load_pair(const T* p) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    FloatBits two;
    __builtin_memcpy(&two, p, sizeof two);
    return {(FloatLanes)(two << 16), (FloatLanes)(two & 0xffff0000u)};
  } else {
    return {load(p), load(p + lane_count<Acc<T>>)};
  }
}

template <class T>
SIMD_INLINE void store_pair(T* p, const Pair<T>& pair) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    const FloatBits two = round_to_bfloat16(pair.first) >> 16 | (round_to_bfloat16(pair.second) & 0xffff0000u);
    __builtin_memcpy(p, &two, sizeof two);
  } else {
    store(p, pair.first);
    store(p + lane_count<Acc<T>>, pair.second);
  }
}

}  // namespace SIMD_LEVEL
}  // namespace maskrcnn_ops
