#include "decode_anchors/decode_anchors.h"

#include <algorithm>
#include <array>
#include <vector>

#include "common/threads.h"

// Work partition: a task is one level of one image. It counts the scores by their leading bits, takes those that may be
// among the kept ones, sorts these few and decodes them. An image's levels are then moved together.

namespace maskrcnn_ops {
namespace {

constexpr int bucket_bits = 12;  // sign, exponent and 3 (float) bits of the mantissa; the counts fit in the L1 cache
constexpr int run = 64;          // keys at a time, in a loop that vectorises

template <class Key>
int bucket_of(Key key) {
  return static_cast<int>(key >> (8 * sizeof(Key) - bucket_bits));
}

// Calls body(place, keys, count) for runs of keys.
template <class T, class Body>
void for_each_run(const T* logits, int64_t count, const Body& body) {
  FallingKey<Acc<T>> keys[run];
  for (int64_t place = 0; place < count; place += run) {
    const int size = static_cast<int>(std::min<int64_t>(run, count - place));
    if (size == run)
      for (int k = 0; k < run; ++k) keys[k] = falling_key(widen(logits[place + k]));
    else
      for (int k = 0; k < size; ++k) keys[k] = falling_key(widen(logits[place + k]));
    body(place, keys, size);
  }
}

// The first `kept` anchors in order.
template <class T>
void choose(const ProposalLevel<T>& level, const T* logits, std::vector<Candidate<FallingKey<Acc<T>>>>& chosen) {
  using Key = FallingKey<Acc<T>>;
  const int64_t count = level.grid.size();
  int last = (1 << bucket_bits) - 1;
  if (level.kept < count) {
    // Neighbours often share a bucket: two sets of counts, so that additions need not wait for each other.
    std::array<std::array<uint32_t, 1 << bucket_bits>, 2> counts{};
    for_each_run(logits, count, [&](int64_t, const Key* keys, int size) {
      for (int k = 0; k < size; ++k) ++counts[k & 1][bucket_of(keys[k])];
    });
    int64_t taken = 0;
    for (last = 0; (taken += int64_t(counts[0][last]) + counts[1][last]) < level.kept; ++last) {
    }
  }
  chosen.clear();
  for_each_run(logits, count, [&](int64_t place, const Key* keys, int size) {
    for (int k = 0; k < size; ++k)
      if (bucket_of(keys[k]) <= last) chosen.push_back({keys[k], static_cast<uint32_t>(level.index_of(place + k))});
  });
  if (level.kept < static_cast<int64_t>(chosen.size())) {
    std::nth_element(chosen.begin(), chosen.begin() + level.kept, chosen.end());
    chosen.resize(level.kept);
  }
  std::sort(chosen.begin(), chosen.end());
}

// Writes the level's proposals from its first slot on; returns their number.
template <class T>
int64_t decode_level(const ProposalArgs<T>& args, int64_t n, int l, const Acc<T>* image_size,
                     std::vector<Candidate<FallingKey<Acc<T>>>>& chosen, const Proposals<Acc<T>>& out) {
  using A = Acc<T>;
  const ProposalLevel<T>& level = args.levels[l];
  const T *logits = level.logits + n * level.grid.size(), *deltas = level.deltas + 4 * n * level.grid.size();
  choose(level, logits, chosen);
  const int64_t first = n * args.slots + level.first;
  int64_t found = 0;
  for (const auto& candidate : chosen) {
    A codes[4];
    for (int j = 0; j < 4; ++j) codes[j] = widen(deltas[level.delta_place(candidate.index, j)]);
    const Box<A> anchor = level.grid.anchor(level.grid.place(candidate.index));
    const Box<A> box = decoded_box(anchor, codes, args.coder, image_size);
    const A logit = widen(logits[level.logit_place(candidate.index)]);
    if (is_proposal(box, logit, args)) write_proposal(out, first + found++, box, logit, l);
  }
  return found;
}

// Moves the levels' proposals together and clears the rest.
template <class T>
void join_levels(const ProposalArgs<T>& args, int64_t n, const int64_t* found, const Proposals<Acc<T>>& out) {
  const int64_t begin = n * args.slots, end = begin + args.slots;
  int64_t slot = begin;
  for (int l = 0; l < args.level_count; ++l) {
    const int64_t from = begin + args.levels[l].first;
    if (from != slot) {
      std::copy_n(out.boxes + 4 * from, 4 * found[l], out.boxes + 4 * slot);
      std::copy_n(out.scores + from, found[l], out.scores + slot);
      std::copy_n(out.levels + from, found[l], out.levels + slot);
    }
    slot += found[l];
  }
  out.counts[n] = slot - begin;
  std::fill(out.boxes + 4 * slot, out.boxes + 4 * end, Acc<T>(0));
  std::fill(out.scores + slot, out.scores + end, Acc<T>(0));
  std::fill(out.levels + slot, out.levels + end, int64_t(0));
}

}  // namespace

template <class T>
void decode_anchors_cpu(const ProposalArgs<T>& args, const Acc<T>* image_sizes, const Proposals<Acc<T>>& out) {
  const int64_t levels = args.level_count;
  std::vector<int64_t> found(args.images * levels);
  parallel_for(args.images * levels, 1, [&](int64_t begin, int64_t end) {
    std::vector<Candidate<FallingKey<Acc<T>>>> chosen;
    for (int64_t i = begin; i < end; ++i)
      found[i] =
          decode_level(args, i / levels, static_cast<int>(i % levels), image_sizes + 2 * (i / levels), chosen, out);
  });
  for (int64_t n = 0; n < args.images; ++n) join_levels(args, n, found.data() + n * levels, out);
}

#define INSTANTIATE(T) \
  template void decode_anchors_cpu(const ProposalArgs<T>&, const Acc<T>*, const Proposals<Acc<T>>&);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(Half)
INSTANTIATE(BFloat16)

}  // namespace maskrcnn_ops
