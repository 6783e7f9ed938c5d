#pragma once

// How an operator reaches its CUDA launchers. Launchers are torch-free: they take raw pointers and a stream and
// return a cudaError_t (as int, so that this header needs no CUDA). In a build without CUDA the launchers do not
// exist and LAUNCH_CUDA raises instead; nothing else differs between the two builds.

#include "common/tensors.h"

namespace maskrcnn_ops {

// Whether the CUDA kernels are to run. Emulated (tests/cuda_emulation), they run on the CPU's tensors.
inline bool on_cuda([[maybe_unused]] const Tensor& tensor) {
#ifdef MASKRCNN_OPS_EMULATED_CUDA
  return true;
#else
  return tensor.is_cuda();
#endif
}

#ifdef MASKRCNN_OPS_WITH_CUDA

// Makes the tensor's device current for its lifetime and finds torch's stream there.
class CudaScope {
 public:
  explicit CudaScope(const Tensor& tensor);
  ~CudaScope();
  CudaScope(const CudaScope&) = delete;
  CudaScope& operator=(const CudaScope&) = delete;
  void* stream() const { return stream_; }

 private:
  void* stream_ = nullptr;
  int previous_ = -1;
};

void check_cuda(int error, const char* op);

#define LAUNCH_CUDA(op, tensor, launcher, ...)                             \
  do {                                                                     \
    const ::maskrcnn_ops::CudaScope scope(tensor);                         \
    ::maskrcnn_ops::check_cuda(launcher(__VA_ARGS__, scope.stream()), op); \
  } while (0)

#else

#define LAUNCH_CUDA(op, tensor, launcher, ...)                                                 \
  ::maskrcnn_ops::raise(op,                                                                    \
                        ": this build of maskrcnn_ops has no CUDA kernels; reinstall it with " \
                        "MASKRCNN_OPS_CUDA=1 and nvcc on the PATH")

#endif

}  // namespace maskrcnn_ops
