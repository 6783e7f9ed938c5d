#include "common/dispatcher.h"

#include <array>

namespace maskrcnn_ops {
namespace {

using torch::stable::detail::from;
using torch::stable::detail::to;

template <size_t n>
Tensor call(const char* name, const char* overload, std::array<StableIValue, n> stack) {
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION));
  return to<Tensor>(stack[0]);
}

}  // namespace

Tensor stable_argsort(const Tensor& values, bool descending) {
  return call<4>("aten::argsort", "stable", {from(values), from(true), from(int64_t(-1)), from(descending)});
}

Tensor take(const Tensor& values, const Tensor& indices) {
  return call<3>("aten::index_select", "", {from(values), from(int64_t(0)), from(indices)});
}

}  // namespace maskrcnn_ops
