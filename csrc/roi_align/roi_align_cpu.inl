#include "common/planes.inl"

namespace maskrcnn_ops {
namespace SIMD_LEVEL {

// One cache line of accumulators.
template <class A>
struct Line {
  static constexpr int lanes = lane_count<A>;
  Lanes<A> low, high;

  SIMD_INLINE void add(A weight, const A* p) {
    low += weight * load(p);
    high += weight * load(p + lanes);
  }
  SIMD_INLINE void put(A* p) const {
    store(p, low);
    store(p + lanes, high);
  }
};

// Where a RoI's cells lie in the lines: offsets of its rows and columns, in elements.
struct Cells {
  std::vector<int64_t> rows, columns;
};

// bins = A_y · F · A_xᵀ: first the rows of each bin into `strip` (one line a column), then the columns.
template <class A>
void pool(const A* lines, const Cells& cells, const RoiTaps<A>& taps, A* strip, A* bins) {
  constexpr int64_t block = line_size<A>;
  const int64_t columns = cells.columns.size();
  for (size_t ph = 0; ph + 1 < taps.y.first.size(); ++ph) {
    for (int64_t k = 0; k < columns; ++k) {
      Line<A> sum{};
      for (int32_t e = taps.y.first[ph]; e < taps.y.first[ph + 1]; ++e)
        sum.add(taps.y.entries[e].weight, lines + cells.rows[taps.y.entries[e].slot] + cells.columns[k]);
      sum.put(strip + k * block);
    }
    for (size_t pw = 0; pw + 1 < taps.x.first.size(); ++pw, bins += block) {
      Line<A> sum{};
      for (int32_t e = taps.x.first[pw]; e < taps.x.first[pw + 1]; ++e)
        sum.add(taps.x.entries[e].weight, strip + taps.x.entries[e].slot * block);
      sum.put(bins);
    }
  }
}

// The transpose of `pool`: F += A_yᵀ · bins · A_x.
template <class A>
void unpool(const A* bins, const Cells& cells, const RoiTaps<A>& taps, A* strip, A* lines) {
  constexpr int64_t block = line_size<A>;
  const int64_t columns = cells.columns.size();
  for (size_t ph = 0; ph + 1 < taps.y.first.size(); ++ph) {
    __builtin_memset(strip, 0, static_cast<size_t>(columns) * 64);
    for (size_t pw = 0; pw + 1 < taps.x.first.size(); ++pw, bins += block)
      for (int32_t e = taps.x.first[pw]; e < taps.x.first[pw + 1]; ++e) {
        A* target = strip + taps.x.entries[e].slot * block;
        Line<A> sum{load(target), load(target + Line<A>::lanes)};
        sum.add(taps.x.entries[e].weight, bins);
        sum.put(target);
      }
    for (int32_t e = taps.y.first[ph]; e < taps.y.first[ph + 1]; ++e) {
      A* row = lines + cells.rows[taps.y.entries[e].slot];
      for (int64_t k = 0; k < columns; ++k) {
        A* target = row + cells.columns[k];
        Line<A> sum{load(target), load(target + Line<A>::lanes)};
        sum.add(taps.y.entries[e].weight, strip + k * block);
        sum.put(target);
      }
    }
  }
}

// Cells of the RoI in a plane that begins at map row `first_row`.
template <class A>
void locate_in_plane(const RoiTaps<A>& taps, int64_t first_row, int64_t width, Cells& cells) {
  constexpr int64_t block = line_size<A>;
  cells.rows.clear();
  cells.columns.clear();
  for (int32_t y : taps.y.cells) cells.rows.push_back((y - first_row) * width * block);
  for (int32_t x : taps.x.cells) cells.columns.push_back(x * block);
}

// Copies just the cells that the RoI reads, for RoIs too few to pay for a whole plane.
template <class T, class A>
void gather_patch(const T* map, MapStrides strides, int64_t channels, const RoiTaps<A>& taps, A* patch, Cells& cells) {
  constexpr int64_t block = line_size<A>;
  const std::vector<int32_t>&ys = taps.y.cells, &xs = taps.x.cells;
  const int64_t columns = xs.size();
  cells.rows.clear();
  cells.columns.clear();
  for (size_t j = 0; j < ys.size(); ++j) cells.rows.push_back(j * columns * block);
  for (int64_t k = 0; k < columns; ++k) cells.columns.push_back(k * block);
  for (size_t j = 0; j < ys.size(); ++j) {
    const T* row = map + ys[j] * strides.row;
    for (int64_t k = 0, run; k < columns; k += run) {
      for (run = 1; k + run < columns && xs[k + run] == xs[k] + run;) ++run;
      gather_lines(row + xs[k] * strides.column, strides.channel, strides.column, channels, run,
                   patch + cells.rows[j] + cells.columns[k]);
    }
  }
}

// The part of one image's map that its RoIs touch.
template <class A>
struct Extent {
  int64_t first_row = 0, rows = 0;
  int64_t patch_cells = 0, largest_patch = 0, widest = 0;

