#include "host/rle.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

// COCO's string form of run lengths. A length is written as its difference to the length two places before (from the
// fourth on), in groups of five bits, lowest first, one character a group: 48 + bits + 32 if more follow. Bit 4 of the
// last group is the sign.

namespace py = pybind11;

namespace maskrcnn_ops {
namespace {

std::string encode(const int64_t* counts, int64_t n) {
  std::string text;
  for (int64_t i = 0; i < n; ++i) {
    int64_t value = counts[i] - (i > 2 ? counts[i - 2] : 0);
    for (bool more = true; more;) {
      const int64_t bits = value & 31;
      value >>= 5;
      more = bits & 16 ? value != -1 : value != 0;
      text.push_back(static_cast<char>(48 + bits + (more ? 32 : 0)));
    }
  }
  return text;
}

// Appends the ends of an encoding's runs; false unless they rise to `pixels`.
bool decode(const std::string& text, int64_t pixels, std::vector<int64_t>& ends) {
  int64_t before = 0, last = 0, end = 0, value = 0;  // lengths two places and one place before
  int shift = 0;
  int64_t place = 0;
  for (const char character : text) {
    const int group = character - 48;
    if (group < 0 || group > 63 || shift > 40) return false;
    value |= static_cast<int64_t>(group & 31) << shift;
    shift += 5;
    if (group & 32) continue;
    if (group & 16) value -= int64_t(1) << shift;
    if (place > 2) value += before;
    if (value < 0 || value > pixels - end) return false;
    end += value;
    ends.push_back(end);
    before = last;
    last = value;
    value = 0;
    shift = 0;
    ++place;
  }
  return shift == 0 && place > 0 && end == pixels;
}

py::list encode_runs(uintptr_t counts_address, uintptr_t offsets_address, int64_t masks) {
  const auto* counts = reinterpret_cast<const int64_t*>(counts_address);
  const auto* offsets = reinterpret_cast<const int64_t*>(offsets_address);
  std::vector<std::string> texts(masks);
  {
    const py::gil_scoped_release without_gil;
    for (int64_t d = 0; d < masks; ++d) texts[d] = encode(counts + offsets[d], offsets[d + 1] - offsets[d]);
  }
  py::list result;
  for (const std::string& text : texts) result.append(py::bytes(text));
  return result;
}

// The ends of all encodings' runs and their offsets, as bytes of int64.
py::tuple decode_runs(const std::vector<std::string>& texts, const std::vector<int64_t>& pixels) {
  std::vector<int64_t> ends, offsets{0};
  int64_t bad = -1;
  {
    const py::gil_scoped_release without_gil;
    for (size_t i = 0; i < texts.size() && bad < 0; ++i) {
      if (!decode(texts[i], pixels[i], ends)) bad = static_cast<int64_t>(i);
      offsets.push_back(static_cast<int64_t>(ends.size()));
    }
  }
  if (bad >= 0)
    throw py::value_error("expected counts of encoding " + std::to_string(bad) + " to be run lengths that add up to " +
                          std::to_string(pixels[bad]) + " pixels");
  auto bytes = [](const std::vector<int64_t>& v) {
    return py::bytearray(reinterpret_cast<const char*>(v.data()), v.size() * sizeof(int64_t));
  };
  return py::make_tuple(bytes(ends), bytes(offsets));
}

// Pixels that two encodings of the same size share.
int64_t intersection(const int64_t* a, int64_t a_runs, const int64_t* b, int64_t b_runs) {
  int64_t i = 0, j = 0, begin = 0, shared = 0;
  while (i < a_runs && j < b_runs) {
    const int64_t end = std::min(a[i], b[j]);
    if (i % 2 && j % 2) shared += end - begin;
    begin = end;
    if (a[i] == end) ++i;
    if (j < b_runs && b[j] == end) ++j;
  }
  return shared;
}

int64_t area(const int64_t* ends, int64_t runs) {
  int64_t sum = 0;
  for (int64_t i = 1; i < runs; i += 2) sum += ends[i] - ends[i - 1];
  return sum;
}

// Writes the int64 area of each encoding.
void areas(uintptr_t ends_address, uintptr_t offsets_address, int64_t masks, uintptr_t output_address) {
  const auto* ends = reinterpret_cast<const int64_t*>(ends_address);
  const auto* offsets = reinterpret_cast<const int64_t*>(offsets_address);
  auto* output = reinterpret_cast<int64_t*>(output_address);
  for (int64_t d = 0; d < masks; ++d) output[d] = area(ends + offsets[d], offsets[d + 1] - offsets[d]);
}

// Writes the int64 box (x1, y1, x2, y2), pixel edges, of each encoding; zeros where it is empty.
void boxes(uintptr_t ends_address, uintptr_t offsets_address, int64_t masks, int64_t height, uintptr_t output_address) {
  const auto* ends = reinterpret_cast<const int64_t*>(ends_address);
  const auto* offsets = reinterpret_cast<const int64_t*>(offsets_address);
  auto* box = reinterpret_cast<int64_t*>(output_address);
  for (int64_t d = 0; d < masks; ++d, box += 4) {
    bool found = false;
    for (int64_t i = offsets[d] + 1; i < offsets[d + 1]; i += 2) {
      const int64_t begin = ends[i - 1], last = ends[i] - 1;
      if (last < begin) continue;
      const int64_t x1 = begin / height, x2 = last / height;
      const int64_t y1 = x1 == x2 ? begin % height : 0, y2 = x1 == x2 ? last % height : height - 1;
      box[0] = found ? std::min(box[0], x1) : x1;
      box[1] = found ? std::min(box[1], y1) : y1;
      box[2] = found ? std::max(box[2], x2 + 1) : x2 + 1;
      box[3] = found ? std::max(box[3], y2 + 1) : y2 + 1;
      found = true;
    }
    if (!found) std::fill_n(box, 4, 0);
  }
}

// Writes the float64 IoU of each of `a_masks` encodings with each of `b_masks`; for a crowd of b, the share of a.
void ious(uintptr_t a_ends, uintptr_t a_offsets, int64_t a_masks, uintptr_t b_ends, uintptr_t b_offsets,
          int64_t b_masks, const std::vector<bool>& crowd, uintptr_t output_address) {
  const auto *a = reinterpret_cast<const int64_t*>(a_ends), *a_first = reinterpret_cast<const int64_t*>(a_offsets);
  const auto *b = reinterpret_cast<const int64_t*>(b_ends), *b_first = reinterpret_cast<const int64_t*>(b_offsets);
  auto* output = reinterpret_cast<double*>(output_address);
  for (int64_t i = 0; i < a_masks; ++i)
    for (int64_t j = 0; j < b_masks; ++j) {
      const int64_t a_runs = a_first[i + 1] - a_first[i], b_runs = b_first[j + 1] - b_first[j];
      const int64_t *a_run = a + a_first[i], *b_run = b + b_first[j];
      const int64_t shared = intersection(a_run, a_runs, b_run, b_runs), own = area(a_run, a_runs);
      const int64_t whole = crowd[j] ? own : own + area(b_run, b_runs) - shared;
      output[i * b_masks + j] = shared == 0 ? 0.0 : static_cast<double>(shared) / static_cast<double>(whole);
    }
}

// Writes each encoding's bitmap as bytes [masks, width, height]: down the columns, as the runs go.
void bitmaps(uintptr_t ends_address, uintptr_t offsets_address, int64_t masks, int64_t pixels,
             uintptr_t output_address) {
  const auto* ends = reinterpret_cast<const int64_t*>(ends_address);
  const auto* offsets = reinterpret_cast<const int64_t*>(offsets_address);
  auto* output = reinterpret_cast<uint8_t*>(output_address);
  for (int64_t d = 0; d < masks; ++d, output += pixels) {
    int64_t begin = 0;
    for (int64_t i = offsets[d]; i < offsets[d + 1]; ++i) {
      std::fill(output + begin, output + ends[i], static_cast<uint8_t>((i - offsets[d]) % 2));
      begin = ends[i];
    }
  }
}

}  // namespace

void bind_rle(py::module_& m) {
  // Arrays of int64 travel as addresses: this module knows no tensors, and its callers are this package's own.
  const py::call_guard<py::gil_scoped_release> without_gil;
  m.def("encode_runs", &encode_runs);
  m.def("decode_runs", &decode_runs);
  m.def("run_areas", &areas, without_gil);
  m.def("run_boxes", &boxes, without_gil);
  m.def("run_ious", &ious, without_gil);
  m.def("run_bitmaps", &bitmaps, without_gil);
}

}  // namespace maskrcnn_ops
