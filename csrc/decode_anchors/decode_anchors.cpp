#include "decode_anchors/decode_anchors.h"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "common/cuda.h"
#include "common/tensors.h"

namespace maskrcnn_ops {
namespace {

using Tensors = std::vector<Tensor>;

struct Options {
  int64_t top_k;
  double min_size, score_threshold;
  std::vector<double> strides, weights;
  double clip;
};

// The maps as the kernels read them: contiguous or channels_last.
struct Inputs {
  Tensors logits, deltas, cells;
  Tensor image_sizes;
};

Tensor native_layout(const Tensor& map) { return is_channels_last(map) ? map : as_contiguous(map); }

Inputs check_inputs(const char* op, const Tensors& objectness, const Tensors& deltas, const Tensors& cell_anchors,
                    const Tensor& image_sizes, const Options& options) {
  const size_t levels = objectness.size();
  CHECK_ARG(levels >= 1 && levels <= most_grids, op, ": expected between 1 and ", most_grids,
            " maps of objectness, got ", levels);
  CHECK_ARG(deltas.size() == levels && cell_anchors.size() == levels && options.strides.size() == 2 * levels, op,
            ": expected deltas, cell_anchors and a (y, x) pair of strides for each of ", levels, " levels, got ",
            deltas.size(), ", ", cell_anchors.size(), " and ", options.strides.size(), " numbers");
  CHECK_ARG(options.top_k >= 0, op, ": expected top_k of at least 0, got ", options.top_k);
  CHECK_ARG(options.weights.size() == 4, op, ": expected weights of 4 numbers (dx, dy, dw, dh), got ",
            options.weights.size());
  CHECK_ARG(options.min_size == options.min_size, op, ": expected a min_size that is a number, got nan");
  CHECK_ARG(options.score_threshold == options.score_threshold, op,
            ": expected a score_threshold that is a number, got nan");
  const Tensor& first = objectness[0];
  check_floating(first, op, "objectness");
  const ScalarType type = first.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  Inputs in{{}, {}, {}, image_sizes};
  for (size_t l = 0; l < levels; ++l) {
    const Tensor &logits = objectness[l], &codes = deltas[l], &cells = cell_anchors[l];
    CHECK_ARG(logits.dim() == 4 && logits.size(0) == objectness[0].size(0), op,
              ": expected objectness of shape [N, A, H, W] with one N for all levels, got ", shape_of(logits));
    CHECK_ARG(codes.dim() == 4 && codes.size(0) == logits.size(0) && codes.size(1) == 4 * logits.size(1) &&
                  codes.size(2) == logits.size(2) && codes.size(3) == logits.size(3),
              op, ": expected deltas of shape [", logits.size(0), ", ", 4 * logits.size(1), ", ", logits.size(2), ", ",
              logits.size(3), "], got ", shape_of(codes));
    CHECK_ARG(cells.dim() == 2 && cells.size(0) == logits.size(1) && cells.size(1) == 4, op,
              ": expected cell_anchors of shape [", logits.size(1), ", 4], got ", shape_of(cells));
    CHECK_ARG(logits.numel() / std::max<int64_t>(1, logits.size(0)) < int64_t(1) << 32, op,
              ": expected fewer than 2^32 anchors a level, got ", shape_of(logits));
    CHECK_ARG(logits.scalar_type() == first.scalar_type() && codes.scalar_type() == first.scalar_type(), op,
              ": expected objectness and deltas of one dtype, got ", type_of(first), ", ", type_of(logits), " and ",
              type_of(codes));
    check_floating(cells, op, "cell_anchors");
    check_same_device(first, logits, op, "objectness", "objectness");
    check_same_device(first, codes, op, "objectness", "deltas");
    check_same_device(first, cells, op, "objectness", "cell_anchors");
    in.logits.push_back(native_layout(logits));
    in.deltas.push_back(native_layout(codes));
    in.cells.push_back(as_contiguous(cells, type));
  }
  CHECK_ARG(image_sizes.dim() == 2 && image_sizes.size(0) == first.size(0) && image_sizes.size(1) == 2, op,
            ": expected image_sizes of shape [", first.size(0), ", 2], got ", shape_of(image_sizes));
  check_same_device(first, image_sizes, op, "objectness", "image_sizes");
  in.image_sizes = as_contiguous(image_sizes, type);
  return in;
}

// The least logit whose probability reaches the threshold.
double logit_of(double threshold) {
  if (threshold <= 0) return -INFINITY;
  return threshold > 1 ? NAN : threshold == 1 ? INFINITY : std::log(threshold / (1 - threshold));
}

template <class T>
ProposalArgs<T> args_of(const Inputs& in, const Options& options) {
  using A = Acc<T>;
  ProposalArgs<T> args{};
  args.level_count = static_cast<int>(in.logits.size());
  args.images = in.logits[0].size(0);
  args.min_size = static_cast<A>(options.min_size);
  args.least_logit = static_cast<A>(logit_of(options.score_threshold));
  for (int j = 0; j < 4; ++j) args.coder.weights[j] = static_cast<A>(options.weights[j]);
  args.coder.clip = static_cast<A>(options.clip);
  for (int l = 0; l < args.level_count; ++l) {
    ProposalLevel<T>& level = args.levels[l];
    const Tensor &logits = in.logits[l], &deltas = in.deltas[l];
    level.logits = pointer<T>(logits);
    level.deltas = pointer<T>(deltas);
    level.logits_last = is_channels_last(logits);
    level.deltas_last = is_channels_last(deltas);
    level.grid = {pointer<A>(in.cells[l]),
                  logits.size(2),
                  logits.size(3),
                  logits.size(1),
                  static_cast<A>(options.strides[2 * l]),
                  static_cast<A>(options.strides[2 * l + 1])};
    level.kept = std::min(options.top_k, level.grid.size());
    level.first = args.slots;
    args.slots += level.kept;
  }
  return args;
}

using Result = std::tuple<Tensor, Tensor, Tensor, Tensor>;

Result decode_anchors(const Tensors& objectness, const Tensors& deltas, const Tensors& cell_anchors,
                      const std::vector<double>& strides, const Tensor& image_sizes, int64_t top_k, double min_size,
                      double score_threshold, const std::vector<double>& weights, double clip) {
  const char* op = "decode_anchors";
  const Options options{top_k, min_size, score_threshold, strides, weights, clip};
  const Inputs in = check_inputs(op, objectness, deltas, cell_anchors, image_sizes, options);
  Result result{in.image_sizes, in.image_sizes, in.image_sizes, in.image_sizes};
  with_element_type(in.logits[0], [&](auto element) {
    using T = decltype(element);
    using A = Acc<T>;
    const ProposalArgs<T> args = args_of<T>(in, options);
    const Tensor& like = in.image_sizes;
    auto& [boxes, scores, levels, counts] = result;
    boxes = empty(like, {args.images, args.slots, 4});
    scores = empty(like, {args.images, args.slots});
    levels = empty(like, {args.images, args.slots}, ScalarType::Long);
    counts = empty(like, {args.images}, ScalarType::Long);
    if (args.images == 0) return;
    const Proposals<A> out{mutable_pointer<A>(boxes), mutable_pointer<A>(scores), mutable_pointer<int64_t>(levels),
                           mutable_pointer<int64_t>(counts)};
    if (on_cuda(like)) {
      int64_t largest = 1;
      for (int l = 0; l < args.level_count; ++l) largest = std::max(largest, sorted_size(args.levels[l].kept));
      const int64_t bytes = args.images * args.level_count * largest * sizeof(Candidate<FallingKey<A>>);
      const Tensor chosen = empty(like, {args.images * args.slots}, ScalarType::Int);
      const Tensor candidates = empty(like, {bytes}, ScalarType::Byte);
      LAUNCH_CUDA(op, like, decode_anchors_cuda<T>, args, pointer<A>(like), out, mutable_pointer<uint32_t>(chosen),
                  candidates.mutable_data_ptr());
    } else {
      decode_anchors_cpu(args, pointer<A>(like), out);
    }
  });
  return result;
}

void register_kernels(torch::stable::detail::StableLibrary& m) { m.impl("decode_anchors", TORCH_BOX(&decode_anchors)); }

}  // namespace
}  // namespace maskrcnn_ops

STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CPU, m) { maskrcnn_ops::register_kernels(m); }
STABLE_TORCH_LIBRARY_IMPL(maskrcnn_ops, CUDA, m) { maskrcnn_ops::register_kernels(m); }
