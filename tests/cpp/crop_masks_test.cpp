// The numbers of crop_masks.h, one by one as CUDA's threads take them, against the CPU kernel, for every kind of mask.

#include "crop_masks/crop_masks.h"

#include <cmath>
#include <random>
#include <vector>

#include "check.h"

using namespace maskrcnn_ops;

namespace {

template <class Source>
void compare(const Source& source, const std::vector<double>& rois, int64_t objects, int pooled) {
  const CropMasks args{
      objects, static_cast<int64_t>(rois.size() / 5), source.height, source.width, pooled, pooled + 1, pooled % 2 == 0};
  std::vector<double> output(args.rois * pooled * (pooled + 1));
  crop_masks_cpu(source, rois.data(), output.data(), args);
  for (size_t i = 0; i < output.size(); ++i) {
    const int64_t r = i / (pooled * (pooled + 1)), bin = i % (pooled * (pooled + 1));
    const CropAxes<double> axes = crop_axes(rois.data() + 5 * r, args);
    const double expected = axes.object < 0 ? 0 : cropped(source, axes, bin / (pooled + 1), bin % (pooled + 1), args);
    CHECK(std::abs(output[i] - expected) < 1e-12);
  }
}

void sweep(int height, int width, int pooled) {
  std::mt19937 engine(height * 131 + width);
  std::uniform_real_distribution<double> unit(0, 1);
  constexpr int objects = 3, corners = 7;
  std::vector<double> points, rois;
  std::vector<int64_t> rings, starts;
  for (int ring = 0; ring <= 2 * objects; ++ring) rings.push_back(ring * corners);
  for (int object = 0; object <= objects; ++object) starts.push_back(2 * object);
  for (int p = 0; p < 2 * objects * corners; ++p) {
    points.push_back((unit(engine) * 1.4 - 0.2) * width);
    points.push_back((unit(engine) * 1.4 - 0.2) * height);
  }
  for (int r = 0; r < 20; ++r) {
    const double x = (unit(engine) * 1.2 - 0.2) * width, y = (unit(engine) * 1.2 - 0.2) * height;
    rois.insert(rois.end(), {double(r % objects), x, y, x + unit(engine) * width, y + unit(engine) * height});
  }
  rois[7] = HUGE_VAL;
  rois[10] = 7;
  const Polygons polygons{points.data(), rings.data(), starts.data(), height, width};
  compare(polygons, rois, objects, pooled);

  // The same masks as bitmaps and as runs.
  std::vector<uint8_t> pixels(objects * height * width);
  std::vector<int64_t> ends, offsets{0};
  for (int object = 0; object < objects; ++object) {
    bool last = false;
    for (int x = 0; x < width; ++x)
      for (int y = 0; y < height; ++y) {
        const bool inside = polygons.word(object, x, y) & 1;
        pixels[(object * height + y) * width + x] = inside;
        if (inside != last) ends.push_back(static_cast<int64_t>(x) * height + y);
        last = inside;
      }
    ends.push_back(static_cast<int64_t>(height) * width);
    offsets.push_back(ends.size());
  }
  const Bitmaps bitmaps{pixels.data(), height, width};
  const Runs runs{ends.data(), offsets.data(), static_cast<int64_t>(ends.size()), height, width};
  compare(bitmaps, rois, objects, pooled);
  compare(runs, rois, objects, pooled);
  for (int object = 0; object < objects; ++object)
    for (int x = 0; x < width; ++x)
      for (int first = 0; first < height; first += 5) {
        const uint64_t rows = height - first < 64 ? (uint64_t(1) << (height - first)) - 1 : ~uint64_t(0);
        CHECK((bitmaps.word(object, x, first) & rows) == (runs.word(object, x, first) & rows));
        CHECK((bitmaps.word(object, x, first) & rows) == (polygons.word(object, x, first) & rows));
      }
}

}  // namespace

int main() {
  for (const int height : {1, 9, 63, 64, 130, 200})
    for (const int width : {1, 8, 70})
      for (const int pooled : {1, 4, 14}) sweep(height, width, pooled);
  return finish();
}
