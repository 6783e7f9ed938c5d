#pragma once

// How the CUDA kernels divide the pairs of boxes, for host and device (the C++ tests run it all on the host).
//
// Boxes lie sorted by group, and within a group by descending score; `place` counts in that order. Places are dealt
// with in blocks of 64, the bits of a word: bit j of the word (p, b) says that the box at place p suppresses the one at
// place 64 · b + j. Only words of one group matter, those on and right of the diagonal: the matrix is block-diagonal.
// It exists for one panel of rows at a time, so memory is linear in the boxes.

#include <cstdint>

#include "nms/nms.h"

namespace maskrcnn_ops {

constexpr int nms_block = 64;

struct NmsTiles {
  int64_t count;         // boxes
  const int64_t* group;  // of each place, ascending; null: one group

  HOST_DEVICE int64_t blocks() const { return (count + nms_block - 1) / nms_block; }
  HOST_DEVICE int block_size(int64_t block) const {
    const int64_t left = count - block * nms_block;
    return static_cast<int>(left < nms_block ? left : nms_block);
  }
  HOST_DEVICE bool same_group(int64_t p, int64_t q) const { return group == nullptr || group[p] == group[q]; }

  // Whether places of two blocks, row <= column, can belong to one group. False for all columns after the first false.
  HOST_DEVICE bool meet(int64_t row, int64_t column) const {
    if (group == nullptr) return true;
    return group[column * nms_block] <= group[row * nms_block + block_size(row) - 1];
  }
};

// Rows of blocks [first, last) whose words exist at the same time; the word of (place, block) is
// words[(place - first · 64) · blocks + block].
struct NmsPanel {
  int64_t first, last;

  HOST_DEVICE int64_t word(const NmsTiles& tiles, int64_t place, int64_t block) const {
    return (place - first * nms_block) * tiles.blocks() + block;
  }
  // Tiles of 64 places by one block, numbered with the column fastest.
  HOST_DEVICE int64_t count(const NmsTiles& tiles) const { return (last - first) * tiles.blocks(); }
  HOST_DEVICE int64_t row(const NmsTiles& tiles, int64_t tile) const { return first + tile / tiles.blocks(); }
  HOST_DEVICE int64_t column(const NmsTiles& tiles, int64_t tile) const { return tile % tiles.blocks(); }
};

// Rows of blocks in a panel of at most `most_words` words, but at least one.
inline int64_t panel_rows(const NmsTiles& tiles, int64_t most_words) {
  const int64_t rows = most_words / nms_block / (tiles.blocks() > 0 ? tiles.blocks() : 1);
  return rows < 1 ? 1 : rows < tiles.blocks() ? rows : tiles.blocks();
}

template <class C>
struct NmsColumn {
  Box<C> box;
  C area, share;
};

template <class C>
HOST_DEVICE NmsColumn<C> nms_column(const Box<C>& box, const NmsRule<C>& rule) {
  const C area = area_of(box);
  return {box, area, share_of(area, rule)};
}

// The word (place, block); columns holds the block's boxes.
template <class C>
HOST_DEVICE uint64_t suppression_word(const NmsTiles& tiles, int64_t place, const NmsColumn<C>& row, int64_t block,
                                      const NmsColumn<C>* columns, const NmsRule<C>& rule) {
  uint64_t word = 0;
  const int size = tiles.block_size(block);
  for (int j = 0; j < size; ++j) {
    const int64_t other = block * nms_block + j;
    const NmsColumn<C>& column = columns[j];
    if (other > place && may_suppress(row.box, row.share, column.box, column.share) && tiles.same_group(place, other) &&
        suppresses(row.box, row.area, column.box, column.area, rule))
      word |= uint64_t(1) << j;
  }
  return word;
}

// The places of one block that are kept: those not suppressed from before, less those that the kept ones among them
// suppress. diagonal[j] is the word of the block's place j and the block itself.
HOST_DEVICE uint64_t kept_in_block(uint64_t suppressed, const uint64_t* diagonal, int size) {
  uint64_t alive = ~suppressed;
  if (size < nms_block) alive &= (uint64_t(1) << size) - 1;
  for (int j = 0; j < size; ++j)
    if (alive >> j & 1) alive &= ~diagonal[j];
  return alive;
}

constexpr int64_t most_nms_words = int64_t(1) << 23;  // 64 MB: a single panel up to 23,000 boxes

// What the CUDA launcher is given: orders from torch's sort, and memory to work in.
struct NmsOrder {
  int64_t count;
  const int64_t* places;    // the box at each place
  const int64_t* groups;    // NmsTiles::group
  const int64_t* by_score;  // all boxes by descending score
};

template <class C>
struct NmsWork {
  Box<C>* sorted;        // [count]
  uint64_t* suppressed;  // [blocks]
  uint64_t* kept;        // [blocks]
  uint64_t* words;       // [panel_rows · 64 · blocks]
  uint8_t* keep;         // [count]
};

// result [count + 1]: the indices of the kept boxes, by descending score, and at the end their number.
template <class C, class S>
int nms_cuda(const C* boxes, const S* scores, const NmsOrder& order, const NmsRule<C>& rule, const NmsWork<C>& work,
             int64_t* result, void* stream);

}  // namespace maskrcnn_ops
