// Threads of the kernels in the C++ tests: none, in chunks as a pool would make them.

#include "common/threads.h"

#include <algorithm>

namespace maskrcnn_ops {

void run_parallel(int64_t count, int64_t grain, void (*body)(int64_t, int64_t, void*), void* context) {
  const int64_t chunk = std::max<int64_t>(grain, (count + 2) / 3);
  for (int64_t begin = 0; begin < count; begin += chunk) body(begin, std::min(begin + chunk, count), context);
}

int num_threads() { return 3; }

}  // namespace maskrcnn_ops
