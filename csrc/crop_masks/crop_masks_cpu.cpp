#include "crop_masks/crop_masks.h"

#include <algorithm>
#include <vector>

#include "common/threads.h"

// Work partition: a task is a RoI. Each column that it samples is read once, as words of 64 rows, and averaged over
// all bins of y: a bin whose rows are all clear or all set takes no sums. Then the columns are summed to bins of x.
// Sums run in the same order as RoIAlign's.

namespace maskrcnn_ops {
namespace {

// The taps of all bins of one axis.
template <class C>
struct BinTaps {
  std::vector<TapEntry<C>> entries;
  std::vector<int> first;  // bin p has entries first[p] ... first[p + 1] - 1
  int low = 0, high = 0;   // all cells lie in [low, high)

  void assign(const SampleAxis<C>& axis, int bins, int extent) {
    entries.clear();
    first.assign(1, 0);
    low = extent;
    high = 0;
    for (int p = 0; p < bins; ++p) {
      entries.resize(first.back() + 2 * axis.grid);
      first.push_back(first.back() + bin_taps(axis, p, extent, entries.data() + first.back()));
      entries.resize(first.back());
    }
    for (const auto& entry : entries) {
      low = std::min(low, entry.cell);
      high = std::max(high, entry.cell + 1);
    }
  }
};

// Reads columns of one object; `prepare` is told which part of the image will be read.
template <class Source>
class ColumnReader {
 public:
  void prepare(const Source& source, int64_t object, int, int, int) {
    source_ = &source;
    object_ = object;
  }
  void read(int column, int first, int64_t words, uint64_t* bits) const {
    for (int64_t k = 0; k < words; ++k) bits[k] = source_->word(object_, column, static_cast<int>(first + 64 * k));
  }

 private:
  const Source* source_ = nullptr;
  int64_t object_ = 0;
};

// Of polygons, every change of a column inside the RoI is computed once, edge by edge, then sorted into its column.
template <>
class ColumnReader<Polygons> {
 public:
  void prepare(const Polygons& source, int64_t object, int low, int high, int height) {
    low_ = low;
    found_.clear();
    starts_.assign(high - low + 2, 0);
    for (int64_t ring = source.objects[object]; ring < source.objects[object + 1]; ++ring)
      source.for_each_edge(ring, [&](const PolygonEdge& edge) {
        const int64_t end = std::min<int64_t>(edge.end_column(), high);
        for (int64_t x = std::max<int64_t>(edge.first_column(), low); x < end; ++x) {
          found_.push_back({static_cast<int>(x - low), ring, edge.change(x, height)});
          ++starts_[x - low + 2];
        }
      });
    for (size_t x = 2; x < starts_.size(); ++x) starts_[x] += starts_[x - 1];
    sorted_.resize(found_.size());
    for (const Change& change : found_)
      sorted_[starts_[change.column + 1]++] = change;  // starts_[x + 1] moves to the end of x
  }

  void read(int column, int first, int64_t words, uint64_t* bits) {
    std::fill_n(bits, words, 0);
    const int64_t end = starts_[column - low_ + 1];
    for (int64_t i = starts_[column - low_]; i < end;) {
      inside_.assign(words, 0);
      for (const int64_t ring = sorted_[i].ring; i < end && sorted_[i].ring == ring; ++i)
        for (int64_t k = 0; k < words; ++k) inside_[k] ^= ones_from(sorted_[i].row, first + 64 * k);
      for (int64_t k = 0; k < words; ++k) bits[k] |= inside_[k];
    }
  }

 private:
  struct Change {
    int column;
    int64_t ring, row;
  };
  int low_ = 0;
  std::vector<Change> found_, sorted_;
  std::vector<int64_t> starts_;
  std::vector<uint64_t> inside_;
};

template <class C, class Source>
class Cropper {
 public:
  Cropper(const Source& source, const CropMasks& args) : source_(source), args_(args) {}

