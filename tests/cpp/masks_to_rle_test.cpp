// The columns of masks_to_rle.h, one by one as CUDA's threads take them, against the runs of the CPU kernel.

#include "masks_to_rle/masks_to_rle.h"

#include <random>

#include "check.h"

using namespace maskrcnn_ops;

namespace {

struct Widen {
  template <class T>
  Acc<T> operator()(T value) const {
    return widen(value);
  }
};

template <class C>
void sweep(int mask_height, int mask_width, int height, int width, bool integer) {
  std::mt19937 engine(mask_height * 131 + width);
  std::uniform_real_distribution<float> unit(0, 1);
  const PasteMasks args{12, mask_height, mask_width, height, width, integer};
  std::vector<float> masks(args.masks * mask_height * mask_width);
  for (float& value : masks) value = unit(engine);
  std::vector<C> boxes;
  for (int d = 0; d < args.masks; ++d) {
    const float x = unit(engine) * width * 1.2f - 0.1f * width, y = unit(engine) * height * 1.2f - 0.1f * height;
    boxes.insert(boxes.end(), {x, y, x + unit(engine) * width, y + unit(engine) * height});
  }
  boxes[1] = HUGE_VALF;
  for (const float threshold : {0.5f, -1.0f, 2.0f}) {
    std::vector<std::vector<int64_t>> runs(args.masks);
    masks_to_rle_cpu(masks.data(), boxes.data(), runs.data(), threshold, args);
    for (int64_t d = 0; d < args.masks; ++d) {
      std::vector<int64_t> lengths;
      int64_t begin = 0;
      for (int x = 0; x < width; ++x)
        for_each_change<Widen>(masks.data() + d * mask_height * mask_width, boxes.data() + 4 * d, x, threshold, args,
                               [&](int y) {
                                 lengths.push_back(static_cast<int64_t>(x) * height + y - begin);
                                 begin = static_cast<int64_t>(x) * height + y;
                               });
      lengths.push_back(static_cast<int64_t>(width) * height - begin);
      CHECK(lengths == runs[d]);
    }
  }
}

}  // namespace

int main() {
  for (const bool integer : {false, true})
    for (const int side : {1, 2, 5, 14})
      for (const int width : {1, 3, 17, 40}) {
        sweep<float>(side, side + 1, 23, width, integer);
        sweep<double>(side + 1, side, width, 19, integer);
      }
  return finish();
}
