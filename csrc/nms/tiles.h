#pragma once

// How the CUDA kernels divide the pairs of boxes, for host and device (the C++ tests run it all on the host).
//
// An image's boxes lie by descending score, or sorted by group first; `place` counts in that order. Places are dealt
// with in blocks of 64, the bits of a word: bit j of the word (p, b) says that the box at place p suppresses the one at
// place 64 · b + j. Only words on and right of the diagonal matter, and of sorted groups only those of one group: the
// matrix is block-diagonal. It exists for one panel of rows of each image at a time, so memory is linear in the boxes.

#include <cstdint>

#include "nms/nms.h"

namespace maskrcnn_ops {

constexpr int nms_block = 64;

// One image.
struct NmsTiles {
  int64_t count;         // boxes
  const int64_t* group;  // of each place; null: one group
  bool sorted;           // groups ascend with the places

  HOST_DEVICE int64_t blocks() const { return (count + nms_block - 1) / nms_block; }
  HOST_DEVICE int block_size(int64_t block) const {
    const int64_t left = count - block * nms_block;
    return static_cast<int>(left < nms_block ? left : nms_block);
  }
  HOST_DEVICE bool same_group(int64_t p, int64_t q) const { return group == nullptr || group[p] == group[q]; }

  // Whether places of two blocks, row <= column, can belong to one group. False for all columns after the first false.
  HOST_DEVICE bool meet(int64_t row, int64_t column) const {
    if (group == nullptr || !sorted) return true;
    return group[column * nms_block] <= group[row * nms_block + block_size(row) - 1];
  }

  // The same boxes in image n, counted from this one.
  HOST_DEVICE NmsTiles of_image(int64_t n) const {
    return {count, group == nullptr ? nullptr : group + n * count, sorted};
  }
};

// Rows of blocks [first, last) of every image, whose words exist at the same time.
struct NmsPanel {
  int64_t first, last, rows;  // `rows` of a full panel, for which there is memory

  HOST_DEVICE int64_t words_an_image(const NmsTiles& tiles) const { return rows * nms_block * tiles.blocks(); }
  // The word of (place, block) among its image's.
  HOST_DEVICE int64_t word(const NmsTiles& tiles, int64_t place, int64_t block) const {
    return (place - first * nms_block) * tiles.blocks() + block;
  }
  // Tiles of 64 places by one block in one image, numbered with the column fastest.
  HOST_DEVICE int64_t count(const NmsTiles& tiles) const { return (last - first) * tiles.blocks(); }
  HOST_DEVICE int64_t row(const NmsTiles& tiles, int64_t tile) const { return first + tile / tiles.blocks(); }
  HOST_DEVICE int64_t column(const NmsTiles& tiles, int64_t tile) const { return tile % tiles.blocks(); }

