#pragma once

// The C++ tests' whole framework: CHECK counts and reports, `finish` prints one line and gives the exit status.

#include <cstdio>

inline long checks = 0, failures = 0;

#define CHECK(condition)                                                                 \
  do {                                                                                   \
    ++checks;                                                                            \
    if (!(condition) && ++failures <= 20)                                                \
      std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", __FILE__, __LINE__, #condition); \
  } while (0)

inline int finish() {
  std::printf("%ld checks passed, %ld failed\n", checks - failures, failures);
  return failures > 0 || checks == 0 ? 1 : 0;
}
