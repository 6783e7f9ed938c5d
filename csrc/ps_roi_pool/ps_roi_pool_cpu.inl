#include "common/planes.inl"

namespace maskrcnn_ops {
namespace SIMD_LEVEL {

// One task: one bin and one block of output channels of one image, and their channels of the map.
struct BinTask {
  int64_t image, bin, first_channel, channels;
  int ph, pw;

  static int64_t blocks(const PsRoiPool& args, int64_t block) { return ceil_div(args.channels, block); }
  static int64_t count(const PsRoiPool& args, int64_t block) { return args.images * blocks(args, block) * args.bins(); }
  BinTask(int64_t task, const PsRoiPool& args, int64_t block)
      : image(task / args.bins() / blocks(args, block)),
        bin(task % args.bins()),
        first_channel(task / args.bins() % blocks(args, block) * block),
        channels(std::min<int64_t>(block, args.channels - first_channel)),
        ph(static_cast<int>(bin) / args.pooled_width),
        pw(static_cast<int>(bin) % args.pooled_width) {}

  int64_t in_map(const PsRoiPool& args, MapStrides in) const {
    return image * in.image + (first_channel * args.bins() + bin) * in.channel;
  }
  int64_t in_pooled(int64_t r, MapStrides out) const {
    return r * out.image + first_channel * out.channel + ph * out.row + pw * out.column;
  }
};

// The taps of one bin, and what their sum is divided by.
template <class A>
struct BinTaps {
  const TapEntry<A>*y, *y_end, *x, *x_end;
  A divisor;

  BinTaps(const AxisTaps<A>& down, const AxisTaps<A>& across, int ph, int pw)
      : y(down.entries.data() + down.first[ph]),
        y_end(down.entries.data() + down.first[ph + 1]),
        x(across.entries.data() + across.first[pw]),
        x_end(across.entries.data() + across.first[pw + 1]),
        divisor(down.divisor[ph] * across.divisor[pw]) {}

  // Calls visit(row, column, weight) for every tap.
  template <class Visit>
  SIMD_INLINE void for_each(const Visit& visit) const {
    for (const TapEntry<A>* i = y; i < y_end; ++i)
      for (const TapEntry<A>* j = x; j < x_end; ++j) visit(i->cell, j->cell, i->weight * j->weight);
  }
};

// The mean of one bin for a line of channels, from the rows of the map that begin with `lines`.
template <class A>
SIMD_INLINE void mean_of_lines(const A* lines, int64_t first_row, int64_t width, const BinTaps<A>& taps, A* mean) {
  constexpr int64_t block = line_size<A>;
  constexpr int lanes = lane_count<A>;
  Lanes<A> low{}, high{};
  taps.for_each([&](int64_t row, int64_t column, A weight) {
    const A* cell = lines + ((row - first_row) * width + column) * block;
    low += weight * load(cell);
    high += weight * load(cell + lanes);
  });
  store(mean, low / taps.divisor);
  store(mean + lanes, high / taps.divisor);
}

// The same for one channel, from the map itself.
template <class T, class A>
SIMD_INLINE A mean_of_cells(const T* map, MapStrides in, const BinTaps<A>& taps) {
  A sum = A(0);
  taps.for_each([&](int64_t row, int64_t column, A weight) {
    sum += weight * static_cast<A>(widen(map[row * in.row + column * in.column]));
  });
  return sum / taps.divisor;
}

template <class T, class A>
void forward(const T* input, MapStrides in, const Plan<A>& plan, T* output, MapStrides out, const PsRoiPool& args) {
  constexpr int64_t block = line_size<A>;
  prefer_huge_pages(output, static_cast<size_t>(args.rois * args.channels * args.bins()) * sizeof(T));
  std::vector<RoiExtent> extents;
  for (int64_t n = 0; n < args.images; ++n)
    extents.emplace_back(plan.cells, plan.order, plan.order.image_first[n], plan.order.image_first[n + 1]);
  parallel_for(BinTask::count(args, block), 1, [&](int64_t task, int64_t last) {
    Lines<A> plane;
    A mean[block];
    for (; task < last; ++task) {
      const BinTask at(task, args, block);
      const T* map = input + at.in_map(args, in);
      const RoiExtent& extent = extents[at.image];
      const int64_t first_row = extent.first_row, cells = extent.rows * args.width;
      const bool by_lines = extent.patch_cells * at.channels > 4 * cells * args.bins();
      A* const lines = by_lines ? plane.get(cells) : nullptr;
      for (int64_t y = 0; by_lines && y < extent.rows; ++y)
        gather_lines(map + (first_row + y) * in.row, args.bins() * in.channel, in.column, at.channels, args.width,
                     lines + y * args.width * block);
      for (int64_t i = plan.order.image_first[at.image]; i < plan.order.image_first[at.image + 1]; ++i) {
        const int64_t r = plan.order.order[i];
        T* const target = output + at.in_pooled(r, out);
        if (plan.cells[r].empty()) {
          for (int64_t c = 0; c < at.channels; ++c) target[c * out.channel] = narrow<T>(A(0));
          continue;
        }
        const BinTaps<A> taps(plan.y[r], plan.x[r], at.ph, at.pw);
        if (by_lines) {
          mean_of_lines(lines, first_row, args.width, taps, mean);
          scatter_lines(mean, target, out.channel, 0, at.channels, 1);
        } else {
          for (int64_t c = 0; c < at.channels; ++c)
            target[c * out.channel] = narrow<T>(mean_of_cells(map + c * args.bins() * in.channel, in, taps));
        }
      }
    }
  });
}

template <class T, class A>
void backward(const T* grad_output, MapStrides out, const Plan<A>& plan, T* grad_input, MapStrides in,
              const PsRoiPool& args) {
  constexpr int64_t block = line_size<A>;
  constexpr int lanes = lane_count<A>;
  const int64_t cells = int64_t(args.height) * args.width;
  prefer_huge_pages(grad_input, static_cast<size_t>(args.images * args.channels * args.bins() * cells) * sizeof(T));
  parallel_for(BinTask::count(args, block), 1, [&](int64_t task, int64_t last) {
    Lines<A> plane;
    A grad[block];
    for (; task < last; ++task) {
      const BinTask at(task, args, block);
      A* const lines = plane.get(cells);
      __builtin_memset(lines, 0, static_cast<size_t>(cells) * 64);
      for (int64_t i = plan.order.image_first[at.image]; i < plan.order.image_first[at.image + 1]; ++i) {
        const int64_t r = plan.order.order[i];
        if (plan.cells[r].empty()) continue;
        const BinTaps<A> taps(plan.y[r], plan.x[r], at.ph, at.pw);
        gather_lines(grad_output + at.in_pooled(r, out), out.channel, 0, at.channels, 1, grad);
        const Lanes<A> low = load(grad) / taps.divisor, high = load(grad + lanes) / taps.divisor;
        taps.for_each([&](int64_t row, int64_t column, A weight) {
          A* cell = lines + (row * args.width + column) * block;
          store(cell, load(cell) + weight * low);
          store(cell + lanes, load(cell + lanes) + weight * high);
        });
      }
      scatter_lines(lines, grad_input + at.in_map(args, in), args.bins() * in.channel, in.column, at.channels, cells);
    }
  });
}

}  // namespace SIMD_LEVEL
}  // namespace maskrcnn_ops
