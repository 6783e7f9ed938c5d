// In place of csrc/common/cuda.cpp: the device is the CPU, and it has one stream.
#include "common/cuda.h"

namespace maskrcnn_ops {

CudaScope::CudaScope(const Tensor&) {}

CudaScope::~CudaScope() {}

void check_cuda(int error, const char* op) { CHECK_ARG(error == 0, op, ": CUDA error ", error); }

}  // namespace maskrcnn_ops
