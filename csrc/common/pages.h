#pragma once

// Large outputs are fresh memory, and most of their cost is the system handing out its pages one by one, 4 KB each.

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "common/threads.h"

namespace maskrcnn_ops {

// The huge pages that lie wholly in a block of memory; of a small block, mostly memory that was used before, none.
struct HugePages {
  static constexpr uintptr_t size = uintptr_t(1) << 21;
  uintptr_t begin = 0, end = 0;

  HugePages(void* memory, size_t bytes) {
    if (bytes < 8 * size) return;
    begin = (reinterpret_cast<uintptr_t>(memory) + size - 1) / size * size;
    end = (reinterpret_cast<uintptr_t>(memory) + bytes) / size * size;
  }
};

// Asks for huge pages under a block of memory that is about to be written whole. A hint: nothing else changes, and
// where the system has none to give, nothing at all.
inline void prefer_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const HugePages pages(memory, bytes);
  if (pages.end > pages.begin) madvise(reinterpret_cast<void*>(pages.begin), pages.end - pages.begin, MADV_HUGEPAGE);
#endif
}

// The same for a block whose every page several threads will write at a time: each is handed out here, once, where
// those threads would all clear it.
inline void hand_out_huge_pages(void* memory, size_t bytes) {
  prefer_huge_pages(memory, bytes);
  const HugePages pages(memory, bytes);
  parallel_for(static_cast<int64_t>((pages.end - pages.begin) / pages.size), 1, [&](int64_t page, int64_t last) {
    for (; page < last; ++page) *reinterpret_cast<volatile char*>(pages.begin + page * pages.size) = 0;
  });
}

}  // namespace maskrcnn_ops
