// The CPU kernel beside a plain loop over all pairs, by districts too; the screen beside the decision; and the CUDA
// kernels' division of the work run on the host: every pair of a group in one word, panels of every height, images,
// limits and owners, the same boxes kept.

#include "nms/nms.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "check.h"
#include "nms/tiles.h"

using namespace maskrcnn_ops;

namespace {

template <class C>
struct Scene {
  std::vector<C> boxes, scores;
  std::vector<int64_t> groups;

  int64_t count() const { return static_cast<int64_t>(scores.size()); }
  NmsBoxes<C, C> view(bool grouped) const {
    return {boxes.data(), scores.data(), grouped ? groups.data() : nullptr, count()};
  }
  Box<C> box(int64_t i) const { return load_box(boxes.data() + 4 * i); }
  bool usable(int64_t i) const { return !has_nan(box(i)) && scores[i] == scores[i]; }
};

// Boxes of small integers (IoUs that equal a threshold) or of sides over many powers of two; a NaN here and there.
template <class C>
Scene<C> random_scene(int64_t count, int kinds, bool integers, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> uniform(0, 1);
  Scene<C> scene;
  for (int64_t i = 0; i < count; ++i) {
    const double scale = integers ? 1 : std::exp2(12 * uniform(random) - 6);
    double corner[4];
    for (int k = 0; k < 4; ++k)
      corner[k] = k < 2 ? 24 * uniform(random) - 8 : corner[k - 2] + scale * 12 * uniform(random);
    for (double x : corner) scene.boxes.push_back(static_cast<C>(integers ? std::floor(x) : x));
    if (i % 97 == 96) scene.boxes.back() = std::numeric_limits<C>::quiet_NaN();
    scene.scores.push_back(static_cast<C>(std::floor(uniform(random) * 1000) / 1000));
    if (i % 89 == 88) scene.scores.back() = std::numeric_limits<C>::quiet_NaN();
    scene.groups.push_back(static_cast<int64_t>(uniform(random) * kinds) - 2);
  }
  return scene;
}

// By descending score, NaN anywhere.
template <class C>
std::vector<int64_t> score_order(const Scene<C>& scene) {
  std::vector<int64_t> order(scene.count());
  std::iota(order.begin(), order.end(), int64_t(0));
  auto key = [&](int64_t i) { return scene.scores[i] == scene.scores[i] ? scene.scores[i] : C(2); };
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return key(a) > key(b); });
  return order;
}

template <class C>
NmsOptions<C, C> options_of(const NmsRule<C>& rule, int64_t most, bool by_all) {
  return {rule, {C(0), false}, most, by_all};
}

template <class C>
std::vector<int64_t> plain_loop(const Scene<C>& scene, const NmsRule<C>& rule, int64_t most, bool by_all) {
  std::vector<int64_t> kept, suppressing;
  for (int64_t i : score_order(scene)) {
    const bool suppressed = std::any_of(suppressing.begin(), suppressing.end(), [&](int64_t k) {
      return scene.groups[k] == scene.groups[i] &&
             suppresses(scene.box(k), area_of(scene.box(k)), scene.box(i), area_of(scene.box(i)), rule);
    });
    if (!scene.usable(i)) continue;
    if (!suppressed && static_cast<int64_t>(kept.size()) < most) kept.push_back(i);
    if (!suppressed || by_all) suppressing.push_back(i);
  }
  return kept;
}

