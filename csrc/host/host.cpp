// The Python helper module: what speaks Python objects, not tensors. No torch.

#include <pybind11/pybind11.h>

#include "common/simd.h"
#include "host/rle.h"

PYBIND11_MODULE(_host, m) {
  m.doc() = "Build information and helpers for Python objects.";
  m.attr("version") = MASKRCNN_OPS_VERSION;
  m.attr("built_torch") = MASKRCNN_OPS_BUILT_TORCH;
  m.attr("cuda_version") = MASKRCNN_OPS_CUDA_VERSION;  // empty: built without CUDA kernels
  m.attr("cuda_architectures") = MASKRCNN_OPS_CUDA_ARCHS;
  maskrcnn_ops::bind_rle(m);
  m.attr("simd_level") = maskrcnn_ops::simd_level_name();
}
