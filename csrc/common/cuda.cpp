// Compiled only with CUDA.
#include "common/cuda.h"

#include <cuda_runtime_api.h>

// Declared weak: absent beside a CPU-only torch, where no CUDA tensor can exist.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

namespace maskrcnn_ops {

CudaScope::CudaScope(const Tensor& tensor) {
  CHECK_ARG(aoti_torch_get_current_cuda_stream != nullptr,
            "maskrcnn_ops: a CUDA tensor came, but this torch was built without CUDA");
  const int device = tensor.get_device_index();
  int current = device;
  check_cuda(cudaGetDevice(&current), "maskrcnn_ops");
  if (current != device) {
    check_cuda(cudaSetDevice(device), "maskrcnn_ops");
    previous_ = current;
  }
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream_));
}

CudaScope::~CudaScope() {
  if (previous_ >= 0) cudaSetDevice(previous_);
}

void check_cuda(int error, const char* op) {
  CHECK_ARG(error == cudaSuccess, op, ": CUDA error: ", cudaGetErrorString(static_cast<cudaError_t>(error)));
}

}  // namespace maskrcnn_ops
