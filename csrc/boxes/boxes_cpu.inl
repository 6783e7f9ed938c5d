// Overlaps at one SIMD level (see common/simd.h): formulas vectorise over the columns of the result, or over the
// boxes whose gradient is summed.

#include "common/columns.inl"

namespace maskrcnn_ops {
namespace SIMD_LEVEL {

// result[r][k] for r < rows, k < columns, rows of the result `stride` apart.
template <bool generalized, class C>
FLATTEN void overlap_tile(const C* boxes1, const C* boxes2, C* result, int64_t rows, int64_t columns, int64_t stride) {
  Columns<C, tile_columns> b;
  load_columns(boxes2, columns, b);
  for (int64_t r = 0; r < rows; ++r) {
    const Box<C> a = load_box(boxes1 + 4 * r);
    C* line = result + r * stride;
    for (int64_t k = 0; k < columns; ++k)
      line[k] = overlap<generalized>(a, Box<C>{b.values[0][k], b.values[1][k], b.values[2][k], b.values[3][k]});
  }
}

// Gradients of `rows` boxes, at most backward_rows, each summed over boxes2 in their order.
template <bool generalized, class C>
FLATTEN void backward_tile(const PairGradient<C>& grad, const C* boxes1, const C* boxes2, C* grad_boxes1, int64_t rows,
                           int64_t columns) {
  Columns<C, backward_rows> a, sum = {};
  load_columns(boxes1, rows, a);
  C weights[backward_rows] = {};
  for (int64_t c = 0; c < columns; ++c) {
    const Box<C> b = load_box(boxes2 + 4 * c);
    for (int64_t k = 0; k < rows; ++k) weights[k] = grad.data[k * grad.row + c * grad.column];
    for (int k = 0; k < backward_rows; ++k) {
      const Box<C> g = overlap_backward<generalized>(
          weights[k], Box<C>{a.values[0][k], a.values[1][k], a.values[2][k], a.values[3][k]}, b);
      sum.values[0][k] += g.x1;
      sum.values[1][k] += g.y1;
      sum.values[2][k] += g.x2;
      sum.values[3][k] += g.y2;
    }
  }
  store_columns(sum, rows, grad_boxes1);
}

}  // namespace SIMD_LEVEL
}  // namespace maskrcnn_ops
