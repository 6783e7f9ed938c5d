#include "keypoints/keypoints.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "common/threads.h"

// Work partition: one task is one keypoint of one region; a thread that takes several of the same region computes the
// region's taps once. Scratch is two maps of (height x enlarged width) and a row.

namespace maskrcnn_ops {
namespace {

template <class A>
struct Enlargement {
  std::vector<A> transposed, wide_transposed, wide, row;
};

template <class A>
void fill_taps(const Axis<A>& axis, int64_t size, std::vector<CubicTap<A>>& taps) {
  taps.resize(axis.positions);
  for (int64_t i = 0; i < axis.positions; ++i) taps[i] = cubic_tap<A>(i, axis.positions, size);
}

}  // namespace
}  // namespace maskrcnn_ops

#define SIMD_SOURCE "keypoints/keypoints_cpu.inl"
#include "common/simd_levels.h"

namespace maskrcnn_ops {

template <class T>
void heatmaps_to_keypoints_cpu(const T* heatmaps, const Acc<T>* boxes, Acc<T>* keypoints, Acc<T>* scores,
                               const Heatmaps& args) {
  using A = Acc<T>;
  parallel_for(args.regions * args.keypoints, 1, [&](int64_t begin, int64_t end) {
    Enlargement<A> work;
    std::vector<CubicTap<A>> taps_x, taps_y;
    Axis<A> x{}, y{};
    int64_t region = -1;
    for (int64_t i = begin; i < end; ++i) {
      const A* box = boxes + 4 * (i / args.keypoints);
      if (!is_usable(box)) {
        write_nothing(keypoints + 3 * i, scores + i);
        continue;
      }
      if (region != i / args.keypoints) {
        region = i / args.keypoints;
        x = axis_of(box[0], box[2]);
        y = axis_of(box[1], box[3]);
        fill_taps(x, args.width, taps_x);
        fill_taps(y, args.height, taps_y);
      }
      const Peak<A> peak =
          SIMD_CALL(find_peak, heatmaps + i * args.height * args.width, args.height, args.width, taps_x, taps_y, work);
      write_keypoint(peak, x, y, keypoints + 3 * i, scores + i);
    }
  });
}

#define INSTANTIATE(T) \
  template void heatmaps_to_keypoints_cpu(const T*, const Acc<T>*, Acc<T>*, Acc<T>*, const Heatmaps&);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(Half)
INSTANTIATE(BFloat16)

}  // namespace maskrcnn_ops
