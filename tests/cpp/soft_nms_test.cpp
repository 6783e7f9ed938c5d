// The CPU kernel, which looks only at blocks of boxes near the kept one, beside a plain loop over all boxes: the same
// scores to the last bit. And the order of the picks, which is all that the CUDA kernel adds to the shared formulas.

#include "soft_nms/soft_nms.h"

#include <random>
#include <vector>

#include "check.h"

using namespace maskrcnn_ops;

namespace {

template <class C>
std::vector<C> plain_loop(const std::vector<C>& boxes, std::vector<C> scores, const std::vector<int64_t>& groups,
                          const SoftRule<C>& rule) {
  const auto count = static_cast<int64_t>(scores.size());
  auto box_at = [&](int64_t i) { return load_box(boxes.data() + 4 * i); };
  std::vector<C> decayed(count, gone<C>());
  for (int64_t i = 0; i < count; ++i)
    if (!(scores[i] > rule.floor) || has_nan(box_at(i))) scores[i] = gone<C>();
  for (;;) {
    Pick<C> next{gone<C>(), count};
    for (int64_t i = 0; i < count; ++i)
      if (next.behind(scores[i], i)) next = {scores[i], i};
    if (next.score == gone<C>()) return decayed;
    const int64_t k = next.place;
    decayed[k] = scores[k];
    scores[k] = gone<C>();
    for (int64_t i = 0; i < count; ++i) {
      if (groups[i] != groups[k] || scores[i] == gone<C>()) continue;
      const C area = area_of(box_at(k)), other = area_of(box_at(i));
      scores[i] = rule.gaussian ? decayed_score<true>(box_at(k), area, box_at(i), other, scores[i], rule)
                                : decayed_score<false>(box_at(k), area, box_at(i), other, scores[i], rule);
    }
  }
}

template <class C>
void blocks_change_nothing() {
  std::mt19937 random(5);
  std::uniform_real_distribution<double> uniform(0, 1);
  const C infinity = std::numeric_limits<C>::infinity(), nan = std::numeric_limits<C>::quiet_NaN();
  for (int64_t count : {0, 1, 63, 64, 65, 300, 700})
    for (int kinds : {1, 5})
      for (bool gaussian : {false, true})
        for (bool integers : {false, true}) {
          std::vector<C> boxes, scores;
          std::vector<int64_t> groups;
          for (int64_t i = 0; i < count; ++i) {
            C edges[4];
            for (int k = 0; k < 4; ++k)
              edges[k] = static_cast<C>(k < 2 ? 60 * uniform(random) : edges[k - 2] + 20 * uniform(random) - 1);
            for (C edge : edges) boxes.push_back(integers ? std::floor(edge) : edge);
            if (i % 31 == 30) boxes.back() = infinity;
            if (i % 37 == 36) boxes[4 * i] = -infinity;
            if (i % 41 == 40) boxes.back() = nan;
            scores.push_back(static_cast<C>(std::floor(uniform(random) * 100) / 100));
            if (i % 43 == 42) scores.back() = nan;
            groups.push_back(static_cast<int64_t>(uniform(random) * kinds));
          }
          const SoftRule<C> rule = soft_rule<C>(0.3, 0.5, count % 2 ? 0.05 : -1, gaussian);
          const std::vector<C> expected = plain_loop(boxes, scores, groups, rule);
          CHECK(soft_nms_cpu(boxes.data(), scores.data(), groups.data(), count, rule) == expected);
          if (kinds == 1) CHECK(soft_nms_cpu(boxes.data(), scores.data(), nullptr, count, rule) == expected);
          const std::vector<int64_t> kept = kept_by_score(expected);
          for (size_t k = 1; k < kept.size(); ++k)
            CHECK((Pick<C>{expected[kept[k]], kept[k]}.behind(expected[kept[k - 1]], kept[k - 1])));
        }
}

// The bound is the smallest number of the dtype that is not below the threshold.
void bounds_are_exact() {
  for (double threshold : {0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0, 1e-50}) {
    const float bound = soft_rule<float>(threshold, 1, 0, false).threshold;
    CHECK(static_cast<double>(bound) >= threshold && static_cast<double>(std::nextafter(bound, -1.0f)) < threshold);
    CHECK(soft_rule<double>(threshold, 1, 0, false).threshold == threshold);
  }
}

}  // namespace

int main() {
  blocks_change_nothing<float>();
  blocks_change_nothing<double>();
  bounds_are_exact();
  return finish();
}
