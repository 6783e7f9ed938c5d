// Taps and axes over sizes and hostile boxes; the CPU kernel against plain loops.

#include "keypoints/keypoints.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "check.h"

using namespace maskrcnn_ops;

namespace {

void taps_stay_inside_and_sum_to_one() {
  for (int64_t size : {1, 2, 3, 14, 56})
    for (int64_t positions : {1, 2, 5, 56, 300})
      for (int64_t i = 0; i < positions; ++i) {
        const CubicTap<double> tap = cubic_tap<double>(i, positions, size);
        double sum = 0;
        for (int k = 0; k < 4; ++k) {
          CHECK(tap.cells[k] >= 0 && tap.cells[k] < size);
          sum += tap.weights[k];
        }
        CHECK(std::abs(sum - 1) < 1e-12);
        if (size == positions) CHECK(tap.cells[1] == i && tap.weights[1] == 1);
      }
}

void axes_are_bounded() {
  const float huge = std::numeric_limits<float>::max();
  for (float low : {-huge, -1e30f, -5.0f, 0.0f, 3.3f, 1e30f})
    for (float high : {-1e30f, 0.0f, 3.4f, 9000.0f, 1e30f, huge}) {
      const Axis<float> axis = axis_of(low, high);
      CHECK(axis.positions >= 1 && axis.positions <= most_positions);
      CHECK(axis.step > 0);
    }
  CHECK(axis_of(0.0f, 7.2f).positions == 8);
  CHECK(axis_of(2.0f, 2.5f).positions == 1);
}

void kernel_matches_plain_loops() {
  std::mt19937 random(0);
  std::normal_distribution<double> normal;
  const Heatmaps args{3, 2, 9, 5};
  std::vector<double> maps(args.regions * args.keypoints * args.height * args.width);
  for (double& value : maps) value = normal(random);
  const std::vector<double> boxes{0, 0, 17.5, 30, -4, 2, -3.5, 2.2, 5, 5, 200, 9};
  std::vector<double> keypoints(3 * args.regions * args.keypoints), scores(args.regions * args.keypoints);
  heatmaps_to_keypoints_cpu(maps.data(), boxes.data(), keypoints.data(), scores.data(), args);
  for (int64_t i = 0; i < args.regions * args.keypoints; ++i) {
    const double* box = &boxes[4 * (i / args.keypoints)];
    const Axis<double> x = axis_of(box[0], box[2]), y = axis_of(box[1], box[3]);
    Peak<double> peak{-INFINITY, 0};
    for (int64_t row = 0; row < y.positions; ++row)
      for (int64_t column = 0; column < x.positions; ++column) {
        const auto tap_y = cubic_tap<double>(row, y.positions, args.height);
        const auto tap_x = cubic_tap<double>(column, x.positions, args.width);
        double value = 0;
        for (int j = 0; j < 4; ++j)
          for (int k = 0; k < 4; ++k)
            value += tap_y.weights[j] * tap_x.weights[k] *
                     maps[(i * args.height + tap_y.cells[j]) * args.width + tap_x.cells[k]];
        const Peak<double> here{value, row * x.positions + column};
        if (beats(here, peak)) peak = here;
      }
    double expected[3], score;
    write_keypoint(peak, x, y, expected, &score);
    CHECK(std::abs(score - scores[i]) < 1e-12);
    for (int k = 0; k < 3; ++k) CHECK(expected[k] == keypoints[3 * i + k]);
  }
}

}  // namespace

int main() {
  taps_stay_inside_and_sum_to_one();
  axes_are_bounded();
  kernel_matches_plain_loops();
  return finish();
}
