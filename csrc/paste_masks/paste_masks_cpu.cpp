#include "paste_masks/paste_masks.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "common/pages.h"
#include "common/threads.h"

// Work partition, forward: a task is a run of rows of the output [masks · height], whichever masks they belong to. What
// lies outside a box is filled in one sweep from box row to box row. Inside, a row of the mask is stretched along x
// once, and every image row between two mask rows blends the same two stretched rows: no gathers there.
// Backward runs the same steps transposed, and a task is a mask: no atomics, the same sums for any number of threads.

namespace maskrcnn_ops {
namespace {

constexpr int64_t grain_bytes = 1 << 16;  // output a task: below it starting a thread costs more than it saves

// Taps of the columns that a mask covers, from pixel `begin` on.
template <class A>
struct ColumnTaps {
  int64_t begin = 0, count = 0;
  std::vector<int> cell;
  std::vector<A> low, high;

  template <class C>
  void assign(const PasteAxis<C>& axis, PixelRange range) {
    begin = range.begin;
    count = range.end - range.begin;
    if (static_cast<int64_t>(cell.size()) < count) {
      cell.resize(count);
      low.resize(count);
      high.resize(count);
    }
    for (int64_t k = 0; k < count; ++k) {
      const PasteTap<C> tap = paste_tap(axis, mask_coordinate(axis, static_cast<int>(begin + k)));
      cell[k] = tap.low;
      low[k] = static_cast<A>(tap.low_weight);
      high[k] = static_cast<A>(tap.high_weight);
    }
  }
};

// Two neighbouring rows of a mask stretched to the width of its box, and their weights at a row of the image.
template <class A>
struct RowPair {
  const A *low, *high;
  A low_weight, high_weight;
};

// Where a mask lies in the image.
template <class A, class C>
struct Placement {
  PasteAxis<C> y;
  PixelRange rows;
  ColumnTaps<A> columns;

  void assign(const C* box, const PasteMasks& args) {
    const PasteAxis<C> x = axis_x(box, args);
    y = axis_y(box, args);
    rows = pixels_of(y, args.height, 1, args.mask_height);
    columns.assign(x, pixels_of(x, args.width, 1, args.mask_width));
    if (columns.count == 0) rows = {0, 0};
  }
  PasteTap<C> row_tap(int row) const { return paste_tap(y, mask_coordinate(y, row)); }
};

}  // namespace
}  // namespace maskrcnn_ops

#define SIMD_SOURCE "paste_masks/paste_masks_cpu.inl"
#include "common/simd_levels.h"

namespace maskrcnn_ops {
namespace {

// A mask's rows stretched along x, each when it is first needed. Image rows come in order, so two are kept: ring row r
// in slot r % 2.
template <class T, class A>
class StretchedRows {
 public:
  void assign(const T* mask, const ColumnTaps<A>& taps, const PasteMasks& args) {
    mask_ = mask;
    taps_ = &taps;
    args_ = &args;
    ring_.assign(args.mask_width + 2, A(0));
    for (int slot = 0; slot < 2; ++slot) {
      held_[slot] = -1;
      if (static_cast<int64_t>(slots_[slot].size()) < taps.count) slots_[slot].resize(taps.count);
    }
  }

  const A* row(int r) {
    A* stretched = slots_[r % 2].data();
    if (held_[r % 2] == r) return stretched;
    held_[r % 2] = r;
    if (r == 0 || r > args_->mask_height) {
      std::fill_n(stretched, taps_->count, A(0));
      return stretched;
    }
    const T* cells = mask_ + static_cast<int64_t>(r - 1) * args_->mask_width;
    for (int m = 0; m < args_->mask_width; ++m) ring_[m + 1] = widen(cells[m]);
    SIMD_CALL(stretch_row, ring_.data(), *taps_, stretched);
    return stretched;
  }

