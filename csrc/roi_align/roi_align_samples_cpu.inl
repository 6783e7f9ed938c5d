// What works sample by sample: the maximum, forward and backward, and the gradients of boxes. Included by
// roi_align_cpu.inl, once per SIMD level.

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

// Cells of the RoI in a plane that begins at map row `first_row`.
template <class A, class Axis>
void locate_in_plane(const RoiTaps<Axis>& taps, int64_t first_row, int64_t width, Cells& cells) {
  constexpr int64_t block = line_size<A>;
  cells.rows.clear();
  cells.columns.clear();
  for (int32_t y : taps.y.cells) cells.rows.push_back((y - first_row) * width * block);
  for (int32_t x : taps.x.cells) cells.columns.push_back(x * block);
}

// Copies just the cells that the RoI reads, for RoIs too few to pay for a whole plane.
template <class T, class A, class Axis>
void gather_patch(const T* map, MapStrides strides, int64_t channels, const RoiTaps<Axis>& taps, A* patch,
                  Cells& cells) {
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

// The maximum of each bin's samples, and which sample it is: the first of equal ones, or the first NaN. For every row
// of samples, the map is interpolated along y into `strip`, one line a column, then along x.
template <class A>
void pool_maximum(const A* lines, const Cells& cells, const RoiTaps<AxisSamples<A>>& taps, A* strip, A* bins,
                  int32_t* winners) {
  constexpr int64_t block = line_size<A>;
  constexpr int lanes = lane_count<A>;
  const int64_t columns = cells.columns.size();
  const int rows = taps.y.samples.size() / taps.y.grid, across = taps.x.samples.size() / taps.x.grid;
  for (int ph = 0; ph < rows; ++ph, bins += across * block, winners += across * block)
    for (int j = 0; j < taps.y.grid; ++j) {
      const auto& y = taps.y.samples[ph * taps.y.grid + j];
      for (int64_t k = 0; k < columns; ++k) {
        Line<A> sum{};
        if (y.low_weight != A(0)) sum.add(y.low_weight, lines + cells.rows[y.low] + cells.columns[k]);
        if (y.high_weight != A(0)) sum.add(y.high_weight, lines + cells.rows[y.high] + cells.columns[k]);
        sum.put(strip + k * block);
      }
      for (int pw = 0; pw < across; ++pw)
        for (int i = 0; i < taps.x.grid; ++i) {
          const auto& x = taps.x.samples[pw * taps.x.grid + i];
          Line<A> sum{};
          if (x.low_weight != A(0)) sum.add(x.low_weight, strip + x.low * block);
          if (x.high_weight != A(0)) sum.add(x.high_weight, strip + x.high * block);
          const int sample = j * taps.x.grid + i;
          for (int half = 0; half < 2; ++half) {
            const Lanes<A> value = half ? sum.high : sum.low;
            A* best = bins + pw * block + half * lanes;
            int32_t* winner = winners + pw * block + half * lanes;
            const Lanes<A> before = sample == 0 ? value : load(best);
            const Positions<A> better = (value > before) | ((value != value) & (before == before));
            store(best, better ? value : before);
            store_positions(winner, sample == 0 ? Positions<A>{}
                                    : better    ? Positions<A>{} + sample
                                                : load_positions<A>(winner));
          }
        }
    }
}

// The transpose: each bin's gradient goes to the cells of the sample that won.
template <class A>
void unpool_maximum(const A* bins, const int32_t* argmax, MapStrides strides, int64_t channels, const Cells& cells,
                    const RoiTaps<AxisSamples<A>>& taps, int64_t count, A* lines) {
  constexpr int64_t block = line_size<A>;
  const int gy = taps.y.grid, gx = taps.x.grid;
  const int64_t across = taps.x.samples.size() / gx;
  for (int64_t bin = 0; bin < count; ++bin, bins += block)
    for (int64_t c = 0; c < channels; ++c) {
      const int32_t sample = argmax[bin * strides.column + c * strides.channel];
      if (sample < 0 || sample >= gy * gx) continue;
      const auto& y = taps.y.samples[bin / across * gy + sample / gx];
      const auto& x = taps.x.samples[bin % across * gx + sample % gx];
      const A low = bins[c] * y.low_weight, high = bins[c] * y.high_weight;
      lines[cells.rows[y.low] + cells.columns[x.low] + c] += low * x.low_weight;
      lines[cells.rows[y.low] + cells.columns[x.high] + c] += low * x.high_weight;
      lines[cells.rows[y.high] + cells.columns[x.low] + c] += high * x.low_weight;
      lines[cells.rows[y.high] + cells.columns[x.high] + c] += high * x.high_weight;
    }
}

// Gradients with respect to start and side of the bins along both axes, summed over samples; V is a number, or lanes.
template <class V>
struct AxisSums {
  V y_start{}, y_bin{}, x_start{}, x_bin{};

  // One sample, whose four cells lie at low/high row + low/high column, with the gradient of its value.
  template <class Sample, class Load>
  SIMD_INLINE void add(const Sample& y, const Sample& x, const Cells& cells, V grad, const Load& cell) {
    const V low_low = cell(cells.rows[y.low] + cells.columns[x.low]);
    const V low_high = cell(cells.rows[y.low] + cells.columns[x.high]);
    const V high_low = cell(cells.rows[y.high] + cells.columns[x.low]);
    const V high_high = cell(cells.rows[y.high] + cells.columns[x.high]);
    const V dy = grad * y.slope * ((high_low - low_low) * x.low_weight + (high_high - low_high) * x.high_weight);
    const V dx = grad * x.slope * ((low_high - low_low) * y.low_weight + (high_high - high_low) * y.high_weight);
    y_start += dy;
    y_bin += dy * y.place;
    x_start += dx;
    x_bin += dx * x.place;
  }
};

// Gradients of the boxes of some channels of one RoI, whose cells lie in `lines`.
template <class A>
void add_box_sums(const A* lines, const A* bins, const int32_t* argmax, MapStrides strides, int64_t channels,
                  const Cells& cells, const RoiTaps<AxisSamples<A>>& taps, int64_t count, AxisSums<A>& sums) {
  constexpr int64_t block = line_size<A>;
  constexpr int lanes = lane_count<A>;
  const int gy = taps.y.grid, gx = taps.x.grid;
  const int64_t across = taps.x.samples.size() / gx;
  AxisSums<Lanes<A>> wide;
  for (int64_t bin = 0; bin < count; ++bin, bins += block) {
    const auto* y = taps.y.samples.data() + bin / across * gy;
    const auto* x = taps.x.samples.data() + bin % across * gx;
    if (argmax != nullptr) {
      for (int64_t c = 0; c < channels; ++c) {
        const int32_t sample = argmax[bin * strides.column + c * strides.channel];
        if (sample >= 0 && sample < gy * gx)
          sums.add(y[sample / gx], x[sample % gx], cells, bins[c], [&](int64_t at) { return lines[at + c]; });
      }
      continue;
    }
    for (int64_t c = 0; c < block; c += lanes) {
      const Lanes<A> grad = load(bins + c) / static_cast<A>(gy * gx);
      for (int j = 0; j < gy; ++j)
        for (int i = 0; i < gx; ++i)
          wide.add(y[j], x[i], cells, grad, [&](int64_t at) { return load(lines + at + c); });
    }
  }
  for (int k = 0; k < lanes; ++k) {
    sums.y_start += wide.y_start[k];
    sums.y_bin += wide.y_bin[k];
    sums.x_start += wide.x_start[k];
    sums.x_bin += wide.x_bin[k];
  }
}

// A task is a run of RoIs; each gathers its cells, block by block of channels.
template <class T, class A>
void backward_boxes(const T* grad_output, const int32_t* argmax, MapStrides output_strides, Maps<const T> maps,
                    const SamplePlan<A>& plan, Rois<A> rois, A* grad_rois, const RoiAlign& args) {
  constexpr int64_t block = line_size<A>;
  const int64_t bins = int64_t(args.pooled_height) * args.pooled_width;
  parallel_for(args.rois, 4, [&](int64_t begin, int64_t end) {
    Lines<A> patch, pooled;
    Cells cells;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t r = plan.order.order[i];
      const auto& taps = plan.taps[r];
      A* const grad_roi = grad_rois + 5 * r;
      std::fill(grad_roi, grad_roi + 5, A(0));
      if (taps.empty()) continue;
      const Level& level = args.levels[taps.map % args.level_count];
      const T* map = maps.level[taps.map % args.level_count] + taps.map / args.level_count * level.strides.image;
      A* lines = patch.get(taps.y.cells.size() * taps.x.cells.size());
      A* grad = pooled.get(bins);
      AxisSums<A> sums;
      for (int64_t c = 0; c < args.channels; c += block) {
        const int64_t channels = std::min<int64_t>(block, args.channels - c);
        const int64_t offset = r * output_strides.image + c * output_strides.channel;
        gather_patch(map + c * level.strides.channel, level.strides, channels, taps, lines, cells);
        gather_lines(grad_output + offset, output_strides.channel, output_strides.column, channels, bins, grad);
        add_box_sums(lines, grad, argmax != nullptr ? argmax + offset : nullptr, output_strides, channels, cells, taps,
                     bins, sums);
      }
      const A* roi = rois.boxes + 5 * r;
      const A scale = static_cast<A>(level.spatial_scale);
      const auto y =
          corner_gradients(roi[2], roi[4], scale, args.pooled_height, args.aligned, sums.y_start, sums.y_bin);
      const auto x = corner_gradients(roi[1], roi[3], scale, args.pooled_width, args.aligned, sums.x_start, sums.x_bin);
      grad_roi[1] = x.low;
      grad_roi[2] = y.low;
      grad_roi[3] = x.high;
      grad_roi[4] = y.high;
    }
  });
}

}  // namespace SIMD_LEVEL
}  // namespace maskrcnn_ops
