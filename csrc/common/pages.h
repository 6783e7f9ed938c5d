#pragma once

// Huge pages under large results. A fresh tensor of tens of megabytes costs more in page faults than in writing it;
// where the system leaves the choice to the program (transparent_hugepage = madvise, the usual setting), asking for
// 2 MiB pages makes a first pass over it about three times faster.

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace maskrcnn_ops {

// Advice only: small buffers are left alone, and a refusal changes nothing but the time.
inline void prefer_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = size_t(2) << 20;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(data) + bytes) / page * page;
  if (last >= first + 2 * page) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

}  // namespace maskrcnn_ops
