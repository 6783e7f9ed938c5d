#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace maskrcnn_ops {

// Adds the functions on COCO run lengths to `_host`.
void bind_rle(pybind11::module_& m);

}  // namespace maskrcnn_ops
