#include "common/planes.inl"
#include "common/positions.inl"
#include "roi_align/roi_align_samples_cpu.inl"

namespace maskrcnn_ops {
namespace SIMD_LEVEL {

// bins = A_y · F · A_xᵀ: first the rows of each bin into `strip` (one line a column), then the columns.
template <class A>
void pool(const A* lines, const Cells& cells, const RoiTaps<AxisTaps<A>>& taps, A* strip, A* bins) {
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
void unpool(const A* bins, const Cells& cells, const RoiTaps<AxisTaps<A>>& taps, A* strip, A* lines) {
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

// The part of one map that its RoIs touch.
struct Extent {
  int64_t first_row = 0, rows = 0;
  int64_t patch_cells = 0, largest_patch = 0, widest = 0;

  template <class Plan>
  Extent(const Plan& plan, int64_t begin, int64_t end) {
    int64_t low = INT64_MAX, high = -1;
    for (int64_t i = begin; i < end; ++i) {
      const auto& taps = plan.taps[plan.order.order[i]];
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
template <int pairs, class T, class A>
SIMD_INLINE void sum_cells(const T* map, const std::vector<int64_t>& cells, const std::vector<A>& weights, T* bin) {
  constexpr int numbers = Pair<T>::numbers;
  Pair<T> sums[pairs] = {};
  for (size_t i = 0; i < cells.size(); ++i)
    for (int k = 0; k < pairs; ++k) {
      const Pair<T> values = load_pair(map + cells[i] + k * numbers);
      sums[k].first += weights[i] * values.first;
      sums[k].second += weights[i] * values.second;
    }
  for (int k = 0; k < pairs; ++k) store_pair(bin + k * numbers, sums[k]);
}

// Forward of channels_last maps needs no planes: a task is a run of RoIs in spatial order, and a tap one row of
// channels.
template <class T, class A>
void forward_channels_last(Maps<const T> maps, const MeanPlan<A>& plan, T* output, MapStrides output_strides,
                           const RoiAlign& args) {
  constexpr int numbers = Pair<T>::numbers, wide = 4;
  parallel_for(args.rois, 4, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> cells;
    std::vector<A> weights;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t r = plan.order.order[i];
      const auto& taps = plan.taps[r];
      const MapStrides strides = args.levels[taps.map % args.level_count].strides;
      const T* map = maps.level[taps.map % args.level_count] + taps.map / args.level_count * strides.image;
      T* bin = output + r * output_strides.image;
      for (int ph = 0; ph < args.pooled_height; ++ph)
        for (int pw = 0; pw < args.pooled_width; ++pw, bin += output_strides.column) {
          cells.clear();
          weights.clear();
          if (!taps.empty())
            for (int32_t ey = taps.y.first[ph]; ey < taps.y.first[ph + 1]; ++ey)
              for (int32_t ex = taps.x.first[pw]; ex < taps.x.first[pw + 1]; ++ex) {
                cells.push_back(taps.y.cells[taps.y.entries[ey].slot] * strides.row +
                                taps.x.cells[taps.x.entries[ex].slot] * strides.column);
                weights.push_back(taps.y.entries[ey].weight * taps.x.entries[ex].weight);
              }
          int c = 0;
          for (; c + wide * numbers <= args.channels; c += wide * numbers)
            sum_cells<wide>(map + c, cells, weights, bin + c);
          for (; c + numbers <= args.channels; c += numbers) sum_cells<1>(map + c, cells, weights, bin + c);
          for (; c < args.channels; ++c) {
            A sum = 0;
            for (size_t t = 0; t < cells.size(); ++t) sum += weights[t] * widen(map[cells[t] + c]);
            bin[c] = narrow<T>(sum);
          }
        }
    }
  });
}

inline bool all_channels_last(const RoiAlign& args) {
  return std::all_of(args.levels, args.levels + args.level_count,
                     [](const Level& level) { return level.strides.channel == 1; });
}

// What a task works on: some channels of one level of one image, and the RoIs begin ... end - 1 of its order.
struct Task {
  int level;
  int64_t image, first_channel, channels, begin, end;

  // Levels count fastest, then splits of a map's RoIs, blocks of channels, images.
  Task(int64_t task, int64_t splits, int64_t block, const RoiOrder& order, const RoiAlign& args) {
    const int64_t blocks = ceil_div(args.channels, block);
    level = static_cast<int>(task % args.level_count);
    const int64_t split = task / args.level_count % splits;
    first_channel = task / (args.level_count * splits) % blocks * block;
    image = task / (args.level_count * splits * blocks);
    channels = std::min<int64_t>(block, args.channels - first_channel);
    const int64_t map = image * args.level_count + level;
    const int64_t first = order.image_first[map], count = order.image_first[map + 1] - first;
    begin = first + count * split / splits;
    end = first + count * (split + 1) / splits;
  }
};

template <class T, class A, class Axis>
void forward(Maps<const T> maps, const Plan<Axis, A>& plan, T* output, int32_t* argmax, MapStrides output_strides,
             const RoiAlign& args) {
  constexpr bool mean = std::is_same_v<Axis, AxisTaps<A>>;
  const int64_t bins = int64_t(args.pooled_height) * args.pooled_width;
  const size_t outputs = static_cast<size_t>(args.rois * args.channels * bins);
  if constexpr (mean)
    if (output_strides.channel == 1 && all_channels_last(args)) {
      prefer_huge_pages(output, sizeof(T) * outputs);
      return forward_channels_last(maps, plan, output, output_strides, args);
    }
  hand_out_huge_pages(output, sizeof(T) * outputs);
  if constexpr (!mean) hand_out_huge_pages(argmax, sizeof(int32_t) * outputs);
  constexpr int64_t block = line_size<A>;
  const int64_t pieces = args.images * args.level_count * ceil_div(args.channels, block);
  // With fewer tasks than threads, several tasks share a map's RoIs.
  const int64_t splits = std::max<int64_t>(1, num_threads() / pieces);
  parallel_for(pieces * splits, 1, [&](int64_t index, int64_t last) {
    Lines<A> plane, strip, pooled;
    std::vector<int32_t> winners(mean ? 0 : bins * block);
    Cells cells;
    for (; index < last; ++index) {
      const Task task(index, splits, block, plan.order, args);
      const Level& level = args.levels[task.level];
      const MapStrides& strides = level.strides;
      const Extent extent(plan, task.begin, task.end);
      const T* map = maps.level[task.level] + task.image * strides.image + task.first_channel * strides.channel;
      // Scattered reads of a channel-major map cost about four times a cell of the streaming pass.
      const bool whole = extent.patch_cells * (strides.channel == 1 ? 1 : 4) > extent.rows * level.width;
      A* lines = plane.get(whole ? extent.rows * level.width : extent.largest_patch);
      if (whole)
        for (int64_t y = 0; y < extent.rows; ++y)
          gather_lines(map + (extent.first_row + y) * strides.row, strides.channel, strides.column, task.channels,
                       level.width, lines + y * level.width * block);
      for (int64_t i = task.begin; i < task.end; ++i) {
        const int64_t r = plan.order.order[i];
        const auto& taps = plan.taps[r];
        A* result = pooled.get(bins);
        const int64_t offset = r * output_strides.image + task.first_channel * output_strides.channel;
        expect_scatter(output + offset, output_strides.channel, output_strides.column, task.channels, bins);
        if (taps.empty()) {
          __builtin_memset(result, 0, static_cast<size_t>(bins) * 64);
          std::fill(winners.begin(), winners.end(), -1);
        } else {
          if (whole) locate_in_plane<A>(taps, extent.first_row, level.width, cells);
          else gather_patch(map, strides, task.channels, taps, lines, cells);
          if constexpr (mean) pool(lines, cells, taps, strip.get(extent.widest), result);
          else pool_maximum(lines, cells, taps, strip.get(extent.widest), result, winners.data());
        }
        scatter_lines(result, output + offset, output_strides.channel, output_strides.column, task.channels, bins);
        if constexpr (!mean)
          scatter_positions<block>(winners.data(), argmax + offset, output_strides.channel, output_strides.column,
                                   task.channels, bins);
      }
    }
  });
}

template <class T, class A, class Axis>
void backward(const T* grad_output, const int32_t* argmax, MapStrides output_strides, const Plan<Axis, A>& plan,
              Maps<T> grad_maps, const RoiAlign& args) {
  constexpr bool mean = std::is_same_v<Axis, AxisTaps<A>>;
  constexpr int64_t block = line_size<A>;
  const int64_t bins = int64_t(args.pooled_height) * args.pooled_width;
  parallel_for(args.images * args.level_count * ceil_div(args.channels, block), 1, [&](int64_t index, int64_t last) {
    Lines<A> plane, strip, pooled;
    Cells cells;
    for (; index < last; ++index) {
      const Task task(index, 1, block, plan.order, args);
      const Level& level = args.levels[task.level];
      const MapStrides& strides = level.strides;
      const Extent extent(plan, task.begin, task.end);
      A* lines = plane.get(int64_t(level.height) * level.width);
      __builtin_memset(lines, 0, static_cast<size_t>(int64_t(level.height) * level.width) * 64);
      for (int64_t i = task.begin; i < task.end; ++i) {
        const int64_t r = plan.order.order[i];
        const auto& taps = plan.taps[r];
        if (taps.empty()) continue;
        A* grad = pooled.get(bins);
        const int64_t offset = r * output_strides.image + task.first_channel * output_strides.channel;
        gather_lines(grad_output + offset, output_strides.channel, output_strides.column, task.channels, bins, grad);
        locate_in_plane<A>(taps, 0, level.width, cells);
        if constexpr (mean) unpool(grad, cells, taps, strip.get(extent.widest), lines);
        else unpool_maximum(grad, argmax + offset, output_strides, task.channels, cells, taps, bins, lines);
      }
      T* map = grad_maps.level[task.level] + task.image * strides.image + task.first_channel * strides.channel;
      for (int64_t y = 0; y < level.height; ++y)
        scatter_lines(lines + y * level.width * block, map + y * strides.row, strides.channel, strides.column,
                      task.channels, level.width);
    }
  });
}

}  // namespace SIMD_LEVEL
}  // namespace maskrcnn_ops