  Extent(const Plan<A>& plan, int64_t begin, int64_t end) {
    int64_t low = INT64_MAX, high = -1;
    for (int64_t i = begin; i < end; ++i) {
      const RoiTaps<A>& taps = plan.taps[plan.order.order[i]];
      if (taps.empty()) continue;
      low = std::min<int64_t>(low, taps.y.cells.front());
      high = std::max<int64_t>(high, taps.y.cells.back());
      const int64_t cells = taps.y.cells.size() * taps.x.cells.size();
      patch_cells += cells;
      largest_patch = std::max(largest_patch, cells);
      widest = std::max<int64_t>(widest, taps.x.cells.size());
    }
    if (high >= 0) first_row = low, rows = high - low + 1;
  }
};

// One bin of a channels_last map: sum of weight · cell over its taps, each cell a row of consecutive channels.
template <int vectors, class T, class A>
SIMD_INLINE void sum_cells(const T* map, const std::vector<int64_t>& cells, const std::vector<A>& weights, T* bin) {
  constexpr int lanes = lane_count<A>;
  Lanes<A> sums[vectors] = {};
  for (size_t i = 0; i < cells.size(); ++i)
    for (int v = 0; v < vectors; ++v) sums[v] += weights[i] * load(map + cells[i] + v * lanes);
  for (int v = 0; v < vectors; ++v) store(bin + v * lanes, sums[v]);
}

// Forward of a channels_last map needs no planes: a task is a run of RoIs in spatial order, and a tap one row of
// channels.
template <class T, class A>
void forward_channels_last(const T* input, MapStrides input_strides, const Plan<A>& plan, T* output,
                           MapStrides output_strides, const RoiAlign& args) {
  constexpr int lanes = lane_count<A>, wide = 8;
  parallel_for(args.rois, 4, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> cells;
    std::vector<A> weights;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t r = plan.order.order[i];
      const RoiTaps<A>& taps = plan.taps[r];
      const T* map = input + taps.image * input_strides.image;
      T* bin = output + r * output_strides.image;
      for (int ph = 0; ph < args.pooled_height; ++ph)
        for (int pw = 0; pw < args.pooled_width; ++pw, bin += output_strides.column) {
          cells.clear();
          weights.clear();
          if (!taps.empty())
            for (int32_t ey = taps.y.first[ph]; ey < taps.y.first[ph + 1]; ++ey)
              for (int32_t ex = taps.x.first[pw]; ex < taps.x.first[pw + 1]; ++ex) {
                cells.push_back(taps.y.cells[taps.y.entries[ey].slot] * input_strides.row +
                                taps.x.cells[taps.x.entries[ex].slot] * input_strides.column);
                weights.push_back(taps.y.entries[ey].weight * taps.x.entries[ex].weight);
              }
          int c = 0;
          for (; c + wide * lanes <= args.channels; c += wide * lanes)
            sum_cells<wide>(map + c, cells, weights, bin + c);
          for (; c + lanes <= args.channels; c += lanes) sum_cells<1>(map + c, cells, weights, bin + c);
          for (; c < args.channels; ++c) {
            A sum = 0;
            for (size_t t = 0; t < cells.size(); ++t) sum += weights[t] * widen(map[cells[t] + c]);
            bin[c] = narrow<T>(sum);
          }
        }
    }
  });
}

