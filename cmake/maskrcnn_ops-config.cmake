# find_package(maskrcnn_ops) for C++: target maskrcnn_ops::maskrcnn_ops, with torch's headers and libraries.
# MASKRCNN_OPS_TORCH_DIR is the torch package or LibTorch folder; without it, Python is asked.
if(NOT MASKRCNN_OPS_TORCH_DIR)
  find_package(Python3 COMPONENTS Interpreter REQUIRED)
  execute_process(
    COMMAND ${Python3_EXECUTABLE} -c "import importlib.util as u; s = u.find_spec('torch'); print(list(s.submodule_search_locations)[0] if s else '')"
    OUTPUT_VARIABLE MASKRCNN_OPS_TORCH_DIR OUTPUT_STRIP_TRAILING_WHITESPACE)
endif()
if(NOT EXISTS "${MASKRCNN_OPS_TORCH_DIR}/include/ATen/ATen.h")
  set(maskrcnn_ops_FOUND FALSE)
  set(maskrcnn_ops_NOT_FOUND_MESSAGE "no torch headers under '${MASKRCNN_OPS_TORCH_DIR}'; pass -DMASKRCNN_OPS_TORCH_DIR=<torch package or LibTorch folder>")
  return()
endif()
get_filename_component(maskrcnn_ops_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
if(NOT TARGET maskrcnn_ops::maskrcnn_ops)
  add_library(maskrcnn_ops::maskrcnn_ops SHARED IMPORTED)
  set_target_properties(maskrcnn_ops::maskrcnn_ops PROPERTIES
    IMPORTED_LOCATION "${maskrcnn_ops_prefix}/libmaskrcnn_ops.so" IMPORTED_NO_SONAME TRUE)
  target_compile_features(maskrcnn_ops::maskrcnn_ops INTERFACE cxx_std_20)
  target_include_directories(maskrcnn_ops::maskrcnn_ops INTERFACE "${maskrcnn_ops_prefix}/include")
  target_include_directories(maskrcnn_ops::maskrcnn_ops SYSTEM INTERFACE "${MASKRCNN_OPS_TORCH_DIR}/include"
    "${MASKRCNN_OPS_TORCH_DIR}/include/torch/csrc/api/include")
  # The operators register when the library loads, though nothing refers to it by symbol.
  target_link_options(maskrcnn_ops::maskrcnn_ops INTERFACE
    -Wl,--no-as-needed "-L${MASKRCNN_OPS_TORCH_DIR}/lib"
    "-Wl,-rpath,${MASKRCNN_OPS_TORCH_DIR}/lib" "-Wl,-rpath,${maskrcnn_ops_prefix}")
  target_link_libraries(maskrcnn_ops::maskrcnn_ops INTERFACE torch torch_cpu c10)
endif()
