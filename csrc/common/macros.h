#pragma once

// Maths headers compile for host and device; this is the only place where the two differ.
#ifdef __CUDACC__
#define HOST_DEVICE __host__ __device__ __forceinline__
#else
#define HOST_DEVICE inline
#endif
