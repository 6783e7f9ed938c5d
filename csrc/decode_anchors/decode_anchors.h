#pragma once

// From an RPN's maps to candidate boxes (Ren et al., Faster R-CNN, 2015): of each level the anchors of highest score,
// decoded, clipped to the image, and without the small ones. Anchors are computed from their index; only those chosen
// are decoded. The order is that of falling score, equal scores by rising index, NaN behind all.

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "common/anchors.h"
#include "common/box_code.h"
#include "common/scalar.h"

namespace maskrcnn_ops {

// One level. Maps of N images: logits [N, A, H, W], deltas [N, 4 A, H, W] with channel 4 a + j, each contiguous or
// channels_last. Anchor indices are in (y, x, a) order; places are offsets in an image's memory.
template <class T>
struct ProposalLevel {
  const T *logits, *deltas;
  bool logits_last, deltas_last;  // channels_last
  GridAnchors<Acc<T>> grid;
  int64_t kept, first;  // anchors kept, and the slot of the first of them

  HOST_DEVICE int64_t cells() const { return grid.height * grid.width; }
  HOST_DEVICE int64_t index_of(int64_t place) const {
    return logits_last ? place : place % cells() * grid.anchors_per_cell + place / cells();
  }
  HOST_DEVICE int64_t logit_place(int64_t index) const {
    return logits_last ? index : index % grid.anchors_per_cell * cells() + index / grid.anchors_per_cell;
  }
  HOST_DEVICE int64_t delta_place(int64_t index, int j) const {
    return deltas_last ? 4 * index + j
                       : (index % grid.anchors_per_cell * 4 + j) * cells() + index / grid.anchors_per_cell;
  }
};

template <class T>
struct ProposalArgs {
  ProposalLevel<T> levels[most_grids];
  int level_count;
  int64_t images, slots;  // slots: anchors kept of all levels
  BoxCoder<Acc<T>> coder;
  Acc<T> min_size, least_logit;
};

// An unsigned key that grows as the score falls; equal for both zeros, largest for NaN.
template <class A>
using FallingKey = std::conditional_t<sizeof(A) == 8, uint64_t, uint32_t>;

template <class A>
HOST_DEVICE FallingKey<A> falling_key(A score) {
  using Key = FallingKey<A>;
  constexpr Key sign = Key(1) << (8 * sizeof(Key) - 1);
  const Key bits = bits_as<Key>(score + A(0));
  return score != score ? ~Key(0) : bits & sign ? bits : ~(bits | sign);
}

template <class Key>
struct Candidate {
  Key key;
  uint32_t index;

  HOST_DEVICE bool operator<(const Candidate& other) const {
    return key < other.key || (key == other.key && index < other.index);
  }
};

template <class A>
HOST_DEVICE Span<A> clipped(Span<A> span, A length) {
  const A low = span.low < A(0) ? A(0) : span.low > length ? length : span.low;
  const A high = span.high < A(0) ? A(0) : span.high > length ? length : span.high;
  return {low, high};
}

// The anchor moved by its deltas, within the image of size [height, width]. NaN stays NaN.
template <class A>
HOST_DEVICE Box<A> decoded_box(const Box<A>& anchor, const A deltas[4], const BoxCoder<A>& coder, const A* size) {
  const Span<A> x = decode_axis<A>({deltas[0], deltas[2]}, span_x(anchor), axis_of(coder, 0));
  const Span<A> y = decode_axis<A>({deltas[1], deltas[3]}, span_y(anchor), axis_of(coder, 1));
  return box_of(clipped(x, size[1]), clipped(y, size[0]));
}

// False for a side or a score that is too small or NaN.
template <class T>
HOST_DEVICE bool is_proposal(const Box<Acc<T>>& box, Acc<T> logit, const ProposalArgs<T>& args) {
  return side(span_x(box)) >= args.min_size && side(span_y(box)) >= args.min_size && logit >= args.least_logit;
}

// Results of one call: boxes [N, slots, 4], scores, levels [N, slots], counts [N]. Proposals come first, then zeros.
template <class A>
struct Proposals {
  A *boxes, *scores;
  int64_t *levels, *counts;
};

template <class A>
HOST_DEVICE void write_proposal(const Proposals<A>& out, int64_t slot, const Box<A>& box, A score, int64_t level) {
  out.boxes[4 * slot] = box.x1;
  out.boxes[4 * slot + 1] = box.y1;
  out.boxes[4 * slot + 2] = box.x2;
  out.boxes[4 * slot + 3] = box.y2;
  out.scores[slot] = score;
  out.levels[slot] = level;
}

// Selection and sorting on CUDA. Words are parted by digits from the highest; `cut` holds those digits of the last word
// taken that are known.
constexpr int digit_bits = 8, digits = 1 << digit_bits;

template <class Word>
HOST_DEVICE unsigned digit_of(Word word, int shift) {
  return static_cast<unsigned>(word >> shift) % digits;
}

// Shifted in two steps: by all bits at once would be undefined.
template <class Word>
HOST_DEVICE bool agree_above(Word word, Word cut, int shift) {
  return (word >> shift) >> digit_bits == (cut >> shift) >> digit_bits;
}

// The last word whose digits from `shift` up are those of `cut`.
template <class Word>
HOST_DEVICE Word last_with(Word cut, int shift) {
  return cut | ((Word(1) << shift) - 1);
}

// The number of candidates that are sorted at once: a power of two.
HOST_DEVICE int64_t sorted_size(int64_t kept) {
  int64_t size = 1;
  while (size < kept) size *= 2;
  return size;
}

// Pair `number` of a step of a bitonic sort, which compares items `distance` apart, within rising and falling runs of
// `width`.
struct BitonicPair {
  int64_t first, second;
  bool rising;
};

HOST_DEVICE BitonicPair bitonic_pair(int64_t number, int64_t width, int64_t distance) {
  const int64_t first = number / distance * distance * 2 + number % distance;
  return {first, first + distance, (first & width) == 0};
}

// image_sizes [N, 2] (height, width). On CUDA chosen [N, slots] and candidates [N, levels, sorted_size of the largest
// level] are scratch.
template <class T>
void decode_anchors_cpu(const ProposalArgs<T>& args, const Acc<T>* image_sizes, const Proposals<Acc<T>>& out);
template <class T>
int decode_anchors_cuda(const ProposalArgs<T>& args, const Acc<T>* image_sizes, const Proposals<Acc<T>>& out,
                        uint32_t* chosen, void* candidates, void* stream);

}  // namespace maskrcnn_ops
