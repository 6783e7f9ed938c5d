# Finds nvcc, chooses the architectures, sets `cuda_options`. Beside a CPU-only torch, too: the kernels need no torch.
include(CheckLanguage)

# TORCH_CUDA_ARCH_LIST, as for every PyTorch extension: "8.0 9.0+PTX" or "8.0;9.0+PTX". By default machine code for the
# architectures in use, and PTX of 9.0 and 12.0 for those to come.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(wanted "$ENV{TORCH_CUDA_ARCH_LIST}")
  if(wanted STREQUAL "")
    set(wanted "7.5 8.0 8.6 8.9 9.0+PTX 10.0 12.0+PTX")
  endif()
  string(REGEX REPLACE "[ ,]+" ";" wanted "${wanted}")
  set(CMAKE_CUDA_ARCHITECTURES "")
  foreach(arch ${wanted})
    if(NOT arch MATCHES "^([0-9]+)\\.([0-9]+a?)(\\+PTX)?$")
      message(FATAL_ERROR "TORCH_CUDA_ARCH_LIST: expected entries such as 8.0 or 9.0+PTX, got '${arch}'")
    endif()
    if(CMAKE_MATCH_3)
      list(APPEND CMAKE_CUDA_ARCHITECTURES "${CMAKE_MATCH_1}${CMAKE_MATCH_2}")
    else()
      list(APPEND CMAKE_CUDA_ARCHITECTURES "${CMAKE_MATCH_1}${CMAKE_MATCH_2}-real")
    endif()
  endforeach()
endif()

check_language(CUDA)
if(CMAKE_CUDA_COMPILER)
  enable_language(CUDA)
elseif(MASKRCNN_OPS_CUDA STREQUAL "ON")
  message(FATAL_ERROR "CUDA kernels were asked for (MASKRCNN_OPS_CUDA), but no working nvcc was found. Put nvcc on the PATH "
    "or set CUDACXX; without a toolkit: pip install 'cuda-toolkit[nvcc,cudart,cccl]==13.0.2' nvidia-nvvm==13.0.88 "
    "nvidia-cuda-crt==13.0.88. To build for the CPU only, set MASKRCNN_OPS_CUDA=0.")
endif()

set(cuda_options -Xptxas=-warn-spills --expt-relaxed-constexpr)
if(MASKRCNN_OPS_WERROR)
  list(APPEND cuda_options -Werror=all-warnings -Xptxas=-Werror)
endif()
