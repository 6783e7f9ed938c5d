// Includes SIMD_SOURCE once per SIMD level (see simd.h). No include guard: every kernel file includes it once.

#include "common/scalar.h"
#include "common/simd.h"

#define SIMD_LEVEL baseline
#define SIMD_F16C 0
#include "common/lanes.inl"
#include SIMD_SOURCE
#undef SIMD_LEVEL
#undef SIMD_F16C

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif
#define SIMD_LEVEL avx2
#define SIMD_F16C 1
#include "common/lanes.inl"
#include SIMD_SOURCE
#undef SIMD_LEVEL
#undef SIMD_F16C
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512vl,avx512bw,avx512dq"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512vl,avx512bw,avx512dq")
#endif
#define SIMD_LEVEL avx512
#define SIMD_F16C 1
#include "common/lanes.inl"
#include SIMD_SOURCE
#undef SIMD_LEVEL
#undef SIMD_F16C
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

#undef SIMD_SOURCE
