#pragma once

// Large outputs are fresh memory, and most of their cost is the system handing out its pages one by one, 4 KB each.

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace maskrcnn_ops {

// Asks for huge pages under a block of memory that is about to be written whole. A hint: nothing else changes, and
// where the system has none to give, nothing at all.
inline void prefer_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t huge = uintptr_t(1) << 21;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + huge - 1) / huge * huge;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + bytes) / huge * huge;
  // Smaller blocks are mostly memory that was used before.
  if (bytes >= 8 * huge && begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace maskrcnn_ops