  void run(const C* roi, C* output) {
    const int64_t rows = args_.pooled_height, columns = args_.pooled_width;
    std::fill_n(output, rows * columns, C(0));
    const CropAxes<C> axes = crop_axes(roi, args_);
    if (axes.object < 0) return;
    y_.assign(axes.y, args_.pooled_height, args_.height);
    x_.assign(axes.x, args_.pooled_width, args_.width);
    if (y_.entries.empty() || x_.entries.empty()) return;
    measure_bins();
    reader_.prepare(source_, axes.object, x_.low, x_.high, args_.height);
    averages_.resize((x_.high - x_.low) * rows);
    known_.assign(x_.high - x_.low, 0);
    for (int64_t pw = 0; pw < columns; ++pw) {
      sums_.assign(rows, C(0));
      for (int e = x_.first[pw]; e < x_.first[pw + 1]; ++e) {
        const C* average = column(x_.entries[e].cell);
        if (average == nullptr) continue;
        const C weight = x_.entries[e].weight;
        for (int64_t ph = 0; ph < rows; ++ph) sums_[ph] += weight * average[ph];
      }
      for (int64_t ph = 0; ph < rows; ++ph) output[ph * columns + pw] = sums_[ph];
    }
  }

 private:
  struct Bin {
    int low, high;  // its cells lie in [low, high)
    C all;          // the sum of its weights
  };

  void measure_bins() {
    bins_.clear();
    for (int ph = 0; ph < args_.pooled_height; ++ph) {
      Bin bin{y_.high, y_.low, C(0)};
      for (int e = y_.first[ph]; e < y_.first[ph + 1]; ++e) {
        bin.low = std::min(bin.low, y_.entries[e].cell);
        bin.high = std::max(bin.high, y_.entries[e].cell + 1);
        bin.all += y_.entries[e].weight;
      }
      bins_.push_back(bin);
    }
  }

  bool bit(int row) const { return bits_[(row - y_.low) / 64] >> (row - y_.low) % 64 & 1; }

  // -1: rows of both kinds; else the bit that all rows of the bin have.
  int uniform(const Bin& bin) const {
    const int low = bin.low - y_.low, count = bin.high - bin.low, shift = low % 64;
    if (count > 64) return -1;
    uint64_t word = bits_[low / 64] >> shift;
    if (shift + count > 64) word |= bits_[low / 64 + 1] << (64 - shift);
    const uint64_t mask = ~uint64_t(0) >> (64 - count);
    return (word & mask) == 0 ? 0 : (word & mask) == mask ? 1 : -1;
  }

  // The averages of a column over the bins of y, or null where it is clear.
  const C* column(int x) {
    const int64_t rows = args_.pooled_height;
    C* average = averages_.data() + (x - x_.low) * rows;
    char& known = known_[x - x_.low];
    if (known == 0) known = measure_column(x, average) ? 2 : 1;
    return known == 2 ? average : nullptr;
  }

  bool measure_column(int x, C* average) {
    bits_.resize((y_.high - y_.low + 63) / 64);
    reader_.read(x, y_.low, static_cast<int64_t>(bits_.size()), bits_.data());
    if (std::all_of(bits_.begin(), bits_.end(), [](uint64_t word) { return word == 0; })) return false;
    for (int ph = 0; ph < args_.pooled_height; ++ph) {
      C sum = C(0);
      const int all = y_.first[ph] == y_.first[ph + 1] ? 0 : uniform(bins_[ph]);
      if (all == 1) sum = bins_[ph].all;
      else if (all < 0)
        for (int e = y_.first[ph]; e < y_.first[ph + 1]; ++e)
          if (bit(y_.entries[e].cell)) sum += y_.entries[e].weight;
      average[ph] = sum;
    }
    return true;
  }

  const Source& source_;
  const CropMasks& args_;
  ColumnReader<Source> reader_;
  BinTaps<C> y_, x_;
  std::vector<Bin> bins_;
  std::vector<uint64_t> bits_;
  std::vector<C> averages_, sums_;
  std::vector<char> known_;
};

}  // namespace

template <class C, class Source>
void crop_masks_cpu(const Source& source, const C* rois, C* output, const CropMasks& args) {
  const int64_t bins = static_cast<int64_t>(args.pooled_height) * args.pooled_width;
  parallel_for(args.rois, 1, [&](int64_t begin, int64_t end) {
    Cropper<C, Source> cropper(source, args);
    for (int64_t r = begin; r < end; ++r) cropper.run(rois + 5 * r, output + r * bins);
  });
}

#define INSTANTIATE(Source)                                                            \
  template void crop_masks_cpu(const Source&, const float*, float*, const CropMasks&); \
  template void crop_masks_cpu(const Source&, const double*, double*, const CropMasks&);
INSTANTIATE(Bitmaps)
INSTANTIATE(Runs)
INSTANTIATE(Polygons)

}  // namespace maskrcnn_ops
