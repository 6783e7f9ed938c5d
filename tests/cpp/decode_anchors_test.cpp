// Places in maps of both layouts, the order of scores, and the CUDA kernel's selection and sorting, emulated step by
// step with the functions that it is made of.

#include "decode_anchors/decode_anchors.h"

#include <algorithm>
#include <limits>
#include <random>
#include <vector>

#include "check.h"

using namespace maskrcnn_ops;

namespace {

// Index (y, x, a) and place are each other's inverse; deltas are where [N, 4 A, H, W] has them.
void places_and_indices() {
  for (bool last : {false, true})
    for (int64_t height : {1, 3})
      for (int64_t width : {1, 4})
        for (int64_t kinds : {1, 3}) {
          const ProposalLevel<float> level{nullptr, nullptr, last, last, {nullptr, height, width, kinds, 1, 1}, 0, 0};
          for (int64_t y = 0; y < height; ++y)
            for (int64_t x = 0; x < width; ++x)
              for (int64_t a = 0; a < kinds; ++a) {
                const int64_t cell = y * width + x, index = cell * kinds + a;
                const int64_t place = last ? index : (a * height + y) * width + x;
                CHECK(level.logit_place(index) == place && level.index_of(place) == index);
                for (int j = 0; j < 4; ++j)
                  CHECK(level.delta_place(index, j) ==
                        (last ? cell * 4 * kinds + 4 * a + j : ((4 * a + j) * height + y) * width + x));
              }
        }
}

template <class A>
void keys_grow_as_scores_fall() {
  constexpr A infinity = std::numeric_limits<A>::infinity();
  const A scores[] = {infinity, A(1e30), A(2), A(1), A(1e-40), A(0), A(-1e-40), A(-1), A(-1e30), -infinity};
  for (size_t i = 1; i < std::size(scores); ++i) CHECK(falling_key(scores[i - 1]) < falling_key(scores[i]));
  CHECK(falling_key(A(0)) == falling_key(A(-0.0)));
  for (A nan : {std::numeric_limits<A>::quiet_NaN(), -std::numeric_limits<A>::quiet_NaN()})
    CHECK(falling_key(nan) == std::numeric_limits<FallingKey<A>>::max());
}

// As select_smallest does it, with a loop in place of the block.
template <class Word, class WordAt>
bool select(int64_t count, int64_t& needed, Word& cut, const WordAt& word_at) {
  cut = 0;
  for (int shift = 8 * sizeof(Word) - digit_bits; shift >= 0; shift -= digit_bits) {
    std::vector<int64_t> counts(digits);
    Word word;
    for (int64_t i = 0; i < count; ++i)
      if (word_at(i, word) && agree_above(word, cut, shift)) ++counts[digit_of(word, shift)];
    unsigned digit = 0;
    for (; counts[digit] < needed; ++digit) needed -= counts[digit];
    cut |= static_cast<Word>(digit) << shift;
    if (counts[digit] == needed) {
      cut = last_with(cut, shift);
      return true;
    }
  }
  return false;
}

template <class Key>
void selection_and_sort() {
  std::mt19937_64 random(7);
  for (int64_t count : {1, 2, 65, 700})
    for (Key kinds : {Key(1), Key(3), Key(100), std::numeric_limits<Key>::max()})
      for (int64_t kept : {int64_t(1), (count + 1) / 2, count - 1, count}) {
        if (kept < 1) continue;
        std::vector<Candidate<Key>> all;
        for (int64_t i = 0; i < count; ++i)
          all.push_back({static_cast<Key>(random()) % kinds + (i % 50 == 49 ? 0 : 1), static_cast<uint32_t>(i)});
        int64_t needed = kept;
        Key cut;
        uint32_t last = ~uint32_t(0);
        if (!select<Key>(count, needed, cut, [&](int64_t i, Key& key) {
              key = all[i].key;
              return true;
            }))
          CHECK(select<uint32_t>(count, needed, last, [&](int64_t i, uint32_t& index) {
            index = all[i].index;
            return all[i].key == cut;
          }));
        std::vector<Candidate<Key>> items;
        for (const auto& item : all)
          if (item.key < cut || (item.key == cut && item.index <= last)) items.push_back(item);
        CHECK(static_cast<int64_t>(items.size()) == kept);
        std::shuffle(items.begin(), items.end(), random);
        const int64_t size = sorted_size(kept);
        items.resize(size, {~Key(0), ~uint32_t(0)});
        for (int64_t width = 2; width <= size; width *= 2)
          for (int64_t distance = width / 2; distance > 0; distance /= 2) {
            std::vector<int> touched(size);
            for (int64_t number = 0; number < size / 2; ++number) {
              const BitonicPair pair = bitonic_pair(number, width, distance);
              ++touched[pair.first];
              ++touched[pair.second];
              if (pair.rising ? items[pair.second] < items[pair.first] : items[pair.first] < items[pair.second])
                std::swap(items[pair.first], items[pair.second]);
            }
            CHECK(std::all_of(touched.begin(), touched.end(), [](int times) { return times == 1; }));
          }
        std::sort(all.begin(), all.end());
        for (int64_t i = 0; i < kept; ++i) CHECK(items[i].index == all[i].index && items[i].key == all[i].key);
      }
}

}  // namespace

int main() {
  places_and_indices();
  keys_grow_as_scores_fall<float>();
  keys_grow_as_scores_fall<double>();
  selection_and_sort<uint32_t>();
  selection_and_sort<uint64_t>();
  return finish();
}
