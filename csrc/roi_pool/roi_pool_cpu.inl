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
  prefer_huge_pages(output, outputs * sizeof(T));
  prefer_huge_pages(argmax, outputs * sizeof(int32_t));
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
        if (!whole && !patch.empty()) gather_cells(map, input_strides, channels, patch, lines);
        const RoiCells& held = whole ? band : patch;
        const CellRange* ranges = plan.of(r, args);
        pool(View<A>{lines, held.right - held.left, held.top, held.left}, ranges, ranges + args.pooled_height, args,
             values.data(), positions.data());
        const int64_t offset = r * output_strides.image + first_channel * output_strides.channel;
        scatter_lines(values.data(), output + offset, output_strides.channel, output_strides.column, channels, bins);
        scatter_positions<block>(positions.data(), argmax + offset, output_strides.channel, output_strides.column,
                                 channels, bins);
      }
    }
  });
}

// target[argmax[k] * cell_step + k * item_step] += grad[k] for the gradients at steps of one tensor.
template <class T, class A>
SIMD_INLINE void add_at_maxima(const T* grad, int64_t grad_step, const int32_t* argmax, int64_t argmax_step,
                               int64_t count, uint32_t cells, A* target, int64_t cell_step, int64_t item_step) {
  for (int64_t k = 0; k < count; ++k) {
    const uint32_t cell = static_cast<uint32_t>(argmax[k * argmax_step]);
    if (cell < cells) target[cell * cell_step + k * item_step] += widen(grad[k * grad_step]);
  }
}

template <class T, class A>
SIMD_INLINE void narrow_to(const A* from, T* to, int64_t count) {
  constexpr int lanes = lane_count<A>;
  int64_t k = 0;
  for (; k + lanes <= count; k += lanes) store(to + k, load(from + k));
  for (; k < count; ++k) to[k] = narrow<T>(from[k]);
}

// The gradient is dense, contiguous or channels_last. A task's sums lie as it does, and where it has their type in its
// place. Where channels lie side by side a task takes several lines of them: memory likes longer pieces.
template <class T, class A>
void backward(const T* grad_output, MapStrides grad_strides, const int32_t* argmax, MapStrides argmax_strides,
              const Plan<A>& plan, T* grad_input, MapStrides input_strides, const RoiPool& args) {
  constexpr int64_t block = line_size<A>, most_lines = 4;
  const bool by_lines = input_strides.channel == 1;
  const int64_t lines_a_thread = ceil_div(args.images * args.channels, num_threads() * block);
  const int64_t width = by_lines ? block * std::min(most_lines, lines_a_thread) : block;
  const int64_t blocks = ceil_div(args.channels, width), bins = int64_t(args.pooled_height) * args.pooled_width;
  const int64_t cells = int64_t(args.height) * args.width;
  prefer_huge_pages(grad_input, static_cast<size_t>(args.images * args.channels * cells) * sizeof(T));
  parallel_for(args.images * blocks, 1, [&](int64_t task, int64_t last) {
    Lines<A> plane;
    for (; task < last; ++task) {
      const int64_t n = task / blocks, first_channel = task % blocks * width;
      const int64_t channels = std::min<int64_t>(width, args.channels - first_channel);
      T* map = grad_input + n * input_strides.image + first_channel * input_strides.channel;
      constexpr bool in_place = std::is_same_v<T, A>;
      A* sums;
      if constexpr (in_place) sums = map;
      else sums = plane.get(cells * (width / block));
      // By lines the numbers of a cell are together and cells `step` apart; else the numbers of a channel.
      const int64_t step = !by_lines ? cells : in_place ? input_strides.column : width;
      const int64_t pieces = by_lines ? cells : channels, piece = by_lines ? channels : cells;
      for (int64_t k = 0; k < pieces; ++k) std::fill_n(sums + k * step, piece, A(0));
      for (int64_t i = plan.order.image_first[n]; i < plan.order.image_first[n + 1]; ++i) {
        const int64_t r = plan.order.order[i];
        if (plan.cells[r].empty()) continue;
        const T* grad = grad_output + r * grad_strides.image + first_channel * grad_strides.channel;
        const int32_t* where = argmax + r * argmax_strides.image + first_channel * argmax_strides.channel;
        if (by_lines)
          for (int64_t bin = 0; bin < bins; ++bin)
            add_at_maxima(grad + bin * grad_strides.column, grad_strides.channel, where + bin * argmax_strides.column,
                          argmax_strides.channel, channels, cells, sums, step, 1);
        else
          for (int64_t c = 0; c < channels; ++c)
            add_at_maxima(grad + c * grad_strides.channel, grad_strides.column, where + c * argmax_strides.channel,
                          argmax_strides.column, bins, cells, sums + c * step, 1, 0);
      }
      if constexpr (!in_place)
        for (int64_t k = 0; k < pieces; ++k)
          narrow_to(sums + k * step, map + k * (by_lines ? input_strides.column : cells), piece);
    }
  });
}

}  // namespace SIMD_LEVEL
}  // namespace maskrcnn_ops
