// Rows of four turned into four columns and back, so that formulas for one box vectorise over boxes. No include
// guard: included once per SIMD level by the kernels that use it.

namespace maskrcnn_ops {
namespace SIMD_LEVEL {

template <class C, int N>
struct Columns {
  C values[4][N];
};

// Loops over columns always run to N: what lies beyond `count` is zero.
template <class C, int N>
SIMD_INLINE void load_columns(const C* rows, int64_t count, Columns<C, N>& columns) {
  if (count < N) columns = {};
  for (int64_t k = 0; k < count; ++k)
    for (int j = 0; j < 4; ++j) columns.values[j][k] = rows[4 * k + j];
}

template <class C, int N>
SIMD_INLINE void store_columns(const Columns<C, N>& columns, int64_t count, C* rows) {
  for (int64_t k = 0; k < count; ++k)
    for (int j = 0; j < 4; ++j) rows[4 * k + j] = columns.values[j][k];
}

}  // namespace SIMD_LEVEL
}  // namespace maskrcnn_ops

// On a function with a loop over formulas: inlines them, without which the loop would not vectorise.
#undef FLATTEN
#define FLATTEN __attribute__((flatten)) inline
