// RoIAlign from C++: a forward, and an explicit backward whose result can be worked out by hand.

#include <ATen/ATen.h>
#include <maskrcnn_ops.h>

#include <cstdio>

int main() {
  // On a map that equals its column number, a bin's value is the x coordinate of its centre.
  const at::Tensor map = at::arange(8, at::kFloat).expand({1, 1, 6, 8}).contiguous();
  const at::Tensor rois = at::tensor({0.f, 1.f, 1.f, 5.f, 3.f}).view({1, 5});
  const at::Tensor pooled = maskrcnn_ops::roi_align(map, rois, 1.0, 1, 2, 2, false);
  std::printf("pooled: %.2f %.2f (expected 2.00 4.00)\n", pooled[0][0][0][0].item<float>(),
              pooled[0][0][0][1].item<float>());

  // Every bin's weights sum to one, so the gradient of the two bins sums to two.
  const at::Tensor gradient = maskrcnn_ops::roi_align_backward(at::ones_like(pooled), rois, 1.0, 1, 2, 2, false, map);
  std::printf("gradient: sum %.2f (expected 2.00)\n", gradient.sum().item<float>());

  const bool right = at::allclose(pooled, at::tensor({2.f, 4.f}).view({1, 1, 1, 2})) &&
                     std::abs(gradient.sum().item<float>() - 2.f) < 1e-6f;
  return right ? 0 : 1;
}