// What nms_cuda.cu does for one image, with loops over blocks and threads. With a limit, boxes are not sorted by group.
template <class C>
std::vector<int64_t> emulated_cuda(const Scene<C>& scene, const NmsRule<C>& rule, int64_t most, bool by_all,
                                   int64_t most_words) {
  const int64_t limit = by_all ? scene.count() : std::min(most, scene.count());
  const bool sorted = limit == scene.count();
  const std::vector<int64_t> by_score = score_order(scene);
  std::vector<int64_t> places = by_score, groups;
  if (sorted)
    std::stable_sort(places.begin(), places.end(),
                     [&](int64_t a, int64_t b) { return scene.groups[a] < scene.groups[b]; });
  for (int64_t i : places) groups.push_back(scene.groups[i]);
  const NmsTiles tiles{scene.count(), groups.data(), sorted};
  std::vector<uint64_t> suppressed(tiles.blocks()), kept(tiles.blocks());
  for (int64_t p = 0; p < tiles.count; ++p)
    if (!scene.usable(places[p])) suppressed[p / nms_block] |= uint64_t(1) << p % nms_block;
  auto columns_of = [&](int64_t block) {
    std::vector<NmsColumn<C>> columns;
    for (int j = 0; j < tiles.block_size(block); ++j)
      columns.push_back(nms_column(scene.box(places[block * nms_block + j]), rule));
    return columns;
  };

  if (by_all)
    for (int64_t p = 0; p < tiles.count; ++p) {
      const int64_t row = p / nms_block;
      bool hit = suppressed[row] >> p % nms_block & 1;
      for (int64_t column = 0; column <= row; ++column)
        if (tiles.meet(column, row) && !hit)
          hit = dropped_by_block(tiles, p, columns_of(row)[p % nms_block], column, suppressed[column],
                                 columns_of(column).data(), rule);
      if (!hit) kept[row] |= uint64_t(1) << p % nms_block;
    }

  const int64_t rows = panel_rows(tiles, 1, limit, most_words);
  const uint64_t unwritten = 0xdeadbeefdeadbeef;
  int64_t listed = 0;
  for (int64_t first = 0; first < tiles.blocks() && !by_all; first += rows) {
    const NmsPanel panel{first, std::min(first + rows, tiles.blocks()), rows};
    std::vector<uint64_t> words(panel.words_an_image(tiles), unwritten);
    std::vector<int> writers(words.size());
    for (int64_t tile = 0; tile < panel.count(tiles) && listed < limit; ++tile) {
      const int64_t row = panel.row(tiles, tile), column = panel.column(tiles, tile);
      CHECK(row >= panel.first && row < panel.last && column < tiles.blocks());
      if (column < row || !tiles.meet(row, column)) continue;
      const std::vector<NmsColumn<C>> columns = columns_of(column), mine = columns_of(row);
      for (int t = 0; t < tiles.block_size(row); ++t) {
        const int64_t place = row * nms_block + t;
        const int64_t word = panel.word(tiles, place, column);
        CHECK(word >= 0 && word < static_cast<int64_t>(words.size()) && ++writers[word] == 1);
        words[word] = suppression_word(tiles, place, mine[t], column, columns.data(), rule);
      }
    }
    std::vector<int> run_of(tiles.blocks(), -1);  // the run that writes a column's suppressions, or resolves a row
    for (int64_t begin = panel.first; begin < panel.last; ++begin) {
      if (!panel.begins_run(tiles, begin)) continue;
      for (int64_t row = begin; row < panel.last && listed < limit; ++row) {
        if (row > begin && panel.begins_run(tiles, row)) break;
        auto claim = [&](int64_t block) {
          CHECK(run_of[block] == -1 || run_of[block] == begin);
          run_of[block] = static_cast<int>(begin);
        };
        claim(row);
        uint64_t diagonal[nms_block] = {};
        for (int t = 0; t < tiles.block_size(row); ++t)
          diagonal[t] = words[panel.word(tiles, row * nms_block + t, row)];
        kept[row] = kept_in_block(suppressed[row], diagonal, tiles.block_size(row), limit - listed);
        if (!sorted) listed += __builtin_popcountll(kept[row]);
        for (int64_t column = row + 1; column < tiles.blocks() && tiles.meet(row, column); ++column) {
          claim(column);
          for (int t = 0; t < nms_block; ++t)
            if (kept[row] >> t & 1) {
              const int64_t word = panel.word(tiles, row * nms_block + t, column);
              CHECK(writers[word] == 1);
              suppressed[column] |= words[word];
            }
        }
      }
    }
  }
  std::vector<uint8_t> keep(scene.count());
  for (int64_t p = 0; p < tiles.count; ++p) keep[places[p]] = kept[p / nms_block] >> p % nms_block & 1;
  std::vector<int64_t> result;
  for (int64_t i : by_score)
    if (keep[i] && static_cast<int64_t>(result.size()) < most) result.push_back(i);
  return result;
}

