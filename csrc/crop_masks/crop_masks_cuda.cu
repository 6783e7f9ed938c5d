#include "common/cuda_kernel.h"
#include "crop_masks/crop_masks.h"

// This file is compiled without contraction (-fmad=false), so polygons are decided as on the CPU, to the bit.

namespace maskrcnn_ops {
namespace {

constexpr int threads = 128;

// A block takes a RoI, a thread every 128th number of its output, from the columns that the bin samples; threads of a
// warp take neighbouring bins, so they read the same runs and edges, from the cache. Nothing is shared between threads:
// deterministic. Simple rather than fast: a target is 784 numbers, and a few bins' work is all a thread has.
template <class C, class Source>
__global__ void __launch_bounds__(threads, 1)
    crop(Source source, const C* __restrict__ rois, C* __restrict__ output, CropMasks args) {
  const int bins = args.pooled_height * args.pooled_width;
  for (int64_t r = blockIdx.x; r < args.rois; r += gridDim.x) {
    const CropAxes<C> axes = crop_axes(rois + 5 * r, args);
    for (int bin = static_cast<int>(threadIdx.x); bin < bins; bin += threads)
      output[r * bins + bin] =
          axes.object < 0 ? C(0) : cropped(source, axes, bin / args.pooled_width, bin % args.pooled_width, args);
  }
}

}  // namespace

template <class C, class Source>
int crop_masks_cuda(const Source& source, const C* rois, C* output, const CropMasks& args, void* stream) {
  crop<<<grid_of(args.rois), threads, 0, static_cast<cudaStream_t>(stream)>>>(source, rois, output, args);
  return cudaGetLastError();
}

#define INSTANTIATE(Source)                                                                   \
  template int crop_masks_cuda(const Source&, const float*, float*, const CropMasks&, void*); \
  template int crop_masks_cuda(const Source&, const double*, double*, const CropMasks&, void*);
INSTANTIATE(Bitmaps)
INSTANTIATE(Runs)
INSTANTIATE(Polygons)

}  // namespace maskrcnn_ops
