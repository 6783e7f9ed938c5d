#include "common/tensors.h"

namespace maskrcnn_ops {

std::string shape_of(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t i = 0; i < tensor.dim(); ++i) text += (i ? ", " : "") + std::to_string(tensor.size(i));
  return text + "]";
}

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

Tensor empty_map(const Tensor& like, int64_t n, int64_t c, int64_t h, int64_t w, bool channels_last) {
  using torch::headeronly::MemoryFormat;
  return torch::stable::empty({n, c, h, w}, like.scalar_type(), std::nullopt, like.device(), std::nullopt,
                              channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

}  // namespace maskrcnn_ops
