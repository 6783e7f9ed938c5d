#include "common/tensors.h"

#include <algorithm>
#include <numeric>

namespace maskrcnn_ops {

Shape sizes_of(const Tensor& tensor) {
  Shape sizes(tensor.dim());
  for (size_t i = 0; i < sizes.size(); ++i) sizes[i] = tensor.size(static_cast<int64_t>(i));
  return sizes;
}

std::string shape_of(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

std::string shape_of(const Tensor& tensor) { return shape_of(sizes_of(tensor)); }

std::string type_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::Half: return "float16";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Bool: return "bool";
    case ScalarType::Byte: return "uint8";
    case ScalarType::Char: return "int8";
    case ScalarType::Short: return "int16";
    case ScalarType::Int: return "int32";
    case ScalarType::Long: return "int64";
    default: return "dtype number " + std::to_string(static_cast<int>(tensor.scalar_type()));
  }
}

std::string device_of(const Tensor& tensor) {
  if (tensor.is_cpu()) return "cpu";
  return (tensor.is_cuda() ? "cuda:" : "device ") + std::to_string(tensor.get_device_index());
}

void check_floating(const Tensor& tensor, const char* op, const char* argument) {
  const ScalarType type = tensor.scalar_type();
  CHECK_ARG(type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half ||
                type == ScalarType::BFloat16,
            op, ": expected ", argument, " of dtype float16, bfloat16, float32 or float64, got ", type_of(tensor));
}

void check_same_device(const Tensor& a, const Tensor& b, const char* op, const char* a_name, const char* b_name) {
  CHECK_ARG(device_of(a) == device_of(b), op, ": expected ", a_name, " and ", b_name, " on one device, got ",
            device_of(a), " and ", device_of(b));
}

Tensor as_contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

Tensor as_contiguous(const Tensor& tensor, ScalarType type) {
  return as_contiguous(tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type));
}

Tensor as_coordinates(const Tensor& tensor, const char* op, const char* argument) {
  check_floating(tensor, op, argument);
  return as_contiguous(tensor, tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float);
}

bool is_channels_last(const Tensor& map) {
  if (map.is_contiguous()) return false;
  int64_t expected = 1;
  for (int64_t dim : {1, 3, 2, 0}) {
    if (map.size(dim) != 1 && map.stride(dim) != expected) return false;
    expected *= map.size(dim);
  }
  return true;
}

Tensor as_dense(const Tensor& map) { return is_channels_last(map) ? map : as_contiguous(map); }

namespace {

// `order` names the dimensions from the innermost outwards.
Tensor empty_strided(const Tensor& like, const Shape& shape, const Shape& order, ScalarType type) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  Shape strides(shape.size());
  int64_t stride = 1;
  for (const int64_t dim : order) {
    strides[dim] = stride;
    stride *= std::max<int64_t>(shape[dim], 1);
  }
  int32_t device_type, device_index;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle made;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.data(),
                                                         strides.data(), to<int32_t>(from(type)), device_type,
                                                         device_index, &made));
  return Tensor(made);
}

}  // namespace

Tensor empty(const Tensor& like, const Shape& shape, ScalarType type) {
  Shape order(shape.size());
  std::iota(order.rbegin(), order.rend(), 0);
  return empty_strided(like, shape, order, type);
}

Tensor empty(const Tensor& like, const Shape& shape) { return empty(like, shape, like.scalar_type()); }

Tensor empty_map(const Tensor& like, const Shape& shape, bool channels_last, ScalarType type) {
  return empty_strided(like, shape, channels_last ? Shape{1, 3, 2, 0} : Shape{3, 2, 1, 0}, type);
}

Tensor empty_map(const Tensor& like, const Shape& shape, bool channels_last) {
  return empty_map(like, shape, channels_last, like.scalar_type());
}

}  // namespace maskrcnn_ops