template <class C>
void kernels_agree_with_the_plain_loop() {
  unsigned seed = 0;
  for (int64_t count : {0, 1, 63, 64, 65, 200, 513, 900})
    for (int kinds : {1, 3, 40})
      for (bool integers : {true, false})
        for (double threshold : {-0.5, 0.0, 0.005, 0.1, 0.5, 0.7, 1.0}) {
          const Scene<C> scene = random_scene<C>(count, kinds, integers, ++seed);
          const NmsRule<C> rule = nms_rule<C>(threshold);
          const bool by_all = seed % 3 == 0;
          const int64_t most = seed % 2 == 0 ? count : seed % 200;
          const std::vector<int64_t> expected = plain_loop(scene, rule, most, by_all);
          const NmsOptions<C, C> options = options_of(rule, most, by_all);
          CHECK(nms_cpu(scene.view(true), nullptr, options) == expected);
          if (kinds == 1) CHECK(nms_cpu(scene.view(false), nullptr, options) == expected);
          for (int64_t most_words : {int64_t(1), int64_t(3000), int64_t(1) << 40})
            CHECK(emulated_cuda(scene, rule, most, by_all, most_words) == expected);
        }
}

// Groups of images as ascending numbers, the same exactly for places of one owner and group.
void groups_of_owners_ascend() {
  std::mt19937 random(11);
  std::vector<int64_t> groups, owners, places(500);
  for (int i = 0; i < 500; ++i) {
    groups.push_back(static_cast<int64_t>(random() % 5) - 2);
    owners.push_back(static_cast<int64_t>(random() % 4) - 1);
  }
  std::iota(places.begin(), places.end(), int64_t(0));
  std::stable_sort(places.begin(), places.end(), [&](int64_t a, int64_t b) {
    return std::make_pair(owners[a], groups[a]) < std::make_pair(owners[b], groups[b]);
  });
  const NmsInputs<float, float> inputs{nullptr, nullptr, groups.data(), owners.data(), nullptr, places.data()};
  for (int64_t p = 1; p < 500; ++p) {
    const int64_t a = places[p - 1], b = places[p];
    const bool same = owners[a] == owners[b] && groups[a] == groups[b];
    CHECK(group_at(inputs, 0, p) == (same ? group_at(inputs, 0, p - 1) : p));
  }
}

