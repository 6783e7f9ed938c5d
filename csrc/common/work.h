#pragma once

// Scratch memory and counting for CPU kernels that work on lines (planes.inl).

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace maskrcnn_ops {

// Channels per line: a line is 64 bytes, one cache line, of the accumulation type.
template <class A>
constexpr int64_t line_size = 64 / sizeof(A);

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Uninitialised lines, reused from task to task: fresh pages would cost more than the work on them. Never null, also
// for none: memset and memcpy must not be given null even then.
template <class A>
class Lines {
 public:
  A* get(int64_t lines) {
    if (lines > capacity_) {
      memory_.reset(static_cast<A*>(::operator new(static_cast<size_t>(lines) * 64, std::align_val_t(64))));
      capacity_ = lines;
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(A* p) const { ::operator delete(p, std::align_val_t(64)); }
  };
  std::unique_ptr<A, Free> memory_;
  int64_t capacity_ = -1;
};

}  // namespace maskrcnn_ops
