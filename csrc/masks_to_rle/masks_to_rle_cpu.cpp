#include "masks_to_rle/masks_to_rle.h"

#include <algorithm>

#include "common/threads.h"

// Work partition: a task is a mask. A column of the image blends, row by row, one column of the mask that was stretched
// along x once. Rows between the same two cells of it form a segment, and where both cells lie clearly on one side of
// the threshold the segment is decided without looking at its pixels: what remains is the outline.

namespace maskrcnn_ops {
namespace {

// Pixels arrive in order as the first pixel of a stretch of equal ones.
class RunWriter {
 public:
  explicit RunWriter(std::vector<int64_t>& runs) : runs_(runs) {}
  void put(int64_t pixel, bool value) {
    if (value == value_) return;
    runs_.push_back(pixel - begin_);
    begin_ = pixel;
    value_ = value;
  }
  void finish(int64_t pixels) { runs_.push_back(pixels - begin_); }

 private:
  std::vector<int64_t>& runs_;
  int64_t begin_ = 0;
  bool value_ = false;
};

// Image rows `begin` to `end` - 1 blend ring cells `cell` and `cell` + 1.
struct Segment {
  int cell, begin, end;
};

template <class T, class C>
class MaskScan {
  using A = Acc<T>;

 public:
  MaskScan(A threshold, const PasteMasks& args) : threshold_(threshold), args_(args) {}

  void run(const T* mask, const C* box, std::vector<int64_t>& runs) {
    const int64_t height = args_.height, pixels = height * args_.width;
    const PasteAxis<C> x = axis_x(box, args_), y = axis_y(box, args_);
    PixelRange columns = pixels_of(x, args_.width, 1, args_.mask_width);
    const PixelRange rows = pixels_of(y, args_.height, 1, args_.mask_height);
    if (rows.begin >= rows.end) columns = {0, 0};
    const bool outside = A(0) > threshold_;
    RunWriter writer(runs);
    if (columns.begin >= columns.end) {
      writer.put(0, outside);
      return writer.finish(pixels);
    }
    prepare(mask, y, rows);
    if (columns.begin > 0) writer.put(0, outside);
    for (int column = columns.begin; column < columns.end; ++column) {
      stretch(paste_tap(x, mask_coordinate(x, column)));
      const int64_t top = column * height;
      if (rows.begin > 0) writer.put(top, outside);
      for (const Segment& segment : segments_) decide(segment, top, rows.begin, writer);
      if (rows.end < args_.height) writer.put(top + rows.end, outside);
    }
    if (columns.end < args_.width) writer.put(columns.end * height, outside);
    writer.finish(pixels);
  }

 private:
  // The mask with its ring, columns contiguous; the rows' taps.
  void prepare(const T* mask, const PasteAxis<C>& y, PixelRange rows) {
    const int64_t side = args_.mask_height + 2;
    ring_.assign(side * (args_.mask_width + 2), A(0));
    for (int64_t r = 0; r < args_.mask_height; ++r)
      for (int64_t c = 0; c < args_.mask_width; ++c)
        ring_[(c + 1) * side + r + 1] = widen(mask[r * args_.mask_width + c]);
    stretched_.resize(side);
    segments_.clear();
    low_.clear();
    high_.clear();
    for (int row = rows.begin; row < rows.end; ++row) {
      const PasteTap<C> tap = paste_tap(y, mask_coordinate(y, row));
      low_.push_back(static_cast<A>(tap.low_weight));
      high_.push_back(static_cast<A>(tap.high_weight));
      if (segments_.empty() || segments_.back().cell != tap.low) segments_.push_back({tap.low, row, row});
      segments_.back().end = row + 1;
    }
  }

  void stretch(const PasteTap<C>& tap) {
    const int64_t side = args_.mask_height + 2;
    const A low = static_cast<A>(tap.low_weight), high = static_cast<A>(tap.high_weight);
    const A *left = ring_.data() + tap.low * side, *right = left + side;
    A* stretched = stretched_.data();
    for (int64_t r = 0; r < side; ++r) stretched[r] = low * left[r] + high * right[r];
  }

  void decide(const Segment& segment, int64_t top, int first_row, RunWriter& writer) {
    const A low = stretched_[segment.cell], high = stretched_[segment.cell + 1];
    const A least = std::min(low, high), most = std::max(low, high);
    const A margin = blend_margin<A, C> * std::max(std::abs(low), std::abs(high));
    // Comparisons with NaN are false, and a NaN in only one cell makes the margin or the sum below NaN, too.
    if (args_.mask_height < most_screened_cells && low + high == low + high) {
      if (most + margin <= threshold_) return writer.put(top + segment.begin, false);
      if (least - margin > threshold_) return writer.put(top + segment.begin, true);
    }
    for (int row = segment.begin; row < segment.end; ++row) {
      const A value = low_[row - first_row] * low + high_[row - first_row] * high;
      writer.put(top + row, value > threshold_);
    }
  }

  A threshold_;
  const PasteMasks& args_;
  std::vector<A> ring_, stretched_, low_, high_;
  std::vector<Segment> segments_;
};

}  // namespace

template <class T, class C>
void masks_to_rle_cpu(const T* masks, const C* boxes, std::vector<int64_t>* runs, Acc<T> threshold,
                      const PasteMasks& args) {
  const int64_t cells = static_cast<int64_t>(args.mask_height) * args.mask_width;
  parallel_for(args.masks, 1, [&](int64_t begin, int64_t end) {
    MaskScan<T, C> scan(threshold, args);
    for (int64_t d = begin; d < end; ++d) scan.run(masks + d * cells, boxes + 4 * d, runs[d]);
  });
}

#define INSTANTIATE(T)                                                                                      \
  template void masks_to_rle_cpu(const T*, const float*, std::vector<int64_t>*, Acc<T>, const PasteMasks&); \
  template void masks_to_rle_cpu(const T*, const double*, std::vector<int64_t>*, Acc<T>, const PasteMasks&);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(Half)
INSTANTIATE(BFloat16)

}  // namespace maskrcnn_ops