template <class T, class A>
void forward(const T* input, MapStrides input_strides, const Plan<A>& plan, T* output, MapStrides output_strides,
             const RoiAlign& args) {
  if (input_strides.channel == 1 && output_strides.channel == 1)
    return forward_channels_last(input, input_strides, plan, output, output_strides, args);
  constexpr int64_t block = line_size<A>;
  const int64_t blocks = ceil_div(args.channels, block), bins = int64_t(args.pooled_height) * args.pooled_width;
  // With fewer tasks than threads, several tasks share an image's RoIs.
  const int64_t splits = std::max<int64_t>(1, num_threads() / (args.images * blocks));
  parallel_for(args.images * blocks * splits, 1, [&](int64_t task, int64_t last) {
    Lines<A> plane, strip, pooled;
    Cells cells;
    for (; task < last; ++task) {
      const int64_t n = task / (blocks * splits), first_channel = task / splits % blocks * block;
      const int64_t channels = std::min<int64_t>(block, args.channels - first_channel);
      const int64_t first = plan.order.image_first[n], count = plan.order.image_first[n + 1] - first;
      const int64_t begin = first + count * (task % splits) / splits;
      const int64_t end = first + count * (task % splits + 1) / splits;
      const Extent<A> extent(plan, begin, end);
      const T* map = input + n * input_strides.image + first_channel * input_strides.channel;
      // Scattered reads of a channel-major map cost about four times a cell of the streaming pass.
      const bool whole = extent.patch_cells * (input_strides.channel == 1 ? 1 : 4) > extent.rows * args.width;
      A* lines = plane.get(whole ? extent.rows * args.width : extent.largest_patch);
      if (whole)
        for (int64_t y = 0; y < extent.rows; ++y)
          gather_lines(map + (extent.first_row + y) * input_strides.row, input_strides.channel, input_strides.column,
                       channels, args.width, lines + y * args.width * block);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t r = plan.order.order[i];
        const RoiTaps<A>& taps = plan.taps[r];
        A* result = pooled.get(bins);
        if (taps.empty()) {
          __builtin_memset(result, 0, static_cast<size_t>(bins) * 64);
        } else {
          if (whole) locate_in_plane(taps, extent.first_row, args.width, cells);
          else gather_patch(map, input_strides, channels, taps, lines, cells);
          pool(lines, cells, taps, strip.get(extent.widest), result);
        }
        scatter_lines(result, output + r * output_strides.image + first_channel * output_strides.channel,
                      output_strides.channel, output_strides.column, channels, bins);
      }
    }
  });
}

template <class T, class A>
void backward(const T* grad_output, MapStrides output_strides, const Plan<A>& plan, T* grad_input,
              MapStrides input_strides, const RoiAlign& args) {
  constexpr int64_t block = line_size<A>;
  const int64_t blocks = ceil_div(args.channels, block), bins = int64_t(args.pooled_height) * args.pooled_width;
  parallel_for(args.images * blocks, 1, [&](int64_t task, int64_t last) {
    Lines<A> plane, strip, pooled;
    Cells cells;
    for (; task < last; ++task) {
      const int64_t n = task / blocks, first_channel = task % blocks * block;
      const int64_t channels = std::min<int64_t>(block, args.channels - first_channel);
      const Extent<A> extent(plan, plan.order.image_first[n], plan.order.image_first[n + 1]);
      A* lines = plane.get(int64_t(args.height) * args.width);
      __builtin_memset(lines, 0, static_cast<size_t>(int64_t(args.height) * args.width) * 64);
      for (int64_t i = plan.order.image_first[n]; i < plan.order.image_first[n + 1]; ++i) {
        const int64_t r = plan.order.order[i];
        const RoiTaps<A>& taps = plan.taps[r];
        if (taps.empty()) continue;
        A* grad = pooled.get(bins);
        gather_lines(grad_output + r * output_strides.image + first_channel * output_strides.channel,
                     output_strides.channel, output_strides.column, channels, bins, grad);
        locate_in_plane(taps, 0, args.width, cells);
        unpool(grad, cells, taps, strip.get(extent.widest), lines);
      }
      T* map = grad_input + n * input_strides.image + first_channel * input_strides.channel;
      for (int64_t y = 0; y < args.height; ++y)
        scatter_lines(lines + y * args.width * block, map + y * input_strides.row, input_strides.channel,
                      input_strides.column, channels, args.width);
    }
  });
}

}  // namespace SIMD_LEVEL
}  // namespace maskrcnn_ops
