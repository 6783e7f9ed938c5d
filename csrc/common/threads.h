#pragma once

// Threads for the torch-free CPU kernels. The library runs them on torch's pool (threads.cpp), so
// torch.set_num_threads holds; the C++ tests link their own definitions.

#include <cstdint>

namespace maskrcnn_ops {

void run_parallel(int64_t count, int64_t grain, void (*body)(int64_t, int64_t, void*), void* context);
int num_threads();

// Calls body(begin, end) over [0, count) in chunks of at least `grain`. The body must not throw: validate first.
template <class Body>
void parallel_for(int64_t count, int64_t grain, const Body& body) {
  if (count <= 0) return;
  auto call = [](int64_t begin, int64_t end, void* context) { (*static_cast<const Body*>(context))(begin, end); };
  run_parallel(count, grain, call, const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace maskrcnn_ops
