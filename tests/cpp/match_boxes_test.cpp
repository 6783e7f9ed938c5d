// The CPU kernel, which compares a block of boxes only with ground truths that reach it, beside a plain loop over all
// pairs: the same to the last bit. And the places of a pyramid's anchors.

#include "match_boxes/match_boxes.h"

#include <algorithm>
#include <limits>
#include <random>
#include <vector>

#include "check.h"

using namespace maskrcnn_ops;

namespace {

template <class C, class Boxes>
void beside_plain_loop(const std::vector<C>& truths, const Boxes& boxes, const MatchRule<C>& rule) {
  const int64_t count = boxes.size();
  std::vector<BestTruth<C>> best(count, {C(0), 0});
  std::vector<C> largest(rule.truths, C(0));
  auto iou_at = [&](int64_t g, int64_t i) {
    const Box<C> truth = load_box(truths.data() + 4 * g), box = boxes.anchor(boxes.place(i));
    return match_iou(truth, area_of(truth), box, area_of(box));
  };
  for (int64_t i = 0; i < count; ++i)
    for (int64_t g = 0; g < rule.truths; ++g) {
      best[i].see(iou_at(g, i), g);
      largest[g] = std::max(largest[g], iou_at(g, i));
    }
  std::vector<int64_t> matches(count);
  std::vector<C> ious(count);
  match_boxes_cpu(truths.data(), boxes, matches.data(), ious.data(), rule);
  for (int64_t i = 0; i < count; ++i) {
    bool ties = false;
    for (int64_t g = 0; g < rule.truths && rule.low_quality; ++g) ties |= iou_at(g, i) == largest[g];
    CHECK(matches[i] == decide(best[i], ties, rule) && ious[i] == best[i].iou);
  }
}

template <class C>
std::vector<C> random_boxes(int64_t count, bool integers, std::mt19937& random) {
  std::uniform_real_distribution<double> uniform(0, 1);
  std::vector<C> boxes;
  for (int64_t i = 0; i < count; ++i) {
    C edges[4];
    for (int k = 0; k < 4; ++k)
      edges[k] = static_cast<C>(k < 2 ? 90 * uniform(random) : edges[k - 2] + 30 * uniform(random) - 1);
    for (C edge : edges) boxes.push_back(integers ? std::floor(edge) : edge);
    if (i % 31 == 30) boxes.back() = std::numeric_limits<C>::infinity();
    if (i % 41 == 40) boxes.back() = std::numeric_limits<C>::quiet_NaN();
  }
  return boxes;
}

template <class C>
void windows_change_nothing() {
  std::mt19937 random(3);
  for (int64_t truths : {0, 1, 20})
    for (int64_t count : {1, 63, 64, 65, 500})
      for (bool integers : {false, true})
        for (bool low_quality : {false, true}) {
          const MatchRule<C> rule{truths, C(0.5), C(0.3), low_quality};
          const std::vector<C> gt = random_boxes<C>(truths, integers, random);
          const std::vector<C> boxes = random_boxes<C>(count, integers, random);
          beside_plain_loop(gt, StoredBoxes<C>{boxes.data(), count}, rule);
          const std::vector<C> cells = random_boxes<C>(3, integers, random);
          AnchorPyramid<C> anchors{{}, {0}, 3};
          for (int l = 0; l < 3; ++l) {
            anchors.grids[l] = {cells.data(), count % 7, l == 1 ? 0 : 9, 3, C(5 + l), C(4 + l)};
            anchors.first[l + 1] = anchors.first[l] + anchors.grids[l].size();
          }
          beside_plain_loop(gt, anchors, rule);
        }
}

// Advancing from place to place is the same as finding each place.
void places_follow_each_other() {
  const std::vector<float> cells(4 * 3, 1.0f);
  AnchorPyramid<float> anchors{{}, {0}, 5};
  const int64_t sizes[5][3] = {{0, 4, 2}, {3, 2, 3}, {2, 0, 1}, {1, 5, 2}, {0, 0, 1}};
  for (int l = 0; l < 5; ++l) {
    anchors.grids[l] = {cells.data(), sizes[l][0], sizes[l][1], sizes[l][2], 1.0f, 1.0f};
    anchors.first[l + 1] = anchors.first[l] + anchors.grids[l].size();
  }
  CHECK(anchors.size() == 18 + 10);
  auto walked = anchors.place(0);
  for (int64_t i = 0; i < anchors.size(); ++i, anchors.advance(walked)) {
    const auto found = anchors.place(i);
    CHECK(found.index == i && walked.index == i && found.grid == walked.grid);
    CHECK(found.cell.y == walked.cell.y && found.cell.x == walked.cell.x && found.cell.a == walked.cell.a);
    const auto& grid = anchors.grids[found.grid];
    CHECK(((found.cell.y * grid.width + found.cell.x) * grid.anchors_per_cell + found.cell.a) ==
          i - anchors.first[found.grid]);
  }
}

}  // namespace

int main() {
  windows_change_nothing<float>();
  windows_change_nothing<double>();
  places_follow_each_other();
  return finish();
}
