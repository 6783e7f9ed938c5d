#pragma once

// What operators need of torch, through its stable ABI: checks, element types, layouts. Only the operator files
// (x/x.cpp) include this; kernels see raw pointers.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/scalar.h"

namespace maskrcnn_ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Shape = std::vector<int64_t>;

// Error grammar: `roi_align: expected rois of shape [R, 5], got [7, 4]`. Not STD_TORCH_CHECK, whose messages begin
// with the place in our sources.
#define CHECK_ARG(condition, ...)                         \
  do {                                                    \
    if (!(condition)) ::maskrcnn_ops::raise(__VA_ARGS__); \
  } while (0)

template <class... Parts>
[[noreturn]] void raise(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

Shape sizes_of(const Tensor& tensor);
std::string shape_of(const Shape& shape);
std::string shape_of(const Tensor& tensor);
std::string type_of(const Tensor& tensor);
std::string device_of(const Tensor& tensor);

// float16, bfloat16, float32 or float64, else an error that names operator and argument.
void check_floating(const Tensor& tensor, const char* op, const char* argument);
void check_same_device(const Tensor& a, const Tensor& b, const char* op, const char* a_name, const char* b_name);

// The tensor, copied only where it is not contiguous (of that type) already: torch's own functions look an operator up
// by its name even then.
Tensor as_contiguous(const Tensor& tensor);
Tensor as_contiguous(const Tensor& tensor, ScalarType type);

// Coordinates are float32 or float64; half-precision ones are widened. Contiguous.
Tensor as_coordinates(const Tensor& tensor, const char* op, const char* argument);

// Contiguous in memory as [N, H, W, C], and not at the same time as [N, C, H, W].
bool is_channels_last(const Tensor& map);
// The same values contiguous or channels_last: the bins of one channel lie at one step.
Tensor as_dense(const Tensor& map);

// New memory on the device of `like`, by default of its type. By torch's C function: torch::stable::empty and new_empty
// look an operator up by its name, which takes longer than many a kernel.
Tensor empty(const Tensor& like, const Shape& shape, ScalarType type);
Tensor empty(const Tensor& like, const Shape& shape);
// [N, C, H, W], in memory also as [N, H, W, C].
Tensor empty_map(const Tensor& like, const Shape& shape, bool channels_last, ScalarType type);
Tensor empty_map(const Tensor& like, const Shape& shape, bool channels_last);

// Calls function(T{}) with the kernel's type for the tensor's floating-point dtype.
template <class Function>
void with_element_type(const Tensor& tensor, const Function& function) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return function(float{});
    case ScalarType::Double: return function(double{});
    case ScalarType::Half: return function(Half{});
    case ScalarType::BFloat16: return function(BFloat16{});
    default: raise("maskrcnn_ops: unexpected dtype ", type_of(tensor));
  }
}

template <class Function>
void with_coordinate_type(const Tensor& tensor, const Function& function) {
  if (tensor.scalar_type() == ScalarType::Double) return function(double{});
  function(float{});
}

template <class T>
const T* pointer(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <class T>
T* mutable_pointer(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

}  // namespace maskrcnn_ops
