#include "box_coder/box_coder.h"

#include <algorithm>

#include "common/threads.h"

// Work partition: every row is independent; threads take runs of rows and go through them block by block.

namespace maskrcnn_ops {
namespace {

constexpr int block_size = 64;   // boxes: a few columns of a block stay in the L1 cache
constexpr int64_t grain = 8192;  // boxes a thread: below it starting a thread costs more than it saves

// Calls body(first, count) for consecutive blocks.
template <class Body>
void for_each_block(int64_t rows, const Body& body) {
  parallel_for(rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += block_size)
      body(first, std::min<int64_t>(block_size, end - first));
  });
}

}  // namespace
}  // namespace maskrcnn_ops

#define SIMD_SOURCE "box_coder/box_coder_cpu.inl"
#include "common/simd_levels.h"

namespace maskrcnn_ops {

template <class C>
void encode_boxes_cpu(const C* boxes, const C* anchors, C* deltas, int64_t count, const BoxCoder<C>& coder) {
  for_each_block(count, [&](int64_t first, int64_t n) {
    SIMD_CALL(encode_block, boxes + 4 * first, anchors + 4 * first, deltas + 4 * first, n, coder);
  });
}

template <class C>
void encode_boxes_backward_cpu(const C* grad_deltas, const C* boxes, const C* anchors, C* grad_boxes, C* grad_anchors,
                               int64_t count, const BoxCoder<C>& coder) {
  for_each_block(count, [&](int64_t first, int64_t n) {
    SIMD_CALL(encode_backward_block, grad_deltas + 4 * first, boxes + 4 * first, anchors + 4 * first,
              grad_boxes + 4 * first, grad_anchors + 4 * first, n, coder);
  });
}

template <class C, class Anchors>
void decode_boxes_cpu(const C* deltas, const Anchors& anchors, C* boxes, int64_t count, const BoxCoder<C>& coder) {
  for_each_block(count, [&](int64_t first, int64_t n) {
    SIMD_CALL(decode_block, deltas + 4 * first, anchors, first, boxes + 4 * first, n, coder);
  });
}

template <class C, class Anchors>
void decode_boxes_backward_cpu(const C* grad_boxes, const C* deltas, const Anchors& anchors, C* grad_deltas,
                               int64_t count, const BoxCoder<C>& coder) {
  for_each_block(count, [&](int64_t first, int64_t n) {
    SIMD_CALL(decode_backward_block, grad_boxes + 4 * first, deltas + 4 * first, anchors, first,
              grad_deltas + 4 * first, n, coder);
  });
}

template <class C>
void decode_boxes_backward_anchors_cpu(const C* grad_boxes, const C* deltas, C* grad_anchors, int64_t anchors,
                                       int64_t classes, const BoxCoder<C>& coder) {
  parallel_for(anchors, std::max<int64_t>(1, grain / classes), [&](int64_t begin, int64_t end) {
    for (int64_t l = begin; l < end; ++l)
      for (int axis = 0; axis < 2; ++axis) {
        const AxisCoder<C> one = axis_of(coder, axis);
        Span<C> sum{C(0), C(0)};
        for (int64_t i = l * classes; i < (l + 1) * classes; ++i) {
          const C *grad = grad_boxes + 4 * i + axis, *delta = deltas + 4 * i + axis;
          const Span<C> part = decode_axis_backward_anchor<C>({grad[0], grad[2]}, {delta[0], delta[2]}, one);
          sum = {sum.low + part.low, sum.high + part.high};
        }
        grad_anchors[4 * l + axis] = sum.low;
        grad_anchors[4 * l + axis + 2] = sum.high;
      }
  });
}

#define INSTANTIATE_DECODE(C, Anchors)                                                       \
  template void decode_boxes_cpu(const C*, const Anchors&, C*, int64_t, const BoxCoder<C>&); \
  template void decode_boxes_backward_cpu(const C*, const C*, const Anchors&, C*, int64_t, const BoxCoder<C>&);
#define INSTANTIATE(C)                                                                                        \
  INSTANTIATE_DECODE(C, StoredAnchors<C>)                                                                     \
  INSTANTIATE_DECODE(C, GridAnchors<C>)                                                                       \
  template void encode_boxes_cpu(const C*, const C*, C*, int64_t, const BoxCoder<C>&);                        \
  template void encode_boxes_backward_cpu(const C*, const C*, const C*, C*, C*, int64_t, const BoxCoder<C>&); \
  template void decode_boxes_backward_anchors_cpu(const C*, const C*, C*, int64_t, int64_t, const BoxCoder<C>&);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace maskrcnn_ops
