#include "common/planes.inl"
#include "common/positions.inl"

namespace maskrcnn_ops {
namespace SIMD_LEVEL {

// The cells of a task's map or patch: cell (y, x) is the line at lines + ((y - top) * pitch + x - left) * block.
template <class A>
struct View {
  const A* lines;
  int64_t pitch;
  int32_t top, left;
};

// a > b ? a : b, in one instruction where the compiler would compare and select.
template <class V>
SIMD_INLINE V greater_of(V a, V b) {
#if SIMD_F16C
  if constexpr (std::is_same_v<V, FloatLanes>) return (FloatLanes)_mm256_max_ps((__m256)a, (__m256)b);
  else return (DoubleLanes)_mm256_max_pd((__m256d)a, (__m256d)b);
#else
  return a > b ? a : b;
#endif
}

// Maximum and position of one bin, for one line of channels.
template <class A>
SIMD_INLINE void max_of_bin(const View<A>& view, CellRange rows, CellRange columns, int32_t width, A* value,
                            int32_t* position) {
  constexpr int64_t block = line_size<A>;
  constexpr int lanes = lane_count<A>;
  const Lanes<A> least = Lanes<A>{} + lowest<A>();
  Lanes<A> best[2] = {least, least};
  Positions<A> where[2] = {Positions<A>{} - 1, Positions<A>{} - 1};
  for (int32_t y = rows.first; y < rows.last; ++y) {
    const A* line = view.lines + ((y - view.top) * view.pitch + columns.first - view.left) * block;
    Positions<A> here = Positions<A>{} + (y * width + columns.first);
    for (int32_t x = columns.first; x < columns.last; ++x, line += block, here += 1)
      for (int half = 0; half < 2; ++half) {
        const Lanes<A> candidate = load(line + half * lanes);
        const Positions<A> greater = candidate > best[half];
        best[half] = greater_of(candidate, best[half]);
        where[half] = greater ? here : where[half];
      }
  }
  for (int half = 0; half < 2; ++half) {
    store(value + half * lanes, best[half]);
    store_positions(position + half * lanes, where[half]);
  }
}

// All bins of one RoI: values [bins][block] and positions [bins][block].
template <class A>
void pool(const View<A>& view, const CellRange* y, const CellRange* x, const RoiPool& args, A* values,
          int32_t* positions) {
  constexpr int64_t block = line_size<A>;
  for (int ph = 0; ph < args.pooled_height; ++ph)
    for (int pw = 0; pw < args.pooled_width; ++pw, values += block, positions += block) {
      if (y[ph].last > y[ph].first && x[pw].last > x[pw].first) {
        max_of_bin(view, y[ph], x[pw], args.width, values, positions);
        continue;
      }
      std::fill(values, values + block, A(0));
      std::fill(positions, positions + block, -1);
    }
}

// Copies rows and columns of a map's channels into lines.
template <class T, class A>
void gather_cells(const T* map, MapStrides strides, int64_t channels, const RoiCells& cells, A* lines) {
  const int64_t columns = cells.right - cells.left;
  for (int64_t y = cells.top; y < cells.bottom; ++y, lines += columns * line_size<A>)
    gather_lines(map + y * strides.row + cells.left * strides.column, strides.channel, strides.column, channels,
                 columns, lines);
}

template <class T, class A>
void forward(const T* input, MapStrides input_strides, const Plan<A>& plan, T* output, int32_t* argmax,
             MapStrides output_strides, const RoiPool& args) {
  constexpr int64_t block = line_size<A>;
  const int64_t blocks = ceil_div(args.channels, block), bins = int64_t(args.pooled_height) * args.pooled_width;
  const size_t outputs = static_cast<size_t>(args.rois * args.channels * bins);
  hand_out_huge_pages(output, outputs * sizeof(T));
  hand_out_huge_pages(argmax, outputs * sizeof(int32_t));
  // With fewer tasks than threads, several tasks share an image's RoIs.
  const int64_t splits = std::max<int64_t>(1, num_threads() / (args.images * blocks));
  parallel_for(args.images * blocks * splits, 1, [&](int64_t task, int64_t last) {
    Lines<A> plane;
    std::vector<A> values(bins * block);
    std::vector<int32_t> positions(bins * block);
    for (; task < last; ++task) {
      const int64_t n = task / (blocks * splits), first_channel = task / splits % blocks * block;
      const int64_t channels = std::min<int64_t>(block, args.channels - first_channel);
      const int64_t first = plan.order.image_first[n], count = plan.order.image_first[n + 1] - first;
      const int64_t begin = first + count * (task % splits) / splits;
      const int64_t end = first + count * (task % splits + 1) / splits;
      const RoiExtent extent(plan.cells, plan.order, begin, end);
      const T* map = input + n * input_strides.image + first_channel * input_strides.channel;
      const bool whole = extent.copy_whole(args.width, input_strides.channel);
      A* lines = plane.get(whole ? extent.rows * args.width : extent.largest_patch);
      const RoiCells band{n, int32_t(extent.first_row), int32_t(extent.first_row + extent.rows), 0, args.width};
      if (whole) gather_cells(map, input_strides, channels, band, lines);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t r = plan.order.order[i];
        const RoiCells& patch = plan.cells[r];
        const int64_t offset = r * output_strides.image + first_channel * output_strides.channel;
        expect_scatter(output + offset, output_strides.channel, output_strides.column, channels, bins);
        expect_scatter(argmax + offset, output_strides.channel, output_strides.column, channels, bins);
        if (!whole && !patch.empty()) gather_cells(map, input_strides, channels, patch, lines);
        const RoiCells& held = whole ? band : patch;
        const CellRange* ranges = plan.of(r, args);
        pool(View<A>{lines, held.right - held.left, held.top, held.left}, ranges, ranges + args.pooled_height, args,
             values.data(), positions.data());
        scatter_lines(values.data(), output + offset, output_strides.channel, output_strides.column, channels, bins);
        scatter_positions<block>(positions.data(), argmax + offset, output_strides.channel, output_strides.column,
                                 channels, bins);
      }
    }
  });
}

// Adds `count` gradients at their maxima, cells first ... first + cells - 1 of a channel's map: the k-th at
// target[(argmax[k] - first) * cell_step + k * item_step].
template <class T, class A>
SIMD_INLINE void add_at_maxima(const T* grad, int64_t grad_step, const int32_t* argmax, int64_t argmax_step,
                               int64_t count, int64_t first, int64_t cells, A* target, int64_t cell_step,
                               int64_t item_step) {
  for (int64_t k = 0; k < count; ++k) {
    const uint64_t cell = static_cast<uint64_t>(argmax[k * argmax_step] - first);
    if (cell < static_cast<uint64_t>(cells)) target[cell * cell_step + k * item_step] += widen(grad[k * grad_step]);
  }
}

// Lets `add` sum into a dense piece of the gradient: in its place, or aside where the gradient's type is narrower.
template <class T, class A, class Add>
SIMD_INLINE void sum_into(T* piece, int64_t count, Lines<A>& scratch, const Add& add) {
  if constexpr (std::is_same_v<T, A>) {
    std::fill_n(piece, count, A(0));
    add(piece);
  } else {
    A* sums = scratch.get(ceil_div(count, line_size<A>));
    std::fill_n(sums, count, A(0));
    add(sums);
    constexpr int lanes = lane_count<A>;
    int64_t k = 0;
    for (; k + lanes <= count; k += lanes) store(piece + k, load(sums + k));
    for (; k < count; ++k) piece[k] = narrow<T>(sums[k]);
  }
}

template <class T, class A>
void backward_planes(const T* grad_output, MapStrides grad_strides, const int32_t* argmax, MapStrides argmax_strides,
                     const Plan<A>& plan, T* grad_input, const RoiPool& args) {
  constexpr int64_t block = line_size<A>;
  const int64_t blocks = ceil_div(args.channels, block), bins = int64_t(args.pooled_height) * args.pooled_width;
  const int64_t cells = int64_t(args.height) * args.width;
  parallel_for(args.images * blocks, 1, [&](int64_t task, int64_t last) {
    Lines<A> scratch;
    for (; task < last; ++task) {
      const int64_t n = task / blocks, first_channel = task % blocks * block;
      const int64_t channels = std::min<int64_t>(block, args.channels - first_channel);
      sum_into(grad_input + (n * args.channels + first_channel) * cells, channels * cells, scratch, [&](A* sums) {
        for (int64_t i = plan.order.image_first[n]; i < plan.order.image_first[n + 1]; ++i) {
          const int64_t r = plan.order.order[i];
          if (plan.cells[r].empty()) continue;
          const T* grad = grad_output + r * grad_strides.image + first_channel * grad_strides.channel;
          const int32_t* where = argmax + r * argmax_strides.image + first_channel * argmax_strides.channel;
          for (int64_t c = 0; c < channels; ++c)
            add_at_maxima(grad + c * grad_strides.channel, grad_strides.column, where + c * argmax_strides.channel,
                          argmax_strides.column, bins, 0, cells, sums + c * cells, 1, 0);
        }
      });
    }
  });
}

template <class T, class A>
void backward_rows(const T* grad_output, MapStrides grad_strides, const int32_t* argmax, MapStrides argmax_strides,
                   const Plan<A>& plan, T* grad_input, const RoiPool& args) {
  // A bin on the border of two tasks is read by both: few tasks, and none of less than eight rows.
  const int64_t wanted = ceil_div(4 * num_threads(), args.images);
  const int64_t rows = ceil_div(args.height, std::clamp<int64_t>(args.height / 8, 1, wanted));
  const int64_t bands = ceil_div(args.height, rows), row_size = int64_t(args.width) * args.channels;
  parallel_for(args.images * bands, 1, [&](int64_t task, int64_t last) {
    Lines<A> scratch;
    for (; task < last; ++task) {
      const int64_t n = task / bands, top = task % bands * rows, bottom = std::min<int64_t>(top + rows, args.height);
      T* band = grad_input + (n * args.height + top) * row_size;
      sum_into(band, (bottom - top) * row_size, scratch, [&](A* sums) {
        for (int64_t i = plan.order.image_first[n]; i < plan.order.image_first[n + 1]; ++i) {
          const int64_t r = plan.order.order[i];
          if (plan.cells[r].empty()) continue;
          const CellRange* y = plan.of(r, args);
          const T* grad = grad_output + r * grad_strides.image;
          const int32_t* where = argmax + r * argmax_strides.image;
          for (int64_t bin = 0; bin < int64_t(args.pooled_height) * args.pooled_width; ++bin) {
            const CellRange in = y[bin / args.pooled_width];
            if (in.last <= top || in.first >= bottom) continue;
            add_at_maxima(grad + bin * grad_strides.column, grad_strides.channel, where + bin * argmax_strides.column,
                          argmax_strides.channel, args.channels, top * args.width, (bottom - top) * args.width, sums,
                          args.channels, 1);
          }
        }
      });
    }
  });
}

template <class T, class A>
void backward(const T* grad_output, MapStrides grad_strides, const int32_t* argmax, MapStrides argmax_strides,
              const Plan<A>& plan, T* grad_input, bool channels_last, const RoiPool& args) {
  const int64_t count = args.images * args.channels * args.height * args.width;
  prefer_huge_pages(grad_input, static_cast<size_t>(count) * sizeof(T));
  const auto sum = channels_last ? backward_rows<T, A> : backward_planes<T, A>;
  sum(grad_output, grad_strides, argmax, argmax_strides, plan, grad_input, args);
}

}  // namespace SIMD_LEVEL
}  // namespace maskrcnn_ops
