# Adds .cu files, rewritten as C++, and what runs their kernels on the CPU to a target.
find_package(Python3 COMPONENTS Interpreter REQUIRED)
set(emulation ${CMAKE_CURRENT_LIST_DIR})
function(emulate_cuda target)
  foreach(source ${ARGN})
    get_filename_component(name ${source} NAME_WE)
    set(translated ${CMAKE_CURRENT_BINARY_DIR}/cuda_emulation/${name}.cpp)
    add_custom_command(OUTPUT ${translated} DEPENDS ${source} ${emulation}/translate.py
      COMMAND ${Python3_EXECUTABLE} ${emulation}/translate.py ${source} ${translated} VERBATIM)
    target_sources(${target} PRIVATE ${translated})
    set_source_files_properties(${translated} PROPERTIES COMPILE_OPTIONS
      "-ffp-contract=off;-Wno-unknown-pragmas;-Wno-sign-compare;-Wno-maybe-uninitialized")
  endforeach()
  target_sources(${target} PRIVATE ${emulation}/emulation.cpp)
  target_include_directories(${target} PRIVATE ${emulation})
  target_compile_definitions(${target} PRIVATE MASKRCNN_OPS_MOST_BLOCKS=5)
endfunction()