  // A run is a sequence of rows that are resolved one after the other; runs do not meet, so each has its own threads.
  HOST_DEVICE bool begins_run(const NmsTiles& tiles, int64_t row) const {
    return row == first || !tiles.meet(row - 1, row);
  }
};

// Rows of blocks in a panel of at most `most_words` words, but at least one. Where a limit ends the work early, panels
// are no longer than some four boxes visited per box kept, so that there is an end to come to.
inline int64_t panel_rows(const NmsTiles& tiles, int64_t images, int64_t limit, int64_t most_words) {
  const int64_t blocks = tiles.blocks() > 0 ? tiles.blocks() : 1;
  int64_t rows = most_words / nms_block / blocks / (images > 0 ? images : 1);
  const int64_t enough = limit < tiles.count ? 4 * (limit / nms_block + 1) : blocks;
  if (rows > enough) rows = enough;
  return rows < 1 ? 1 : rows < blocks ? rows : blocks;
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

// Fast NMS: whether one of a block's places before this one suppresses it, kept or not, unless it is unusable.
template <class C>
HOST_DEVICE bool dropped_by_block(const NmsTiles& tiles, int64_t place, const NmsColumn<C>& mine, int64_t block,
                                  uint64_t unusable, const NmsColumn<C>* columns, const NmsRule<C>& rule) {
  const int size = tiles.block_size(block);
  for (int j = 0; j < size; ++j) {
    const int64_t other = block * nms_block + j;
    const NmsColumn<C>& column = columns[j];
    if (other < place && !(unusable >> j & 1) && may_suppress(column.box, column.share, mine.box, mine.share) &&
        tiles.same_group(place, other) && suppresses(column.box, column.area, mine.box, mine.area, rule))
      return true;
  }
  return false;
}

// The places of one block that are kept: those not suppressed from before, less those that the kept ones among them
// suppress, but not more than `room`. diagonal[j] is the word of the block's place j and the block itself.
HOST_DEVICE uint64_t kept_in_block(uint64_t suppressed, const uint64_t* diagonal, int size, int64_t room) {
  uint64_t alive = ~suppressed;
  if (size < nms_block) alive &= (uint64_t(1) << size) - 1;
  for (int j = 0; j < size; ++j)
    if (alive >> j & 1) {
      if (room == 0) return alive & ((uint64_t(1) << j) - 1);
      --room;
      alive &= ~diagonal[j];
    }
  return alive;
}

constexpr int64_t most_nms_words = int64_t(1) << 23;  // 64 MB: a single panel up to 23,000 boxes

// What the CUDA launcher is given: sizes, inputs, orders from torch's sort, and memory to work in.
struct NmsSizes {
  int64_t images, count;  // boxes an image
  int64_t room;           // places for kept boxes in an image's result
  bool sorted;            // `places` go by group, then by score

  HOST_DEVICE NmsTiles tiles(const int64_t* group) const { return {count, group, sorted}; }
  // Boxes after which an image is done. Places that go by group do not come by descending score.
  HOST_DEVICE int64_t limit() const { return sorted || room >= count ? count : room; }
  int64_t rows() const { return panel_rows(tiles(nullptr), images, limit(), most_nms_words); }
};

template <class C, class S>
struct NmsInputs {
  const C* boxes;         // [images, count, 4]
  const S* scores;        // [images, count]
  const int64_t* groups;  // [images, count] or null
  const int64_t* owners;  // [count] of a single image, or null: groups of different owners do not meet
  const int64_t* counts;  // [images], the boxes that are there; or null: all
  const int64_t* places;  // [images, count], the box at each place
};

// In which order the kept boxes are listed. With `by_owner`, each owner's boxes beyond `most` are dropped first.
struct NmsListing {
  const int64_t* by_score;  // [images, count], boxes by descending score
  const int64_t* by_owner;  // [count], boxes by owner, then by descending score; or null
  const int64_t* owners;    // [count], of each box
  int64_t most;
};

template <class C>
struct NmsWork {
  Box<C>* sorted;          // [images, count]
  int64_t* sorted_groups;  // [images, count] if there are groups
  uint64_t* suppressed;    // [images, blocks]
  uint64_t* kept;          // [images, blocks]
  int64_t* listed;         // [images]
  uint64_t* words;         // [images, rows · 64 · blocks]; none for Fast NMS
  uint8_t* keep;           // [images, count]
};

// The group at a place, as a number that ascends with the places: with owners the first place of the same owner and
// group, which are sorted by both.
template <class C, class S>
HOST_DEVICE int64_t group_at(const NmsInputs<C, S>& inputs, int64_t image_first, int64_t place) {
  const int64_t i = inputs.places[image_first + place];
  if (inputs.owners == nullptr) return inputs.groups[image_first + i];
  const int64_t owner = inputs.owners[i], group = inputs.groups[i];
  int64_t low = 0, high = place;  // the first place lies in [low, high]
  while (low < high) {
    const int64_t middle = (low + high) / 2, other = inputs.places[middle];
    if (inputs.owners[other] == owner && inputs.groups[other] == group) high = middle;
    else low = middle + 1;
  }
  return low;
}

// indices [images, room]: the kept boxes by descending score, behind them -1; kept [images]: their number.
template <class C, class S>
int nms_cuda(const NmsSizes& sizes, const NmsInputs<C, S>& inputs, const NmsListing& listing,
             const NmsOptions<C, S>& options, const NmsWork<C>& work, int64_t* indices, int64_t* kept, void* stream);

}  // namespace maskrcnn_ops