// Enough boxes for districts: spread ones, few of which wait; in clusters; and of sides from 1 to 100.
void districts_keep_to_the_definition() {
  std::mt19937 random(3);
  std::uniform_real_distribution<float> uniform(0, 1);
  for (int kind : {0, 1, 2})
    for (double threshold : {0.2, 0.5, 0.7}) {
      Scene<float> scene;
      for (int64_t i = 0; i < 50000; ++i) {
        const float x = 6000 * uniform(random), y = 4000 * uniform(random);
        const float size = kind == 2 ? std::exp2(7 * uniform(random)) : 16 + 48 * uniform(random);
        Box<float> box{x, y, x + size, y + size * (0.5f + uniform(random))};
        if (kind == 1 && i % 8 != 0) {
          auto near = [&](float edge) { return edge + 12 * uniform(random) - 6; };
          box = scene.box(i - 1);
          box = {near(box.x1), near(box.y1), near(box.x2), near(box.y2)};
        }
        for (float edge : {box.x1, box.y1, box.x2, box.y2}) scene.boxes.push_back(edge);
        scene.scores.push_back(std::floor(uniform(random) * 20000));
      }
      const NmsOptions<float, float> options = options_of(nms_rule<float>(threshold), scene.count(), false);
      const std::vector<int64_t> by_districts = nms_cpu(scene.view(false), nullptr, options);
      // Greedy NMS by its definition: kept boxes do not suppress each other, and each other box is suppressed by a kept
      // one of higher rank. A list of kept boxes by column of the plane makes the search short.
      std::vector<int64_t> rank(scene.count(), -1);
      const std::vector<int64_t> order = score_order(scene);
      for (int64_t p = 0; p < scene.count(); ++p) rank[order[p]] = p;
      std::vector<uint8_t> kept(scene.count());
      std::vector<std::vector<int64_t>> columns(200);
      auto column_of = [](float x) { return std::min(199, std::max(0, static_cast<int>(x / 32))); };
      for (int64_t i : by_districts) {
        kept[i] = 1;
        for (int c = column_of(scene.box(i).x1); c <= column_of(scene.box(i).x2); ++c) columns[c].push_back(i);
      }
      for (int64_t i = 0; i < scene.count(); ++i) {
        bool suppressed = false;
        for (int c = column_of(scene.box(i).x1); c <= column_of(scene.box(i).x2) && !suppressed; ++c)
          suppressed = std::any_of(columns[c].begin(), columns[c].end(), [&](int64_t k) {
            return rank[k] < rank[i] &&
                   suppresses(scene.box(k), area_of(scene.box(k)), scene.box(i), area_of(scene.box(i)), options.rule);
          });
        CHECK(kept[i] != suppressed);
      }
    }
}

// Boxes of all magnitudes, tiny and infinite areas among them, and pairs that are nearly equal.
template <class C>
void what_the_decision_suppresses_passes_the_screen() {
  std::mt19937 random(7);
  std::uniform_real_distribution<double> uniform(0, 1);
  const int most = std::numeric_limits<C>::max_exponent;
  long suppressed = 0;
  for (int i = 0; i < 400000; ++i) {
    const C scale = std::ldexp(C(1), static_cast<int>((uniform(random) * 2 - 1) * most / (i % 2 ? 1 : 2)));
    auto side_of = [&] { return scale * static_cast<C>(i % 3 ? uniform(random) : std::floor(6 * uniform(random))); };
    const Box<C> a{0, 0, side_of(), side_of()};
    Box<C> b{0, 0, side_of(), side_of()};
    if (i % 5 == 0) b = {a.x1, a.y1, a.x2, std::nextafter(a.y2, i % 2 ? C(0) : a.y2 * 2)};
    const NmsRule<C> rule = nms_rule<C>(i % 7 == 0 ? std::floor(10 * uniform(random)) / 10 : uniform(random));
    const C area_a = area_of(a), area_b = area_of(b);
    if (!suppresses(a, area_a, b, area_b, rule)) continue;
    ++suppressed;
    CHECK(may_suppress(a, share_of(area_a, rule), b, share_of(area_b, rule)));
  }
  CHECK(suppressed > 10000);
}

// The bound is the largest number of the dtype that is not above the threshold.
void bounds_are_exact() {
  for (double threshold : {0.0, 0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.9, 1.0, 1e-50, -1e-50}) {
    const float bound = nms_rule<float>(threshold).bound;
    CHECK(static_cast<double>(bound) <= threshold && static_cast<double>(std::nextafter(bound, 2.0f)) > threshold);
    CHECK(nms_rule<double>(threshold).bound == threshold);
  }
  CHECK(nms_rule<float>(1e300).bound == 1 && nms_rule<double>(-INFINITY).bound == -1);
}

}  // namespace

int main() {
  kernels_agree_with_the_plain_loop<float>();
  kernels_agree_with_the_plain_loop<double>();
  groups_of_owners_ascend();
  districts_keep_to_the_definition();
  what_the_decision_suppresses_passes_the_screen<float>();
  what_the_decision_suppresses_passes_the_screen<double>();
  bounds_are_exact();
  return finish();
}