 private:
  const T* mask_ = nullptr;
  const ColumnTaps<A>* taps_ = nullptr;
  const PasteMasks* args_ = nullptr;
  std::vector<A> ring_, slots_[2];
  int held_[2] = {-1, -1};
};

// Fills output with `outside` and calls write(rows, count, target) for every covered row.
template <class Out, class T, class C, class Write>
void paste(const T* masks, const C* boxes, Out* output, int outside, const PasteMasks& args, const Write& write) {
  using A = Acc<T>;
  const int64_t height = args.height, width = args.width;
  const int64_t grain = std::max<int64_t>(1, grain_bytes / (width * static_cast<int64_t>(sizeof(Out))));
  prefer_huge_pages(output, static_cast<size_t>(args.masks * height * width) * sizeof(Out));
  parallel_for(args.masks * height, grain, [&](int64_t begin, int64_t end) {
    Placement<A, C> place;
    StretchedRows<T, A> stretched;
    Out* filled = output + begin * width;
    auto fill_until = [&](Out* target) {
      std::memset(static_cast<void*>(filled), outside, (target - filled) * sizeof(Out));
    };
    for (int64_t d = begin / height; d * height < end; ++d) {
      place.assign(boxes + 4 * d, args);
      const int first = static_cast<int>(std::max<int64_t>(place.rows.begin, begin - d * height));
      const int last = static_cast<int>(std::min<int64_t>(place.rows.end, end - d * height));
      if (first >= last) continue;
      stretched.assign(masks + d * args.mask_height * args.mask_width, place.columns, args);
      for (int y = first; y < last; ++y) {
        const PasteTap<C> tap = place.row_tap(y);
        Out* target = output + (d * height + y) * width + place.columns.begin;
        fill_until(target);
        const RowPair<A> rows{stretched.row(tap.low), stretched.row(tap.low + 1), static_cast<A>(tap.low_weight),
                              static_cast<A>(tap.high_weight)};
        write(rows, place.columns.count, target);
        filled = target + place.columns.count;
      }
    }
    fill_until(output + end * width);
  });
}

// The gradients of a mask's stretched rows, gathered while image rows come in order; a row is finished, and shrunk into
// its mask row, when the image rows have passed it.
template <class T, class A>
class RowGradients {
 public:
  RowGradients(T* grad_mask, const ColumnTaps<A>& taps, const PasteMasks& args, int first)
      : grad_mask_(grad_mask), taps_(taps), args_(args), next_(first), ring_(args.mask_width + 2) {
    for (auto& slot : slots_) slot.assign(taps.count, A(0));
  }
  A* row(int r) { return slots_[r % 2].data(); }
  void finish_before(int r) {
    for (; next_ < r; ++next_) {
      auto& slot = slots_[next_ % 2];
      if (next_ > 0 && next_ <= args_.mask_height) {
        std::fill(ring_.begin(), ring_.end(), A(0));
        SIMD_CALL(shrink_row, slot.data(), taps_, ring_.data());
        T* cells = grad_mask_ + static_cast<int64_t>(next_ - 1) * args_.mask_width;
        for (int m = 0; m < args_.mask_width; ++m) cells[m] = narrow<T>(ring_[m + 1]);
      }
      std::fill(slot.begin(), slot.end(), A(0));
    }
  }

 private:
  T* grad_mask_;
  const ColumnTaps<A>& taps_;
  const PasteMasks& args_;
  int next_;
  std::vector<A> ring_, slots_[2];
};

}  // namespace

template <class T, class C>
void paste_masks_cpu(const T* masks, const C* boxes, uint8_t* output, Acc<T> threshold, const PasteMasks& args) {
  paste(masks, boxes, output, 0 > threshold, args, [&](const RowPair<Acc<T>>& rows, int64_t count, uint8_t* target) {
    SIMD_CALL(blend_decided, rows, threshold, count, target);
  });
}

template <class T, class C>
void paste_probabilities_cpu(const T* masks, const C* boxes, T* output, const PasteMasks& args) {
  paste(masks, boxes, output, 0, args,
        [&](const RowPair<Acc<T>>& rows, int64_t count, T* target) { SIMD_CALL(blend, rows, count, target); });
}

template <class T, class C>
void paste_probabilities_backward_cpu(const T* grad_output, const C* boxes, T* grad_masks, const PasteMasks& args) {
  using A = Acc<T>;
  const int64_t cells = static_cast<int64_t>(args.mask_height) * args.mask_width;
  parallel_for(args.masks, 1, [&](int64_t begin, int64_t end) {
    Placement<A, C> place;
    for (int64_t d = begin; d < end; ++d) {
      std::memset(static_cast<void*>(grad_masks + d * cells), 0, cells * sizeof(T));
      place.assign(boxes + 4 * d, args);
      if (place.rows.begin == place.rows.end) continue;
      RowGradients<T, A> gradients(grad_masks + d * cells, place.columns, args, place.row_tap(place.rows.begin).low);
      for (int y = place.rows.begin; y < place.rows.end; ++y) {
        const PasteTap<C> tap = place.row_tap(y);
        gradients.finish_before(tap.low);
        const T* row = grad_output + (d * args.height + y) * args.width + place.columns.begin;
        SIMD_CALL(add_row, row, static_cast<A>(tap.low_weight), static_cast<A>(tap.high_weight), place.columns.count,
                  gradients.row(tap.low), gradients.row(tap.low + 1));
      }
      gradients.finish_before(place.row_tap(place.rows.end - 1).low + 2);
    }
  });
}

#define INSTANTIATE_BOXES(T, C)                                                           \
  template void paste_masks_cpu(const T*, const C*, uint8_t*, Acc<T>, const PasteMasks&); \
  template void paste_probabilities_cpu(const T*, const C*, T*, const PasteMasks&);       \
  template void paste_probabilities_backward_cpu(const T*, const C*, T*, const PasteMasks&);
#define INSTANTIATE(T)        \
  INSTANTIATE_BOXES(T, float) \
  INSTANTIATE_BOXES(T, double)
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(Half)
INSTANTIATE(BFloat16)

}  // namespace maskrcnn_ops
